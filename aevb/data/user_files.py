"""The user's own data: file:FILE is a table or an array, images:FOLDER the images in a folder.

The kind of the values is `data.kind`, or guessed by the rules of `kinds.guess`.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aevb.data import (
    Dataset,
    Labels,
    Options,
    gaps,
    image_folders,
    kept_rows,
    kinds,
    preprocessing,
    splits,
    standardization,
)
from aevb.data.io import sources, tables
from aevb.data.standardization import Standardized
from aevb.errors import UserError
from aevb.runtime.paths import absolute, shown

FILE, IMAGES, ARRAY = "file:", "images:", "array:"
Refused = Callable[[Any, str], UserError]

BINARIZED = {"none": "grey", "dynamic": "binary", "fixed": "binary"}  # the kind of grey levels

CHANNELS = (1, 3)  # grey or RGB
LARGEST = np.finfo(np.float32).max


class Found(NamedTuple):
    """The user's data, checked."""

    x: np.ndarray  # [N, D] uint8; for other than grey and binary data any real dtype
    kind: str
    image_shape: tuple[int, ...] | None  # None for vectors
    shape: tuple[int, ...]  # of a datapoint
    columns: tuple[str, ...] | None = None
    class_names: tuple[str, ...] = ()  # () without classes
    classes: np.ndarray | None = None  # [N], the place of each datapoint's class in class_names


def load(name: str, options: Options) -> Dataset:
    """Loads the data that `name` refers to, and splits them as `splits.split` does.

    Grey levels have the same binarizations as `mnist`. Binary and real-valued data have none. Real
    data are standardized by the training data, unless the options say otherwise: each column of a
    table, and the pixels of images by one mean and one scale. The classes of a folder that has a
    subfolder for each become labels.

    Args:
        name: a path with its prefix; the path may begin with ~, and a relative one is relative to
            the working directory of the process.

    Raises:
        UserError: the file or folder does not exist, cannot be read, or holds unsuitable data.
    """
    if name.startswith(ARRAY):
        raise UserError(
            f"data.name is {name!r}, an array in the memory of the program that trained the run; "
            "give it as aevb.load_run(..., data=x), or save it and name the file:FILE"
        )
    read, prefix = (_file, FILE) if name.startswith(FILE) else (_images, IMAGES)
    path = absolute(name.removeprefix(prefix), "data.name")
    return _split(f"{prefix}{shown(path.name)}", read(path, options), options)


def of_array(
    x: Any, options: Options, columns: Sequence[str] | None = None, y: Any = None
) -> Dataset:
    """Returns the dataset of an array in memory, as `load` does for that of a file.

    Its name is array: and the first digits of its digest.

    Args:
        x: [N, D], or images [N, height, width] or [N, height, width, channels].
        columns: the names of a table's columns.
        y: labels [N], whole numbers, of which -1 is a missing one; None for no labels. The split is
            then one of each class, and of the datapoints without a label.

    Raises:
        UserError: the array is unsuitable.
    """
    stored = tables.Stored(np.asarray(x), None if columns is None else tuple(columns))
    found = _checked(stored, "x", _unsuitable_array, options)
    if y is not None:
        found = _with_classes(found, np.asarray(y))
    return _split(f"{ARRAY}{sources.digest(found.x)[:12]}", found, options)


def _with_classes(found: Found, y: np.ndarray) -> Found:
    """Returns the data with their classes, from labels [N] in which -1 is a missing one.

    Raises:
        UserError: the labels are unsuitable.
    """
    number = len(found.x)
    if y.shape != (number,) or y.dtype.kind not in "iu":
        raise UserError(
            f"y has the shape {y.shape} and holds {y.dtype}; give {number} whole numbers, one for "
            "each datapoint, with -1 for a missing label"
        )
    names = np.unique(y[y >= 0])
    if len(names) < 2 or np.min(y) < -1:
        raise UserError(
            f"y holds {len(names)} classes, and numbers from {np.min(y)}; it must have at least 2 "
            "classes of numbers from 0, and -1 where a label is missing"
        )
    classes = np.where(y < 0, -1, np.searchsorted(names, y))
    return found._replace(class_names=tuple(map(str, names.tolist())), classes=classes)


def _split(name: str, found: Found, options: Options) -> Dataset:
    x, kind = found.x, found.kind
    if kind != "grey" and options.binarization != "none":
        raise UserError(
            f"data.binarization is {options.binarization!r}, which is for grey levels; {name} "
            f"holds {kind} data, for which it must be none"
        )
    num_valid = len(x) // 10 if options.num_valid < 0 else options.num_valid
    train, valid, test = splits.split(x, options.split, num_valid, found.classes)
    is_grey, preprocess = kind == "grey" and options.binarization == "none", preprocessing.unchanged
    if is_grey:
        preprocess = preprocessing.scaled(options.grey_scale)
    elif options.binarization == "dynamic":
        preprocess = preprocessing.drawn
    elif options.binarization == "fixed":
        drawn = preprocessing.binarized_once(train, valid, test)
        train, valid, test = map(gaps.put_back, drawn, (train, valid, test))
    dataset = Dataset(
        name=name,
        train=train,
        valid=np.array(valid),  # copies, because the user may overwrite the file
        test=np.array(test),
        kind=BINARIZED[options.binarization] if kind == "grey" else kind,
        preprocess=preprocess,
        image_shape=found.image_shape,
        levels=options.grey_scale if is_grey else None,
        shape=found.shape,
        labels=_labels(found, options.split, num_valid),
        has_missing=options.missing,
    )
    if options.missing and found.image_shape is None and kind in ("counts", "real"):
        _require_numbers(name, _used(train, options), found.columns)
    if kind == "counts":
        logs = np.log1p(_used(train, options))
        by = standardization.of_training_data(logs, per_column=found.image_shape is None)
        return dataset._replace(standardization=by)
    if kind == "real" and options.standardize:
        return _standardized(dataset, options, found.columns)
    return dataset


def _standardized(dataset: Dataset, options: Options, columns: tuple[str, ...] | None) -> Dataset:
    """Returns real data standardized by their training data; warns of columns that spoil a bound.

    The training data are converted when they are read.
    """
    train, valid, test = dataset.train, np.asarray(dataset.valid), dataset.test
    used = _used(train, options)
    by = standardization.of_training_data(used, per_column=dataset.image_shape is None)
    if dataset.image_shape is None:
        names = columns or tuple(f"{number} (from 0)" for number in range(train.shape[1]))
        for words in standardization.warnings([used, valid, test], by, names):
            print(f"{dataset.name}: {words}", file=sys.stderr)
    return dataset._replace(
        train=Standardized(train, by),
        valid=np.asarray(Standardized(valid, by)),
        test=np.asarray(Standardized(test, by)),
        standardization=by,
    )


def _require_numbers(name: str, train: np.ndarray, columns: Sequence[str] | None) -> None:
    """Raises a UserError if the training data have a column without a number."""
    is_empty = np.all([np.isnan(block).all(axis=0) for block in kinds.blocks(train)], axis=0)
    if is_empty.any():
        column = _column(int(np.argmax(is_empty)), columns)
        raise UserError(
            f"{name} has no number in column {column} (from 0) of the training data; leave the "
            "column out, or set data.split=random"
        )


def _used(train: np.ndarray, options: Options) -> np.ndarray:
    """Returns the training datapoints that the options ask for."""
    return train[kept_rows(len(train), min(max(options.num_train, 0), len(train)))]


# A table or an array


def _file(path: Path, options: Options) -> Found:
    """Reads and checks a file. Data that need no conversion remain memory-mapped.

    Raises:
        UserError: the file does not exist, cannot be read, or holds unsuitable data.
    """
    if not path.is_file():
        raise UserError(f"data.name is {FILE}{path}, which is no file")
    try:
        stored = tables.read(path, options.key, blank_is_nan=options.missing)
    except Exception as error:  # many types of error, if the file is damaged
        words = sources.one_line(error)
        is_sound = isinstance(error, tables.UnsuitableError)
        raise _unsuitable_file(path, words if is_sound else f"cannot be read ({words})") from None
    return _checked(stored, path, _unsuitable_file, options)


def _checked(stored: tables.Stored, name: Any, refused: Refused, options: Options) -> Found:
    """Returns an array with its kind, after all checks.

    Args:
        name: of the array, in messages.
        refused: (name, what is wrong) -> the error.

    Raises:
        UserError: the array is unsuitable.
    """
    values = stored.values
    shape = values.shape
    try:
        image_shape = _shape(shape)
        if values.dtype.kind not in "biuf":
            raise ValueError(f"holds {values.dtype}")
        x = values.reshape(len(values), -1)
        x, original = (_filled(x, stored.columns) if options.missing else x), x
        low, high = x.min(), x.max()  # NaN, if there is one
        if x.dtype.kind == "f" and not (low >= -LARGEST and high <= LARGEST):
            row, column = kinds.first_nonfinite(x)
            raise ValueError(
                f"holds {x[row, column]} in datapoint {row}, column "
                f"{_column(column, stored.columns)} (from 0), and must hold finite float32"
                + ("; data.missing=True takes NaN as not seen" if np.isnan(x[row, column]) else "")
            )
        kind = options.kind or kinds.guess(x, low, high, is_table=stored.columns is not None)
        if options.kind:
            kinds.check(x, low, high, kind)
    except ValueError as error:
        raise refused(name, str(error)) from None
    if not options.kind and (words := kinds.doubt(low, high, kind)):
        print(f"{name}: {words}", file=sys.stderr)
    if kind != "real" or not options.standardize:
        x = kinds.convert(x, kind)
    x = gaps.put_back(x, original)
    return Found(x, kind, image_shape, shape[1:], stored.columns)


def _filled(x: np.ndarray, columns: Sequence[str] | None) -> np.ndarray:
    """Returns x [N, D] with a number of the same column in place of each NaN.

    Raises:
        ValueError: a column has no number.
    """
    if x.dtype.kind != "f":
        return x
    is_missing = np.isnan(x)
    is_empty = is_missing.all(axis=0)
    if is_empty.any():
        column = _column(int(np.argmax(is_empty)), columns)
        raise ValueError(f"has no number in column {column} (from 0); leave the column out")
    return np.where(is_missing, x[np.argmin(is_missing, axis=0), np.arange(x.shape[1])], x)


def _column(number: int, columns: Sequence[str] | None) -> str:
    return str(number) if columns is None else repr(columns[number])


def _shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the shape of an image in an array of a shape, or None for vectors.

    Raises:
        ValueError: the array's shape is unsuitable.
    """
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"has the shape {shape}")
    if 0 in shape:
        raise ValueError(f"is empty: its shape is {shape}")
    if len(shape) == 4 and shape[3] not in CHANNELS:
        raise ValueError(f"has the shape {shape}, whose last axis is neither 1 nor 3")
    if shape[0] < 2:
        raise ValueError("holds one datapoint; it takes two, to train and to test")
    if len(shape) == 2:
        return None
    return shape[1:3] if shape[3:] in ((), (1,)) else shape[1:]


def _unsuitable_file(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} {why}; {FILE}FILE is a table of numbers (.csv, .tsv, .parquet) or one array "
        "[N, D], [N, height, width] or [N, height, width, 3] (.npy, .npz, .mat)"
    )


def _unsuitable_array(name: str, why: str) -> UserError:
    return UserError(
        f"{name} {why}; give an array of numbers [N, D], [N, height, width] or [N, height, width, "
        "channels]"
    )


# A folder


def _images(folder: Path, options: Options) -> Found:
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
    if len(found.pixels) < 2:
        raise UserError(f"{folder} holds one datapoint; it takes two, to train and to test")
    pixels, names, classes = found
    flat, shape = pixels.reshape(len(pixels), -1), pixels.shape[1:]
    return Found(flat, "grey", shape, shape, class_names=names, classes=classes)


def _labels(found: Found, how: str, num_valid: int) -> Labels | None:
    """Returns the labels of datapoints that are split as `load` does, None without classes."""
    if found.classes is None:
        return None
    train, valid, test = splits.split(found.classes, how, num_valid, found.classes)
    return Labels(found.class_names, train=train, valid=valid, test=test)


def column_names(name: str) -> tuple[str, ...] | None:
    """Returns the names of the columns of file:FILE, which was loaded; None if it has none."""
    return tables.column_names(Path(name.removeprefix(FILE))) if name.startswith(FILE) else None
