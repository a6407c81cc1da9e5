"""Cholesky factors of many small matrices at once, without LAPACK.

In jaxlib 0.10.2 each batched call of LAPACK holds a thread of the CPU client while it waits for
other threads. If there are as many independent calls as threads (two on two cores), they deadlock.
The loops here are compiled by XLA and are no slower for many small matrices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Factors(NamedTuple):
    """The Cholesky factor L of a symmetric positive definite A = L L', and the inverse of L.

    Both hold NaN if A is not positive definite.
    """

    lower: Array  # [D, D], L
    inverse: Array  # [D, D], L^-1, also lower triangular

    def log_det(self) -> Array:
        """Returns log |A|, shape []."""
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(self.lower)))


def factorize(matrix: Array) -> Factors:
    """Returns L and L^-1 of a matrix [D, D]; elimination turns [A, I] into [L', L^-1]."""
    num_dims = len(matrix)
    indices = jnp.arange(num_dims)

    def eliminate(rows: Array, index: Array) -> tuple[Array, Array]:
        scale = jnp.sqrt(rows[index, index])
        pivot = rows[index] / scale
        below = jnp.where(indices > index, rows[:, index] / scale, 0.0)
        return rows - jnp.outer(below, pivot), pivot

    start = jnp.concatenate([matrix, jnp.eye(num_dims, dtype=matrix.dtype)], axis=1)
    _, pivots = jax.lax.scan(eliminate, start, indices)
    return Factors(jnp.triu(pivots[:, :num_dims]).T, pivots[:, num_dims:])


def solve_lower(lower: Array, y: Array) -> Array:
    """Returns the solution x [D] of L x = y, for a lower triangular L [D, D] and y [D]."""

    def substitute(x: Array, index: Array) -> tuple[Array, None]:
        return x.at[index].set((y[index] - lower[index] @ x) / lower[index, index]), None

    return jax.lax.scan(substitute, jnp.zeros_like(y), jnp.arange(len(y)))[0]
