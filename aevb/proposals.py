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
from jax.scipy.linalg import solve_triangular

from aevb.inference import lbfgs
from aevb.losses import Guide, Joint
from aevb.reparam.family import Params
from aevb.reparam.location_scale import elliptical
from aevb.types import Key, LogDensity, PyTree

DF = 10.0  # degrees of freedom: tails that no posterior with Gaussian ones outgrows
NUM_STARTS = 50  # draws of the guide; the best of them starts the climb
NUM_STEPS = 50  # of L-BFGS
NUM_CLIMBS = 16  # of `modes`, each from the best of as many draws of its own ...
NUM_CLIMB_STEPS = 20  # ... and of so many steps: what has not arrived is no worse a place to start
SAME = 1.0  # standard deviations: modes that are nearer than that are one
EVEN = 0.1  # of the mixture's weight, shared by all its modes alike
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
    fitted = _fitted_at_a_mode(key, stats, guide, _log_density(joint), NUM_STEPS)
    return Proposal(fitted, STUDENT_T)


def modes(key: Key, stats: PyTree, guide: Guide, joint: Joint) -> Proposal:
    """A mixture of the Student-t's of `laplace` at all modes that 16 climbs find.

    Each climb starts at the likeliest of 50 draws of its own. A mode counts once, however many
    climbs end there, and weighs as much as Laplace's approximation gives it of p(x); a tenth of the
    weight is shared by all alike, so that a mode whose approximation is poor is still visited. For
    posteriors with several modes far apart, in which a chain that starts at one of them stays.
    """
    log_density = _log_density(joint)
    # One by one: side by side all would take as many steps as the longest.
    fitted = jax.lax.map(
        lambda key: _fitted_at_a_mode(key, stats, guide, log_density, NUM_CLIMB_STEPS),
        jax.random.split(key, NUM_CLIMBS),
    )
    heights = jax.vmap(log_density)(fitted["location"])
    # Laplace's p(x) of each, up to a constant that all share.
    log_dets = jnp.sum(jnp.log(jnp.diagonal(fitted["scale_tril"], axis1=1, axis2=2)), axis=1)
    log_masses = jnp.where(_is_first(fitted, heights), heights + log_dets, -jnp.inf)
    by_mass = jax.nn.log_softmax(log_masses)
    evenly = jax.nn.log_softmax(jnp.where(jnp.isfinite(log_masses), 0.0, -jnp.inf))
    log_mixed = jnp.logaddexp(jnp.log1p(-EVEN) + by_mass, jnp.log(EVEN) + evenly)
    params = {
        "log_weights": log_mixed,
        "of_mode": fitted,
        # What the density of each takes that does not depend on z.
        "whitening": jax.vmap(_inverse)(fitted["scale_tril"]),
        "log_heights": jax.vmap(lambda one: elliptical.log_prob(one, one["location"]))(fitted),
    }
    return Proposal(params, MIXTURE_OF_T)


def _inverse(tril: Array) -> Array:
    return solve_triangular(tril, jnp.eye(len(tril)), lower=True)


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
    """Whether no higher mode is the same one -> [C], of heights [C]; of equals the first counts."""
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
    """By matrices that whiten: to solve for each mode at each step of a chain would cost most."""
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
