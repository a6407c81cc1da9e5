"""A wrapper of an algorithm that evaluates a moving average of its parameters."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.types import Key, PyTree


class Averaged(NamedTuple):
    """The `TrainState.params` of an algorithm that averages its parameters."""

    trained: PyTree  # `TrainState.params` of the wrapped algorithm
    mean: PyTree  # the moving average of them, which is evaluated


def average_params(algorithm: Algorithm, decay: float) -> Algorithm:
    """Wraps the algorithm so that an exponential moving average of its parameters is evaluated.

    Step t back from the last has a weight proportional to decay^t, and the weights add up to 1 at
    every step (Polyak & Juditsky 1992; the correction is that of Adam). Training itself does not
    change.

    Args:
        decay: above 0 and below 1; 0.999 averages over about the last thousand steps.
    """

    def init(key: Key) -> TrainState:
        state = algorithm.init(key)
        return state._replace(params=Averaged(state.params, state.params))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        averaged: Averaged = state.params
        before = state._replace(params=averaged.trained)
        after, metrics = algorithm.update(key, before, batch)
        # The weight of the newest parameters, (1 - decay) / (1 - decay^t), is 1 at the first step.
        weight = (1 - decay) / -jnp.expm1(after.step.astype(jnp.float32) * math.log(decay))

        def average(mean: Array, new: Array) -> Array:
            return mean + weight.astype(mean.dtype) * (new - mean)

        mean = jax.tree.map(average, averaged.mean, after.params)
        return after._replace(params=Averaged(after.params, mean)), metrics

    def vae_params(params: Averaged) -> PyTree:
        return algorithm.vae_params(params.mean)

    own = algorithm.objective
    objective = None if own is None else lambda key, params, x: own(key, params.mean, x)
    found = algorithm.norms
    norms = found and (
        lambda key, state, batch: found(key, state._replace(params=state.params.trained), batch)
    )
    return Algorithm(init, update, vae_params, objective, norms)


def evaluated(params: PyTree) -> PyTree:
    """Returns the algorithm's parameters that are evaluated: the average, if there is one."""
    return params.mean if isinstance(params, Averaged) else params


def trained(params: PyTree) -> PyTree:
    """Returns the algorithm's parameters that the optimizer updates."""
    return params.trained if isinstance(params, Averaged) else params


def starting_at(params: PyTree, like: PyTree) -> PyTree:
    """Returns `TrainState.params` in the form of `like`, before the first step from `params`."""
    return Averaged(params, params) if isinstance(like, Averaged) else params
