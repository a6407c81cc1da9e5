"""Distributions, against SciPy in float64, quadrature, and their own samples."""

import itertools
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
from oracles import standard_errors_off

from aevb.distributions import (
    DiagNormal,
    FullNormal,
    PreciseNormal,
    StandardNormal,
    negative_binomial_log_prob,
    poisson_log_prob,
    stirling_error,
    student_t_log_prob,
    zero_inflated_log_prob,
)

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


def test_the_kl_per_unit_is_the_closed_form_of_each_dimension_and_adds_up():
    (one, mean_1, log_var_1), (two, mean_2, log_var_2) = (random_case(seed) for seed in (0, 1))
    stds = np.exp(0.5 * log_var_1), np.exp(0.5 * log_var_2)
    for other, mean, std in ((two, mean_2, stds[1]), (StandardNormal(4), 0.0 * mean_2, np.ones(4))):
        found = one.kl_per_unit(other)
        exact = np.log(std / stds[0]) + (stds[0] ** 2 + (mean_1 - mean) ** 2) / (2 * std**2) - 0.5
        np.testing.assert_allclose(np.asarray(found), exact, rtol=1e-5)
        np.testing.assert_allclose(np.asarray(one.kl(other)), np.sum(exact), rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gaussian_by_its_precision_has_the_density_and_the_kl_of_any_gaussian(seed: int):
    rng = np.random.default_rng(seed)
    shift, below = rng.normal(size=4), np.tril(rng.normal(size=(4, 4)), -1)
    factor = below + np.diag(rng.uniform(0.5, 2.0, size=4))
    cov: Any = np.linalg.inv(factor @ factor.T)
    mean: Any = np.linalg.solve(factor.T, shift)
    normal = PreciseNormal(jnp.float32(shift), jnp.float32(factor))
    z, log_prob = normal.sample_and_log_prob(jax.random.key(seed))
    exact: Any = scipy.stats.multivariate_normal(mean, cov)
    assert log_prob == pytest.approx(exact.logpdf(np.asarray(z, np.float64)), rel=1e-4)
    assert normal.log_prob(z) == pytest.approx(float(log_prob), rel=1e-4)
    other, other_mean, log_var = random_case(seed)
    expected = oracles.kl_gaussians(mean, cov, other_mean, np.diag(np.exp(log_var)))
    assert normal.kl(other) == pytest.approx(expected, rel=1e-5)
    expected = oracles.kl_gaussians(mean, cov, np.zeros(4), np.eye(4))
    assert normal.kl(StandardNormal(4)) == pytest.approx(expected, rel=1e-5)
    assert normal.kl(normal) is None


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


# Heavy tails


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("float64", 1e-10)])
def test_the_student_t_log_prob_keeps_its_digits_at_all_degrees_of_freedom(
    dtype: str, tolerance: float
):
    """In float32, a difference of log-Gammas has an error of 0.5 nats at df = 10^6."""
    df = np.concatenate([[0.1, 0.9], 1 + np.logspace(-6, 1, 15), np.logspace(1, 6, 21)])
    t = np.array([0.0, 1e-3, 0.5, -1.0, 3.0, -30.0, 1e6])
    t, df = (axis.ravel().astype(dtype) for axis in np.meshgrid(t, df))
    with jax.enable_x64(dtype == "float64"):
        found = np.asarray(student_t_log_prob(jnp.asarray(t), jnp.asarray(df)))
    assert found.dtype == dtype
    exact = scipy.stats.t.logpdf(np.float64(t), np.float64(df))
    np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance)


def test_the_student_t_log_prob_in_float32_has_the_slopes_of_differences():
    t, df = np.meshgrid([0.0, 0.3, -2.0, 40.0], [1.0, 3.0, 15.9, 16.1, 300.0])
    slopes = jax.vmap(jax.grad(student_t_log_prob, (0, 1)))
    found = slopes(jnp.float32(t.ravel()), jnp.float32(df.ravel()))
    log_prob: Any = scipy.stats.t.logpdf
    for slope, (by_t, by_df) in zip(found, ((1e-5, 0.0), (0.0, 1e-5)), strict=True):
        above, below = (log_prob(t + s * by_t, df + s * by_df).ravel() for s in (1, -1))
        np.testing.assert_allclose(slope, (above - below) / 2e-5, rtol=1e-4, atol=1e-5)


def test_the_student_t_log_prob_is_finite_at_extremes_with_its_gradient():
    t, df = np.meshgrid([0.0, 1e-35, -1.0, 1e35], [1e-6, 1.0, 1e35])
    log_prob = jax.vmap(jax.value_and_grad(student_t_log_prob, (0, 1)))
    for found in jax.tree.leaves(log_prob(jnp.float32(t.ravel()), jnp.float32(df.ravel()))):
        assert np.all(np.isfinite(found))


# Counts

COUNTS = (0, 1, 2, 7, 8, 9, 100, 12_345, 10**6)
TOTAL_COUNTS = (1e-3, 0.1, 1.0, 7.9, 8.1, 1e3, 1e6)
AWAY = (-10.0, -1.0, 0.0, 1.0, 3.0, 10.0)  # standard deviations of log x from the log mean
in_both_dtypes = pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-11)]
)


@cache
def negative_binomial_cases(dtype: str) -> np.ndarray:
    """Returns counts, log means and log total counts [3, n], as a dtype holds them."""
    cases = [
        (x, np.log(max(x, 0.5)) + away * min(np.sqrt(1.0 / max(x, 0.5) + 1.0 / r), 3.0), np.log(r))
        for x, r, away in itertools.product(COUNTS, TOTAL_COUNTS, AWAY)
    ]
    return np.array(cases, dtype).T


def poisson_cases(dtype: str) -> np.ndarray:
    """Returns counts and log rates [2, n], as a dtype holds them."""
    cases = [
        (x, np.log(max(x, 0.5)) + away / np.sqrt(max(x, 0.5)))
        for x, away in itertools.product((*COUNTS, 2**22), AWAY)
    ]
    return np.array(cases, dtype).T


@cache
def gamma_ratio(x: int, log_total_count: Any) -> tuple[Any, Any]:
    """Returns log Gamma(x + r) / (Gamma(r) x!) and its slope in r, in extended precision.

    The ratio is a product over x factors, of which each is rounded in its last digit.
    """
    r, k = np.exp(np.longdouble(log_total_count)), np.arange(x, dtype=np.longdouble)
    return np.sum(np.log1p((r - 1) / (k + 1))), np.sum(1 / (r + k))


def exact_poisson(x: Any, log_rate: Any) -> tuple[Any, Any]:
    """Returns the log-probability and its slope in the log rate, in extended precision."""
    rate = np.exp(np.longdouble(log_rate))
    return x * np.longdouble(log_rate) - rate - log_factorial(int(x)), x - rate


@cache
def log_factorial(x: int) -> Any:
    return np.sum(np.log(np.arange(1, x + 1, dtype=np.longdouble)))


def exact_negative_binomial(x: Any, log_mean: Any, log_total_count: Any) -> tuple[Any, Any, Any]:
    """Returns the log-probability and its slopes in both logs, in extended precision."""
    log_mean, log_r = np.longdouble(log_mean), np.longdouble(log_total_count)
    mean, r, zero = np.exp(log_mean), np.exp(log_r), np.longdouble(0)
    log_ratio, slope = gamma_ratio(int(x), log_total_count)
    log_of_0 = -np.logaddexp(zero, log_mean - log_r)
    value = log_ratio + r * log_of_0 - int(x) * np.logaddexp(zero, log_r - log_mean)
    of_mean = r * (int(x) - mean) / (r + mean)
    return value, of_mean, r * (slope + log_of_0) - of_mean


def evaluated(function: Any, cases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns log-probabilities [n] and their slopes [n, statistics] in the dtype of the cases."""
    with jax.enable_x64(cases.dtype == np.float64):
        x, *statistics = map(jnp.asarray, cases)
        slopes_in = tuple(range(1, len(cases)))
        values, slopes = jax.jit(jax.vmap(jax.value_and_grad(function, slopes_in)))(x, *statistics)
        assert values.dtype == cases.dtype
        return np.asarray(values), np.stack([np.asarray(slope) for slope in slopes], axis=1)


@in_both_dtypes
def test_the_poisson_log_prob_keeps_its_digits_from_0_to_the_largest_count(
    dtype: str, tolerance: float
):
    cases = poisson_cases(dtype)
    values, slopes = evaluated(poisson_log_prob, cases)
    exact, exact_slopes = np.array([exact_poisson(*case) for case in cases.T], np.float64).T
    np.testing.assert_allclose(values, exact, rtol=tolerance, atol=tolerance / 4)
    # A slope is a difference of numbers of size x, whose standard deviation is sqrt(x).
    allowed = 3 * tolerance * (np.abs(exact_slopes) + np.sqrt(np.maximum(cases[0], 1.0)))
    assert np.all(np.abs(slopes[:, 0] - exact_slopes) <= allowed)


@in_both_dtypes
def test_the_negative_binomial_log_prob_keeps_its_digits_at_every_total_count(
    dtype: str, tolerance: float
):
    cases = negative_binomial_cases(dtype)
    values, slopes = evaluated(negative_binomial_log_prob, cases)
    each = [exact_negative_binomial(*case) for case in cases.T]
    exact, *exact_slopes = np.array(each, np.float64).T
    np.testing.assert_allclose(values, exact, rtol=tolerance, atol=tolerance / 4)
    for found, slope in zip(slopes.T, exact_slopes, strict=True):
        allowed = 10 * tolerance * (np.abs(slope) + np.sqrt(np.maximum(cases[0], 1.0)))
        assert np.all(np.abs(found - slope) <= allowed)


def test_log_probs_of_counts_are_scipys():
    x, rate = np.arange(60.0), np.array([0.01, 0.7, 5.0, 30.0])[:, None]
    found = poisson_log_prob(jnp.float32(x)[None], jnp.log(jnp.float32(rate)))
    np.testing.assert_allclose(found, scipy.stats.poisson.logpmf(x, rate), rtol=3e-6)
    for r in (0.03, 1.5, 40.0):
        found = negative_binomial_log_prob(
            jnp.float32(x)[None], jnp.log(jnp.float32(rate)), jnp.log(jnp.float32(r))[None, None]
        )
        expected = scipy.stats.nbinom.logpmf(x, r, r / (r + rate))
        np.testing.assert_allclose(found, expected, rtol=3e-6)


@pytest.mark.parametrize("zero_logit", [None, -2.0, 1.5])
@pytest.mark.parametrize("total_count", [None, 0.5, 20.0])
def test_probabilities_of_counts_sum_to_1(total_count: float | None, zero_logit: float | None):
    x, log_mean = jnp.arange(2000.0), jnp.log(jnp.full(1, 30.0))
    log_probs = poisson_log_prob(x, log_mean)
    if total_count is not None:
        log_probs = negative_binomial_log_prob(x, log_mean, jnp.log(jnp.full(1, total_count)))
    if zero_logit is not None:
        log_probs = zero_inflated_log_prob(x, log_probs, jnp.full(1, zero_logit))
    probabilities = np.exp(np.asarray(log_probs, np.float64))
    assert np.sum(probabilities) == pytest.approx(1.0, abs=2e-6)
    share = 0.0 if zero_logit is None else scipy.special.expit(zero_logit)
    assert probabilities @ np.arange(2000) == pytest.approx((1 - share) * 30.0, rel=2e-6)


def test_zero_inflation_mixes_zeros_into_any_log_prob():
    log_probs = np.log(np.array([1e-30, 0.2, 0.5, 0.999]))
    for logit in (-40.0, -3.0, 0.0, 3.0, 40.0):
        share, rest = scipy.special.expit([logit, -logit])
        for x in (0.0, 1.0, 7.0):
            found = zero_inflated_log_prob(
                jnp.full(4, x), jnp.float32(log_probs), jnp.full(4, logit)
            )
            expected = np.log(share * (x == 0.0) + rest * np.exp(log_probs))
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_a_negative_binomial_of_a_huge_total_count_is_a_poisson():
    x, log_mean = jnp.float32([0, 1, 3, 200, 10_000]), jnp.log(jnp.float32([0.1, 2, 3, 190, 9900]))
    found = negative_binomial_log_prob(x, log_mean, jnp.full(5, 60.0))
    np.testing.assert_allclose(found, poisson_log_prob(x, log_mean), rtol=1e-6)


@in_both_dtypes
def test_stirling_error_completes_stirlings_formula(dtype: str, tolerance: float):
    n = np.array([1e-3, 0.2, 1.0, 4.5, 7.999, 8.0, 8.5, 20.0, 1e3], dtype)
    with jax.enable_x64(dtype == "float64"):
        found = np.asarray(stirling_error(jnp.asarray(n)), np.float64)
    formula = (n + 0.5) * np.log(n.astype(np.float64)) - n + 0.5 * oracles.LOG_2PI
    exact = scipy.special.gammaln(n.astype(np.float64) + 1.0) - formula
    np.testing.assert_allclose(found, exact, atol=tolerance)
    np.testing.assert_allclose(stirling_error(jnp.float32(1e20)), 1 / 12e20, rtol=1e-6)


def test_log_probs_of_counts_are_finite_at_extreme_statistics():
    logs = np.array([-70.0, 0.0, 80.0])
    counts = (0.0, 1.0, 1e6, 2.0**24)
    cases = np.array(list(itertools.product(counts, logs, logs)), np.float32).T
    for function, columns in ((poisson_log_prob, cases[:2]), (negative_binomial_log_prob, cases)):
        assert all(np.all(np.isfinite(found)) for found in evaluated(function, columns))
