"""The gated convolutional networks of van den Berg et al. (2018), "Sylvester normalizing flows".

A gated layer is (W x + b) * sigmoid(V x + c). Both convolutions of a layer are one, with twice as
many channels. The kernels are 5 x 5, and the strides of the encoder's layers alternate between 1
and 2. Its last layer covers the whole image that is left, so that it is fully connected. The
decoder has these layers in reverse order, transposed. At each size of the image, its layers have
the channels of the encoder's first layer of that size. The paper's networks for 28 x 28 pixels are
those of the channels (32, 32, 64, 64, 64, 256).
"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aevb.networks.base import NO_CONSTANTS, Initialization, Network, of_module
from aevb.networks.convolutional import Conv, require_images

KERNEL_SIZE = 5


class GatedConvEncoder(nn.Module):
    """Gated convolutions, a gated layer of the whole image, and one linear layer per head."""

    image_shape: tuple[int, ...]
    channels: tuple[int, ...]
    heads: Mapping[str, int]
    initialization: Initialization
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        kernel_init, bias_init = self.initialization
        how = {"kernel_init": kernel_init, "bias_init": bias_init, "dtype": self.dtype}
        *channels, last = self.channels
        x = x.reshape(*self.image_shape[:2], -1)
        for number, size in enumerate(channels):
            x = nn.glu(
                Conv(
                    2 * size, stride=1 + number % 2, kernel_size=KERNEL_SIZE,
                    name=f"hidden_{number}", **how,
                )(x)
            )  # fmt: skip
        x = nn.glu(nn.Dense(2 * last, name=f"hidden_{len(channels)}", **how)(x.reshape(-1)))
        return {
            name: nn.Dense(size, name=name, **how)(x).astype(jnp.float32)
            for name, size in self.heads.items()
        }


class GatedConvDecoder(nn.Module):
    """The layers of `GatedConvEncoder` in reverse order, transposed, and a 1 x 1 one per head."""

    image_shape: tuple[int, ...]
    channels: tuple[int, ...]  # of the encoder's layers, in reverse order
    heads: Mapping[str, int]
    constants: Mapping[str, tuple[int, ...]]
    initialization: Initialization
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: Array) -> dict[str, Array]:
        kernel_init, bias_init = self.initialization
        how = {"kernel_init": kernel_init, "bias_init": bias_init, "dtype": self.dtype}
        channels = self.channels[:0:-1]  # of the encoder's convolutions, in its order
        num_rows, num_columns = self.image_shape[:2]

        def shape(num_halvings: int) -> tuple[int, int, int]:
            """Returns the rows and columns, rounded up as in the encoder, and the channels."""
            rows, columns = (-(-length // 2**num_halvings) for length in (num_rows, num_columns))
            return rows, columns, channels[max(2 * num_halvings - 1, 0)]

        rows, columns, size = shape(len(channels) // 2)
        x = nn.Dense(
            rows * columns * 2 * size, use_bias=False, kernel_init=kernel_init, dtype=self.dtype,
            name="hidden_0",
        )(z).reshape(rows, columns, 2 * size)  # fmt: skip
        bias = self.param("hidden_0_bias", bias_init, (2 * size,))  # equal for all pixels
        x = nn.glu((x.astype(bias.dtype) + bias[None, None, :]).astype(self.dtype))
        for number in reversed(range(len(channels))):  # the encoder's layer
            rows, columns, size = shape(number // 2)
            x = Conv(
                2 * size, stride=1 + number % 2, is_transposed=number % 2 == 1,
                kernel_size=KERNEL_SIZE, name=f"hidden_{len(channels) - number}", **how,
            )(x)  # fmt: skip
            x = nn.glu(x[:rows, :columns])
        heads = {
            name: Conv(size // (num_rows * num_columns), 1, kernel_size=1, name=name, **how)(x)
            for name, size in self.heads.items()
        }
        heads = {name: head.reshape(-1).astype(jnp.float32) for name, head in heads.items()}
        shared = {
            name: self.param(name, bias_init, shape) for name, shape in self.constants.items()
        }
        return heads | shared


def gated_conv_encoder(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    image_shape: tuple[int, ...] | None,
    dtype: str = "float32",
) -> Network:
    """Returns a gated convolutional network from an image [num_inputs] to heads of given sizes.

    Args:
        hidden: channels of each layer, whose strides are 1, 2, 1, 2 and so on; the last number is
            the units of the layer that covers the whole image.

    Raises:
        ValueError: the inputs are not images, or there are fewer than two layers.
    """
    shape = require_images(image_shape, hidden, num_layers=2)
    module = GatedConvEncoder(shape, hidden, dict(heads), initialization, jnp.dtype(dtype))
    return of_module(module, num_inputs)


def gated_conv_decoder(
    num_inputs: int,
    heads: Mapping[str, int],
    *,
    hidden: tuple[int, ...],
    initialization: Initialization,
    constants: Mapping[str, tuple[int, ...]] = NO_CONSTANTS,
    image_shape: tuple[int, ...] | None,
    dtype: str = "float32",
) -> Network:
    """Returns the decoder that mirrors `gated_conv_encoder`, to image heads and to constants.

    Args:
        hidden: the encoder's channels in reverse order; the first number is not used.

    Raises:
        ValueError: the outputs are not images, or there are fewer than two layers.
    """
    shape = require_images(image_shape, hidden, num_layers=2)
    module = GatedConvDecoder(
        shape, hidden, dict(heads), dict(constants), initialization, jnp.dtype(dtype)
    )
    return of_module(module, num_inputs)
