"""Hints: a probable cause of a bad run, the figure that shows it, and what to change."""

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
}
"""Each cause -> what it means. A module with other checks adds its causes here."""


def text(hint: Hint) -> str:
    """Returns a hint as three lines: the finding, its evidence and the remedy."""
    return f"{hint.cause}: {hint.finding}\n  seen: {hint.evidence}\n  do: {hint.remedy}"
