"""Gated and residual convolutional networks against SciPy's correlations, and their refusals."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special
from configs import changed
from refusals import refusal

from aevb.experiment import build
from aevb.networks import NETWORKS, Network, normal_init
from aevb.networks.convolutional import ResidualBlock

HIDDEN = (3, 4, 5, 2)  # of the gated networks: strides 1, 2, 1, and the layer of the whole image
SHAPES = [(6, 5), pytest.param((28, 20), marks=pytest.mark.slow), (5, 4, 3), (1, 1)]
HEADS = {"mean": 2, "log_var": 3}
NAMES = ("gated_conv", "residual_conv")
PAPERS = (32, 32, 64, 64, 64, 256)


def encoder(
    name: str, shape: tuple[int, ...], hidden: tuple[int, ...] = HIDDEN, **more: Any
) -> Network:
    how: dict[str, Any] = {"initialization": normal_init(0.3), "image_shape": shape, **more}
    return NETWORKS[name].encoder(math.prod(shape), HEADS, hidden=hidden, **how)


def decoder(
    name: str, shape: tuple[int, ...], hidden: tuple[int, ...] = HIDDEN[::-1], **more: Any
) -> Network:
    how: dict[str, Any] = {"initialization": normal_init(0.3), "image_shape": shape, **more}
    heads = {"mean": math.prod(shape), "logits": 2 * math.prod(shape)}
    return NETWORKS[name].decoder(2, heads, hidden=hidden, **how)


def drawn(network: Network) -> tuple[Any, Any]:
    """Returns parameters from N(0, 0.3^2), for JAX in float32 and for NumPy in float64."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(scale=0.3, size=leaf.shape)), shapes)
    return params, jax.tree.map(np.float64, params)


def correlation(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the full correlation of an image [R, C, F] with a kernel [H, W, F, G]."""
    images = [
        sum(
            scipy.signal.correlate2d(x[:, :, f], kernel[:, :, f, g]) for f in range(kernel.shape[2])
        )
        for g in range(kernel.shape[3])
    ]
    return np.stack(images, axis=-1)


def convolved(x: np.ndarray, layer: dict[str, np.ndarray], stride: int = 1) -> np.ndarray:
    """Returns every `stride`-th pixel of a correlation that is padded as "SAME"."""
    size = len(layer["kernel"])
    full = correlation(x, layer["kernel"])
    before = [max((-(-n // stride) - 1) * stride + size - n, 0) // 2 for n in x.shape[:2]]
    rows, columns = (
        slice(size - 1 - zeros, size - 1 - zeros + n, stride)
        for zeros, n in zip(before, x.shape[:2], strict=True)
    )
    return full[rows, columns] + layer["bias"]


def doubled(x: np.ndarray, layer: dict[str, np.ndarray], to: tuple[int, ...]) -> np.ndarray:
    """Returns the correlation of an image with zeros between its pixels, cut to the size `to`."""
    size = len(layer["kernel"])
    spread = np.zeros((2 * len(x), 2 * x.shape[1], x.shape[2]))
    spread[::2, ::2] = x
    start = size - 1 - (size + 1) // 2
    return correlation(spread, layer["kernel"])[start:, start:][: to[0], : to[1]] + layer["bias"]


def gated(x: np.ndarray) -> np.ndarray:
    values, gates = np.split(x, 2, axis=-1)
    return values * scipy.special.expit(gates)


def linear(x: np.ndarray, layer: dict[str, np.ndarray]) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def close(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.max(np.abs(expected)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gated_encoder_is_gated_correlations_of_alternating_strides(shape: tuple[int, ...]):
    network = encoder("gated_conv", shape)
    params, layers = drawn(network)
    x = np.random.default_rng(0).normal(size=math.prod(shape))
    h = x.reshape(*shape[:2], -1)
    for number in range(3):
        h = gated(convolved(h, layers[f"hidden_{number}"], stride=1 + number % 2))
    h = gated(linear(h.ravel(), layers["hidden_3"]))
    found = jax.jit(network.apply)(params, jnp.float32(x))
    for head, size in HEADS.items():
        assert found[head].shape == (size,)
        close(found[head], linear(h, layers[head]))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gated_decoder_mirrors_the_encoder(shape: tuple[int, ...]):
    """Its channels are 4 at the halved size, 3 at the full size: those of layers 1 and 0."""
    network = decoder("gated_conv", shape)
    params, layers = drawn(network)
    z = np.random.default_rng(0).normal(size=2)
    half = [-(-length // 2) for length in shape[:2]]
    h = gated((z @ layers["hidden_0"]["kernel"]).reshape(*half, 8) + layers["hidden_0_bias"])
    h = gated(convolved(h, layers["hidden_1"]))
    h = gated(doubled(h, layers["hidden_2"], shape))
    h = gated(convolved(h, layers["hidden_3"]))
    assert h.shape == (*shape[:2], 3)
    found = jax.jit(network.apply)(params, jnp.float32(z))
    for head in ("mean", "logits"):
        close(found[head], linear(h, layers[head]).ravel())


def test_the_gated_networks_of_28_x_28_pixels_have_the_parameters_of_the_paper():
    """The numbers are counted from the layers of van den Berg et al. (2018), for Z = 20."""

    def conv(size: int, num_in: int, num_out: int) -> int:
        return 2 * (size**2 * num_in + 1) * num_out  # the values' and the gates'

    def count(network: Network) -> int:
        leaves = jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)))
        return sum(math.prod(leaf.shape) for leaf in leaves)

    how: dict[str, Any] = {"initialization": normal_init(0.1), "image_shape": (28, 28)}
    heads = {"mean": 20, "log_var": 20}
    there = NETWORKS["gated_conv"].encoder(784, heads, hidden=PAPERS, **how)
    back = NETWORKS["gated_conv"].decoder(20, {"logits": 784}, hidden=PAPERS[::-1], **how)
    convolutions = itertools.starmap(partial(conv, 5), itertools.pairwise((1, 32, 32, 64, 64, 64)))
    assert count(there) == sum(convolutions) + conv(7, 64, 256) + 2 * 257 * 20
    convolutions = itertools.starmap(partial(conv, 5), itertools.pairwise((64, 64, 32, 32, 32, 32)))
    assert count(back) == conv(7, 20, 64) + sum(convolutions) + 33


# Residual networks


def normalized(x: np.ndarray, group_size: int) -> np.ndarray:
    groups = x.reshape(*x.shape[:2], -1, group_size)
    mean, var = (of(groups, axis=(0, 1, 3), keepdims=True) for of in (np.mean, np.var))
    return ((groups - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)


@pytest.mark.parametrize(("channels", "group_size"), [(6, 6), (32, 16), (34, 2)])
def test_a_residual_block_adds_two_convolutions_of_normalized_groups(
    channels: int, group_size: int
):
    """A large mean shows that the variance is not computed as a difference of squares."""
    how: dict[str, Any] = {"kernel_init": jax.nn.initializers.normal(0.1), "dtype": jnp.float32}
    block = ResidualBlock("relu", bias_init=jax.nn.initializers.normal(1.0), **how)
    x = (np.random.default_rng(0).normal(size=(4, 3, channels)) + 1000.0).astype(np.float32)
    params = jax.tree.map(np.asarray, jax.jit(block.init)(jax.random.key(0), x))
    layers, y = (
        jax.tree.map(lambda leaf: leaf.astype(np.float64), params["params"]),
        x.astype(np.float64),
    )
    for number in range(2):
        np.testing.assert_array_equal(layers[f"norm_{number}"]["scale"], 1.0)
        y = convolved(np.maximum(normalized(y, group_size), 0.0), layers[f"conv_{number}"])
    found = jnp.asarray(jax.jit(block.apply)(params, x))
    np.testing.assert_allclose(found - x, y, atol=2e-3)


@pytest.mark.parametrize("shape", [(7, 5), (6, 4, 3)])
@pytest.mark.parametrize("make", [encoder, decoder])
def test_without_its_blocks_a_residual_network_is_the_plain_one(
    make: Callable[..., Network], shape: tuple[int, ...]
):
    """The kernels and biases of the blocks are 0."""
    network = make("residual_conv", shape, (3, 4))
    plain = make("conv", shape, (3, 4), activation="silu")
    params, _ = drawn(network)
    blocks = {name: layer for name, layer in params.items() if "block" in name}
    assert len(blocks) == 4
    zeros = params | jax.tree.map(np.zeros_like, blocks)
    rest = {name: layer for name, layer in params.items() if name not in blocks}
    x = jnp.float32(np.random.default_rng(0).normal(size=math.prod(shape)))
    x = x if make is encoder else x[:2]
    expected = jax.jit(plain.apply)(rest, x)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(network.apply)(zeros, x), expected)
    assert not np.allclose(jax.jit(network.apply)(params, x)["mean"], expected["mean"])


# Both


@pytest.mark.parametrize("name", NAMES)
def test_samples_and_datapoints_are_mapped_over(name: str):
    network = decoder(name, (6, 5), (4, 3))
    params, _ = drawn(network)
    z = jnp.float32(np.random.default_rng(0).normal(size=(3, 2, 2)))  # [M, L, Z]
    each = jax.jit(jax.vmap(jax.vmap(network.apply, in_axes=(None, 0)), in_axes=(None, 0)))
    found, one = each(params, z)["mean"], jax.jit(network.apply)
    assert found.shape == (3, 2, 30)
    for index in np.ndindex(3, 2):
        close(found[index], np.asarray(one(params, z[index])["mean"]))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_can_be_float64(name: str):
    """The parameters and the heads are float32 there too."""
    network = encoder(name, (6, 5), (3, 4))
    params, _ = drawn(network)
    x = np.random.default_rng(0).normal(size=30)
    expected = jax.jit(network.apply)(params, jnp.float32(x))["mean"]
    with jax.enable_x64(True):
        found = jax.jit(network.apply)(params, jnp.asarray(x))["mean"]
    assert found.dtype == jnp.float32
    close(found, np.asarray(expected))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"network": "gated_conv", "hidden": (8,)}, ["gated_conv", "at least 2 layers", "(8,)"]),
        ({"network": "residual_conv", "hidden": ()}, ["residual_conv", "at least one layer"]),
        (
            {"network": "residual_conv", "network_options": {"num_blocks": -1}},
            ["num_blocks is -1", "from 0 to 100"],
        ),
        (
            {"network": "residual_conv", "network_options": {"num_blocks": 1.5}},
            ["num_blocks is 1.5", "whole number"],
        ),
        (
            {"network": "residual_conv", "network_options": {"activation": "tan"}},
            ["activation is 'tan'", "silu"],
        ),
        (
            {"network": "gated_conv", "network_options": {"activation": "relu"}},
            ["network_options.activation is unknown", "gated_conv", "(none)"],
        ),
    ],
)  # fmt: skip
def test_settings_that_make_no_network_are_refused(settings: dict[str, Any], words: list[str]):
    line = refusal(build, changed(**{f"model__{name}": value for name, value in settings.items()}))
    assert all(word in line for word in words), line


@pytest.mark.parametrize("name", NAMES)
def test_data_that_are_no_images_are_refused(name: str):
    config = changed(
        model__network=name, model__likelihood="gaussian", data__name="synthetic", data__split=""
    )
    assert "these data are not images" in refusal(build, config)
