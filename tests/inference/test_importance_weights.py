"""Statistics of log-weights against float64, and the tail's shape against known tails."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aevb.inference import importance_weights


def log_normal_weights(*shape: int, seed: int = 0, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-500.0, std, size=shape).astype(np.float32)


class Summary(NamedTuple):
    """The statistics of weights."""

    log_mean: jax.Array
    standard_error: jax.Array
    effective_sample_size: jax.Array
    pareto_k: jax.Array


@partial(jax.jit, static_argnames="num_weights")
def summary_of(running: importance_weights.Running, num_weights: int) -> Summary:
    return Summary(
        *importance_weights.log_mean(running, num_weights),
        importance_weights.effective_sample_size(running),
        importance_weights.pareto_k(running.largest),
    )


def summary_of_all(log_w: np.ndarray) -> Summary:
    return summary_of(of(np.asarray(log_w, np.float32)), len(log_w))


add, of = jax.jit(importance_weights.add), jax.jit(importance_weights.of)


@pytest.mark.parametrize("sizes", [(1000,), (500, 500), (1, 998, 1), (333, 333, 334)])
def test_the_log_mean_weight_and_its_error_are_those_of_float64_for_any_chunking(
    sizes: tuple[int, ...],
):
    """The value exp(-500) is 0 in float32, and so is the naive mean of such weights."""
    log_w = log_normal_weights(1000)
    running = importance_weights.none_of(1000)
    for chunk in np.split(log_w, np.cumsum(sizes)[:-1]):
        running = add(running, chunk)
    value, error, found_ess, _ = summary_of(running, 1000)
    exact = log_w.astype(np.float64)
    assert value == pytest.approx(np.logaddexp.reduce(exact) - math.log(1000), abs=1e-3)
    w = np.exp(exact + 500.0)
    relative_error = np.std(w, ddof=1) / np.mean(w) / math.sqrt(1000)
    assert error == pytest.approx(relative_error, rel=1e-3)
    ess = np.sum(w) ** 2 / np.sum(w**2)
    assert found_ess == pytest.approx(ess, rel=1e-3)
    np.testing.assert_array_equal(
        running.largest, np.sort(log_w)[::-1][: importance_weights.tail_size(1000) + 1]
    )


def test_the_standard_error_is_the_spread_of_the_log_means():
    def summary(log_w: jax.Array) -> tuple[jax.Array, jax.Array]:
        return importance_weights.log_mean(importance_weights.of(log_w), 2000)

    value, error = jax.jit(jax.vmap(summary))(log_normal_weights(1000, 2000, std=0.7))
    scores = (np.asarray(value, np.float64) - (-500.0 + 0.5 * 0.7**2)) / np.asarray(error)
    assert abs(np.mean(scores)) < 4 / math.sqrt(1000)
    assert abs(np.std(scores) - 1.0) < 4 / math.sqrt(2000)


def test_equal_weights_have_a_full_effective_sample_size_and_no_standard_error():
    value, error, ess, k = summary_of_all(np.full(1000, -80.0))
    assert value == pytest.approx(-80.0, abs=1e-4)
    assert error < 1e-3
    assert ess == pytest.approx(1000, rel=1e-4)
    assert k == 0.0


def test_one_dominant_weight_has_an_effective_sample_size_of_1():
    number = np.arange(1000)
    value, error, ess, k = summary_of_all(np.where(number == 17, 0.0, -200.0 - number))
    assert ess == pytest.approx(1.0)
    assert value == pytest.approx(-math.log(1000))
    assert error == pytest.approx(1.0, rel=1e-3)
    assert 1.0 < k < math.inf


@pytest.mark.parametrize("sizes", [(1000,), (333, 333, 334)])
def test_the_smoothed_mean_is_that_of_the_smoothed_weights_for_any_chunking(
    sizes: tuple[int, ...],
):
    """It needs no more memory than the plain mean: the sum of all but the tail, and the tail."""
    log_w = log_normal_weights(1000, std=2.0)
    running = importance_weights.none_of(1000)
    for chunk in np.split(log_w, np.cumsum(sizes)[:-1]):
        running = add(running, chunk)
    found = jax.jit(importance_weights.log_mean_smoothed, static_argnums=1)(running, 1000)
    smoothed = np.asarray(jax.jit(importance_weights.pareto_smoothed)(log_w), np.float64)
    assert found == pytest.approx(np.logaddexp.reduce(smoothed) - math.log(1000), abs=1e-3)


def test_smoothing_changes_only_the_tail_keeps_its_order_and_never_exceeds_the_largest_weight():
    log_w = log_normal_weights(1000, std=3.0)
    smoothed = np.asarray(jax.jit(importance_weights.pareto_smoothed)(log_w))
    order = np.argsort(log_w)[::-1]
    num_tail = importance_weights.tail_size(1000)
    np.testing.assert_array_equal(smoothed[order[num_tail:]], log_w[order[num_tail:]])
    tail = smoothed[order[:num_tail]]
    assert np.all(np.diff(tail) <= 0.0)
    assert tail[0] <= np.max(log_w)
    assert np.any(tail != log_w[order[:num_tail]])


@pytest.mark.parametrize("weights", [np.full(100, -3.0), np.arange(20.0)])
def test_equal_weights_and_a_tail_of_fewer_than_five_are_not_smoothed(weights: np.ndarray):
    log_w = jnp.float32(weights)
    np.testing.assert_array_equal(importance_weights.pareto_smoothed(log_w), log_w)


def test_smoothing_reduces_the_error_of_a_mean_of_heavy_tailed_weights():
    """The weights are Pareto distributed with shape k = 0.6, so their variance is infinite."""
    log_w = 0.6 * np.random.default_rng(0).exponential(size=(500, 1000)).astype(np.float32)

    def both(log_w: jax.Array) -> tuple[jax.Array, jax.Array]:
        running = importance_weights.of(log_w)
        plain, _ = importance_weights.log_mean(running, 1000)
        return plain, importance_weights.log_mean_smoothed(running, 1000)

    plain, smoothed = (
        np.sqrt(np.mean(np.square(np.asarray(each, np.float64) + math.log(0.4))))
        for each in jax.jit(jax.vmap(both))(log_w)
    )
    assert smoothed < 0.9 * plain


@pytest.mark.parametrize(
    ("num_weights", "threshold"), [(100, 0.5), (1000, 2 / 3), (2155, 0.7), (10**6, 0.7)]
)
def test_the_threshold_of_pareto_k_rises_with_the_number_of_weights_up_to_0_7(
    num_weights: int, threshold: float
):
    found = importance_weights.pareto_k_threshold(num_weights)
    assert found == pytest.approx(threshold, abs=1e-4)


pareto_k_of_each = jax.jit(jax.vmap(importance_weights.pareto_k))


@pytest.mark.parametrize("exact", [-0.3, 0.2, 0.5, 0.7, 1.0])
def test_pareto_k_is_the_shape_of_a_generalized_pareto_tail(exact: float):
    """The prior of k counts as 10 excesses with k = 0.5; 0.02 allows for the fit's own bias."""
    num_weights, num_sets = 10_000, 400
    num_tail = importance_weights.tail_size(num_weights)
    draws = scipy.stats.genpareto(exact).rvs(size=(num_sets, num_tail), random_state=0)
    largest = np.log(1.0 + np.sort(draws, axis=1)[:, ::-1])
    largest = np.concatenate([largest, np.zeros((num_sets, 1))], axis=1).astype(np.float32)
    fitted = np.asarray(pareto_k_of_each(largest), np.float64)
    expected = (num_tail * exact + 5.0) / (num_tail + 10.0)
    assert abs(np.mean(fitted) - expected) < 4 * np.std(fitted) / math.sqrt(num_sets) + 0.02
    if exact > -0.5:  # the spread of maximum likelihood, which this method has for large tails
        assert np.std(fitted) == pytest.approx((1.0 + exact) / math.sqrt(num_tail), rel=0.25)


def test_pareto_k_of_gaussian_weights_is_their_ratio_of_variances():
    """For q = N(0, s^2) and p = N(0, 1), the density ratio has a tail of index 1 - s^2."""
    num_weights = 100_000
    z = np.random.default_rng(0).normal(size=num_weights)
    for variance, low, high in ((0.3, 0.45, 1.0), (2.0, -math.inf, 0.2)):
        log_w = 0.5 * (1.0 - variance) * z**2  # log p - log q at sqrt(variance) z
        assert low < summary_of_all(log_w).pareto_k < high


def test_pareto_k_does_not_depend_on_the_scale_of_the_weights():
    log_w = np.round(log_normal_weights(1000, std=2.0) + 500.0, 2)
    first, moved = (summary_of_all(log_w + shift).pareto_k for shift in (0.0, 64.0))
    assert first == pytest.approx(float(moved), abs=1e-3)


@pytest.mark.parametrize("num_weights", [2, 20])
def test_too_few_weights_have_no_tail(num_weights: int):
    assert math.isnan(summary_of_all(np.arange(num_weights)).pareto_k)


@pytest.mark.parametrize(("num_weights", "size"), [(100, 20), (225, 45), (900, 90), (10_000, 300)])
def test_the_tail_is_a_fifth_of_few_weights_and_three_roots_of_many(num_weights: int, size: int):
    assert importance_weights.tail_size(num_weights) == size
