"""Distributions, against SciPy in float64, quadrature, and their own samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats
from oracles import standard_errors_off

from aevb.distributions import DiagNormal, FullNormal, StandardNormal

NUM_DRAWS = 20_000
SEEDS = (0, 1, 2)


def random_case(seed: int, num_dims: int = 4) -> tuple[DiagNormal, np.ndarray, np.ndarray]:
    """Returns a normal, and its mean and log-variance in float64, exactly as float32 holds them."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=num_dims).astype(np.float32)
    log_var = rng.normal(size=num_dims).astype(np.float32)
    normal = DiagNormal(jnp.asarray(mean), jnp.asarray(log_var))
    return normal, mean.astype(np.float64), log_var.astype(np.float64)


def draws_of(normal: DiagNormal | StandardNormal, seed: int = 0) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), NUM_DRAWS)
    return np.asarray(jax.vmap(normal.sample)(keys), np.float64)


@pytest.mark.parametrize("seed", SEEDS)
def test_diag_normal_log_prob_is_scipys(seed: int):
    normal, mean, log_var = random_case(seed)
    z = np.random.default_rng(seed + 100).normal(scale=3.0, size=4).astype(np.float32)
    expected = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * log_var)).sum()
    assert normal.log_prob(jnp.asarray(z)) == pytest.approx(expected, rel=1e-5)


def test_standard_normal_log_prob_is_scipys():
    z = np.random.default_rng(0).normal(size=5).astype(np.float32)
    log_prob = StandardNormal(5).log_prob(jnp.asarray(z))
    assert log_prob == pytest.approx(scipy.stats.norm.logpdf(z.astype(np.float64)).sum(), rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_diag_normal_integrates_to_1(seed: int):
    normal, _, _ = random_case(seed, num_dims=1)
    log_prob = jax.jit(jax.vmap(normal.log_prob))
    total = oracles.integrate(lambda z: np.exp(log_prob(jnp.float32(z)[:, None])), -40.0, 40.0)
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_entropy_is_scipys(seed: int):
    normal, mean, log_var = random_case(seed)
    expected = np.sum(scipy.stats.norm.entropy(mean, np.exp(0.5 * log_var)))
    assert normal.entropy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_kl_to_standard_normal_is_the_closed_form_of_any_two_gaussians(seed: int):
    normal, mean, log_var = random_case(seed)
    expected = oracles.kl_to_standard_normal(mean, log_var)
    assert normal.kl_to_standard_normal() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kl_of_two_diag_normals_is_the_closed_form_of_any_two_gaussians(seed: int):
    (normal, *first), (other, *second) = random_case(seed), random_case(seed + 10)
    (mean, log_var), (other_mean, other_log_var) = first, second
    covs = np.diag(np.exp(log_var)), np.diag(np.exp(other_log_var))
    expected = oracles.kl_gaussians(mean, covs[0], other_mean, covs[1])
    assert normal.kl(other) == pytest.approx(expected, rel=1e-5)
    assert normal.kl(normal) == 0.0
    assert normal.kl(StandardNormal(4)) == normal.kl_to_standard_normal()


def test_a_kl_without_a_closed_form_is_none():
    class Shifted(StandardNormal):
        pass

    full = FullNormal(jnp.zeros(2), jnp.zeros(2), jnp.zeros(1))
    assert full.kl(StandardNormal(2)) == 0.0
    for normal, other in itertools.product(
        (DiagNormal(jnp.zeros(2), jnp.zeros(2)), full), (full, Shifted(2), StandardNormal.log_prob)
    ):
        assert normal.kl(other) is None
    assert full.kl(DiagNormal(jnp.zeros(2), jnp.zeros(2))) is None


def test_kl_vanishes_at_the_standard_normal_with_its_gradient():
    kl = DiagNormal.kl_to_standard_normal
    prior = DiagNormal(jnp.zeros(3), jnp.zeros(3))
    assert kl(prior) == 0.0
    for gradient in jax.grad(kl)(prior):
        np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("log_var", [1e-2, -1e-2, 1e-3, -1e-3, 1e-4, -1e-4])
def test_kl_keeps_its_digits_next_to_the_standard_normal(log_var: float):
    """Computing exp(t) - 1 would be off by 6e-8 here, more than the whole KL at t = 1e-4."""
    t = float(np.float32(log_var))
    kl = jax.jit(DiagNormal.kl_to_standard_normal)(DiagNormal(jnp.zeros(1), jnp.full(1, t)))
    assert kl == pytest.approx(0.5 * (np.expm1(t) - t), rel=0.01, abs=1e-11)


def test_kl_is_not_negative_however_close_to_the_standard_normal():
    sizes = np.logspace(-12, 1, 400)
    log_vars = jnp.float32(np.concatenate([-sizes, sizes]))[:, None]
    kl = jax.jit(jax.vmap(lambda t: DiagNormal(jnp.zeros(1), t).kl_to_standard_normal()))
    assert np.min(kl(log_vars)) >= 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_have_the_mean_and_the_variance(seed: int):
    normal, mean, log_var = random_case(seed)
    draws = draws_of(normal, seed)
    assert standard_errors_off(draws, mean) < 4
    assert standard_errors_off((draws - mean) ** 2, np.exp(log_var)) < 4
    correlations = np.corrcoef(draws.T)[np.triu_indices(4, k=1)]
    assert np.max(np.abs(correlations)) < 4 / np.sqrt(NUM_DRAWS)


def test_standard_normal_samples_are_standard():
    draws = draws_of(StandardNormal(3))
    assert draws.shape == (NUM_DRAWS, 3)
    for dim in range(3):
        assert scipy.stats.kstest(draws[:, dim], scipy.stats.norm.cdf).pvalue > 1e-3


def test_the_sample_is_differentiable_along_its_path():
    """With z = mean + exp(log_var / 2) eps, dz/dmean = 1 and dz/dlog_var = (z - mean) / 2."""
    normal, _, _ = random_case(0)
    key = jax.random.key(3)
    z = normal.sample(key)
    jacobian = jax.jacobian(lambda n: n.sample(key))(normal)
    np.testing.assert_array_equal(jacobian.mean, np.eye(4))
    np.testing.assert_allclose(jacobian.log_var, np.diag((z - normal.mean) / 2.0), rtol=1e-5)


def test_the_log_density_of_a_sample_keeps_its_digits_at_a_small_variance():
    """It does not depend on the mean; at mean 0 z is not rounded, and SciPy gives the density."""
    log_var = np.float32(-24.0)
    narrow = DiagNormal(jnp.full(10, 3.0), jnp.full(10, log_var))
    keys = jax.random.split(jax.random.key(0), 100)
    z, found = jax.vmap(narrow.sample_and_log_prob)(keys)
    around_0 = jax.vmap(narrow._replace(mean=jnp.zeros(10)).sample)(keys)
    expected = scipy.stats.norm.logpdf(np.float64(around_0), scale=np.exp(log_var / 2)).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(z, jax.vmap(narrow.sample)(keys))
    by_z = np.asarray(jax.vmap(narrow.log_prob)(z))
    assert np.max(np.abs(by_z - expected)) > 0.05  # what the digits of z that were lost cost


@pytest.mark.parametrize("log_var", [-80.0, 80.0])
def test_everything_is_finite_at_extreme_variances(log_var: float):
    normal = DiagNormal(jnp.full(3, 0.5), jnp.full(3, log_var))
    z = jnp.zeros(3)
    numbers = (
        normal.log_prob(z),
        normal.entropy(),
        normal.kl_to_standard_normal(),
        normal.sample_and_log_prob(jax.random.key(0)),
        jax.grad(lambda n: n.log_prob(z))(normal),
        jax.grad(DiagNormal.kl_to_standard_normal)(normal),
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(numbers))
