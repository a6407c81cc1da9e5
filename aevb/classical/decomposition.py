"""log p(D) = L(Q) + KL(Q || p(z|D)) for whatever Q: the identity that variational Bayes rests on.

Bishop (2006), eq. (9.70). The left side does not depend on Q, so that raising the bound L(Q) is
lowering the KL, and L(Q) is a lower bound since a KL is at least 0. Each of the three is computed
here by its own definition and none as a difference of the others: that they agree is a result.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import Array

from aevb.classical.divergences import kl_on_grid
from aevb.classical.families import Normal


class Decomposition(NamedTuple):
    """The three terms, in nats."""

    log_evidence: Array  # [], log p(D)
    bound: Array  # [], L(Q) = E_Q[log p(D, z)] + the entropy of Q
    kl: Array  # [], KL(Q || p(z|D))

    def residual(self) -> Array:
        """log p(D) - L(Q) - KL -> [], 0 but for rounding; NaN where the KL is infinite."""
        return self.log_evidence - self.bound - self.kl


def decompose(log_joint: Array, log_q: Array, log_measure: float | Array = 0.0) -> Decomposition:
    """The terms for a z that is one of finitely many states, or on a grid.

    Q is first normalized over the states, so that log_q needs to be known up to a constant. On a
    grid all three are those of the discrete problem that the grid makes of the integral, hence the
    identity is free of its error. Where Q holds a state that p(D, z) excludes, the KL is infinite
    and the bound -inf.

    Args:
        log_joint: log p(D, z) of every state [...], -inf where that is excluded.
        log_q: log Q(z) [...] up to a constant, -inf where Q is 0.
        log_measure: the logarithm of each cell's volume, [] or [...]; 0 of states that are counted.
    """
    log_q = _normalized(log_q, log_measure)
    log_evidence = jax.nn.logsumexp(log_joint + log_measure)
    log_posterior = _normalized(log_joint, log_measure)
    # E_Q[log p(D, z) - log Q(z)]: a KL to what is not normalized, the other way up.
    bound = -kl_on_grid(log_q, log_joint, log_measure)
    return Decomposition(log_evidence, bound, kl_on_grid(log_q, log_posterior, log_measure))


def decompose_gaussian(
    log_evidence: Array, posterior: Normal, bound: Callable[[Normal], Array], q: Normal
) -> Decomposition:
    """The terms for a model whose posterior is normal, as that of a linear-Gaussian one is.

    Args:
        log_evidence: log p(D) [], of the marginal that the model has in closed form.
        bound: q -> L(q) [], from the likelihood and the prior.
    """
    return Decomposition(log_evidence, bound(q), q.kl(posterior))


def _normalized(log_density: Array, log_measure: float | Array) -> Array:
    """With its integral over the cells made 1 -> [...]."""
    log_mass = log_density + log_measure
    return log_density - jax.nn.logsumexp(log_mass)
