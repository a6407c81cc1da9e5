"""Strict JAX for every test: no silent promotion of types or ranks, on the CPU.

x64 stays off, as in training; the oracles are float64 in NumPy.
"""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the time goes into compiling programs that run for a moment; this takes a third off.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For tests that run other people's code, which leans on promotion; each says whose."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """For claims about bits, which are to hold of the programs that users run."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
