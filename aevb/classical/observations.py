"""Checks of a model's data, each with an error message of one line."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer


def require(name: str, values: Array, axes: str, *, may_be_empty: bool = False) -> None:
    """Checks the shape and finiteness of data; the axes "ND" mean the shape [N, D].

    Values under a `jit` are not checked.

    Raises:
        ValueError: the number of axes is wrong, an axis is empty although that is not allowed, or
            a value is not finite.
    """
    if values.ndim != len(axes):
        wanted = f"[{', '.join(axes)}]"
        raise ValueError(f"{name} has shape {values.shape}; it must be {wanted}, so reshape it")
    if 0 in values.shape and not may_be_empty:
        raise ValueError(f"{name} has shape {values.shape}; no axis may be empty, so add data")
    count = 0 if isinstance(values, Tracer) else _count(values, lambda known: ~jnp.isfinite(known))
    if count:
        raise ValueError(
            f"{name} holds {count} values that are NaN or infinite; all must be finite, so drop or"
            " fill them"
        )


def require_binary(name: str, values: Array) -> None:
    """Raises a ValueError if a value is neither 0 nor 1. Values under a `jit` are not checked."""
    if not isinstance(values, Tracer):
        count = _count(values, lambda known: (known != 0.0) & (known != 1.0))
        if count:
            raise ValueError(
                f"{name} holds {count} values that are neither 0 nor 1; recode the classes"
            )


def _count(values: Array, wrong: Callable[[Array], Array]) -> int:
    # Within a `jit`, operations on known values would be traced without this context.
    with jax.ensure_compile_time_eval():
        return int(jnp.sum(wrong(values)))


def require_equal_lengths(**arrays: Array) -> None:
    """Raises a ValueError unless all arrays have the same number of rows."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = " and ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"the arrays have different numbers of rows ({said}); give each the same number"
        )
