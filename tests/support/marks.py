"""Marks of tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(quick: Iterable[Any], values: Iterable[Any], *, unpack: bool = False) -> list[Any]:
    """Returns the values as parameters of a test, all marked slow except the quick ones.

    Args:
        unpack: whether each value is a tuple of several parameters.
    """
    quick = tuple(quick)
    return [
        pytest.param(
            *(value if unpack else (value,)), marks=() if value in quick else pytest.mark.slow
        )
        for value in values
    ]
