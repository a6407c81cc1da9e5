"""Networks whose outputs start at given biases, or have a limit."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevb.networks import (
    NETWORKS,
    Network,
    WeightPosterior,
    bounded,
    mlp,
    normal_init,
    with_biases,
)
from aevb.networks.base import NO_CONSTANTS

INIT = normal_init(0.7)


def decoder(constants: Mapping[str, tuple[int, ...]] = NO_CONSTANTS) -> Network:
    heads = {"mean": 4, "log_var": 2}
    return mlp(3, heads, hidden=(5,), initialization=INIT, constants=constants)


# Biases that are given


def two_values(x: jax.Array) -> dict[str, jax.Array]:
    """Returns a head with two values for each dimension, x and 10 x."""
    return {"mean": jnp.stack([x, 10.0 * x], axis=1).ravel()}


def test_given_biases_are_the_heads_at_zero_weights_and_other_parameters_stay():
    plain, x = decoder(), jnp.float32([1.0, 2.0])
    key = jax.random.key(0)
    params, other = with_biases(plain, two_values, x).init(key), plain.init(key)
    np.testing.assert_array_equal(params["mean"]["bias"], [1.0, 10.0, 2.0, 20.0])
    for layer, name in (("mean", "kernel"), ("log_var", "bias"), ("hidden_0", "bias")):
        np.testing.assert_array_equal(params[layer][name], other[layer][name])


@pytest.mark.parametrize("name", ["conv", "residual_conv", "gated_conv"])
def test_pixels_that_share_a_bias_get_the_heads_of_their_mean(name: str):
    """An image of 4 x 3 pixels of two colors, with two values for each: the channels are four."""
    x = jnp.float32(np.random.default_rng(0).uniform(size=(4, 3, 2)))
    plain = NETWORKS[name].decoder(
        2, {"mean": 48}, hidden=(3, 3), initialization=INIT, image_shape=(4, 3, 2)
    )
    params = with_biases(plain, two_values, x.ravel()).init(jax.random.key(0))
    red, green = np.mean(np.asarray(x, np.float64), axis=(0, 1))
    expected = [red, 10 * red, green, 10 * green]
    np.testing.assert_allclose(params["mean"]["bias"], expected, rtol=1e-6)
    heads = plain.apply(jax.tree.map(lambda a: jnp.where(a.ndim == 1, a, 0.0), params), jnp.ones(2))
    np.testing.assert_allclose(heads["mean"], np.tile(expected, 12), rtol=1e-5)


def test_a_head_without_a_bias_cannot_start_anywhere():
    for params in ({}, {"mean": jnp.zeros(4)}, {"mean": {"kernel": jnp.zeros((3, 4))}}):
        net = Network(lambda key, own=params: own, lambda params, x: {})
        with pytest.raises(ValueError, match="the head 'mean' have no 'bias'"):
            with_biases(net, two_values, jnp.zeros(2)).init(jax.random.key(0))


# Log variances with a limit

LIMITS = {"log_var": 3.0, "log_std": 1.5, "log_scale": 1.5, "log_diag": 1.5}


def test_log_variances_are_smoothly_bounded_and_other_heads_are_not():
    names = (*LIMITS, "mean", "below_diag")
    limited = bounded(Network(lambda key: {}, lambda params, x: dict.fromkeys(names, x)), 3.0)
    values = np.array([-1e4, -2.0, -1e-3, 0.0, 0.5, 1e4])
    found = limited.apply({}, jnp.float32(values))
    assert found.keys() == set(names)
    for name in names:
        limit = LIMITS.get(name)
        expected = values if limit is None else limit * np.tanh(values / limit)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)
    slope = jax.grad(lambda x: limited.apply({}, x)["log_var"])(jnp.float32(0.0))
    assert slope == 1.0


def test_constants_and_weights_with_a_distribution_are_bounded_too():
    net = decoder({"log_std": (1,)})
    mean, x = net.init(jax.random.key(0)), jnp.ones(3)
    limited = bounded(net, 1e-3)
    posterior = WeightPosterior(mean, jax.tree.map(jnp.zeros_like, mean), jax.random.key(0))
    assert limited.takes_weight_posteriors
    for params in (mean, posterior):
        heads = limited.apply(params, x)
        assert np.all(np.abs(heads["log_var"]) <= 1e-3)
        assert np.all(np.abs(heads["log_std"]) <= 5e-4)
        np.testing.assert_array_equal(heads["mean"], net.apply(params, x)["mean"])
