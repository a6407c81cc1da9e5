"""Ways to part images that come in one order: four fifths to train on, one fifth to test."""

import numpy as np

SPLITS = ("blocked", "random")
RANDOM_SPLIT_SEED = 0


def four_fifths(x: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test datapoints of x [N, ...], each in the order in which they came.

    `blocked`: the first four fifths train and the last fifth tests, which is what holds where
    neighbors resemble each other, as the frames of a film do. `random`: a permutation with a fixed
    seed, for data whose order means nothing.
    """
    num_train = len(x) * 4 // 5
    if split == "blocked":
        return x[:num_train], x[num_train:]
    order = np.random.RandomState(RANDOM_SPLIT_SEED).permutation(len(x))
    return x[np.sort(order[:num_train])], x[np.sort(order[num_train:])]
