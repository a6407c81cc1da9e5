"""Hamiltonian Monte Carlo on a log-density: transitions, adapted chains, and their diagnostics.

The transition, the adaptation and R-hat are from blackjax. Only this file imports blackjax, and
only when it is used, because the import takes most of a second.
"""

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key, LogDensity

FIRST_STEP = 0.5  # step size where adaptation starts, for targets of scales between 0.01 and 1
JITTER = 0.2  # relative range of the random change of the leapfrog step, to either side
DIVERGENCE = 1000.0  # nats; a trajectory whose energy error exceeds it, or is NaN, has diverged
TAIL = 0.05  # probability of each tail in which the tail effective sample size is measured


class Settings(NamedTuple):
    """The settings of HMC transitions, for all algorithms that use them."""

    num_leapfrog: int = 10  # leapfrog steps of a trajectory
    num_warmup: int = 300  # transitions before the first sample that is kept
    target_acceptance: float = 0.8  # 0.65 is best in many dimensions (Neal 2011), higher in few


DEFAULTS = Settings()


class Chains(NamedTuple):
    """The samples of independent chains after their warm-up."""

    samples: Array  # [C, L, Z]
    acceptance: Array  # [], mean acceptance probability, after the warm-up
    step_size: Array  # [], adapted in the warm-up
    num_divergent: Array  # [] int32, trajectories after the warm-up that diverged


def transition(
    key: Key, z: Array, step_size: Array, *, log_density: LogDensity, num_leapfrog: int
) -> tuple[Array, Array, Array]:
    """Makes one HMC transition, which leaves the distribution of `log_density` invariant.

    Returns z [Z], the acceptance probability [] and whether the trajectory diverged, a bool []. A
    trajectory diverges if its energy error exceeds 1000 nats or is NaN; it is rejected. Neal
    (2011), section 3, with unit masses. The leapfrog step of each trajectory is drawn within 20% of
    `step_size`. With a fixed step, a trajectory on a Gaussian target can return to its start, so
    that the chain never mixes. The step does not depend on z, so the transition is still
    reversible.
    """
    step_key, kernel_key = jax.random.split(key)
    jitter = jax.random.uniform(step_key, (), z.dtype, 1.0 - JITTER, 1.0 + JITTER)
    hmc = _blackjax().hmc
    state, info = hmc.build_kernel(divergence_threshold=DIVERGENCE)(
        kernel_key,
        hmc.init(z, log_density),
        log_density,
        step_size * jitter,
        jnp.ones_like(z),
        num_leapfrog,
    )
    return state.position, jnp.asarray(info.acceptance_rate), jnp.asarray(info.is_divergent)


def move(
    key: Key, z: Array, step_size: Array, *, log_density: LogDensity, num_leapfrog: int
) -> tuple[Array, Array, Array]:
    """Applies `transition` to every chain, z [C, Z].

    Returns the new z [C, Z], the mean acceptance probability [] and the number of trajectories that
    diverged, an int32 [].
    """

    def move_one(key: Key, z: Array) -> tuple[Array, Array, Array]:
        return transition(key, z, step_size, log_density=log_density, num_leapfrog=num_leapfrog)

    z, acceptance, diverged = jax.vmap(move_one)(jax.random.split(key, len(z)), z)
    return z, jnp.mean(acceptance), jnp.sum(diverged, dtype=jnp.int32)


def sample(
    key: Key,
    z: Array,
    log_density: LogDensity,
    *,
    num_samples: int,
    settings: Settings = DEFAULTS,
) -> Chains:
    """Draws L samples from each of C chains that start at z [C, Z], after a discarded warm-up.

    During the warm-up, the step size that all chains share is adapted by dual averaging (Hoffman &
    Gelman 2014, section 3.2) toward the target acceptance. It is fixed afterward.
    """
    adapt = _blackjax().adaptation.step_size.dual_averaging_adaptation
    start, update, final = adapt(settings.target_acceptance)
    moved = partial(move, log_density=log_density, num_leapfrog=settings.num_leapfrog)
    warmup_key, sample_key = jax.random.split(key)

    def warm_up(carry, key: Key):
        z, adaptation = carry
        step_size = jnp.exp(adaptation.log_step_size)
        z, acceptance, _ = moved(key, z, step_size)
        return (z, update(adaptation, acceptance)), None

    adaptation = jax.tree.map(lambda leaf: jnp.asarray(leaf, z.dtype), start(FIRST_STEP))
    (z, adaptation), _ = jax.lax.scan(
        warm_up, (z, adaptation), jax.random.split(warmup_key, settings.num_warmup)
    )
    step_size = final(adaptation)

    def draw(z: Array, key: Key):
        z, acceptance, num_divergent = moved(key, z, step_size)
        return z, (z, acceptance, num_divergent)

    _, (samples, acceptance, num_divergent) = jax.lax.scan(
        draw, z, jax.random.split(sample_key, num_samples)
    )
    return Chains(
        jnp.moveaxis(samples, 0, 1),
        jnp.mean(acceptance),
        jnp.asarray(step_size),
        jnp.sum(num_divergent, dtype=jnp.int32),
    )


# Diagnostics of samples [C, L, Z] of any Markov chains


def r_hat(samples: Array) -> Array:
    """Returns the potential scale reduction of each dimension [Z], near 1 if the chains agree.

    Vehtari et al. (2021): the spread of all samples divided by the spread within the halves of the
    chains, after the samples are replaced by normal scores of their ranks. It is the larger of two
    values. The value for the samples is large if the chains differ in location. The value for their
    distances from the median is large if they differ in scale. NaN if a dimension is constant, or L
    is below 4.

    Args:
        samples: [C, L, Z], with C of at least 2.
    """
    rhat = _blackjax().diagnostics.rhat
    return _of_each_dimension(lambda samples: rhat(_even(samples)), samples)


def bulk_effective_sample_size(samples: Array) -> Array:
    """Returns the effective sample size in the bulk of each dimension, [Z].

    Vehtari et al. (2021): the effective sample size for the mean of the normal scores of the ranks.
    Unlike `effective_sample_size`, it exists for targets without a variance.

    Args:
        samples: [C, L, Z], with L of at least 4.
    """

    def of(samples: Array) -> Array:
        halves = _halves(samples)
        ranks = jax.scipy.stats.rankdata(halves, axis=None).reshape(halves.shape)
        return _size(jax.scipy.special.ndtri((ranks - 0.375) / (halves.size + 0.25)))

    return _of_each_dimension(of, samples)


def tail_effective_sample_size(samples: Array) -> Array:
    """Returns the effective sample size in the tails of each dimension, [Z].

    Vehtari et al. (2021): the smaller of the effective sample sizes for P(z <= a), with a the 5% or
    the 95% quantile of all samples.

    Args:
        samples: [C, L, Z], with L of at least 4.
    """

    def of(samples: Array) -> Array:
        def below(probability: float) -> Array:
            is_below = samples <= jnp.quantile(samples, probability)
            return _size(_halves(is_below.astype(samples.dtype)))

        return jnp.minimum(below(TAIL), below(1.0 - TAIL))

    return _of_each_dimension(of, samples)


def effective_sample_size(samples: Array) -> Array:
    """Returns the effective sample size of each dimension, for the mean, [Z].

    Vehtari et al. (2021), section 3.2: C·L divided by the integrated autocorrelation time of the
    halves of the chains, including between-chain variance. NaN if a dimension is constant.

    Args:
        samples: [C, L, Z], with L of at least 4.
    """
    return _of_each_dimension(lambda samples: _size(_halves(samples)), samples)


def _size(chains: Array) -> Array:
    """Returns the effective sample size [] of chains [C, L], as Stan and ArviZ compute it.

    Geyer (1992): the sums of the autocorrelations at lags 2j and 2j + 1 are positive and decrease,
    so they are added until the first that is not positive, each reduced to the one before if it is
    larger. The even lag of that first sum is still added if it is positive.
    """
    num_steps = chains.shape[1]
    means = jnp.mean(chains, axis=1, keepdims=True)
    spectrum = jnp.square(jnp.abs(jnp.fft.rfft(chains - means, n=2 * num_steps, axis=1)))
    covariances = jnp.fft.irfft(spectrum, axis=1)[:, :num_steps] / num_steps
    covariance = jnp.mean(covariances, axis=0)  # [L]
    within = covariance[0] * num_steps / (num_steps - 1)
    correlation = 1.0 - (within - covariance) / (covariance[0] + jnp.var(means, ddof=1))
    correlation = correlation.at[0].set(1.0)
    num_pairs = max(1, (num_steps - 1) // 2)
    even, odd = correlation[: 2 * num_pairs].reshape(num_pairs, 2).T
    sums = even + odd
    is_added = jnp.cumprod(sums > 0.0).at[-1].set(0)
    end = jnp.sum(is_added)
    last = jnp.where((even[end] > 0.0) | (sums[end] >= 0.0), even[end], 0.0)
    time = -1.0 + 2.0 * jnp.sum(is_added * jax.lax.cummin(sums)) + last
    return chains.size / jnp.maximum(time, 1.0 / math.log10(chains.size))


def _even(samples: Array) -> Array:
    """Returns chains [C, L] without their middle sample if L is odd."""
    half = samples.shape[1] // 2
    return jnp.concatenate([samples[:, :half], samples[:, -half:]], axis=1)


def _halves(samples: Array) -> Array:
    """Returns the two halves of each chain of [C, L] as chains, [2 C, L // 2]."""
    return jnp.concatenate(jnp.split(_even(samples), 2, axis=1))


def _of_each_dimension(statistic: Callable[[Array], Array], samples: Array) -> Array:
    """Returns a statistic of chains [C, L] for each dimension of samples [C, L, Z], as [Z]."""
    with jax.numpy_dtype_promotion("standard"):  # blackjax mixes dtypes
        return jax.vmap(statistic, in_axes=2)(samples).astype(samples.dtype)


def _blackjax() -> ModuleType:
    """Imports and returns blackjax, so that programs that never sample do not load it.

    Some of its constants are arrays. If the import happened inside a trace, they would become
    tracers and remain so.
    """
    with jax.ensure_compile_time_eval():
        import blackjax
        import blackjax.adaptation.step_size
        import blackjax.diagnostics
    return blackjax
