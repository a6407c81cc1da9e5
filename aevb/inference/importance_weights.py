"""Importance-weight statistics: log mean, standard error, effective sample size and Pareto k-hat.

All functions take log-weights in nats, because the weights themselves overflow.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

SMALLEST_EXCESS = 1e-30  # lower limit of excesses, because the logarithm of 0 is not finite


class Running(NamedTuple):
    """Running sums of the weights, and their tail; its size does not grow as weights are added."""

    log_rest: Array  # [], log Sum w_k over the weights that are not among the largest
    log_sum_sq: Array  # [], log Sum_k w_k^2 over all weights
    largest: Array  # [M + 1], the largest log-weights, decreasing; -inf until there are M + 1


def none_of(num_weights: int, dtype: DTypeLike = float) -> Running:
    """Returns the initial `Running` for `num_weights` log-weights, with space for their tail."""
    nothing = jnp.full((), -jnp.inf, dtype)
    return Running(nothing, nothing, jnp.full(tail_size(num_weights) + 1, nothing))


def add(running: Running, log_weights: Array) -> Running:
    """Returns `running` with a chunk of log-weights [K] added.

    A log-weight of -inf, which is a weight of 0, changes nothing.
    """
    candidates = jnp.concatenate([running.largest, log_weights])
    largest, where = jax.lax.top_k(candidates, len(running.largest))
    others = candidates.at[where].set(-jnp.inf)
    return Running(
        log_rest=jnp.logaddexp(running.log_rest, jax.nn.logsumexp(others)),
        log_sum_sq=jnp.logaddexp(running.log_sum_sq, jax.nn.logsumexp(2.0 * log_weights)),
        largest=largest,
    )


def of(log_weights: Array) -> Running:
    """Returns the `Running` of all log-weights [K] at once."""
    return add(none_of(len(log_weights), log_weights.dtype), log_weights)


def log_sum(running: Running) -> Array:
    """Returns log Sum_k w_k []."""
    return jnp.logaddexp(running.log_rest, jax.nn.logsumexp(running.largest))


def effective_sample_size(running: Running) -> Array:
    """Returns (Sum_k w_k)^2 / Sum_k w_k^2 [], between 1 and K; Kong (1992)."""
    return jnp.exp(2.0 * log_sum(running) - running.log_sum_sq)


def log_mean(running: Running, num_weights: int) -> tuple[Array, Array]:
    """Returns log(1/K Sum_k w_k) [] and its standard error [], in nats, for independent weights.

    By the delta method, the standard error of the log is the relative standard error of the mean.
    K / ESS - 1 is the squared coefficient of variation of the weights. The standard error means
    little if the variance of the weights is infinite, which a `pareto_k` above 0.5 indicates.
    """
    ratio = num_weights / effective_sample_size(running)
    # Rounding can make the ratio less than 1 if all weights are equal.
    variance = jnp.maximum(ratio - 1.0, 0.0) / (num_weights - 1)
    return log_sum(running) - math.log(num_weights), jnp.sqrt(variance)


def tail_size(num_weights: int) -> int:
    """Returns the tail size M = min(0.2 K, 3 sqrt(K)) of K weights, rounded up.

    Vehtari et al. (2024).
    """
    return math.ceil(min(0.2 * num_weights, 3.0 * math.sqrt(num_weights)))


def pareto_k_threshold(num_weights: int) -> float:
    """Returns the largest `pareto_k` at which the mean of K weights is reliable.

    Vehtari et al. (2024): min(1 - 1 / log10 K, 0.7). The larger k is, the more weights the mean
    needs; up to the threshold, K are enough. Above 0.7 more weights hardly help.
    """
    return min(1.0 - 1.0 / math.log10(num_weights), 0.7)


def pareto_k(largest: Array) -> Array:
    """Estimates Pareto k-hat [], the shape of the tail, from the M + 1 largest log-weights [M + 1].

    Vehtari et al. (2024): a generalized Pareto distribution is fitted to the amounts by which the M
    largest weights exceed the next one. Moments of order above 1/k do not exist. Above
    `pareto_k_threshold` the mean is not reliable; above 0.5 its standard error is not reliable.
    Returns NaN for a tail of fewer than 5 weights, and 0 if they are all equal, as at the exact
    posterior.

    Args:
        largest: in decreasing order.
    """
    if len(largest) < 6:
        return jnp.full((), jnp.nan, largest.dtype)
    excesses = _excesses(largest)
    return jnp.where(excesses[0] > 0.0, _fit_tail(excesses).shape, 0.0)


def pareto_smoothed_tail(largest: Array) -> Array:
    """Returns smoothed values of the M largest log-weights [M], from the M + 1 largest [M + 1].

    Pareto-smoothed importance sampling (PSIS), Vehtari et al. (2024): the weights of the tail are
    replaced by the quantiles (j - 1/2) / M of the generalized Pareto distribution fitted to them,
    but by at most the largest weight. The mean then varies less, and has a small bias. A tail of
    fewer than 5 weights, or of equal weights, is not changed.

    Args:
        largest: in decreasing order.
    """
    num_tail = len(largest) - 1
    if num_tail < 5:
        return largest[:-1]
    excesses = _excesses(largest)
    tail = _fit_tail(excesses)
    log_above = jnp.log((jnp.arange(num_tail, dtype=largest.dtype) + 0.5) / num_tail)
    quantiles = tail.scale * jnp.expm1(-tail.shape * log_above) / tail.shape
    smoothed = largest[0] + jnp.log(jnp.exp(largest[-1] - largest[0]) + quantiles)
    smoothed = jnp.minimum(smoothed, largest[0])
    return jnp.where(excesses[0] > 0.0, smoothed, largest[:-1])


def pareto_smoothed(log_weights: Array) -> Array:
    """Replaces the tail of log-weights [K] by `pareto_smoothed_tail`; returns all of them [K]."""
    largest, where = jax.lax.top_k(log_weights, tail_size(len(log_weights)) + 1)
    return log_weights.at[where[:-1]].set(pareto_smoothed_tail(largest))


def log_mean_smoothed(running: Running, num_weights: int) -> Array:
    """Returns the log of the mean of the `pareto_smoothed` weights []; it is not a bound."""
    tail = jnp.append(pareto_smoothed_tail(running.largest), running.largest[-1])
    return jnp.logaddexp(running.log_rest, jax.nn.logsumexp(tail)) - math.log(num_weights)


class Tail(NamedTuple):
    """A generalized Pareto distribution of excesses."""

    shape: Array  # [], k
    scale: Array  # [], sigma


def _excesses(largest: Array) -> Array:
    """Returns the amounts [M] by which the largest weights exceed the last one, decreasing.

    They are in units of the largest weight.
    """
    weights = jnp.exp(largest - largest[0])
    return weights[:-1] - weights[-1]


def _fit_tail(excesses: Array) -> Tail:
    """Fits a generalized Pareto distribution to excesses [M], decreasing.

    Zhang & Stephens (2009): for b = -k / sigma and excesses y, the likelihood is maximal in k at
    the mean of log(1 - b y). The grid of b for this profile likelihood lies below its upper limit,
    1 / max(y). The spacing of the grid follows a prior whose scale is estimated from the data. The
    profile likelihood weights the grid, b is estimated by its weighted mean, and k and sigma follow
    from b. A weakly informative prior, equivalent to 10 more excesses with k = 0.5, then moves k
    toward 0.5; Vehtari et al. (2024).
    """
    num = len(excesses)
    y = jnp.maximum(excesses, SMALLEST_EXCESS)
    num_grid = 30 + math.isqrt(num)
    quartile = y[num - max(1, math.floor(num / 4 + 0.5))]  # lower quartile of the excesses
    spacing = 1.0 - jnp.sqrt(num_grid / (jnp.arange(num_grid, dtype=y.dtype) + 0.5))
    b = 1.0 / y[0] + spacing / (3.0 * quartile)

    def shape_at(b: Array) -> Array:
        return jnp.mean(jnp.log1p(-b * y))

    shapes = jax.vmap(shape_at)(b)
    log_lik = num * (jnp.log(-b / shapes) - shapes - 1.0)
    best = jnp.sum(jax.nn.softmax(log_lik) * b)
    shape = shape_at(best)
    return Tail((num * shape + 10 * 0.5) / (num + 10), -shape / best)
