"""The user's own data: file:FILE is a table or an array, images:FOLDER the images in a folder.

The kind of the values is `data.kind`, or guessed by the rules of `kinds.guess`.
"""

import sys
from pathlib import Path

import numpy as np

from aevb.data import Dataset, Labels, Options, image_folders, kinds, preprocessing, splits
from aevb.data.image_folders import Images
from aevb.data.io import sources, tables
from aevb.errors import UserError
from aevb.runtime.paths import absolute, shown

FILE, IMAGES = "file:", "images:"

BINARIZED = {"none": "grey", "dynamic": "binary", "fixed": "binary"}  # the kind of grey levels

CHANNELS = (1, 3)  # grey or RGB
LARGEST = np.finfo(np.float32).max


def load(name: str, options: Options) -> Dataset:
    """Loads the data that `name` refers to, and splits them as `splits.split` does.

    Grey levels have the same binarizations as `mnist`. Binary and real-valued data have none. The
    classes of a folder that has a subfolder for each become labels.

    Args:
        name: a path with its prefix; the path may begin with ~, and a relative one is relative to
            the working directory of the process.

    Raises:
        UserError: the file or folder does not exist, cannot be read, or holds unsuitable data.
    """
    prefix, classes, class_names = FILE if name.startswith(FILE) else IMAGES, None, ()
    path = absolute(name.removeprefix(prefix), "data.name")
    if prefix == FILE:
        x, kind, image_shape = _array(path, options)
    else:
        pixels, class_names, classes = _images(path, options)
        x, kind, image_shape = pixels.reshape(len(pixels), -1), "grey", pixels.shape[1:]
    if kind != "grey" and options.binarization != "none":
        raise UserError(
            f"data.binarization is {options.binarization!r}, which is for grey levels; {name} "
            f"holds {kind} data, for which it must be none"
        )
    num_valid = len(x) // 10 if options.num_valid < 0 else options.num_valid
    train, valid, test = splits.split(x, options.split, num_valid, classes)
    is_grey, preprocess = kind == "grey" and options.binarization == "none", preprocessing.unchanged
    if is_grey:
        preprocess = preprocessing.scaled(options.grey_scale)
    elif options.binarization == "dynamic":
        preprocess = preprocessing.drawn
    elif options.binarization == "fixed":
        train, valid, test = preprocessing.binarized_once(train, valid, test)
    return Dataset(
        name=f"{prefix}{shown(path.name)}",
        train=train,
        valid=np.array(valid),  # copies, because the user may overwrite the file
        test=np.array(test),
        kind=BINARIZED[options.binarization] if kind == "grey" else kind,
        preprocess=preprocess,
        image_shape=image_shape,
        levels=options.grey_scale if is_grey else None,
        labels=_labels(class_names, classes, options.split, num_valid),
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


def _images(folder: Path, options: Options) -> Images:
    """Returns the images of a folder, as `image_folders.read` does.

    Raises:
        UserError: the folder or an image cannot be read, there are no two, or they differ in shape.
    """
    if options.kind not in ("", "grey"):
        raise UserError(
            f"data.kind is {options.kind!r}, and images hold grey levels or colors; leave it '' "
            "(data.binarization makes them binary)"
        )
    if not folder.is_dir():
        raise UserError(f"data.name is {IMAGES}{folder}, which is no folder; name one of images")
    found = image_folders.read(folder)
    _require_two(folder, len(found.pixels))
    return found


def _labels(
    names: tuple[str, ...], classes: np.ndarray | None, how: str, num_valid: int
) -> Labels | None:
    """Returns the labels of datapoints that are split as `load` does, None without classes."""
    if classes is None:
        return None
    train, valid, test = splits.split(classes, how, num_valid, classes)
    return Labels(names, train=train, valid=valid, test=test)


def column_names(name: str) -> tuple[str, ...] | None:
    """Returns the names of the columns of file:FILE, which was loaded; None if it has none."""
    return tables.column_names(Path(name.removeprefix(FILE))) if name.startswith(FILE) else None
