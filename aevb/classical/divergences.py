"""KL(q || p) computed in three ways, and the effect of its direction on a target with two modes.

The distributions have their KL in closed form (`families.Normal.kl` and others). This file adds a
sum over a grid, and means over samples with their standard errors. The KL is not a distance: it is
not symmetric, and `triangle_counterexample` finds violations of the triangle inequality.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical.families import Normal
from aevb.distributions import LOG_2PI
from aevb.inference import lbfgs
from aevb.types import Key, LogDensity

REACH = 10.0  # quadrature covers this many standard deviations of q on either side
NUM_NODES = 1001


def kl_on_grid(log_q: Array, log_p: Array, log_measure: float | Array = 0.0) -> Array:
    """Returns KL(q || p) = Sum q (log q - log p) [] over states or grid cells, in nats.

    A state with q = 0 adds nothing, because 0 log 0 = 0. The KL is infinite if q > 0 where p = 0.

    Args:
        log_q: log-densities of q [...], -inf where q is 0.
        log_p: log-densities of p [...], -inf where p is 0.
        log_measure: the log-volume of each cell, [] or [...]; 0 for discrete states.
    """
    log_mass = log_q + log_measure
    held = log_mass > -jnp.inf
    # -inf is replaced before the difference, since `where` on the difference has a NaN gradient.
    difference = jnp.where(held, log_q, 0.0) - jnp.where(held, log_p, 0.0)
    return jnp.sum(jnp.exp(log_mass) * difference)


class Estimate(NamedTuple):
    """A mean over samples, with its standard error."""

    value: Array  # [], nats
    standard_error: Array  # []


def kl_monte_carlo(
    key: Key,
    sample: Callable[[Key], Array],
    log_q: LogDensity,
    log_p: LogDensity,
    *,
    num_samples: int,
) -> Estimate:
    """Estimates KL(q || p) as the mean of -log r, r = p(z) / q(z), over z ~ q; in nats.

    The estimator is unbiased. A single term, and the whole estimate, may be negative.

    Raises:
        ValueError: num_samples is below 2.
    """
    return _mean(-_log_ratios(key, sample, log_q, log_p, num_samples))


def kl_monte_carlo_controlled(
    key: Key,
    sample: Callable[[Key], Array],
    log_q: LogDensity,
    log_p: LogDensity,
    *,
    num_samples: int,
) -> Estimate:
    """Estimates KL(q || p) as the mean of r - 1 - log r, r = p(z) / q(z), over z ~ q; in nats.

    The control variate r - 1 has mean 0 if both densities are normalized and q > 0 wherever p > 0.
    The estimator is then unbiased too. No term is negative. The variance is far smaller near q = p,
    and may be infinite where q has lighter tails than p. Schulman (2020).

    Raises:
        ValueError: num_samples is below 2.
    """
    log_r = _log_ratios(key, sample, log_q, log_p, num_samples)
    return _mean(jnp.expm1(log_r) - log_r)


def _log_ratios(
    key: Key, sample: Callable[[Key], Array], log_q: LogDensity, log_p: LogDensity, num_samples: int
) -> Array:
    """Returns log p(z) - log q(z) [L] at samples z ~ q."""
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}; it must be at least 2, to have an error")

    def log_ratio(key: Key) -> Array:
        z = sample(key)
        return log_p(z) - log_q(z)

    return jax.vmap(log_ratio)(jax.random.split(key, num_samples))


def _mean(terms: Array) -> Estimate:
    return Estimate(jnp.mean(terms), jnp.std(terms, ddof=1) / len(terms) ** 0.5)


# The two directions on a target with several modes


class Mixture(NamedTuple):
    """The mixture of normals Sum_k weight_k N(z; mean_k, std_k^2), z a scalar."""

    weight: Array  # [K], sums to 1
    mean: Array  # [K]
    std: Array  # [K]

    def log_prob(self, z: Array) -> Array:
        """Returns the log-density [] of z [], in nats."""
        standardized = (z - self.mean) / self.std
        log_normal = -0.5 * (LOG_2PI + jnp.square(standardized)) - jnp.log(self.std)
        return jax.nn.logsumexp(jnp.log(self.weight) + log_normal)

    def moments(self) -> tuple[Array, Array]:
        """Returns the mean [] and the variance [], which includes that of the components' means."""
        mean = jnp.sum(self.weight * self.mean)
        squares = jnp.square(self.std) + jnp.square(self.mean - mean)
        return mean, jnp.sum(self.weight * squares)


class Fit(NamedTuple):
    """The normal fitted to a target; with several starts, arrays have one entry for each."""

    mean: Array  # []
    std: Array  # []
    kl: Array  # [], nats, in the direction that was minimized


def fit_forward(target: Mixture) -> Fit:
    """Fits the normal with the least KL(target || q), which has the target's mean and variance.

    Bishop (2006), section 10.7. It covers all the target's mass, and its peak may lie where the
    target has almost none.
    """
    mean, variance = target.moments()
    std = jnp.sqrt(variance)
    away = REACH * jnp.max(target.std)
    low, high = jnp.min(target.mean) - away, jnp.max(target.mean) + away
    # More nodes than for a single normal resolve narrow components between distant modes.
    number = 8 * NUM_NODES
    z = jnp.linspace(low, high, number)
    log_p = jax.vmap(target.log_prob)(z)
    log_q = -0.5 * (LOG_2PI + jnp.square((z - mean) / std)) - jnp.log(std)
    return Fit(mean, std, kl_on_grid(log_p, log_q, jnp.log((high - low) / (number - 1))))


def reverse_kl(target: Mixture, mean: Array, std: Array) -> Array:
    """Returns KL(N(mean, std^2) || target) [] by quadrature, in nats."""
    nodes = jnp.linspace(-REACH, REACH, NUM_NODES, dtype=mean.dtype)
    log_q = -0.5 * (LOG_2PI + jnp.square(nodes)) - jnp.log(std)
    log_p = jax.vmap(target.log_prob)(mean + std * nodes)
    return kl_on_grid(log_q, log_p, jnp.log(std * (2.0 * REACH / (NUM_NODES - 1))))


def fit_reverse(target: Mixture, starts: Array, *, num_steps: int = 50) -> Fit:
    """Fits normals at local minima of KL(q || target), one from each start [S] of the mean.

    This direction avoids regions that the target excludes. If the modes are far apart, each fit
    settles on one of them, and its KL includes -log of that mode's weight. Every fit starts at the
    smallest std of the target's components.
    """

    def climb(start: Array) -> Fit:
        def bound(point: dict[str, Array]) -> Array:
            return -reverse_kl(target, point["mean"], jnp.exp(point["log_std"]))

        first = {"mean": start, "log_std": jnp.log(jnp.min(target.std))}
        point = lbfgs.maximize(bound, first, num_steps=num_steps)
        return Fit(point["mean"], jnp.exp(point["log_std"]), -bound(point))

    return jax.vmap(climb)(starts)


# The KL is not a distance


class Counterexample(NamedTuple):
    """Three one-dimensional normals with KL(a || c) > KL(a || b) + KL(b || c)."""

    a: Normal
    b: Normal
    c: Normal
    violation: Array  # [], nats: the left side minus the right side


def triangle_counterexample(key: Key, *, num_tried: int = 1000) -> Counterexample:
    """Returns, of `num_tried` random triples, the one that violates the triangle inequality most.

    The violation is positive if any of the triples violates it.
    """
    mean_key, log_key = jax.random.split(key)
    means = jax.random.normal(mean_key, (num_tried, 3, 1))
    variances = jnp.exp(jax.random.normal(log_key, (num_tried, 3, 1, 1)))

    def violation(mean: Array, variance: Array) -> Array:
        a, b, c = (Normal(mean[i], variance[i]) for i in range(3))
        return a.kl(c) - a.kl(b) - b.kl(c)

    violations = jax.vmap(violation)(means, variances)
    best = jnp.argmax(violations)
    a, b, c = (Normal(means[best, i], variances[best, i]) for i in range(3))
    return Counterexample(a, b, c, violations[best])
