"""The user's own data: file:FILE is a table or an array, images:FOLDER the images in a folder.

The kind of the values is `data.kind`, or guessed by the rules of `kinds.guess`.
"""

import re
import sys
from pathlib import Path

import numpy as np

from aevb.data import Dataset, Options, kinds, preprocessing, splits
from aevb.data.io import sources, tables
from aevb.errors import UserError
from aevb.runtime.paths import absolute

FILE, IMAGES = "file:", "images:"

BINARIZED = {"none": "grey", "dynamic": "binary", "fixed": "binary"}  # the kind of grey levels

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
CHANNELS = (1, 3)  # grey or RGB
LARGEST = np.finfo(np.float32).max


def load(name: str, options: Options) -> Dataset:
    """Loads the data that `name` refers to, and splits them as `splits.split` does.

    Grey levels have the same binarizations as `mnist`. Binary and real-valued data have none.

    Args:
        name: a path with its prefix; the path may begin with ~, and a relative one is relative to
            the working directory of the process.

    Raises:
        UserError: the file or folder does not exist, cannot be read, or holds unsuitable data.
    """
    read, prefix = (_array, FILE) if name.startswith(FILE) else (_images, IMAGES)
    path = absolute(name.removeprefix(prefix), "data.name")
    x, kind, image_shape = read(path, options)
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
        kind=BINARIZED[options.binarization] if kind == "grey" else kind,
        preprocess=preprocess,
        image_shape=image_shape,
        levels=options.grey_scale if is_grey else None,
    )


# A table or an array


def _array(path: Path, options: Options) -> tuple[np.ndarray, str, tuple[int, ...] | None]:
    """Returns x [N, D], uint8 or float32; its kind; and the shape of an image, or None for vectors.

    Data that need no conversion remain memory-mapped, so they may exceed memory.

    Raises:
        UserError: the file does not exist, cannot be read, or holds unsuitable data.
    """
    if not path.is_file():
        raise UserError(f"data.name is {FILE}{path}, which is no file")
    try:
        stored = tables.read(path, options.key)
    except Exception as error:  # many types of error, if the file is damaged
        words = sources.one_line(error)
        is_sound = isinstance(error, tables.UnsuitableError)
        raise _refused(path, words if is_sound else f"cannot be read ({words})") from None
    image_shape = _shape(path, stored.values)
    x = stored.values.reshape(len(stored.values), -1)
    if x.dtype.kind not in "biuf":
        raise _refused(path, f"holds {x.dtype}")
    low, high = x.min(), x.max()  # NaN, if there is one
    if x.dtype.kind == "f" and not (low >= -LARGEST and high <= LARGEST):
        row, column = kinds.first_nonfinite(x)
        name = column if stored.columns is None else repr(stored.columns[column])
        raise _refused(
            path,
            f"holds {x[row, column]} in datapoint {row}, column {name} (from 0), and must hold "
            "finite float32",
        )
    try:
        kind = options.kind or kinds.guess(x, low, high, is_table=stored.columns is not None)
        if options.kind:
            kinds.check(x, low, high, kind)
    except ValueError as error:
        raise _refused(path, str(error)) from None
    if not options.kind and (words := kinds.doubt(low, high, kind)):
        print(f"{path}: {words}", file=sys.stderr)
    return kinds.convert(x, kind), kind, image_shape


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


def _refused(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} {why}; {FILE}FILE is a table of numbers (.csv, .tsv, .parquet) or one array "
        "[N, D], [N, height, width] or [N, height, width, 3] (.npy, .npz, .mat)"
    )


def _require_two(path: Path, number: int) -> None:
    if number < 2:
        raise UserError(f"{path} holds one datapoint; it takes two, to train and to test")


# A folder


def _images(folder: Path, options: Options) -> tuple[np.ndarray, str, tuple[int, ...] | None]:
    """Returns x [N, D] uint8 of the images, sorted by name; their kind; and the shape of one.

    Numbers in names are compared as numbers, so 10.png comes after 9.png. Other files and
    subfolders are ignored.

    Raises:
        UserError: the folder or an image cannot be read, or the images differ in shape.
    """
    if options.kind not in ("", "grey"):
        raise UserError(
            f"data.kind is {options.kind!r}, and images hold grey levels or colors; leave it '' "
            "(data.binarization makes them binary)"
        )
    if not folder.is_dir():
        raise UserError(f"data.name is {IMAGES}{folder}, which is no folder; name one of images")
    try:
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
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
    first, notes = _pixels_of(files[0])
    x = np.empty((len(files), *first.shape), np.uint8)
    for number, path in enumerate(files):
        pixels, more = _pixels_of(path)
        if pixels.shape != first.shape:
            raise UserError(
                f"{path} is {_described(pixels)}, and {files[0].name} is {_described(first)}; "
                f"all images of {folder} must be alike"
            )
        x[number], notes = pixels, notes | more
    for note in sorted(notes):
        print(f"{folder}: {note}", file=sys.stderr)
    return x.reshape(len(x), -1), "grey", first.shape


def _in_order(path: Path) -> list[str | int]:
    parts = re.split(r"(\d+)", path.name)  # text and numbers alternate
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _pixels_of(path: Path) -> tuple[np.ndarray, set[str]]:
    """Returns the pixels of an image file, [height, width] if grey, or [height, width, 3].

    They are upright, as the file's EXIF orientation says. It also returns what a reader must know
    of their conversion.

    Raises:
        UserError: the file cannot be read, or its pixels cannot be converted to 8 bits.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # many types of error, if the file is damaged
        raise UserError(
            f"{path} cannot be read as an image ({sources.one_line(error)}); repair it, or take it "
            "out of the folder"
        ) from None
    notes = set()
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        if all(np.ptp(np.asarray(image)[..., :3], axis=-1).ravel() == 0):
            image = image.convert("LA" if image.mode == "RGBA" else "L")
    if image.mode in ("RGBA", "LA"):
        notes.add("transparent pixels are shown over white")
        white = Image.new("RGBA", image.size, "white")
        grey = image.mode == "LA"
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("L" if grey else "RGB")
    if image.mode in ("I", "I;16", "I;16B", "I;16L") and np.max(np.asarray(image)) < 2**16:
        notes.add("16-bit levels k are read as round(k / 257), in 8 bits")
        return np.rint(np.asarray(image, np.float64) / 257).astype(np.uint8), notes
    if image.mode == "1":
        image = image.convert("L")  # 0 and 255
    if image.mode in ("CMYK", "YCbCr"):
        image = image.convert("RGB")
    if image.mode not in ("L", "RGB"):
        raise UserError(
            f"{path} has pixels of Pillow's mode {image.mode!r}; they must be grey or colors, as "
            "image.convert('L') makes them"
        )
    return np.asarray(image), notes


def _described(pixels: np.ndarray) -> str:
    height, width, *channels = pixels.shape
    return f"{height} x {width} of {'colors' if channels else 'grey'}"
