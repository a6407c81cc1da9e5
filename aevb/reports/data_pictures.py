"""Pictures of data before training: the first images, or histograms of the columns."""

import math

import numpy as np
from matplotlib.figure import Figure

from aevb.data import Dataset, preprocessing
from aevb.reports import figures

SIDE = 10  # images in a row, and most rows
MOST_COLUMNS = 24  # that have a histogram
MOST_VALUES = 100_000  # of a histogram


def picture(dataset: Dataset, columns: list[str]) -> Figure:
    """Draws the first 100 training images or, of ten classes at most, the first ten of each.

    Of other data it draws a histogram of each of the first columns of the training data.

    Args:
        columns: the names of the columns of data other than images.
    """
    if dataset.image_shape is None:
        return _histograms(dataset, columns)
    if dataset.labels is None:
        count = min(len(dataset.train), SIDE * SIDE)
        places, names = [*np.split(np.arange(count), range(SIDE, count, SIDE))], []
        what = f"the first {count} training images"
    else:
        names = [*dataset.labels.names[:SIDE]]
        places = [np.flatnonzero(dataset.labels.train == k)[:SIDE] for k in range(len(names))]
        what = "the first training images of each class"
    grid = np.ones((len(places), SIDE, *dataset.image_shape), np.float32)  # white where none is
    for row, of_row in enumerate(places):
        images = np.asarray(dataset.train[of_row])
        grid[row, : len(of_row)] = _grey(dataset, images).reshape(-1, *dataset.image_shape)
    return figures.image_rows(grid, names, title=f"{dataset.name}: {what}")


def _grey(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """Returns stored images [n, D] as values from 0 for black to 1 for white."""
    if dataset.kind == "grey" or dataset.preprocess == preprocessing.drawn:
        return stored / np.float32(255)
    if dataset.kind in ("binary", "unit"):
        return stored
    low, high = float(np.nanmin(stored)), float(np.nanmax(stored))
    return (stored - low) / ((high - low) or 1.0)


def _histograms(dataset: Dataset, columns: list[str]) -> Figure:
    step = math.ceil(len(dataset.train) / MOST_VALUES)
    x = np.asarray(dataset.train[::step])[:, :MOST_COLUMNS]
    return figures.histograms(x, columns[:MOST_COLUMNS])
