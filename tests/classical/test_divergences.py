"""KL by sums and by samples, both directions on two modes, and the properties of a distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from oracles import integrate, kl_gaussians, standard_errors_off

from aevb.classical import divergences
from aevb.classical.divergences import Mixture
from aevb.classical.families import Gamma, Normal
from aevb.distributions import DiagNormal


def two_normals(apart: float = 1.0) -> tuple[DiagNormal, DiagNormal, float]:
    """Returns q, a narrower p and KL(q || p), in two dimensions."""
    q = DiagNormal(jnp.array([0.0, 1.0]), jnp.log(jnp.array([1.0, 0.6])))
    p = DiagNormal(q.mean + apart * jnp.array([0.6, -0.3]), q.log_var - apart * 0.3)
    covariances = (np.diag(np.exp(one.log_var)) for one in (q, p))
    means = (np.asarray(one.mean) for one in (q, p))
    (mean0, mean1), (cov0, cov1) = means, covariances
    return q, p, kl_gaussians(mean0, cov0, mean1, cov1)


# Three ways to a KL


def test_the_kl_on_a_grid_is_the_closed_form():
    q, p = (Gamma(jnp.float64(a), jnp.float64(b)) for a, b in ((3.0, 1.0), (5.0, 2.5)))
    log_x = jnp.linspace(-15.0, 5.0, 4001)
    log_measure = log_x + jnp.log(log_x[1] - log_x[0])
    log_q, log_p = (jax.vmap(one.log_prob)(jnp.exp(log_x)) for one in (q, p))
    found = divergences.kl_on_grid(log_q, log_p, log_measure)
    np.testing.assert_allclose(found, q.kl(p), rtol=1e-10)


def test_the_kl_over_states_is_scipys_relative_entropy_also_at_zeros():
    q, p = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.25, 0.5, 0.25, 0.0])
    with np.errstate(divide="ignore"):
        log_q, log_p = jnp.asarray(np.log(q)), jnp.asarray(np.log(p))
    found = divergences.kl_on_grid(log_q, log_p)
    np.testing.assert_allclose(found, scipy.stats.entropy(q, p), rtol=1e-12)
    assert divergences.kl_on_grid(log_p, log_q) == jnp.inf
    gradient = jax.grad(divergences.kl_on_grid)(log_q, log_p)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    "estimate", [divergences.kl_monte_carlo, divergences.kl_monte_carlo_controlled]
)
def test_both_estimates_of_the_kl_and_their_standard_errors_are_unbiased(estimate):
    """The mean of 200 estimates is the closed form, and their spread is the reported error."""
    q, p, expected = two_normals()

    def once(key: jax.Array):
        return estimate(key, q.sample, q.log_prob, p.log_prob, num_samples=200)

    found = jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(0), 200))
    assert standard_errors_off(found.value, np.array(expected)) < 4
    ratio = np.std(found.value) / np.mean(found.standard_error)
    assert ratio == pytest.approx(1.0, abs=0.2)  # 4 / sqrt(2 * 200)


def test_the_control_variate_takes_most_of_the_variance_near_q():
    q, p, expected = two_normals(0.1)
    plain, controlled = (
        estimate(jax.random.key(0), q.sample, q.log_prob, p.log_prob, num_samples=2000)
        for estimate in (divergences.kl_monte_carlo, divergences.kl_monte_carlo_controlled)
    )
    assert float(controlled.standard_error) < 0.5 * float(plain.standard_error)
    assert abs(float(controlled.value) - expected) < 4 * float(controlled.standard_error)


def test_the_controlled_estimate_of_a_small_kl_is_never_negative():
    q, _, _ = two_normals()
    p = q._replace(mean=q.mean + 1e-3)

    def once(key: jax.Array):
        return [
            estimate(key, q.sample, q.log_prob, p.log_prob, num_samples=10).value
            for estimate in (divergences.kl_monte_carlo, divergences.kl_monte_carlo_controlled)
        ]

    plain, controlled = jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(0), 50))
    assert np.all(np.asarray(controlled) > 0.0)
    assert np.any(np.asarray(plain) < 0.0)


@pytest.mark.parametrize(
    "estimate", [divergences.kl_monte_carlo, divergences.kl_monte_carlo_controlled]
)
def test_an_estimate_of_the_kl_from_one_sample_is_refused(estimate):
    q, p, _ = two_normals()
    with pytest.raises(ValueError, match="num_samples is 1; it must be at least 2"):
        estimate(jax.random.key(0), q.sample, q.log_prob, p.log_prob, num_samples=1)


# Two directions


def two_modes(half: float, *, weight: float = 0.5, std: float = 1.0) -> Mixture:
    return Mixture(jnp.array([weight, 1.0 - weight]), jnp.array([-half, half]), jnp.full(2, std))


def mixture_log_prob(target: Mixture, z: np.ndarray) -> np.ndarray:
    parts = scipy.stats.norm.pdf(z[:, None], np.asarray(target.mean), np.asarray(target.std))
    return np.log(parts @ np.asarray(target.weight))


def kl_oracle(target: Mixture, mean: float, std: float, *, forward: bool) -> float:
    def integrand(z: np.ndarray) -> np.ndarray:
        log_q, log_p = scipy.stats.norm.logpdf(z, mean, std), mixture_log_prob(target, z)
        if forward:
            log_q, log_p = log_p, log_q
        return np.exp(log_q) * (log_q - log_p)

    z = np.linspace(-20.0, 20.0, 2001)  # more points add no accuracy: both ends decay
    return float(np.trapezoid(integrand(z), z))


@pytest.fixture
def skewed() -> Mixture:
    return Mixture(jnp.array([0.3, 0.7]), jnp.array([-2.0, 1.5]), jnp.array([0.5, 1.2]))


def test_a_mixtures_density_integrates_to_1_and_its_moments_are_those_by_quadrature(
    skewed: Mixture,
):
    z = np.linspace(-5.0, 5.0, 11)
    found = jax.vmap(skewed.log_prob)(jnp.asarray(z))
    np.testing.assert_allclose(found, mixture_log_prob(skewed, z), rtol=1e-10)

    def density(z: np.ndarray) -> np.ndarray:
        return np.exp(mixture_log_prob(skewed, z))

    mean = integrate(lambda z: z * density(z), -20.0, 20.0)
    variance = integrate(lambda z: (z - mean) ** 2 * density(z), -20.0, 20.0)
    np.testing.assert_allclose(skewed.moments(), [mean, variance], rtol=1e-10)


@pytest.mark.slow
def test_the_forward_fit_has_the_mean_and_variance_and_the_least_kl(skewed: Mixture):
    found = divergences.fit_forward(skewed)
    mean, variance = skewed.moments()
    np.testing.assert_allclose([found.mean, found.std**2], [mean, variance], rtol=1e-12)
    expected = kl_oracle(skewed, float(mean), float(np.sqrt(variance)), forward=True)
    np.testing.assert_allclose(found.kl, expected, rtol=1e-8)
    least = scipy.optimize.minimize(
        lambda point: kl_oracle(skewed, point[0], np.exp(point[1]), forward=True),
        np.zeros(2),
        tol=1e-6,
    )
    np.testing.assert_allclose([found.mean, np.log(found.std)], least.x, atol=1e-4)


reverse_kl = jax.jit(divergences.reverse_kl)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-2.0, 0.4), (1.0, 2.0)])
def test_the_reverse_kl_of_a_mixture_is_that_by_quadrature(
    skewed: Mixture, mean: float, std: float
):
    found = reverse_kl(skewed, jnp.float64(mean), jnp.float64(std))
    np.testing.assert_allclose(found, kl_oracle(skewed, mean, std, forward=False), rtol=1e-8)


fit_reverse = jax.jit(divergences.fit_reverse)  # the fit from 4 starts is compiled once


class TestReverseFit:
    @pytest.mark.slow
    def test_the_reverse_fit_is_one_mode_at_a_kl_of_log_2_and_the_forward_fit_covers_both(self):
        target = two_modes(5.0)
        found = fit_reverse(target, jnp.array([-7.0, -1.0, 2.0, 6.0]))
        np.testing.assert_allclose(found.mean, [-5.0, -5.0, 5.0, 5.0], atol=1e-3)
        np.testing.assert_allclose(found.std, 1.0, atol=1e-3)
        np.testing.assert_allclose(found.kl, np.log(2.0), atol=1e-4)
        forward = divergences.fit_forward(target)
        np.testing.assert_allclose(forward.mean, 0.0, atol=1e-12)
        np.testing.assert_allclose(forward.std, np.sqrt(26.0), rtol=1e-12)
        covering = reverse_kl(target, forward.mean, forward.std)
        assert float(covering) > float(np.max(found.kl)) + 1.0

    @pytest.mark.slow
    def test_the_reverse_kl_is_smaller_at_the_heavier_mode(self):
        target = two_modes(6.0, weight=0.2)
        found = fit_reverse(target, jnp.array([-6.5, -4.0, 4.0, 6.5]))
        np.testing.assert_allclose(found.kl, -np.log([0.2, 0.2, 0.8, 0.8]), atol=1e-4)

    @pytest.mark.slow
    def test_the_reverse_fit_from_every_start_is_a_minimum_that_scipy_finds(self, skewed: Mixture):
        starts = [-3.0, -2.0, 1.0, 2.0]
        found = fit_reverse(skewed, jnp.array(starts))
        for i, start in enumerate(starts):
            least = scipy.optimize.minimize(
                lambda point: kl_oracle(skewed, point[0], np.exp(point[1]), forward=False),
                np.array([start, np.log(0.5)]),
                tol=1e-7,
            )
            np.testing.assert_allclose([found.mean[i], np.log(found.std[i])], least.x, atol=1e-3)
            np.testing.assert_allclose(found.kl[i], least.fun, atol=1e-7)

    @pytest.mark.slow
    def test_both_fits_to_a_single_mode_are_exact(self):
        alone = Mixture(jnp.array([0.4, 0.6]), jnp.full(2, 0.7), jnp.full(2, 1.3))  # both are equal
        reverse = fit_reverse(alone, jnp.array([-1.0, 0.0, 1.0, 3.0]))
        forward = divergences.fit_forward(alone)
        np.testing.assert_allclose(reverse.mean, 0.7, atol=1e-6)
        np.testing.assert_allclose(reverse.std, 1.3, atol=1e-6)
        np.testing.assert_allclose([*reverse.kl, forward.kl], 0.0, atol=1e-10)


# KL is not a distance


def kl_of(q: Normal, p: Normal) -> float:
    return kl_gaussians(*map(np.asarray, q), *map(np.asarray, p))


triangle_counterexample = jax.jit(divergences.triangle_counterexample)


@pytest.mark.parametrize("seed", range(3))
def test_the_kl_violates_the_triangle_inequality(seed: int):
    found = triangle_counterexample(jax.random.key(seed))
    direct, detour = kl_of(found.a, found.c), kl_of(found.a, found.b) + kl_of(found.b, found.c)
    assert direct > detour + 1.0
    np.testing.assert_allclose(found.violation, direct - detour, rtol=1e-8)


@pytest.mark.slow
def test_fits_in_float32_stay_float32_and_their_reverse_kls_are_right():
    with jax.enable_x64(False):
        target = two_modes(3.0)
        forward = divergences.fit_forward(target)
        at_forward = reverse_kl(target, forward.mean, forward.std)
        reverse = fit_reverse(target, jnp.array([-3.0]))
    assert all(leaf.dtype == jnp.float32 for leaf in (*forward, at_forward, *reverse))
    for fit, found in ((forward, at_forward), (reverse, reverse.kl[0])):
        expected = kl_oracle(target, np.ravel(fit.mean)[0], np.ravel(fit.std)[0], forward=False)
        assert found == pytest.approx(expected, abs=1e-4)
