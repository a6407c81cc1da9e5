"""An algorithm that learns nothing, and records what each step is shown."""

import jax
import jax.numpy as jnp

from aevb.algorithms.base import Algorithm, Batch, TrainState


def recorder(num_steps: int, batch_size: int, num_dims: int) -> Algorithm:
    """Returns an algorithm whose state's `extra` has each step's data, and noise of its key."""

    def init(key: jax.Array) -> TrainState:
        extra = {
            "indices": jnp.full((num_steps, batch_size), -1, jnp.int32),
            "x": jnp.zeros((num_steps, batch_size, num_dims)),
            "noise": jnp.zeros(num_steps),
        }
        return TrainState(jnp.int32(0), params=(), opt_state=(), extra=extra)

    def update(key: jax.Array, state: TrainState, batch: Batch):
        now = {"indices": batch.indices, "x": batch.x, "noise": jax.random.uniform(key)}
        extra = {name: log.at[state.step].set(now[name]) for name, log in state.extra.items()}
        metrics = {"objective": state.step.astype(jnp.float32), "noise": now["noise"]}
        return TrainState(state.step + 1, (), (), extra), metrics

    return Algorithm(init, update)
