"""Splits of an ordered dataset into training, validation and test data."""

import numpy as np

from aevb.errors import UserError

SPLITS = ("blocked", "random")
RANDOM_SPLIT_SEED = 0


def split(
    x: np.ndarray, how: str, num_valid: int, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns training, validation and test datapoints of x [N, ...], each in original order.

    The split `blocked` takes the last fifth for the test, and the `num_valid` datapoints before it
    for validation. Use it where neighbors resemble each other, as the frames of a film do. The
    split `random` uses a permutation with a fixed seed, for data whose order has no meaning. It
    takes `num_valid` datapoints for validation and as many for the test or, without validation
    data, a fifth for the test.

    Args:
        classes: [N], the class of each datapoint. With them both splits take the same numbers in
            all, and the same fraction of each class up to rounding.

    Raises:
        UserError: no datapoint is left for training.
    """
    num_test = num_valid if how == "random" and num_valid else len(x) - len(x) * 4 // 5
    first_test = len(x) - num_test
    first_valid = first_test - num_valid
    if first_valid < 1:
        raise UserError(
            f"data.num_valid is {num_valid}, and {num_test} of {len(x)} datapoints are for the "
            "test; none would be left for training"
        )
    if how == "blocked" and classes is None:
        return x[:first_valid], x[first_valid:first_test], x[first_test:]
    order = np.arange(len(x))
    if how == "random":
        order = np.random.RandomState(RANDOM_SPLIT_SEED).permutation(len(x))
    if classes is not None:
        order = order[np.argsort(_fractions(classes[order]), kind="stable")]
    train, valid, test = (np.sort(part) for part in np.split(order, [first_valid, first_test]))
    return x[train], x[valid], x[test]


def _fractions(classes: np.ndarray) -> np.ndarray:
    """Returns the fraction of its class at which each datapoint [N] is, (rank + 1/2) / size."""
    fractions = np.empty(len(classes))
    for one in np.unique(classes):
        members = np.flatnonzero(classes == one)
        fractions[members] = (np.arange(len(members)) + 0.5) / len(members)
    return fractions
