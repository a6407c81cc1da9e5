"""Convolutions of one image, padded as "SAME", with a gradient that is fast on a CPU too.

XLA's CPU backend has a fast routine for a convolution whose arrays have their axes in the order of
`LAYOUT`. JAX makes the gradient by transposing the convolution, which changes the order, and in a
loop, such as that of training, XLA then computes the gradient ten to thirty times slower
(jax-ml/jax#12868). On a CPU the derivative is therefore the sum of two convolutions, one linear in
the image and one in the kernel, whose axes are so ordered that their transposes have the order of
`LAYOUT`. docs/speed.md has the measurements.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

LAYOUT = ("NHWC", "HWIO", "NHWC")  # images with the channels last
OF_IMAGES = ("NHWC", "HWOI", "NHWC")  # transposed to LAYOUT with respect to the image
OF_KERNELS = ("CHWN", "IHWO", "HWNC")  # transposed to LAYOUT with respect to the kernel

Convolution = Callable[..., Array]  # (image, kernel, stride) -> image


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


def _by_blocks(x: Array, kernel: Array, stride: int) -> Array:
    """Returns `_direct` by a stride of 1, in the order of axes for the gradient of the image.

    A block of stride x stride pixels is one pixel with stride * stride * F channels. Without
    blocks, the gradient would be the convolution of an image that is mostly zeros.
    """
    *sizes, num_in, num_out = kernel.shape
    zeros = lax.padtype_to_pads(x.shape[:2], sizes, (stride, stride), "SAME")
    befores = [-(-before // stride) for before, _ in zeros]  # blocks of zeros
    kernel = _in_blocks(kernel, [-before % stride for before, _ in zeros], stride)
    kernel = kernel.transpose(0, 2, 5, 1, 3, 4).reshape(*kernel.shape[:3:2], num_out, -1)
    x = _in_blocks(x, [0, 0], stride).transpose(0, 2, 1, 3, 4)
    pads = [(n, size - 1 - n) for n, size in zip(befores, kernel.shape[:2], strict=True)]
    x = x.reshape(1, *x.shape[:2], stride * stride * num_in)
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=OF_IMAGES)[0]


def _of_kernel(x: Array, kernel: Array, stride: int) -> Array:
    """Returns `_direct`, in the order of axes for the gradient of the kernel."""
    x, kernel = x.transpose(2, 0, 1)[..., None], kernel.transpose(2, 0, 1, 3)
    strides = (stride, stride)
    y = lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=OF_KERNELS)
    return y[:, :, 0]


def _direct_transposed(x: Array, kernel: Array, stride: int) -> Array:
    strides = (stride, stride)
    return lax.conv_transpose(x[None], kernel, strides, "SAME", dimension_numbers=LAYOUT)[0]


def _by_phases(x: Array, kernel: Array, stride: int) -> Array:
    """Returns `_direct_transposed` by a convolution of stride 1, without zeros between pixels.

    The outputs at the positions 0, ..., stride - 1 modulo the stride are channels of one pixel.
    """
    *sizes, _, num_out = kernel.shape
    befores = [_num_before(size, stride) for size in sizes]
    kernel = _in_blocks(kernel, [stride - 1 - before % stride for before in befores], stride)
    kernel = kernel[:, ::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    kernel = kernel.reshape(*kernel.shape[:3], stride * stride * num_out)
    pads = [
        (before // stride, size - 1 - before // stride)
        for before, size in zip(befores, kernel.shape[:2], strict=True)
    ]
    y = lax.conv_general_dilated(x[None], kernel, (1, 1), pads, dimension_numbers=LAYOUT)
    rows, columns = x.shape[:2]
    y = y.reshape(rows, columns, stride, stride, num_out).transpose(0, 2, 1, 3, 4)
    return y.reshape(stride * rows, stride * columns, num_out)


def _in_blocks(x: Array, befores: Sequence[int], stride: int) -> Array:
    """Returns an array [rows, columns, ...] as [blocks, stride, blocks, stride, ...].

    Args:
        befores: the zeros before the rows and the columns; zeros after them complete the blocks.
    """
    pads = [
        (before, -(before + length) % stride, 0)
        for before, length in zip(befores, x.shape[:2], strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [*pads, *[(0, 0, 0)] * (x.ndim - 2)])
    rows, columns, *others = x.shape
    return x.reshape(rows // stride, stride, columns // stride, stride, *others)


def _of_image_transposed(x: Array, kernel: Array, stride: int) -> Array:
    """Returns `_direct_transposed`, in the order of axes for the gradient of the image."""
    pads = [
        (before := _num_before(size, stride), size + stride - 2 - before)
        for size in kernel.shape[:2]
    ]
    return lax.conv_general_dilated(
        x[None], kernel.swapaxes(2, 3), (1, 1), pads, lhs_dilation=(stride, stride),
        dimension_numbers=OF_IMAGES,
    )[0]  # fmt: skip


def _of_kernel_transposed(x: Array, kernel: Array, stride: int) -> Array:
    """Returns `_direct_transposed`, in the order of axes for the gradient of the kernel.

    It is the convolution of the mirrored kernel by the mirrored image, with stride - 1 zeros
    between the pixels of the latter. The channels G take the place of a minibatch.
    """
    pads = []
    for num_pixels, size in zip(x.shape[:2], kernel.shape[:2], strict=True):
        last = stride * (num_pixels - 1)  # the position of the last pixel
        before = last + 1 + _num_before(size, stride) - size
        pads.append((before, stride * num_pixels + last - size - before))
    y = lax.conv_general_dilated(
        lax.rev(kernel, (0, 1)).transpose(3, 0, 1, 2), lax.rev(x, (0, 1))[:, :, None], (1, 1), pads,
        rhs_dilation=(stride, stride), dimension_numbers=OF_IMAGES,
    )  # fmt: skip
    return y[..., 0].transpose(1, 2, 0)


def _num_before(size: int, stride: int) -> int:
    """Returns the zeros before the first pixel in a transposed convolution, along one axis."""
    return min(size - 1, (size + stride - 1) // 2)


def _with_derivative(
    direct: Convolution, value: Convolution, of_image: Convolution, of_kernel: Convolution
) -> Convolution:
    """Returns the convolution `direct`, computed by the others where it is differentiated on a CPU.

    All four are equal.

    Args:
        value: the form for the value.
        of_image: the form for the derivative with respect to the image.
        of_kernel: the form for the derivative with respect to the kernel.
    """

    @partial(jax.custom_jvp, nondiff_argnums=(2,))
    def convolution(x: Array, kernel: Array, stride: int) -> Array:
        return direct(x, kernel, stride)

    def derivative(stride: int, primals: tuple[Array, Array], tangents: tuple[Any, Any]):
        def of(on_cpu: Convolution, *arrays: Array) -> Array:
            return lax.platform_dependent(
                *arrays,
                cpu=lambda *arrays: on_cpu(*arrays, stride),
                default=lambda *arrays: direct(*arrays, stride),
            )

        (x, kernel), (x_dot, kernel_dot) = primals, tangents
        terms = []
        if not isinstance(x_dot, SymbolicZero):
            terms.append(of(of_image, x_dot, kernel))
        if not isinstance(kernel_dot, SymbolicZero):
            terms.append(of(of_kernel, x, kernel_dot))
        return of(value, x, kernel), sum(terms[1:], start=terms[0])

    convolution.defjvp(derivative, symbolic_zeros=True)
    return convolution


_CONVOLVE = _with_derivative(_direct, _direct, _by_blocks, _of_kernel)
_CONVOLVE_TRANSPOSED = _with_derivative(
    _direct_transposed, _by_phases, _of_image_transposed, _of_kernel_transposed
)
