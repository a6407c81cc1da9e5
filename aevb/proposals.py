"""What estimates of log p(x) start from: q(z|x) itself, or a density fitted to p(z|x) at that x.

A guide trained by the evidence lower bound is too narrow for importance sampling: where p(z|x) has
tails that it lacks, a few weights carry the sum, and the estimate falls short by more than its
standard error can know. Fitting another density afresh at each x leaves an estimate on its side of
log p(x), whatever was fitted: the samples that count are drawn after it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb import lbfgs
from aevb.densities import Guide, Joint
from aevb.reparam.location_scale import elliptical
from aevb.types import Key, PyTree

DF = 10.0  # degrees of freedom: tails that no posterior with Gaussian ones outgrows
NUM_STARTS = 50  # draws of the guide; the best of them starts the climb
NUM_STEPS = 50  # of L-BFGS
FLATTEST = 1e-5  # of the largest curvature, or of N(0, I)'s: less, float32 cannot tell from none


class Proposal(NamedTuple):
    """A density that can be sampled, as `marginal` takes it."""

    stats: PyTree
    guide: Guide


def encoder(key: Key, stats: PyTree, guide: Guide, joint: Joint) -> Proposal:
    """q(z|x) as the encoder gives it."""
    return Proposal(stats, guide)


def laplace(key: Key, stats: PyTree, guide: Guide, joint: Joint) -> Proposal:
    """A Student-t at the mode of p(z|x), with the covariance of Laplace's approximation as scale.

    Tierney & Kadane (1986) for the approximation; the tails of 10 degrees of freedom keep the
    importance weights bounded where those of the posterior are Gaussian. The climb to the mode
    starts at the likeliest of 50 draws of the guide. Where log p(x, z) curves upward, its slope
    having vanished all the same, the curvature's size is taken.
    """

    def log_joint(z: Array) -> Array:
        return joint.log_prior(z) + joint.log_lik(z)

    draws = jax.vmap(lambda key: guide.sample(key, stats))(jax.random.split(key, NUM_STARTS))
    start = draws[jnp.argmax(jax.vmap(log_joint)(draws))]
    mode = lbfgs.maximise(log_joint, start, num_steps=NUM_STEPS)
    hessian = jax.hessian(log_joint)(mode)
    curvature, axes = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
    curvature = jnp.abs(curvature)
    curvature = jnp.maximum(curvature, FLATTEST * jnp.maximum(1.0, jnp.max(curvature)))
    covariance = (axes / curvature[None, :]) @ axes.T
    fitted = {
        "location": mode,
        "scale_tril": jnp.linalg.cholesky(covariance),
        "df": jnp.full_like(mode[0], DF),
    }
    return Proposal(fitted, STUDENT_T)


STUDENT_T = Guide(
    sample=lambda key, params: elliptical.sample(key, params),
    log_prob=lambda params, z: elliptical.log_prob(params, z),
)

PROPOSALS: dict[str, Callable[[Key, PyTree, Guide, Joint], Proposal]] = {
    "encoder": encoder,
    "laplace": laplace,
}
