"""Diagnostics of a trained model: inference gaps, gradient moments and active latents."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from aevb.discrete import Bernoulli, Categorical
from aevb.distributions import DiagNormal, FullNormal
from aevb.inference import lbfgs
from aevb.learned_baseline import WithBaseline
from aevb.losses import Guide, Joint, log_weights, sample_and_log_prob, sgvb_a
from aevb.types import Key, LogDensity, PyTree

ACTIVE = 0.01  # variance of the posterior mean above which a unit is active; Burda et al. (2015)


class Gaps(NamedTuple):
    """The two parts of log p(x) - ELBO at one datapoint, with their standard errors."""

    approximation: Array  # [], nats: log p(x) - ELBO of the best q of the guide's family
    approximation_standard_error: Array  # [], nats; excludes the error of log p(x)
    amortization: Array  # [], nats: ELBO of the best q - ELBO of the encoder's q
    amortization_standard_error: Array  # [], nats
    best_stats: PyTree  # statistics of the best q found


def inference_gaps(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    log_prob: Array,
    *,
    num_samples: int = 1000,
    num_fit_samples: int = 500,
    num_steps: int = 30,
) -> Gaps:
    """Splits log p(x) - ELBO(q) into (log p(x) - ELBO(q*)) + (ELBO(q*) - ELBO(q)).

    q* is the best member of the guide's family. Cremer et al. (2018): the first part is the
    approximation gap, the cost of the family; the second is the amortization gap, the cost of using
    one encoder for all x. L-BFGS finds q*, starting at the encoder's q. With fixed noise the bound
    is a smooth function of the statistics, so L-BFGS maximizes it in tens of steps without a step
    size to tune. q* is then scored with fresh noise, so that overfitting the noise does not raise
    its score. The overfitting lowers the score of q* by about 1 / `num_fit_samples` nats per latent
    dimension, and this loss counts as approximation gap. The scores of q and q* share their noise,
    so their difference has less variance than each score.

    Args:
        stats: statistics of the encoder's q(z|x); any pytree of floats that may take any real
            value.
        log_prob: log p(x) [], nats, exact or an estimate of `aevb.marginal`.
        num_samples: L of the scores.
        num_fit_samples: L of the bound that is maximized.
        num_steps: steps of L-BFGS.

    Raises:
        ValueError: a number of samples is below 2, or num_steps below 1; or samples of the guide
            carry no gradient.
    """
    _require_gradient(guide)
    for name, value, least in (
        ("num_samples", num_samples, 2),
        ("num_fit_samples", num_fit_samples, 2),
        ("num_steps", num_steps, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    fit_key, score_key = jax.random.split(key)
    best_stats = _best_stats(fit_key, stats, guide, joint, num_fit_samples, num_steps)

    def terms(stats: PyTree) -> Array:
        return log_weights(score_key, stats, guide, joint, num_samples=num_samples)

    best = terms(best_stats)
    approximation, amortization = log_prob - best, best - terms(stats)
    return Gaps(
        jnp.mean(approximation),
        jnp.std(approximation, ddof=1) / math.sqrt(num_samples),
        jnp.mean(amortization),
        jnp.std(amortization, ddof=1) / math.sqrt(num_samples),
        best_stats,
    )


def _require_gradient(guide: Guide) -> None:
    if not guide.is_reparameterized:
        raise ValueError(
            f"the guide is of {guide.support}, whose samples carry no gradient; the best q of its "
            "family is found along one"
        )


def _best_stats(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, num_samples: int, num_steps: int
) -> PyTree:
    """Returns the statistics that maximize `sgvb_a` with this key's noise, starting at `stats`."""

    def bound(stats: PyTree) -> Array:
        return sgvb_a(key, stats, guide, joint, num_samples=num_samples)

    return lbfgs.maximize(bound, stats, num_steps=num_steps)


class Moments(NamedTuple):
    """Moments of independent draws of a pytree; each field has the structure of a draw."""

    mean: PyTree
    variance: PyTree  # unbiased, entry by entry
    standard_error: PyTree  # of the mean


def gradient_moments(key: Key, grad_fn: Callable[[Key], PyTree], num_draws: int) -> Moments:
    """Estimates the mean and variance of `grad_fn(key)` over independent keys, entry by entry.

    Welford's (1962) recurrence holds one draw at a time, so the memory does not depend on
    num_draws. It does not lose digits by cancellation if the variance is small relative to the
    mean.

    Raises:
        ValueError: num_draws is below 2.
    """
    if num_draws < 2:
        raise ValueError(f"num_draws is {num_draws}; a variance needs at least 2")

    def add(number: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        mean, squares = carry
        draw = grad_fn(jax.random.fold_in(key, number))
        new_mean = jax.tree.map(lambda m, x: m + (x - m) / (number + 1).astype(x.dtype), mean, draw)
        squares = jax.tree.map(
            lambda s, x, m, n: s + (x - m) * (x - n), squares, draw, mean, new_mean
        )
        return new_mean, squares

    shapes = jax.eval_shape(grad_fn, key)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    mean, squares = jax.lax.fori_loop(0, num_draws, add, (zeros, zeros))
    variance = jax.tree.map(lambda s: s / (num_draws - 1), squares)
    return Moments(mean, variance, jax.tree.map(lambda v: jnp.sqrt(v / num_draws), variance))


def gradient_bias(moments: Moments, reference: Moments) -> tuple[PyTree, PyTree]:
    """Returns the estimate of E[gradient] - E[reference] and its standard error, entry by entry.

    The two must have independent draws. For an exact reference, give a standard error of 0.
    """
    return (
        jax.tree.map(jnp.subtract, moments.mean, reference.mean),
        jax.tree.map(jnp.hypot, moments.standard_error, reference.standard_error),
    )


class Marginals(NamedTuple):
    """The moments of each latent under q(z|x)."""

    mean: Array  # [Z]
    log_var: Array  # [Z]
    error: Array  # [Z], the variance of `mean` as an estimate; 0 if it is exact


def marginals(key: Key, stats: PyTree, guide: Guide, *, num_draws: int = 64) -> Marginals:
    """Returns the moments of each latent under q(z|x), of all leaves of z joined.

    They are exact for Gaussian and for discrete guides, and estimated from `num_draws` samples for
    every other.
    """
    if isinstance(stats, WithBaseline):
        stats = stats.stats
    if isinstance(stats, Bernoulli | Categorical):
        mean = stats.mean()
        return Marginals(mean, stats.log_var(), jnp.zeros_like(mean))
    if isinstance(stats, DiagNormal):
        return Marginals(stats.mean, stats.log_var, jnp.zeros_like(stats.mean))
    if isinstance(stats, FullNormal):
        var = jnp.sum(jnp.square(stats.factor()), axis=1)
        return Marginals(stats.mean, jnp.log(var), jnp.zeros_like(var))
    keys = jax.random.split(key, num_draws)
    draws = jax.vmap(lambda key: ravel_pytree(guide.sample(key, stats))[0])(keys)
    var = jnp.var(draws, axis=0, ddof=1)
    return Marginals(
        jnp.mean(draws, axis=0), jnp.log(var + jnp.finfo(var.dtype).tiny), var / num_draws
    )


def posterior_marginals(
    key: Key, stats: PyTree, guide: Guide, *, num_draws: int = 64
) -> tuple[Array, Array]:
    """Returns the mean of q(z|x) and the KL of each latent's marginal from N(0, 1), both [Z].

    The KL is in nats and takes the `marginals` as Gaussian.
    """
    mean, log_var, _ = marginals(key, stats, guide, num_draws=num_draws)
    return mean, DiagNormal(mean, log_var).kl_per_unit_to_standard_normal()


class Aggregate(NamedTuple):
    """The terms of two estimates, one for each datapoint, [n], in nats; their means estimate."""

    mutual_information: Array  # I(x; z), log q(z_i|x_i) - log q(z_i)
    kl: Array  # KL(q(z) || p(z)), log q(z_i) - log p(z_i)


def aggregate_posterior(
    key: Key,
    stats: PyTree,
    guide: Guide,
    log_prior: LogDensity,
    *,
    num_data: float | Array,
) -> Aggregate:
    """Estimates I(x; z) and KL(q(z) || p(z)) of the aggregate posterior q(z) = 1/N Sum q(z|x_n).

    The two add up to the mean rate KL(q(z|x) || p(z)) (Hoffman & Johnson 2016). Each of n
    datapoints has one z_i ~ q(z|x_i), and q(z_i) is estimated by 1/N q(z_i|x_i) + (1 - 1/N) times
    the mean of q(z_i|x_j) over the other j: the stratified sampling of Chen et al. (2018). This is
    unbiased, so that its log is too low on average. I(x; z) is therefore overestimated, most where
    few of the datapoints are near z_i; it cannot exceed log N. The KL is underestimated by as much.

    Args:
        stats: statistics of q(z|x_i), every leaf [n, ...], for n of the datapoints.
        log_prior: z [Z] -> log p(z) [], nats.
        num_data: N, at least n; infinite for the distribution that the datapoints are drawn from.

    Raises:
        ValueError: there are fewer than 2 datapoints.
    """
    number = len(jax.tree.leaves(stats)[0])
    if number < 2:
        raise ValueError(f"there are {number} datapoints; an aggregate posterior needs at least 2")
    keys = jax.random.split(key, number)
    z, own = jax.vmap(lambda key, each: sample_and_log_prob(key, each, guide))(keys, stats)
    # log q(z_i|x_j) [n, n]; the inner map is over i, so that what depends on j is computed once.
    pairs = jax.vmap(lambda each: jax.vmap(lambda z: guide.log_prob(each, z))(z))(stats).T
    others = jnp.where(jnp.eye(number, dtype=bool), -jnp.inf, pairs)
    log_others = jax.nn.logsumexp(others, axis=1) - math.log(number - 1) + jnp.log1p(-1 / num_data)
    log_q = jnp.logaddexp(own - jnp.log(num_data), log_others)
    return Aggregate(own - log_q, log_q - jax.vmap(log_prior)(z))


def unit_activity(means: Array) -> Array:
    """Returns Var_x(E[z_j|x]) [Z] over posterior means [N, Z]; Burda et al. (2015), section 5.2."""
    return jnp.var(means, axis=0)


def active_units(means: Array) -> Array:
    """Checks which latents are active, from posterior means [N, Z]; returns bool [Z].

    A latent is active if its `unit_activity` is more than `ACTIVE`.
    """
    return unit_activity(means) > ACTIVE
