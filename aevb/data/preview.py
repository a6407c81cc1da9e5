"""Statistics of data, before a model is trained on them."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from aevb.data import Dataset

MOST_VALUES = 10**8  # values that are compared
BLOCK = 256  # columns that are compared at a time


class Findings(NamedTuple):
    """Statistics of the stored values of all splits together."""

    num_seen: int  # datapoints that were compared; evenly spaced, if not all
    low: float
    high: float
    mean: float
    is_whole: bool  # whether all are whole numbers
    num_missing: int  # values that are NaN, which the others leave out
    constant: tuple[int, ...]  # columns with one value
    equal: tuple[
        tuple[int, int], ...
    ]  # (column, first column that is equal), without constant ones
    num_repeated: int  # datapoints that are equal to an earlier one
    num_leaked: int  # validation and test datapoints that are equal to one of training


def look(dataset: Dataset) -> Findings:
    """Computes the statistics of the stored values of a dataset.

    If there are more than MOST_VALUES, evenly spaced datapoints of each split are compared.
    """
    parts = dataset.splits
    size = sum(map(len, parts.values())) * dataset.test.shape[1]
    step = -(-size // MOST_VALUES)
    seen = [np.asarray(part[::step]) for part in parts.values()]
    x = np.concatenate(seen)
    if x.dtype.kind == "f":
        x += 0.0  # -0.0 becomes 0.0, which has other bytes
    is_missing = np.isnan(x)
    lows, highs = np.fmin.reduce(x, axis=0), np.fmax.reduce(x, axis=0)  # without NaN
    constant = np.flatnonzero(lows == highs)
    first_row, first_column = first_equal(x), first_equal(_columns(x))
    varies = np.delete(np.arange(x.shape[1]), constant)
    is_repeated = first_row < np.arange(len(x))
    num_train = len(seen[0])
    return Findings(
        num_seen=len(x),
        low=float(np.fmin.reduce(lows)),
        high=float(np.fmax.reduce(highs)),
        mean=float(x.mean(dtype=np.float64, where=~is_missing)),
        is_whole=x.dtype.kind in "iu" or bool(np.all((x == np.floor(x)) | is_missing)),
        num_missing=int(is_missing.sum()),
        constant=tuple(map(int, constant)),
        equal=tuple((int(c), int(first_column[c])) for c in varies if first_column[c] < c),
        num_repeated=int(is_repeated.sum()),
        num_leaked=int((first_row[num_train:] < num_train).sum()),
    )


def _columns(x: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, x.shape[1], BLOCK):
        yield from np.ascontiguousarray(x[:, start : start + BLOCK].T)


def first_equal(vectors: Iterable[np.ndarray]) -> np.ndarray:
    """Returns for each vector the place of the first one that is equal to it."""
    places: dict[bytes, int] = {}
    found = [
        places.setdefault(hashlib.blake2b(vector.tobytes(), digest_size=16).digest(), place)
        for place, vector in enumerate(vectors)
    ]
    return np.array(found)
