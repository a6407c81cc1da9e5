"""Convolutions of one image, padded as "SAME", with a gradient that is fast on a CPU too.

In a loop, such as that of training, XLA computes the gradient of a convolution's kernel on a CPU
some ten times slower than a matrix product of the same size (jax-ml/jax#12868). A convolution that
is differentiated on a CPU is therefore computed as the product of a matrix of patches and the
kernel. Without a gradient, and on other devices, XLA's convolution is used. docs/speed.md has the
measurements.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

LAYOUT = ("NHWC", "HWIO", "NHWC")  # images with the channels last

Convolution = Callable[[Array, Array, int], Array]  # (image, kernel, stride) -> image


def convolve(x: Array, kernel: Array, *, stride: int = 1) -> Array:
    """Returns the convolution of an image, [ceil(rows / stride), ceil(columns / stride), G].

    Args:
        x: the image, [rows, columns, F].
        kernel: [height, width, F, G].
        stride: the distance of neighbouring outputs, in pixels.
    """
    return _CONVOLVE(x, kernel, stride)


def convolve_transposed(x: Array, kernel: Array, *, stride: int = 2) -> Array:
    """Returns the transposed convolution of an image, [stride * rows, stride * columns, G].

    It is that of `jax.lax.conv_transpose`, which does not mirror the kernel.

    Args:
        x: the image, [rows, columns, F].
        kernel: [height, width, F, G].
        stride: the enlargement.
    """
    return _CONVOLVE_TRANSPOSED(x, kernel, stride)


def _direct(x: Array, kernel: Array, stride: int) -> Array:
    strides = (stride, stride)
    return lax.conv_general_dilated(x[None], kernel, strides, "SAME", dimension_numbers=LAYOUT)[0]


def _direct_transposed(x: Array, kernel: Array, stride: int) -> Array:
    strides = (stride, stride)
    return lax.conv_transpose(x[None], kernel, strides, "SAME", dimension_numbers=LAYOUT)[0]


def _by_patches(x: Array, kernel: Array, stride: int) -> Array:
    """Returns the convolution as a product: patches [positions, height * width * F] by kernel."""
    *size, num_in, num_out = kernel.shape
    rows, columns = (-(-length // stride) for length in x.shape[:2])
    pads = lax.padtype_to_pads(x.shape[:2], size, (stride, stride), "SAME")
    x = jnp.pad(x, (*pads, (0, 0)))

    def meets(row: int, column: int) -> Array:
        """Returns the pixels that one element of the kernel meets, [rows, columns, F]."""
        end = row + (rows - 1) * stride + 1, column + (columns - 1) * stride + 1, num_in
        return lax.slice(x, (row, column, 0), end, (stride, stride, 1))

    patches = jnp.concatenate([meets(*offset) for offset in np.ndindex(*size)], axis=-1)
    product = _product(patches.reshape(rows * columns, -1), kernel.reshape(-1, num_out))
    return product.reshape(rows, columns, num_out)


def _by_parts(x: Array, kernel: Array, stride: int) -> Array:
    """Returns the transposed convolution as a sum of shifted parts.

    Each element of the kernel has a part: the image times this element [F, G]. One product computes
    all parts.
    """
    rows, columns, num_in = x.shape
    height, width, _, num_out = kernel.shape
    elements = kernel.transpose(2, 0, 1, 3).reshape(num_in, -1)
    products = _product(x.reshape(rows * columns, num_in), elements)
    of_elements = iter(lax.split(products, [num_out] * (height * width), axis=1))

    def of_row() -> Array:
        """Returns what the next row of the kernel adds, [rows, columns, stride * G]."""
        parts = [next(of_elements).reshape(rows, columns, num_out) for _ in range(width)]
        return jnp.concatenate(_phases(parts, stride, axis=1), axis=-1)

    enlarged = jnp.stack(_phases([of_row() for _ in range(height)], stride, axis=0), axis=1)
    return enlarged.reshape(stride * rows, stride * columns, num_out)


def _phases(parts: list[Array], stride: int, axis: int) -> list[Array]:
    """Returns the outputs at the positions 0, ..., stride - 1 modulo the stride, along one axis.

    Output stride * p + phase is the sum of parts[j] at the input position p + shift, for each j
    such that stride * shift = phase + j - before.
    """
    before = min(len(parts) - 1, (len(parts) + stride - 1) // 2)  # zeros before the first input

    def phase(number: int) -> Array:
        shifts = {j: divmod(number + j - before, stride) for j in range(len(parts))}
        terms = [_shifted(parts[j], by, axis) for j, (by, rest) in shifts.items() if rest == 0]
        return sum(terms[1:], start=terms[0]) if terms else jnp.zeros_like(parts[0])

    return [phase(number) for number in range(stride)]


def _shifted(x: Array, by: int, axis: int) -> Array:
    """Returns the array whose element at p is that of `x` at p + by, or 0 outside of `x`."""
    pads = [(-by, by, 0) if each == axis else (0, 0, 0) for each in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), pads) if by else x


def _product(x: Array, matrix: Array) -> Array:
    """Returns x [positions, F] times the matrix [F, G].

    The matrix is contracted along its last axis, behind a barrier. Without the two, XLA computes
    the gradient of the matrix with a slower routine.
    """
    transposed = lax.optimization_barrier(matrix.T)
    return lax.dot_general(x, transposed, (((1,), (1,)), ((), ())))


def _with_gradient_by(products: Convolution, direct: Convolution) -> Convolution:
    """Returns a convolution whose derivatives are those of `products` on a CPU."""

    @partial(jax.custom_jvp, nondiff_argnums=(2,))
    def convolution(x: Array, kernel: Array, stride: int) -> Array:
        return direct(x, kernel, stride)

    @convolution.defjvp
    def _(stride: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]):
        def differentiable(x: Array, kernel: Array) -> Array:
            return lax.platform_dependent(
                x,
                kernel,
                cpu=lambda x, kernel: products(x, kernel, stride),
                default=lambda x, kernel: direct(x, kernel, stride),
            )

        return jax.jvp(differentiable, primals, tangents)

    return convolution


_CONVOLVE = _with_gradient_by(_by_patches, _direct)
_CONVOLVE_TRANSPOSED = _with_gradient_by(_by_parts, _direct_transposed)
