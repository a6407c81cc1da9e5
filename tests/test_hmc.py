"""HMC and annealing: what they leave invariant, what they adapt, and what their weights average."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import standard_errors_off

from aevb import hmc
from aevb.annealing import Path, anneal, pilot, sigmoid_schedule

PRECISION = jnp.float32([[1.0, 0.6], [0.6, 4.0]])
COVARIANCE = np.linalg.inv(np.asarray(PRECISION, np.float64))


def log_normal(z: jax.Array) -> jax.Array:
    """N(0, COVARIANCE), not normalised."""
    return -0.5 * z @ PRECISION @ z


def log_logistic(z: jax.Array) -> jax.Array:
    return jnp.sum(-z - 2.0 * jax.nn.softplus(-z))


# Transitions


@pytest.mark.parametrize("step_size", [0.5, 3.0, 6.0])
def test_a_transition_leaves_its_target_invariant_at_any_step_size(step_size: float):
    """Long steps are rejected often, which alone keeps them right."""
    start = jnp.asarray(scipy.stats.logistic.rvs(size=(20_000, 1), random_state=0), jnp.float32)

    @jax.jit
    def run(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            step_length = jnp.float32(step_size)
            return hmc.move(key, z, step_length, log_density=log_logistic, num_leapfrog=3)

        return jax.lax.scan(step, z, jax.random.split(jax.random.key(0), 5))

    end, acceptance = run(start)
    assert scipy.stats.kstest(end[:, 0], scipy.stats.logistic.cdf).pvalue > 1e-4
    assert np.corrcoef(start[:, 0], end[:, 0])[0, 1] < 0.5  # they did move
    assert (np.mean(acceptance) > 0.9) == (step_size == 0.5)


def test_a_transition_mixes_on_a_gaussian_whose_period_is_the_trajectory():
    """2 pi / 10 steps of 10 bring a standard normal back to where it was, without the jitter."""
    start = jnp.full((2000, 1), 2.0)
    end, _ = hmc.move(
        jax.random.key(0),
        start,
        jnp.float32(2.0 * math.pi / 10.0),
        log_density=lambda z: -0.5 * jnp.sum(z**2),
        num_leapfrog=10,
    )
    assert np.std(end) > 0.4


@partial(jax.jit, static_argnames="target")
def sampled(key: jax.Array, start: jax.Array, target: float = 0.8) -> hmc.Chains:
    settings = hmc.Settings(num_leapfrog=5, num_warmup=200, target_acceptance=target)
    return hmc.sample(key, start, log_normal, num_samples=500, settings=settings)


def test_chains_from_afar_have_the_mean_and_covariance_of_their_target():
    chains = sampled(jax.random.key(1), jnp.full((64, 2), 8.0))
    samples = np.asarray(chains.samples, np.float64)
    assert samples.shape == (64, 500, 2)
    assert standard_errors_off(np.mean(samples, axis=1), 0.0) < 4
    products = np.einsum("cli,clj->cij", samples, samples) / 500
    assert standard_errors_off(products, COVARIANCE) < 4
    assert np.max(np.abs(np.asarray(hmc.r_hat(chains)) - 1.0)) < 0.02


def test_the_step_size_is_adapted_to_the_target_acceptance():
    """Near the longest stable step acceptance falls off a cliff, so 0.65 is met less closely."""
    low, high = (sampled(jax.random.key(2), jnp.zeros((32, 2)), target) for target in (0.65, 0.9))
    assert low.acceptance == pytest.approx(0.65, abs=0.12)
    assert high.acceptance == pytest.approx(0.9, abs=0.03)
    assert low.step_size > 1.1 * high.step_size


def test_r_hat_tells_chains_that_do_not_agree():
    def log_density(z: jax.Array) -> jax.Array:
        return jnp.logaddexp(-0.5 * jnp.sum((z - 8.0) ** 2), -0.5 * jnp.sum((z + 8.0) ** 2))

    start = jnp.where(jnp.arange(16) % 2 == 0, 8.0, -8.0)[:, None]
    settings = hmc.Settings(num_leapfrog=5, num_warmup=100)
    chains = hmc.sample(jax.random.key(0), start, log_density, num_samples=200, settings=settings)
    assert hmc.r_hat(chains)[0] > 3.0


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.5])
def test_the_effective_sample_size_of_an_autoregression_is_the_closed_form(correlation: float):
    """(1 - rho) / (1 + rho) of the samples, where neighbours have the correlation rho."""
    rng = np.random.default_rng(0)
    x = np.zeros((8, 4000, 2))
    x[:, 0] = rng.normal(size=(8, 2))
    for step in range(1, x.shape[1]):
        noise = np.sqrt(1.0 - correlation**2) * rng.normal(size=(8, 2))
        x[:, step] = correlation * x[:, step - 1] + noise
    chains = hmc.Chains(jnp.asarray(x, jnp.float32), jnp.float32(1.0), jnp.float32(1.0))
    expected = 32_000 * (1.0 - correlation) / (1.0 + correlation)
    np.testing.assert_allclose(hmc.effective_sample_size(chains), expected, rtol=0.1)


def test_the_effective_sample_size_keeps_its_axis_and_falls_where_chains_disagree():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 500, 1)) + np.array([0.0, 0.0, 5.0, 5.0])[:, None, None]
    chains = hmc.Chains(jnp.asarray(x, jnp.float32), jnp.float32(1.0), jnp.float32(1.0))
    sizes = hmc.effective_sample_size(chains)
    assert sizes.shape == (1,)
    assert sizes[0] < 20.0


# Annealing


@pytest.mark.parametrize("num_temps", [2, 5, 100])
def test_the_schedule_is_an_even_sigmoid_from_0_to_1(num_temps: int):
    betas = np.asarray(sigmoid_schedule(num_temps), np.float64)
    assert betas.shape == (num_temps + 1,)
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    assert np.all(np.diff(betas) > 0)
    sigmoids = scipy.special.expit(np.linspace(-4.0, 4.0, num_temps + 1))
    expected = (sigmoids - sigmoids[0]) / (sigmoids[-1] - sigmoids[0])
    np.testing.assert_allclose(betas, expected, atol=1e-6)


def test_the_schedule_refuses_a_path_without_an_inner_point():
    with pytest.raises(ValueError, match="num_temps is 1"):
        sigmoid_schedule(1)


# From 3 N(1, 1) to 5 N(-1, 0.25), neither of which is normalised.
PATH = Path(
    log_q=lambda z: math.log(3.0) + jnp.sum(-0.5 * (z - 1.0) ** 2),
    log_p=lambda z: math.log(5.0) + jnp.sum(-2.0 * (z + 1.0) ** 2),
)
LOG_RATIO = math.log(5.0 / 3.0) + math.log(0.5)
NORMALS = {"forwards": ((1.0, 1.0), 1.0), "backwards": ((-1.0, 0.5), -1.0)}


@pytest.mark.parametrize("direction", NORMALS)
@pytest.mark.parametrize("step_size", [0.05, 0.7])
def test_annealed_weights_average_to_the_ratio_of_the_normalisers(direction: str, step_size: float):
    """However badly the chains move; with better moves the weights only vary less."""
    (mean, std), sign = NORMALS[direction]
    start = mean + std * jax.random.normal(jax.random.key(0), (20_000, 1))
    betas = sigmoid_schedule(20)[:: int(sign)]
    annealed = jax.jit(partial(anneal, path=PATH, num_leapfrog=3))(
        jax.random.key(1), start, betas=betas, step_sizes=jnp.full(21, step_size)
    )
    ratios = np.exp(np.asarray(annealed.log_weights, np.float64) - sign * LOG_RATIO)
    assert standard_errors_off(ratios, 1.0) < 4
    assert 0.5 < annealed.acceptance <= 1.0


def test_better_moves_and_more_temperatures_make_the_weights_vary_less():
    start = 1.0 + jax.random.normal(jax.random.key(0), (5000, 1))

    def spread(num_temps: int, step_size: float) -> float:
        step_sizes = jnp.full(num_temps + 1, step_size)
        betas = sigmoid_schedule(num_temps)
        key = jax.random.key(1)
        run = jax.jit(partial(anneal, path=PATH, num_leapfrog=3))
        annealed = run(key, start, betas=betas, step_sizes=step_sizes)
        return float(np.std(annealed.log_weights))

    assert spread(40, 0.5) < 0.7 * spread(10, 0.5)
    assert spread(40, 0.5) < 0.7 * spread(40, 0.01)


def test_the_pilots_steps_give_other_chains_the_target_acceptance_all_along_the_path():
    """From a density twenty times as wide as the last, so one step size could not do."""
    path = Path(lambda z: -0.5 * jnp.sum(z**2), lambda z: -0.5 * 400.0 * jnp.sum(z**2))
    betas = sigmoid_schedule(300)
    settings = hmc.Settings(num_leapfrog=5, target_acceptance=0.8)
    pilot_start, start = jax.random.normal(jax.random.key(0), (2, 64, 3))
    step_sizes = pilot(jax.random.key(1), pilot_start, path, betas, settings)
    assert step_sizes.shape == (301,)
    assert step_sizes[0] > 10.0 * step_sizes[-1]

    def acceptance(slice_: slice) -> float:
        return float(
            anneal(
                jax.random.key(2),
                start / jnp.sqrt(1.0 + betas[slice_][0] * 399.0),
                path,
                betas[slice_],
                step_sizes[slice_],
                num_leapfrog=5,
            ).acceptance
        )

    for part in (slice(0, 100), slice(100, 200), slice(200, 301)):
        assert acceptance(part) == pytest.approx(0.8, abs=0.08)
