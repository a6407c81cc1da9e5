"""Proposal densities for estimates of log p(x): q(z|x) itself, or one fitted to p(z|x) at each x.

A guide trained on the evidence lower bound is too narrow for importance sampling. Where p(z|x) has
tails that the guide lacks, a few weights dominate the sum, and the estimate is too low by more than
its standard error shows. Fitting a density at each x does not change the side of log p(x) that an
estimate is on, however poor the fit, because the samples are drawn after it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from aevb.inference import lbfgs
from aevb.latents import as_vectors, of_structure
from aevb.losses import Guide, Joint
from aevb.reparam.family import Params
from aevb.reparam.location_scale import elliptical
from aevb.types import Key, LogDensity, PyTree

DF = 10.0  # degrees of freedom; the tails are heavier than Gaussian ones
NUM_STARTS = 50  # draws of the guide; the ascent starts at the best of them
NUM_STEPS = 50  # L-BFGS steps of the ascent
NUM_CLIMBS = 16  # ascents of `modes`, each from the best of NUM_STARTS draws of its own
NUM_CLIMB_STEPS = 20  # L-BFGS steps of each; a point that has not converged can still be used
SAME = 1.0  # standard deviations; modes closer than this are the same mode
EVEN = 0.1  # fraction of the mixture's weight that all modes share equally
FLATTEST = 1e-5  # least curvature, relative to the largest one or to 1, that float32 can resolve


class Proposal(NamedTuple):
    """A density that can be sampled, in the form that `marginal` takes."""

    stats: PyTree
    guide: Guide


def encoder(key: Key, stats: PyTree, guide: Guide, joint: Joint) -> Proposal:
    """Returns q(z|x) as the encoder gives it."""
    return Proposal(stats, guide)


def laplace(key: Key, stats: PyTree, guide: Guide, joint: Joint) -> Proposal:
    """Returns a Student-t at the mode of p(z|x), scaled by the Laplace approximation.

    Its scale matrix is the covariance of the approximation (Tierney & Kadane 1986). The Student-t
    has 10 degrees of freedom; its tails keep the importance weights bounded if the posterior's
    tails are Gaussian. The ascent to the mode starts at the draw of the guide with the highest
    log p(x, z) out of 50. Along an axis where log p(x, z) curves upward at the point found, the
    absolute value of the curvature is used.
    """
    vectors = as_vectors(stats, guide, joint)
    fitted = _fitted_at_a_mode(key, stats, vectors.guide, _log_density(vectors.joint), NUM_STEPS)
    return Proposal(fitted, of_structure(STUDENT_T, vectors))


def modes(key: Key, stats: PyTree, guide: Guide, joint: Joint) -> Proposal:
    """Returns a mixture of the Student-t densities of `laplace` at all modes that 16 ascents find.

    Each ascent starts at the best of 50 draws of its own. A mode that several ascents find counts
    once. Its weight is its share of p(x) under the Laplace approximation. A tenth of the total
    weight is shared equally by all modes, so that a mode with a poor approximation is still
    visited. This is for posteriors with several distant modes, where a chain stays at the mode at
    which it starts.
    """
    vectors = as_vectors(stats, guide, joint)
    log_density = _log_density(vectors.joint)
    # Sequentially, because with vmap all ascents would take as many steps as the longest.
    fitted = jax.lax.map(
        lambda key: _fitted_at_a_mode(key, stats, vectors.guide, log_density, NUM_CLIMB_STEPS),
        jax.random.split(key, NUM_CLIMBS),
    )
    heights = jax.vmap(log_density)(fitted["location"])
    # The Laplace approximation of p(x) at each mode, up to a common constant.
    log_dets = jnp.sum(jnp.log(jnp.diagonal(fitted["scale_tril"], axis1=1, axis2=2)), axis=1)
    log_masses = jnp.where(_is_first(fitted, heights), heights + log_dets, -jnp.inf)
    by_mass = jax.nn.log_softmax(log_masses)
    zeros = jnp.zeros_like(log_masses)
    evenly = jax.nn.log_softmax(jnp.where(jnp.isfinite(log_masses), zeros, -jnp.inf))
    log_mixed = jnp.logaddexp(jnp.log1p(-EVEN) + by_mass, jnp.log(EVEN) + evenly)
    params = {
        "log_weights": log_mixed,
        "of_mode": fitted,
        # The parts of each mode's density that do not depend on z.
        "whitening": jax.vmap(_inverse)(fitted["scale_tril"]),
        "log_heights": jax.vmap(lambda one: elliptical.log_prob(one, one["location"]))(fitted),
    }
    return Proposal(params, of_structure(MIXTURE_OF_T, vectors))


def _inverse(tril: Array) -> Array:
    return solve_triangular(tril, jnp.eye(len(tril), dtype=tril.dtype), lower=True)


def _log_density(joint: Joint) -> LogDensity:
    return lambda z: joint.log_prior(z) + joint.log_lik(z)


def _fitted_at_a_mode(
    key: Key, stats: PyTree, guide: Guide, log_density: LogDensity, num_steps: int
) -> Params:
    draws = jax.vmap(lambda key: guide.sample(key, stats))(jax.random.split(key, NUM_STARTS))
    start = draws[jnp.argmax(jax.vmap(log_density)(draws))]
    mode = lbfgs.maximize(log_density, start, num_steps=num_steps)
    hessian = jax.hessian(log_density)(mode)
    curvature, axes = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
    curvature = jnp.abs(curvature)
    curvature = jnp.maximum(curvature, FLATTEST * jnp.maximum(1.0, jnp.max(curvature)))
    covariance = (axes / curvature[None, :]) @ axes.T
    return {
        "location": mode,
        "scale_tril": jnp.linalg.cholesky(covariance),
        "df": jnp.full_like(mode[0], DF),
    }


def _is_first(fitted: Params, heights: Array) -> Array:
    """Checks for each point whether it is the highest one at its mode; returns bool [C].

    The heights are [C]. Points within `SAME` standard deviations of each other are at the same
    mode; of equally high points the first one counts.
    """
    locations = fitted["location"]
    apart = locations[None, :] - locations[:, None]
    whitened = jnp.einsum("cij,cdj->cdi", jax.vmap(_inverse)(fitted["scale_tril"]), apart)
    distances = jnp.sqrt(jnp.mean(jnp.square(whitened), axis=2))
    order = jnp.arange(len(heights))
    before = (heights[:, None] > heights[None, :]) | (
        (heights[:, None] == heights[None, :]) & (order[:, None] < order[None, :])
    )
    return ~jnp.any(before & (distances < SAME), axis=0)


STUDENT_T = Guide(
    sample=lambda key, params: elliptical.sample(key, params),
    log_prob=lambda params, z: elliptical.log_prob(params, z),
)


def _sample_mixture(key: Key, params: PyTree) -> Array:
    which_key, draw_key = jax.random.split(key)
    which = jax.random.categorical(which_key, params["log_weights"])
    return elliptical.sample(draw_key, jax.tree.map(lambda leaf: leaf[which], params["of_mode"]))


def _log_prob_of_mixture(params: PyTree, z: Array) -> Array:
    """Returns the mixture's log-density [] of z [Z], in nats, from precomputed whitening matrices.

    A triangular solve for each mode at each step of a chain would dominate the cost.
    """
    centred = z[None] - params["of_mode"]["location"]
    squares = jnp.sum(jnp.square(jnp.einsum("cij,cj->ci", params["whitening"], centred)), axis=1)
    each = -0.5 * (DF + len(z)) * jnp.log1p(squares / DF)
    return jax.nn.logsumexp(params["log_weights"] + params["log_heights"] + each)


MIXTURE_OF_T = Guide(sample=_sample_mixture, log_prob=_log_prob_of_mixture)

PROPOSALS: dict[str, Callable[[Key, PyTree, Guide, Joint], Proposal]] = {
    "encoder": encoder,
    "laplace": laplace,
    "modes": modes,
}
"""The proposals by name, for `aevb evaluate --proposal`."""

FITTED = ("laplace", "modes")
"""Entries that ascend along gradients, so that z must be real."""
