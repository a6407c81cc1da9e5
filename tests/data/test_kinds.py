"""Kinds of values: whole numbers are counts only if `data.kind` says so."""

import numpy as np
import pytest

from aevb.data import kinds
from aevb.data.kinds import LARGEST_COUNT


def checked(x: np.ndarray, kind: str) -> np.ndarray:
    """Returns x as it is stored for a kind that was given."""
    kinds.check(x, x.min(), x.max(), kind)
    return kinds.convert(x, kind)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float64])
def test_counts_are_stored_exactly_up_to_the_largest(dtype: type):
    largest = {bool: 1, np.uint8: 255}.get(dtype, LARGEST_COUNT)
    x = np.array([[0, 1], [largest - 1, largest]]).astype(dtype)
    stored = checked(x, "counts")
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, x.astype(np.float64))


@pytest.mark.parametrize("value", [-1, 0.5, LARGEST_COUNT + 1])
def test_other_values_than_counts_are_refused_as_counts(value: float):
    words = rf"holds values from .*{value}.* whole numbers 0\.\.2\^24.*data\.kind=real"
    with pytest.raises(ValueError, match=words):
        checked(np.array([[0.0, value]]), "counts")
    with pytest.raises(ValueError, match="counts"):
        checked(np.array([[0, LARGEST_COUNT + 1]]), "counts")  # float32 would round it


def guessed(x: np.ndarray, *, is_table: bool) -> tuple[str, str]:
    """Returns the kind that is guessed, and the doubt about it."""
    low, high = x.min(), x.max()
    kind = kinds.guess(x, low, high, is_table=is_table)
    return kind, kinds.doubt(low, high, kind)


def test_whole_numbers_are_never_guessed_to_be_counts_but_a_line_names_the_kind():
    few = np.array([[0, 3], [12, 1]])
    kind, doubt = guessed(few, is_table=False)
    assert kind == "grey"
    assert "data.kind=counts is for counts, data.kind=real" in doubt
    kind, doubt = guessed(few, is_table=True)
    assert kind == "real"
    assert doubt == "whole numbers from 0 to 12 are read as real; data.kind=counts is for counts"


def test_tables_of_other_numbers_are_real_without_doubt():
    for x in (np.array([[-1, 3]]), np.array([[0.5, 3.0]])):
        assert guessed(x, is_table=True) == ("real", "")


def test_the_refusal_of_large_whole_numbers_names_counts_unless_some_are_negative():
    with pytest.raises(ValueError, match=r"from 0 to 300.*data\.kind=counts.*data\.kind=real"):
        guessed(np.array([[0, 300]]), is_table=False)
    with pytest.raises(ValueError, match="from -1 to 3") as refusal:
        guessed(np.array([[-1, 3]]), is_table=False)
    assert "counts" not in str(refusal.value)
