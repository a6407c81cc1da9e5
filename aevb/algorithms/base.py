"""What the training loop knows of an algorithm: a pair of pure functions (init, update)."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from aevb.types import Key, PyTree


class TrainState(NamedTuple):
    """All that the next step needs; arrays only, so that it can be saved, donated and vmapped."""

    step: Array  # [] int32, updates made so far
    params: PyTree
    opt_state: PyTree
    extra: PyTree  # what else an algorithm keeps between steps, or ()


class Batch(NamedTuple):
    """One minibatch, as the likelihood scores it."""

    x: Array  # [M, D] float32
    indices: Array  # [M] int32, which datapoints of the data set these are


def _as_they_are(params: PyTree) -> PyTree:
    return params


class Algorithm(NamedTuple):
    """A way to train; `algorithms.<name>.make(...)` returns one."""

    init: Callable[[Key], TrainState]
    update: Callable[[Key, TrainState, Batch], tuple[TrainState, dict[str, Array]]]
    # -> the next state, and metrics [] of this minibatch, among them "objective": what is
    # maximized, in nats per datapoint
    vae_params: Callable[[PyTree], PyTree] = _as_they_are
    # state.params -> the VAE's parameters to evaluate by; means, where they have a distribution
