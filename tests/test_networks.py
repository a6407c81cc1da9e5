"""Networks whose weights are Gaussian: their units against those of drawn weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import standard_errors_off

from aevb.networks import Network, WeightPosterior, mlp, normal_init

NUM_DRAWS = 20_000
NUM_INPUTS = 3
HEADS = {"mean": 4, "log_var": 2}


def network(*, hidden: tuple[int, ...] = (), constants: tuple[str, ...] = ()) -> Network:
    return mlp(
        NUM_INPUTS, HEADS, hidden=hidden, initialisation=normal_init(0.7), constants=constants
    )


def posterior_of(net: Network, *, seed: int = 0) -> tuple[Any, Any]:
    """Means, and log-variances of many sizes."""
    mean = net.init(jax.random.key(seed))
    leaves, structure = jax.tree.flatten(mean)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    log_vars = [
        jax.random.normal(key, leaf.shape) - 1.0 for key, leaf in zip(keys, leaves, strict=True)
    ]
    return mean, jax.tree.unflatten(structure, log_vars)


def inputs(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=NUM_INPUTS).astype(np.float32)


def noisy_draws(net: Network, mean: Any, log_var: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Of the heads, by the noise of the units -> [NUM_DRAWS, ...] each."""

    def draw(key: jax.Array) -> Mapping[str, jax.Array]:
        return net.apply(WeightPosterior(mean, log_var, key), jnp.asarray(x))

    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), NUM_DRAWS))
    return {name: np.asarray(draw, np.float64) for name, draw in draws.items()}


def weight_draws(net: Network, mean: Any, log_var: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Of the heads, by weights that are drawn by NumPy -> [NUM_DRAWS, ...] each."""
    rng = np.random.default_rng(3)

    def draw(mean: jax.Array, log_var: jax.Array) -> jax.Array:
        noise = rng.normal(size=(NUM_DRAWS, *mean.shape))
        return jnp.float32(np.asarray(mean) + np.exp(0.5 * np.asarray(log_var)) * noise)

    weights = jax.tree.map(draw, mean, log_var)
    draws = jax.jit(jax.vmap(net.apply, in_axes=(0, None)))(weights, jnp.asarray(x))
    return {name: np.asarray(draw, np.float64) for name, draw in draws.items()}


def moments(layer: Any, log_vars: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x'M + b and x^2'V + v, in float64."""
    layer, log_vars = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (layer, log_vars))
    x = x.astype(np.float64)
    mean = x @ layer["kernel"] + layer["bias"]
    return mean, x**2 @ np.exp(log_vars["kernel"]) + np.exp(log_vars["bias"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_units_mean_and_variance_are_those_that_its_weights_give_it(seed: int):
    """(unit - x'M - b) / sqrt(x^2'V + v) is one noise, whatever x, and standard normal."""
    net = network()
    mean, log_var = posterior_of(net, seed=seed)

    def noise_of(x: np.ndarray) -> np.ndarray:
        units = noisy_draws(net, mean, log_var, x)
        standardised = []
        for head in HEADS:
            expected, var = moments(mean[head], log_var[head], x)
            standardised.append((units[head] - expected) / np.sqrt(var))
        return np.concatenate(standardised, axis=1)

    noise = noise_of(inputs(seed))
    for other in (inputs(seed + 10), np.zeros(NUM_INPUTS, np.float32), 30.0 * inputs(seed)):
        np.testing.assert_allclose(noise_of(other), noise, atol=2e-5)
    for unit in noise.T:
        assert scipy.stats.kstest(unit, scipy.stats.norm.cdf).pvalue > 1e-3
    products = noise[:, :, None] * noise[:, None, :]  # heads and units are independent
    assert standard_errors_off(products, np.eye(noise.shape[1])) < 4


@pytest.mark.parametrize("hidden", [(), (6,), (5, 4)])
def test_noisy_units_have_the_distribution_that_noisy_weights_give_them(hidden: tuple[int, ...]):
    """Each unit's own, their covariances within and across heads, and a constant's."""
    net = network(hidden=hidden, constants=("log_std",))
    mean, log_var = posterior_of(net)
    by_units, by_weights = (
        np.concatenate(list(draw(net, mean, log_var, inputs()).values()), axis=1)
        for draw in (noisy_draws, weight_draws)
    )
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


def test_two_inputs_with_one_key_have_one_noise_and_with_two_keys_have_two():
    """The samples of z of a datapoint share its noise; datapoints do not."""
    net = network(hidden=(5,))
    mean, log_var = posterior_of(net)

    def apply(key: jax.Array) -> np.ndarray:
        params = WeightPosterior(mean, log_var, key)
        return np.asarray(net.apply(params, jnp.asarray(inputs()))["mean"])

    first, again, other = (apply(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)


@pytest.mark.parametrize("log_var", [-60.0, -300.0, -np.inf])
def test_without_variance_a_noisy_network_is_the_one_of_the_means(log_var: float):
    """Its gradient too, also where exp(log_var) is 0 in float32."""
    net = network(hidden=(5, 4), constants=("log_std",))
    mean = net.init(jax.random.key(0))
    log_vars = jax.tree.map(lambda leaf: jnp.full_like(leaf, log_var), mean)

    def total(params: Any) -> jax.Array:
        heads = net.apply(params, jnp.asarray(inputs()))
        return sum((jnp.sum(jnp.sin(head)) for head in heads.values()), jnp.zeros(()))

    def noisy(mean: Any, log_vars: Any) -> jax.Array:
        return total(WeightPosterior(mean, log_vars, jax.random.key(1)))

    np.testing.assert_allclose(noisy(mean, log_vars), total(mean), rtol=1e-6)
    grads, log_var_grads = jax.jit(jax.grad(noisy, argnums=(0, 1)))(mean, log_vars)
    jax.tree.map(
        lambda g, exact: np.testing.assert_allclose(g, exact, rtol=1e-4, atol=1e-6),
        grads, jax.jit(jax.grad(total))(mean),
    )  # fmt: skip
    jax.tree.map(lambda g: np.testing.assert_allclose(g, 0.0, atol=1e-6), log_var_grads)
