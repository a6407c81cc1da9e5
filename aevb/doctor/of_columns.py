"""Checks of single columns of a table: copies of other columns, and numbers of rows."""

import numpy as np

from aevb.doctor.hints import Hint

LEAST_ROWS = 50  # of fewer ones, an order or a correlation is chance
MOST_COLUMNS = 2000  # whose correlations are computed
# Rounding to six digits leaves this much, and no two measurements agree so well.
LEAST_CORRELATION = 1.0 - 1e-6
# Row numbers of which a third are in the training data, by a random split
LARGEST_GAP = 3.0
WHOLE = 1e-3  # rounding of whole numbers that were standardized


def hints_of_columns(x: np.ndarray) -> list[Hint]:
    """Returns hints on the columns of a table, [n, D], in its own units and in its order.

    Copies among binary columns are left out by the caller, because they are often meant.
    """
    if len(x) < LEAST_ROWS or x.shape[1] > MOST_COLUMNS:
        return []
    return [hint for hint in (_copied(x), _row_numbers(x)) if hint is not None]


def _copied(x: np.ndarray) -> Hint | None:
    varying = np.flatnonzero(np.std(x, axis=0) > 0)
    if len(varying) < 2:
        return None
    correlations = np.abs(np.corrcoef(x[:, varying], rowvar=False))
    pairs = np.argwhere(np.triu(correlations > LEAST_CORRELATION, k=1))
    if not len(pairs):
        return None
    first, second = varying[pairs[0]]
    return Hint(
        "copied_column",
        "a column is a copy of another one, in the same or other units: the bound can grow there "
        "without end, and says less about the rest",
        f"columns {first} and {second} (from 0) have a correlation of 1 up to rounding; "
        f"{len(pairs):,} such pairs",
        "leave one column of each pair out",
    )


def _row_numbers(x: np.ndarray) -> Hint | None:
    ordered = np.sort(x, axis=0)
    is_whole = np.all(np.abs(x - np.round(x)) < WHOLE, axis=0)
    is_distinct = np.all(np.diff(np.round(ordered), axis=0) > 0, axis=0)
    is_dense = ordered[-1] - ordered[0] <= LARGEST_GAP * len(x)
    steps = np.diff(x, axis=0)
    in_order = np.all(steps > 0, axis=0) | np.all(steps < 0, axis=0)
    columns = np.flatnonzero((is_whole & is_distinct & is_dense) | in_order)
    if not len(columns):
        return None
    return Hint(
        "row_numbers",
        "a column numbers the rows, or rises with them",
        f"column {columns[0]} (from 0): {len(x):,} different values of {len(x):,} rows, "
        + ("in the order of the rows" if in_order[columns[0]] else "all of them whole numbers"),
        "leave the column out",
    )
