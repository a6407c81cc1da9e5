"""Small datasets in memory, for tests of checks of data."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from aevb.data import Dataset, Options, preprocessing, user_files


def of_array(x: np.ndarray, **options: Any) -> Dataset:
    """Returns the dataset of an array, in blocks and without a binarization by default."""
    chosen = {"split": "blocked", "binarization": "none", **options}
    return user_files.of_array(x, Options(**chosen))


def of_splits(
    train: np.ndarray, valid: np.ndarray | None = None, kind: str = "real", **others: Any
) -> Dataset:
    """Returns a dataset of splits that reach the model unchanged. Its test data cannot be read."""
    fields = {"preprocess": preprocessing.unchanged, "image_shape": None, "levels": None, **others}
    return Dataset("own", train=train, valid=valid, test=np.array(None), kind=kind, **fields)  # pyright: ignore[reportArgumentType]


def normals(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def digits() -> np.ndarray:
    """Returns the digits of scikit-learn, counts 0..16, [1797, 8, 8]."""
    return np.reshape(load_digits(return_X_y=True)[0], (-1, 8, 8)).astype(np.int64)


def grey_digits() -> np.ndarray:
    """Returns digits of 16 x 16 grey levels with a black background, like those of MNIST."""
    return np.kron(15 * digits(), np.ones((2, 2), np.int64)).astype(np.uint8)
