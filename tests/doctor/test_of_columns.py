"""Checks of columns that copy one another or number the rows."""

import numpy as np
import pytest

from aevb.doctor.of_columns import hints_of_columns

ROWS = np.random.default_rng(0).normal(size=(300, 4))


def causes(x: np.ndarray) -> list[str]:
    return [hint.cause for hint in hints_of_columns(x)]


def test_independent_and_correlated_columns_have_no_hint():
    mixed = ROWS @ np.random.default_rng(1).normal(size=(4, 4))
    noisy = np.column_stack([ROWS, ROWS[:, 0] + 0.01 * ROWS[:, 1]])
    assert causes(ROWS) == causes(mixed) == causes(noisy) == []


@pytest.mark.parametrize("copy", [ROWS[:, 2], 2.54 * ROWS[:, 2] + 7.0, -ROWS[:, 2]])
def test_a_copy_of_a_column_in_any_unit_is_found(copy: np.ndarray):
    (hint,) = hints_of_columns(np.column_stack([ROWS, copy]))
    assert hint.cause == "copied_column"
    assert "columns 2 and 4 (from 0)" in hint.evidence


@pytest.mark.parametrize(
    "column",
    [
        np.arange(300.0),
        np.random.default_rng(2).permutation(450)[:300].astype(float),  # those of a random split
        np.cumsum(np.random.default_rng(3).random(300)),  # times
    ],
)
def test_a_column_of_row_numbers_or_times_is_found(column: np.ndarray):
    (hint,) = hints_of_columns(np.column_stack([ROWS, column]))
    assert hint.cause == "row_numbers"
    assert "column 4 (from 0): 300 different values of 300 rows" in hint.evidence


def test_whole_numbers_that_repeat_or_are_far_apart_are_no_row_numbers():
    ages = np.random.default_rng(4).integers(18, 90, 300)
    incomes = np.random.default_rng(5).permutation(10**6)[:300]
    assert causes(np.column_stack([ROWS, ages, incomes])) == []


def test_constant_columns_and_few_rows_are_left_to_other_checks():
    assert causes(np.column_stack([ROWS, np.ones((300, 2))])) == []
    assert causes(np.column_stack([np.arange(20.0), np.arange(20.0)])) == []
