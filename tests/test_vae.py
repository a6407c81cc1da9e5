"""Networks and the VAE built from them: initialization, forward pass, ancestral samples."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from marks import slow_but
from oracles import LinearGaussian, standard_errors_off

from aevb import vae
from aevb.likelihoods import LIKELIHOODS
from aevb.networks import NETWORKS, Network, fan_in_init, mlp, normal_init
from aevb.networks.base import Initialization
from aevb.vae import VAE

NUM_DRAWS = 20_000
HIDDEN = [(), (7, 5, 3)]


def leaves_by_name(params: Any) -> dict[str, np.ndarray]:
    """Returns the array of every leaf by its name, such as "hidden_0/kernel"."""
    return {
        "/".join(str(entry.key) for entry in path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree.leaves_with_path(params)
    }


def random_params(init: Callable[[jax.Array], Any], seed: int = 0) -> Any:
    """Draws parameters of the shapes of `init` from N(0, 0.5^2), which saves compiling `init`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(scale=0.5, size=leaf.shape)),
        jax.eval_shape(init, jax.random.key(0)),
    )


def make_vae(
    *, num_dims: int = 5, num_latents: int = 2, hidden: tuple[int, ...] = (), name: str = "gaussian"
) -> VAE:
    likelihood = LIKELIHOODS[name](1)
    encoder = mlp(
        num_dims,
        {"mean": num_latents, "log_var": num_latents},
        hidden=hidden,
        initialization=normal_init(0.5),
    )
    decoder = mlp(
        num_latents,
        {head: num_dims * size for head, size in likelihood.heads.items()},
        hidden=hidden[::-1],
        initialization=normal_init(0.5),
        constants=likelihood.shared,
    )
    return vae.make(encoder, decoder, likelihood, num_latents=num_latents)


def constant_variance(params: Any) -> Any:
    """Returns a linear Gaussian decoder's parameters with a variance that is constant in z."""
    decoder = params["decoder"]
    log_var = decoder["log_var"] | {"kernel": jnp.zeros_like(decoder["log_var"]["kernel"])}
    return params | {"decoder": decoder | {"log_var": log_var}}


def as_linear_gaussian(params: Any) -> LinearGaussian:
    """Returns the model of a linear decoder with constant variance, in float64."""
    decoder = leaves_by_name(params["decoder"])
    return LinearGaussian(
        weights=decoder["mean/kernel"].T,
        bias=decoder["mean/bias"],
        noise_var=np.exp(decoder["log_var/bias"]),
    )


# Networks


@pytest.mark.parametrize("std", [0.1, 0.01])
def test_normal_init_draws_weights_and_biases_from_a_normal_of_that_std(std: float):
    """The paper draws from N(0, 0.01); the biases are drawn too."""
    params = mlp(40, {"mean": 30}, hidden=(50,), initialization=normal_init(std)).init(
        jax.random.key(0)
    )
    leaves = leaves_by_name(params)
    assert {name: leaf.shape for name, leaf in leaves.items()} == {
        "hidden_0/kernel": (40, 50),
        "hidden_0/bias": (50,),
        "mean/kernel": (50, 30),
        "mean/bias": (30,),
    }
    for leaf in leaves.values():
        assert standard_errors_off(leaf.ravel(), 0.0) < 4
        assert standard_errors_off(leaf.ravel() ** 2, std**2) < 4
    everything = np.concatenate([leaf.ravel() for leaf in leaves.values()])
    assert scipy.stats.kstest(everything / std, scipy.stats.norm.cdf).pvalue > 1e-3


def test_fan_in_init_draws_weights_of_variance_1_over_fan_in_and_zero_biases():
    params = mlp(40, {"mean": 30}, hidden=(50,), initialization=fan_in_init(123.0)).init(
        jax.random.key(0)
    )
    leaves = leaves_by_name(params)
    for layer, fan_in in (("hidden_0", 40), ("mean", 50)):
        kernel = leaves[f"{layer}/kernel"].ravel()
        assert standard_errors_off(kernel, 0.0) < 4
        assert standard_errors_off(kernel**2, 1.0 / fan_in) < 4
        np.testing.assert_array_equal(leaves[f"{layer}/bias"], 0.0)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_mlp_is_tanh_layers_and_one_linear_layer_a_head(hidden: tuple[int, ...]):
    """The oracle is appendix C in NumPy."""
    heads = {"mean": 3, "log_var": 4}
    network = mlp(6, heads, hidden=hidden, initialization=normal_init(0.7))
    params = random_params(network.init)
    layers = leaves_by_name(params)
    assert len(layers) == 2 * (len(hidden) + len(heads))
    x = np.random.default_rng(0).normal(size=6).astype(np.float32)
    h = x.astype(np.float64)
    for layer, size in enumerate(hidden):
        h = np.tanh(h @ layers[f"hidden_{layer}/kernel"] + layers[f"hidden_{layer}/bias"])
        assert h.shape == (size,)
    outputs = jax.jit(network.apply)(params, x)
    assert dict(outputs).keys() == heads.keys()
    for head, size in heads.items():
        expected = h @ layers[f"{head}/kernel"] + layers[f"{head}/bias"]
        assert outputs[head].shape == (size,)
        np.testing.assert_allclose(outputs[head], expected, rtol=1e-5, atol=1e-6)


IMAGE_SHAPE = (3, 2)
HEADS = {"mean": 6, "log_var": 12}


def made(name: str, part: str, init: Initialization, **more: Any) -> Network:
    """Returns the encoder or the decoder of an architecture, from 6 numbers to two heads."""
    make = getattr(NETWORKS[name], part)
    return make(6, HEADS, hidden=(5, 5), initialization=init, image_shape=IMAGE_SHAPE, **more)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_the_heads_that_are_asked_for(name: str, part: str):
    network = made(name, part, normal_init(0.1))
    params = random_params(network.init)

    @jax.jit
    def alone_and_together(x: jax.Array) -> tuple[Any, Any]:
        alone = network.apply(params, x[1])
        return alone, jax.vmap(network.apply, in_axes=(None, 0))(params, x)

    x = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    outputs, many = alone_and_together(jnp.asarray(x))
    assert {head: value.shape for head, value in outputs.items()} == {
        "mean": (6,),
        "log_var": (12,),
    }
    np.testing.assert_allclose(many["mean"][1], outputs["mean"], rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_constant_is_one_parameter_drawn_as_a_bias_and_the_same_for_every_input(name: str):
    def make(init: Initialization) -> Network:
        return made(name, "decoder", init, constants={"log_std": (1,)})

    network = make(normal_init(0.1))

    @jax.jit
    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_zeros = make(fan_in_init(0.1)).init(key)["log_std"]
        return jax.vmap(network.init)(jax.random.split(key, 2000))["log_std"], of_zeros

    draws, of_zeros = draw(jax.random.key(0))
    assert draws.shape == (2000, 1)
    assert scipy.stats.kstest(draws.ravel() / 0.1, scipy.stats.norm.cdf).pvalue > 1e-3
    assert of_zeros == 0.0
    params = random_params(network.init)
    outputs = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))(
        params, jnp.float32([[0.0] * 6, [100.0] * 6])
    )
    for constant in outputs["log_std"]:
        np.testing.assert_array_equal(constant, params["log_std"])


# The VAE


@pytest.mark.parametrize("name", slow_but(["bernoulli", "gaussian_shared"], LIKELIHOODS))
def test_every_likelihood_makes_a_vae(name: str):
    """Its samples have a finite density under its own joint, and can be encoded."""
    model = make_vae(name=name)

    @jax.jit
    def use(params: Any) -> tuple[jax.Array, ...]:
        z, x = model.sample(jax.random.key(1), params)
        joint = model.joint(params, x)
        encoded = model.guide.sample(jax.random.key(2), model.encode(params, x))
        return z, x, joint.log_prior(z), joint.log_lik(z), encoded, model.mean(params, z)

    z, x, log_prior, log_lik, encoded, mean = use(random_params(model.init))
    assert z.shape == encoded.shape == (2,)
    assert x.shape == mean.shape == (5,)
    assert np.isfinite(log_prior)
    assert np.isfinite(log_lik)


def test_encoder_and_decoder_are_initialized_with_different_keys():
    """One key for both would make equal kernels of equal shapes."""
    model = make_vae(num_dims=3, num_latents=3)
    params = model.init(jax.random.key(0))
    assert set(params) == {"encoder", "decoder"}
    encoder, decoder = (leaves_by_name(params[part]) for part in ("encoder", "decoder"))
    for leaf, other in itertools.product(encoder.values(), decoder.values()):
        if leaf.shape == other.shape:
            assert np.all(leaf != other)


def test_the_joint_of_a_linear_decoder_is_the_linear_gaussian_models():
    model = make_vae()
    params = constant_variance(random_params(model.init))
    exact = as_linear_gaussian(params)
    rng = np.random.default_rng(0)
    z, x = rng.normal(size=2).astype(np.float32), rng.normal(size=5).astype(np.float32)

    @jax.jit
    def found(z: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        joint = model.joint(params, x)
        return joint.log_prior(z), joint.log_lik(z), model.mean(params, z)

    log_prior, log_lik, mean = found(jnp.asarray(z), jnp.asarray(x))
    expected_mean = exact.weights @ z + exact.bias
    expected = scipy.stats.norm.logpdf(x, expected_mean, np.sqrt(exact.noise_var)).sum()
    assert log_prior == pytest.approx(scipy.stats.norm.logpdf(z).sum())
    assert log_lik == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5)


def test_ancestral_samples_of_a_linear_decoder_have_the_linear_gaussian_marginal():
    """Its mean is b and its covariance W W' + noise; z is standard normal, and Cov(x, z) = W."""
    model = make_vae()
    params = constant_variance(random_params(model.init))
    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    z, x = jax.jit(jax.vmap(model.sample, in_axes=(0, None)))(keys, params)
    z, x = np.asarray(z, np.float64), np.asarray(x, np.float64)
    exact = as_linear_gaussian(params)
    mean, cov = exact.marginal()
    assert standard_errors_off(x, mean) < 4
    assert standard_errors_off(np.einsum("ni,nj->nij", x - mean, x - mean), cov) < 4
    assert standard_errors_off(z, 0.0) < 4
    assert standard_errors_off(np.einsum("ni,nj->nij", z, z), np.eye(2)) < 4
    assert standard_errors_off(np.einsum("ni,nj->nij", x - mean, z), exact.weights) < 4
