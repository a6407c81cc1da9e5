"""Mean field on a correlated Gaussian: its optimum, its rate of convergence, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from oracles import kl_gaussians

from aevb.classical import coordinate_ascent, correlated_gaussian
from aevb.classical.correlated_gaussian import MeanField
from aevb.classical.families import Normal


def target(num_dims: int = 3) -> Normal:
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(num_dims, num_dims))
    covariance = factor @ factor.T + 0.3 * np.eye(num_dims)
    return Normal(jnp.asarray(rng.normal(size=num_dims)), jnp.asarray(covariance))


def correlated(correlation: float) -> Normal:
    covariance = np.array([[4.0, 2.0 * correlation], [2.0 * correlation, 1.0]])
    return Normal(jnp.array([1.0, -2.0]), jnp.asarray(covariance))


@pytest.mark.parametrize("num_dims", slow_but([5], [1, 5]))
def test_coordinate_ascent_rises_to_the_closed_form(num_dims: int):
    problem = correlated_gaussian.coordinate_ascent(target(num_dims))
    start = problem.init(jax.random.key(0))

    @jax.jit
    def ascend(start: MeanField) -> tuple[jax.Array, MeanField, jax.Array]:
        end, bounds = coordinate_ascent.ascend(problem, start, num_sweeps=300)
        return problem.bound(start), end, bounds

    first, end, bounds = ascend(start)
    assert np.all(np.diff([first, *np.ravel(bounds)]) > -1e-12)
    optimum = correlated_gaussian.mean_field_optimum(target(num_dims))
    np.testing.assert_allclose(end.mean, optimum.mean, atol=1e-8)
    np.testing.assert_allclose(end.variance, optimum.variance, rtol=1e-12)


def test_the_bound_is_minus_the_kl_and_its_slope_is_0_at_the_closed_form():
    q = MeanField(jnp.array([0.2, 1.0, 0.0]), jnp.array([0.5, 2.0, 1.0]))
    exact = target()
    expected = kl_gaussians(
        np.asarray(q.mean), np.diag(q.variance), *(np.asarray(part) for part in exact)
    )
    problem = correlated_gaussian.coordinate_ascent(exact)
    np.testing.assert_allclose(jax.jit(problem.bound)(q), -expected, rtol=1e-10)
    slope = jax.jit(jax.grad(problem.bound))(correlated_gaussian.mean_field_optimum(exact))
    np.testing.assert_allclose(np.stack(slope), 0.0, atol=1e-10)


@pytest.mark.parametrize("correlation", [0.3, 0.9])
def test_a_sweep_multiplies_the_error_by_the_squared_correlation(correlation: float):
    problem = correlated_gaussian.coordinate_ascent(correlated(correlation))
    state = problem.update(problem.init(jax.random.key(0)))
    after = problem.update(state)
    error = (after.mean - correlated(correlation).mean) / (
        state.mean - correlated(correlation).mean
    )
    np.testing.assert_allclose(error, correlation**2, rtol=1e-10)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.99])
def test_the_variances_are_too_small_by_one_minus_the_squared_correlation(correlation: float):
    exact = correlated(correlation)
    optimum = correlated_gaussian.mean_field_optimum(exact)
    shrunk = optimum.variance / jnp.diagonal(exact.covariance)
    np.testing.assert_allclose(shrunk, 1.0 - correlation**2, rtol=1e-10)
    gap = -correlated_gaussian.coordinate_ascent(exact).bound(optimum)
    np.testing.assert_allclose(gap, -0.5 * np.log1p(-(correlation**2)), atol=1e-12)
