"""Checks of a trained model: dead units, rounding, and importance weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevb import likelihoods
from aevb.distributions import DiagNormal
from aevb.doctor.of_model import (
    hints_of_estimates,
    hints_of_likelihood,
    hints_of_precision,
    hints_of_units,
    hints_of_weights,
    misfits,
)
from aevb.networks import fan_in_init, mlp
from aevb.vae import VAE, make

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)


def model(activation: str = "relu") -> VAE:
    how: dict[str, Any] = {"hidden": (30,), "initialization": fan_in_init(1.0)}
    encoder = mlp(4, {"mean": 2, "log_var": 2}, activation=activation, **how)
    decoder = mlp(2, {"mean": 4, "log_var": 4}, activation=activation, **how)
    return make(encoder, decoder, likelihoods.gaussian, num_latents=2)


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
def test_units_of_a_fresh_network_are_alive(activation: str):
    vae = model(activation)
    assert hints_of_units(KEY, vae, vae.init(KEY), X) == []


def test_dead_relus_of_the_encoder_are_found():
    vae = model()
    params = vae.init(KEY)
    params["encoder"]["hidden_0"]["bias"] -= 100.0
    (hint,) = hints_of_units(KEY, vae, params, X)
    assert hint.cause == "dead_units"
    assert "layer_0 of the encoder" in hint.finding
    assert "100.0% of their values" in hint.evidence


def test_saturated_tanh_units_of_the_decoder_are_found():
    vae = model("tanh")
    params = vae.init(KEY)
    params["decoder"]["hidden_0"]["kernel"] *= 1e4
    (hint,) = hints_of_units(KEY, vae, params, X)
    assert "layer_0 of the decoder" in hint.finding


def test_a_bound_that_changes_with_the_precision_is_found():
    assert hints_of_precision(-100.0, -100.02, "bfloat16") == []
    (hint,) = hints_of_precision(-103.0, -100.0, "bfloat16")
    assert "-103.00 nats in bfloat16 and -100.00 in float32" in hint.evidence


def simple(name: str, heads: dict[str, Any]) -> VAE:
    """Returns a model whose p(x|z) has the same statistics for every z, [n, D] or [D]."""
    likelihood = likelihoods.LIKELIHOODS[name](3)
    vae = model()
    return vae._replace(draw=lambda key, params, z: likelihood.sample(key, heads))


RNG = np.random.default_rng(1)
SIZE = (2000, 3)
NORMAL = {"mean": jnp.zeros(3), "log_var": jnp.zeros(3)}
RATE = {"log_rate": jnp.full(3, np.log(4.0))}
OF_LIKELIHOOD = [  # the likelihood, data that have its distribution, and data that have another
    ("gaussian", NORMAL, RNG.normal(size=SIZE), np.exp(RNG.normal(size=SIZE)) - 1.6),
    ("gaussian", NORMAL, RNG.normal(size=SIZE), RNG.standard_t(1.5, SIZE) / 4.0),
    ("poisson", RATE, RNG.poisson(4.0, SIZE), RNG.poisson(RNG.gamma(0.5, 8.0, SIZE))),
    (
        "bernoulli", {"logits": jnp.full(3, 2.0)}, RNG.uniform(size=SIZE) < 1 / (1 + np.exp(-2.0)),
        RNG.uniform(size=SIZE) < 0.2,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "heads", "right", "wrong"),
    [
        *OF_LIKELIHOOD[:2],
        *(pytest.param(*case, marks=pytest.mark.slow) for case in OF_LIKELIHOOD[2:]),
    ],
)
def test_data_of_another_distribution_than_the_likelihood_are_found(
    name: str, heads: dict[str, Any], right: np.ndarray, wrong: np.ndarray
):
    vae = simple(name, heads)
    params = vae.init(KEY)
    right, wrong = (np.pad(x, ((0, 0), (0, 1))).astype(np.float32)[:, :3] for x in (right, wrong))
    vae = vae._replace(encode=lambda params, x: DiagNormal(jnp.zeros(2), jnp.zeros(2)))
    how = {"beyond_scale": name == "gaussian"}
    assert hints_of_likelihood(KEY, vae, params, right, **how) == []
    (hint,) = hints_of_likelihood(KEY, vae, params, wrong, **how)
    assert hint.cause == "likelihood_misfit"
    assert "of 2000 datapoints" in hint.evidence


@pytest.mark.slow
def test_a_misfit_is_the_kl_divergence_of_the_ranks_from_uniform():
    """Where x ~ N(0, 1) and p(x|z) = N(0, s^2), it is KL(N(0, 1) || N(0, s^2)), up to bins."""
    wide = {"mean": jnp.zeros(3), "log_var": jnp.full(3, 2.0 * np.log(2.0))}
    vae = simple("gaussian", wide)
    vae = vae._replace(encode=lambda params, x: DiagNormal(jnp.zeros(2), jnp.zeros(2)))
    x = np.random.default_rng(2).normal(size=(20_000, 3)).astype(np.float32)
    found = misfits(KEY, vae, vae.init(KEY), x, beyond_scale=False)
    expected = np.log(2.0) + 0.5 / 4.0 - 0.5
    np.testing.assert_allclose(found, expected, rtol=0.1)
    of_shape = misfits(KEY, vae, vae.init(KEY), x)
    np.testing.assert_allclose(of_shape, 0.0, atol=1e-3)


def test_a_guide_that_is_far_too_narrow_is_found_by_its_weights():
    vae = model("tanh")
    params = vae.init(KEY)
    assert hints_of_weights(KEY, vae, params, X[:20]) == []
    narrow = vae._replace(encode=lambda params, x: DiagNormal(jnp.zeros(2), jnp.full(2, -9.0)))
    (hint,) = hints_of_weights(KEY, narrow, params, X[:20])
    assert hint.cause == "importance_weights"
    assert "of 20 datapoints" in hint.evidence


def test_an_estimate_whose_diagnostic_fails_is_found():
    row: dict[str, Any] = {
        "settings": {"num_samples": 1000}, "pareto_k": {"median": 0.3, "worst": 0.4},
        "effective_sample_size": {"median": 500.0, "worst": 200.0}, "num_failing": 0,
    }  # fmt: skip
    failing = row | {"pareto_k": {"median": 0.3, "worst": 2.0}, "num_failing": 3}
    (hint,) = hints_of_estimates({"ais": row, "importance": failing})
    assert "by importance" in hint.finding
    assert "pareto_k is 2" in hint.evidence
