"""Confidence intervals of means, at 95 % by default. The project computes intervals only here.

Each is Student's t: mean ± t(df) * standard error, with standard errors from sample variances that
divide by n - 1 (ddof 1). The values must be independent: runs with different seeds, differences of
two runs with the same seed, datapoints, or draws of theta. The coverage is exact for the mean of
normal values, and approximate for sums of several errors and for skewed values;
tests/evaluation/test_coverage.py simulates it.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and the half-width of its confidence interval, if it has one."""

    mean: float
    half_width: float | None  # None if there is no interval
    number: int  # the number of values

    @property
    def low(self) -> float:
        """Returns the lower end; -inf if there is no interval."""
        return self.mean - (math.inf if self.half_width is None else self.half_width)

    @property
    def high(self) -> float:
        """Returns the upper end; inf if there is no interval."""
        return self.mean + (math.inf if self.half_width is None else self.half_width)

    def text(self, digits: int = 1, *, is_signed: bool = False, plus_minus: str = "±") -> str:
        """Formats it as "mean ± half-width", or as the mean and a note that it has no interval."""
        mean = f"{self.mean:{'+' if is_signed and self.mean > 0 else ''}.{digits}f}"
        if self.half_width is not None:
            return f"{mean} {plus_minus} {self.half_width:.{digits}f}"
        return f"{mean} (one value)" if self.number == 1 else f"{mean} (no interval)"


def mean_interval(values: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Returns the mean of independent values [n] with its t interval of n - 1 degrees of freedom.

    There is no interval for a single value, or if a value is non-finite. The interval of the
    difference between paired runs is that of their differences.
    """
    each = np.asarray(values, np.float64)
    if not np.all(np.isfinite(each)):
        return Interval(float(sum(each) / len(each)), None, len(each))
    if len(each) < 2:
        return Interval(float(each[0]), None, 1)
    mean, error = float(np.mean(each)), standard_error(each)
    return interval_from(mean, [error], len(each) - 1, number=len(each), level=level)


def standard_error(values: np.ndarray) -> float:
    """Returns the standard error of the mean of independent values [n], n > 1, with ddof 1."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def interval_from(
    mean: float,
    standard_errors: ArrayLike,
    df: ArrayLike,
    *,
    number: int,
    level: float = LEVEL,
) -> Interval:
    """Returns the interval of a mean whose error is a sum of independent errors [m].

    The variance is the sum of squares of the standard errors, and its degrees of freedom are those
    of `joint_df`. If an error is non-finite, there is no interval.

    Args:
        df: degrees of freedom of each standard error, [m] or one for all.
        number: the number of values behind the mean.
    """
    from scipy.special import stdtrit  # here, because its import takes a quarter of a second

    total = float(np.sum(np.square(np.asarray(standard_errors, np.float64))))
    if not math.isfinite(total):
        return Interval(mean, None, number)
    t = float(stdtrit(joint_df(standard_errors, df), 0.5 + 0.5 * level))
    return Interval(mean, t * math.sqrt(total), number)


def joint_df(standard_errors: ArrayLike, df: ArrayLike) -> float:
    """Returns Satterthwaite's (1946) degrees of freedom of a sum of independent errors [m].

    They are (Sum_i s_i^2)^2 / Sum_i (s_i^4 / df_i), between the least df and the sum of all. Errors
    of 0 do not count; if all are 0, the result is the least df.

    Args:
        df: degrees of freedom of each standard error, [m] or one for all.
    """
    errors, df = np.broadcast_arrays(np.asarray(standard_errors, np.float64), df)
    if not np.any(errors):
        return float(np.min(df))
    shares = np.square(errors / np.max(errors))  # so that their squares do not underflow
    return float(np.sum(shares) ** 2 / np.sum(np.square(shares) / df))


def difference_interval(first: ArrayLike, second: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Returns mean(first) - mean(second) of independent samples, with Welch's (1947) interval."""
    samples = [np.asarray(values, np.float64) for values in (first, second)]
    lengths = np.array([len(each) for each in samples])
    mean = float(np.mean(samples[0]) - np.mean(samples[1]))
    if lengths.min() < 2:
        return Interval(mean, None, int(lengths.min()))
    errors = [standard_error(each) for each in samples]
    return interval_from(mean, errors, lengths - 1, number=int(lengths.min()), level=level)


def crossed_interval(values: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Returns the mean of values [S, n] of S seeds on the same n datapoints, both random.

    The variance is the sum of that of the S means over datapoints and that of the n means over
    seeds. Both contain the noise of single entries, so that the interval is slightly too wide
    rather than too narrow. With one seed or one datapoint there is no interval.
    """
    table = np.asarray(values, np.float64)
    mean, number = float(np.mean(table)), len(table)
    if min(table.shape) < 2:
        return Interval(mean, None, number)
    errors = [standard_error(np.mean(table, axis=axis)) for axis in (1, 0)]
    return interval_from(mean, errors, np.array(table.shape) - 1, number=number, level=level)


def simultaneous_level(number: int, level: float = LEVEL) -> float:
    """Returns the level that each of `number` intervals needs for all together to have `level`.

    It is 1 - (1 - level) / number, by Bonferroni's inequality, which holds however the intervals
    depend on one another, for example in comparisons that share runs.
    """
    return 1.0 - (1.0 - level) / number


def verdict(lead: Interval, least: float = 0.0) -> str:
    """Says whether an interval lies above `least` ("yes"), below it ("no") or around it.

    Without an interval it returns "no interval".
    """
    if lead.half_width is None:
        return "no interval"
    if lead.low > least:
        return "yes"
    return "no" if lead.high < least else "within errors"
