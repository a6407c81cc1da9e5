"""KL(q || p) in three ways, and what its two directions make of a target with two modes.

The families have it in closed form (`families.Normal.kl` and the like). Here are a sum over a grid,
and means over samples with their standard errors. KL is no distance: it is not symmetric, and
`triangle_counterexample` finds a detour that is shorter than the direct way.
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

REACH = 10.0  # standard deviations of q on either side that quadrature looks at
NUM_NODES = 1001


def kl_on_grid(log_q: Array, log_p: Array, log_measure: float | Array = 0.0) -> Array:
    """KL(q || p) = Sum q (log q - log p) over states, or over cells of a grid -> [], nats.

    A state that q excludes adds nothing, 0 log 0 being 0. Where q is positive and p is 0 the KL is
    infinite.

    Args:
        log_q: log-densities [...], -inf where q is 0.
        log_p: the same of p.
        log_measure: the logarithm of each cell's volume, [] or [...]; 0 of states that are counted.
    """
    log_mass = log_q + log_measure
    held = log_mass > -jnp.inf
    # -inf is replaced before the difference: in a branch not taken its gradient would be NaN.
    difference = jnp.where(held, log_q, 0.0) - jnp.where(held, log_p, 0.0)
    return jnp.sum(jnp.exp(log_mass) * difference)


class Estimate(NamedTuple):
    """A mean over samples."""

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
    """KL(q || p) as the mean of -log r, r = p(z) / q(z), over z ~ q; nats.

    Unbiased. A term, and the whole estimate, may be negative.

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
    """KL(q || p) as the mean of r - 1 - log r, r = p(z) / q(z), over z ~ q; nats.

    The control variate r - 1 has mean 0 where both are normalized and q excludes nothing of p, so
    this is unbiased too. No term is negative. It has far less variance near q = p and can have
    infinite variance where the tails of q are lighter than those of p. Schulman (2020).

    Raises:
        ValueError: num_samples is below 2.
    """
    log_r = _log_ratios(key, sample, log_q, log_p, num_samples)
    return _mean(jnp.expm1(log_r) - log_r)


def _log_ratios(
    key: Key, sample: Callable[[Key], Array], log_q: LogDensity, log_p: LogDensity, num_samples: int
) -> Array:
    """log p(z) - log q(z) at samples of q -> [L]."""
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}; it must be at least 2, to have an error")

    def log_ratio(key: Key) -> Array:
        z = sample(key)
        return log_p(z) - log_q(z)

    return jax.vmap(log_ratio)(jax.random.split(key, num_samples))


def _mean(terms: Array) -> Estimate:
    return Estimate(jnp.mean(terms), jnp.std(terms, ddof=1) / len(terms) ** 0.5)


# Two directions on a target of several modes


class Mixture(NamedTuple):
    """Sum_k weight_k N(z; mean_k, std_k^2), z a scalar."""

    weight: Array  # [K], of sum 1
    mean: Array  # [K]
    std: Array  # [K]

    def log_prob(self, z: Array) -> Array:
        """The log-density of z [] -> [], nats."""
        standardized = (z - self.mean) / self.std
        log_normal = -0.5 * (LOG_2PI + jnp.square(standardized)) - jnp.log(self.std)
        return jax.nn.logsumexp(jnp.log(self.weight) + log_normal)

    def moments(self) -> tuple[Array, Array]:
        """Mean [] and variance []: that within the components, and that of their means."""
        mean = jnp.sum(self.weight * self.mean)
        squares = jnp.square(self.std) + jnp.square(self.mean - mean)
        return mean, jnp.sum(self.weight * squares)


class Fit(NamedTuple):
    """A normal in place of a target, one for each start where there are several."""

    mean: Array  # []
    std: Array  # []
    kl: Array  # [], nats: in the direction that was minimized


def fit_forward(target: Mixture) -> Fit:
    """The normal of the least KL(target || q): that with its mean and variance.

    Bishop (2006), section 10.7. It covers all the mass, and may be highest where the target has
    next to none.
    """
    mean, variance = target.moments()
    std = jnp.sqrt(variance)
    away = REACH * jnp.max(target.std)
    low, high = jnp.min(target.mean) - away, jnp.max(target.mean) + away
    # As fine beside the narrowest component as it is for a single one, up to far-off modes.
    z = jnp.linspace(low, high, 8 * NUM_NODES)
    log_p = jax.vmap(target.log_prob)(z)
    log_q = -0.5 * (LOG_2PI + jnp.square((z - mean) / std)) - jnp.log(std)
    return Fit(mean, std, kl_on_grid(log_p, log_q, jnp.log(z[1] - z[0])))


def reverse_kl(target: Mixture, mean: Array, std: Array) -> Array:
    """KL(N(mean, std^2) || target) by quadrature -> [], nats."""
    nodes = jnp.linspace(-REACH, REACH, NUM_NODES, dtype=mean.dtype)
    log_q = -0.5 * (LOG_2PI + jnp.square(nodes)) - jnp.log(std)
    log_p = jax.vmap(target.log_prob)(mean + std * nodes)
    return kl_on_grid(log_q, log_p, jnp.log(std * (nodes[1] - nodes[0])))


def fit_reverse(target: Mixture, starts: Array, *, num_steps: int = 50) -> Fit:
    """Normals at local minima of KL(q || target), one from each start [S] of the mean.

    It avoids what the target excludes, so that with far modes each settles on one of them, and
    pays -log of that mode's weight. Each begins with the least std of the target's components.
    """

    def climb(start: Array) -> Fit:
        def bound(point: dict[str, Array]) -> Array:
            return -reverse_kl(target, point["mean"], jnp.exp(point["log_std"]))

        first = {"mean": start, "log_std": jnp.log(jnp.min(target.std))}
        point = lbfgs.maximize(bound, first, num_steps=num_steps)
        return Fit(point["mean"], jnp.exp(point["log_std"]), -bound(point))

    return jax.vmap(climb)(starts)


# No distance


class Counterexample(NamedTuple):
    """Three normals of one dimension with KL(a || c) > KL(a || b) + KL(b || c)."""

    a: Normal
    b: Normal
    c: Normal
    violation: Array  # [], nats: the left side less the right


def triangle_counterexample(key: Key, *, num_tried: int = 1000) -> Counterexample:
    """The three of `num_tried` random triples of normals that break the triangle inequality most.

    The violation is above 0 where one was found.
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
