"""Densities fitted to p(z|x): exact where it is Gaussian, and safe where it is not."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import LinearGaussian, linear_gaussian

from aevb import proposals
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.losses import Joint
from aevb.marginal import importance_sampling
from aevb.proposals import MIXTURE_OF_T, PROPOSALS, laplace

KEY = jax.random.key(0)


def joint_of(model: LinearGaussian, x: np.ndarray | jax.Array) -> Joint:
    weights, bias, noise_var = jax.tree.map(jnp.float32, model)
    x = jnp.asarray(x, jnp.float32)
    return Joint(
        log_prior=StandardNormal(weights.shape[1]).log_prob,
        log_lik=lambda z: DiagNormal(weights @ z + bias, jnp.log(noise_var)).log_prob(x),
    )


def joint_along(log_density: Callable[[jax.Array], jax.Array]) -> Joint:
    """Of one latent, whose log p(x, z) is given."""
    return Joint(log_prior=lambda z: log_density(z[0]), log_lik=lambda z: jnp.float32(0.0))


def broad(num_latents: int) -> DiagNormal:
    return DiagNormal(jnp.zeros(num_latents), jnp.zeros(num_latents))


@pytest.mark.parametrize("num_latents", [1, 3, 20])
def test_the_fit_to_a_gaussian_posterior_is_exact(num_latents: int):
    """From a guide that is far from it."""
    model = linear_gaussian(1, 30, num_latents)
    x = np.random.default_rng(0).normal(size=30)
    mean, covariance = model.posterior(x)
    fitted, _ = laplace(KEY, broad(num_latents), diag_normal, joint_of(model, x))
    std = np.sqrt(np.diag(covariance))
    assert np.all(abs(fitted["location"] - mean) < 0.01 * std)
    found = np.asarray(fitted["scale_tril"] @ fitted["scale_tril"].T)
    assert np.all(abs(found - covariance) < 1e-3 * np.outer(std, std))


def test_importance_sampling_from_it_needs_few_samples_where_a_narrow_guide_fails():
    """A guide of a third of the posterior's standard deviation, in 20 dimensions."""
    model = linear_gaussian(2, 30, 20)
    x = np.random.default_rng(1).normal(size=30)
    mean, covariance = model.posterior(x)
    stats = DiagNormal(jnp.float32(mean), jnp.float32(np.log(np.diag(covariance) / 9)))
    joint, exact = joint_of(model, x), float(model.log_prob(x))

    def estimate(name: str):
        start, guide = PROPOSALS[name](KEY, stats, diag_normal, joint)
        return importance_sampling(jax.random.key(1), start, guide, joint, num_samples=5000)

    narrow, fitted = estimate("encoder"), estimate("laplace")
    assert exact - narrow.value > 10 * narrow.standard_error
    assert narrow.diagnostics["pareto_k"] > 0.7
    assert abs(fitted.value - exact) < 4 * fitted.standard_error
    assert fitted.standard_error < 0.02
    assert fitted.diagnostics["pareto_k"] < 0.5


def test_a_heavy_tail_is_covered():
    """Of a Student-t posterior with 15 degrees of freedom, whose Gaussian fit would not do."""
    log_density = jax.jit(lambda z: -8.0 * jnp.log1p(jnp.square(z) / 15))
    joint = joint_along(log_density)
    start, guide = laplace(KEY, broad(1), diag_normal, joint)
    found = importance_sampling(KEY, start, guide, joint, num_samples=20_000)
    grid = np.linspace(-60.0, 60.0, 200_001)
    exact = np.log(np.trapezoid(np.exp(-8.0 * np.log1p(grid**2 / 15)), grid))
    assert abs(found.value - exact) < 4 * found.standard_error
    assert found.diagnostics["pareto_k"] < 0.5


def two_peaks(z: jax.Array) -> jax.Array:
    """0.8 N(-4, 0.1^2) + 0.2 N(3, 0.2^2), unnormalised: times e^5."""
    log_weights = jnp.log(jnp.array([0.8, 0.2]))
    means, stds = jnp.array([-4.0, 3.0]), jnp.array([0.1, 0.2])
    each = log_weights + jax.scipy.stats.norm.logpdf(z, means, stds)
    return 5.0 + jax.nn.logsumexp(each)


def test_several_modes_are_found_and_weighed_where_a_fit_at_one_misses_the_other():
    guide_stats = DiagNormal(jnp.zeros(1), jnp.full(1, 2 * jnp.log(4.0)))

    @partial(jax.jit, static_argnums=0)
    def estimate(name: str, key: jax.Array):
        joint = joint_along(two_peaks)
        start, guide = PROPOSALS[name](key, guide_stats, diag_normal, joint)
        return start, importance_sampling(KEY, start, guide, joint, num_samples=4000)

    start, found = estimate("modes", KEY)
    weights = np.exp(start["log_weights"])
    located = np.asarray(start["of_mode"]["location"])[weights > 0, 0]
    np.testing.assert_allclose(np.sort(located), [-4.0, 3.0], atol=1e-3)
    # Nine tenths by mass and one tenth evenly.
    np.testing.assert_allclose(np.sort(weights[weights > 0]), [0.23, 0.77], atol=1e-3)
    assert abs(found.value - 5.0) < 4 * found.standard_error
    assert found.standard_error < 0.02
    assert found.diagnostics["pareto_k"] < 0.5
    alone = [float(estimate("laplace", key)[1].value) for key in jax.random.split(KEY, 8)]
    assert max(alone) < 5.0 + np.log(0.8) + 0.05  # the higher peak, or the other


def test_a_mode_that_many_climbs_find_counts_once():
    model = linear_gaussian(1, 30, 3)
    x = np.random.default_rng(0).normal(size=30)
    joint = joint_of(model, x)

    @jax.jit
    def estimate(key: jax.Array):
        start, guide = PROPOSALS["modes"](key, broad(3), diag_normal, joint)
        return start, importance_sampling(key, start, guide, joint, num_samples=2000)

    start, found = estimate(KEY)
    weights = np.exp(start["log_weights"])
    np.testing.assert_allclose(np.sort(weights)[-2:], [0.0, 1.0], atol=1e-6)
    assert abs(found.value - model.log_prob(x)) < 4 * found.standard_error


def test_the_mixture_is_a_density_and_its_samples_are_of_it():
    fit = jax.jit(
        lambda key: PROPOSALS["modes"](key, broad(1), diag_normal, joint_along(two_peaks))[0]
    )
    start, guide = fit(KEY), MIXTURE_OF_T
    grid = jnp.linspace(-12.0, 12.0, 100_001)
    log_prob = jax.jit(jax.vmap(lambda z: guide.log_prob(start, z[None])))
    density = np.exp(log_prob(grid))
    assert abs(np.trapezoid(density, grid) - 1.0) < 1e-3
    draws = jax.vmap(lambda key: guide.sample(key, start)[0])(jax.random.split(KEY, 4000))
    below = np.trapezoid(np.where(grid < 0, density, 0.0), grid)
    assert abs(np.mean(np.asarray(draws) < 0) - below) < 4 * np.sqrt(below * (1 - below) / 4000)


@pytest.mark.parametrize(
    "log_density",
    [
        lambda z: jnp.float32(0.0) * z,  # flat: no curvature at all
        lambda z: jnp.where(abs(z) < 3, 0.1 * z**2, 0.9 - 5 * (abs(z) - 3) ** 2),  # a dip at 0
        lambda z: -1e8 * z**2,
    ],
)
def test_a_strange_curvature_gives_a_proper_density(log_density: Callable):
    start, guide = laplace(KEY, broad(1), diag_normal, joint_along(log_density))
    grid = jnp.linspace(-1.0, 1.0, 11)[:, None]
    densities = jax.vmap(lambda z: guide.log_prob(start, z))(grid)
    assert np.all(np.isfinite(densities))
    assert np.all(np.isfinite(guide.sample(KEY, start)))


@pytest.mark.parametrize("name", PROPOSALS)
def test_each_can_be_jitted_and_vmapped(name: str):
    model = linear_gaussian(3, 5, 2)
    xs = jnp.float32(np.random.default_rng(2).normal(size=(4, 5)))

    def estimate(key: jax.Array, x: jax.Array) -> jax.Array:
        joint = joint_of(model, x)
        start, guide = PROPOSALS[name](key, broad(2), diag_normal, joint)
        return importance_sampling(key, start, guide, joint, num_samples=2000).value

    keys = jax.random.split(KEY, 4)
    together = jax.jit(jax.vmap(estimate))(keys, xs)
    np.testing.assert_allclose(together[2], estimate(keys[2], xs[2]), rtol=1e-4)
    exact = [model.log_prob(np.asarray(x, np.float64)) for x in xs]
    np.testing.assert_allclose(together, exact, atol=0.3)


def test_the_encoders_own_is_left_as_it_is():
    stats = broad(2)
    joint = Joint(StandardNormal(2).log_prob, lambda z: jnp.sum(z))
    assert proposals.encoder(KEY, stats, diag_normal, joint) == (stats, diag_normal)
