"""The encoder's and the decoder's networks as pure functions: the only file that imports flax."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aevb.distributions import DiagNormal
from aevb.types import Key, PyTree


class Network(NamedTuple):
    """A function with parameters, from one vector to named vectors (its heads)."""

    init: Callable[[Key], PyTree]  # -> parameters, a nested dict of arrays
    apply: Callable[[PyTree, Array], Mapping[str, Array]]
    # (parameters, or for the networks of this file a WeightPosterior, and input) -> heads


class WeightPosterior(NamedTuple):
    """Parameters of which each is Gaussian, and the noise of one evaluation.

    A layer's units are Gaussian then, with mean x'M and variance x^2'V where its weights have
    means M and variances V. To draw the units rather than the weights gives each datapoint of a
    minibatch noise of its own at next to no cost: local reparameterisation (Kingma, Salimans &
    Welling 2015).
    """

    mean: PyTree
    log_var: PyTree
    key: Key


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


class NoisyDense(nn.Dense):
    """A linear layer whose weights have the mean in "params" and the variance in "log_vars"."""

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        mean = super().__call__(inputs)
        var = jnp.square(inputs) @ jnp.exp(self.get_variable("log_vars", "kernel"))
        var += jnp.exp(self.get_variable("log_vars", "bias"))
        var += jnp.finfo(var.dtype).tiny  # the gradient of sqrt(0) is not finite
        return mean + jnp.sqrt(var) * jax.random.normal(self.make_rng("weights"), mean.shape)


class MLP(nn.Module):
    """Fully connected tanh layers, then one linear layer a head; appendix C.

    A constant is a head that is a bias alone: one number, whatever the input.
    """

    hidden: tuple[int, ...]
    heads: Mapping[str, int]
    constants: tuple[str, ...]
    initialisation: Initialisation
    is_noisy: bool = False  # its parameters have variances, in "log_vars"

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        kernel_init, bias_init = self.initialisation
        layer = NoisyDense if self.is_noisy else nn.Dense

        def dense(size: int, name: str) -> nn.Dense:
            return layer(size, kernel_init=kernel_init, bias_init=bias_init, name=name)

        def constant(name: str) -> Array:
            value = self.param(name, bias_init, (1,))
            if not self.is_noisy:
                return value
            log_var = self.get_variable("log_vars", name)
            return DiagNormal(value, log_var).sample(self.make_rng("weights"))

        for number, size in enumerate(self.hidden):
            x = jnp.tanh(dense(size, f"hidden_{number}")(x))
        heads = {name: dense(size, name)(x) for name, size in self.heads.items()}
        return heads | {name: constant(name) for name in self.constants}


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
    noisy = module.clone(is_noisy=True)

    def init(key: Key) -> PyTree:
        return module.init(key, jnp.zeros(num_inputs))["params"]

    def apply(params: PyTree, x: Array) -> Mapping[str, Array]:
        if isinstance(params, WeightPosterior):
            variables = {"params": params.mean, "log_vars": params.log_var}
            return noisy.apply(variables, x, rngs={"weights": params.key})  # pyright: ignore[reportReturnType]
        return module.apply({"params": params}, x)  # pyright: ignore[reportReturnType]

    return Network(jax.jit(init), apply)


NETWORKS = {
    "mlp": mlp,
}
