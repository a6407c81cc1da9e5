"""Layers of networks against their formulas, and noisy units against those of drawn weights."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from configs import changed
from oracles import standard_errors_off
from refusals import refusal

from aevb.experiment import build
from aevb.networks import Network, WeightPosterior, gated_mlp, mlp, normal_init, residual_mlp
from aevb.networks.base import ACTIVATIONS, NO_CONSTANTS

NUM_DRAWS = 20_000
NUM_INPUTS = 3
HEADS = {"mean": 4, "log_var": 2}


def network(
    *, hidden: tuple[int, ...] = (), constants: Mapping[str, tuple[int, ...]] = NO_CONSTANTS
) -> Network:
    return mlp(
        NUM_INPUTS, HEADS, hidden=hidden, initialization=normal_init(0.7), constants=constants
    )


def posterior_of(net: Network, *, seed: int = 0) -> tuple[Any, Any]:
    """Returns means, and log-variances of many sizes."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    mean = jax.tree.map(lambda leaf: jnp.float32(rng.normal(scale=0.7, size=leaf.shape)), shapes)
    return mean, jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape) - 1.0), mean)


def inputs(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=NUM_INPUTS).astype(np.float32)


@cache
def noisy_draws(net: Network) -> Callable[[Any, Any, np.ndarray], dict[str, np.ndarray]]:
    """Returns a function (means, log-variances, x [M, D]) that draws the heads by unit noise.

    Each head is [M, draws, ...]. The noise is the same for all x.
    """

    @jax.jit
    @partial(jax.vmap, in_axes=(None, None, 0))  # over x
    def heads_of(mean: Any, log_var: Any, x: jax.Array) -> Mapping[str, jax.Array]:
        keys = jax.random.split(jax.random.key(2), NUM_DRAWS)
        return jax.vmap(lambda key: net.apply(WeightPosterior(mean, log_var, key), x))(keys)

    def draw(mean: Any, log_var: Any, x: np.ndarray) -> dict[str, np.ndarray]:
        heads = heads_of(mean, log_var, jnp.asarray(x))
        return {name: np.asarray(head, np.float64) for name, head in heads.items()}

    return draw


def weight_draws(net: Network, mean: Any, log_var: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the heads [NUM_DRAWS, ...] for weights that NumPy draws."""
    rng = np.random.default_rng(3)

    def draw(mean: jax.Array, log_var: jax.Array) -> jax.Array:
        noise = rng.normal(size=(NUM_DRAWS, *mean.shape))
        return jnp.float32(np.asarray(mean) + np.exp(0.5 * np.asarray(log_var)) * noise)

    weights = jax.tree.map(draw, mean, log_var)
    draws = jax.jit(jax.vmap(net.apply, in_axes=(0, None)))(weights, jnp.asarray(x))
    return {name: np.asarray(draw, np.float64) for name, draw in draws.items()}


def moments(layer: Any, log_vars: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns x'M + b and x^2'V + v, in float64."""
    layer, log_vars = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (layer, log_vars))
    x = x.astype(np.float64)
    mean = x @ layer["kernel"] + layer["bias"]
    return mean, x**2 @ np.exp(log_vars["kernel"]) + np.exp(log_vars["bias"])


HEADS_ALONE = network()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mean_and_variance_of_a_unit_are_those_of_its_random_weights(seed: int):
    """The noise (unit - x'M - b) / sqrt(x^2'V + v) is standard normal and the same for all x."""
    mean, log_var = posterior_of(HEADS_ALONE, seed=seed)
    x = np.stack([inputs(seed), inputs(seed + 10), 0.0 * inputs(seed), 30.0 * inputs(seed)])
    units = noisy_draws(HEADS_ALONE)(mean, log_var, x)
    noise, *others = (
        np.concatenate(
            [
                (units[head][number] - expected) / np.sqrt(var)
                for head in HEADS
                for expected, var in [moments(mean[head], log_var[head], point)]
            ],
            axis=1,
        )
        for number, point in enumerate(x)
    )
    for other in others:
        np.testing.assert_allclose(other, noise, atol=2e-5)
    for unit in noise.T:
        assert scipy.stats.kstest(unit, scipy.stats.norm.cdf).pvalue > 1e-3
    products = noise[:, :, None] * noise[:, None, :]  # heads and units are independent
    assert standard_errors_off(products, np.eye(noise.shape[1])) < 4


@pytest.mark.parametrize(
    "hidden",
    [pytest.param((), marks=pytest.mark.slow), pytest.param((6,), marks=pytest.mark.slow), (5, 4)],
)
def test_noisy_units_have_the_distribution_that_noisy_weights_give_them(hidden: tuple[int, ...]):
    """The test covers each unit, the covariances within and across heads, and a constant."""
    net = network(hidden=hidden, constants={"log_std": (1,)})
    mean, log_var = posterior_of(net)
    drawn = noisy_draws(net)(mean, log_var, inputs()[None])
    by_units = np.concatenate([head[0] for head in drawn.values()], axis=1)
    drawn = weight_draws(net, mean, log_var, inputs())
    by_weights = np.concatenate(list(drawn.values()), axis=1)
    assert by_units.shape == (NUM_DRAWS, sum(HEADS.values()) + 1)
    for unit, other in zip(by_units.T, by_weights.T, strict=True):
        assert scipy.stats.ks_2samp(unit, other).pvalue > 1e-3  # pyright: ignore[reportAttributeAccessIssue]
    centre = np.mean(by_weights, axis=0)
    products = [
        (units[:, :, None] - centre[:, None]) * (units[:, None, :] - centre)
        for units in (by_units, by_weights)
    ]
    error = np.sqrt(sum(np.var(each, axis=0) / NUM_DRAWS for each in products))
    miss = np.abs(np.mean(products[0], axis=0) - np.mean(products[1], axis=0))
    assert np.max(miss / error) < 4


def test_inputs_share_their_noise_only_if_they_share_their_key():
    """The samples of z of one datapoint share its noise; different datapoints do not."""
    net = network(hidden=(5,))
    mean, log_var = posterior_of(net)

    def apply(key: jax.Array) -> jax.Array:
        return net.apply(WeightPosterior(mean, log_var, key), jnp.asarray(inputs()))["mean"]

    keys = jax.vmap(jax.random.key)(jnp.array([0, 0, 1]))
    first, again, other = np.asarray(jax.jit(jax.vmap(apply))(keys))
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)


@pytest.mark.slow
def test_without_variance_a_noisy_network_is_the_one_of_the_means():
    """The gradients are equal too, also where exp(log_var) is 0 in float32."""
    net = network(hidden=(5, 4), constants={"log_std": (1,)})
    mean, _ = posterior_of(net)

    def total(params: Any) -> jax.Array:
        heads = net.apply(params, jnp.asarray(inputs()))
        return sum((jnp.sum(jnp.sin(head)) for head in heads.values()), jnp.zeros(()))

    def noisy(mean: Any, log_vars: Any) -> jax.Array:
        return total(WeightPosterior(mean, log_vars, jax.random.key(1)))

    @jax.jit
    @jax.vmap
    def of_noisy(log_var: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
        log_vars = jax.tree.map(lambda leaf: jnp.full_like(leaf, log_var), mean)
        return jax.value_and_grad(noisy, argnums=(0, 1))(mean, log_vars)

    values, (grads, log_var_grads) = of_noisy(jnp.array([-60.0, -300.0, -jnp.inf]))
    exact, exact_grads = jax.jit(jax.value_and_grad(total))(mean)
    np.testing.assert_allclose(values, exact, rtol=1e-6)
    for number in range(len(values)):
        jax.tree.map(
            lambda g, of_mean, at=number: np.testing.assert_allclose(
                g[at], of_mean, rtol=1e-4, atol=1e-6
            ),
            grads,
            exact_grads,
        )
    jax.tree.map(lambda g: np.testing.assert_allclose(g, 0.0, atol=1e-6), log_var_grads)


# Kinds of hidden layers

FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "leaky_relu": lambda x: np.where(x > 0.0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0.0, x, np.expm1(x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * scipy.special.expit(x),
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "sigmoid": scipy.special.expit,
}


def means_of(make: Callable[..., Network], **options: Any) -> tuple[Any, np.ndarray]:
    """Returns float64 parameters of a network with hidden layers of 5, 5 and 4, and its means."""
    net = make(NUM_INPUTS, HEADS, hidden=(5, 5, 4), initialization=normal_init(0.7), **options)
    params = net.init(jax.random.key(1))
    means = net.apply(params, jnp.asarray(inputs()))["mean"]
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), np.asarray(means)


def linear(layer: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hidden_layers_have_the_activation_of_their_option(activation: str):
    params, found = means_of(mlp, activation=activation)
    x = inputs().astype(np.float64)
    for number in range(3):
        x = FORMULAS[activation](linear(params[f"hidden_{number}"], x))
    np.testing.assert_allclose(found, linear(params["mean"], x), rtol=1e-5, atol=1e-6)


def test_a_gated_layer_multiplies_by_the_sigmoid_of_its_gate():
    params, found = means_of(gated_mlp)
    x = inputs().astype(np.float64)
    for number in range(3):
        gate = scipy.special.expit(linear(params[f"hidden_{number}_gate"], x))
        x = linear(params[f"hidden_{number}"], x) * gate
    np.testing.assert_allclose(found, linear(params["mean"], x), rtol=1e-5, atol=1e-6)


def test_a_residual_layer_adds_its_input_where_the_sizes_agree():
    params, found = means_of(residual_mlp, activation="tanh")
    x = np.tanh(linear(params["hidden_0"], inputs().astype(np.float64)))
    x = x + np.tanh(linear(params["hidden_1"], x))
    x = np.tanh(linear(params["hidden_2"], x))
    np.testing.assert_allclose(found, linear(params["mean"], x), rtol=1e-5, atol=1e-6)


def test_an_unknown_activation_is_refused():
    config = changed(model__network_options={"activation": "tan"})
    line = refusal(build, config)
    assert "config.model.network is 'mlp', which refuses the rest: activation is 'tan'" in line
    assert "one of tanh, relu" in line
