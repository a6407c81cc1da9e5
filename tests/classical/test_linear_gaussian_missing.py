"""Probabilistic PCA with missing values: exact normals, and EM without gaps or with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats

from aevb.classical import linear_gaussian, linear_gaussian_em, linear_gaussian_missing
from aevb.classical.coordinate_ascent import ascend
from aevb.classical.linear_gaussian import Params

KEY = jax.random.key(0)
CASES = [(5, 2, 0), (4, 1, 1), (8, 3, 2)]  # D, Z, seed


def params_and_x(num_dims: int, num_latents: int, seed: int) -> tuple[Params, np.ndarray]:
    """Returns a model, and a datapoint with missing values."""
    model = oracles.linear_gaussian(seed, num_dims, num_latents)
    rng = np.random.default_rng(seed)
    x = model.bias + rng.normal(size=num_dims)
    x[rng.uniform(size=num_dims) < 0.4] = np.nan
    x[:2] = 0.3, np.nan
    weights, bias = jnp.asarray(model.weights), jnp.asarray(model.bias)
    return Params(weights, bias, jnp.float64(0.3)), x


def moments(params: Params) -> tuple[np.ndarray, np.ndarray]:
    weights, bias, noise_var = (np.asarray(part, np.float64) for part in params)
    return bias, weights @ weights.T + noise_var * np.eye(len(bias))


def drawn(number: int, num_dims: int, share: float, seed: int = 0) -> np.ndarray:
    """Returns draws of a model with 2 latents, of which a share is missing."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(num_dims, 2))
    x = rng.normal(size=(number, 2)) @ weights.T + 0.5 * rng.normal(size=(number, num_dims)) + 1.0
    x[rng.uniform(size=x.shape) < share] = np.nan
    return x


@pytest.mark.parametrize("sizes", CASES)
def test_log_p_of_the_seen_values_is_that_of_their_normal(sizes: Any):
    with jax.enable_x64(True):
        params, x = params_and_x(*sizes)
        mean, cov = moments(params)
        seen = ~np.isnan(x)
        of_seen: Any = scipy.stats.multivariate_normal
        expected = of_seen.logpdf(x[seen], mean[seen], cov[np.ix_(seen, seen)])
        found = jax.jit(linear_gaussian_missing.log_prob)(params, jnp.asarray(x))
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        nothing = jax.jit(linear_gaussian_missing.log_prob)(params, jnp.full(len(x), jnp.nan))
        assert float(nothing) == 0.0


@pytest.mark.parametrize("sizes", CASES)
def test_missing_values_have_the_conditional_mean_and_variance(sizes: Any):
    with jax.enable_x64(True):
        params, x = params_and_x(*sizes)
        mean, cov = moments(params)
        seen, other = ~np.isnan(x), np.isnan(x)
        gain = np.linalg.solve(cov[np.ix_(seen, seen)], cov[np.ix_(seen, other)]).T
        found = linear_gaussian_missing.conditional(params, jnp.asarray(x))
        expected = mean[other] + gain @ (x[seen] - mean[seen])
        rest = cov[np.ix_(other, other)] - gain @ cov[np.ix_(seen, other)]
        np.testing.assert_allclose(found.mean[other], expected, rtol=1e-9)
        np.testing.assert_allclose(found.variance[other], np.diag(rest), rtol=1e-9)
        np.testing.assert_array_equal(found.mean[seen], x[seen])
        np.testing.assert_array_equal(found.variance[seen], 0.0)


@pytest.mark.slow
def test_without_gaps_em_is_that_of_complete_data():
    with jax.enable_x64(True):
        x = jnp.asarray(drawn(200, 6, 0.0))
        problem = linear_gaussian_missing.em(x, 2)
        fitted, bounds = ascend(problem, problem.init(KEY), num_sweeps=400)
        best = linear_gaussian.maximum_likelihood(x, 2)
        expected = sum(float(linear_gaussian.log_prob(best, one)) for one in x)
        np.testing.assert_allclose(bounds[-1, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(fitted.noise_var, best.noise_var, rtol=1e-3)
        first = linear_gaussian_em.em(x, 2).init(KEY).params
        np.testing.assert_allclose(problem.init(KEY).weights, first.weights)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_log_likelihood_of_gappy_data_never_falls_and_ends_where_its_gradient_is_0(
    share: float,
):
    with jax.enable_x64(True):
        x = jnp.asarray(drawn(300, 6, share))
        problem = linear_gaussian_missing.em(x, 2)
        fitted, bounds = ascend(problem, problem.init(KEY), num_sweeps=1500)
        assert np.all(np.diff(np.asarray(bounds)[:, 0]) > -1e-8)
        slopes = jax.jit(jax.grad(problem.bound))(fitted)
        assert max(float(jnp.max(jnp.abs(leaf))) for leaf in slopes) < 0.01


def test_wrong_data_are_refused():
    x = jnp.asarray(drawn(20, 4, 0.0), jnp.float32)
    with pytest.raises(ValueError, match="column 1 of x has no seen value"):
        linear_gaussian_missing.em(x.at[:, 1].set(jnp.nan), 2)
    with pytest.raises(ValueError, match=r"must be \[N, D\]"):
        linear_gaussian_missing.em(x[0], 2)
    with pytest.raises(ValueError, match="num_latents"):
        linear_gaussian_missing.em(x, 4)
