"""Densities fitted to p(z|x): exact if it is Gaussian, and safe if it is not."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import joint_of
from marks import slow_but
from oracles import linear_gaussian

from aevb import proposals
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.losses import Joint
from aevb.marginal import Estimate, importance_sampling
from aevb.proposals import PROPOSALS, laplace

KEY = jax.random.key(0)


def broad(num_latents: int) -> DiagNormal:
    return DiagNormal(jnp.zeros(num_latents), jnp.zeros(num_latents))


# Gaussian posteriors


def assert_exact(start: Any, mean: np.ndarray, covariance: np.ndarray) -> None:
    std = np.sqrt(np.diag(covariance))
    assert np.all(abs(start["location"] - mean) < 0.01 * std)
    scale = np.asarray(start["scale_tril"])
    assert np.all(abs(scale @ scale.T - covariance) < 1e-3 * np.outer(std, std))


class Fitted(NamedTuple):
    """A proposal's parameters, and importance sampling from it."""

    start: Any
    estimate: Estimate


MODEL = linear_gaussian(3, 5, 2)
XS = np.random.default_rng(2).normal(size=(4, 5))


def fit(name: str) -> Callable[[jax.Array, jax.Array], Fitted]:
    """Returns a function of a key and an x that fits the posterior, to be jitted."""

    def run(key: jax.Array, x: jax.Array) -> Fitted:
        joint = joint_of(MODEL, x)
        start, guide = PROPOSALS[name](key, broad(2), diag_normal, joint)
        return Fitted(start, importance_sampling(key, start, guide, joint, num_samples=2000))

    return run


@cache
def fits(name: str) -> Fitted:
    """Returns the fits to the posteriors at all of `XS`."""
    return jax.jit(jax.vmap(fit(name)))(jax.random.split(KEY, 4), jnp.float32(XS))


@pytest.mark.parametrize("name", slow_but(["encoder"], ["encoder", "laplace", "modes"]))
def test_each_proposal_can_be_jitted_and_vmapped(name: str):
    np.testing.assert_allclose(fits(name).estimate.value, MODEL.log_prob(XS), atol=0.3)


def test_the_proposal_fitted_to_a_gaussian_posterior_is_exact():
    """The fit starts at a guide that is far off; that of `modes` is the one at its highest mode."""
    start = fits("modes").start
    for i, (x, log_weights) in enumerate(zip(XS, start["log_weights"], strict=True)):
        best = (i, np.argmax(log_weights))
        highest = jax.tree.map(lambda leaf, best=best: leaf[best], start["of_mode"])
        assert_exact(highest, *MODEL.posterior(x))


def test_a_mode_found_from_several_starts_counts_once():
    start, found = fits("modes")
    weights = np.sort(np.exp(start["log_weights"]), axis=1)
    np.testing.assert_allclose(weights[:, -2:], [[0.0, 1.0]] * 4, atol=1e-6)
    assert np.all(abs(found.value - MODEL.log_prob(XS)) < 4 * found.standard_error)


@pytest.mark.slow
def test_in_20_dimensions_the_fit_is_exact_and_needs_few_samples_where_a_narrow_guide_fails():
    """The narrow guide has a third of the posterior's standard deviation."""
    model, x = linear_gaussian(2, 30, 20), np.random.default_rng(1).normal(size=30)
    mean, covariance = model.posterior(x)
    stats = DiagNormal(jnp.float32(mean), jnp.float32(np.log(np.diag(covariance) / 9)))
    joint, exact = joint_of(model, x), float(model.log_prob(x))

    @jax.jit
    def run() -> tuple[Any, Estimate, Estimate]:
        start, guide = laplace(KEY, broad(20), diag_normal, joint)
        by_guide, by_fit = (
            importance_sampling(jax.random.key(1), params, guide, joint, num_samples=5000)
            for params, guide in ((stats, diag_normal), (start, guide))
        )
        return start, by_guide, by_fit

    start, narrow, fitted = run()
    assert_exact(start, mean, covariance)
    assert exact - narrow.value > 10 * narrow.standard_error
    assert narrow.diagnostics["pareto_k"] > 0.7
    assert abs(fitted.value - exact) < 4 * fitted.standard_error
    assert fitted.standard_error < 0.02
    assert fitted.diagnostics["pareto_k"] < 0.5


# Posteriors of one latent


def two_peaks(z: jax.Array) -> jax.Array:
    """Returns the log of 0.8 N(-4, 0.1^2) + 0.2 N(3, 0.2^2) times e^5, an unnormalized density."""
    log_weights = jnp.log(jnp.array([0.8, 0.2]))
    means, stds = jnp.array([-4.0, 3.0]), jnp.array([0.1, 0.2])
    each = log_weights + jax.scipy.stats.norm.logpdf(z, means, stds)
    return 5.0 + jax.nn.logsumexp(each)


DENSITIES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "student_t": lambda z: -8.0 * jnp.log1p(jnp.square(z) / 15),  # 15 degrees of freedom
    "two_peaks": two_peaks,
    "flat": lambda z: 0.0 * z,  # no curvature at all
    "dip": lambda z: jnp.where(abs(z) < 3, 0.1 * z**2, 0.9 - 5 * (abs(z) - 3) ** 2),
    "sharp": lambda z: -1e8 * z**2,
}
CASES = [*DENSITIES, *["two_peaks"] * 4]
GRID = np.linspace(-12.0, 12.0, 2001, dtype=np.float32)


class Along(NamedTuple):
    """A proposal for a posterior of one latent."""

    start: Any
    log_density: jax.Array  # over `GRID`
    draws: jax.Array  # [4000]
    estimate: Estimate


def along(name: str, key: jax.Array, std: jax.Array, joint: Joint) -> Along:
    """Fits a proposal that starts from a guide N(0, std^2)."""
    stats = DiagNormal(jnp.zeros(1), 2 * jnp.log(std)[None])
    start, guide = PROPOSALS[name](key, stats, diag_normal, joint)
    log_density = jax.vmap(lambda z: guide.log_prob(start, z[None]))(jnp.asarray(GRID))
    draws = jax.vmap(lambda key: guide.sample(key, start)[0])(jax.random.split(KEY, 4000))
    return Along(
        start, log_density, draws, importance_sampling(KEY, start, guide, joint, num_samples=5000)
    )


@cache
def laplace_along() -> dict[str, Along]:
    """Returns the fits to each density, with as many keys as it has `CASES`."""
    branches = [lambda z, f=f: f(z) for f in DENSITIES.values()]

    @jax.jit
    @jax.vmap
    def run(number: jax.Array, std: jax.Array, key: jax.Array) -> Along:
        joint = Joint(lambda z: jax.lax.switch(number, branches, z[0]), lambda z: jnp.float32(0.0))
        return along("laplace", key, std, joint)

    found = run(
        jnp.int32([list(DENSITIES).index(name) for name in CASES]),
        jnp.float32([4.0 if name == "two_peaks" else 1.0 for name in CASES]),
        jax.random.split(KEY, len(CASES)),
    )
    which = {name: np.array(CASES) == name for name in DENSITIES}
    return {
        name: jax.tree.map(lambda leaf, some=some: np.asarray(leaf)[some], found)
        for name, some in which.items()
    }


@cache
def modes_of_two_peaks() -> Along:
    joint = Joint(lambda z: two_peaks(z[0]), lambda z: jnp.float32(0.0))
    return jax.jit(lambda: along("modes", KEY, jnp.float32(4.0), joint))()


@pytest.mark.slow
def test_the_student_t_proposal_covers_a_heavy_tail():
    """The posterior is Student-t with 15 degrees of freedom; a Gaussian fit would not cover it."""
    found = laplace_along()["student_t"].estimate
    grid = np.linspace(-60.0, 60.0, 200_001)
    exact = np.log(np.trapezoid(np.exp(-8.0 * np.log1p(grid**2 / 15)), grid))
    assert np.all(abs(found.value - exact) < 4 * found.standard_error)
    assert np.all(found.diagnostics["pareto_k"] < 0.2)  # a Gaussian has 0.4


@pytest.mark.slow
def test_several_modes_are_found_and_weighted_where_a_fit_at_one_mode_misses_the_other():
    start, _, _, found = modes_of_two_peaks()
    weights = np.exp(start["log_weights"])
    located = np.asarray(start["of_mode"]["location"])[weights > 0, 0]
    np.testing.assert_allclose(np.sort(located), [-4.0, 3.0], atol=1e-3)
    # The weights are nine tenths by mass and one tenth even.
    np.testing.assert_allclose(np.sort(weights[weights > 0]), [0.23, 0.77], atol=1e-3)
    assert abs(found.value - 5.0) < 4 * found.standard_error
    assert found.standard_error < 0.02
    assert found.diagnostics["pareto_k"] < 0.5
    alone = laplace_along()["two_peaks"].estimate.value
    assert max(alone) < 5.0 + np.log(0.8) + 0.05  # it finds one peak only, at most the higher one


def test_the_mixture_proposal_integrates_to_1_and_its_samples_have_its_density():
    _, log_density, draws, _ = modes_of_two_peaks()
    density = np.exp(log_density)
    assert abs(np.trapezoid(density, GRID) - 1.0) < 1e-3
    below = np.trapezoid(np.where(GRID < 0, density, 0.0), GRID)
    assert abs(np.mean(np.asarray(draws) < 0) - below) < 4 * np.sqrt(below * (1 - below) / 4000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flat", "dip", "sharp"])
def test_a_posterior_with_degenerate_curvature_has_a_proper_proposal(name: str):
    _, log_density, draws, _ = laplace_along()[name]
    assert np.all(np.isfinite(log_density))
    assert np.all(np.isfinite(draws))


def test_the_encoder_proposal_is_the_guide_itself():
    stats = broad(2)
    joint = Joint(StandardNormal(2).log_prob, lambda z: jnp.sum(z))
    assert proposals.encoder(KEY, stats, diag_normal, joint) == (stats, diag_normal)
