"""Monte-Carlo EM: chains against exact posteriors, ascents against NumPy, and the optimum."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from linear_models import (
    NUM_DATA,
    Params,
    as_float64,
    assert_equal,
    exact_log_prob,
    gaussian_batch,
    gradient_of,
    linear_gaussian,
    linear_vae,
    make,
    pca_data,
    trained,
)
from oracles import standard_errors_off

from aevb import optimizers
from aevb.algorithms import mcem
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.training.loop import LoopKeys, make_advance, train_to

model = partial(linear_vae, encoder="none")


def start_of(algorithm: Algorithm) -> TrainState:
    return jax.jit(algorithm.init)(jax.random.key(0))


@cache
def advance_of(algorithm: Algorithm, batch_size: int) -> jax.stages.Wrapped:
    return make_advance(algorithm, lambda key, x: x, batch_size=batch_size)


def steps_on(
    algorithm: Algorithm, state: TrainState, x: np.ndarray, num_steps: int, *, batch_size: int
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs more steps and returns the state, and the means of the metrics over them."""
    advance = advance_of(algorithm, batch_size)
    keys = LoopKeys(*jax.random.split(jax.random.key(1)))
    state = jax.tree.map(jnp.array, state)  # a copy, because `advance` donates its input
    return train_to(advance, keys, jnp.float32(x), state, num_steps)


# The E step


NUM_COPIES = 300


@cache
def settled() -> tuple[np.ndarray, TrainState, dict[str, jax.Array]]:
    """Runs chains of 4 datapoints, each copied, with theta held fixed.

    Returns x [4, D], the state after 1500 minibatches, and the mean metrics of the last 1000.
    """
    points = np.asarray(gaussian_batch(size=4).x, np.float64)
    x = np.repeat(points, NUM_COPIES, axis=0)
    algorithm = make(mcem.make, model(), num_data=len(x), step_size=0.0, num_updates=1)
    start = start_of(algorithm)
    state, _ = steps_on(algorithm, start, x, 500, batch_size=len(x) // 4)
    assert_equal(state.params, start.params)
    state, metrics = steps_on(algorithm, state, x, 1000, batch_size=len(x) // 4)
    return points, state, metrics


def test_chains_have_the_exact_posterior_of_their_own_datapoint():
    """Mean and covariance agree, though minibatches are shuffled and the step size is adapted."""
    points, state, _ = settled()
    truth = linear_gaussian(as_float64(state.params))
    chains = np.asarray(state.extra.z, np.float64).reshape(len(points), NUM_COPIES, -1)
    for x, z in zip(points, chains, strict=True):
        mean, cov = truth.posterior(x)
        assert standard_errors_off(z, mean) < 4
        products = np.einsum("ni,nj->nij", z - mean, z - mean)
        assert standard_errors_off(products, cov) < 4
    means = np.array([truth.posterior(x)[0] for x in points])
    assert np.min(np.ptp(means, axis=0)) > 0.5  # so that a swapped chain would be noticed


def test_the_acceptance_settles_at_its_target():
    _, state, metrics = settled()
    assert metrics["acceptance"] == pytest.approx(0.9, abs=0.02)
    assert metrics["step_size"] > 2.0 * mcem.FIRST_STEP  # it was adapted from its first value
    step_size = np.exp(state.extra.log_step_size)
    assert step_size == pytest.approx(np.asarray(metrics["step_size"]), rel=0.05)


@pytest.mark.slow
def test_the_acceptance_settles_at_another_target_while_theta_is_trained():
    x = pca_data()
    algorithm = make(mcem.make, model(6, 2), num_data=len(x), step_size=0.01, target_acceptance=0.7)
    state, _ = steps_on(algorithm, start_of(algorithm), x, 1000, batch_size=50)
    _, metrics = steps_on(algorithm, state, x, 2000, batch_size=50)
    assert metrics["acceptance"] == pytest.approx(0.7, abs=0.02)


def some_of(x: np.ndarray, indices: list[int]) -> Batch:
    return Batch(jnp.float32(x[indices]), jnp.int32(indices))


def test_only_the_chains_of_the_minibatch_move():
    x = np.asarray(gaussian_batch(size=10).x)
    algorithm = make(mcem.make, model(), num_data=NUM_DATA)
    start = start_of(algorithm)
    state, _ = algorithm.update(jax.random.key(1), start, some_of(x, [7, 2, 5]))
    moved = np.any(np.asarray(state.extra.z) != np.asarray(start.extra.z), axis=1)
    assert np.flatnonzero(moved).tolist() == [2, 5, 7]


def test_a_chain_starts_each_update_at_its_last_position():
    """With a tiny step size the chain stays at its last position through all updates."""
    batch = some_of(np.asarray(gaussian_batch(size=10).x), [7, 2, 5])
    algorithm = make(mcem.make, model(), num_data=NUM_DATA)
    state = start_of(algorithm)
    for number in range(3):
        state, _ = algorithm.update(jax.random.key(number), state, batch)
    z = np.array(state.extra.z)
    state = state._replace(extra=state.extra._replace(log_step_size=jnp.float32(-20.0)))
    for number in range(3):
        state, metrics = algorithm.update(jax.random.key(number), state, batch)
        assert metrics["step_size"] < 1e-8
    np.testing.assert_allclose(state.extra.z, z, atol=1e-5)
    assert len({tuple(chain) for chain in z.tolist()}) == 10


def test_chains_start_from_the_prior():
    algorithm = make(mcem.make, model(), num_data=5000)
    z = np.asarray(start_of(algorithm).extra.z, np.float64)
    assert standard_errors_off(z, 0.0) < 4
    assert standard_errors_off(np.einsum("ni,nj->nij", z, z), np.eye(z.shape[1])) < 4


# The M step


def log_joint(params: Params, x: np.ndarray, z: np.ndarray) -> float:
    """Returns the mean over x [M, D] and z [M, Z] of log p(x, z)."""
    weights, bias, noise_var = linear_gaussian(params)
    log_normal = oracles.expected_log_normal
    cov = np.zeros((1, 1))
    return float(
        np.mean(
            [
                log_normal(point - bias - weights @ at, cov, np.log(noise_var))
                + log_normal(at, cov, np.zeros(len(at)))
                for point, at in zip(x, z, strict=True)
            ]
        )
    )


@pytest.mark.parametrize("num_updates", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_theta_takes_num_updates_gradient_steps_on_the_same_sample(num_updates: int):
    """The oracle ascends log p(x, z) plus the prior over N, by plain gradient steps in float64."""
    batch, step_size, std, num_data = gaussian_batch(), 0.05, 0.5, 8
    algorithm = make(
        mcem.make, model(), num_data=num_data, step_size=step_size, num_updates=num_updates,
        weight_decay=optimizers.prior_decay(std, num_data),
    )  # fmt: skip
    start = start_of(algorithm)
    state, metrics = algorithm.update(jax.random.key(1), start, batch)
    assert state.step == 1
    params, x, z = as_float64((start.params, batch.x, state.extra.z[: len(batch.x)]))
    assert metrics["objective"] == pytest.approx(log_joint(params, x, z), rel=1e-5)
    for _ in range(num_updates):
        gradient = gradient_of(lambda params: log_joint(params, x, z), params)
        params = jax.tree.map(
            lambda theta, g: theta + step_size * (g - theta / (std**2 * num_data)),
            params,
            gradient,
        )
    jax.tree.map(
        lambda theta, expected: np.testing.assert_allclose(theta, expected, atol=2e-6),
        as_float64(state.params),
        params,
    )


# The optimum


@pytest.mark.slow
def test_mcem_and_em_reach_the_maximum_likelihood_of_probabilistic_pca():
    """EM ends 0 and Monte-Carlo EM 0.003 nats per datapoint below it (noise of its z)."""
    x = pca_data()
    optimum = oracles.pca_log_lik(x, 2)
    assert np.mean(oracles.pca_em(x, 2).log_prob(x)) == pytest.approx(optimum, abs=1e-9)
    by_mcem = trained(mcem.make, x, encoder="none", num_data=len(x))
    assert optimum - 0.005 < exact_log_prob(by_mcem, x) <= optimum
