"""Gaps, moments and active latents, on models where all of them have closed forms."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import Case, joint_of
from oracles import LinearGaussian, standard_errors_off

from aevb.distributions import DiagNormal
from aevb.evaluation.diagnostics import (
    Gaps,
    Moments,
    active_units,
    gradient_bias,
    gradient_moments,
    inference_gaps,
    unit_activity,
)
from aevb.guides import diag_normal
from aevb.losses import BOUNDS

NUM_DRAWS = 5000
NUM_FIT = 1000
# A q* fitted to NUM_FIT samples costs 1/NUM_FIT per dimension on average; 3 times that is allowed.
FIT_COST = 3 * 3 / NUM_FIT


MODEL, X = oracles.linear_gaussian(1, 5, 3), np.random.default_rng(1).normal(scale=2.0, size=5)
MEAN, COV = MODEL.posterior(X)
# The q that maximizes the ELBO has the posterior's mean and the diagonal of its precision.
BEST = MEAN, -np.log(np.diag(np.linalg.inv(COV)))

# The gaps


@cache
def starts() -> DiagNormal:
    """Returns five encoders: one optimal, one slightly off, and three far off."""
    mean, log_var = BEST
    rng = np.random.default_rng(2)
    shifts, scales = rng.normal(size=(2, 5, 3)) * np.array([0.0, 0.3, 1.0, 1.0, 2.0])[:, None]
    return DiagNormal(jnp.float32(mean + shifts), jnp.float32(log_var + scales))


@cache
def gaps() -> Gaps:
    @jax.jit
    @jax.vmap
    def run(key: jax.Array, stats: DiagNormal) -> Gaps:
        log_prob = jnp.float32(MODEL.log_prob(X))
        joint = joint_of(MODEL, X)
        return inference_gaps(key, stats, diag_normal, joint, log_prob, num_fit_samples=NUM_FIT)

    found = run(jax.random.split(jax.random.key(0), 5), starts())
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


def elbos() -> np.ndarray:
    """Returns the exact evidence lower bound of every start, [5]."""
    return np.array([MODEL.elbo(X, *stats) for stats in zip(*starts(), strict=True)])


def test_the_approximation_gap_is_the_kl_of_the_best_diagonal_guide():
    """It is the same from every start of the encoder, and the fitted statistics are the best."""
    mean, log_var = BEST
    exact = oracles.kl_gaussians(mean, np.diag(np.exp(log_var)), MEAN, COV)
    assert MODEL.log_prob(X) - MODEL.elbo(X, *BEST) == pytest.approx(exact)
    error = gaps().approximation_standard_error
    assert np.all(error < 0.05)
    assert np.all(abs(gaps().approximation - exact) < 4 * error + FIT_COST)
    np.testing.assert_allclose(gaps().best_stats.mean, np.tile(mean, (5, 1)), atol=0.1)
    np.testing.assert_allclose(gaps().best_stats.log_var, np.tile(log_var, (5, 1)), atol=0.2)


def test_the_amortization_gap_is_the_best_elbo_less_that_of_the_encoder():
    """With the approximation gap, it adds up to log p(x) minus the ELBO."""
    exact = MODEL.elbo(X, *BEST) - elbos()
    assert exact[0] == pytest.approx(0.0, abs=1e-5)
    assert exact[-1] > 1.0
    error = gaps().amortization_standard_error
    assert np.all(abs(gaps().amortization - exact) < 4 * error + FIT_COST)
    sums = gaps().approximation + gaps().amortization
    error = np.hypot(error, gaps().approximation_standard_error)
    assert np.all(abs(sums - (MODEL.log_prob(X) - elbos())) < 4 * error)


@pytest.mark.slow
def test_a_guide_family_that_contains_the_posterior_has_no_approximation_gap():
    """The sampling error is small too, since log p(x, z) - log q(z|x) is log p(x) at every z."""
    model = oracles.orthogonal_linear_gaussian(0, 5, 2)
    x = np.random.default_rng(0).normal(size=5)
    stats = DiagNormal(jnp.zeros(2), jnp.zeros(2))
    log_prob = jnp.float32(model.log_prob(x))
    run = partial(
        inference_gaps,
        guide=diag_normal,
        joint=joint_of(model, x),
        log_prob=log_prob,
        num_fit_samples=NUM_FIT,
    )
    gaps = jax.jit(run)(jax.random.key(0), stats)
    assert abs(gaps.approximation) < FIT_COST + 4 * gaps.approximation_standard_error
    assert gaps.approximation_standard_error < 0.005
    elbo = model.elbo(x, np.zeros(2), np.zeros(2))
    error = 4 * float(gaps.amortization_standard_error)
    assert gaps.amortization == pytest.approx(float(log_prob) - elbo, abs=error)


@pytest.mark.parametrize("argument", ["num_samples", "num_fit_samples", "num_steps"])
def test_gaps_without_samples_or_steps_are_refused(argument: str):
    stats, joint = jax.tree.map(lambda leaf: leaf[0], starts()), joint_of(MODEL, X)
    with pytest.raises(ValueError, match=f"{argument} is 0"):
        inference_gaps(
            jax.random.key(0), stats, diag_normal, joint, jnp.float32(0.0), **{argument: 0}
        )


# Moments of gradients


def gradient_of(model: LinearGaussian, x: np.ndarray, stats: DiagNormal, name: str, key: jax.Array):
    def bound(stats: DiagNormal, weights: jax.Array) -> jax.Array:
        joint = joint_of(model._replace(weights=weights), x)  # pyright: ignore[reportArgumentType]
        return BOUNDS[name](key, stats, diag_normal, joint)

    of_stats, of_weights = jax.grad(bound, argnums=(0, 1))(stats, jnp.float32(model.weights))
    return {"mean": of_stats.mean, "log_var": of_stats.log_var, "weights": of_weights}


@pytest.mark.parametrize("name", ["sgvb_a", "sgvb_b"])
def test_gradient_moments_are_those_of_the_draws_and_their_mean_that_of_the_exact_bound(name: str):
    stats = jax.tree.map(lambda leaf: leaf[2], starts())
    draw, key = partial(gradient_of, MODEL, X, stats, name), jax.random.key(0)
    moments = jax.jit(partial(gradient_moments, grad_fn=draw, num_draws=NUM_DRAWS))(key)
    case = Case(MODEL, X, *(np.asarray(leaf, np.float64) for leaf in stats))
    params = case.params()
    draws = jax.jit(jax.vmap(lambda number: draw(jax.random.fold_in(key, number))))(
        jnp.arange(NUM_DRAWS)
    )
    for part, mean in moments.mean.items():
        each = np.asarray(draws[part], np.float64)
        np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-3, atol=1e-4)
        variance = np.var(each, axis=0, ddof=1)
        np.testing.assert_allclose(moments.variance[part], variance, rtol=1e-3)
        errors = np.sqrt(variance / NUM_DRAWS)
        np.testing.assert_allclose(moments.standard_error[part], errors, rtol=1e-3)
        exact = oracles.finite_difference(
            lambda leaf, part=part: case.with_params(**params | {part: leaf}).elbo(), params[part]
        )
        assert np.all(abs(np.asarray(mean) - exact) < 4 * errors), part


def test_the_gradient_variance_of_sgvb_b_is_the_closed_form():
    """The gradient d/d mean of sgvb_b at mean + sigma eps is linear in eps, by -precision sigma."""
    model = oracles.linear_gaussian(3, 5, 2)
    x = np.random.default_rng(3).normal(size=5)
    stats = DiagNormal(jnp.float32([0.3, -0.2]), jnp.float32([-1.0, 0.5]))
    draw = partial(gradient_of, model, x, stats, "sgvb_b")
    moments = jax.jit(partial(gradient_moments, grad_fn=draw, num_draws=NUM_DRAWS))(
        jax.random.key(0)
    )
    precision = model.weights.T @ (model.weights / model.noise_var[:, None])
    exact = np.square(precision) @ np.exp(np.asarray(stats.log_var, np.float64))
    relative = np.asarray(moments.variance["mean"], np.float64) / exact
    assert np.all(abs(relative - 1.0) < 4 * np.sqrt(2.0 / NUM_DRAWS))


def test_gradient_moments_keep_a_small_variance_at_a_large_mean():
    """With 128 + noise of 0.01, the square, 16384, has no digit left for 0.0001 in float32."""

    def draw(key: jax.Array) -> jax.Array:
        return 128.0 + 0.01 * jax.random.normal(key, (3,))

    moments = gradient_moments(jax.random.key(0), draw, 2000)
    np.testing.assert_allclose(moments.variance, np.full(3, 1e-4), rtol=4 * np.sqrt(2 / 2000))


def test_the_memory_of_gradient_moments_does_not_grow_with_the_draws():
    def bytes_for(num_draws: int) -> int:
        def draw(key: jax.Array) -> jax.Array:
            return jax.random.normal(key, (1000,))

        run = jax.jit(partial(gradient_moments, grad_fn=draw, num_draws=num_draws))
        analysis = run.lower(jax.random.key(0)).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert bytes_for(10) == bytes_for(100_000)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_estimated_gradient_bias_is_within_its_standard_error(offset: float):
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        return {"a": offset + jax.random.normal(key, (200,))}

    def reference(key: jax.Array) -> dict[str, jax.Array]:
        return {"a": 2.0 * jax.random.normal(key, (200,))}

    bias, error = gradient_bias(
        gradient_moments(jax.random.key(0), draw, 100),
        gradient_moments(jax.random.key(1), reference, 400),
    )
    assert np.mean(error["a"]) == pytest.approx(np.sqrt(1 / 100 + 4 / 400), rel=0.02)
    scores = (np.asarray(bias["a"], np.float64) - offset) / np.asarray(error["a"])
    assert standard_errors_off(scores, 0.0) < 4
    assert np.std(scores) == pytest.approx(1.0, abs=4 / np.sqrt(400))


def test_an_exact_reference_adds_no_error_to_the_gradient_bias():
    moments = Moments(jnp.float32(2.0), jnp.float32(1.0), jnp.float32(0.1))
    exact = Moments(jnp.float32(1.5), jnp.float32(0.0), jnp.float32(0.0))
    assert gradient_bias(moments, exact) == (0.5, pytest.approx(0.1))


def test_gradient_moments_of_a_single_draw_are_refused():
    with pytest.raises(ValueError, match="num_draws is 1"):
        gradient_moments(jax.random.key(0), lambda key: jax.random.normal(key), 1)


# Active latents


def test_active_units_are_those_whose_posterior_mean_varies_with_the_data():
    """The model is linear-Gaussian, its third latent reaches no pixel, and q is its posterior."""
    model = oracles.orthogonal_linear_gaussian(0, 6, 3)
    weights = model.weights * np.array([1.0, 0.3, 0.0])
    model = model._replace(weights=weights)
    rng = np.random.default_rng(0)
    num = 20_000
    x = rng.normal(size=(num, 3)) @ weights.T + model.bias + rng.normal(size=(num, 6)) * 0.5**0.5
    means = np.stack([model.posterior(row)[0] for row in x[:num]])
    # The variance of the posterior mean is 1 minus the latent's own posterior variance.
    exact = 1.0 - np.diag(model.posterior(x[0])[1])
    activity = np.asarray(unit_activity(jnp.float32(means)), np.float64)
    np.testing.assert_allclose(activity, exact, atol=4 * np.sqrt(2 / num))
    np.testing.assert_array_equal(active_units(jnp.float32(means)), [True, True, False])


@pytest.mark.parametrize(("std", "active"), [(0.09, False), (0.11, True)])
def test_a_unit_is_active_above_a_variance_of_a_hundredth(std: float, active: bool):
    means = std * jnp.where(jnp.arange(100) % 2 == 0, 1.0, -1.0)[:, None] + 7.0
    assert bool(active_units(means)[0]) is active
