"""Monte Carlo EM: the paper's baseline without an encoder, appendix E."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.algorithms import gradient_ascent
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.algorithms.gradient_ascent import Objective, over_datapoints
from aevb.inference import hmc
from aevb.types import Key, PyTree
from aevb.vae import VAE

FIRST_STEP = 0.1  # leapfrog step size before it is tuned
GAIN = 0.05  # change of the log step size per unit of acceptance error


class Chains(NamedTuple):
    """One Markov chain per datapoint, kept for the whole training."""

    z: Array  # [N, Z]
    log_step_size: Array  # [], shared by all chains


def make(
    vae: VAE,
    optimizer: optax.GradientTransformation,
    *,
    num_data: int,
    num_leapfrog: int = 10,
    target_acceptance: float = 0.9,
    num_updates: int = 5,
    accumulation_steps: int = 1,
) -> Algorithm:
    """Returns Monte Carlo EM: HMC samples of p(z|x), then ascent of log p(x, z) in theta.

    Both steps are made for each minibatch. E-step: one HMC transition for each datapoint, from the
    last state of its chain (at first a sample of the prior). The step size is tuned during
    training, toward the target acceptance (Robbins & Monro 1951); the gain is constant, because the
    posterior changes with theta. M-step: `num_updates` ascent steps with z fixed. There is no phi:
    the model needs no encoder.

    Metrics: objective, log p(x, z) before the ascent steps; acceptance; step_size.

    Args:
        optimizer: its weight decay is the prior on theta (`optimizers.prior_decay`).
        num_data: N, which is the number of chains.
        num_leapfrog: leapfrog steps of a transition.
        accumulation_steps: number of parts of a minibatch, processed one after the other.
    """

    def init(key: Key) -> TrainState:
        params_key, chains_key = jax.random.split(key)
        params = vae.init(params_key)
        z = jax.vmap(lambda key: vae.sample(key, params)[0])(jax.random.split(chains_key, num_data))
        chains = Chains(z, jnp.full((), math.log(FIRST_STEP), z.dtype))
        return TrainState(jnp.int32(0), params, optimizer.init(params), chains)

    def log_joint(params: PyTree, x: Array, z: Array) -> Array:
        joint = vae.joint(params, x)
        return joint.log_prior(z) + joint.log_lik(z)

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        chains: Chains = state.extra
        chains_key, ascent_key = jax.random.split(key)
        z, acceptance = _e_step(
            chains_key, partial(log_joint, state.params), chains, batch,
            num_leapfrog=num_leapfrog, num_parts=accumulation_steps,
        )  # fmt: skip

        def objective(params: PyTree, key: Key, batch: Batch) -> tuple[Array, dict[str, Array]]:
            log_joints = over_datapoints(
                partial(log_joint, params), batch.x, z, num_parts=accumulation_steps
            )
            value = jnp.mean(log_joints)
            return value, {"objective": value}

        params, opt_state, metrics = _m_step(
            ascent_key, objective, optimizer, state, batch, num_updates
        )
        metrics |= {"acceptance": acceptance, "step_size": jnp.exp(chains.log_step_size)}
        chains = Chains(
            chains.z.at[batch.indices].set(z),
            chains.log_step_size + GAIN * (acceptance - target_acceptance),
        )
        return TrainState(state.step + 1, params, opt_state, chains), metrics

    return Algorithm(init, update)


def _e_step(
    key: Key,
    log_joint: Callable[[Array, Array], Array],
    chains: Chains,
    batch: Batch,
    *,
    num_leapfrog: int,
    num_parts: int,
) -> tuple[Array, Array]:
    """Moves the chain of each datapoint of the minibatch by one HMC transition.

    Returns their new states [M, Z] and the mean acceptance [].
    """
    step_size = jnp.exp(chains.log_step_size)

    def transition(key: Key, x: Array, z: Array) -> tuple[Array, Array]:
        log_density = partial(log_joint, x)
        z, acceptance, _ = hmc.transition(
            key, z, step_size, log_density=log_density, num_leapfrog=num_leapfrog
        )
        return z, acceptance

    keys = jax.random.split(key, len(batch.x))
    z, acceptances = over_datapoints(
        transition, keys, batch.x, chains.z[batch.indices], num_parts=num_parts
    )
    return z, jnp.mean(acceptances)


def _m_step(
    key: Key,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    num_updates: int,
) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """Takes several steps up the objective on one minibatch.

    Returns the parameters, the optimizer's state and the metrics before the first step.
    """

    def ascend(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], Any]:
        params, opt_state, metrics = gradient_ascent.ascend(
            objective, optimizer, *carry, key, batch
        )
        return (params, opt_state), metrics

    (params, opt_state), metrics = jax.lax.scan(
        ascend, (state.params, state.opt_state), length=num_updates
    )
    return params, opt_state, {name: values[0] for name, values in metrics.items()}
