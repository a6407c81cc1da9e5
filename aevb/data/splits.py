"""Splits of an ordered dataset into training, validation and test data, and of its labels."""

from collections.abc import Sequence

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


def drawn_labels(classes: np.ndarray, names: Sequence[str], number: int, seed: int) -> np.ndarray:
    """Returns which labels [N] a model sees: `number` of them, as many of each class as of another.

    If the number of classes does not divide the number, some have one label more than others.

    Args:
        classes: [N], the class of each datapoint, or -1 if it is unknown.
        names: of the C classes.
        number: 0 for all known labels.
        seed: of the draw.

    Raises:
        UserError: there are fewer labels than classes, or too few of a class.
    """
    is_known = classes >= 0
    if number == 0 and np.any(is_known):
        return is_known
    if number < len(names):
        raise UserError(
            f"data.num_labels is {number}; it must be at least the {len(names)} classes, or 0 for "
            f"all labels, of which there are {np.sum(is_known):,}"
        )
    random = np.random.RandomState(seed)
    more = random.permutation(len(names))[: number % len(names)]
    is_shown = np.zeros(len(classes), bool)
    for one, name in enumerate(names):
        members = np.flatnonzero(classes == one)
        wanted = number // len(names) + int(one in more)
        if wanted > len(members):
            raise UserError(
                f"data.num_labels is {number}, {wanted} of each class, and there are "
                f"{len(members)} training labels of {name}; ask for fewer, or 0 for all"
            )
        is_shown[random.permutation(members)[:wanted]] = True
    return is_shown
