"""Hamiltonian Monte Carlo on a log-density: transitions, and chains with step-size adaptation.

The transition and the adaptation are from blackjax. Only this file imports blackjax, and only when
it is used, because the import takes most of a second.
"""

from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key, LogDensity

FIRST_STEP = 0.5  # step size where adaptation starts, for targets of scales between 0.01 and 1
JITTER = 0.2  # relative range of the random change of the leapfrog step, to either side


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


def transition(
    key: Key, z: Array, step_size: Array, *, log_density: LogDensity, num_leapfrog: int
) -> tuple[Array, Array]:
    """Makes one HMC transition, which leaves `log_density` invariant.

    Returns z [Z] and the acceptance probability []. Neal (2011), section 3, with unit masses. The
    leapfrog step of each trajectory is drawn within 20% of `step_size`. With a fixed step, a
    trajectory on a Gaussian target can return to its start, so that the chain never mixes. The step
    does not depend on z, so the transition is still reversible.
    """
    step_key, kernel_key = jax.random.split(key)
    step_size *= jax.random.uniform(step_key, minval=1.0 - JITTER, maxval=1.0 + JITTER)
    hmc = _blackjax().hmc
    state, info = hmc.build_kernel()(
        kernel_key,
        hmc.init(z, log_density),
        log_density,
        step_size,
        jnp.ones_like(z),
        num_leapfrog,
    )
    return state.position, jnp.asarray(info.acceptance_rate)


def move(
    key: Key, z: Array, step_size: Array, *, log_density: LogDensity, num_leapfrog: int
) -> tuple[Array, Array]:
    """Applies `transition` to every chain, z [C, Z].

    Returns the new z [C, Z] and the mean acceptance probability [].
    """

    def move_one(key: Key, z: Array) -> tuple[Array, Array]:
        return transition(key, z, step_size, log_density=log_density, num_leapfrog=num_leapfrog)

    z, acceptance = jax.vmap(move_one)(jax.random.split(key, len(z)), z)
    return z, jnp.mean(acceptance)


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
        z, acceptance = moved(key, z, step_size)
        return (z, update(adaptation, acceptance)), None

    adaptation = jax.tree.map(jnp.float32, start(FIRST_STEP))
    (z, adaptation), _ = jax.lax.scan(
        warm_up, (z, adaptation), jax.random.split(warmup_key, settings.num_warmup)
    )
    step_size = final(adaptation)

    def draw(z: Array, key: Key):
        z, acceptance = moved(key, z, step_size)
        return z, (z, acceptance)

    _, (samples, acceptance) = jax.lax.scan(draw, z, jax.random.split(sample_key, num_samples))
    return Chains(jnp.moveaxis(samples, 0, 1), jnp.mean(acceptance), jnp.asarray(step_size))


def r_hat(chains: Chains) -> Array:
    """Returns the potential scale reduction of each dimension [Z], near 1 if the chains agree.

    Gelman & Rubin (1992): the spread of all samples divided by the spread within the chains.
    """
    reductions = _blackjax().diagnostics.potential_scale_reduction(
        chains.samples, chain_axis=0, sample_axis=1
    )
    return jnp.reshape(reductions, chains.samples.shape[2:])  # for Z = 1 blackjax drops the axis


def effective_sample_size(chains: Chains) -> Array:
    """Returns the effective sample size of C·L dependent samples, for the mean of each dimension.

    The result is [Z]. Vehtari et al. (2021), section 3.2: C·L divided by the integrated
    autocorrelation time, including between-chain variance.
    """
    sizes = _blackjax().diagnostics.effective_sample_size(
        chains.samples, chain_axis=0, sample_axis=1
    )
    return jnp.reshape(sizes, chains.samples.shape[2:])


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
