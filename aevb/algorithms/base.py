"""The interface of a training algorithm: a pair of pure functions (init, update)."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from aevb.types import Key, PyTree


class TrainState(NamedTuple):
    """All state that the next step needs.

    It holds arrays only, so that it can be saved, donated and vmapped.
    """

    step: Array  # [] int32, updates made so far
    params: PyTree
    opt_state: PyTree
    extra: PyTree  # other state of the algorithm, or ()


class Batch(NamedTuple):
    """One minibatch, in the form that the likelihood scores."""

    x: Array  # [M, D] float32
    indices: Array  # [M] int32, indices of these datapoints in the data set


def _as_they_are(params: PyTree) -> PyTree:
    return params


class Algorithm(NamedTuple):
    """A training algorithm; `algorithms.<name>.make(...)` returns one."""

    init: Callable[[Key], TrainState]
    update: Callable[[Key, TrainState, Batch], tuple[TrainState, dict[str, Array]]]
    # (key, state, minibatch) -> the next state, and metrics [] of this minibatch; the metric
    # "objective" is the maximized value, in nats per datapoint
    vae_params: Callable[[PyTree], PyTree] = _as_they_are
    # state.params -> the VAE's parameters for evaluation; means, if they have a distribution
