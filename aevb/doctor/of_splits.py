"""Checks of the training and validation data against each other: copies, shifts and classes."""

from typing import Any

import numpy as np

from aevb.data import Dataset
from aevb.data.preview import first_equal
from aevb.doctor.hints import Hint
from aevb.doctor.sample import Sample, rows

MOST_VALUES = 5 * 10**7  # of each split, in which equal datapoints are sought
MOST_COMPARED = 200  # datapoints of each split whose nearest neighbors are sought

MOST_COUNTED = 2000  # training datapoints in which the values of each column are counted

# A few copies are in many collections of images, and change a bound by less than its error.
LARGEST_REPEATED = 0.05
LARGEST_LEAKED = 0.01
# Small pictures in black and white, and answers on a scale of five, are often equal by nature.
FEW_VALUES = 16  # of a column
LARGEST_REPEATED_OF_FEW, LARGEST_LEAKED_OF_FEW = 0.3, 0.5
# If so, many occur once, and a validation datapoint has an equal one as often as one of training.
LEAST_SINGLE_OF_FEW, LARGEST_EXCESS_OF_FEW = 0.3, 0.2
# Of fewer datapoints, neighbors in the order are the nearest ones by chance.
LEAST_IN_ORDER = 100
# Places between a training datapoint and its nearest one, in a film. The share of such datapoints
# is 0.6 in the Frey faces, and below 0.06 in MNIST and tables.
FEW_PLACES = 5
LEAST_FILM = 0.3
# Distance of a validation datapoint to its nearest training datapoint, over that between training
# datapoints: 1.05 for a random split of the Frey faces, 2.3 for blocks.
LARGEST_NEAR = 1.5
# The nearest training datapoint is a copy if the next one is ten times as far. In D dimensions a
# fraction 0.1^D of datapoints has such a pair by chance, and for D = 1 that is a tenth.
COPY = 0.1
EQUAL = 1e-5  # of equal datapoints, whose distance is not exactly 0; `_equal` counts them
LARGEST_COPIED = 0.25
# Standard deviations by which the mean of a column differs. Half their square are the nats that the
# shift costs. The Frey faces in blocks have a median of 0.5 over pixels, and up to 2.8 in one.
LARGEST_SHIFT = 1.5
LARGEST_MEDIAN_SHIFT = 1.0
LEAST_ERRORS = 6.0  # standard errors by which a shift must differ from 0
LEAST_CLASS = 0.01  # fraction of the validation data that a class has which is not overlooked


def hints_of_splits(dataset: Dataset, seen: Sample) -> list[Hint]:
    """Returns the hints of the checks that compare training and validation datapoints.

    Args:
        seen: a sample of both splits.
    """
    found = [
        *_equal(dataset),
        _near(seen),
        _shifted(seen, is_image=dataset.image_shape is not None),
        _missing_classes(dataset),
        _one_class(dataset),
    ]
    return [hint for hint in found if hint is not None]


# Copies


def _equal(dataset: Dataset) -> list[Hint]:
    """Returns hints on training datapoints that occur twice, or in the validation data too."""
    train, valid = _stored(dataset.train), _stored(dataset.valid)
    number = len(train)
    first = first_equal([*train, *valid])
    repeated = float(np.mean(first[:number] < np.arange(number)))
    leaked = float(np.mean(first[number:] < number)) if len(valid) else 0.0
    most_repeated, most_leaked = LARGEST_REPEATED, LARGEST_LEAKED
    if number and _has_few_values(train):
        most_repeated, most_leaked = LARGEST_REPEATED_OF_FEW, LARGEST_LEAKED_OF_FEW
        single = float(np.mean(np.bincount(first[:number])[first[:number]] == 1))
        if single > LEAST_SINGLE_OF_FEW:
            most_repeated, most_leaked = 1.0, max(most_leaked, 1.0 - single + LARGEST_EXCESS_OF_FEW)
    if repeated <= most_repeated and leaked <= most_leaked:
        return []
    chance = equal_by_chance(train)
    hints = []
    if repeated > most_repeated + chance:
        hints.append(Hint(
            "repeated_datapoints",
            "training datapoints are equal to earlier ones, and count twice",
            f"{repeated:.1%} of {number:,} training datapoints; at most {most_repeated:.0%} is "
            f"usual, and {chance:.1%} by chance",
            "keep one of each, and split the data afterwards",
        ))  # fmt: skip
    if leaked > most_leaked + chance:
        hints.append(Hint(
            "leaked_datapoints",
            "validation datapoints are also training datapoints, so that the validation bound "
            "rewards memory",
            f"{leaked:.1%} of {len(valid):,} validation datapoints; at most {most_leaked:.0%} "
            f"is usual, and {chance:.1%} by chance",
            "keep one of each equal datapoint, and split the data afterwards",
        ))  # fmt: skip
    return hints


def _has_few_values(train: np.ndarray) -> bool:
    """Returns whether every column of the datapoints [n, D] has few different values."""
    x = train[rows(train, MOST_COUNTED)]
    return all(len(np.unique(column)) <= FEW_VALUES for column in x.T)


def equal_by_chance(train: np.ndarray) -> float:
    """Returns the largest fraction of datapoints that equal one of train [n, D] by chance.

    It is the expected number of them, n prod_d P(two values of column d are equal), if the columns
    were independent. It is near 0 for images and real numbers, and large for short or sparse
    binary vectors.
    """
    x = train[rows(train, MOST_COUNTED)]
    counts = [np.unique(column, return_counts=True)[1] for column in x.T]
    pairs = [np.sum(count * (count - 1.0)) / (len(x) * (len(x) - 1.0)) for count in counts]
    return min(1.0, len(train) * float(np.prod(pairs)))


def _stored(data: Any) -> np.ndarray:
    """Returns the stored datapoints [n, D] that are compared, with zeros of one sign."""
    if data is None or not len(data):
        return np.empty((0, 1))
    x = np.asarray(data[rows(data, len(data), MOST_VALUES)])
    return x + x.dtype.type(0) if x.dtype.kind == "f" else x


def _distances(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances of x [m, D] and others [n, D], [m, n]."""
    squares = np.sum(np.square(x), axis=1)[:, None] + np.sum(np.square(others), axis=1)
    return np.sqrt(np.maximum(squares - 2.0 * x @ others.T, 0.0))


def _near(seen: Sample) -> Hint | None:
    """Returns a hint on validation datapoints that are near-copies of training datapoints.

    Either most have one training datapoint far nearer than the next one, as an augmented copy is;
    or the training data are a film, whose neighbors in order are nearest to each other, and the
    validation datapoints are as near to them as they are to each other.
    """
    number = len(seen.train)
    if number < LEAST_IN_ORDER or len(seen.valid) < 2:
        return None
    train = seen.train.astype(np.float64)
    train -= np.mean(train, axis=0)
    valid = seen.valid[rows(seen.valid, MOST_COMPARED)] - np.mean(seen.train, axis=0, dtype=float)
    chosen = rows(train, MOST_COMPARED)
    nearest, second = np.partition(_distances(valid, train), 1, axis=1)[:, :2].T
    copied = float(np.mean((nearest < COPY * second) & (nearest > EQUAL * second)))
    if copied > LARGEST_COPIED:
        return _near_duplicates(
            f"{copied:.0%} of {len(valid):,} validation datapoints are ten times nearer to one "
            f"training datapoint than to the next; at most {LARGEST_COPIED:.0%} is usual",
            "split the data before you augment them, so that copies are in one split",
        )
    inner = _distances(train[chosen], train)
    inner[np.arange(len(chosen)), chosen] = np.inf
    in_order = float(np.mean(np.abs(inner.argmin(axis=1) - chosen) <= FEW_PLACES))
    ratio = float(np.median(nearest) / max(np.median(inner.min(axis=1)), 1e-12))
    if in_order < LEAST_FILM or ratio > LARGEST_NEAR:
        return None
    return _near_duplicates(
        f"{in_order:.0%} of the training datapoints have their nearest one within {FEW_PLACES} "
        f"places, as in a film (below {LEAST_FILM:.0%} is usual), and the median distance of "
        f"validation to training data is {ratio:.2f} of that between training data (above "
        f"{LARGEST_NEAR:g} for blocks of a film)",
        "set config.data.split=blocked, which holds out whole blocks of the order, and a larger "
        "config.data.num_valid if a block is short",
    )


def _near_duplicates(evidence: str, remedy: str) -> Hint:
    return Hint(
        "near_duplicates",
        "validation datapoints are near-copies of training datapoints, so that the validation "
        "bound rewards memory",
        evidence,
        remedy,
    )


# Distribution


def _shifted(seen: Sample, *, is_image: bool) -> Hint | None:
    """Returns a hint on columns whose validation mean is far from the training mean.

    Images are judged by the median over their pixels, tables by each column.
    """
    train, valid = (x.astype(np.float64) for x in seen)
    if len(train) < 2 or len(valid) < 2:
        return None
    deviation = np.std(train, axis=0)
    varies = deviation > 0.0
    if not varies.any():
        return None
    off = np.abs(np.mean(valid, axis=0) - np.mean(train, axis=0))[varies]
    shifts = off / deviation[varies]  # in standard deviations, as its standard error is
    shifts[shifts < LEAST_ERRORS * (1 / len(train) + 1 / len(valid)) ** 0.5] = 0.0
    most = LARGEST_MEDIAN_SHIFT if is_image else LARGEST_SHIFT
    shift = float(np.median(shifts) if is_image else np.max(shifts))
    if shift <= most:
        return None
    column = int(np.flatnonzero(varies)[shifts.argmax()])
    where = "in the median over pixels" if is_image else f"in column {column} (from 0)"
    return Hint(
        "shifted_columns",
        "the validation data have another distribution than the training data",
        f"their means differ by {shift:.3g} standard deviations {where}; at most {most:g} is usual",
        "set config.data.split=random if the order of the data has no meaning; leave out columns "
        "that number or date the datapoints; scale all splits alike",
    )


def _missing_classes(dataset: Dataset) -> Hint | None:
    labels = dataset.labels
    if labels is None or labels.valid is None or not len(labels.valid):
        return None
    held_out, trained = (
        np.bincount(part[part >= 0], minlength=len(labels.names))
        for part in (labels.valid, labels.train)
    )
    held_out = held_out / len(labels.valid)
    missing = np.flatnonzero((held_out >= LEAST_CLASS) & (trained == 0))
    if not len(missing):
        return None
    names = ", ".join(labels.names[place] for place in missing[:5])
    return Hint(
        "missing_classes",
        "classes of the validation data are not in the training data",
        f"{len(missing):,} of {len(labels.names):,} classes, with {held_out[missing].sum():.0%} of "
        f"the validation data, such as {names}; below {LEAST_CLASS:.0%} is usual",
        "set config.data.split=random, or shuffle the datapoints before they are split",
    )


def _one_class(dataset: Dataset) -> Hint | None:
    labels = dataset.labels
    if labels is None or len(np.unique(labels.train)) > 1:
        return None
    return Hint(
        "one_class",
        "all training datapoints have one label, so that labels and colors say nothing",
        f"{len(np.unique(labels.train))} class in {len(labels.train):,} training labels, of "
        f"{len(labels.names):,} named ones; at least 2 are usual",
        "check how the labels are read; images:FOLDER takes them from its subfolders",
    )
