"""Monte-Carlo EM: the paper's baseline without an encoder, appendix E."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.algorithms import gradient_ascent
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.algorithms.gradient_ascent import ParamPrior, over_datapoints
from aevb.inference import hmc
from aevb.types import Key, PyTree
from aevb.vae import VAE

FIRST_STEP = 0.1  # of a leapfrog, before it is tuned
GAIN = 0.05  # by which log step size moves for each unit that the acceptance is off


class Chains(NamedTuple):
    """One Markov chain a datapoint, which lives as long as the training does."""

    z: Array  # [N, Z]
    log_step_size: Array  # [], of all chains


def make(
    vae: VAE,
    optimizer: optax.GradientTransformation,
    *,
    num_data: int,
    num_leapfrog: int = 10,
    target_acceptance: float = 0.9,
    num_updates: int = 5,
    prior: ParamPrior = gradient_ascent.PAPERS,
    accumulation_steps: int = 1,
) -> Algorithm:
    """At each minibatch a sample of p(z|x), and on it some steps of theta up log p(x, z).

    E: one transition of Hamiltonian Monte Carlo for each datapoint, from where its chain was when
    it was last seen (at first from the prior). Its step size is tuned as it goes, toward the target
    acceptance (Robbins & Monro 1951; the gain is constant, because the posterior moves with theta).
    M: `num_updates` ascents with z fixed. There is no phi: the model needs no encoder.

    The metrics: objective, log p(x, z) before the ascents; acceptance, step_size.

    Args:
        num_data: N, how many chains there are.
        num_leapfrog: leapfrog steps of a transition.
        prior: on theta.
        accumulation_steps: parts of a minibatch that are taken one after the other.
    """

    def init(key: Key) -> TrainState:
        params_key, chains_key = jax.random.split(key)
        params = vae.init(params_key)
        z = jax.vmap(lambda key: vae.sample(key, params)[0])(jax.random.split(chains_key, num_data))
        chains = Chains(z, jnp.log(jnp.float32(FIRST_STEP)))
        return TrainState(jnp.int32(0), params, optimizer.init(params), chains)

    def log_joint(params: PyTree, x: Array, z: Array) -> Array:
        joint = vae.joint(params, x)
        return joint.log_prior(z) + joint.log_lik(z)

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        chains: Chains = state.extra
        step_size = jnp.exp(chains.log_step_size)

        def transition(key: Key, x: Array, z: Array) -> tuple[Array, Array]:
            log_density = partial(log_joint, state.params, x)
            return hmc.transition(
                key, z, step_size, log_density=log_density, num_leapfrog=num_leapfrog
            )

        chains_key, ascent_key = jax.random.split(key)
        keys = jax.random.split(chains_key, len(batch.x))
        in_parts = partial(over_datapoints, num_parts=accumulation_steps)
        z, acceptances = in_parts(transition, keys, batch.x, chains.z[batch.indices])
        acceptance = jnp.mean(acceptances)

        def objective(params: PyTree, key: Key, batch: Batch) -> tuple[Array, dict[str, Array]]:
            value = jnp.mean(in_parts(partial(log_joint, params), batch.x, z))
            return value, {"objective": value}

        def ascend(carry, _):
            params, opt_state = carry
            params, opt_state, metrics = gradient_ascent.ascend(
                objective, prior.log_prob, params, opt_state, ascent_key, batch,
                optimizer=optimizer, num_data=num_data,
            )  # fmt: skip
            return (params, opt_state), metrics

        (params, opt_state), metrics = jax.lax.scan(
            ascend, (state.params, state.opt_state), length=num_updates
        )
        chains = Chains(
            chains.z.at[batch.indices].set(z),
            chains.log_step_size + GAIN * (acceptance - target_acceptance),
        )
        metrics = {"objective": metrics["objective"][0], "acceptance": acceptance,
                   "step_size": step_size}  # fmt: skip
        return TrainState(state.step + 1, params, opt_state, chains), metrics

    return Algorithm(init, update)
