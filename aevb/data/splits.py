"""Splits of an ordered dataset: four fifths for training and one fifth for the test."""

import numpy as np

SPLITS = ("blocked", "random")
RANDOM_SPLIT_SEED = 0


def four_fifths(x: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns training and test datapoints of x [N, ...], each in their original order.

    The split `blocked` takes the first four fifths for training and the last fifth for the test. It
    is the valid one where neighbors resemble each other, as the frames of a film do. The split
    `random` uses a permutation with a fixed seed, for data whose order has no meaning.
    """
    num_train = len(x) * 4 // 5
    if split == "blocked":
        return x[:num_train], x[num_train:]
    order = np.random.RandomState(RANDOM_SPLIT_SEED).permutation(len(x))
    return x[np.sort(order[:num_train])], x[np.sort(order[num_train:])]
