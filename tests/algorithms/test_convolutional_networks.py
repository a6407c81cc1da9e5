"""Convolutional networks against convolutions in NumPy; options that save memory or time."""

import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow_but

from aevb import likelihoods, networks
from aevb.algorithms import aevb, full_vb, mcem, reweighted_wake_sleep, wake_sleep
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.losses import BOUNDS
from aevb.networks import NETWORKS, Network, conv_decoder, conv_encoder, normal_init
from aevb.vae import VAE, make

INIT = normal_init(0.3)
SHAPES = [(4, 4), pytest.param((28, 20), marks=pytest.mark.slow), (5, 3), (1, 1)]


def gelu(x: np.ndarray) -> np.ndarray:
    """Returns GELU with flax's tanh approximation of the normal's distribution function."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def halved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Returns every second pixel of a zero-padded correlation.

    It maps [R, C, I] to [ceil R/2, ceil C/2, O]. If the size of an axis is even, its zeros are at
    the end, like TensorFlow's "SAME".
    """
    rows, columns, _ = x.shape
    out = np.zeros((-(-rows // 2), -(-columns // 2), kernel.shape[-1])) + bias
    before = [1 if size % 2 else 0 for size in (rows, columns)]
    for r, c, i, j in itertools.product(*map(range, out.shape[:2]), range(3), range(3)):
        row, column = 2 * r + i - before[0], 2 * c + j - before[1]
        if 0 <= row < rows and 0 <= column < columns:
            out[r, c] += x[row, column] @ kernel[i, j]
    return out


def doubled(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Adds pixel (r, c) to pixels 2 r + 0..2, 2 c + 0..2, by the kernel rotated by 180 degrees."""
    rows, columns, _ = x.shape
    out = np.zeros((2 * rows + 1, 2 * columns + 1, kernel.shape[-1]))
    for r, c, i, j in itertools.product(range(rows), range(columns), range(3), range(3)):
        out[2 * r + i, 2 * c + j] += x[r, c] @ kernel[2 - i, 2 - j]
    return out[:-1, :-1] + bias


def random_params(network: Network) -> Any:
    """Draws parameters of the network's shapes from N(0, 0.3^2), which saves compiling `init`."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(scale=0.3, size=leaf.shape)),
        jax.eval_shape(network.init, jax.random.key(0)),
    )


def layers_of(params: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    return {name: (layer["kernel"], layer["bias"]) for name, layer in params.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_conv_encoder_is_correlations_of_stride_2_and_a_linear_layer_for_each_head(
    shape: tuple[int, int],
):
    number = shape[0] * shape[1]
    network = conv_encoder(
        number, {"mean": 2, "log_var": 3}, hidden=(3, 4), initialization=INIT, image_shape=shape
    )
    params = random_params(network)
    x = np.random.default_rng(0).normal(size=number)
    layers = layers_of(params)
    h = x.reshape(*shape, 1)
    for name in ("hidden_0", "hidden_1"):
        h = gelu(halved(h, *layers[name]))
    found = jax.jit(network.apply)(params, jnp.asarray(x, jnp.float32))
    for head in ("mean", "log_var"):
        kernel, bias = layers[head]
        np.testing.assert_allclose(found[head], h.ravel() @ kernel + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_conv_decoder_doubles_the_size_up_to_the_image_and_has_the_heads_as_channels(
    shape: tuple[int, int],
):
    number = shape[0] * shape[1]
    heads = {"mean": number, "logits": 5 * number}
    network = conv_decoder(2, heads, hidden=(4, 3), initialization=INIT, image_shape=shape)
    params = random_params(network)
    layers = layers_of(params)
    z = np.random.default_rng(0).normal(size=2)
    sizes = [shape]
    for _ in range(2):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    kernel, bias = layers["hidden_0"]
    h = gelu((z @ kernel + bias).reshape(*sizes[2], 4))
    h = gelu(doubled(h, *layers["hidden_1"])[: sizes[1][0], : sizes[1][1]])
    found = jax.jit(network.apply)(params, jnp.asarray(z, jnp.float32))
    for head, size in (("mean", 1), ("logits", 5)):
        expected = doubled(h, *layers[head])[: shape[0], : shape[1]]
        assert expected.shape == (*shape, size)
        np.testing.assert_allclose(
            found[head].reshape(*shape, size), expected, rtol=1e-4, atol=1e-5
        )


# Options of any network that save memory or time


def model(
    name: str, dtype: str = "float32", wrap: Callable[[Network], Network] = lambda n: n
) -> VAE:
    """Returns a model of binary images of 8 x 8, with 2 latents."""
    common: dict[str, Any] = {
        "initialization": normal_init(0.1),
        "image_shape": (8, 8),
        "dtype": dtype,
    }
    encoder = NETWORKS[name].encoder(64, {"mean": 2, "log_var": 2}, hidden=(16, 8), **common)
    decoder = NETWORKS[name].decoder(2, {"logits": 64}, hidden=(8, 16), **common)
    return make(wrap(encoder), wrap(decoder), likelihoods.bernoulli, num_latents=2)


M = 12
ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "full_vb": partial(full_vb.make, num_data=M, bound=BOUNDS["sgvb_b"]),
    "wake_sleep": wake_sleep.make,
    "reweighted_wake_sleep": reweighted_wake_sleep.make,
    "mcem": partial(mcem.make, num_data=M),
}
X = np.random.default_rng(0).integers(0, 2, (M, 64)).astype(np.float32)
BATCH = Batch(X, np.arange(M, dtype=np.int32))  # pyright: ignore[reportArgumentType]


def step(
    algorithm: Algorithm, start: TrainState | None = None
) -> tuple[TrainState, dict[str, jax.Array]]:
    state = jax.jit(algorithm.init)(jax.random.key(0)) if start is None else start
    return jax.jit(algorithm.update)(jax.random.key(1), state, BATCH)


def by_sgvb(vae: VAE, **more: Any) -> Algorithm:
    return aevb.make(vae, optax.sgd(0.1), bound=BOUNDS["sgvb_b"], **more)


@cache
def start_of(network: str) -> TrainState:
    """Returns the first state of SGVB, which does not depend on the network's dtype or wrapping."""
    return jax.jit(by_sgvb(model(network)).init)(jax.random.key(0))


@cache
def plain_step(network: str) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the result of the first step of SGVB in float32, on a whole minibatch."""
    return step(by_sgvb(model(network)), start_of(network))


def pairs_of(one: Any, other: Any) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Pairs the leaves of two trees."""
    return zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)


def temporary_bytes(algorithm: Algorithm) -> int:
    state = algorithm.init(jax.random.key(0))
    compiled = jax.jit(algorithm.update).lower(jax.random.key(1), state, BATCH).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("network", ["mlp", pytest.param("conv", marks=pytest.mark.slow)])
def test_accumulation_over_parts_of_a_minibatch_gives_the_step_of_the_whole_with_sgvb(network: str):
    in_parts = step(by_sgvb(model(network), accumulation_steps=4), start_of(network))
    for one, other in pairs_of(plain_step(network), in_parts):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network"), [*itertools.product(ALGORITHMS, ["mlp"]), ("full_vb", "conv")]
)
def test_accumulation_over_parts_of_a_minibatch_gives_the_step_of_the_whole(
    name: str, network: str
):
    # Convolutions have no local noise.
    more = {"weight_noise": "datapoint"} if (name, network) == ("full_vb", "conv") else {}
    optimizer = optax.sgd(0.1)
    whole, in_parts = (
        step(ALGORITHMS[name](model(network), optimizer, accumulation_steps=parts, **more))
        for parts in (1, 4)
    )
    for one, other in pairs_of(whole, in_parts):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


@pytest.mark.slow
def test_accumulation_over_parts_of_a_minibatch_takes_less_memory():
    def algorithm(parts: int) -> Algorithm:
        return by_sgvb(model("conv"), accumulation_steps=parts)

    assert temporary_bytes(algorithm(12)) < 0.5 * temporary_bytes(algorithm(1))


@pytest.mark.parametrize("network", ["mlp", pytest.param("conv", marks=pytest.mark.slow)])
def test_rematerialization_does_not_change_the_step(network: str):
    again = step(by_sgvb(model(network, wrap=networks.rematerialized)), start_of(network))
    for one, other in pairs_of(plain_step(network), again):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("network", slow_but(["mlp"], NETWORKS))
def test_bfloat16_products_keep_float32_parameters_and_nearly_the_same_step(network: str):
    exact, exact_metrics = plain_step(network)
    half, metrics = step(by_sgvb(model(network, "bfloat16")), start_of(network))
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("float32")}
    assert metrics["objective"].dtype == jnp.float32
    assert metrics["objective"] != exact_metrics["objective"]  # so it was not computed in float32
    assert float(metrics["objective"]) == pytest.approx(float(exact_metrics["objective"]), rel=0.01)
    moved = [
        np.concatenate([np.ravel(a - b) for a, b in pairs_of(to, start_of(network).params)])
        for to in (exact.params, half.params)
    ]
    assert np.linalg.norm(moved[1] - moved[0]) < 0.05 * np.linalg.norm(moved[0])
