"""HMC and annealing: invariance, adaptation, and the average of the weights."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from marks import slow_but
from oracles import standard_errors_off

from aevb.inference import hmc
from aevb.inference.annealed_importance_sampling import Path, anneal, pilot, sigmoid_schedule

PRECISION = jnp.float32([[1.0, 0.6], [0.6, 4.0]])
COVARIANCE = np.linalg.inv(np.asarray(PRECISION, np.float64))


def log_normal(z: jax.Array) -> jax.Array:
    """Returns log N(0, COVARIANCE), not normalized."""
    return -0.5 * z @ PRECISION @ z


def log_logistic(z: jax.Array) -> jax.Array:
    return jnp.sum(-z - 2.0 * jax.nn.softplus(-z))


# Transitions


@jax.jit
def five_moves(z: jax.Array, step_size: jax.Array) -> tuple[jax.Array, jax.Array]:
    def step(z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        z, acceptance, _ = hmc.move(key, z, step_size, log_density=log_logistic, num_leapfrog=3)
        return z, acceptance

    return jax.lax.scan(step, z, jax.random.split(jax.random.key(0), 5))


@pytest.mark.parametrize("step_size", [0.5, 3.0, 6.0])
def test_an_hmc_transition_leaves_its_target_invariant_at_any_step_size(step_size: float):
    """Long steps are often rejected, and the rejection alone keeps the target invariant."""
    start = np.asarray(scipy.stats.logistic.rvs(size=(20_000, 1), random_state=0), np.float32)
    end, acceptance = five_moves(start, jnp.float32(step_size))
    end = np.asarray(end)
    assert scipy.stats.kstest(end[:, 0], scipy.stats.logistic.cdf).pvalue > 1e-4
    assert np.corrcoef(start[:, 0], end[:, 0])[0, 1] < 0.5  # the chains moved
    assert (np.mean(acceptance) > 0.9) == (step_size == 0.5)


def test_hmc_mixes_on_a_gaussian_whose_period_is_the_trajectory():
    """Without jitter, 10 steps of 2 pi / 10 bring a standard normal back to its start."""
    move = partial(hmc.move, log_density=lambda z: -0.5 * jnp.sum(z**2), num_leapfrog=10)
    start, step_size = np.full((2000, 1), 2.0, np.float32), np.float32(2.0 * math.pi / 10.0)
    end, *_ = jax.jit(move)(jax.random.key(0), start, step_size)
    assert np.std(end) > 0.4


def test_trajectories_whose_energy_error_exceeds_1000_nats_or_is_nan_are_counted():
    """In N(0, 1/400) a step of 10 is unstable; the energy grows by far more within three steps."""

    def narrow(z: jax.Array) -> jax.Array:
        return -200.0 * jnp.sum(z**2)

    def not_a_number(z: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(z[0]) < 1.0, narrow(z), jnp.nan)

    start = np.full((50, 1), 0.02, np.float32)
    for density, step_size, number in (
        (narrow, 0.05, 0),
        (narrow, 10.0, 50),
        (not_a_number, 3.0, 50),
    ):
        move = jax.jit(partial(hmc.move, log_density=density, num_leapfrog=3))
        end, acceptance, num_divergent = move(jax.random.key(0), start, np.float32(step_size))
        assert num_divergent == number
        if number:
            np.testing.assert_array_equal(end, start)
            assert acceptance == 0.0


def test_divergent_trajectories_after_the_warm_up_are_reported():
    """The log-density is NaN outside [-1, 1], so a trajectory that leaves it diverges."""

    def walled(z: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(z[0]) < 1.0, -0.5 * z[0] ** 2, jnp.nan)

    start, settings = jnp.zeros((20, 1)), hmc.Settings(num_leapfrog=5, num_warmup=20)
    run = jax.jit(lambda density: hmc.sample(
        jax.random.key(0), start, density, num_samples=50, settings=settings
    ), static_argnums=0)  # fmt: skip
    assert 20 < run(walled).num_divergent < 1000  # a single draw has at most 20
    assert run(lambda z: -0.5 * z[0] ** 2).num_divergent == 0


@jax.jit
def sampled(key: jax.Array, start: jax.Array, target: jax.Array) -> hmc.Chains:
    settings = hmc.Settings(num_leapfrog=5, num_warmup=200)._replace(target_acceptance=target)
    return hmc.sample(key, start, log_normal, num_samples=500, settings=settings)


def test_chains_started_far_away_have_the_mean_and_covariance_of_their_target():
    chains = sampled(jax.random.key(1), np.full((64, 2), 8.0, np.float32), np.float32(0.8))
    samples = np.asarray(chains.samples, np.float64)
    assert samples.shape == (64, 500, 2)
    assert standard_errors_off(np.mean(samples, axis=1), 0.0) < 4
    products = np.einsum("cli,clj->cij", samples, samples) / 500
    assert standard_errors_off(products, COVARIANCE) < 4
    assert np.max(np.abs(np.asarray(r_hat(chains.samples)) - 1.0)) < 0.02
    assert chains.num_divergent == 0


def test_the_step_size_is_adapted_to_the_target_acceptance():
    """Near the longest stable step, acceptance falls steeply, so 0.65 is met less closely."""
    start = np.zeros((64, 2), np.float32)
    low, high = (sampled(jax.random.key(2), start, np.float32(target)) for target in (0.65, 0.9))
    assert low.acceptance == pytest.approx(0.65, abs=0.12)
    assert high.acceptance == pytest.approx(0.9, abs=0.03)
    assert low.step_size > 1.1 * high.step_size


r_hat, effective_sample_size = jax.jit(hmc.r_hat), jax.jit(hmc.effective_sample_size)


def test_r_hat_and_the_effective_sample_size_detect_chains_that_disagree():
    """Both keep the axis of a single dimension."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 500, 1)) + np.array([0.0, 0.0, 8.0, 8.0])[:, None, None]
    reductions, sizes = r_hat(jnp.float32(x)), effective_sample_size(jnp.float32(x))
    assert reductions.shape == sizes.shape == (1,)
    assert reductions[0] > 1.5  # the normal scores of ranks are less far apart than the chains
    assert sizes[0] < 20.0


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.5])
def test_the_effective_sample_size_of_an_autoregression_is_the_closed_form(correlation: float):
    """The size is (1 - rho) / (1 + rho) of the samples, with correlation rho between neighbors."""
    rng = np.random.default_rng(0)
    x = np.zeros((8, 4000, 2))
    x[:, 0] = rng.normal(size=(8, 2))
    for step in range(1, x.shape[1]):
        noise = np.sqrt(1.0 - correlation**2) * rng.normal(size=(8, 2))
        x[:, step] = correlation * x[:, step - 1] + noise
    expected = 32_000 * (1.0 - correlation) / (1.0 + correlation)
    np.testing.assert_allclose(effective_sample_size(jnp.float32(x)), expected, rtol=0.1)


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


# The path leads from 3 N(1, 1) to 5 N(-1, 0.25), neither of which is normalized.
PATH = Path(
    log_q=lambda z: math.log(3.0) + jnp.sum(-0.5 * (z - 1.0) ** 2),
    log_p=lambda z: math.log(5.0) + jnp.sum(-2.0 * (z + 1.0) ** 2),
)
LOG_RATIO = math.log(5.0 / 3.0) + math.log(0.5)
annealed = jax.jit(partial(anneal, path=PATH, num_leapfrog=3))
NORMALS = {"forwards": ((1.0, 1.0), 1.0), "backwards": ((-1.0, 0.5), -1.0)}


@pytest.mark.parametrize("direction", NORMALS)
@pytest.mark.parametrize("step_size", slow_but([0.7], [0.05, 0.7]))
def test_annealed_weights_average_to_the_ratio_of_the_normalizers(direction: str, step_size: float):
    """The average is right even if the chains move badly; better moves only reduce the variance."""
    (mean, std), sign = NORMALS[direction]
    start = mean + std * jax.random.normal(jax.random.key(0), (20_000, 1))
    betas = sigmoid_schedule(20)[:: int(sign)]
    step_sizes = np.full(21, step_size, np.float32)
    found = annealed(jax.random.key(1), start, betas=betas, step_sizes=step_sizes)
    ratios = np.exp(np.asarray(found.log_weights, np.float64) - sign * LOG_RATIO)
    assert standard_errors_off(ratios, 1.0) < 4
    assert 0.5 < found.acceptance <= 1.0


@pytest.mark.slow
def test_better_moves_and_more_temperatures_make_the_weights_vary_less():
    start = np.random.default_rng(0).normal(1.0, size=(20_000, 1)).astype(np.float32)

    def spread(num_temps: int, step_size: float) -> float:
        step_sizes = np.full(num_temps + 1, step_size, np.float32)
        betas = sigmoid_schedule(num_temps)
        found = annealed(jax.random.key(1), start, betas=betas, step_sizes=step_sizes)
        return float(np.std(found.log_weights))

    assert spread(20, 0.5) < 0.7 * spread(5, 0.5)
    assert spread(20, 0.5) < 0.7 * spread(20, 0.01)


@pytest.mark.slow
def test_step_sizes_of_the_pilot_give_the_target_acceptance_at_every_temperature():
    """The first density is twenty times as wide as the last, so one step size would not suffice."""
    path = Path(lambda z: -0.5 * jnp.sum(z**2), lambda z: -0.5 * 400.0 * jnp.sum(z**2))
    betas = sigmoid_schedule(299)
    settings = hmc.Settings(num_leapfrog=5, target_acceptance=0.8)
    pilot_start, start = jax.random.normal(jax.random.key(0), (2, 64, 3))
    run_pilot = jax.jit(partial(pilot, path=path, betas=betas, settings=settings))
    step_sizes = run_pilot(jax.random.key(1), pilot_start)
    assert step_sizes.shape == (300,)
    assert step_sizes[0] > 10.0 * step_sizes[-1]
    run = jax.jit(partial(anneal, path=path, num_leapfrog=5))
    for part in (slice(0, 100), slice(100, 200), slice(200, 300)):
        there = start / np.sqrt(1.0 + float(betas[part][0]) * 399.0)
        found = run(jax.random.key(2), there, betas=betas[part], step_sizes=step_sizes[part])
        assert found.acceptance == pytest.approx(0.8, abs=0.08)
