"""Hints: a probable cause of a bad run, the figure that shows it, and what to change."""

from collections.abc import Sequence
from typing import NamedTuple


class Hint(NamedTuple):
    """One finding of a check."""

    cause: str  # a key of CAUSES
    finding: str  # what is wrong
    evidence: str  # the figure that shows it, with its threshold
    remedy: str  # the setting to change, by its dotted name, or what to do with the data


CAUSES: dict[str, str] = {
    "nonfinite_data": "a value of the data is NaN or infinite",
    "other_kind": "the likelihood scores another kind of data",
    "wrong_range": "values outside those that data of this kind can have",
    "levels_as_real": "grey levels 0..255 are read as real numbers",
    "counts_as_real": "counts are read as real numbers",
    "binary_as_density": "data with two values have a density",
    "unscaled_data": "real data are far from the scale 1, at which the networks start",
    "unbounded_density": "a learned variance can vanish, where many datapoints have one value",
    "point_mass": "a density of real data of which many are one and the same value",
    "constant_columns": "columns of real data that say nothing",
    "few_datapoints": "fewer training datapoints than the model can learn from",
    "few_per_statistic": "fewer training datapoints than statistics of a data dimension need",
    "large_minibatch": "minibatches that are a large part of the training data",
    "repeated_datapoints": "training datapoints that are equal to one another",
    "leaked_datapoints": "validation datapoints that are also training datapoints",
    "near_duplicates": "validation datapoints that are near-copies of training datapoints",
    "shifted_columns": "validation data from another distribution than the training data",
    "missing_classes": "classes of the validation data that the training data lack",
    "one_class": "labels with a single class",
    "copied_column": "a column that another one determines, so that its density can grow without "
    "end",
    "row_numbers": "a column that counts the rows, and says nothing of the data",
    "posterior_collapse": "q(z|x) hardly depends on x, so that the latents say nothing",
    "variance_runs_away": "a learned variance of p(x|z) vanishes or grows without end",
    "overfitting": "the validation bound falls while the training bound rises",
    "step_too_large": "the steps are so large that the bound jumps, or falls",
    "step_too_small": "the bound still rises at the end",
    "exploding_gradients": "the gradient grows by orders of magnitude",
    "aggregate_far_from_prior": "q(z) is far from p(z), so that samples look worse than "
    "reconstructions",
    "below_baseline": "a model without latents, or with linear ones, has a higher bound",
    "tiny_minibatch": "so few datapoints a step that the gradient is mostly noise",
    "dead_units": "hidden units that are at an end of their range for almost all inputs",
    "likelihood_misfit": "the likelihood has not the distribution of the data around their means",
    "low_precision": "the bound changes if the networks compute in float32",
    "importance_weights": "an estimate of log p(x) whose diagnostic fails",
}
"""Each cause -> what it means."""


OF_DATA = (
    "nonfinite_data", "levels_as_real", "counts_as_real", "binary_as_density", "unscaled_data",
    "unbounded_density", "point_mass", "constant_columns",
)  # fmt: skip
NO_TRAINING = (  # the model is not what its data and settings would give
    "posterior_collapse", "step_too_large", "step_too_small", "exploding_gradients", "dead_units",
    "tiny_minibatch", "variance_runs_away", "low_precision",
)  # fmt: skip
EXPLAINED_BY: dict[str, tuple[str, ...]] = {
    "below_baseline": (
        *OF_DATA, *NO_TRAINING, "few_datapoints", "overfitting", "aggregate_far_from_prior",
        "shifted_columns", "missing_classes", "importance_weights", "likelihood_misfit",
    ),
    "likelihood_misfit": (
        *OF_DATA, *NO_TRAINING, "few_datapoints", "repeated_datapoints", "near_duplicates",
    ),
    "importance_weights": (
        *OF_DATA, *NO_TRAINING, "few_datapoints", "overfitting", "aggregate_far_from_prior",
        "near_duplicates", "likelihood_misfit",
    ),
    "aggregate_far_from_prior": (
        *OF_DATA, "posterior_collapse", "step_too_large", "step_too_small", "exploding_gradients",
        "dead_units", "tiny_minibatch", "few_datapoints",
    ),
    "posterior_collapse": (*OF_DATA, "low_precision"),
    "exploding_gradients": ("low_precision", "variance_runs_away"),
    "step_too_small": (
        *OF_DATA, "few_datapoints", "overfitting", "variance_runs_away", "low_precision",
        "step_too_large", "exploding_gradients", "dead_units", "tiny_minibatch",
    ),
    "step_too_large": (
        *OF_DATA, "few_datapoints", "copied_column", "low_precision", "posterior_collapse",
    ),
    "dead_units": (*OF_DATA, "posterior_collapse", "low_precision"),
    "overfitting": ("shifted_columns", "missing_classes", "likelihood_misfit"),
    "variance_runs_away": (
        "unscaled_data", "unbounded_density", "constant_columns", "copied_column",
    ),
}  # fmt: skip
"""A cause -> those of which it is a mere consequence, so that it is not named beside them."""


def without_consequences(hints: Sequence[Hint]) -> list[Hint]:
    """Returns the hints without those that another one explains."""
    causes = {hint.cause for hint in hints}
    return [hint for hint in hints if causes.isdisjoint(EXPLAINED_BY.get(hint.cause, ()))]


def text(hint: Hint) -> str:
    """Returns a hint as three lines: the finding, its evidence and the remedy."""
    return f"{hint.cause}: {hint.finding}\n  seen: {hint.evidence}\n  do: {hint.remedy}"
