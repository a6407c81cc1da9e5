"""Hamiltonian Monte Carlo on a log-density: transitions, and chains that adapt their step.

The transition and the adaptation are blackjax's, which this file alone imports, and only where it
is used: that costs most of a second.
"""

from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key, LogDensity

FIRST_STEP = 0.5  # adaptation starts here, for targets of scales between 0.01 and 1
JITTER = 0.2


class Settings(NamedTuple):
    """How transitions are made, in any of the algorithms that make them."""

    num_leapfrog: int = 10  # steps of a trajectory
    num_warmup: int = 300  # transitions before the first that counts
    target_acceptance: float = 0.8  # 0.65 is best in many dimensions (Neal 2011), more in few


DEFAULTS = Settings()


class Chains(NamedTuple):
    """What independent chains have drawn after their warm-up."""

    samples: Array  # [C, L, Z]
    acceptance: Array  # [], mean acceptance probability, after the warm-up
    step_size: Array  # [], adapted in the warm-up


def transition(
    key: Key, z: Array, step_size: Array, *, log_density: LogDensity, num_leapfrog: int
) -> tuple[Array, Array]:
    """One HMC transition that leaves `log_density` invariant -> z [Z], acceptance probability [].

    Neal (2011), section 3, with unit masses. Each trajectory's step is within a fifth of
    `step_size`, at random: one of fixed length can come full circle on a Gaussian target and
    never mix. The step does not depend on z, so the transition is reversible all the same.
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
    """`transition` of every chain, z [C, Z] -> z [C, Z], their mean acceptance probability []."""

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
    """L samples of each of C chains that start at z [C, Z], after a warm-up that is dropped.

    In the warm-up the step size, which the chains share, is adapted by dual averaging (Hoffman &
    Gelman 2014, section 3.2) toward the target acceptance; then it is frozen.
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
    """Potential scale reduction of each dimension -> [Z], near 1 where the chains agree.

    Gelman & Rubin (1992): the spread of all samples over that within the chains.
    """
    reductions = _blackjax().diagnostics.potential_scale_reduction(
        chains.samples, chain_axis=0, sample_axis=1
    )
    return jnp.reshape(reductions, chains.samples.shape[2:])  # Z = 1 has lost its axis


def effective_sample_size(chains: Chains) -> Array:
    """How many independent samples say as much about the mean -> [Z], of C L dependent ones.

    Vehtari et al. (2021), section 3.2: C L over the sum of the autocorrelations, which that
    between the chains goes into.
    """
    sizes = _blackjax().diagnostics.effective_sample_size(
        chains.samples, chain_axis=0, sample_axis=1
    )
    return jnp.reshape(sizes, chains.samples.shape[2:])


def _blackjax() -> ModuleType:
    """The library, which those who never sample do not load.

    It has constants that are arrays. In the middle of a trace they would become tracers, and stay.
    """
    with jax.ensure_compile_time_eval():
        import blackjax
        import blackjax.adaptation.step_size
        import blackjax.diagnostics
    return blackjax
