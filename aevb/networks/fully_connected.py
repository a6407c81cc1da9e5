"""Multi-layer perceptrons: plain, gated and residual; their weights may have a distribution."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aevb.distributions import DiagNormal
from aevb.networks.base import (
    ACTIVATIONS,
    NO_CONSTANTS,
    Initialization,
    Network,
    WeightPosterior,
    of_module,
    require_activation,
)
from aevb.types import PyTree

UNITS = "units"  # the collection of the hidden units' values


class NoisyDense(nn.Dense):
    """A linear layer with Gaussian weights: means in "params", log variances in "log_vars"."""

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        mean = super().__call__(inputs).astype(jnp.float32)
        inputs = inputs.astype(jnp.float32)
        var = jnp.square(inputs) @ jnp.exp(self.get_variable("log_vars", "kernel"))
        var += jnp.exp(self.get_variable("log_vars", "bias"))
        var += jnp.finfo(var.dtype).tiny  # the gradient of sqrt(0) is not finite
        return mean + jnp.sqrt(var) * jax.random.normal(self.make_rng("weights"), mean.shape)


class MLP(nn.Module):
    """Fully connected layers, then one linear layer per head; appendix C.

    A constant is a head of any shape that does not depend on the input: a bias only.
    """

    hidden: tuple[int, ...]
    heads: Mapping[str, int]
    constants: Mapping[str, tuple[int, ...]]
    initialization: Initialization
    dtype: jnp.dtype  # dtype of the matrix products; parameters and heads are float32
    activation: str = "tanh"  # one of ACTIVATIONS
    layer: str = "plain"  # plain, gated or residual
    is_noisy: bool = False  # whether parameters have log variances, in "log_vars"

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        kernel_init, bias_init = self.initialization
        layer = NoisyDense if self.is_noisy else nn.Dense

        def dense(size: int, name: str) -> nn.Dense:
            return layer(
                size, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype, name=name
            )

        def constant(name: str, shape: tuple[int, ...]) -> Array:
            value = self.param(name, bias_init, shape)
            if not self.is_noisy:
                return value
            log_var = self.get_variable("log_vars", name)
            return DiagNormal(value, log_var).sample(self.make_rng("weights"))

        def hidden(x: Array, size: int, name: str) -> Array:
            linear = dense(size, name)(x)
            if self.layer == "gated":
                return linear * nn.sigmoid(dense(size, f"{name}_gate")(x))
            units = ACTIVATIONS[self.activation](linear)
            return x + units if self.layer == "residual" and x.shape == units.shape else units

        for number, size in enumerate(self.hidden):
            x = hidden(x, size, f"hidden_{number}")
            self.sow(UNITS, f"layer_{number}", x)  # read by `Network.hidden` alone
        heads = {
            name: dense(size, name)(x).astype(jnp.float32) for name, size in self.heads.items()
        }
        return heads | {name: constant(name, shape) for name, shape in self.constants.items()}


def mlp(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    constants: Mapping[str, tuple[int, ...]] = NO_CONSTANTS,
    image_shape: tuple[int, ...] | None = None,
    dtype: str = "float32",
    activation: str = "tanh",
) -> Network:
    """Returns a multi-layer perceptron from [num_inputs] to heads of given sizes and to constants.

    Args:
        image_shape: not used.
        dtype: dtype of the matrix products; parameters and heads are float32.
        activation: one of `ACTIVATIONS`, of the hidden layers.

    Raises:
        ValueError: the activation is unknown.
    """
    del image_shape
    require_activation(activation)
    module = MLP(hidden, dict(heads), dict(constants), initialization, jnp.dtype(dtype), activation)
    return _of_mlp(module, num_inputs)


def gated_mlp(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    constants: Mapping[str, tuple[int, ...]] = NO_CONSTANTS,
    image_shape: tuple[int, ...] | None = None,
    dtype: str = "float32",
) -> Network:
    """Returns an `mlp` whose hidden layers are (W x + b) * sigmoid(V x + c).

    Dauphin et al. (2017); these are the layers of Tomczak & Welling (2018).
    """
    del image_shape
    module = MLP(
        hidden, dict(heads), dict(constants), initialization, jnp.dtype(dtype), layer="gated"
    )
    return _of_mlp(module, num_inputs)


def residual_mlp(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    constants: Mapping[str, tuple[int, ...]] = NO_CONSTANTS,
    image_shape: tuple[int, ...] | None = None,
    dtype: str = "float32",
    activation: str = "silu",
) -> Network:
    """Returns an `mlp` whose hidden layers add their input to their output where the sizes agree.

    Raises:
        ValueError: the activation is unknown.
    """
    del image_shape
    require_activation(activation)
    module = MLP(
        hidden, dict(heads), dict(constants), initialization, jnp.dtype(dtype), activation,
        layer="residual",
    )  # fmt: skip
    return _of_mlp(module, num_inputs)


def _of_mlp(module: MLP, num_inputs: int) -> Network:
    """Returns the network of a module whose weights may have a distribution."""
    plain, noisy = of_module(module, num_inputs), module.clone(is_noisy=True)

    def apply(params: PyTree, x: Array) -> Mapping[str, Array]:
        if isinstance(params, WeightPosterior):
            variables = {"params": params.mean, "log_vars": params.log_var}
            return noisy.apply(variables, x, rngs={"weights": params.key})  # pyright: ignore[reportReturnType]
        return plain.apply(params, x)

    def units(params: PyTree, x: Array) -> Mapping[str, Array]:
        found: Any = module.apply({"params": params}, x, mutable=[UNITS])[1]
        return {name: layer for name, (layer,) in found.get(UNITS, {}).items()}

    return Network(plain.init, apply, takes_weight_posteriors=True, hidden=units)
