"""Checks of data before training: against the likelihood, their numbers, and their splits."""

import numpy as np

from aevb.data import Dataset
from aevb.doctor import sample
from aevb.doctor.hints import Hint
from aevb.doctor.of_columns import hints_of_columns
from aevb.doctor.of_splits import hints_of_splits
from aevb.likelihoods import Likelihood

MOST_DATAPOINTS = 5000  # of each split

LEAST_DATAPOINTS = 10  # of fewer ones, the values say nothing

# Whole numbers up to here may be anything. `data.kinds.doubt` has the same limit.
LEAST_WHITE = 128
# A table of fewer columns is seldom one of pixels.
LEAST_PIXELS = 16
# Standardized values are float32, so whole numbers come back with errors of this size.
WHOLE = 1e-3
# MNIST's grey levels, mostly black and white, have 82 % of their values at the two ends.
LEAST_BINARY = 0.99
# Weights of the first layer are made for inputs of size 1; a tenth or ten times still trains.
LARGEST_SCALE = 10.0
# One variance for all columns leaves columns of a hundredth of the largest scale without meaning.
LARGEST_RATIO = 100.0
# The median is then this value. 42 % is the most that a pixel of the Frey faces has.
LARGEST_MASS = 0.5
# Below ten datapoints for each latent, any dimension of the latents fits.
LEAST_PER_LATENT = 10
# Frequencies of fewer datapoints than four for each level are mostly noise.
LEAST_PER_STATISTIC = 4
# A step with a quarter of the data has nearly the whole gradient, and a pass has four steps.
LARGEST_MINIBATCH = 0.25


def hints_of_data(
    dataset: Dataset, likelihood: Likelihood, *, num_latents: int, batch_size: int
) -> list[Hint]:
    """Returns the hints of all checks of a dataset for a model, none for sound data.

    Only training and validation data are looked at, never test data, so that no decision about a
    run can come from these. Values are checked in a sample of both splits, and equal datapoints are
    sought in all of them, as far as `of_splits.MOST_VALUES` reaches. If values are non-finite or of
    the wrong range or kind, the other checks are left out. Data with missing values are checked for
    these and for their numbers alone.

    Args:
        likelihood: p(x|z) of the model.
        num_latents: Z.
        batch_size: M.
    """
    seen = sample.draw(dataset, MOST_DATAPOINTS)
    if found := _present(_nonfinite(dataset, seen)):
        return found
    if found := _present(_kind(dataset, likelihood), _range(dataset, seen)):
        return found
    of_numbers = _present(
        _few(dataset, num_latents),
        _few_per_statistic(dataset, likelihood),
        _minibatch(dataset, batch_size),
    )
    if len(seen.train) < LEAST_DATAPOINTS or dataset.has_missing:
        return of_numbers
    of_kind = _present(_read_as_real(dataset, seen), _binary(dataset, likelihood, seen))
    of_values = _present(_unscaled(dataset, seen), _point_mass(dataset, likelihood, seen))
    if dataset.kind == "real" and dataset.image_shape is None:
        of_values += hints_of_columns(_in_own_units(dataset, seen.train).astype(np.float64))
    return [*(of_kind or of_values), *of_numbers, *hints_of_splits(dataset, seen)]


def _present(*hints: Hint | None) -> list[Hint]:
    return [hint for hint in hints if hint is not None]


# Values


def _nonfinite(dataset: Dataset, seen: sample.Sample) -> Hint | None:
    for split, x in zip(("training", "validation"), seen, strict=True):
        bad = np.isinf(x) if dataset.has_missing else ~np.isfinite(x)
        if bad.any():
            column = int(np.argwhere(bad)[0, 1])
            return Hint(
                "nonfinite_data",
                f"the {split} data hold NaN or infinite values, with which no bound is finite",
                f"{bad.sum():,} of {bad.size:,} values seen, one of them in column {column} (from "
                "0); 0 are allowed",
                "leave these datapoints out, or fill the gaps",
            )
    return None


def _kind(dataset: Dataset, likelihood: Likelihood) -> Hint | None:
    if dataset.kind in likelihood.kinds:
        return None
    return Hint(
        "other_kind",
        f"the likelihood does not score {dataset.kind} data",
        f"it scores {' and '.join(likelihood.kinds)} data",
        "set config.model.likelihood='', which chooses one by the kind of the data, or "
        "config.data.kind",
    )


def _range(dataset: Dataset, seen: sample.Sample) -> Hint | None:
    x = np.concatenate(seen)
    x = x[~np.isnan(x)]  # of data with missing values
    is_wrong, allowed = {
        "binary": ((x != 0) & (x != 1), "0 and 1"),
        "counts": ((x < 0) | (x != np.floor(x)), "the whole numbers 0, 1, 2, ..."),
        "real": (np.zeros(x.shape, bool), "any numbers"),
    }.get(dataset.kind, ((x < 0) | (x > 1), "[0, 1]"))
    if not is_wrong.any():
        return None
    return Hint(
        "wrong_range",
        f"{dataset.kind} data must reach the model in {allowed}, and these do not",
        f"{is_wrong.mean():.2%} of the values seen, such as {x[is_wrong][0]:g}; 0 % are allowed",
        "scale the data (the dataset's preprocess), or set config.data.kind to real or counts",
    )


def _in_own_units(dataset: Dataset, x: np.ndarray) -> np.ndarray:
    """Returns x [n, D] of real data as the user has them."""
    return x if dataset.standardization is None else dataset.standardization.invert(x)


def _read_as_real(dataset: Dataset, seen: sample.Sample) -> Hint | None:
    """Returns a hint on whole numbers that are read as real data."""
    if dataset.kind != "real":
        return None
    x = _in_own_units(dataset, seen.train)
    low, high = float(x.min()), float(x.max())
    if low < -WHOLE or high < 2 - WHOLE or np.max(np.abs(x - np.rint(x))) > WHOLE:
        return None
    evidence = (
        f"all {x.size:,} values seen are whole numbers, from {abs(low):.0f} to {high:.0f}; a "
        "density grows without limit where it narrows around them"
    )
    if LEAST_WHITE <= round(high) <= 255 and x.shape[1] >= LEAST_PIXELS:
        remedy = "set config.data.kind=grey, and config.model.likelihood='' or discretized_logistic"
        return Hint("levels_as_real", "grey levels are read as real numbers", evidence, remedy)
    remedy = (
        "if they are counts, set config.data.kind=counts and "
        "config.model.likelihood=negative_binomial"
    )
    return Hint("counts_as_real", "whole numbers are read as real numbers", evidence, remedy)


def _binary(dataset: Dataset, likelihood: Likelihood, seen: sample.Sample) -> Hint | None:
    """Returns a hint on data with two values that a density or levels are to score."""
    if dataset.kind in ("binary", "counts"):
        return None
    x = _in_own_units(dataset, seen.train).round(6) + 0.0
    low, high = x.min(), x.max()
    share = float(np.mean((x == low) | (x == high)))
    if low == high or share < LEAST_BINARY:
        return None
    return Hint(
        "binary_as_density",
        f"the data look binary, and are scored as {dataset.kind} data",
        f"{share:.1%} of the values seen are {low:g} or {high:g}; below {LEAST_BINARY:.0%} is "
        "usual",
        "set config.model.likelihood=bernoulli, with config.data.binarization=fixed for grey "
        "levels, or config.data.kind=binary for values 0 and 1",
    )


def _unscaled(dataset: Dataset, seen: sample.Sample) -> Hint | None:
    if dataset.kind != "real" or dataset.standardization is not None:
        return None
    x = seen.train.astype(np.float64)
    scales, deviations = np.sqrt(np.mean(np.square(x), axis=0)), np.std(x, axis=0)
    largest, column = float(scales.max()), int(scales.argmax())
    varying = deviations[deviations > 0]
    ratio = float(varying.max() / varying.min()) if len(varying) else 1.0
    if 1.0 / LARGEST_SCALE <= largest <= LARGEST_SCALE:
        if dataset.image_shape is not None or ratio <= LARGEST_RATIO:
            return None
        evidence = (
            f"the largest standard deviation of a column is {ratio:.3g} times the smallest; at "
            f"most {LARGEST_RATIO:g} times is usual"
        )
    else:
        evidence = (
            f"the largest root mean square of a column is {largest:.3g} (column {column}, from "
            f"0); {1 / LARGEST_SCALE:g} to {LARGEST_SCALE:g} is usual"
        )
    return Hint(
        "unscaled_data",
        "real data are not standardized, and are far from the scale 1 that the networks are for",
        evidence,
        "set config.data.standardize=True, or subtract the mean of each column of your dataset and "
        "divide by its standard deviation, both of the training data",
    )


def _can_narrow(likelihood: Likelihood, num_dims: int) -> bool:
    """Returns whether a density has a learned scale for each column, which can vanish there."""
    shared = [name for name, shape in likelihood.shared.items() if shape == (num_dims,)]
    scales = {"log_var", "log_std", "log_scale"} & {*likelihood.heads, *shared}
    return likelihood.levels is None and bool(scales)


def _point_mass(dataset: Dataset, likelihood: Likelihood, seen: sample.Sample) -> Hint | None:
    """Returns a hint on columns in which more than half of the datapoints have one value.

    This value is the median of its column.
    """
    if dataset.kind in ("binary", "counts") or likelihood.levels is not None:
        return None
    x = seen.train
    masses = np.mean(x == np.median(x, axis=0), axis=0)
    columns = np.flatnonzero(masses > LARGEST_MASS)
    column, constant = int(masses.argmax()), int(np.sum(masses == 1.0))
    evidence = (
        f"{len(columns):,} of {x.shape[1]:,} columns, of which {constant:,} are constant; most in "
        f"column {column} (from 0), where {masses[column]:.1%} of the training datapoints have one "
        f"value; at most {LARGEST_MASS:.0%} is usual"
    )
    if not len(columns):
        return None
    if _can_narrow(likelihood, x.shape[1]):
        return Hint(
            "unbounded_density",
            "the density is unbounded where many datapoints have one value, as in a plain "
            "background: its variance there can shrink to 0, and the run diverges",
            evidence,
            _way_out(dataset.kind),
        )
    if dataset.kind != "real" or dataset.image_shape is not None:
        return None
    if constant == len(columns):
        return Hint(
            "constant_columns",
            "constant columns say nothing, and a density can gain from them without limit",
            evidence,
            "leave these columns out",
        )
    return Hint(
        "point_mass",
        "a density is to score columns in which one value is frequent, which it cannot describe",
        evidence,
        "leave constant columns out; replace a column with many zeros by one of 0 and 1, or set "
        "config.data.kind=counts if they are counts",
    )


def _way_out(kind: str) -> str:
    if kind == "real":
        return (
            "leave these columns out, or set config.model.likelihood=gaussian_shared (one variance)"
        )
    levels = (
        "discretized_logistic, or config.data.dequantize=True"
        if kind == "grey"
        else "gaussian_shared"
    )
    return f"set config.model.likelihood=continuous_bernoulli or {levels}"


# Numbers


def _few(dataset: Dataset, num_latents: int) -> Hint | None:
    number, num_dims = dataset.train.shape
    if number >= max(LEAST_PER_LATENT * num_latents, num_dims):
        return None
    return Hint(
        "few_datapoints",
        "the training data are few for this model, which may learn them by heart",
        f"{number:,} training datapoints, D = {num_dims:,} and Z = {num_latents:,}; at least D and "
        f"{LEAST_PER_LATENT} Z = {LEAST_PER_LATENT * num_latents:,} are usual",
        "take fewer config.model.num_latents and smaller config.model.hidden, and set "
        "config.train.patience, so that training stops when the validation bound does not rise any "
        "more",
    )


def _few_per_statistic(dataset: Dataset, likelihood: Likelihood) -> Hint | None:
    number, num_dims = dataset.train.shape
    own = sum(shape == (num_dims,) for shape in likelihood.shared.values())
    per_column = sum(likelihood.heads.values()) + own
    if number >= LEAST_PER_STATISTIC * per_column:
        return None
    return Hint(
        "few_per_statistic",
        "the likelihood has many statistics for each data dimension, and the training data are few",
        f"{number:,} training datapoints for {per_column} statistics of a dimension; at least "
        f"{LEAST_PER_STATISTIC * per_column:,} are usual",
        "set config.model.likelihood to one with fewer statistics, such as discretized_logistic "
        "for grey levels",
    )


def _minibatch(dataset: Dataset, batch_size: int) -> Hint | None:
    number = len(dataset.train)
    if batch_size <= LARGEST_MINIBATCH * number:
        return None
    return Hint(
        "large_minibatch",
        "a minibatch is a large part of the training data, so that a pass has few steps",
        f"{batch_size:,} of {number:,} training datapoints ({batch_size / number:.0%}); at most "
        f"{LARGEST_MINIBATCH:.0%} is usual",
        f"set config.train.batch_size to {max(1, int(LARGEST_MINIBATCH * number))} or less",
    )
