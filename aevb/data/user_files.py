"""The user's own data: npy:FILE is one array, images:FOLDER is the images in a folder.

Whole numbers are grey levels or colors in 0..255; bool is binary data; floating point is
real-valued data.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from aevb.data import Dataset, Options, preprocessing, splits
from aevb.data.io import sources
from aevb.errors import UserError

NPY, IMAGES = "npy:", "images:"

KINDS = {"none": "grey", "dynamic": "binary", "fixed": "binary"}  # for grey levels

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm")
CHANNELS = (1, 3)  # grey or RGB
HIGHEST = 255


def load(name: str, options: Options) -> Dataset:
    """Loads the data that `name` refers to, and splits them as `splits.split` does.

    Grey levels have the same binarizations as `mnist`. Binary and real-valued data have none.

    Args:
        name: a path with its prefix; the path may begin with ~, and a relative one is relative to
            the working directory of the process.

    Raises:
        UserError: the file or folder does not exist, cannot be read, or holds unsuitable data.
    """
    read, prefix = (_array, NPY) if name.startswith(NPY) else (_images, IMAGES)
    path = sources.absolute(name.removeprefix(prefix), "data.name")
    x, kind, image_shape = read(path)
    if kind != "grey" and options.binarization != "none":
        raise UserError(
            f"data.binarization is {options.binarization!r}, which is for grey levels; {name} "
            f"holds {kind} data, for which it must be none"
        )
    num_valid = len(x) // 10 if options.num_valid < 0 else options.num_valid
    train, valid, test = splits.split(x, options.split, num_valid)
    is_grey, preprocess = kind == "grey" and options.binarization == "none", preprocessing.unchanged
    if is_grey:
        preprocess = preprocessing.scaled(options.grey_scale)
    elif options.binarization == "dynamic":
        preprocess = preprocessing.drawn
    elif options.binarization == "fixed":
        train, valid, test = preprocessing.binarized_once(train, valid, test)
    return Dataset(
        name=f"{prefix}{path.name}",
        train=train,
        valid=np.array(valid),  # copies, because the user may overwrite the file
        test=np.array(test),
        kind=KINDS[options.binarization] if kind == "grey" else kind,
        preprocess=preprocess,
        image_shape=image_shape,
        levels=options.grey_scale if is_grey else None,
    )


# An array


def _array(path: Path) -> tuple[np.ndarray, str, tuple[int, ...] | None]:
    """Returns x [N, D], uint8 or float32; its kind; and the shape of an image, or None for vectors.

    Data that need no conversion remain memory-mapped, so they may exceed memory.

    Raises:
        UserError: the file does not exist, cannot be read, or holds unsuitable data.
    """
    if not path.is_file():
        raise UserError(f"data.name is {NPY}{path}, which is no file; name one that np.save wrote")
    try:
        # Pickles are refused, because loading one runs code. Mapping a truncated file fails.
        stored: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # many types of error, if the header is damaged
        raise _refused(path, f"cannot be read ({sources.one_line(error)})") from None
    if isinstance(stored, NpzFile):
        with stored:
            raise _refused(path, f"holds several arrays ({', '.join(stored)})")
    image_shape = _shape(path, stored)
    if left := path.stat().st_size - stored.offset - stored.nbytes:
        raise _refused(path, f"has {left} bytes after its array")
    kind, x = _values(path, stored.reshape(len(stored), -1))
    return x, kind, image_shape


def _shape(path: Path, stored: np.ndarray) -> tuple[int, ...] | None:
    """Returns the shape of an image, or None for vectors.

    Raises:
        UserError: the array's shape is unsuitable.
    """
    shape = stored.shape
    if len(shape) not in (2, 3, 4):
        raise _refused(path, f"has the shape {shape}")
    if 0 in shape:
        raise _refused(path, f"is empty: its shape is {shape}")
    if len(shape) == 4 and shape[3] not in CHANNELS:
        raise _refused(path, f"has the shape {shape}, whose last axis is neither 1 nor 3")
    _require_two(path, len(stored))
    if len(shape) == 2:
        return None
    return shape[1:3] if shape[3:] in ((), (1,)) else shape[1:]


def _values(path: Path, x: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns the kind of x [N, D], and x as uint8 or float32.

    Raises:
        UserError: the type or the values of x are unsuitable.
    """
    if x.dtype == np.bool_:
        return "binary", x.view(np.uint8)
    if x.dtype.kind not in "iuf":
        raise _refused(path, f"holds {x.dtype}")
    low, high = x.min(), x.max()  # NaN, if there is one
    if x.dtype.kind == "f":
        limit = np.finfo(np.float32).max
        if not (-limit <= low and high <= limit):
            raise _refused(path, f"holds values from {low} to {high}, and must be finite float32")
        return "real", x.astype(np.float32, copy=False)
    if low < 0 or high > HIGHEST:
        raise _refused(path, f"holds whole numbers from {low} to {high}")
    if high <= 1:
        raise _refused(path, "holds no other grey levels than 0 and 1; save binary data as bool")
    return "grey", x.astype(np.uint8, copy=False)


def _refused(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} {why}; {NPY}FILE is one array [N, D], [N, height, width] or [N, height, width, 3] "
        "of whole numbers 0..255, bool, or floating point, written by np.save"
    )


def _require_two(path: Path, number: int) -> None:
    if number < 2:
        raise UserError(f"{path} holds one datapoint; it takes two, to train and to test")


# A folder


def _images(folder: Path) -> tuple[np.ndarray, str, tuple[int, ...] | None]:
    """Returns x [N, D] uint8 of the images, sorted by name; their kind; and the shape of one.

    Numbers in names are compared as numbers, so 10.png comes after 9.png. Other files and
    subfolders are ignored.

    Raises:
        UserError: the folder or an image cannot be read, or the images differ in shape.
    """
    if not folder.is_dir():
        raise UserError(f"data.name is {IMAGES}{folder}, which is no folder; name one of images")
    try:
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        ]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({sources.one_line(error)})") from None
    if not files:
        raise UserError(
            f"{folder} holds no image ({', '.join(SUFFIXES)}); {IMAGES}FOLDER takes those that lie "
            "directly in it"
        )
    files.sort(key=_in_order)
    _require_two(folder, len(files))
    first = _pixels_of(files[0])
    x = np.empty((len(files), *first.shape), np.uint8)
    for number, path in enumerate(files):
        pixels = _pixels_of(path)
        if pixels.shape != first.shape:
            raise UserError(
                f"{path} is {_described(pixels)}, and {files[0].name} is {_described(first)}; "
                f"all images of {folder} must be alike"
            )
        x[number] = pixels
    return x.reshape(len(x), -1), "grey", first.shape


def _in_order(path: Path) -> list[str | int]:
    parts = re.split(r"(\d+)", path.name)  # text and numbers alternate
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _pixels_of(path: Path) -> np.ndarray:
    """Returns the pixels of an image file: [height, width] if grey, or [height, width, 3].

    Raises:
        UserError: the file cannot be read, or is neither 8-bit grey nor RGB.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # many types of error, if the file is damaged
        raise UserError(
            f"{path} cannot be read as an image ({sources.one_line(error)}); repair it, or take it "
            "out of the folder"
        ) from None
    if image.mode == "1":
        image = image.convert("L")  # 0 and 255
    if image.mode not in ("L", "RGB"):
        raise UserError(
            f"{path} has pixels of Pillow's mode {image.mode!r}; they must be 8-bit grey (L) or "
            f"colors (RGB), as image.convert('L') makes them"
        )
    return np.asarray(image)


def _described(pixels: np.ndarray) -> str:
    height, width, *channels = pixels.shape
    return f"{height} x {width} of {'colors' if channels else 'grey'}"
