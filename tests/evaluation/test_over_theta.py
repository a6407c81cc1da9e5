"""log p(x) over samples of theta: the error of datapoints that share them, and its diagnostics."""

import numpy as np
import pytest
from shared_theta import Shift, parts_of

from aevb.evaluation.log_likelihood import intervals_of, reason_to_distrust
from aevb.evaluation.over_theta import mean_with_fewer, over_theta, summarize


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_standard_error_is_the_spread_over_samples_of_theta_that_all_datapoints_share(
    noise: float,
):
    """Errors added as if independent are smaller by the root of the number of datapoints."""
    model, rng, num_sets = Shift(0.3, 100), np.random.default_rng(1), 400
    found = [over_theta(model.log_probs(rng, 50, noise)) for _ in range(num_sets)]
    spread = np.std([np.mean(each.value) for each in found], ddof=1)
    mean_square = np.mean([each.standard_error**2 for each in found])
    assert spread / mean_square**0.5 == pytest.approx(1.0, abs=4 / (2 * num_sets) ** 0.5)


def test_the_mean_over_theta_is_that_of_probabilities():
    model = Shift(0.3, 5)
    found = over_theta(model.log_probs(np.random.default_rng(0), 100_000))
    np.testing.assert_allclose(found.value, model.exact(), atol=0.02)
    assert np.mean(found.influence) == pytest.approx(1.0)


@pytest.mark.slow
def test_the_reported_bias_of_the_mean_over_theta_is_the_simulated_one():
    model, rng = Shift(0.3, 20), np.random.default_rng(2)
    found = [over_theta(model.log_probs(rng, 50)) for _ in range(2000)]
    off = np.array([np.mean(each.value - model.exact()) for each in found])
    error = np.std(off, ddof=1) / len(off) ** 0.5
    assert np.mean(off) == pytest.approx(np.mean([each.bias for each in found]), abs=4 * error)
    assert np.mean(off) < -4 * error


def test_the_mean_over_theta_of_probabilities_that_underflow_is_exact():
    log_probs = np.array([[-1.0, -2.0], [-1.5, -0.5], [-3.0, -1.0]])
    found, low = over_theta(log_probs), over_theta(log_probs - 5000.0)
    np.testing.assert_allclose(low.value, found.value - 5000.0)
    np.testing.assert_allclose(low.influence, found.influence)


def test_the_mean_with_fewer_theta_is_an_average_over_disjoint_sets_and_does_not_decrease():
    log_probs = Shift(1.0, 30).log_probs(np.random.default_rng(0), 64)
    halves = [np.mean(over_theta(half).value) for half in (log_probs[:32], log_probs[32:])]
    assert mean_with_fewer(log_probs, 32) == pytest.approx(np.mean(halves))
    means = [mean_with_fewer(log_probs, size) for size in (1, 2, 4, 8, 16, 32, 64)]
    assert np.all(np.diff(means) > 0.0)
    assert means[-1] == pytest.approx(np.mean(over_theta(log_probs).value))


def test_a_summary_over_theta_has_means_of_fewer_theta_and_diagnostics():
    log_probs = Shift(0.05, 10).log_probs(np.random.default_rng(0), 400)
    estimate, row = summarize(parts_of(log_probs))
    assert row["mean"] == pytest.approx(float(np.mean(estimate.value)), rel=1e-5)
    assert list(row["over_theta"]["means"]) == ["100", "200", "400"]
    assert row["over_theta"]["means"]["400"] == pytest.approx(row["mean"])
    assert row["over_theta"]["effective_sample_size"]["worst"] > 10
    assert (row["num_theta"], row["estimator_df"]) == (400, 399)
    assert len(row["values"]) == 10
    assert reason_to_distrust(row) is None
    over_data, own = intervals_of(row, 10)
    assert over_data.half_width == pytest.approx(2.262 * row["standard_error"], rel=1e-3)
    assert own.half_width == pytest.approx(1.966 * row["estimator_standard_error"], rel=1e-3)


def test_a_mean_over_theta_with_one_dominant_theta_has_no_interval():
    """Every image is carried by one of the theta, as at N = 100 in docs/paper.md."""
    log_probs = np.random.default_rng(0).normal(scale=30.0, size=(40, 10))
    _, row = summarize(parts_of(log_probs))
    reason = reason_to_distrust(row)
    assert reason is not None
    assert "effective_sample_size is 1, below 10" in reason
    assert [interval.half_width for interval in intervals_of(row, 10)] == [None, None]


def test_a_summary_without_the_weights_of_theta_is_not_reliable():
    row = {"num_theta": 10, "settings": {"num_samples": 1000}, "pareto_k": {"worst": 0.1}}
    assert "10 theta" in (reason_to_distrust(row) or "")
