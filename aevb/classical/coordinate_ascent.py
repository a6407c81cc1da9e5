"""Coordinate ascent: each factor of Q in turn is set to its optimum given the others.

Under a factorized Q(z) = prod_j q_j(z_j), the bound E_Q[log p(D, z)] - E_Q[log Q(z)] is maximized
over q_j by log q_j = E_{others}[log p(D, z)] + constant; Bishop (2006), eq. (10.9). The expectation
is under the other factors, so the updates depend on one another and are repeated. No update lowers
the bound. Only Q is assumed to factorize; the dependences in the exact posterior remain.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key, PyTree


class CoordinateAscent(NamedTuple):
    """A model and its data, under one factorization of Q. The state holds all factors."""

    init: Callable[[Key], PyTree]  # key -> an initial state
    updates: Mapping[str, Callable[[PyTree], PyTree]]  # one for each factor, in sweep order
    bound: Callable[[PyTree], Array]  # log p(D) - KL(Q || posterior) [], nats, with all constants

    def update(self, state: PyTree) -> PyTree:
        """Returns the state after one sweep, which updates every factor once."""
        for update in self.updates.values():
            state = update(state)
        return state


def ascend(problem: CoordinateAscent, state: PyTree, *, num_sweeps: int) -> tuple[PyTree, Array]:
    """Runs `num_sweeps` sweeps (T) over the F factors.

    Returns:
        The last state, and the bound after every update [T, F], in nats.
    """

    def sweep(state: PyTree, _: None) -> tuple[PyTree, Array]:
        bounds = []
        for update in problem.updates.values():
            state = update(state)
            bounds.append(problem.bound(state))
        return state, jnp.stack(bounds)

    return jax.lax.scan(sweep, state, length=num_sweeps)


class Maximum(NamedTuple):
    """The state at which the sweeps stopped."""

    state: PyTree
    bound: Array  # [], nats
    num_sweeps: Array  # [], int32
    converged: Array  # [], bool: the last sweep raised the bound by less than the tolerance


def maximize(
    problem: CoordinateAscent, state: PyTree, *, tolerance: float, max_sweeps: int
) -> Maximum:
    """Runs up to `max_sweeps` sweeps, until one raises the bound by less than `tolerance` nats."""

    def rises(carry: Maximum) -> Array:
        return ~carry.converged & (carry.num_sweeps < max_sweeps)

    def sweep(carry: Maximum) -> Maximum:
        state = problem.update(carry.state)
        bound = problem.bound(state)
        return Maximum(state, bound, carry.num_sweeps + 1, bound - carry.bound < tolerance)

    like = jax.eval_shape(problem.bound, state)  # gives the dtype without computing the bound
    nothing = jnp.array(-jnp.inf, like.dtype)
    start = Maximum(state, nothing, jnp.int32(0), jnp.array(False))
    return jax.lax.while_loop(rises, sweep, start)
