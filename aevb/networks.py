"""The encoder's and the decoder's networks as pure functions: the only file that imports flax."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key, PyTree


class Network(NamedTuple):
    """A function with parameters, from one vector to named vectors (its heads)."""

    init: Callable[[Key], PyTree]  # -> parameters, a nested dict of arrays
    apply: Callable[[PyTree, Array], Mapping[str, Array]]  # (parameters, input) -> heads


class Initialisation(NamedTuple):
    """How kernels and biases are drawn."""

    kernel: nn.initializers.Initializer
    bias: nn.initializers.Initializer


def normal_init(std: float) -> Initialisation:
    """Every weight and bias from N(0, std^2): the paper's N(0, 0.01), section 5."""
    return Initialisation(nn.initializers.normal(std), nn.initializers.normal(std))


def fan_in_init(std: float) -> Initialisation:
    """Weights of variance 1/fan-in (LeCun et al. 1998) and zero biases; std is not used."""
    del std
    return Initialisation(nn.initializers.lecun_normal(), nn.initializers.zeros)


INITIALISATIONS = {
    "normal": normal_init,
    "fan_in": fan_in_init,
}


class MLP(nn.Module):
    """Fully connected tanh layers, then one linear layer a head; appendix C.

    A constant is a head that is a bias alone: one number, whatever the input.
    """

    hidden: tuple[int, ...]
    heads: Mapping[str, int]
    constants: tuple[str, ...]
    initialisation: Initialisation

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        def dense(size: int, name: str) -> nn.Dense:
            kernel_init, bias_init = self.initialisation
            return nn.Dense(size, kernel_init=kernel_init, bias_init=bias_init, name=name)

        for layer, size in enumerate(self.hidden):
            x = jnp.tanh(dense(size, f"hidden_{layer}")(x))
        heads = {name: dense(size, name)(x) for name, size in self.heads.items()}
        bias_init = self.initialisation.bias
        return heads | {name: self.param(name, bias_init, (1,)) for name in self.constants}


def mlp(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialisation: Initialisation,
    constants: tuple[str, ...] = (),
) -> Network:
    """A multi-layer perceptron from [num_inputs] to heads of the sizes given, and constants [1]."""
    module = MLP(hidden, dict(heads), constants, initialisation)

    def init(key: Key) -> PyTree:
        return module.init(key, jnp.zeros(num_inputs))["params"]

    def apply(params: PyTree, x: Array) -> Mapping[str, Array]:
        return module.apply({"params": params}, x)  # pyright: ignore[reportReturnType]

    return Network(jax.jit(init), apply)


NETWORKS = {
    "mlp": mlp,
}
