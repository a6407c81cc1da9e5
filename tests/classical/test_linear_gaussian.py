"""Probabilistic PCA: exact inference, closed-form maxima, and the algorithms that reach them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import linear_models
import numpy as np
import oracles
import pytest
import scipy.stats

from aevb.classical import coordinate_ascent, linear_gaussian, linear_gaussian_em
from aevb.classical.families import Normal
from aevb.classical.linear_gaussian import Params
from aevb.classical.matrix_normal import point_mass

NUM_LATENTS = 2

log_prob = jax.jit(linear_gaussian.log_prob)
posterior = jax.jit(linear_gaussian.posterior)
bound = jax.jit(linear_gaussian.bound)
maximum_likelihood = jax.jit(linear_gaussian.maximum_likelihood, static_argnums=1)
spherical_maximum = jax.jit(linear_gaussian.spherical_maximum, static_argnums=1)


def data() -> jax.Array:
    return jnp.asarray(linear_models.pca_data())


def small_data() -> jax.Array:
    return data()[:30]


def params() -> Params:
    rng = np.random.default_rng(3)
    weights, bias = rng.normal(size=(5, 2)), rng.normal(size=5)
    return Params(jnp.asarray(weights), jnp.asarray(bias), jnp.float64(0.4))


def oracle(params: Params) -> oracles.LinearGaussian:
    weights, bias, noise_var = map(np.asarray, params)
    return oracles.LinearGaussian(weights, bias, np.full(len(bias), noise_var))


POINT = np.random.default_rng(4).normal(size=5)


@jax.jit
def mean_log_lik(params: Params) -> jax.Array:
    return jnp.mean(jax.vmap(log_prob, (None, 0))(params, data()))


# Exact inference


def test_log_prob_and_the_posterior_are_those_of_the_numpy_oracle():
    x = jnp.asarray(POINT)
    np.testing.assert_allclose(log_prob(params(), x), oracle(params()).log_prob(POINT), rtol=1e-12)
    mean, covariance = oracle(params()).posterior(POINT)
    np.testing.assert_allclose(posterior(params(), x).mean, mean, rtol=1e-12)
    np.testing.assert_allclose(posterior(params(), x).covariance, covariance, rtol=1e-12)


def test_log_prob_is_the_bound_and_the_kl_to_the_posterior():
    """The identity holds for any normal q, to 1e-10."""
    x = jnp.asarray(POINT)
    exact = posterior(params(), x)
    rng = np.random.default_rng(6)
    for scale in (0.1, 1.0, 3.0):
        factor = scale * rng.normal(size=(2, 2))
        q = Normal(jnp.asarray(rng.normal(size=2)), jnp.asarray(factor @ factor.T))
        kl = oracles.kl_gaussians(*map(np.asarray, (*q, *exact)))
        found = bound(params(), x, q) + kl
        np.testing.assert_allclose(found, log_prob(params(), x), atol=1e-10)
    at_posterior = bound(params(), x, exact)
    np.testing.assert_allclose(at_posterior, log_prob(params(), x), atol=1e-10)


def test_float32_is_kept_and_within_rounding():
    fewer = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params())
    point = jnp.asarray(POINT, jnp.float32)
    exact = posterior(fewer, point)
    found = (
        log_prob(fewer, point),
        bound(fewer, point, exact),
        *jax.tree.leaves(maximum_likelihood(data().astype(jnp.float32), 2)),
    )
    assert {leaf.dtype for leaf in found} == {jnp.dtype(jnp.float32)}
    expected = oracle(params()).log_prob(POINT)
    np.testing.assert_allclose(found[:2], expected, rtol=1e-5)


# Closed-form maxima


def test_the_maximum_likelihood_is_that_of_the_numpy_oracle_and_a_local_maximum():
    found = maximum_likelihood(data(), NUM_LATENTS)
    optimum = oracles.pca_log_lik(np.asarray(data()), NUM_LATENTS)
    np.testing.assert_allclose(mean_log_lik(found), optimum, rtol=1e-12)
    slope = jax.grad(mean_log_lik)(found)
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-10)
    columns = found.weights.T @ found.weights
    np.testing.assert_allclose(columns[0, 1], 0.0, atol=1e-12)


@jax.jit
def spherical_bound(params: Params, x: jax.Array) -> jax.Array:
    """Returns the bound per datapoint under the best spherical guide, whose variance is Z/tr(P)."""

    def at(point: jax.Array) -> jax.Array:
        exact = posterior(params, point)
        precision = jnp.linalg.inv(exact.covariance)
        variance = len(precision) / jnp.trace(precision)
        q = Normal(exact.mean, variance * jnp.eye(len(precision), dtype=x.dtype))
        return bound(params, point, q)

    return jnp.mean(jax.vmap(at)(x))


def test_the_spherical_maximum_is_stationary_and_below_the_optimum_by_the_stated_loss():
    """The loss is Z log of the roots' arithmetic mean over their geometric mean (AM-GM)."""
    found = spherical_maximum(data(), NUM_LATENTS)
    for leaf in jax.tree.leaves(jax.jit(jax.grad(spherical_bound))(found, data())):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-10)
    roots = np.sqrt(np.linalg.eigvalsh(np.cov(np.asarray(data()).T, bias=True))[-NUM_LATENTS:])
    loss = NUM_LATENTS * np.log(np.mean(roots) / np.exp(np.mean(np.log(roots))))
    optimum = oracles.pca_log_lik(np.asarray(data()), NUM_LATENTS)
    np.testing.assert_allclose(spherical_bound(found, data()), optimum - loss, rtol=1e-12)
    assert loss > 0.01


# EM


def ended(problem: coordinate_ascent.CoordinateAscent, num_sweeps: int = 1500) -> tuple[Any, Any]:
    start = problem.init(jax.random.key(1))
    return jax.jit(lambda q: coordinate_ascent.ascend(problem, q, num_sweeps=num_sweeps))(start)


def test_em_never_lowers_the_likelihood_and_ends_at_the_closed_form():
    """The bound equals the likelihood after each E step."""
    problem = linear_gaussian_em.em(data(), NUM_LATENTS)
    bound_of = jax.jit(problem.bound)
    start = problem.init(jax.random.key(1))
    fit, bounds = ended(problem)
    history = np.concatenate([[bound_of(start)], np.ravel(bounds)]) / len(data())
    assert np.all(np.diff(history) > -1e-12)
    assert history[-1] - history[0] > 1.0
    optimum = oracles.pca_log_lik(np.asarray(data()), NUM_LATENTS)
    np.testing.assert_allclose(history[-1], optimum, atol=1e-9)
    np.testing.assert_allclose(mean_log_lik(fit.params), optimum, atol=1e-9)
    closed = maximum_likelihood(data(), NUM_LATENTS)
    np.testing.assert_allclose(
        linear_gaussian.marginal(fit.params).covariance,
        linear_gaussian.marginal(closed).covariance,
        atol=1e-6,
    )
    after_e = problem.updates["z"](start)
    expected = mean_log_lik(after_e.params) * len(data())
    np.testing.assert_allclose(bound_of(after_e), expected, rtol=1e-12)


def test_an_em_step_is_that_of_the_numpy_oracle():
    """W and the noise variance are compared after one sweep from the same start."""
    x = np.asarray(data())
    problem = linear_gaussian_em.em(data(), NUM_LATENTS)
    weights = np.random.default_rng(0).normal(size=(6, 2))  # the oracle's starting point
    start = problem.init(jax.random.key(0))
    first = Params(jnp.asarray(weights), start.params.bias, jnp.float64(1.0))
    after = problem.update(start._replace(params=first)).params
    expected = oracles.pca_em(x, NUM_LATENTS, num_steps=1)
    np.testing.assert_allclose(after.weights, expected.weights, rtol=1e-10)
    np.testing.assert_allclose(after.noise_var, expected.noise_var[0], rtol=1e-10)


def test_variational_em_of_a_spherical_guide_rises_to_its_biased_maximum():
    problem = linear_gaussian_em.variational_em(data(), NUM_LATENTS, guide="spherical")
    fit, bounds = ended(problem)
    assert np.all(np.diff(np.ravel(bounds)) > -1e-9)
    closed = spherical_maximum(data(), NUM_LATENTS)
    np.testing.assert_allclose(fit.params.noise_var, closed.noise_var, rtol=1e-6)
    np.testing.assert_allclose(
        linear_gaussian.marginal(fit.params).covariance,
        linear_gaussian.marginal(closed).covariance,
        atol=1e-5,
    )

    by_oracle = oracles.pca_em(
        np.asarray(data()),
        NUM_LATENTS,
        guide_cov=lambda cov: np.eye(2) * 2 / np.trace(np.linalg.inv(cov)),
    )
    np.testing.assert_allclose(
        by_oracle.marginal()[1], linear_gaussian.marginal(closed).covariance, atol=1e-5
    )
    optimum = oracles.pca_log_lik(np.asarray(data()), NUM_LATENTS)
    assert mean_log_lik(fit.params) < optimum - 0.005


def test_variational_em_of_a_diagonal_guide_is_unbiased_because_w_can_be_rotated():
    problem = linear_gaussian_em.variational_em(data(), NUM_LATENTS, guide="diagonal")
    fit, bounds = ended(problem)
    assert np.all(np.diff(np.ravel(bounds)) > -1e-9)
    optimum = oracles.pca_log_lik(np.asarray(data()), NUM_LATENTS)
    np.testing.assert_allclose(mean_log_lik(fit.params), optimum, atol=1e-8)
    first, second = np.asarray(fit.params.weights).T
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert abs(cosine) < 1e-3


# Variational Bayes


def bayes(x: jax.Array, num_latents: int = NUM_LATENTS, **options: Any):
    known = {"bias": jnp.mean(x, axis=0), "noise_var": jnp.float64(0.3)}
    precision = jnp.float64(0.5)
    return linear_gaussian_em.variational_bayes(
        x, num_latents, **known, weight_precision=precision, **options
    )


@pytest.mark.parametrize("num_copies", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_variational_bayes_rises_at_every_update(num_copies: int):
    problem = bayes(small_data(), num_copies=num_copies)
    start = problem.init(jax.random.key(0))
    _, bounds = ended(problem, 50)
    assert np.all(np.diff(np.ravel(bounds)) > -1e-9)
    assert np.ravel(bounds)[-1] > problem.bound(start) + 10.0


def test_num_copies_gives_the_factors_and_the_bound_of_the_repeated_data():
    """A num_copies of 3 gives the factors and the bound of the dataset written three times."""
    x = small_data()
    tripled = jnp.tile(x, (3, 1))
    known, written = bayes(x, num_copies=3), bayes(tripled)
    q = known.init(jax.random.key(0))
    in_full = linear_gaussian_em.Factors(
        q.latents._replace(mean=jnp.tile(q.latents.mean, (3, 1))), q.weights
    )

    @jax.jit
    def both(q: Any, in_full: Any) -> tuple[Any, ...]:
        for _ in range(3):
            q, in_full = known.update(q), written.update(in_full)
        return q.weights, in_full.weights, known.bound(q), written.bound(in_full)

    weights, weights_in_full, bound, bound_in_full = both(q, in_full)
    np.testing.assert_allclose(weights.mean, weights_in_full.mean, rtol=1e-9)
    np.testing.assert_allclose(weights.covariance, weights_in_full.covariance, rtol=1e-9)
    np.testing.assert_allclose(bound, bound_in_full, rtol=1e-10)


def after_sweeps(updates: list[Callable[[Any], Any]], state: Any, collapse: bool = False) -> Any:
    """Runs three sweeps; with `collapse`, W becomes a point mass after every update."""
    for _ in range(3):
        for update in updates:
            state = update(state)
            if collapse:
                state = state._replace(weights=point_mass(state.weights.mean))
    return state


def em_weights(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns EM's W after as many sweeps, with the bias and the noise variance known."""
    em = linear_gaussian_em.em(x, NUM_LATENTS)
    fit = em.init(jax.random.key(0))
    fit = fit._replace(params=Params(weights, jnp.mean(x, axis=0), jnp.float64(0.3)))
    return after_sweeps([em.updates["z"], em.updates["weights"]], fit).params.weights


def test_em_is_variational_bayes_with_a_flat_prior_and_a_point_mass():
    x = small_data()
    problem = linear_gaussian_em.variational_bayes(
        x, NUM_LATENTS, bias=jnp.mean(x, axis=0), noise_var=jnp.float64(0.3),
        weight_precision=jnp.float64(0.0),
    )  # fmt: skip
    start = problem.init(jax.random.key(0))
    start = start._replace(weights=point_mass(start.weights.mean))
    collapsed = after_sweeps(list(problem.updates.values()), start, collapse=True)
    expected = em_weights(x, start.weights.mean)
    np.testing.assert_allclose(collapsed.weights.mean, expected, rtol=1e-10)
    spread = after_sweeps(list(problem.updates.values()), start)
    assert np.max(np.abs(spread.weights.mean - expected)) > 1e-3


def test_the_distance_to_em_falls_as_one_over_the_copies_of_the_data():
    x = small_data()

    def away(num_copies: int) -> float:
        problem = bayes(x, num_copies=num_copies)
        start = problem.init(jax.random.key(0))
        start = start._replace(weights=point_mass(start.weights.mean))
        found = after_sweeps(list(problem.updates.values()), start).weights.mean
        return float(jnp.max(jnp.abs(found - em_weights(x, start.weights.mean))))

    distances = np.array([away(10**power) for power in (1, 2, 3, 4)])
    np.testing.assert_allclose(distances[1:-1] / distances[2:], 10.0, rtol=0.02)
    np.testing.assert_allclose(distances[0] / distances[1], 10.0, rtol=0.2)


@pytest.mark.slow
def test_the_bound_of_variational_bayes_is_the_mean_of_log_joint_less_log_q():
    """The mean is over samples of Q, with SciPy's densities, for D = 2, Z = 1 and N = 3."""
    x = small_data()[:3, :2]
    problem = bayes(x, 1)
    q, _ = ended(problem, 200)
    centred = np.asarray(x - jnp.mean(x, axis=0, keepdims=True))
    rng = np.random.default_rng(0)
    draws = 30_000
    std_z, std_w = (np.sqrt(float(part.covariance[0, 0])) for part in q)
    z = np.asarray(q.latents.mean)[:, 0] + std_z * rng.normal(size=(draws, 3))
    v = np.asarray(q.weights.mean)[:, 0] + std_w * rng.normal(size=(draws, 2))
    norm = scipy.stats.norm
    log_joint = np.sum(
        norm.logpdf(centred, z[:, :, None] * v[:, None, :], np.sqrt(0.3)), axis=(1, 2)
    )
    log_joint += np.sum(norm.logpdf(z), axis=1) + np.sum(norm.logpdf(v, 0.0, np.sqrt(2.0)), axis=1)
    log_q = np.sum(norm.logpdf(z, np.asarray(q.latents.mean)[:, 0], std_z), axis=1)
    log_q += np.sum(norm.logpdf(v, np.asarray(q.weights.mean)[:, 0], std_w), axis=1)
    assert oracles.standard_errors_off(log_joint - log_q, float(problem.bound(q))) < 4


def test_an_unknown_guide_is_refused():
    with pytest.raises(ValueError, match="guide is 'banded'"):
        linear_gaussian_em.variational_em(data(), 2, guide="banded")  # pyright: ignore[reportArgumentType]
