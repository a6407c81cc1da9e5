"""Bayesian linear regression: exact evidence, mean field, scikit-learn, and Occam's razor."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.linear_model import BayesianRidge

from aevb.classical import coordinate_ascent, linear_regression
from aevb.classical.families import Gamma, Normal
from aevb.classical.linear_regression import MeanField, Occam, Prior

NUM_DATA, TRUE_DEGREE, MAX_DEGREE = 40, 3, 7
WEIGHTS = np.array([0.5, -1.0, 0.8, 1.5])


def prior() -> Prior:
    return Prior(
        Gamma(jnp.float64(1.0), jnp.float64(1.0)), Gamma(jnp.float64(1.0), jnp.float64(0.1))
    )


def data(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Returns x [N] and a cubic of x with noise of standard deviation 0.3."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.0, 1.0, size=NUM_DATA)
    y = np.polynomial.legendre.legval(x, WEIGHTS) + 0.3 * rng.normal(size=NUM_DATA)
    return jnp.asarray(x), jnp.asarray(y)


def cubic() -> tuple[jax.Array, jax.Array]:
    x, y = data()
    return linear_regression.polynomial(x, TRUE_DEGREE), y


def log_normal(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    return scipy.stats.multivariate_normal.logpdf(x, mean, cov)  # pyright: ignore[reportArgumentType]


def log_gamma(x: np.ndarray, family: Gamma) -> np.ndarray:
    return scipy.stats.gamma.logpdf(x, float(family.shape), scale=1 / float(family.rate))


def exact_log_evidence(design: np.ndarray, y: np.ndarray) -> float:
    """Returns log p(y), with w integrated by hand and both precisions by the trapezoid rule.

    The rule runs over log alpha and log beta.
    """
    eigenvalues, vectors = np.linalg.eigh(design @ design.T)
    log_alpha = np.linspace(-12.0, 6.0, 181)[:, None, None]
    log_beta = np.linspace(-6.0, 8.0, 141)[None, :, None]
    variances = np.exp(-log_beta) + np.maximum(eigenvalues, 0.0) * np.exp(-log_alpha)
    squares = np.square(vectors.T @ y) / variances
    log_lik = -0.5 * np.sum(np.log(2 * np.pi * variances) + squares, axis=-1)
    for log, family in zip((log_alpha, log_beta), prior(), strict=True):
        # d alpha = alpha d log alpha
        log_lik = log_lik + (log_gamma(np.exp(log), family) + log)[..., 0]
    return float(scipy.special.logsumexp(log_lik) + 2 * np.log(0.1))


@jax.jit
def maximum(
    design: jax.Array, y: jax.Array, prior: Prior, active: jax.Array | None = None
) -> coordinate_ascent.Maximum:
    problem = linear_regression.coordinate_ascent(design, y, prior, active)
    start = problem.init(jax.random.key(0))
    return coordinate_ascent.maximize(problem, start, tolerance=1e-12, max_sweeps=1000)


log_evidence = jax.jit(linear_regression.log_evidence)
NUM_SETS = 20


@cache
def curves() -> Occam:
    """Returns the curves of `data` of 20 seeds, with leaves [NUM_SETS, MAX_DEGREE + 1]."""
    sets = [data(seed) for seed in range(NUM_SETS)]
    x, y = (jnp.stack(values) for values in zip(*sets, strict=True))
    return razor(x, y, prior())


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None))
def razor(x: jax.Array, y: jax.Array, prior: Prior) -> Occam:
    return linear_regression.occams_razor(x, y, prior, max_degree=MAX_DEGREE, num_sweeps=100)


# At known precisions


def test_the_evidence_is_the_normal_density_of_y():
    design, y = cubic()
    cov = np.eye(NUM_DATA) / 9.0 + np.asarray(design @ design.T) / 2.0
    expected = log_normal(np.asarray(y), np.zeros(NUM_DATA), cov)
    found = log_evidence(design, y, jnp.float64(2.0), jnp.float64(9.0))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_bayes_rule_holds_at_every_point():
    """The identity is log p(y | w) + log p(w) - log p(w | y) = log p(y)."""
    design, y = cubic()
    exact = jax.jit(linear_regression.posterior)(design, y, jnp.float64(2.0), jnp.float64(9.0))
    evidence = log_evidence(design, y, jnp.float64(2.0), jnp.float64(9.0))
    log_prob = jax.jit(Normal.log_prob)
    for w in np.random.default_rng(1).normal(size=(3, 4)):
        joint = np.sum(scipy.stats.norm.logpdf(y, np.asarray(design) @ w, 1 / 3.0))
        joint += np.sum(scipy.stats.norm.logpdf(w, 0.0, 2.0**-0.5))
        np.testing.assert_allclose(joint - log_prob(exact, w), evidence, rtol=1e-10)


def test_the_greatest_likelihood_is_that_of_least_squares():
    design, y = cubic()
    weights = np.linalg.lstsq(np.asarray(design), np.asarray(y))[0]
    residuals = np.asarray(y) - np.asarray(design) @ weights
    expected = np.sum(scipy.stats.norm.logpdf(residuals, 0.0, np.std(residuals)))
    found = linear_regression.greatest_log_lik(design, y)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


# Mean field


def test_the_bound_rises_at_every_update_and_stays_below_the_evidence():
    """The bound is 0.06 nats below the evidence, which is by quadrature over both precisions."""
    design, y = cubic()
    problem = linear_regression.coordinate_ascent(design, y, prior())

    @jax.jit
    def bounds_of(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = problem.init(key)
        return problem.bound(start), coordinate_ascent.ascend(problem, start, num_sweeps=50)[1]

    first, bounds = bounds_of(jax.random.key(0))
    history = np.array([first, *np.ravel(bounds)])
    assert np.all(np.diff(history) > -1e-10)
    assert history[-1] - history[0] > 5.0
    gap = exact_log_evidence(np.asarray(design), np.asarray(y)) - history[-1]
    assert 0.0 < gap < 0.1


@pytest.mark.slow
def test_the_bound_is_the_mean_of_log_joint_less_log_q():
    """The mean is over samples of Q, with SciPy's densities, at the optimum and away from it."""
    design, y = cubic()
    problem = linear_regression.coordinate_ascent(design, y, prior())
    rng = np.random.default_rng(0)
    after_a_sweep = jax.jit(lambda key: problem.update(problem.init(key)))(jax.random.key(0))
    for q in (after_a_sweep, maximum(design, y, prior()).state):
        mean, covariance = map(np.asarray, q.weights)
        w = rng.multivariate_normal(mean, covariance, size=20_000)
        log_weights = -log_normal(w, mean, covariance)
        precisions = []
        for factor, before in zip(q[1:], prior(), strict=True):
            precision = rng.gamma(float(factor.shape), 1 / float(factor.rate), size=20_000)
            log_weights += log_gamma(precision, before) - log_gamma(precision, factor)
            precisions.append(precision[:, None])
        alpha, beta = precisions
        log_weights += np.sum(scipy.stats.norm.logpdf(w, 0.0, alpha**-0.5), axis=1)
        means = w @ np.asarray(design).T
        log_weights += np.sum(scipy.stats.norm.logpdf(np.asarray(y), means, beta**-0.5), axis=1)
        error = np.std(log_weights) / np.sqrt(len(log_weights))
        assert abs(np.mean(log_weights) - problem.bound(q)) < 4 * error
        assert error < 0.03


def test_mean_field_ends_where_scikit_learns_evidence_maximization_does():
    """Both precisions have the same fixed-point equations: MacKay's, with the Gamma priors."""
    design, y = cubic()
    q: MeanField = maximum(design, y, prior()).state
    of_alpha, of_beta = ((float(shape), float(rate)) for shape, rate in prior())
    ridge = BayesianRidge(
        max_iter=10_000, tol=1e-13, fit_intercept=False,
        lambda_1=of_alpha[0], lambda_2=of_alpha[1], alpha_1=of_beta[0], alpha_2=of_beta[1],
    ).fit(np.asarray(design), np.asarray(y))  # fmt: skip
    np.testing.assert_allclose(q.weight_precision.mean(), ridge.lambda_, rtol=1e-5)
    np.testing.assert_allclose(q.noise_precision.mean(), ridge.alpha_, rtol=1e-5)
    np.testing.assert_allclose(q.weights.mean, ridge.coef_, rtol=1e-5)
    np.testing.assert_allclose(q.weights.covariance, ridge.sigma_, rtol=1e-5)


def test_priors_that_are_certain_make_the_bound_the_exact_evidence():
    """The Gammas of a million observations, at 2 and 9, leave mean field without error."""
    design, y = cubic()
    certain = Prior(*(Gamma(jnp.float64(1e6), jnp.float64(1e6 / mean)) for mean in (2.0, 9.0)))
    found = maximum(design, y, certain).bound
    expected = log_evidence(design, y, jnp.float64(2.0), jnp.float64(9.0))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_a_masked_column_of_a_regression_has_no_effect():
    design, y = cubic()
    active = jnp.array([True, False, True, True])
    masked = maximum(design, y, prior(), active)
    without = maximum(design[:, active], y, prior())
    np.testing.assert_allclose(masked.bound, without.bound, rtol=1e-12)
    found = masked.state.weights.mean[active]
    np.testing.assert_allclose(found, without.state.weights.mean, rtol=1e-8)
    for name in ("weight_precision", "noise_precision"):
        np.testing.assert_allclose(
            getattr(masked.state, name), getattr(without.state, name), rtol=1e-8
        )


# The choice of the degree


def test_the_polynomials_are_legendres():
    x = data()[0]
    for degree in (0, 1, 6):
        expected = np.polynomial.legendre.legvander(np.asarray(x), degree)
        np.testing.assert_allclose(
            linear_regression.polynomial(x, degree), expected, rtol=1e-12, atol=1e-14
        )


@pytest.mark.slow
def test_the_bound_picks_the_true_degree_and_ranks_degrees_as_the_exact_evidence_does():
    x, y = data()
    curve = jax.tree.map(lambda leaf: leaf[0], curves())  # of the same data
    exact = np.array(
        [
            exact_log_evidence(np.polynomial.legendre.legvander(np.asarray(x), d), np.asarray(y))
            for d in range(MAX_DEGREE + 1)
        ]
    )
    assert np.argmax(curve.bound) == np.argmax(exact) == TRUE_DEGREE
    np.testing.assert_array_equal(np.argsort(curve.bound), np.argsort(exact))
    gaps = exact - np.asarray(curve.bound)
    assert np.all(gaps > 0.0)
    assert np.ptp(gaps) < 0.2 * np.ptp(exact)
    assert np.all(np.diff(curve.greatest_log_lik) >= 0.0)  # likelihood alone picks the last


@pytest.mark.slow
def test_the_bound_picks_the_true_degree_for_most_datasets():
    """The bound picks it on 19 of 20; the likelihood alone always prefers a higher degree."""
    degrees = np.argmax(curves().bound, axis=1)
    assert len(degrees) == NUM_SETS
    assert np.sum(degrees == TRUE_DEGREE) >= NUM_SETS - 1


@pytest.mark.slow
def test_regression_in_float32_stays_float32_and_near_float64():
    x, y, fewer = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (*data(), prior()))
    found = razor(x[None], y[None], fewer)
    assert found.bound.dtype == jnp.float32
    np.testing.assert_allclose(found.bound[0], curves().bound[0], atol=2e-3)
    np.testing.assert_allclose(found.greatest_log_lik[0], curves().greatest_log_lik[0], atol=2e-3)


# Few data, and an invalid argument


@pytest.mark.parametrize("num_data", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_maximum_is_finite_for_constant_data_and_for_fewer_data_than_columns(num_data: int):
    design = jnp.ones((num_data, 4))
    found = maximum(design, jnp.ones(num_data), prior())
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    exact = exact_log_evidence(np.ones((num_data, 4)), np.ones(num_data))
    assert found.bound < exact


def test_a_negative_degree_is_refused():
    with pytest.raises(ValueError, match="degree is -1"):
        linear_regression.polynomial(jnp.zeros(3), -1)
