"""Cholesky factors of many small matrices at once, without LAPACK.

Each batched call of jaxlib's LAPACK holds a thread of the CPU client while it waits for others, so
that as many independent calls as there are threads, two on two cores, wait for one another for
ever (jaxlib 0.10.2). These are loops of XLA's own, and over many small matrices no slower.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Factors(NamedTuple):
    """Of a symmetric positive definite matrix A = L L'; NaN where it is not."""

    lower: Array  # [D, D], L
    inverse: Array  # [D, D], L^-1, lower triangular as well

    def log_det(self) -> Array:
        """log |A| -> []."""
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(self.lower)))


def factorize(matrix: Array) -> Factors:
    """L and L^-1 of a matrix [D, D], by eliminating in [A, I], which leaves [L', L^-1]."""
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
    """x [D] of L x = y, for a lower triangular L [D, D]."""

    def substitute(x: Array, index: Array) -> tuple[Array, None]:
        return x.at[index].set((y[index] - lower[index] @ x) / lower[index, index]), None

    return jax.lax.scan(substitute, jnp.zeros_like(y), jnp.arange(len(y)))[0]
