"""The identity log p(D) = L(Q) + KL(Q || p(z|D)), on which variational Bayes rests.

Bishop (2006), eq. (9.70). It holds for every Q. The left side does not depend on Q, so raising the
bound L(Q) lowers the KL. L(Q) is a lower bound because a KL is at least 0. Each of the three terms
is computed here by its own definition, none as a difference of the others, so that their agreement
is a result.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import Array

from aevb.classical.divergences import kl_on_grid
from aevb.classical.families import Normal


class Decomposition(NamedTuple):
    """The three terms of the identity, in nats."""

    log_evidence: Array  # [], log p(D)
    bound: Array  # [], L(Q) = E_Q[log p(D, z)] + the entropy of Q
    kl: Array  # [], KL(Q || p(z|D))

    def residual(self) -> Array:
        """Returns log p(D) - L(Q) - KL []: 0 up to rounding, NaN where the KL is infinite."""
        return self.log_evidence - self.bound - self.kl


def decompose(log_joint: Array, log_q: Array, log_measure: float | Array = 0.0) -> Decomposition:
    """Computes the terms for a discrete z with finitely many states, or for a z on a grid.

    Q is first normalized over the states, so log_q may be given up to a constant. On a grid all
    three terms are those of the discretized problem, so the identity has no discretization error.
    If Q gives mass to a state that p(D, z) excludes, the KL is infinite and the bound is -inf.

    Args:
        log_joint: log p(D, z) of every state [...], -inf for an excluded state.
        log_q: log Q(z) [...] up to a constant, -inf where Q is 0.
        log_measure: the log-volume of each cell, [] or [...]; 0 for discrete states.
    """
    log_q = _normalized(log_q, log_measure)
    log_evidence = jax.nn.logsumexp(log_joint + log_measure)
    log_posterior = _normalized(log_joint, log_measure)
    # E_Q[log p(D, z) - log Q(z)] is minus the KL from Q to the joint, which is not normalized.
    bound = -kl_on_grid(log_q, log_joint, log_measure)
    return Decomposition(log_evidence, bound, kl_on_grid(log_q, log_posterior, log_measure))


def decompose_gaussian(
    log_evidence: Array, posterior: Normal, bound: Callable[[Normal], Array], q: Normal
) -> Decomposition:
    """Computes the terms for a model with a normal posterior, such as a linear-Gaussian model.

    Args:
        log_evidence: log p(D) [], from the model's marginal in closed form.
        bound: the function q -> L(q) [], from the likelihood and the prior.
    """
    return Decomposition(log_evidence, bound(q), q.kl(posterior))


def _normalized(log_density: Array, log_measure: float | Array) -> Array:
    """Returns the log-density [...] shifted so that the density integrates to 1 over the cells."""
    log_mass = log_density + log_measure
    return log_density - jax.nn.logsumexp(log_mass)
