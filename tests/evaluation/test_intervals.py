"""Confidence intervals: their values against SciPy, and what has none."""

import math

import numpy as np
import pytest
import scipy.stats

from aevb.evaluation.intervals import (
    Interval,
    crossed_interval,
    difference_interval,
    interval_from,
    joint_df,
    mean_interval,
    simultaneous_level,
    verdict,
)

VALUES = [3.0, 4.5, 2.0, 7.0, 5.5]
OTHERS = [1.0, 8.0, 2.5]


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_the_interval_of_a_mean_is_that_of_scipys_t_test(level: float):
    found = mean_interval(VALUES, level=level)
    expected = scipy.stats.ttest_1samp(VALUES, 0.0).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.number) == (pytest.approx(4.4), 5)


def test_two_standard_errors_of_three_values_are_an_interval_of_82_percent():
    two_errors = 2.0 * np.std(OTHERS, ddof=1) / math.sqrt(3)
    assert mean_interval(OTHERS, level=0.8165).half_width == pytest.approx(two_errors, rel=1e-3)
    assert mean_interval(OTHERS).half_width == pytest.approx(4.3027 / 2.0 * two_errors, rel=1e-4)


def test_the_interval_of_a_difference_is_that_of_welchs_test():
    found = difference_interval(VALUES, OTHERS)
    test = scipy.stats.ttest_ind(VALUES, OTHERS, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_interval_and_no_verdict():
    for found in (
        mean_interval([4.0]),
        difference_interval([4.0], OTHERS),
        crossed_interval([VALUES]),
        crossed_interval(np.transpose([VALUES])),
    ):
        assert found.half_width is None
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert verdict(found) == "no interval"
    assert mean_interval([4.0]).text() == "4.0 (one value)"


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_values_that_are_not_finite_have_no_interval(bad: float):
    found = mean_interval([1.0, bad])
    assert found.half_width is None
    assert not math.isfinite(found.mean)
    assert interval_from(1.0, [0.5, bad], 3, number=4).half_width is None


def test_degrees_of_freedom_of_equal_errors_add_up_and_of_one_error_are_its_own():
    assert joint_df(np.full(7, 0.3), 4) == pytest.approx(28)
    assert joint_df([0.3, 0.0, 0.0], 4) == pytest.approx(4)
    assert joint_df([1e-200, 1e-200], [3, 5]) == pytest.approx(4 / (1 / 3 + 1 / 5))
    assert joint_df([0.0, 0.0], [3, 5]) == 3
    assert 4 < joint_df([0.3, 0.1, 0.2], 4) < 12


def test_values_without_spread_have_an_interval_of_width_0():
    assert mean_interval([2.0, 2.0, 2.0]) == Interval(2.0, 0.0, 3)


def test_a_crossed_interval_of_one_factor_is_that_of_its_means():
    seeds, images = np.array([0.0, 3.0, 5.0]), np.random.default_rng(0).normal(size=50)
    of_seeds, of_images = (np.add.outer(seeds, 0.0 * images), np.add.outer(0.0 * seeds, images))
    assert crossed_interval(of_seeds)[:2] == pytest.approx(mean_interval(seeds)[:2])
    assert crossed_interval(of_images)[:2] == pytest.approx(mean_interval(images)[:2])
    both = crossed_interval(of_seeds + of_images)
    errors = [np.std(each, ddof=1) / len(each) ** 0.5 for each in (seeds, images)]
    expected = interval_from(both.mean, errors, [2, 49], number=3)
    assert both.half_width == pytest.approx(expected.half_width)
    assert both.mean == pytest.approx(np.mean(seeds) + np.mean(images))


def test_simultaneous_intervals_divide_the_error_rate_by_their_number():
    assert simultaneous_level(1) == pytest.approx(0.95)
    assert 54 * (1.0 - simultaneous_level(54)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("mean", "says"), [(0.5, "yes"), (-0.9, "within errors"), (-1.3, "within errors"), (-2, "no")]
)
def test_a_verdict_depends_on_the_whole_interval(mean: float, says: str):
    assert verdict(Interval(mean, 0.8, 3), -1.0) == says


def test_an_interval_is_printed_with_its_half_width():
    found = Interval(1.25, 0.34, 3)
    assert found.text() == "1.2 ± 0.3"
    assert found.text(2, is_signed=True) == "+1.25 ± 0.34"
    assert Interval(-1.25, 0.34, 3).text(2, is_signed=True, plus_minus="+-") == "-1.25 +- 0.34"
    assert Interval(1.25, None, 3).text(2) == "1.25 (no interval)"
