"""Importance-weight statistics: log mean, standard error, effective sample size and Pareto k-hat.

All functions take log-weights in nats, because the weights themselves overflow.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

SMALLEST_EXCESS = 1e-30  # lower limit of excesses, because the logarithm of 0 is not finite


class Running(NamedTuple):
    """Sums and tail of the log-weights so far; the size does not depend on how many there are."""

    log_sum: Array  # [], log Sum_k w_k
    log_sum_sq: Array  # [], log Sum_k w_k^2
    largest: Array  # [R], the largest log-weights, decreasing; -inf until there are R


def none_of(num_weights: int) -> Running:
    """Returns the initial `Running` for `num_weights` log-weights, with space for their tail."""
    nothing = jnp.float32(-jnp.inf)
    return Running(nothing, nothing, jnp.full(tail_size(num_weights) + 1, nothing))


def add(running: Running, log_weights: Array) -> Running:
    """Returns `running` with a chunk of log-weights [K] added.

    A log-weight of -inf, which is a weight of 0, changes nothing.
    """
    return Running(
        log_sum=jnp.logaddexp(running.log_sum, jax.nn.logsumexp(log_weights)),
        log_sum_sq=jnp.logaddexp(running.log_sum_sq, jax.nn.logsumexp(2.0 * log_weights)),
        largest=jax.lax.top_k(
            jnp.concatenate([running.largest, log_weights]), len(running.largest)
        )[0],
    )


def of(log_weights: Array) -> Running:
    """Returns the `Running` of all log-weights [K] at once."""
    return add(none_of(len(log_weights)), log_weights)


def effective_sample_size(running: Running) -> Array:
    """Returns (Sum_k w_k)^2 / Sum_k w_k^2 [], between 1 and K; Kong (1992)."""
    return jnp.exp(2.0 * running.log_sum - running.log_sum_sq)


def log_mean(running: Running, num_weights: int) -> tuple[Array, Array]:
    """Returns log(1/K Sum_k w_k) [] and its standard error [], in nats, for independent weights.

    By the delta method, the standard error of the log is the relative standard error of the mean.
    K / ESS - 1 is the squared coefficient of variation of the weights. The standard error means
    little if the variance of the weights is infinite, which a `pareto_k` above 0.5 indicates.
    """
    ratio = num_weights / effective_sample_size(running)
    # Rounding can make the ratio less than 1 if all weights are equal.
    variance = jnp.maximum(ratio - 1.0, 0.0) / (num_weights - 1)
    return running.log_sum - math.log(num_weights), jnp.sqrt(variance)


def tail_size(num_weights: int) -> int:
    """Returns the tail size M = min(0.2 K, 3 sqrt(K)) of K weights, rounded up.

    Vehtari et al. (2024).
    """
    return math.ceil(min(0.2 * num_weights, 3.0 * math.sqrt(num_weights)))


def pareto_k(largest: Array) -> Array:
    """Estimates Pareto k-hat [], the shape of the tail, from the M + 1 largest log-weights [M + 1].

    Vehtari et al. (2024): a generalized Pareto distribution is fitted to the amounts by which the M
    largest weights exceed the next one. Moments of order above 1/k do not exist. Above 0.7 the mean
    is not reliable; above 0.5 its standard error is not reliable. Returns NaN for a tail of fewer
    than 5 weights, and 0 if they are all equal, as at the exact posterior.

    Args:
        largest: in decreasing order.
    """
    num_tail = len(largest) - 1
    if num_tail < 5:
        return jnp.float32(jnp.nan)
    weights = jnp.exp(largest - largest[0])
    excesses = weights[:-1] - weights[-1]
    # A weakly informative prior, equivalent to 10 more excesses with k = 0.5.
    shape = (num_tail * _fit_shape(excesses) + 10 * 0.5) / (num_tail + 10)
    return jnp.where(excesses[0] > 0.0, shape, 0.0)


def _fit_shape(excesses: Array) -> Array:
    """Estimates the shape k [] of a generalized Pareto distribution from excesses [M], decreasing.

    Zhang & Stephens (2009): for b = -k / sigma and excesses y, the likelihood is maximal in k at
    the mean of log(1 - b y). The grid of b for this profile likelihood starts just below the
    largest b that the data allow. The spacing of the grid follows a prior whose scale is estimated
    from the data. The profile likelihood weights the grid, b is estimated by its weighted mean, and
    k follows from b.
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
    return shape_at(jnp.sum(jax.nn.softmax(log_lik) * b))
