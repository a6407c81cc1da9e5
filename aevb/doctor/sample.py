"""A sample of the training and validation data, as the model receives them."""

from typing import Any, NamedTuple

import numpy as np

from aevb.data import Dataset, kept_rows
from aevb.evaluation.elbo import fixed_inputs

MOST_VALUES = 4 * 10**6  # of a split's sample, so that a check takes less than a second


class Sample(NamedTuple):
    """Evenly spaced datapoints of the training and the validation data, preprocessed."""

    train: np.ndarray  # [n, D]
    valid: np.ndarray  # [n', D]; without rows if there are no validation data


def draw(dataset: Dataset, most: int) -> Sample:
    """Returns at most `most` datapoints of each split, with the inputs that evaluations have.

    Only the rows of the sample are read. The test data are not.
    """
    return Sample(_inputs(dataset, dataset.train, most), _inputs(dataset, dataset.valid, most))


class Moments(NamedTuple):
    """The moments of the columns of x [n, D], each [D], without its missing values, NaN."""

    number: np.ndarray
    mean: np.ndarray  # 0 of a column without values
    variance: np.ndarray


def moments(x: np.ndarray) -> Moments:
    """Returns the number of values of each column of x [n, D], their mean and their variance."""
    number = np.sum(~np.isnan(x), axis=0)
    of_mean = np.maximum(number, 1)
    mean = np.nansum(x, axis=0) / of_mean
    return Moments(number, mean, np.nansum(np.square(x - mean), axis=0) / of_mean)


def rows(data: Any, most: int, most_values: int = MOST_VALUES) -> np.ndarray:
    """Returns the indices of at most `most` evenly spaced datapoints of data [N, D]."""
    number, num_dims = data.shape
    return kept_rows(number, min(number, most, max(2, most_values // num_dims)))


def _inputs(dataset: Dataset, data: Any, most: int) -> np.ndarray:
    if data is None or not len(data):
        return np.empty((0, dataset.train.shape[1]), np.float32)
    index = rows(data, most)
    return np.asarray(fixed_inputs(dataset.preprocess, index, np.asarray(data[index])))
