"""Probabilistic PCA: exact inference, closed-form maxima, and the algorithms that reach them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import linear_models
import numpy as np
import oracles
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from aevb.algorithms import aevb, mcem
from aevb.classical import coordinate_ascent, linear_gaussian, linear_gaussian_em
from aevb.classical.families import Normal
from aevb.classical.linear_gaussian import Params
from aevb.classical.matrix_normal import point_mass
from aevb.losses import BOUNDS

NUM_LATENTS = 2

log_prob = jax.jit(linear_gaussian.log_prob)
posterior = jax.jit(linear_gaussian.posterior)
bound = jax.jit(linear_gaussian.bound)
maximum_likelihood = jax.jit(linear_gaussian.maximum_likelihood, static_argnums=1)
spherical_maximum = jax.jit(linear_gaussian.spherical_maximum, static_argnums=1)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


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


def test_log_prob_is_that_of_the_marginal_normal():
    found = log_prob(params(), jnp.asarray(POINT))
    np.testing.assert_allclose(found, oracle(params()).log_prob(POINT), rtol=1e-12)


def test_log_prob_is_the_integral_over_the_latents():
    def log_joint(z: np.ndarray) -> np.ndarray:
        means = z @ np.asarray(params().weights).T + np.asarray(params().bias)
        log_lik = -0.5 * np.sum((POINT - means) ** 2 / 0.4 + np.log(2 * np.pi * 0.4), axis=1)
        return log_lik - 0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1)

    expected = oracles.quadrature_log_prob(log_joint, 2, points=401)
    found = log_prob(params(), jnp.asarray(POINT))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_posterior_is_bayes_rule():
    """The identity is log p(z|x) + log p(x) = log p(x, z); the oracle gives the moments."""
    exact = posterior(params(), jnp.asarray(POINT))
    mean, covariance = oracle(params()).posterior(POINT)
    np.testing.assert_allclose(exact.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(exact.covariance, covariance, rtol=1e-12)
    log_evidence = log_prob(params(), jnp.asarray(POINT))
    for z in np.random.default_rng(5).normal(size=(3, 2)):
        point = oracle(params()).weights @ z + oracle(params()).bias
        log_lik = np.sum(scipy.stats.norm.logpdf(POINT, point, 0.4**0.5))
        log_prior = -0.5 * np.sum(z**2 + np.log(2 * np.pi))
        bayes = jax.jit(Normal.log_prob)(exact, z) + log_evidence
        np.testing.assert_allclose(bayes, log_lik + log_prior, rtol=1e-12)


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


def test_the_bound_of_a_diagonal_guide_is_the_oracles():
    mean, log_var = np.array([0.3, -0.2]), np.array([-1.0, 0.5])
    q = Normal(jnp.asarray(mean), jnp.diag(jnp.exp(log_var)))
    found = bound(params(), jnp.asarray(POINT), q)
    np.testing.assert_allclose(found, oracle(params()).elbo(POINT, mean, log_var), rtol=1e-12)


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


def test_the_maximum_likelihood_is_the_oracles_and_no_step_from_it_rises():
    found = maximum_likelihood(data(), NUM_LATENTS)
    optimum = oracles.pca_log_lik(np.asarray(data()), NUM_LATENTS)
    np.testing.assert_allclose(mean_log_lik(found), optimum, rtol=1e-12)
    slope = jax.grad(mean_log_lik)(found)
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-10)
    columns = found.weights.T @ found.weights
    np.testing.assert_allclose(columns[0, 1], 0.0, atol=1e-12)


def test_rotating_the_latents_changes_nothing():
    found = maximum_likelihood(data(), NUM_LATENTS)
    turn = jnp.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    turned = found._replace(weights=found.weights @ turn)
    np.testing.assert_allclose(mean_log_lik(turned), mean_log_lik(found), rtol=1e-13)


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


def test_the_spherical_maximum_is_stationary_and_loses_what_its_docstring_says():
    """The loss is Z log of the roots' arithmetic mean over their geometric mean (AM-GM)."""
    found = spherical_maximum(data(), NUM_LATENTS)
    for leaf in jax.tree.leaves(jax.jit(jax.grad(spherical_bound))(found, data())):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-10)
    roots = np.sqrt(np.linalg.eigvalsh(np.cov(np.asarray(data()).T, bias=True))[-NUM_LATENTS:])
    loss = NUM_LATENTS * np.log(np.mean(roots) / np.exp(np.mean(np.log(roots))))
    optimum = oracles.pca_log_lik(np.asarray(data()), NUM_LATENTS)
    np.testing.assert_allclose(spherical_bound(found, data()), optimum - loss, rtol=1e-12)
    assert loss > 0.01


def test_the_spherical_maximum_is_where_an_optimizer_of_its_spectrum_ends():
    """The optimizer varies two model eigenvalues and the noise, without using the closed form."""
    x = np.asarray(data())
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]

    def loss(log: np.ndarray) -> float:
        noise, fitted = np.exp(log[0]), np.exp(log[0]) + np.exp(log[1:])
        log_det = np.sum(np.log(fitted)) + 4 * np.log(noise)
        trace = np.sum(eigenvalues[:2] / fitted) + np.sum(eigenvalues[2:]) / noise
        precisions = fitted / noise
        kl = 2.0 * np.log(np.mean(precisions)) - np.sum(np.log(precisions))
        return 0.5 * (log_det + trace + kl)

    log = scipy.optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    found = spherical_maximum(data(), NUM_LATENTS)
    np.testing.assert_allclose(found.noise_var, np.exp(log[0]), rtol=1e-5)
    lengths = jnp.sum(jnp.square(found.weights), axis=0)
    np.testing.assert_allclose(np.sort(lengths), np.sort(np.exp(log[1:])), rtol=1e-4)


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


def test_an_em_step_is_the_oracles():
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

    def spherical(covariance: np.ndarray) -> np.ndarray:
        return 2.0 / np.trace(np.linalg.inv(covariance)) * np.eye(2)

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


def test_variational_em_of_a_diagonal_guide_is_unbiased_because_w_may_turn():
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


def test_copies_of_the_data_are_data():
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
def test_the_bound_of_variational_bayes_is_below_the_evidence_by_the_kl():
    """With D = 2, Z = 1, N = 3, the evidence is by quadrature over W and the KL by sampling Q."""
    x = small_data()[:3, :2]
    problem = bayes(x, 1)
    q, _ = ended(problem, 200)
    centred = np.asarray(x - jnp.mean(x, axis=0, keepdims=True))
    axis = np.linspace(-12.0, 12.0, 241)
    w = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    # x_n ~ N(0, w w' + 0.3 I); its inverse and determinant follow from the rank-one update.
    lengths = 0.3 + np.sum(w**2, axis=1)
    projections = centred @ w.T
    squares = (np.sum(centred**2, axis=1)[:, None] - projections**2 / lengths) / 0.3
    log_lik = -np.sum(0.5 * (squares + 2 * np.log(2 * np.pi) + np.log(0.3 * lengths)), axis=0)
    log_prior = -0.5 * np.sum(0.5 * w**2 + np.log(2 * np.pi / 0.5), axis=1)
    evidence = scipy.special.logsumexp(log_lik + log_prior) + 2 * np.log(axis[1] - axis[0])

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
    assert problem.bound(q) < evidence
    assert evidence - problem.bound(q) < 3.0


# The same model, fitted by algorithms of this package that do not use its structure


@pytest.mark.slow
def test_em_variational_em_mcem_and_aevb_side_by_side():
    """They end below the closed maximum, per datapoint: EM 0, AEVB < 0.001, MCEM < 0.005 nats."""
    x = linear_models.pca_data()
    optimum = oracles.pca_log_lik(x, NUM_LATENTS)
    below = {}
    for guide in ("full", "diagonal", "spherical"):
        problem = linear_gaussian_em.variational_em(data(), NUM_LATENTS, guide=guide)
        fit, _ = ended(problem, 1500)
        below[guide] = optimum - np.mean(oracle(fit.params).log_prob(x))
    with jax.enable_x64(False):  # as in training
        by_aevb = linear_models.trained(partial(aevb.make, bound=BOUNDS["sgvb_b"]), x)
        by_mcem = linear_models.trained(mcem.make, x, encoder="none")
    below["aevb"] = optimum - linear_models.exact_log_prob(by_aevb, x)
    below["mcem"] = optimum - linear_models.exact_log_prob(by_mcem, x)
    assert all(loss > -1e-6 for loss in below.values())
    assert below["full"] < 1e-5
    assert below["diagonal"] < 1e-5
    assert below["aevb"] < 0.001
    assert below["mcem"] < 0.005
    assert below["spherical"] > 0.005


# Invalid arguments


MISTAKES = {
    "a vector": (np.zeros(3), 1, "must be \\[N, D\\]"),
    "no data": (np.zeros((0, 3)), 1, "no axis may be empty"),
    "not a number": (
        np.array([[0.0, np.nan], [1.0, 2.0], [1.0, 1.0]]),
        1,
        "1 values that",
    ),
    "no latents": (np.zeros((9, 3)), 0, "num_latents is 0"),
    "as many latents as dimensions": (np.zeros((9, 3)), 3, "from 1 to 2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_one_line(mistake: str):
    x, num_latents, words = MISTAKES[mistake]
    known = {"bias": jnp.zeros(3), "noise_var": jnp.ones(()), "weight_precision": jnp.ones(())}
    for function in (
        linear_gaussian.maximum_likelihood,
        linear_gaussian.spherical_maximum,
        linear_gaussian_em.em,
        partial(linear_gaussian_em.variational_bayes, **known),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            function(jnp.asarray(x), num_latents)
        assert "\n" not in str(caught.value)


def test_too_few_datapoints_and_an_unknown_guide_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        linear_gaussian.maximum_likelihood(data()[:3], 2)
    with pytest.raises(ValueError, match="guide is 'banded'"):
        linear_gaussian_em.variational_em(data(), 2, guide="banded")  # pyright: ignore[reportArgumentType]
