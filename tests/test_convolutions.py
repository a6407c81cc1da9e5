"""Convolutions by matrix products: values and derivatives of XLA's own convolutions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from marks import slow_but

from aevb.convolutions import LAYOUT, convolve, convolve_transposed
from aevb.networks.convolutional import Conv

SHAPES = [(7, 8, 1), (5, 5, 3), (1, 4, 2)]  # odd and even sizes, 1 and 3 channels
SIZES = [(3, 3, 1), (3, 3, 2), (4, 2, 2), (5, 3, 3), (1, 1, 2)]  # height, width, stride


def plain(is_transposed: bool, stride: int, x: Array, kernel: Array) -> Array:
    convolution = lax.conv_transpose if is_transposed else lax.conv_general_dilated
    return convolution(x[None], kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT)[0]


def ours(is_transposed: bool, stride: int, x: Array, kernel: Array) -> Array:
    return (convolve_transposed if is_transposed else convolve)(x, kernel, stride=stride)


def arrays(shape: tuple[int, ...], height: int, width: int, *leading: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(height, width, shape[-1], 4))
    return jnp.asarray(rng.normal(size=(*leading, *shape))), jnp.asarray(kernel)


def derivatives(
    convolution: Callable[[Array, Array], Array], x: Array, kernel: Array, *, num_vmaps: int = 0
) -> tuple[Any, ...]:
    """Returns the value of a nonlinear sum over all images, and its first two derivatives."""
    over = convolution
    for _ in range(num_vmaps):
        over = jax.vmap(over, in_axes=(0, None))

    def total(x: Array, kernel: Array) -> Array:
        y = over(x, kernel)
        return jnp.sum(jnp.sin(y) * jnp.cos(jnp.arange(y.size).reshape(y.shape)))

    def slope(x: Array, kernel: Array) -> Array:
        grads = jax.grad(total, argnums=(0, 1))(x, kernel)
        return jnp.sum(jnp.square(grads[0])) + jnp.sum(jnp.square(grads[1]))

    value, grads = jax.value_and_grad(total, argnums=(0, 1))(x, kernel)
    return value, grads, jax.grad(slope, argnums=(0, 1))(x, kernel)


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "stride"), slow_but([(3, 3, 2), (4, 2, 2)], SIZES, unpack=True)
)
def test_values_and_derivatives_are_those_of_a_plain_convolution(
    height: int, width: int, stride: int, *, is_transposed: bool
):
    with jax.enable_x64(True):
        for shape in SHAPES:
            found, expected = (
                jax.jit(partial(derivatives, partial(which, is_transposed, stride)))(
                    *arrays(shape, height, width)
                )
                for which in (ours, plain)
            )
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), found, expected)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_samples_and_datapoints_are_mapped_over_in_float32(*, is_transposed: bool):
    """The outer axis is that of the datapoints, the inner one that of their samples."""
    x, kernel = (jnp.float32(array) for array in arrays((7, 8, 3), 3, 3, 4, 5))
    found, expected = (
        jax.jit(partial(derivatives, partial(which, is_transposed, 2), num_vmaps=2))(x, kernel)
        for which in (ours, plain)
    )
    for ours_is, theirs_is in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        atol = 1e-5 * float(jnp.max(jnp.abs(theirs_is)))
        np.testing.assert_allclose(ours_is, theirs_is, atol=atol, rtol=0)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_only_a_differentiated_convolution_becomes_a_product(*, is_transposed: bool):
    x, kernel = arrays((8, 8, 2), 3, 3)
    of = partial(ours, is_transposed, 2)

    def has_convolution(function: Callable[..., Any]) -> bool:
        return "convolution(" in jax.jit(function).lower(x, kernel).as_text(dialect="hlo")

    assert has_convolution(of)
    assert has_convolution(jax.grad(lambda *arrays: jnp.sum(of(*arrays)))) == (
        jax.default_backend() != "cpu"
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_layer_has_the_parameters_and_values_of_flax(dtype: Any, *, is_transposed: bool):
    inits = nn.initializers.normal(0.1), nn.initializers.normal(1.0)
    how = {"kernel_init": inits[0], "bias_init": inits[1], "dtype": dtype}
    layer = Conv(4, stride=2, is_transposed=is_transposed, **how)
    flax_layer = (nn.ConvTranspose if is_transposed else nn.Conv)(4, (3, 3), strides=(2, 2), **how)
    x = jnp.float32(arrays((7, 8, 3), 3, 3)[0])
    params, theirs = (each.init(jax.random.key(0), x) for each in (layer, flax_layer))
    jax.tree.map(np.testing.assert_array_equal, params, theirs)
    values, expected = (jnp.asarray(each.apply(params, x)) for each in (layer, flax_layer))
    assert values.dtype == dtype
    atol = 1e-6 if dtype == jnp.float32 else 1e-2  # flax rounds the bias before it adds it
    np.testing.assert_allclose(jnp.float32(values), jnp.float32(expected), rtol=1e-2, atol=atol)
