"""Algorithm 1: its updates against exact gradients, and its end against the exact optimum."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import linear_models
import numpy as np
import oracles
import pytest
from linear_models import (
    NUM_DATA,
    Params,
    as_float64,
    assert_8_times_the_variance,
    assert_equal,
    batch_of,
    exact_bound,
    exact_log_prob,
    gaussian_batch,
    gradient_of,
    linear_vae,
    pca_data,
    trained,
    updates_of,
)
from oracles import standard_errors_off

from aevb import optimizers
from aevb.algorithms import aevb
from aevb.algorithms.base import Algorithm, Batch
from aevb.losses import BOUNDS
from aevb.vae import VAE


def make(model: VAE, *, bound: str = "sgvb_b", **options: Any) -> Algorithm:
    return linear_models.make(aevb.make, model, bound=BOUNDS[bound], **options)


# The update


@pytest.mark.parametrize("bound", ["sgvb_a", "sgvb_b"])
def test_the_update_is_unbiased_for_the_gradient_of_the_exact_bound(bound: str):
    """With a step size of 1, the mean step is the gradient per datapoint, in phi and theta."""
    algorithm = make(linear_vae(), bound=bound)
    state, batch = algorithm.init(jax.random.key(0)), gaussian_batch()
    params, x = as_float64((state.params, batch.x))
    steps, objectives = updates_of(algorithm, state, batch)
    assert standard_errors_off(objectives, exact_bound(params, x)) < 4
    exact = gradient_of(lambda params: exact_bound(params, x), params)
    misses = jax.tree.map(standard_errors_off, steps, exact)
    assert max(jax.tree.leaves(misses)) < 4, misses


def test_the_weight_of_the_kl_follows_its_schedule():
    """The objective of the same state and noise is linear in the weight."""
    batch = gaussian_batch()

    def objective(weight: float | None, step: int) -> float:
        schedule = None if weight is None else (lambda step: weight * step.astype(jnp.float32))
        algorithm = make(linear_vae(), kl_weight=schedule)
        state = algorithm.init(jax.random.key(0))._replace(step=jnp.int32(step))
        return float(algorithm.update(jax.random.key(1), state, batch)[1]["objective"])

    whole, half, none = objective(None, 5), objective(0.1, 5), objective(0.1, 0)
    assert objective(0.2, 5) == pytest.approx(whole, rel=1e-6)
    assert whole < half < none
    assert half == pytest.approx((whole + none) / 2, rel=1e-5)


def test_an_update_counts_one_step_and_does_not_change_extra():
    algorithm = make(linear_vae())
    state = algorithm.init(jax.random.key(0))
    assert state.step == 0
    assert state.step.dtype == jnp.int32
    state, metrics = algorithm.update(jax.random.key(1), state, gaussian_batch())
    assert state.step == 1
    assert state.step.dtype == jnp.int32
    assert state.extra == ()
    assert metrics["objective"].shape == ()


def test_the_update_is_a_pure_function():
    """The same arguments give the same result, to the bit, and are not modified."""
    algorithm = make(linear_vae(), weight_decay=0.1)
    state, batch = algorithm.init(jax.random.key(0)), gaussian_batch()
    before = jax.tree.map(np.array, state)
    first = algorithm.update(jax.random.key(1), state, batch)
    assert_equal(state, before)
    assert_equal(first, algorithm.update(jax.random.key(1), state, batch))
    other, _ = algorithm.update(jax.random.key(2), state, batch)
    assert np.any(first[0].params["decoder"]["kernel"] != other.params["decoder"]["kernel"])


def bounds_of(algorithm: Algorithm, batch: Batch) -> np.ndarray:
    """Returns the metric of many updates from the same state, [NUM_DRAWS]."""
    return updates_of(algorithm, algorithm.init(jax.random.key(0)), batch)[1]


def test_datapoints_of_a_minibatch_have_their_own_noise():
    """The mean bound of 8 copies of a datapoint therefore has an eighth of the variance of one."""
    point = np.asarray(gaussian_batch().x)[:1]
    one, eight = (
        bounds_of(make(linear_vae()), batch_of(np.tile(point, (copies, 1)))) for copies in (1, 8)
    )
    assert_8_times_the_variance(one, eight)


def test_num_samples_is_the_number_of_samples_of_each_datapoint():
    one, eight = (
        bounds_of(make(linear_vae(), num_samples=num_samples), gaussian_batch())
        for num_samples in (1, 8)
    )
    assert_8_times_the_variance(one, eight)


# The prior on the parameters


def prior_steps(std: float, num_data: int, *, on_biases: bool = True) -> tuple[Params, Params]:
    """Returns the parameters, and what the prior adds to a step of plain gradient ascent."""
    batch = gaussian_batch()
    decay = optimizers.prior_decay(std, num_data)
    mask = None if on_biases else optimizers.all_but_biases
    with_prior = make(linear_vae(), weight_decay=decay, mask=mask)
    without = make(linear_vae())
    state = with_prior.init(jax.random.key(0))
    pulled, free = (
        as_float64(algorithm.update(jax.random.key(1), state, batch)[0].params)
        for algorithm in (with_prior, without)
    )
    return as_float64(state.params), jax.tree.map(np.subtract, pulled, free)


@pytest.mark.parametrize(("std", "num_data"), [(1.0, 10), (0.5, 20)])
def test_the_prior_changes_every_parameter_by_its_value_over_n(std: float, num_data: int):
    """The gradient of log N(theta; 0, std^2) over N datapoints is -theta / (std^2 N)."""
    params, steps = prior_steps(std, num_data)
    jax.tree.map(
        lambda theta, step: np.testing.assert_allclose(
            step, -theta / (std**2 * num_data), atol=1e-6
        ),
        params,
        steps,
    )
    for part in ("encoder", "decoder"):
        assert np.max(np.abs(steps[part]["kernel"])) > 1e-3
        assert np.max(np.abs(steps[part]["bias"])) > 1e-3


def test_a_prior_without_biases_does_not_change_biases():
    params, steps = prior_steps(1.0, NUM_DATA, on_biases=False)
    for part in ("encoder", "decoder"):
        np.testing.assert_allclose(steps[part]["bias"], 0.0, atol=1e-6)
        kernel = params[part]["kernel"]
        np.testing.assert_allclose(steps[part]["kernel"], -kernel / NUM_DATA, atol=1e-6)


# The paper's Adagrad


def test_adagrad_does_not_change_a_parameter_whose_gradient_is_0():
    """A pixel that is always 0 has no gradient in the encoder: 0/0 in Adagrad without epsilon."""
    algorithm = aevb.make(
        linear_vae(),
        optimizers.make("adagrad", 0.1),
        bound=BOUNDS["sgvb_b"],
    )
    update = jax.jit(algorithm.update)
    state = algorithm.init(jax.random.key(0))
    before = as_float64(state.params)
    batch = batch_of(np.asarray(gaussian_batch().x) * [1.0, 0.0, 1.0, 1.0])
    for step in range(3):
        state, metrics = update(jax.random.key(step), state, batch)
        assert np.isfinite(metrics["objective"])
    moved = jax.tree.map(lambda new, old: np.asarray(new) != old, state.params, before)
    kernel_moved = moved["encoder"]["kernel"]
    assert not np.any(kernel_moved[1])
    assert np.all(kernel_moved[[0, 2, 3]])
    assert np.all(moved["decoder"]["bias"])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


# Convergence


@pytest.mark.parametrize("bound", [pytest.param("sgvb_a", marks=pytest.mark.slow), "sgvb_b"])
def test_aevb_reaches_the_maximum_likelihood_of_probabilistic_pca(bound: str):
    """Encoder and decoder are linear, so the best bound is the best log p(X), in closed form."""
    x = pca_data()
    optimum = oracles.pca_log_lik(x, 2)
    params = trained(partial(aevb.make, bound=BOUNDS[bound]), x)
    log_lik = exact_log_prob(params, x)
    assert optimum - 0.001 < log_lik <= optimum
    assert log_lik - 0.02 < exact_bound(params, x) <= log_lik
