"""Standardization of real data by the training split, and its inverse."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aevb.data.kinds import blocks

FAR = 20.0  # standard deviations from the mean, beyond which a value is reported as an outlier
DIGITS = 6  # kept of means and scales: their last bits depend on the processor


@dataclass(frozen=True)
class Standardization:
    """Mean and scale of each column, or of all columns together if there is one of each."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def apply(self, x: Any) -> Any:
        """Returns (x - mean) / scale of x [..., D], of NumPy or JAX, in its precision."""
        return (x - np.asarray(self.mean)) / np.asarray(self.scale)

    def invert(self, x: Any) -> Any:
        """Returns mean + scale x of standardized x [..., D]."""
        return x * np.asarray(self.scale) + np.asarray(self.mean)

    def log_jacobian(self, num_dims: int) -> float:
        """Returns log |dx'/dx| of x' = `apply`(x) [D]: -Sum_d log scale_d.

        A log-density of standardized data plus this number is that of the data in their own units.
        """
        return float(np.sum(self.log_jacobians(num_dims)))

    def log_jacobians(self, num_dims: int) -> np.ndarray:
        """Returns the terms -log scale_d of `log_jacobian`, [D]."""
        return -np.broadcast_to(np.log(self.scale), (num_dims,))


def of_training_data(x: np.ndarray, *, per_column: bool) -> Standardization:
    """Computes the standardization of training data x [N, D], in float64.

    A constant column, whose deviation is 0, gets the scale 1. Both numbers are rounded to six
    digits of the scale, so that they are the same on every machine.

    Args:
        per_column: whether each column has its own mean and scale.
    """
    mean, std = _moments(x) if per_column else _moments(x.reshape(-1, 1))
    scale = np.array([float(f"{one:.{DIGITS}g}") for one in np.where(std > 0.0, std, 1.0)])
    unit = 10.0 ** (np.floor(np.log10(scale)) - DIGITS + 1)
    rounded = np.where(std > 0.0, np.round(mean / unit) * unit, mean)
    return Standardization(tuple(rounded.tolist()), tuple(scale.tolist()))


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean [D] and standard deviation [D] of x [N, D]; 0 for a constant column.

    NaN, a missing value, is left out. Each column has one number at least.
    """
    first = _first_seen(x)  # subtracted, so that a large offset costs no digits
    number = sum(np.sum(~np.isnan(block), axis=0) for block in blocks(x))
    mean = sum(np.nansum(block - first, axis=0) for block in blocks(x)) / number
    squares = (np.square(block - first - mean) for block in blocks(x))
    square = sum(np.nansum(block, axis=0) for block in squares) / number
    constant = np.all([_is_constant(block, first) for block in blocks(x)], axis=0)
    return first + mean, np.where(constant, 0.0, np.sqrt(square))


def _first_seen(x: np.ndarray) -> np.ndarray:
    """Returns the first number of each column of x [N, D], in float64, [D]."""
    first = np.asarray(x[0], np.float64)
    for block in blocks(x):
        if not np.isnan(first).any():
            break
        rows = np.argmax(~np.isnan(block), axis=0)
        of_block = np.asarray(block[rows, np.arange(x.shape[1])], np.float64)
        first = np.where(np.isnan(first), of_block, first)
    return first


def _is_constant(x: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns whether each column of x [N, D] has no other number than a value [D]."""
    return np.all((x == value) | np.isnan(x), axis=0)


class Standardized:
    """Standardized data [N, D] as float32, which are computed from stored data when they are read.

    Stored data that are memory-mapped can exceed memory.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, stored: np.ndarray, standardization: Standardization):
        self.stored, self.standardization = stored, standardization

    @property
    def shape(self) -> tuple[int, int]:
        """[N, D]."""
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def nbytes(self) -> int:
        """The size of all data, in bytes."""
        return self.stored.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._converted(self.stored[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found, start = np.empty(self.shape, self.dtype if dtype is None else dtype), 0
        for block in blocks(self.stored):
            found[start : start + len(block)] = self._converted(block)
            start += len(block)
        return found

    def _converted(self, stored: np.ndarray) -> np.ndarray:
        return self.standardization.apply(stored.astype(np.float64)).astype(self.dtype)


def warnings(
    splits: Sequence[np.ndarray], standardization: Standardization, columns: Sequence[str]
) -> list[str]:
    """Returns a sentence on constant columns, and one on outliers, if there are any.

    Args:
        splits: the stored data [N, D] of each split, the training data first.
        columns: the name of each column, for the sentences.
    """
    found, (train, *_) = [], splits
    constant = np.flatnonzero(_is_constant(train, _first_seen(train)))
    if len(constant):
        found.append(
            f"{_named(constant, columns)} constant in the training data: a density can grow there "
            "without limit; leave such columns out"
        )
    largest = np.max([_largest(split, standardization) for split in splits if len(split)], axis=0)
    far = np.flatnonzero(largest > FAR)
    if len(far):
        found.append(
            f"{_named(far, columns)} up to {np.max(largest):.3g} standard deviations from the "
            "mean: such outliers can decide the bound; check them"
        )
    return found


def _largest(x: np.ndarray, standardization: Standardization) -> np.ndarray:
    """Returns the largest |standardized value| of each column, [D]."""
    each = (standardization.apply(block.astype(np.float64)) for block in blocks(x))
    return np.max([np.nanmax(np.abs(block), axis=0, initial=0.0) for block in each], axis=0)


def _named(numbers: np.ndarray, columns: Sequence[str], most: int = 5) -> str:
    names = ", ".join(columns[int(number)] for number in numbers[:most])
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"column{'s' * (len(numbers) > 1)} {names}{more} {'are' if len(numbers) > 1 else 'is'}"
