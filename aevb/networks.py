"""Encoder and decoder networks as pure functions. Only this file imports flax."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aevb.convolutions import convolve, convolve_transposed
from aevb.distributions import DiagNormal
from aevb.types import Key, PyTree


class Network(NamedTuple):
    """A function with parameters, from one vector to named vectors (its heads)."""

    init: Callable[[Key], PyTree]  # key -> parameters, a nested dict of arrays
    apply: Callable[[PyTree, Array], Mapping[str, Array]]
    # (parameters, input) -> heads
    takes_weight_posteriors: bool = False  # whether `apply` accepts a WeightPosterior


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

INITIALIZATIONS = {
    "normal": normal_init,
    "fan_in": fan_in_init,
}


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
        heads = {
            name: dense(size, name)(x).astype(jnp.float32) for name, size in self.heads.items()
        }
        return heads | {name: constant(name, shape) for name, shape in self.constants.items()}


class Conv(nn.Module):
    """A 3 x 3 convolution, or a transposed one, with a bias; the parameters of flax's `nn.Conv`."""

    num_channels: int
    stride: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer
    dtype: jnp.dtype
    is_transposed: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.num_channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, shape[-1:])
        convolution = convolve_transposed if self.is_transposed else convolve
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        return convolution(x, kernel, stride=self.stride) + bias[None, None, :]


class ConvEncoder(nn.Module):
    """3 x 3 convolutions that each halve the image, then one linear layer per head."""

    image_shape: tuple[int, ...]
    channels: tuple[int, ...]
    heads: Mapping[str, int]
    initialization: Initialization
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        kernel_init, bias_init = self.initialization
        how = {"kernel_init": kernel_init, "bias_init": bias_init, "dtype": self.dtype}
        x = x.reshape(*self.image_shape[:2], -1)
        for number, size in enumerate(self.channels):
            x = nn.gelu(Conv(size, stride=2, name=f"hidden_{number}", **how)(x))
        x = x.reshape(-1)
        return {
            name: nn.Dense(size, name=name, **how)(x).astype(jnp.float32)
            for name, size in self.heads.items()
        }


class ConvDecoder(nn.Module):
    """A linear layer, then 3 x 3 transposed convolutions that each double the image.

    Each head has a last layer of its own, whose channels are the head's values for each pixel.
    """

    image_shape: tuple[int, ...]
    channels: tuple[int, ...]
    heads: Mapping[str, int]
    constants: Mapping[str, tuple[int, ...]]
    initialization: Initialization
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: Array) -> dict[str, Array]:
        kernel_init, bias_init = self.initialization
        how = {"kernel_init": kernel_init, "bias_init": bias_init, "dtype": self.dtype}
        full = self.image_shape[0], self.image_shape[1]
        shapes = [full]
        for _ in self.channels:
            rows, columns = shapes[-1]
            shapes.append((-(-rows // 2), -(-columns // 2)))  # rounded up, as in the encoder
        *larger, (rows, columns) = shapes

        def doubled(x: Array, size: int, name: str, to: tuple[int, int]) -> Array:
            x = Conv(size, stride=2, is_transposed=True, name=name, **how)(x)
            return x[: to[0], : to[1]]

        x = nn.Dense(rows * columns * self.channels[0], name="hidden_0", **how)(z)
        x = nn.gelu(x.reshape(rows, columns, self.channels[0]))
        for number, size in enumerate(self.channels[1:], start=1):
            x = nn.gelu(doubled(x, size, f"hidden_{number}", larger.pop()))
        num_pixels = math.prod(full)
        heads = {
            name: doubled(x, size // num_pixels, name, full).reshape(-1).astype(jnp.float32)
            for name, size in self.heads.items()
        }
        shared = {
            name: self.param(name, bias_init, shape) for name, shape in self.constants.items()
        }
        return heads | shared


class Architecture(NamedTuple):
    """The constructors of the encoder and the decoder."""

    encoder: Callable[..., Network]  # (D, heads, *, hidden, initialization, image_shape, dtype)
    decoder: Callable[..., Network]  # (Z, heads, *, constants, and the encoder's arguments)


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
    _require_activation(activation)
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
    _require_activation(activation)
    module = MLP(
        hidden, dict(heads), dict(constants), initialization, jnp.dtype(dtype), activation,
        layer="residual",
    )  # fmt: skip
    return _of_mlp(module, num_inputs)


def _require_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}")


def _of_mlp(module: MLP, num_inputs: int) -> Network:
    """Returns the network of a module whose weights may have a distribution."""
    plain, noisy = _plain(module, num_inputs), module.clone(is_noisy=True)

    def apply(params: PyTree, x: Array) -> Mapping[str, Array]:
        if isinstance(params, WeightPosterior):
            variables = {"params": params.mean, "log_vars": params.log_var}
            return noisy.apply(variables, x, rngs={"weights": params.key})  # pyright: ignore[reportReturnType]
        return plain.apply(params, x)

    return Network(plain.init, apply, takes_weight_posteriors=True)


def conv_encoder(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    image_shape: tuple[int, ...] | None,
    dtype: str = "float32",
) -> Network:
    """Returns a convolutional network from an image [num_inputs] to heads of given sizes.

    Args:
        hidden: channels of each layer; each layer halves the rows and the columns.

    Raises:
        ValueError: the inputs are not images, or there is no layer.
    """
    shape = _image_shape(image_shape, hidden)
    return _plain(
        ConvEncoder(shape, hidden, dict(heads), initialization, jnp.dtype(dtype)), num_inputs
    )


def conv_decoder(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    constants: Mapping[str, tuple[int, ...]] = NO_CONSTANTS,
    image_shape: tuple[int, ...] | None,
    dtype: str = "float32",
) -> Network:
    """Returns a transposed-convolution network from [num_inputs] to image heads and to constants.

    Args:
        hidden: channels of each layer before the heads' layer, which doubles the image to its full
            size.

    Raises:
        ValueError: the outputs are not images, or there is no layer.
    """
    shape = _image_shape(image_shape, hidden)
    module = ConvDecoder(
        shape, hidden, dict(heads), dict(constants), initialization, jnp.dtype(dtype)
    )
    return _plain(module, num_inputs)


def _image_shape(shape: tuple[int, ...] | None, hidden: tuple[int, ...]) -> tuple[int, ...]:
    if shape is None:
        raise ValueError("convolutions are for images, and these data are not images")
    if not hidden:
        raise ValueError("convolutions need the channels of at least one layer, and hidden is ()")
    return shape


def _plain(module: nn.Module, num_inputs: int) -> Network:
    """Returns the network of a module whose parameters are plain arrays, without a distribution."""

    def init(key: Key) -> PyTree:
        return module.init(key, jnp.zeros(num_inputs))["params"]

    def apply(params: PyTree, x: Array) -> Mapping[str, Array]:
        return module.apply({"params": params}, x)  # pyright: ignore[reportReturnType]

    return Network(jax.jit(init), apply)


def rematerialized(network: Network) -> Network:
    """Returns the network with its activations recomputed, not stored, for the gradient."""
    return network._replace(apply=jax.checkpoint(network.apply))


NETWORKS = {
    "mlp": Architecture(mlp, mlp),
    "gated_mlp": Architecture(gated_mlp, gated_mlp),
    "residual_mlp": Architecture(residual_mlp, residual_mlp),
    "conv": Architecture(conv_encoder, conv_decoder),
}
"""The networks by name, for `model.network` in a config."""
