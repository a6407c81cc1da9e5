"""The interface of a training algorithm: a pair of pure functions (init, update)."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from aevb.types import Key, PyTree
from aevb.vae import VAE


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
    indices: Array  # [M] int32, indices of these datapoints in the dataset


class AlgorithmEntry(NamedTuple):
    """An entry of `ALGORITHMS`: the factory of an algorithm, with its properties."""

    make: Callable[..., "Algorithm"]  # (vae, optimizer, *, num_data, options) -> the algorithm
    has_encoder: bool = True  # whether the model has an encoder
    trains_prior_by_encoder: bool = True  # whether it can train a prior made of the encoder (vamp)
    trains_on_samples: bool = False  # whether it trains the encoder on x drawn from the model
    has_own_prior: bool = False  # whether its objective contains the prior on the parameters
    can_pad: bool = False  # whether padded weights stay 0, and padded latents change no result
    draw_params: Callable[[Key, PyTree], PyTree] | None = None
    # (key, state.params) -> a sample of the VAE's parameters, if they have a distribution
    with_theta_as_latents: Callable[[VAE, PyTree], VAE] | None = None
    # (vae, state.params) -> a model with latents theta ~ q(theta) and z; its parameters are
    #   state.params


def _as_they_are(params: PyTree) -> PyTree:
    return params


class Algorithm(NamedTuple):
    """A training algorithm; `algorithms.<name>.make(...)` returns one."""

    init: Callable[[Key], TrainState]
    update: Callable[[Key, TrainState, Batch], tuple[TrainState, dict[str, Array]]]
    # (key, state, minibatch) -> the next state, and metrics [] of this minibatch; the metric
    #   "objective" is the maximized value, in nats per datapoint
    vae_params: Callable[[PyTree], PyTree] = _as_they_are
    # state.params -> the VAE's parameters for evaluation; means, if they have a distribution
    objective: Callable[[Key, PyTree, Array], Array] | None = None
    # (key, state.params, x [D]) -> [], nats; training maximizes its mean over the training data.
    #   None if it is the bound at `vae_params`, or if there is no such function
    norms: Callable[[Key, TrainState, Batch], dict[str, Array]] | None = None
    # (key, state, minibatch) -> the norms [] of the gradient and of the update that `update` would
    #   have; None if it does not take gradient steps
