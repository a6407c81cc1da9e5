"""Convolutional networks: 3 x 3 kernels, layers that halve or double the image, residual blocks."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aevb.convolutions import convolve, convolve_transposed
from aevb.networks.base import (
    ACTIVATIONS,
    NO_CONSTANTS,
    Initialization,
    Network,
    of_module,
    require_activation,
)

LARGEST_GROUP = 16  # channels of a normalization; Wu & He (2018), section 4.1
MAX_BLOCKS = 100


class Conv(nn.Module):
    """A convolution, or a transposed one, with a bias; the parameters of flax's `nn.Conv`."""

    num_channels: int
    stride: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer
    dtype: jnp.dtype
    is_transposed: bool = False
    kernel_size: int = 3  # rows and columns

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.num_channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, shape[-1:])
        convolution = convolve_transposed if self.is_transposed else convolve
        y = convolution(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride)
        # In float32, in which the bias's gradient is summed over pixels and datapoints.
        return (y.astype(bias.dtype) + bias[None, None, :]).astype(self.dtype)


class ResidualBlock(nn.Module):
    """Adds to an image two 3 x 3 convolutions of it, each after a normalization and an activation.

    He et al. (2016), "Identity mappings in deep residual networks". The normalization is that of
    groups of channels (Wu & He 2018), which depends on one datapoint alone. Its scales are 1 and
    its shifts 0 before training, in every initialization.
    """

    activation: str  # one of ACTIVATIONS
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, y = x.shape[-1], x
        sizes = [size for size in range(1, LARGEST_GROUP + 1) if channels % size == 0]
        for number in range(2):
            norm = nn.GroupNorm(
                num_groups=None, group_size=sizes[-1], use_fast_variance=False,
                name=f"norm_{number}",
            )  # fmt: skip
            y = norm(y[None].astype(jnp.float32))[0]
            y = Conv(
                channels, 1, self.kernel_init, self.bias_init, self.dtype, name=f"conv_{number}"
            )(ACTIVATIONS[self.activation](y))
        return x + y


def _activated(x: Array, name: str, activation: str, num_blocks: int, **how: Any) -> Array:
    """Returns the activation of a layer's output, after the layer's residual blocks."""
    x = ACTIVATIONS[activation](x)
    for block in range(num_blocks):
        x = ResidualBlock(activation, name=f"{name}_block_{block}", **how)(x)
    return x


class ConvEncoder(nn.Module):
    """3 x 3 convolutions that each halve the image, then one linear layer per head.

    Residual blocks can follow each convolution.
    """

    image_shape: tuple[int, ...]
    channels: tuple[int, ...]
    heads: Mapping[str, int]
    initialization: Initialization
    dtype: jnp.dtype
    activation: str
    num_blocks: int

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        kernel_init, bias_init = self.initialization
        how = {"kernel_init": kernel_init, "bias_init": bias_init, "dtype": self.dtype}
        x = x.reshape(*self.image_shape[:2], -1)
        for number, size in enumerate(self.channels):
            name = f"hidden_{number}"
            x = Conv(size, stride=2, name=name, **how)(x)
            x = _activated(x, name, self.activation, self.num_blocks, **how)
        x = x.reshape(-1)
        return {
            name: nn.Dense(size, name=name, **how)(x).astype(jnp.float32)
            for name, size in self.heads.items()
        }


class ConvDecoder(nn.Module):
    """A linear layer, then 3 x 3 transposed convolutions that each double the image.

    Residual blocks can follow each hidden layer. Each head has a last layer of its own, whose
    channels are the head's values for each pixel.
    """

    image_shape: tuple[int, ...]
    channels: tuple[int, ...]
    heads: Mapping[str, int]
    constants: Mapping[str, tuple[int, ...]]
    initialization: Initialization
    dtype: jnp.dtype
    activation: str
    num_blocks: int

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
        x = x.reshape(rows, columns, self.channels[0])
        x = _activated(x, "hidden_0", self.activation, self.num_blocks, **how)
        for number, size in enumerate(self.channels[1:], start=1):
            name = f"hidden_{number}"
            x = doubled(x, size, name, larger.pop())
            x = _activated(x, name, self.activation, self.num_blocks, **how)
        num_pixels = math.prod(full)
        heads = {
            name: doubled(x, size // num_pixels, name, full).reshape(-1).astype(jnp.float32)
            for name, size in self.heads.items()
        }
        shared = {
            name: self.param(name, bias_init, shape) for name, shape in self.constants.items()
        }
        return heads | shared


def conv_encoder(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    image_shape: tuple[int, ...] | None,
    dtype: str = "float32",
    activation: str = "gelu",
    num_blocks: int = 0,
) -> Network:
    """Returns a convolutional network from an image [num_inputs] to heads of given sizes.

    Args:
        hidden: channels of each layer; each layer halves the rows and the columns.
        activation: one of `ACTIVATIONS`.
        num_blocks: residual blocks behind each layer.

    Raises:
        ValueError: the inputs are not images, there is no layer, or an option is not allowed.
    """
    shape = require_images(image_shape, hidden)
    _require_options(activation, num_blocks)
    module = ConvEncoder(
        shape, hidden, dict(heads), initialization, jnp.dtype(dtype), activation, num_blocks
    )
    return of_module(module, num_inputs)


def conv_decoder(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    constants: Mapping[str, tuple[int, ...]] = NO_CONSTANTS,
    image_shape: tuple[int, ...] | None,
    dtype: str = "float32",
    activation: str = "gelu",
    num_blocks: int = 0,
) -> Network:
    """Returns a transposed-convolution network from [num_inputs] to image heads and to constants.

    Args:
        hidden: channels of each layer before the heads' layer, which doubles the image to its full
            size.
        activation: one of `ACTIVATIONS`.
        num_blocks: residual blocks behind each layer before the heads' layer.

    Raises:
        ValueError: the outputs are not images, there is no layer, or an option is not allowed.
    """
    shape = require_images(image_shape, hidden)
    _require_options(activation, num_blocks)
    module = ConvDecoder(
        shape, hidden, dict(heads), dict(constants), initialization, jnp.dtype(dtype), activation,
        num_blocks,
    )  # fmt: skip
    return of_module(module, num_inputs)


def require_images(
    shape: tuple[int, ...] | None, hidden: tuple[int, ...], *, num_layers: int = 1
) -> tuple[int, ...]:
    """Returns the shape of images, if the data are images.

    Raises:
        ValueError: the data are not images, or `hidden` has fewer than `num_layers` layers.
    """
    if shape is None:
        raise ValueError("convolutions are for images, and these data are not images")
    if len(hidden) < num_layers:
        number = "one layer" if num_layers == 1 else f"{num_layers} layers"
        raise ValueError(
            f"convolutions need the channels of at least {number}, and hidden is {hidden}"
        )
    return shape


def _require_options(activation: str, num_blocks: int) -> None:
    require_activation(activation)
    if type(num_blocks) is not int or not 0 <= num_blocks <= MAX_BLOCKS:
        raise ValueError(
            f"num_blocks is {num_blocks!r}; it must be a whole number from 0 to {MAX_BLOCKS}"
        )


residual_conv_encoder = partial(conv_encoder, activation="silu", num_blocks=2)
"""`conv_encoder` with residual blocks."""
residual_conv_decoder = partial(conv_decoder, activation="silu", num_blocks=2)
"""`conv_decoder` with residual blocks."""
