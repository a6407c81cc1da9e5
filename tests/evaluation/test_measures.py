"""The measures of a model: rate, distortion, active units and the aggregate posterior."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import Array

from aevb import guides, likelihoods, losses
from aevb.distributions import DiagNormal, FullNormal, StandardNormal
from aevb.evaluation import elbo, measures
from aevb.evaluation.diagnostics import aggregate_posterior, marginals
from aevb.guides import GUIDES, Sizes
from aevb.losses import Joint
from aevb.networks import fan_in_init, mlp
from aevb.vae import VAE, make

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(700, 3)).astype(np.float32)


def model(guide: str = "diag_normal", likelihood: str = "gaussian", num_latents: int = 2) -> VAE:
    """Returns a small VAE of three data dimensions."""
    family = GUIDES[guide](Sizes(num_latents, num_layers=2, num_hidden=3))
    scored = likelihoods.LIKELIHOODS[likelihood](3)
    how = {"hidden": (5,), "initialization": fan_in_init(1.0)}
    encoder = mlp(3, family.heads, **how)
    heads = {name: 3 * size for name, size in scored.heads.items()}
    decoder = mlp(num_latents, heads, constants=scored.shared, **how)
    return make(encoder, decoder, scored, num_latents=num_latents, guide_family=family)


def scored(vae: VAE, number: int = 700) -> elbo.Score:
    score = elbo.make_score(vae, lambda key, x: x)
    return score(vae.init(KEY), X, np.arange(number))


@pytest.mark.parametrize("guide", ["diag_normal", "full_normal", "planar"])
def test_minus_the_bound_is_rate_plus_distortion(guide: str):
    score = scored(model(guide))
    total = score.measures["rate"] + score.measures["distortion"]
    assert score.mean == pytest.approx(-total, rel=1e-12)


@pytest.mark.parametrize("guide", ["diag_normal", "planar"])
def test_the_rate_and_the_distortion_add_up_to_the_bound_with_the_same_key(guide: str):
    vae = model(guide)
    params, x = vae.init(KEY), jnp.asarray(X[0])
    stats, joint = vae.encode(params, x), vae.joint(params, x)
    rate, distortion = losses.rate_and_distortion(KEY, stats, vae.guide, joint, num_samples=7)
    bound = losses.evidence_lower_bound(KEY, stats, vae.guide, joint, num_samples=7)
    assert float(rate + distortion) == pytest.approx(-float(bound), rel=1e-5)
    if guide == "diag_normal":
        assert float(rate) == float(stats.kl_to_standard_normal())


def linear_gaussian(number: int) -> tuple[DiagNormal, np.ndarray, np.ndarray]:
    """Returns q(z|x) at x ~ N(0, I), the covariance of q(z), and the variances of q(z|x)."""
    matrix, variance = np.array([[0.9, 0.0], [0.3, 0.5]]), np.array([0.4, 0.8])
    x = np.random.default_rng(1).normal(size=(number, 2))
    means = jnp.asarray(x @ matrix.T, jnp.float32)
    stats = DiagNormal(means, jnp.broadcast_to(jnp.log(jnp.float32(variance)), means.shape))
    return stats, matrix @ matrix.T + np.diag(variance), variance


def test_the_aggregate_posterior_of_a_linear_gaussian_model_is_estimated():
    """All is known: q(z) is Gaussian, I(x; z) = log det ratio / 2, and the rate is their sum."""
    stats, covariance, variance = linear_gaussian(1500)
    prior = StandardNormal(2, jnp.float32)
    found = jax.jit(
        lambda stats: aggregate_posterior(
            KEY, stats, guides.diag_normal, prior.log_prob, num_data=math.inf
        )
    )(stats)
    information = 0.5 * math.log(np.linalg.det(covariance) / np.prod(variance))
    kl = 0.5 * (np.trace(covariance) - 2.0 - math.log(np.linalg.det(covariance)))
    for each, exact in zip(found, (information, kl), strict=True):
        each = np.asarray(each, np.float64)
        error = float(np.std(each, ddof=1)) / math.sqrt(len(each))
        assert np.mean(each) == pytest.approx(exact, abs=4.0 * error)
    rates = np.asarray(jax.vmap(DiagNormal.kl_to_standard_normal)(stats), np.float64)
    total = np.asarray(found.mutual_information + found.kl, np.float64)
    assert np.mean(total) == pytest.approx(
        np.mean(rates), abs=4.0 * float(np.std(total - rates)) / math.sqrt(len(total))
    )


def test_the_aggregate_posterior_of_all_datapoints_is_their_mixture():
    stats, _, variance = linear_gaussian(30)
    found = aggregate_posterior(
        KEY, stats, guides.diag_normal, StandardNormal(2).log_prob, num_data=30
    )
    keys = jax.random.split(KEY, 30)
    z = np.asarray(jax.vmap(lambda key, each: each.sample(key))(keys, stats), np.float64)
    means = np.asarray(stats.mean, np.float64)
    densities = scipy.stats.norm.pdf(z[:, None], means, np.sqrt(variance)).prod(axis=-1)
    log_q = np.log(densities.mean(axis=1))
    np.testing.assert_allclose(
        found.mutual_information, np.log(np.diag(densities)) - log_q, atol=2e-5
    )
    log_prior = scipy.stats.norm.logpdf(z).sum(axis=-1)
    np.testing.assert_allclose(found.kl, log_q - log_prior, atol=2e-5)


def test_an_aggregate_posterior_needs_two_datapoints():
    stats, _, _ = linear_gaussian(1)
    with pytest.raises(ValueError, match="needs at least 2"):
        aggregate_posterior(KEY, stats, guides.diag_normal, StandardNormal(2).log_prob, num_data=1)


def test_marginals_of_a_full_gaussian_are_the_diagonal_of_its_covariance():
    stats = FullNormal(jnp.array([1.0, 2.0]), jnp.array([0.1, -0.2]), jnp.array([0.7]))
    mean, log_var, error = marginals(KEY, stats, guides.full_normal)
    factor = np.asarray(stats.factor(), np.float64)
    np.testing.assert_allclose(np.exp(log_var), np.diag(factor @ factor.T), rtol=1e-6)
    np.testing.assert_array_equal(mean, stats.mean)
    np.testing.assert_array_equal(error, 0.0)


def made_of(mean: Any, log_var: Any, error: Any = 0.0) -> measures.Terms:
    """Returns terms with these moments [n, Z] of q(z|x)."""
    mean = np.asarray(mean, np.float64)
    number = len(mean)
    leaves: list[Any] = [np.broadcast_to(each, mean.shape) for each in (mean, log_var, error)]
    ones: Any = np.ones(number)
    return measures.Terms(ones, ones, leaves[0], leaves[1], leaves[2], None, None)


def test_active_units_are_those_that_burdas_code_counts():
    """It counts the diagonal of the covariance of the posterior means above 0.01."""
    mean = np.random.default_rng(2).normal(size=(400, 3)) * [1.0, 0.09, 0.11]
    expected = np.sum(np.diag(np.cov(mean.T, ddof=0)) > 0.01)
    assert expected == 2
    assert measures.summarize(made_of(mean, 0.0))["active_units"] == expected


def test_the_noise_of_sampled_moments_makes_no_unit_active():
    """A planar flow has no closed moments; without the correction all its latents would count."""
    vae = model("planar")
    constant = vae._replace(encode=lambda params, x: vae.encode(params, jnp.zeros_like(x)))
    assert scored(constant).measures["active_units"] == 0
    assert 1.0 / measures.NUM_DRAWS > 0.01


def test_the_marginals_of_the_aggregate_posterior_are_compared_with_the_prior():
    """For q(z) = N(1, 2): 1/2 (1 + 2 - 1 - log 2); a prior that is met has 0."""
    mean = np.array([[1.0], [-1.0]]) + 1.0
    found = made_of(mean, 0.0)._replace(unit_kl=np.ones((2, 1)))  # pyright: ignore[reportArgumentType]
    value = measures.summarize(found)["aggregate_marginal_kl"]
    assert value == pytest.approx(0.5 * (1.0 + 2.0 - 1.0 - math.log(2.0)))
    met = made_of([[0.6], [-0.6]], math.log(1 - 0.36))._replace(unit_kl=np.zeros((2, 1)))  # pyright: ignore[reportArgumentType]
    found = measures.summarize(met)
    assert found["aggregate_marginal_kl"] == pytest.approx(0.0, abs=1e-12)
    assert found["active_units_by_kl"] == 0


def test_log_variances_of_the_likelihood_are_those_of_the_decoder():
    vae, number = model(), 20
    params = vae.init(KEY)
    found = scored(vae, number).measures

    def log_var(number: Array, x: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(elbo.NOISE_SEED), number)
        z = vae.guide.sample(jax.random.split(key, 1)[0], vae.encode(params, x))
        assert vae.log_var is not None
        return vae.log_var(params, z)

    each = np.asarray(jax.vmap(log_var)(jnp.arange(number), jnp.asarray(X[:number])))
    assert found["likelihood_log_var_min"] == pytest.approx(np.min(each), rel=1e-5)
    assert found["likelihood_log_var_mean"] == pytest.approx(np.mean(each), rel=1e-5)
    assert found["likelihood_log_var_max"] == pytest.approx(np.max(each), rel=1e-5)


def test_a_likelihood_without_a_variance_has_no_log_variances():
    assert "likelihood_log_var_mean" not in scored(model(likelihood="poisson")).measures


def test_a_model_of_ones_own_has_the_measures_of_a_run():
    vae = model()
    params = vae.init(KEY)
    found = measures.measure(
        KEY,
        jnp.asarray(X),
        lambda x: vae.encode(params, x),
        vae.guide,
        lambda x: vae.joint(params, x),
    )
    own = scored(vae).measures
    of_runs = {f"likelihood_log_var_{end}" for end in ("min", "mean", "max")}
    assert own.keys() - found.keys() == of_runs
    for name in ("rate", "active_units", "active_units_by_kl", "posterior_log_var_mean"):
        assert found[name] == pytest.approx(own[name], rel=1e-5)
    assert found["bound"] == pytest.approx(-found["rate"] - found["distortion"])
    assert found["mutual_information"] + found["aggregate_kl"] == pytest.approx(
        found["rate"], rel=0.2
    )


def test_a_single_datapoint_has_measures_without_an_aggregate_posterior():
    found = scored(model(), 1).measures
    assert "mutual_information" not in found
    assert found["rate"] > 0.0


def test_another_prior_has_no_kl_to_the_standard_normal_by_unit():
    vae = model()
    params = vae.init(KEY)
    found = measures.measure(
        KEY, jnp.asarray(X), lambda x: vae.encode(params, x), vae.guide,
        lambda x: Joint(lambda z: -jnp.sum(jnp.abs(z)) - 2.0 * jnp.log(2.0), lambda z: -jnp.sum(z)),
    )  # fmt: skip
    assert "active_units_by_kl" not in found
    assert "rate" in found
