"""The Gaussian of unknown mean and precision matrix, and the matrix factors it is computed from."""

import math

import enumerated_mixture as brute
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import standard_errors_off

from aevb.classical import normal_wishart
from aevb.classical.cholesky import factorize, solve_lower
from aevb.classical.families import Wishart
from aevb.classical.normal_wishart import NormalWishart

RNG = np.random.default_rng(0)
NUM_DIMS = 3
FACTOR = RNG.normal(size=(NUM_DIMS, NUM_DIMS))
SCATTER = FACTOR @ FACTOR.T + 0.5 * np.eye(NUM_DIMS)
EXACT = brute.Prior(1.0, RNG.normal(size=NUM_DIMS), 0.7, 4.5, SCATTER)
DATA = RNG.normal(0.5, 1.3, size=(6, NUM_DIMS))


def family(of: brute.Prior | brute.NormalWishart = EXACT) -> NormalWishart:
    precision = Wishart(jnp.float64(of.nu), jnp.asarray(of.scatter))
    return NormalWishart(jnp.asarray(of.mean), jnp.float64(of.beta), precision)


log_predictive = jax.jit(NormalWishart.log_predictive)
posterior = jax.jit(normal_wishart.posterior)
kl = jax.jit(NormalWishart.kl)
expected_log_liks = jax.jit(lambda family, x: family.expected_log_lik()(x))


def evaluated(centre: np.ndarray, weights: np.ndarray, data: np.ndarray = DATA) -> NormalWishart:
    at = jnp.asarray(centre)
    moments = normal_wishart.moments(jnp.asarray(data.T), jnp.asarray(weights), at)
    return posterior(family(), moments, at)


def assert_same(found: NormalWishart, expected: NormalWishart, rtol: float = 1e-10) -> None:
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol)


# Factors


def test_cholesky_factors_are_those_of_lapack():
    many = RNG.normal(size=(5, 4, 4))
    matrices = many @ np.swapaxes(many, 1, 2) + np.eye(4)
    found = jax.jit(jax.vmap(factorize))(jnp.asarray(matrices))
    np.testing.assert_allclose(found.lower, np.linalg.cholesky(matrices), atol=1e-12)
    np.testing.assert_allclose(
        found.inverse @ found.lower, np.tile(np.eye(4), (5, 1, 1)), atol=1e-12
    )
    log_dets = np.linalg.slogdet(matrices)[1]
    np.testing.assert_allclose(jax.vmap(lambda f: f.log_det())(found), log_dets, rtol=1e-12)
    y = jnp.asarray(RNG.normal(size=4))
    np.testing.assert_allclose(found.lower[0] @ solve_lower(found.lower[0], y), y, atol=1e-12)


def test_the_factor_of_a_matrix_that_is_not_positive_definite_is_nan():
    assert np.any(np.isnan(factorize(jnp.diag(jnp.array([1.0, -1.0]))).lower))


# The posterior


def test_the_posterior_does_not_depend_on_the_centre_of_the_sums():
    expected = family(brute.posterior(EXACT, DATA))
    for centre in (np.zeros(NUM_DIMS), EXACT.mean, np.array([3.0, -2.0, 1.0])):
        assert_same(evaluated(centre, np.ones(len(DATA))), expected)


def test_a_weight_of_2_counts_a_datapoint_twice_and_without_data_the_posterior_is_the_prior():
    weights = np.array([2.0, 1.0, 0.0, 1.0, 3.0, 1.0])
    repeated = np.repeat(DATA, weights.astype(int), axis=0)
    assert_same(evaluated(DATA[0], weights), family(brute.posterior(EXACT, repeated)))
    assert_same(evaluated(EXACT.mean, np.zeros(len(DATA))), family(), rtol=0.0)


def test_the_evidence_is_the_closed_form_and_the_product_of_the_predictives():
    found = jax.jit(normal_wishart.log_evidence)(family(), jnp.asarray(DATA.T))
    np.testing.assert_allclose(found, brute.log_evidence_of_one(EXACT, DATA), rtol=1e-12)
    total, known = 0.0, family()
    for number, point in enumerate(DATA, start=1):
        total += float(log_predictive(known, jnp.asarray(point)[:, None])[0])
        known = family(brute.posterior(EXACT, DATA[:number]))
    np.testing.assert_allclose(found, total, rtol=1e-12)


def test_the_predictive_is_scipys_students_t():
    freedom = EXACT.nu - NUM_DIMS + 1
    shape = SCATTER * (1 + EXACT.beta) / (EXACT.beta * freedom)
    exact = scipy.stats.multivariate_t(EXACT.mean, shape, freedom)  # pyright: ignore[reportArgumentType]
    expected = exact.logpdf(DATA)
    np.testing.assert_allclose(log_predictive(family(), jnp.asarray(DATA.T)), expected, rtol=1e-12)


def test_the_kl_of_two_normal_wisharts_is_that_of_the_brute_force_oracle():
    other = brute.posterior(EXACT, DATA)
    for p, q in ((EXACT, other), (other, EXACT), (EXACT, EXACT)):
        this, that = (
            brute.NormalWishart(each.mean, each.beta, each.nu, each.scatter) for each in (p, q)
        )
        expected = brute.kl_normal_wishart(this, that)
        np.testing.assert_allclose(kl(family(this), family(that)), expected, atol=1e-10)
    assert float(kl(family(), family(other))) > 0.1


# Draws


def test_the_expected_log_likelihood_is_the_mean_of_scipys_draws():
    rng = np.random.default_rng(1)
    precisions = scipy.stats.wishart(EXACT.nu, np.linalg.inv(SCATTER)).rvs(20_000, random_state=rng)
    factors = np.linalg.cholesky(np.linalg.inv(precisions) / EXACT.beta)
    means = EXACT.mean + np.einsum("nij,nj->ni", factors, rng.normal(size=(20_000, NUM_DIMS)))
    away = DATA[0] - means
    squared = np.einsum("ni,nij,nj->n", away, precisions, away)
    log_dets = np.linalg.slogdet(precisions)[1]
    draws = 0.5 * (log_dets - NUM_DIMS * math.log(2 * math.pi) - squared)
    found = expected_log_liks(family(), jnp.asarray(DATA[:1].T))
    assert standard_errors_off(draws, np.asarray(found)) < 4


def test_draws_are_of_a_wishart_and_of_a_normal_given_it():
    """Both a'Lambda a and the mean's squared distance in units of Lambda are scaled chi-squared."""
    keys = jax.random.split(jax.random.key(1), 20_000)
    means, whiteners = jax.jit(jax.vmap(family().sample))(keys)
    precisions = np.einsum("nji,njk->nik", whiteners, whiteners)
    scale = np.linalg.inv(SCATTER)
    for a in (*np.eye(NUM_DIMS), np.array([1.0, -2.0, 0.5])):
        along = np.einsum("i,nij,j->n", a, precisions, a) / (a @ scale @ a)
        assert scipy.stats.kstest(along, scipy.stats.chi2(EXACT.nu).cdf).pvalue > 1e-3
    away = np.asarray(means) - EXACT.mean
    distance = EXACT.beta * np.einsum("ni,nij,nj->n", away, precisions, away)
    assert scipy.stats.kstest(distance, scipy.stats.chi2(NUM_DIMS).cdf).pvalue > 1e-3
    log_dets = np.linalg.slogdet(precisions)[1]
    halves = 0.5 * (EXACT.nu - np.arange(NUM_DIMS))
    expected = np.sum(scipy.special.digamma(halves) + np.log(2.0)) - np.linalg.slogdet(SCATTER)[1]
    assert standard_errors_off(log_dets, expected) < 4
    assert np.all(np.triu(whiteners, 1) == 0.0)


# float32


@pytest.mark.slow
def test_a_tight_cluster_far_from_the_origin_keeps_its_digits_in_float32():
    """The cluster has standard deviation 0.001 at 1; an expanded square would lose all digits."""
    with jax.enable_x64(False):
        x = jnp.asarray(1.0 + 1e-3 * RNG.normal(size=(2, 500)), jnp.float32)
        centre = jnp.mean(x, axis=1)
        moments = normal_wishart.moments(x, jnp.ones(500), centre)
        exact = np.cov(np.asarray(x, np.float64), bias=True) * 500
        np.testing.assert_allclose(moments.scatter, exact, rtol=1e-3, atol=1e-8)
        narrow = Wishart(jnp.float32(500.0), moments.scatter)
        values = expected_log_liks(NormalWishart(centre, jnp.float32(500.0), narrow), x)
    wide = Wishart(jnp.float64(500.0), jnp.asarray(moments.scatter, jnp.float64))
    exact_family = NormalWishart(jnp.asarray(centre, jnp.float64), jnp.float64(500.0), wide)
    expected = expected_log_liks(exact_family, jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(values, expected, atol=1e-3)
