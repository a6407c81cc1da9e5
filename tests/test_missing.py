"""Missing values: linear-Gaussian models with a mask, of which everything is known exactly."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats
from marks import slow_but
from refusals import refusal

import aevb
from aevb import likelihoods, losses, missing
from aevb.classical import linear_gaussian_missing
from aevb.classical.linear_gaussian import Params
from aevb.config import default_config, validate, with_values
from aevb.data import synthetic
from aevb.distributions import DiagNormal, FullNormal, StandardNormal
from aevb.evaluation.elbo import fixed_inputs
from aevb.experiment import build, data_options
from aevb.guides import diag_normal, full_normal
from aevb.likelihoods import LIKELIHOODS
from aevb.runs.in_memory import in_memory
from aevb.runs.trained import load_run

NUM_DRAWS = 20_000
CASES = [(5, 2, 0), (4, 1, 1), (8, 3, 2)]  # D, Z, seed
KEY = jax.random.key(0)


class Masked:
    """x ~ N(b, W W' + s^2 I), seen at some dimensions."""

    def __init__(self, num_dims: int, num_latents: int, seed: int):
        self.model = oracles.linear_gaussian(seed, num_dims, num_latents)
        rng = np.random.default_rng(seed)
        self.is_seen = rng.uniform(size=num_dims) < 0.6
        self.is_seen[:2] = True, False
        values = self.model.bias + rng.normal(size=num_dims)
        self.x = np.where(self.is_seen, values, np.nan)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the covariance of x."""
        weights, bias, noise_var = self.model
        return bias, weights @ weights.T + np.diag(np.broadcast_to(noise_var, len(bias)))

    def log_prob(self) -> float:
        mean, cov = self.moments()
        seen = self.is_seen
        of_seen: Any = scipy.stats.multivariate_normal
        return float(of_seen.logpdf(self.x[seen], mean[seen], cov[np.ix_(seen, seen)]))

    def given_seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the covariance of what was not seen, given what was."""
        mean, cov = self.moments()
        seen, other = self.is_seen, ~self.is_seen
        gain = np.linalg.solve(cov[np.ix_(seen, seen)], cov[np.ix_(seen, other)]).T
        rest = cov[np.ix_(other, other)] - gain @ cov[np.ix_(seen, other)]
        return mean[other] + gain @ (self.x[seen] - mean[seen]), rest

    def heads(self, z: jax.Array) -> dict[str, jax.Array]:
        weights, bias, noise_var = (jnp.float32(part) for part in self.model)
        mean = weights @ z + bias
        return {"mean": mean, "log_var": jnp.broadcast_to(jnp.log(noise_var), mean.shape)}

    def joint(self) -> losses.Joint:
        likelihood, x = missing.of_seen(likelihoods.gaussian), jnp.float32(self.x)
        prior = StandardNormal(self.model.weights.shape[1])
        return losses.Joint(prior, lambda z: likelihood.log_prob(self.heads(z), x))

    def posterior(self) -> FullNormal:
        """Returns p(z | x_seen)."""
        weights, bias, noise_var = self.model
        seen = self.is_seen
        w = weights[seen] / np.sqrt(np.broadcast_to(noise_var, len(bias))[seen])[:, None]
        r = (self.x - bias)[seen] / np.sqrt(np.broadcast_to(noise_var, len(bias))[seen])
        cov = np.linalg.inv(np.eye(w.shape[1]) + w.T @ w)
        factor = np.linalg.cholesky(cov)
        below = factor[np.tril_indices(len(factor), -1)]
        parts = (cov @ w.T @ r, np.log(np.diag(factor)), below)
        return FullNormal(*(jnp.float32(part) for part in parts))


every_case = pytest.mark.parametrize("sizes", slow_but(CASES[:1], CASES))


@every_case
def test_every_bound_at_the_exact_posterior_is_log_p_of_the_seen_values(sizes: Any):
    case = Masked(*sizes)
    q = case.posterior()
    for name in ("sgvb_a", "stl", "iwae", "dreg", "renyi"):
        bound = partial(losses.BOUNDS[name], num_samples=4)
        found = jax.jit(lambda key, bound=bound: bound(key, q, full_normal, case.joint()))(KEY)
        np.testing.assert_allclose(found, case.log_prob(), rtol=1e-4, err_msg=name)


@every_case
def test_the_bound_of_another_guide_is_below_by_its_divergence(sizes: Any):
    case = Masked(*sizes)
    num_latents = case.model.weights.shape[1]
    q = DiagNormal(jnp.full(num_latents, 0.3), jnp.full(num_latents, -1.0))
    exact = case.posterior()
    factor = np.asarray(exact.factor(), np.float64)
    divergence = oracles.kl_gaussians(
        np.asarray(q.mean, np.float64), np.diag(np.exp(np.asarray(q.log_var, np.float64))),
        np.asarray(exact.mean, np.float64), factor @ factor.T,
    )  # fmt: skip
    keys = jax.random.split(KEY, NUM_DRAWS)
    joint = case.joint()
    for bound in (losses.sgvb_a, losses.sgvb_b):
        draws = jax.jit(jax.vmap(lambda key, bound=bound: bound(key, q, diag_normal, joint)))(keys)
        expected = case.log_prob() - divergence
        assert oracles.standard_errors_off(np.asarray(draws, np.float64), expected) < 4.0


@every_case
def test_imputations_have_the_exact_mean_and_covariance(sizes: Any):
    case = Masked(*sizes)
    found = missing.impute(
        KEY, jnp.float32(case.x), case.posterior(), full_normal, case.joint(),
        mean=lambda z: case.heads(z)["mean"],
        draw=lambda key, z: likelihoods.gaussian.sample(key, case.heads(z)),
        num_samples=NUM_DRAWS, num_draws=NUM_DRAWS,
    )  # fmt: skip
    mean, cov = case.given_seen()
    other = ~case.is_seen
    np.testing.assert_array_equal(found.mean[case.is_seen], np.float32(case.x[case.is_seen]))
    spread = np.sqrt(np.diag(cov))
    np.testing.assert_allclose(found.mean[other], mean, atol=5.0 * spread.max() / NUM_DRAWS**0.5)
    draws = np.asarray(found.draws, np.float64)
    np.testing.assert_array_equal(
        draws[:5, case.is_seen], np.tile(np.float32(case.x[case.is_seen]), (5, 1))
    )
    np.testing.assert_allclose(np.cov(draws[:, other], rowvar=False), cov, atol=0.05 * cov.max())
    inside = np.abs(draws[:, other] - mean) < 1.96 * spread
    np.testing.assert_allclose(inside.mean(axis=0), 0.95, atol=0.01)
    np.testing.assert_allclose(found.effective_sample_size, NUM_DRAWS, rtol=1e-2)


def test_a_narrow_guide_has_a_small_effective_sample_size():
    case = Masked(*CASES[0])
    q = DiagNormal(jnp.full(2, 3.0), jnp.full(2, -4.0))
    found = missing.impute(
        KEY, jnp.float32(case.x), q, diag_normal, case.joint(),
        mean=lambda z: case.heads(z)["mean"], draw=lambda key, z: case.heads(z)["mean"],
        num_samples=500, num_draws=3,
    )  # fmt: skip
    assert found.effective_sample_size < 100.0
    assert found.draws.shape == (3, 5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_unseen_values_add_nothing_to_any_likelihood_or_gradient(name: str):
    likelihood = LIKELIHOODS[name](3)
    rng = np.random.default_rng(0)
    heads = {h: jnp.float32(0.3 * rng.normal(size=3 * n)) for h, n in likelihood.heads.items()}
    heads |= {h: jnp.float32(0.3 * rng.normal(size=s)) for h, s in likelihood.shared.items()}
    x = jnp.float32([1.0, 0.0, 1.0] if "counts" in likelihood.kinds else [0.25, 0.0, 0.75])
    if name == "bernoulli":
        x = jnp.float32([1.0, 0.0, 1.0])
    partly = x.at[1].set(jnp.nan)
    seen = missing.of_seen(likelihood)

    @jax.jit
    def of(heads: Any, x: jax.Array) -> Any:
        terms = likelihood.log_probs(heads, x)
        gradients = jax.grad(lambda heads: seen.log_prob(heads, jnp.full(3, jnp.nan)))(heads)
        return terms, seen.log_prob(heads, partly), seen.log_prob(heads, x), gradients

    terms, of_some, of_all, gradients = of(heads, x)
    np.testing.assert_allclose(of_some, terms[0] + terms[2], rtol=1e-6)
    np.testing.assert_allclose(of_all, jax.jit(likelihood.log_prob)(heads, x), rtol=1e-6)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0.0), gradients)


def test_a_likelihood_of_dependent_dimensions_is_refused():
    joined = likelihoods.gaussian._replace(
        log_probs=lambda heads, x: jnp.sum(likelihoods.gaussian.log_probs(heads, x))
    )
    heads = {"mean": jnp.zeros(2), "log_var": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"shape \(\) for x of \(2,\)"):
        missing.of_seen(joined).log_prob(heads, jnp.zeros(2))
    assert joined.log_prob(heads, jnp.zeros(2)) == likelihoods.gaussian.log_prob(
        heads, jnp.zeros(2)
    )


def test_the_encoder_sees_the_values_and_the_mask():
    np.testing.assert_array_equal(
        missing.with_mask(jnp.float32([2.0, jnp.nan, 0.0])), [2.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    )


@pytest.mark.parametrize("name", ["num_samples", "num_draws"])
def test_no_samples_are_refused(name: str):
    case = Masked(*CASES[0])
    with pytest.raises(ValueError, match=f"{name} is 0"):
        missing.impute(
            KEY, jnp.float32(case.x), case.posterior(), full_normal, case.joint(),
            mean=lambda z: z, draw=lambda key, z: z, **{name: 0},
        )  # fmt: skip


# Trained models


def gappy_numbers(number: int = 300) -> np.ndarray:
    """Returns correlated columns in units of their own, of which a quarter is missing."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(number, 1))
    x = 100.0 + 10.0 * (z @ rng.normal(size=(1, 5)) + 0.1 * rng.normal(size=(number, 5)))
    x[rng.uniform(size=x.shape) < 0.25] = np.nan
    return x


@pytest.fixture(scope="module")
def run_with_gaps() -> Any:
    fields = {"data.missing": True, "train.num_examples": 30_000, "model.hidden": (20,)}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Adam
        return aevb.fit(gappy_numbers(), fields)


def filled(run: Any, x: np.ndarray) -> missing.Imputation:
    found = jax.jit(jax.vmap(run.impute))(jax.random.split(KEY, len(x)), jnp.asarray(x))
    return jax.tree.map(np.asarray, found)


def test_a_run_fills_gaps_in_the_users_units_and_keeps_what_was_seen(run_with_gaps: Any):
    x = run_with_gaps.points("test")[:60]
    found = filled(run_with_gaps, x)
    seen = ~np.isnan(x)
    np.testing.assert_allclose(found.mean[seen], x[seen], rtol=1e-5)
    assert found.draws.shape == (60, 100, 5)
    assert np.all(np.isfinite(found.draws))
    np.testing.assert_allclose(
        found.draws[:, 0][seen], x[seen], rtol=1e-5, err_msg="draws keep what was seen"
    )


def test_filled_values_are_nearer_to_the_hidden_ones_than_the_columns_means(run_with_gaps: Any):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 1))
    whole = 100.0 + 10.0 * (z @ rng.normal(size=(1, 5)) + 0.1 * rng.normal(size=(300, 5)))
    x = run_with_gaps.points("train")[:200]
    truth = whole[: len(x)]
    found = filled(run_with_gaps, x).mean
    gaps = np.isnan(x) & (np.sum(~np.isnan(x), axis=1, keepdims=True) > 0)
    by_mean = np.sqrt(np.mean(np.square((np.nanmean(x, axis=0) - truth)[gaps])))
    assert np.sqrt(np.mean(np.square((found - truth)[gaps]))) < 0.5 * by_mean


def test_an_encoder_of_images_sees_the_mask_as_more_channels():
    x = jnp.arange(12.0).at[5].set(jnp.nan)  # [2, 2, 3]
    found = missing.with_mask(x, 3).reshape(2, 2, 6)
    filled = jnp.where(jnp.isnan(x), 0.0, x).reshape(2, 2, 3)
    np.testing.assert_array_equal(found[..., :3], filled)
    np.testing.assert_array_equal(found[..., 3:], (~jnp.isnan(x)).reshape(2, 2, 3))
    assert missing.shape_with_mask((2, 2, 3)) == (2, 2, 6)
    assert missing.shape_with_mask((2, 2)) == (2, 2, 2)


def test_a_run_of_complete_data_refuses_to_fill_gaps(undisturbed: Path):
    run = load_run(undisturbed)
    assert "was trained without missing values" in refusal(run.impute, KEY, run.points("test")[0])


@pytest.mark.parametrize("prior", slow_but(["vamp"], ["standard_normal", "vamp", "mixture"]))
def test_a_convolutional_model_of_faces_with_gaps_trains_to_finite_bounds(prior: str):
    fields = {
        "data.name": "frey_faces", "data.hide": "blocks", "data.num_train": 64,
        "model.prior": prior, "model.prior_components": 3, "model.network": "conv",
        "model.hidden": (2, 4), "model.likelihood": "continuous_bernoulli",
        "model.init": "fan_in", "model.init_at_mean": True, "train.batch_size": 8,
        "algorithm.bound": "sgvb_a",
    }  # fmt: skip
    dataset, vae, algorithm = build(validate(with_values(default_config(), fields)))
    params = algorithm.init(KEY).params
    x = fixed_inputs(dataset.preprocess, np.arange(3), dataset.train[:3])

    def bound(params: Any, x: jax.Array) -> jax.Array:
        stats, joint = vae.encode(params, x), vae.joint(params, x)
        return losses.evidence_lower_bound(KEY, stats, vae.guide, joint)

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(bound), (None, 0)))(params, x)
    assert np.all(np.isfinite(values))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slopes))


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_trained_model_of_data_with_gaps_comes_near_the_exact_log_p():
    """The data are linear-Gaussian, of which a third is missing: log p(x_seen) is known."""
    fields = {
        "data.name": "synthetic", "data.hide": "entries", "data.hide_share": 0.3,
        "data.synthetic_num_train": 10_000, "data.synthetic_num_dims": 6,
        "model.likelihood": "gaussian_shared", "model.guide": "full_normal",
        "model.hidden": (64,), "model.init": "fan_in", "optimizer.name": "adam",
        "optimizer.step_size": 2e-3, "optimizer.schedule": "cosine",
        "train.num_examples": 2_000_000, "algorithm.param_prior_std": 0.0,
    }  # fmt: skip
    values = validate(with_values(default_config(), fields))
    experiment = build(values)
    run = in_memory(values, experiment, "last")
    exact = synthetic.make_model(data_options(values))
    params = Params(exact.weights, exact.bias, exact.noise_var)
    log_p = jax.vmap(lambda x: linear_gaussian_missing.log_prob(params, x))
    expected = float(jnp.mean(log_p(jnp.asarray(experiment.dataset.test))))
    assert expected - 0.15 < run.summary["test_bound"] < expected + 0.02
