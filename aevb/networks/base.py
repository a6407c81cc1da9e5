"""What every network has: its pair of functions, initializations, activations, heads."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key, PyTree


class Network(NamedTuple):
    """A function with parameters, from one vector to named vectors (its heads)."""

    init: Callable[[Key], PyTree]  # key -> parameters, a nested dict of arrays
    apply: Callable[[PyTree, Array], Mapping[str, Array]]
    # (parameters, input) -> heads
    takes_weight_posteriors: bool = False  # whether `apply` accepts a WeightPosterior
    # (parameters, input) -> the units of each hidden layer, after the activation; None if unknown
    hidden: Callable[[PyTree, Array], Mapping[str, Array]] | None = None


class WeightPosterior(NamedTuple):
    """Independent Gaussian distributions of all parameters, and the noise key of one evaluation.

    If the weights of a layer have means M and variances V, the layer's units are Gaussian with mean
    x'M and variance x^2'V. Drawing the units instead of the weights gives each datapoint of a
    minibatch its own noise at almost no cost: local reparameterization (Kingma, Salimans & Welling
    2015).
    """

    mean: PyTree
    log_var: PyTree
    key: Key


class Initialization(NamedTuple):
    """The initializers of kernels and biases."""

    kernel: nn.initializers.Initializer
    bias: nn.initializers.Initializer


def normal_init(std: float) -> Initialization:
    """Returns N(0, std^2) for every weight and bias; the paper uses N(0, 0.01), section 5."""
    return Initialization(nn.initializers.normal(std), nn.initializers.normal(std))


def fan_in_init(std: float) -> Initialization:
    """Returns weights of variance 1/fan-in (LeCun et al. 1998) and zero biases.

    `std` is not used.
    """
    del std
    return Initialization(nn.initializers.lecun_normal(), nn.initializers.zeros)


NO_CONSTANTS: Mapping[str, tuple[int, ...]] = MappingProxyType({})

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "tanh": jnp.tanh,
        "relu": nn.relu,
        "leaky_relu": nn.leaky_relu,
        "elu": nn.elu,
        "gelu": nn.gelu,
        "silu": nn.silu,
        "softplus": nn.softplus,
        "sigmoid": nn.sigmoid,
    }
)
"""The activation functions by name, for `model.network_options.activation` in a config."""


def require_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}")


def of_module(module: nn.Module, num_inputs: int | tuple[int, ...]) -> Network:
    """Returns the network of a module whose parameters are plain arrays, without a distribution.

    Args:
        num_inputs: the size or the shape of its input.
    """

    def init(key: Key) -> PyTree:
        return module.init(key, jnp.zeros(num_inputs))["params"]

    def apply(params: PyTree, x: Array) -> Mapping[str, Array]:
        return module.apply({"params": params}, x)  # pyright: ignore[reportReturnType]

    return Network(jax.jit(init), apply)


def init_of(networks: Mapping[str, Network]) -> Callable[[Key], dict[str, PyTree]]:
    """Returns the function of a key that draws the parameters of each network, by name."""

    def init(key: Key) -> dict[str, PyTree]:
        keys = jax.random.split(key, len(networks))
        named = zip(networks.items(), keys, strict=True)
        return {name: network.init(own) for (name, network), own in named}

    return init


def rematerialized(network: Network) -> Network:
    """Returns the network with its activations recomputed, not stored, for the gradient."""
    return network._replace(apply=jax.checkpoint(network.apply))
