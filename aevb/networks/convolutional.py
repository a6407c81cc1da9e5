"""Convolutional networks: 3 x 3 kernels, and layers that halve or double the image."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aevb.convolutions import convolve, convolve_transposed
from aevb.networks.base import NO_CONSTANTS, Initialization, Network, of_module


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
    return of_module(
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
    return of_module(module, num_inputs)


def _image_shape(shape: tuple[int, ...] | None, hidden: tuple[int, ...]) -> tuple[int, ...]:
    if shape is None:
        raise ValueError("convolutions are for images, and these data are not images")
    if not hidden:
        raise ValueError("convolutions need the channels of at least one layer, and hidden is ()")
    return shape
