"""Bayesian PCA: its bound, the number of dimensions it finds, and its limit PPCA for many data."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import standard_errors_off

from aevb.classical import coordinate_ascent, linear_gaussian, principal_components
from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.families import Gamma
from aevb.classical.principal_components import MeanField, Prior

NUM_DIMS, TRUE_LATENTS, MAX_LATENTS = 7, 3, 6


def broad() -> Prior:
    gamma = Gamma(jnp.float64(1e-3), jnp.float64(1e-3))
    return Prior(jnp.float64(1e-3), gamma, gamma)


def proper() -> Prior:
    """Returns a prior narrow enough to integrate the evidence and to sample Q."""
    return Prior(
        jnp.float64(0.5),
        Gamma(jnp.float64(3.0), jnp.float64(2.0)),
        Gamma(jnp.float64(4.0), jnp.float64(2.0)),
    )


@cache
def data(num_data: int = 300) -> np.ndarray:
    """Returns x [N, 7] with 3 latents, noise of std 0.5, and columns of W of norms 3, 2 and 1.5."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(NUM_DIMS, NUM_DIMS))).Q[:, :TRUE_LATENTS]
    z = rng.normal(size=(num_data, TRUE_LATENTS)) * [3.0, 2.0, 1.5]
    x: np.ndarray = z @ basis.T + rng.normal(size=NUM_DIMS)
    return x + 0.5 * rng.normal(size=x.shape)


@partial(jax.jit, static_argnames="num_latents")
def ended(
    x: jax.Array,
    prior: Prior,
    key: jax.Array,
    num_sweeps: int,
    active: jax.Array | None = None,
    *,
    num_latents: int,
) -> tuple[MeanField, jax.Array]:
    """Returns the state after some sweeps, and its bound."""
    problem = principal_components.coordinate_ascent(x, num_latents, prior, active)
    q = jax.lax.fori_loop(0, num_sweeps, lambda _, q: problem.update(q), problem.init(key))
    return q, problem.bound(q)


KEY = jax.random.key(0)


# The bound


@pytest.mark.parametrize("num_latents", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_the_bound_rises_at_every_update(num_latents: int):
    problem = principal_components.coordinate_ascent(jnp.asarray(data()), num_latents, broad())

    @jax.jit
    def history(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = problem.init(key)
        return problem.bound(start), coordinate_ascent.ascend(problem, start, num_sweeps=100)[1]

    first, rest = history(KEY)
    bounds = np.array([first, *np.ravel(rest)])
    assert np.all(np.diff(bounds) > -1e-9 * np.abs(bounds[0]))
    assert bounds[-1] > bounds[0] + 100.0


def log_weights(x: np.ndarray, q: MeanField, prior: Prior, draws: int) -> np.ndarray:
    """Returns log p(x, z, w, mu, alpha, tau) - log q [draws] at samples of Q for Z = 1.

    The densities are SciPy's.
    """
    rng = np.random.default_rng(0)
    norm, total = scipy.stats.norm, np.zeros(draws)

    def draw(mean: jax.Array, std: float) -> np.ndarray:
        nonlocal total
        drawn = np.asarray(mean) + std * rng.normal(size=(draws, len(mean)))
        total -= np.sum(norm.logpdf(drawn, np.asarray(mean), std), axis=1)
        return drawn

    def draw_gamma(factor: Gamma, before: Gamma) -> np.ndarray:
        nonlocal total
        shape, rate = (np.asarray(part).item() for part in factor)
        drawn = rng.gamma(shape, 1 / rate, size=draws)
        total -= scipy.stats.gamma.logpdf(drawn, shape, scale=1 / rate)
        total += scipy.stats.gamma.logpdf(drawn, float(before.shape), scale=1 / float(before.rate))
        return drawn[:, None]

    z = draw(q.latents.mean[:, 0], float(q.latents.covariance[0, 0]) ** 0.5)
    w = draw(q.weights.mean[:, 0], float(q.weights.covariance[0, 0]) ** 0.5)
    mu = draw(q.location.mean, float(q.location.precision) ** -0.5)
    alpha = draw_gamma(q.weight_precision, prior.weight_precision)
    tau = draw_gamma(q.noise_precision, prior.noise_precision)
    total += np.sum(norm.logpdf(z), axis=1) + np.sum(norm.logpdf(w, 0.0, alpha**-0.5), axis=1)
    total += np.sum(norm.logpdf(mu, 0.0, float(prior.mean_precision) ** -0.5), axis=1)
    means = z[:, :, None] * w[:, None, :] + mu[:, None, :]
    return total + np.sum(norm.logpdf(x, means, tau[:, :, None] ** -0.5), axis=(1, 2))


def test_the_bound_is_the_mean_of_log_joint_less_log_q():
    """The states are the optimum and one sweep from a random start, with D = 2, Z = 1, N = 3."""
    x = data()[:3, :2]
    for num_sweeps in (1, 300):
        q, bound = ended(x, proper(), KEY, num_sweeps, num_latents=1)
        assert standard_errors_off(log_weights(x, q, proper(), 50_000), bound) < 4


# The number of dimensions


def by_number() -> np.ndarray:
    """Returns the best bound of 3 starts for each of 1 to 6 latents, [6]."""

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    @partial(jax.vmap, in_axes=(None, 0))
    def tops(key: jax.Array, active: jax.Array) -> jax.Array:
        return ended(jnp.asarray(data()), broad(), key, 300, active, num_latents=MAX_LATENTS)[1]

    masks = jnp.tri(MAX_LATENTS, dtype=bool)
    return np.max(tops(jax.random.split(KEY, 3), masks), axis=0)


@pytest.mark.slow
def test_the_bound_picks_the_number_of_dimensions():
    bounds = by_number()
    assert np.argmax(bounds) + 1 == TRUE_LATENTS
    assert bounds[TRUE_LATENTS - 1] > bounds[TRUE_LATENTS - 2] + 100.0
    assert np.all(np.diff(bounds[TRUE_LATENTS - 1 :]) < -1.0)


@pytest.mark.slow
def test_a_masked_latent_has_no_effect():
    """The bounds agree to the last digit, starting from a state that both models can represent."""
    x = jnp.asarray(data()[:40])
    active = np.array([True, False, True])
    masked = principal_components.coordinate_ascent(x, 3, proper(), jnp.asarray(active))
    without = principal_components.coordinate_ascent(x, 2, proper())

    def part(state: MeanField) -> MeanField:
        def of_rows(rows):
            return type(rows)(rows.mean[:, active], rows.covariance[active][:, active])

        return state._replace(
            latents=of_rows(state.latents),
            weights=of_rows(state.weights),
            weight_precision=jax.tree.map(lambda leaf: leaf[active], state.weight_precision),
        )

    def after_sweeps(problem: CoordinateAscent, q: MeanField) -> tuple[MeanField, jax.Array]:
        return jax.lax.scan(lambda q, _: (problem.update(q), problem.bound(q)), q, length=5)

    @jax.jit
    def both(key: jax.Array) -> tuple[tuple[MeanField, jax.Array], ...]:
        start = masked.init(key)
        q, bounds = after_sweeps(masked, start)
        return (part(q), bounds), after_sweeps(without, part(start))

    (q, bounds), (smaller, bounds_of_smaller) = both(KEY)
    np.testing.assert_allclose(bounds, bounds_of_smaller, rtol=1e-11)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), q, smaller)


@pytest.mark.slow
def test_automatic_relevance_determination_prunes_the_superfluous_dimensions():
    """The fit keeps 3 of 6 columns, and its noise is the true one."""
    q, _ = ended(data(), broad(), KEY, 1500, num_latents=MAX_LATENTS)
    relevance = np.sort(principal_components.relevance(q))[::-1]
    assert np.all(relevance[:TRUE_LATENTS] > 5.0)
    assert np.all(relevance[TRUE_LATENTS:] < 0.01)
    alphas = np.sort(q.weight_precision.mean())
    assert alphas[TRUE_LATENTS] > 50.0 * alphas[TRUE_LATENTS - 1]
    assert 1.0 / q.noise_precision.mean() == pytest.approx(0.25, rel=0.1)


# Probabilistic PCA


@pytest.mark.slow
def test_with_broad_priors_and_many_data_it_is_probabilistic_pca_by_maximum_likelihood():
    """The covariance of x is off by 1/N: with ten times the data, the distance is a tenth."""
    everything = data(10_000)

    def distance(num_data: int) -> float:
        x = everything[:num_data]
        q, _ = ended(x, broad(), KEY, 400, num_latents=TRUE_LATENTS)
        found = linear_gaussian.marginal(principal_components.params_at_mean(q))
        closed = linear_gaussian.maximum_likelihood(jnp.asarray(x), TRUE_LATENTS)
        exact = linear_gaussian.marginal(closed).covariance
        return float(jnp.linalg.norm(found.covariance - exact) / jnp.linalg.norm(exact))

    few, some, many = map(distance, (100, 1000, 10_000))
    assert few / some == pytest.approx(10.0, rel=0.4)
    assert some / many == pytest.approx(10.0, rel=0.4)
    assert many < 1e-3


@pytest.mark.slow
def test_principal_components_in_float32_stay_float32_with_the_bound_of_float64():
    """The reference is float64's bound of the same state."""
    x = jnp.asarray(data(), jnp.float32)
    prior = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), broad())
    q, bound = ended(x, prior, KEY, 100, num_latents=TRUE_LATENTS)
    assert bound.dtype == jnp.float32
    more = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), q)
    exact = principal_components.coordinate_ascent(x.astype(jnp.float64), TRUE_LATENTS, broad())
    np.testing.assert_allclose(bound, jax.jit(exact.bound)(more), atol=0.01)


# Few data


def test_one_point_and_constant_data_have_a_finite_bound():
    for x in (np.array([[1.0, 2.0]]), np.ones((3, 2))):
        found = ended(x, proper(), KEY, 50, num_latents=1)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
