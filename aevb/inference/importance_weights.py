"""What log importance weights say: the log of their mean, how sure that is, and by what they fail.

Everything is a function of log-weights, in nats, because the weights themselves overflow.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

SMALLEST_EXCESS = 1e-30  # what float32 rounds to 0 would have no place on a logarithmic scale


class Running(NamedTuple):
    """All that is kept of the log-weights seen so far: its size does not grow with their number."""

    log_sum: Array  # [], log Sum_k w_k
    log_sum_sq: Array  # [], log Sum_k w_k^2
    largest: Array  # [R], the largest log-weights in falling order; -inf until there are R


def none_of(num_weights: int) -> Running:
    """Before the first of `num_weights` log-weights, of which the tail will be kept."""
    nothing = jnp.float32(-jnp.inf)
    return Running(nothing, nothing, jnp.full(tail_size(num_weights) + 1, nothing))


def add(running: Running, log_weights: Array) -> Running:
    """With a chunk of log-weights [K] more; -inf, a weight of 0, changes nothing."""
    return Running(
        log_sum=jnp.logaddexp(running.log_sum, jax.nn.logsumexp(log_weights)),
        log_sum_sq=jnp.logaddexp(running.log_sum_sq, jax.nn.logsumexp(2.0 * log_weights)),
        largest=jax.lax.top_k(
            jnp.concatenate([running.largest, log_weights]), len(running.largest)
        )[0],
    )


def of(log_weights: Array) -> Running:
    """All of the log-weights [K] at once."""
    return add(none_of(len(log_weights)), log_weights)


def effective_sample_size(running: Running) -> Array:
    """(Sum_k w_k)^2 / Sum_k w_k^2 -> [], between 1 and K; Kong (1992)."""
    return jnp.exp(2.0 * running.log_sum - running.log_sum_sq)


def log_mean(running: Running, num_weights: int) -> tuple[Array, Array]:
    """log(1/K Sum_k w_k) -> [], and its standard error [], nats, for independent weights.

    By the delta method the error is the mean's relative one, of which K / ESS - 1 is the weights'
    squared coefficient of variation. It means little where their variance is infinite, which
    `pareto_k` above 0.5 gives away.
    """
    ratio = num_weights / effective_sample_size(running)
    # Rounding takes the ratio below 1 where all weights are equal.
    variance = jnp.maximum(ratio - 1.0, 0.0) / (num_weights - 1)
    return running.log_sum - math.log(num_weights), jnp.sqrt(variance)


def tail_size(num_weights: int) -> int:
    """M = min(0.2 K, 3 sqrt(K)), how many of K weights are their tail; Vehtari et al. (2024)."""
    return math.ceil(min(0.2 * num_weights, 3.0 * math.sqrt(num_weights)))


def pareto_k(largest: Array) -> Array:
    """The shape k of the tail that the M + 1 largest log-weights [M + 1] are -> [].

    Vehtari et al. (2024): a generalized Pareto distribution is fitted to what the M largest
    exceed the next one by. Moments of order above 1/k do not exist: beyond 0.7 the mean cannot be
    trusted, beyond 0.5 its standard error cannot. NaN for a tail of fewer than 5 weights; 0 where
    they are all equal, as at the exact posterior.

    Args:
        largest: in falling order.
    """
    num_tail = len(largest) - 1
    if num_tail < 5:
        return jnp.float32(jnp.nan)
    weights = jnp.exp(largest - largest[0])
    excesses = weights[:-1] - weights[-1]
    # A weakly informative prior: as if 10 more excesses had come, with k = 0.5.
    shape = (num_tail * _fit_shape(excesses) + 10 * 0.5) / (num_tail + 10)
    return jnp.where(excesses[0] > 0.0, shape, 0.0)


def _fit_shape(excesses: Array) -> Array:
    """The k of a generalized Pareto distribution of excesses [M], in falling order -> [].

    Zhang & Stephens (2009): with b = -k / sigma the likelihood is maximal in k at the mean of
    log(1 - b y). Over a grid of b, from just below the largest that the data allow, this profile
    likelihood times a prior that the data set the scale of gives weights, and b their mean.
    """
    num = len(excesses)
    y = jnp.maximum(excesses, SMALLEST_EXCESS)
    num_grid = 30 + math.isqrt(num)
    quartile = y[num - max(1, math.floor(num / 4 + 0.5))]  # of the data, from below
    spacing = 1.0 - jnp.sqrt(num_grid / (jnp.arange(num_grid, dtype=y.dtype) + 0.5))
    b = 1.0 / y[0] + spacing / (3.0 * quartile)

    def shape_at(b: Array) -> Array:
        return jnp.mean(jnp.log1p(-b * y))

    shapes = jax.vmap(shape_at)(b)
    log_lik = num * (jnp.log(-b / shapes) - shapes - 1.0)
    return shape_at(jnp.sum(jax.nn.softmax(log_lik) * b))
