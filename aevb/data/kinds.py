"""The kind of the user's values: guessed by stated rules, or checked if it was given."""

from collections.abc import Iterator
from typing import Any

import numpy as np

KINDS = ("binary", "grey", "unit", "real", "counts")
LARGEST_COUNT = 2**24  # up to which float32 holds every whole number
BLOCK = 2**20  # values that are checked at a time


def guess(x: np.ndarray, low: Any, high: Any, *, is_table: bool) -> str:
    """Returns the kind of x [N, D] by its type and its range from `low` to `high`.

    bool, and numbers that are all 0 or 1, are binary. Floating point in [0, 1] is "unit", and any
    other "real". Whole numbers in 0..255 are grey levels, unless they are in a table, where they
    are "real". Counts are never guessed.

    Raises:
        ValueError: they are whole numbers of an array, and not all in 0..255.
    """
    if x.dtype == np.bool_ or (low >= 0 and high <= 1 and _is_binary(x)):
        return "binary"
    if x.dtype.kind == "f":
        return "unit" if low >= 0 and high <= 1 else "real"
    if is_table:
        return "real"
    if low < 0 or high > 255:
        raise ValueError(
            f"holds whole numbers from {low} to {high}, which are no grey levels 0..255; "
            f"{_otherwise(low)}"
        )
    return "grey"


def check(x: np.ndarray, low: Any, high: Any, kind: str) -> None:
    """Raises a ValueError if x [N, D], in the range from `low` to `high`, is not of a kind."""
    if kind == "binary" and not (x.dtype == np.bool_ or _is_binary(x)):
        raise ValueError(f"holds values from {low} to {high}, and binary data are 0 and 1")
    if kind == "grey" and not (low >= 0 and high <= 255 and _is_whole(x)):
        raise ValueError(
            f"holds values from {low} to {high}, and grey levels are the whole numbers 0..255; "
            "data.kind=unit is for pixels in [0, 1], data.kind=real for any numbers"
        )
    if kind == "unit" and not (low >= 0 and high <= 1):
        raise ValueError(f"holds values from {low} to {high}, and data.kind=unit is for [0, 1]")
    if kind == "counts" and not (low >= 0 and high <= LARGEST_COUNT and _is_whole(x)):
        raise ValueError(
            f"holds values from {low} to {high}, and counts are the whole numbers 0..2^24, which "
            "float32 holds; data.kind=real is for any numbers"
        )


def convert(x: np.ndarray, kind: str) -> np.ndarray:
    """Returns x [N, D] as data of its kind are stored: uint8 if binary or grey, else float32."""
    if x.dtype == np.bool_:
        x = x.view(np.uint8)
    return x.astype(np.uint8 if kind in ("binary", "grey") else np.float32, copy=False)


def reason(kind: str, *, is_whole: bool, is_table: bool) -> str:
    """Returns in words by which rule `guess` finds a kind, "" for a kind that it does not find.

    Args:
        is_whole: whether all values are whole numbers.
    """
    if kind == "real":
        whole = "whole numbers of a table, not all 0 or 1" if is_table else "whole numbers"
        return whole if is_whole else "numbers that are not all in [0, 1]"
    return {
        "binary": "all values are 0 or 1",
        "grey": "whole numbers of an array, in 0..255",
        "unit": "floating point in [0, 1]",
    }.get(kind, "")


def doubt(low: Any, high: Any, kind: str) -> str:
    """Returns a sentence on how values were read if the guessed kind may be wrong, else ""."""
    if kind == "grey" and high < 128:
        return (
            f"whole numbers from {low} to {high} are read as grey levels 0..255; {_otherwise(low)}"
        )
    if kind == "real" and low.dtype.kind in "iu" and low >= 0:
        return (
            f"whole numbers from {low} to {high} are read as real; data.kind=counts is for counts"
        )
    return ""


def _otherwise(low: Any) -> str:
    """Returns a clause on the kinds other than grey that whole numbers from `low` can have."""
    counts = "data.kind=counts is for counts, " if low >= 0 else ""
    return f"{counts}data.kind=real takes them as they are"


def first_nonfinite(x: np.ndarray) -> tuple[int, int]:
    """Returns row and column of the first NaN, infinity or value beyond float32, which x has."""
    start, limit = 0, np.finfo(np.float32).max
    for block in blocks(x):
        bad = ~(np.abs(block) <= limit)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            return start + int(row), int(column)
        start += len(block)
    raise ValueError("all values are finite float32")


def _is_binary(x: np.ndarray) -> bool:
    return all(np.all((block == 0) | (block == 1)) for block in blocks(x))


def _is_whole(x: np.ndarray) -> bool:
    return x.dtype.kind in "biu" or all(np.all(block == np.floor(block)) for block in blocks(x))


def blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Returns the rows of x [N, D] in blocks of about BLOCK values, for data that exceed memory."""
    rows = max(1, BLOCK // max(1, x.shape[1]))
    return (x[start : start + rows] for start in range(0, len(x), rows))
