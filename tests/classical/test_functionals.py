"""Functional derivatives, the Euler-Lagrange equation at known curves, and free-form factors."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats

from aevb.classical import normal_gamma
from aevb.classical.families import Gamma
from aevb.classical.functionals import (
    Lagrangian,
    euler_lagrange_residual,
    free_form_bound,
    free_form_update,
    functional,
    functional_derivative,
)
from aevb.classical.normal_gamma import MeanField, NormalGamma


def order(errors: list[float]) -> np.ndarray:
    """Returns the powers of h by which errors fall from each grid to the next, which halves h."""
    return -np.diff(np.log2(errors))


# Derivatives of functionals


def pendulum(x: jax.Array, y: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns F = y'^2 (1 + x) / 2 + cos y + x y^2, in which all variables interact."""
    return 0.5 * slope**2 * (1.0 + x) + jnp.cos(y) + x * y**2


def pendulum_derivative(x: np.ndarray) -> np.ndarray:
    """Returns delta J / delta y = dF/dy - d/dx dF/dy' at y = sin 2x, derived by hand."""
    y, slope, curvature = np.sin(2 * x), 2 * np.cos(2 * x), -4 * np.sin(2 * x)
    return -np.sin(y) + 2.0 * x * y - slope - (1.0 + x) * curvature


class Found(NamedTuple):
    """The package's results for a curve on a grid."""

    functional: jax.Array
    derivative: jax.Array
    residual: jax.Array


@partial(jax.jit, static_argnums=0)
def found_of(lagrangian: Lagrangian, curves: list[tuple[Any, Any]]) -> list[Found]:
    functions = functional, functional_derivative, euler_lagrange_residual
    return [Found(*(function(lagrangian, *curve) for function in functions)) for curve in curves]


def on_grids() -> list[tuple[np.ndarray, np.ndarray]]:
    grids = [np.linspace(0.0, 2.0, size + 1) for size in (40, 80, 160)]
    return [(x, np.sin(2.0 * x)) for x in grids]


def test_the_functional_is_the_integral_to_the_second_order():
    def integrand(x: float) -> float:
        y, slope = np.sin(2.0 * x), 2.0 * np.cos(2.0 * x)
        return float(0.5 * slope**2 * (1.0 + x) + np.cos(y) + x * y**2)

    expected, _ = scipy.integrate.quad(integrand, 0.0, 2.0)
    errors = [abs(float(each.functional) - expected) for each in found_of(pendulum, on_grids())]
    assert errors[-1] < 1e-3
    np.testing.assert_allclose(order(errors), 2.0, atol=0.1)


def test_the_functional_derivative_is_the_analytic_one_to_the_second_order():
    """The Euler-Lagrange residual is minus the derivative, at a curve that is not stationary."""
    grids = on_grids()
    found = found_of(pendulum, grids)
    for values in ([each.derivative for each in found], [-each.residual for each in found]):
        errors = [
            float(np.max(np.abs(value - pendulum_derivative(x[1:-1]))))
            for value, (x, _) in zip(values, grids, strict=True)
        ]
        assert errors[-1] < 5e-3
        np.testing.assert_allclose(order(errors), 2.0, atol=0.1)


def test_the_functional_derivative_is_the_change_of_the_functional_per_area_of_a_bump():
    """On an uneven grid, J[y + eps v] - J[y] is eps times the integral of (delta J / delta y) v."""
    x = np.linspace(0.0, 1.4, 60) ** 2 + 0.1
    y = np.sin(2.0 * x)
    bump = np.exp(-30.0 * np.square(x - 1.0))
    bump[[0, -1]] = 0.0
    eps = 1e-6
    above, at, below = found_of(pendulum, [(x, y + shift * bump) for shift in (eps, 0.0, -eps)])
    cells = 0.5 * (x[2:] - x[:-2])
    expected = np.sum(cells * np.asarray(at.derivative) * bump[1:-1])
    change = above.functional - below.functional
    np.testing.assert_allclose(change / (2.0 * eps), expected, rtol=1e-6)


@pytest.mark.parametrize(("of_x", "of_y"), [((5,), (6,)), ((5, 1), (5, 1)), ((2,), (2,))])
def test_arrays_that_are_not_a_curve_are_refused(of_x: tuple[int, ...], of_y: tuple[int, ...]):
    for refuses in (functional, functional_derivative, euler_lagrange_residual):
        with pytest.raises(ValueError, match=r"they must be one \[n\], of at least 3 points"):
            refuses(pendulum, jnp.zeros(of_x), jnp.zeros(of_y))


# The Euler-Lagrange equation at stationary curves


class Curve(NamedTuple):
    """A curve that makes a functional stationary, by theory."""

    lagrangian: Lagrangian
    ends: tuple[float, float]
    y: Callable[[np.ndarray], np.ndarray]


GRAVITY, RADIUS, OFF_CENTRE = 9.81, 1.3, 0.6


def cycloid(x: np.ndarray) -> np.ndarray:
    """Returns radius (1 - cos t) at the t where radius (t - sin t) = x."""

    def angle(x: float) -> float:
        found = scipy.optimize.root_scalar(
            lambda t: RADIUS * (t - np.sin(t)) - x, bracket=(0.0, 7.0), xtol=1e-15
        )
        return float(found.root)

    angles = np.array([angle(x) for x in x])
    return RADIUS * (1.0 - np.cos(angles))


def of_time(x: jax.Array, y: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.sqrt((1.0 + slope**2) / (2.0 * GRAVITY * y))


def of_area(x: jax.Array, y: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns area minus RADIUS times perimeter, in polar coordinates: y is r, and x its angle."""
    return 0.5 * y**2 - RADIUS * jnp.sqrt(y**2 + slope**2)


def off_centre_circle(angle: np.ndarray) -> np.ndarray:
    return OFF_CENTRE * np.cos(angle) + np.sqrt(RADIUS**2 - (OFF_CENTRE * np.sin(angle)) ** 2)


CURVES = {
    "the fastest slide is a cycloid": Curve(of_time, (0.5, 5.0), cycloid),
    "the largest area is in a circle": Curve(of_area, (0.0, 3.0), off_centre_circle),
    "the least surface of revolution is a catenary's": Curve(
        lambda x, y, slope: y * jnp.sqrt(1.0 + slope**2), (-1.0, 1.0), np.cosh
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_the_residual_at_the_true_curve_falls_as_h_squared(name: str):
    lagrangian, (low, high), y = CURVES[name]

    grids = [np.linspace(low, high, size + 1) for size in (80, 160, 320)]
    curves = [(x, y(x)) for x in grids]
    x, right = curves[1]
    wrong = x, right + 0.05 * (x - low) * (high - x)  # the residual does not fall here
    residuals = [np.asarray(each.residual) for each in found_of(lagrangian, [*curves, wrong])]
    # The points of a grid of 40, which all grids contain.
    steps = (2, 4, 8)
    errors = [
        float(np.max(np.abs(residual[step - 1 :: step])))
        for residual, step in zip(residuals, steps, strict=False)
    ]
    found = order(errors)
    assert np.all((found > 1.9) & (found < 2.1)), found
    assert float(np.max(np.abs(residuals[-1]))) > 10.0 * errors[1]


# The free form of a factor


update = jax.jit(free_form_update)
bound = jax.jit(free_form_bound)


def random_joint(seed: int, *shape: int) -> np.ndarray:
    return 2.0 * np.random.default_rng(seed).normal(size=shape)


def random_log_q(seed: int, *shape: int) -> np.ndarray:
    return normalized(random_joint(seed, *shape))


def normalized(log_density: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.log_softmax(log_density))


def test_the_functional_derivative_of_the_bound_is_the_multiplier_at_the_optimum():
    """The derivative is the same in every state at the optimum, and not elsewhere."""
    log_joint, log_q2 = random_joint(0, 7, 5), random_log_q(1, 5)
    q1, q2 = np.exp(update(log_joint, log_q2)), np.exp(log_q2)
    slope_at = jax.jit(jax.grad(free_form_bound, argnums=1))
    slope = np.asarray(slope_at(log_joint, q1, q2))
    assert np.ptp(slope) < 1e-12
    # The multiplier is the log-normalizer, with the -1 of d(q log q) and the entropy of q2.
    log_normalizer = float(np.asarray(scipy.special.logsumexp(log_joint @ q2)))
    expected = log_normalizer - 1.0 + scipy.stats.entropy(q2)
    np.testing.assert_allclose(slope, expected, rtol=1e-12)
    assert np.ptp(slope_at(log_joint, np.exp(random_log_q(2, 7)), q2)) > 1.0


def test_no_other_factor_has_a_greater_bound():
    log_joint, log_q2 = random_joint(0, 7, 5), random_log_q(1, 5)
    log_q1, q2 = np.asarray(update(log_joint, log_q2)), np.exp(log_q2)
    best = bound(log_joint, np.exp(log_q1), q2)
    for seed in range(20):
        other = scipy.special.softmax(log_q1 + 0.3 * random_joint(10 + seed, 7))
        gap = best - bound(log_joint, other, q2)
        expected = scipy.stats.entropy(other, np.exp(log_q1))
        np.testing.assert_allclose(gap, expected, rtol=1e-8)


def test_states_of_probability_0_under_q2_do_not_affect_the_update_of_q1():
    log_joint, log_q2 = random_joint(0, 7, 5), random_joint(1, 5)
    log_joint[3, 4] = log_q2[4] = -np.inf
    log_q2 = normalized(log_q2)
    found = update(log_joint, log_q2)
    np.testing.assert_allclose(found, update(log_joint[:, :4], log_q2[:4]), rtol=1e-12)
    excluded = update(log_joint, random_log_q(1, 5))
    assert excluded[3] == -jnp.inf  # q2 includes it and the joint excludes it


DATA = np.random.default_rng(0).normal(1.5, 0.7, size=12)
PRIOR = {"mean": 0.3, "mean_precision": 0.5, "shape": 2.0, "rate": 1.5}


@cache
def normal_gamma_grid() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns mu [A], tau [B], log p(x, mu, tau) plus log cell volumes [A, B], and those of tau.

    The densities are SciPy's; nothing comes from the package.
    """
    mu = np.linspace(-1.0, 4.0, 401)
    log_tau = np.linspace(-7.0, 4.0, 401)
    tau = np.exp(log_tau)
    log_cells = np.log(log_tau[1] - log_tau[0]) + log_tau
    std = 1.0 / np.sqrt(tau)
    log_lik = np.sum(scipy.stats.norm.logpdf(DATA[:, None, None], mu[:, None], std), axis=0)
    of_mu = scipy.stats.norm.logpdf(
        mu[:, None], PRIOR["mean"], std / np.sqrt(PRIOR["mean_precision"])
    )
    of_tau = scipy.stats.gamma.logpdf(tau, PRIOR["shape"], scale=1.0 / PRIOR["rate"])
    log_joint = log_lik + of_mu + of_tau + log_cells + np.log(mu[1] - mu[0])
    return mu, tau, log_joint, log_cells


def test_the_free_form_of_mu_is_the_normal_of_coordinate_ascent():
    """Mean and precision are in closed form: q(mu) is normal although no family was assumed."""
    mu, tau, log_joint, log_cells = normal_gamma_grid()
    shape, rate = 5.0, 3.0
    log_q_tau = normalized(scipy.stats.gamma.logpdf(tau, shape, scale=1.0 / rate) + log_cells)
    found = update(log_joint, log_q_tau)
    weight = PRIOR["mean_precision"] + len(DATA)
    mean = (PRIOR["mean_precision"] * PRIOR["mean"] + np.sum(DATA)) / weight
    std = 1.0 / np.sqrt(weight * shape / rate)
    np.testing.assert_allclose(found, normalized(scipy.stats.norm.logpdf(mu, mean, std)), atol=1e-8)


def test_the_free_form_of_tau_is_the_gamma_of_coordinate_ascent():
    mu, tau, log_joint, log_cells = normal_gamma_grid()
    mean, std = 1.2, 0.3
    log_q_mu = normalized(scipy.stats.norm.logpdf(mu, mean, std))
    found = update(log_joint.T, log_q_mu)
    shape = PRIOR["shape"] + 0.5 * (len(DATA) + 1)
    squares = np.sum((DATA - mean) ** 2) + len(DATA) * std**2
    squares += PRIOR["mean_precision"] * ((mean - PRIOR["mean"]) ** 2 + std**2)
    expected = scipy.stats.gamma.logpdf(tau, shape, scale=1.0 / (PRIOR["rate"] + 0.5 * squares))
    np.testing.assert_allclose(found, normalized(expected + log_cells), atol=1e-7, rtol=1e-8)


def test_free_form_ascent_ends_where_mean_field_does_in_closed_form():
    """Its bound is that of the normal-gamma's coordinate ascent."""
    _, tau, log_joint, log_cells = normal_gamma_grid()
    log_q_tau = normalized(log_cells - tau)
    bounds = []
    for _ in range(12):
        log_q_mu = update(log_joint, log_q_tau)
        bounds.append(bound(log_joint, np.exp(log_q_mu), np.exp(log_q_tau)))
        log_q_tau = update(log_joint.T, log_q_mu)
        bounds.append(bound(log_joint, np.exp(log_q_mu), np.exp(log_q_tau)))
    assert np.all(np.diff(bounds) > -1e-10)
    prior, data = NormalGamma(*map(jnp.float64, PRIOR.values())), jnp.asarray(DATA)
    optimum: MeanField = normal_gamma.mean_field_optimum(prior, data)
    expected = normal_gamma.coordinate_ascent(prior, data).bound(optimum)
    np.testing.assert_allclose(bounds[-1], expected, rtol=1e-8)
    of_tau: Gamma = optimum.tau
    np.testing.assert_allclose(np.sum(np.exp(log_q_tau) * tau), of_tau.mean(), rtol=1e-8)


def test_functionals_keep_float32():
    x = np.linspace(0.0, 2.0, 21, dtype=np.float32)
    log_joint = random_joint(0, 7, 5).astype(np.float32)
    (found,) = found_of(pendulum, [(x, np.sin(x))])
    wide = x.astype(np.float64)
    (expected,) = found_of(pendulum, [(wide, np.sin(wide))])
    free = update(log_joint, normalized(log_joint[0]))
    assert all(leaf.dtype == jnp.float32 for leaf in (*found, free))
    np.testing.assert_allclose(found.derivative, expected.derivative, atol=1e-3)
