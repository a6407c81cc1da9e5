"""State-space models against the Kalman filter and smoother, and exact bounds of other guides."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.integrate
import scipy.stats
import state_space
from marks import slow_but
from state_space import Case

from aevb import likelihoods, losses, marginal, missing, sequences
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.sequences import Autoregressive, Markov, Steps, structured

NUM_DRAWS = 20_000
SIZES = [(4, 2, 3, 0), (6, 1, 2, 1), (3, 3, 5, 2)]  # T, Z, D, seed
MEMORY = {"mean_field": 0.0, "autoregressive": 1.0}
OF_ELBO = ("sgvb_a", "sgvb_b", "stl", "score_function_loo")
OF_MANY = ("iwae", "dreg", "miwae", "piwae", "ciwae", "renyi")
OPTIONS: dict[str, dict[str, Any]] = {
    "score_function_loo": {"num_samples": 2},
    **{name: {"num_samples": 4} for name in OF_MANY},
}  # fmt: skip
KEY = jax.random.key(0)

every_guide = pytest.mark.parametrize("kind", slow_but(["autoregressive"], MEMORY))
every_size = pytest.mark.parametrize("sizes", slow_but(SIZES[:1], SIZES))
every_quick_size = pytest.mark.parametrize("sizes", SIZES)


def in_float32(case: Case) -> tuple[Any, jax.Array]:
    return jax.tree.map(jnp.float32, case.params), jnp.float32(case.x)


def many(function: Callable[[jax.Array], Any], number: int = NUM_DRAWS, seed: int = 3) -> Any:
    """Returns a function's results for many keys, as float64."""
    keys = jax.random.split(jax.random.key(seed), number)
    found = jax.jit(lambda keys: jax.lax.map(function, keys, batch_size=500))(keys)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


# The oracle


@every_quick_size
def test_the_filter_and_the_smoother_of_the_tests_are_those_of_the_joint_gaussian(sizes: Any):
    case = state_space.make(*sizes)
    mean, cov = state_space.prior_moments(case)
    num_steps, num_latents = len(case.x), len(case.params["start"])
    w = np.kron(np.eye(num_steps), case.params["weights"])
    seen = ~np.isnan(case.x.ravel())
    bias = np.tile(case.params["bias"], num_steps)
    noise = np.exp(state_space.LOG_VARS["x"]) * np.eye(len(bias))
    of_x = (w @ cov @ w.T + noise)[np.ix_(seen, seen)]
    residual = (case.x.ravel() - bias - w @ mean)[seen]
    expected = scipy.stats.multivariate_normal.logpdf(residual, np.zeros(len(residual)), of_x)
    np.testing.assert_allclose(state_space.exact_log_prob(case), expected, rtol=1e-10)
    gain = np.linalg.solve(of_x, (w @ cov)[seen]).T
    smoothed = state_space.smoothed(case)
    means = (mean + gain @ residual).reshape(num_steps, -1)
    np.testing.assert_allclose(smoothed.means, means, rtol=1e-8)
    rest = (cov - gain @ (w @ cov)[seen]).reshape(num_steps, num_latents, num_steps, num_latents)
    blocks = np.einsum("titj->tij", rest)
    np.testing.assert_allclose(smoothed.covs, blocks, rtol=1e-8, atol=1e-10)


# Bounds


@every_guide
@every_size
def test_estimates_of_the_elbo_and_their_gradients_have_the_exact_means(kind: str, sizes: Any):
    case, memory = state_space.make(*sizes), MEMORY[kind]
    params, x = in_float32(case)

    def value(params: Any, key: jax.Array, name: str) -> jax.Array:
        guide, stats = state_space.guide_of(params, memory)
        joint = state_space.joint_of(params, x)
        return losses.BOUNDS[name](key, stats, guide.guide, joint, **OPTIONS.get(name, {}))

    found = many(lambda key: {n: jax.value_and_grad(value)(params, key, n) for n in OF_ELBO})
    expected = state_space.exact_elbo(case, memory)
    gradient = {
        name: oracles.finite_difference(
            lambda at, name=name: state_space.exact_elbo(
                case._replace(params=case.params | {name: at.reshape(case.params[name].shape)}),
                memory,
            ),
            param.ravel(),
        ).reshape(param.shape)
        for name, param in case.params.items()
    }  # fmt: skip
    for name, (values, slopes) in found.items():
        assert oracles.standard_errors_off(values, expected) < 4.0, name
        for param, exact in gradient.items():
            if memory or param != "memory":
                error = np.std(slopes[param], axis=0) / NUM_DRAWS**0.5 + 1e-5
                off = np.abs(slopes[param].mean(axis=0) - exact) / error
                assert np.max(off) < 4.5, (name, param)


@every_size
def test_at_the_exact_posterior_every_bound_is_the_log_p_of_the_kalman_filter(sizes: Any):
    case = state_space.make(*sizes)
    params, x = in_float32(case)
    stats, joint = state_space.posterior_of(params, x).steps(), state_space.joint_of(params, x)
    expected = state_space.exact_log_prob(case)
    found = jax.jit(
        lambda key: {
            name: losses.BOUNDS[name](key, stats, structured.guide, joint, **OPTIONS.get(name, {}))
            for name in ("sgvb_a", "stl", *OF_MANY)
        }
    )(KEY)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected, rtol=3e-5, err_msg=name)
    draws = many(lambda key: losses.sgvb_b(key, stats, structured.guide, joint), 2000)
    assert oracles.standard_errors_off(draws, expected) < 4.0


@every_quick_size
def test_the_structured_gaussian_has_the_moments_of_the_smoother(sizes: Any):
    case = state_space.make(*sizes)
    params, x = in_float32(case)
    stats = state_space.posterior_of(params, x).steps()
    z = many(lambda key: structured.sample_and_log_prob(key, stats)[0])
    exact = state_space.smoothed(case)
    for t, (mean, cov) in enumerate(zip(exact.means, exact.covs, strict=True)):
        assert np.max(oracles.standard_errors_off(z[:, t], mean)) < 4.5
        np.testing.assert_allclose(np.cov(z[:, t], rowvar=False), cov.squeeze(), atol=0.04)


def test_the_rate_of_the_structured_gaussian_is_its_divergence():
    """Against the closed form of the KL of the posterior from the prior, both of T Z dimensions."""
    case = state_space.make(*SIZES[0])
    params, x = in_float32(case)
    chain, prior = state_space.posterior_of(params, x), state_space.prior_of(params, len(x))
    kls = many(lambda key: structured.sample_and_kls(key, chain.steps(), prior)[1])
    precision = scipy.linalg.block_diag(*np.asarray(chain.diagonal, np.float64))
    size = len(params["start"])
    for t, block in enumerate(np.asarray(chain.below, np.float64)):
        rows, columns = (slice((t + k) * size, (t + k + 1) * size) for k in (1, 0))
        precision[rows, columns], precision[columns, rows] = block, block.T
    cov = np.linalg.inv(precision)
    mean = cov @ np.asarray(chain.linear, np.float64).ravel()
    expected = oracles.kl_gaussians(mean, cov, *state_space.prior_moments(case))
    assert oracles.standard_errors_off(kls["first"] + kls["transitions"], expected) < 4.0
    assert np.ptp(kls["first"]) == 0.0  # z_1 has no predecessor


@every_guide
@every_size
def test_importance_sampling_agrees_with_the_exact_evidence(kind: str, sizes: Any):
    case = state_space.make(*sizes)
    params, x = in_float32(case)
    guide, stats = state_space.proposal_of(case, MEMORY[kind])
    joint = state_space.joint_of(params, x)
    found = marginal.importance_sampling(KEY, stats, guide.guide, joint, num_samples=200_000)
    off = abs(found.value - state_space.exact_log_prob(case))
    assert off < 4.0 * found.standard_error
    assert found.standard_error < 0.03


def test_log_q_is_that_of_the_sample_for_every_guide():
    case = state_space.make(*SIZES[0])
    params, x = in_float32(case)
    posterior = structured, state_space.posterior_of(params, x).steps()
    for guide, stats in (state_space.guide_of(params), posterior):
        z, log_q = losses.sample_and_log_prob(KEY, stats, guide.guide)
        assert z.shape == (4, 2)
        np.testing.assert_allclose(log_q, guide.log_prob(stats, z), rtol=1e-5)
        np.testing.assert_array_equal(z, guide.guide.sample(KEY, stats))
        prior = state_space.prior_of(params, len(x))
        np.testing.assert_array_equal(z, guide.sample_and_kls(KEY, stats, prior)[0])


def test_a_prior_that_is_a_function_has_the_kl_of_the_sample():
    case = state_space.make(*SIZES[0])
    params, x = in_float32(case)
    guide, stats = state_space.guide_of(params)
    joint = state_space.joint_of(params, x)
    of_function = losses.Joint(joint.log_prior, joint.log_lik)
    for bound in (losses.sgvb_a, losses.sgvb_b):
        np.testing.assert_allclose(
            bound(KEY, stats, guide.guide, of_function),
            losses.sgvb_a(KEY, stats, guide.guide, joint), rtol=1e-5,
        )  # fmt: skip


def test_a_transition_that_is_not_linear_has_the_evidence_of_quadrature():
    """T = 2 and Z = 1, with a transition whose mean and variance both depend on z_1."""

    def transition(before: jax.Array) -> DiagNormal:
        return DiagNormal(jnp.tanh(2.0 * before), -1.0 + 0.5 * jnp.sin(before))

    def log_lik(z: jax.Array, x: jax.Array) -> jax.Array:
        return DiagNormal(jnp.square(z), jnp.full(1, -1.0)).log_prob(x)

    x = jnp.float32([[0.5], [1.2]])
    joint = sequences.joint(Markov(StandardNormal(1), transition, 2), log_lik, x)
    grid = np.linspace(-6.0, 6.0, 801)
    pairs = jnp.float32(np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2, 1))
    density = np.exp(np.asarray(jax.vmap(lambda z: joint.log_prior(z) + joint.log_lik(z))(pairs)))
    inner = scipy.integrate.simpson(density.reshape(801, 801).astype(np.float64), x=grid)
    expected = np.log(scipy.integrate.simpson(inner, x=grid))
    q = Autoregressive(diag_normal, lambda shared, each, before: each)
    stats = Steps((), DiagNormal(jnp.zeros((2, 1)), jnp.full((2, 1), 0.5)), jnp.zeros(1))
    found = marginal.importance_sampling(KEY, stats, q.guide, joint, num_samples=20_000)
    assert abs(found.value - expected) < 4.0 * found.standard_error
    assert found.standard_error < 0.03


# Missing frames and prediction


@every_quick_size
def test_a_shorter_sequence_may_end_in_frames_of_nan(sizes: Any):
    num_steps = sizes[0]
    case = state_space.make(*sizes, missing=(num_steps - 1,))
    params, x = in_float32(case)
    shorter = case._replace(x=case.x[:-1])
    expected = state_space.exact_log_prob(shorter)
    np.testing.assert_allclose(state_space.exact_log_prob(case), expected, rtol=1e-10)
    stats, joint = state_space.posterior_of(params, x).steps(), state_space.joint_of(params, x)
    found = losses.sgvb_a(KEY, stats, structured.guide, joint)
    np.testing.assert_allclose(found, expected, rtol=3e-5)


def test_latents_of_missing_frames_follow_the_prior_and_predict():
    """The last z of the posterior has the moments of p(z_T | x_1..x_{T-2})."""
    case = state_space.make(5, 2, 3, 0, missing=(3, 4))
    params, x = in_float32(case)
    stats = state_space.posterior_of(params, x).steps()
    predicted = state_space.kalman(case)
    z = many(lambda key: structured.sample_and_log_prob(key, stats)[0][-1])
    assert np.max(oracles.standard_errors_off(z, predicted.means[-1])) < 4.0
    np.testing.assert_allclose(np.cov(z, rowvar=False), predicted.covs[-1], atol=0.04)
    prior = state_space.prior_of(params, len(x))

    def after(key: jax.Array) -> jax.Array:
        first_key, key = jax.random.split(key)
        z = structured.sample_and_log_prob(first_key, stats)[0]
        return prior.after(key, z[2], 2)[-1]

    z = many(after)
    assert np.max(oracles.standard_errors_off(z, predicted.means[-1])) < 4.0
    np.testing.assert_allclose(np.cov(z, rowvar=False), predicted.covs[-1], atol=0.04)


def test_a_frame_that_was_seen_in_part_is_scored_by_that_part():
    frame = missing.of_seen(likelihoods.gaussian)

    def log_lik(z: jax.Array, x: jax.Array) -> jax.Array:
        return frame.log_prob({"mean": z, "log_var": 0.5 * z}, x)

    x = jnp.float32([[1.0, jnp.nan], [jnp.nan, jnp.nan], [0.5, 2.0]])
    z = jnp.float32([[0.3, 0.1], [5.0, 5.0], [-0.2, 0.4]])
    found = sequences.joint(lambda z: jnp.zeros(()), log_lik, x).log_lik(z)
    expected = DiagNormal(z[0, :1], 0.5 * z[0, :1]).log_prob(x[0, :1])
    expected += DiagNormal(z[2], 0.5 * z[2]).log_prob(x[2])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_missing_frames_leave_every_gradient_finite():
    case = state_space.make(*SIZES[0])
    params, x = in_float32(case)

    def bound(params: Any) -> jax.Array:
        guide, stats = state_space.guide_of(params)
        return losses.sgvb_b(KEY, stats, guide.guide, state_space.joint_of(params, x))

    for leaf in jax.tree.leaves(jax.grad(bound)(params)):
        assert np.all(np.isfinite(leaf))


def test_samples_of_the_prior_have_its_moments():
    case = state_space.make(*SIZES[0])
    params, _ = in_float32(case)
    z = many(state_space.prior_of(params, 4).sample).reshape(NUM_DRAWS, -1)
    mean, cov = state_space.prior_moments(case)
    assert np.max(oracles.standard_errors_off(z, mean)) < 4.5
    np.testing.assert_allclose(np.cov(z, rowvar=False), cov, atol=0.06 * cov.max())


def test_a_sequence_of_one_frame_is_a_model_without_time():
    case = state_space.make(1, 2, 3, 0, missing=())
    params, x = in_float32(case)
    stats, joint = state_space.posterior_of(params, x).steps(), state_space.joint_of(params, x)
    expected = state_space.exact_log_prob(case)
    for bound in (losses.sgvb_a, losses.iwae):
        found = bound(KEY, stats, structured.guide, joint)
        np.testing.assert_allclose(found, expected, rtol=3e-5)
    assert state_space.prior_of(params, 1).sample(KEY).shape == (1, 2)


# The particle filter


@every_quick_size
def test_the_particle_filter_is_unbiased_for_p_of_x(sizes: Any):
    case = state_space.make(*sizes)
    params, x = in_float32(case)
    guide, stats = state_space.proposal_of(case)
    prior, log_lik = state_space.prior_of(params, len(x)), state_space.log_lik_of(params)

    def weight(key: jax.Array) -> jax.Array:
        found = guide.filter(key, stats, prior, log_lik, x, num_particles=30)
        return jnp.sum(found.log_probs)

    log_w = many(weight, 4000) - state_space.exact_log_prob(case)
    assert oracles.standard_errors_off(np.exp(log_w), 1.0) < 4.0
    assert log_w.mean() < 0.0


@every_quick_size
def test_the_particle_filter_agrees_with_the_kalman_filter_at_each_frame(sizes: Any):
    case = state_space.make(*sizes)
    params, x = in_float32(case)
    guide, stats = state_space.proposal_of(case)
    prior, log_lik = state_space.prior_of(params, len(x)), state_space.log_lik_of(params)
    found = many(lambda key: guide.filter(key, stats, prior, log_lik, x, num_particles=2000), 40)
    exact = state_space.kalman(case)
    assert found.particles.shape == (40, len(x), 2000, len(params["start"]))
    of_runs = found.particles.mean(axis=2)
    np.testing.assert_allclose(found.log_probs.mean(axis=0), exact.log_probs, atol=0.03)
    np.testing.assert_allclose(of_runs.mean(axis=0), exact.means, atol=0.03)
    for t, cov in enumerate(exact.covs):
        own = np.cov(found.particles[:, t].reshape(-1, len(cov)), rowvar=False)
        np.testing.assert_allclose(own, cov.squeeze(), atol=0.06)


def test_a_filter_without_particles_is_refused():
    case = state_space.make(*SIZES[0])
    params, x = in_float32(case)
    guide, stats = state_space.guide_of(params)
    prior, log_lik = state_space.prior_of(params, len(x)), state_space.log_lik_of(params)
    with pytest.raises(ValueError, match="num_particles is 0; it must be at least 1"):
        guide.filter(KEY, stats, prior, log_lik, x, num_particles=0)
