"""Bayesian logistic regression: two normal fits and HMC, against grids of one and two weights."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from oracles import standard_errors_off

from aevb.classical import logistic_regression
from aevb.classical.logistic_regression import Data
from aevb.distributions import FullNormal
from aevb.inference import hmc
from aevb.losses import Guide, Joint, sgvb_a

PRIOR_VAR = 4.0


def arrays(num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns 20 rows with some of each class; two columns have a correlation of 0.8."""
    rng = np.random.default_rng(2)
    design = rng.normal(size=(20, 2))
    design[:, 1] = 0.8 * design[:, 0] + 0.6 * design[:, 1]
    design = design[:, :num_columns]
    logits = design @ np.array([1.5, -0.5])[:num_columns]
    return design, (rng.uniform(size=20) < scipy.special.expit(logits)).astype(np.float64)


def data(num_columns: int) -> Data:
    return Data(*map(jnp.asarray, arrays(num_columns)))


def prior_var() -> jax.Array:
    return jnp.float64(PRIOR_VAR)


class Exact(NamedTuple):
    """The posterior by the trapezoid rule, with SciPy."""

    log_evidence: float
    mean: np.ndarray  # [D]
    covariance: np.ndarray  # [D, D]


@cache
def exact(num_columns: int) -> Exact:
    design, y = arrays(num_columns)
    axis = np.linspace(-12.0, 12.0, 481)
    w = np.stack(np.meshgrid(*[axis] * num_columns), axis=-1).reshape(-1, num_columns)
    log_joint = np.sum(scipy.stats.bernoulli.logpmf(y, scipy.special.expit(w @ design.T)), axis=1)
    log_joint += np.sum(scipy.stats.norm.logpdf(w, 0.0, PRIOR_VAR**0.5), axis=1)
    log_evidence = scipy.special.logsumexp(log_joint) + num_columns * np.log(axis[1] - axis[0])
    p = np.exp(log_joint - scipy.special.logsumexp(log_joint))
    mean = p @ w
    return Exact(float(log_evidence), mean, (w - mean).T @ ((w - mean) * p[:, None]))


def covariance(q: FullNormal) -> np.ndarray:
    return np.asarray(q.factor() @ q.factor().T)


Fit = Callable[..., FullNormal]


compiled = cache(jax.jit)  # compiles a fit: one program for all data of a shape
bound = jax.jit(logistic_regression.bound)
expected_softplus = jax.jit(logistic_regression.expected_softplus)


@cache
def fitted(fit: Fit, num_columns: int) -> FullNormal:
    return compiled(fit)(data(num_columns), prior_var())


FITS = (logistic_regression.fit, logistic_regression.fit_mean_field)


# The model and its bound


def test_the_log_joint_is_scipys():
    design, y = arrays(2)
    for w in (np.array([0.3, -1.0]), np.array([80.0, 900.0])):
        logits = design @ w
        log_lik = np.sum(np.where(y == 1.0, 1.0, -1.0) * logits / 2 - np.logaddexp(
            logits / 2, -logits / 2))  # fmt: skip
        expected = log_lik + np.sum(scipy.stats.norm.logpdf(w, 0.0, PRIOR_VAR**0.5))
        found = logistic_regression.log_joint(data(2), prior_var(), jnp.asarray(w))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def some_normal() -> FullNormal:
    return FullNormal(jnp.array([0.4, -0.7]), jnp.log(jnp.array([0.9, 0.5])), jnp.array([-0.6]))


def test_the_bound_is_what_sgvb_estimates():
    """The integral over projections equals the mean of log p(y, w) - log q(w) over w ~ q."""
    q = some_normal()
    guide = Guide(
        lambda key, stats: stats.sample(key), lambda stats, w: stats.log_prob(w), None, None
    )
    joint = Joint(
        lambda w: jnp.zeros(()),
        lambda w: logistic_regression.log_joint(data(2), prior_var(), w),
    )
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.jit(jax.vmap(lambda key: sgvb_a(key, q, guide, joint)))(keys)
    found = bound(data(2), prior_var(), q)
    assert standard_errors_off(draws, float(found)) < 4
    assert np.std(draws) / len(draws) ** 0.5 < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_columns", "fit"),
    [(1, logistic_regression.fit), *((2, fit) for fit in FITS)],
)
def test_the_bound_of_a_fit_is_at_most_half_a_nat_below_the_exact_evidence(
    fit: Fit, num_columns: int
):
    """It is 0.02 nats below for one weight, 0.025 for two, and more under mean field."""
    q = fitted(fit, num_columns)
    gap = exact(num_columns).log_evidence - bound(data(num_columns), prior_var(), q)
    assert 0.0 < gap < 0.5
    if fit is logistic_regression.fit:
        assert gap < 0.03


def test_the_bound_is_the_evidence_less_the_kl():
    """The term KL(q || posterior) is computed on a grid of the one weight."""
    q = FullNormal(jnp.array([0.2]), jnp.log(jnp.array([0.8])), jnp.zeros(0))
    design, y = arrays(1)
    w = np.linspace(-12.0, 12.0, 2401)
    log_q = scipy.stats.norm.logpdf(w, 0.2, 0.8)
    logits = w[:, None] * design.T
    log_joint = np.sum(scipy.stats.bernoulli.logpmf(y, scipy.special.expit(logits)), axis=1)
    log_joint += scipy.stats.norm.logpdf(w, 0.0, PRIOR_VAR**0.5)
    kl = np.trapezoid(np.exp(log_q) * (log_q - log_joint + exact(1).log_evidence), w)
    found = bound(data(1), prior_var(), q)
    np.testing.assert_allclose(exact(1).log_evidence - found, kl, rtol=1e-7)


# Three approximations of the posterior


@pytest.mark.slow
@pytest.mark.parametrize("num_columns", [1, 2])
def test_the_full_normal_has_nearly_the_posteriors_moments(num_columns: int):
    """The means and the standard deviations are within a tenth of a standard deviation."""
    q, known = fitted(logistic_regression.fit, num_columns), exact(num_columns)
    std = np.sqrt(np.diag(known.covariance))
    assert np.all(np.abs(np.asarray(q.mean) - known.mean) < 0.1 * std)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance(q))), std, rtol=0.1)
    if num_columns == 2:
        found = covariance(q)[0, 1] / np.prod(np.sqrt(np.diag(covariance(q))))
        assert found == pytest.approx(known.covariance[0, 1] / np.prod(std), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("num_columns", [1, 2])
def test_hmc_has_the_posteriors_moments(num_columns: int):
    known = exact(num_columns)

    def log_density(w: jax.Array) -> jax.Array:
        return logistic_regression.log_joint(data(num_columns), prior_var(), w)

    start = jnp.zeros((64, num_columns))
    run = jax.jit(lambda key: hmc.sample(key, start, log_density, num_samples=300))
    chains = run(jax.random.key(0))
    effective = np.asarray(hmc.effective_sample_size(chains.samples))
    assert np.all(np.abs(np.asarray(hmc.r_hat(chains.samples)) - 1.0) < 0.02)
    samples = np.asarray(chains.samples, np.float64)
    assert standard_errors_off(np.mean(samples, axis=1), known.mean) < 4
    away = samples - known.mean
    products = np.einsum("cli,clj->cij", away, away) / samples.shape[1]
    assert standard_errors_off(products, known.covariance) < 4
    # The effective sample size gives the error of the mean of all samples.
    std = np.sqrt(np.diag(known.covariance))
    errors = np.abs(np.mean(samples, axis=(0, 1)) - known.mean)
    assert np.all(errors < 4.0 * std / np.sqrt(effective))


def expected_hessian(q: FullNormal) -> np.ndarray:
    """Returns minus the Hessian of log p(y, w), averaged over q by a grid of each projection."""
    design, _ = arrays(2)
    nodes = np.linspace(-10.0, 10.0, 801)
    probabilities = scipy.stats.norm.pdf(nodes) * (nodes[1] - nodes[0])
    mean = design @ np.asarray(q.mean)
    std = np.sqrt(np.einsum("ni,ij,nj->n", design, covariance(q), design))
    sigmoid = scipy.special.expit(mean[:, None] + std[:, None] * nodes)
    curvature = (sigmoid * (1.0 - sigmoid)) @ probabilities
    return np.eye(2) / PRIOR_VAR + design.T @ (design * curvature[:, None])


@pytest.mark.slow
def test_both_logistic_fits_are_stationary_points_of_the_bound():
    """Their precisions are minus the mean Hessian: all of it, or only its diagonal."""
    full, diagonal = (fitted(fit, 2) for fit in FITS)
    np.testing.assert_allclose(np.linalg.inv(covariance(full)), expected_hessian(full), rtol=1e-4)
    variances = np.diag(covariance(diagonal))
    np.testing.assert_allclose(variances, 1 / np.diag(expected_hessian(diagonal)), rtol=1e-4)
    assert covariance(diagonal)[0, 1] == 0.0


@pytest.mark.slow
def test_mean_fields_variances_are_too_small_and_near_those_given_the_other_weight():
    """The latter are 1 / Lambda_ii, where Lambda is the inverse of the full fit's covariance."""
    full, diagonal = (covariance(fitted(fit, 2)) for fit in FITS)
    conditional = 1.0 / np.diag(np.linalg.inv(full))
    np.testing.assert_allclose(np.diag(diagonal), conditional, rtol=0.1)
    assert np.all(np.diag(diagonal) < 0.8 * np.diag(exact(2).covariance))


# Extremes


@pytest.mark.slow
def test_linearly_separable_classes_have_a_finite_fit():
    """The likelihood has no maximum there, and the prior keeps the weights finite."""
    design = np.linspace(-2.0, 2.0, 20)[:, None]
    separable = Data(jnp.asarray(design), jnp.asarray((design[:, 0] > 0.0).astype(np.float64)))
    q = compiled(logistic_regression.fit)(separable, prior_var())
    assert np.all(np.isfinite(jax.tree.leaves(q)[0]))
    axis = np.linspace(-20.0, 20.0, 4001)
    log_joint_at = jax.vmap(
        lambda w: logistic_regression.log_joint(separable, prior_var(), w[None])
    )
    log_joint = jax.jit(log_joint_at)(jnp.asarray(axis))
    log_evidence = scipy.special.logsumexp(log_joint) + np.log(axis[1] - axis[0])
    assert 0.0 < log_evidence - bound(separable, prior_var(), q) < 0.1


def test_the_weight_of_a_column_of_zeros_has_its_prior_as_posterior():
    design, y = arrays(1)
    wider = Data(jnp.asarray(np.hstack([design, np.zeros_like(design)])), jnp.asarray(y))
    q = compiled(logistic_regression.fit)(wider, prior_var())
    np.testing.assert_allclose(q.mean[1], 0.0, atol=1e-8)
    np.testing.assert_allclose(covariance(q)[1, 1], PRIOR_VAR, rtol=1e-6)


STDS = (0.0, 0.1, 1.0, 1.0001, 3.0, 10.0, 30.0)


def integral(mean: float, std: float) -> float:
    """Returns E[log(1 + exp(a))] of a ~ N(mean, std^2) by SciPy's adaptive quadrature."""

    def integrand(a: float) -> float:
        return np.logaddexp(0.0, a) * scipy.stats.norm.pdf(a, mean, std)

    ends = (mean - 12.0 * std, -40.0, -4.0, 0.0, 4.0, 40.0, mean + 12.0 * std)
    ends = sorted(end for end in ends if ends[0] <= end <= ends[-1])
    parts = itertools.pairwise(ends)
    return sum(scipy.integrate.quad(integrand, *part, epsabs=1e-14, limit=200)[0] for part in parts)


@pytest.mark.parametrize("mean", [0.0, 3.0, -30.0])
def test_the_quadrature_is_exact_for_projections_of_any_standard_deviation(mean: float):
    """Gauss-Hermite quadrature with 40 nodes was off by 8e-3 nats at a deviation of 10."""
    found = expected_softplus(jnp.full(len(STDS), mean), jnp.array(STDS))
    expected = [np.logaddexp(0.0, mean), *(integral(mean, std) for std in STDS[1:])]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_the_quadratures_gradient_is_that_of_its_value_at_any_standard_deviation():
    """d/dmean is E[sigmoid(a)] and d/dstd is std E[sigmoid'(a)], on a grid of a."""
    t = np.linspace(-12.0, 12.0, 400_001)
    weights = scipy.stats.norm.pdf(t) * (t[1] - t[0])
    gradient = jax.jit(jax.vmap(jax.grad(
        lambda mean, std: logistic_regression.expected_softplus(mean[None], std[None])[0], (0, 1)
    )))  # fmt: skip
    stds = np.array(STDS[1:])
    by_mean, by_std = gradient(jnp.full(len(stds), 0.7), jnp.asarray(stds))
    sigmoid = scipy.special.expit(0.7 + stds[:, None] * t)
    np.testing.assert_allclose(by_mean, sigmoid @ weights, rtol=1e-9)
    np.testing.assert_allclose(by_std, stds * ((sigmoid * (1 - sigmoid)) @ weights), rtol=1e-8)
