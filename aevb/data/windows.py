"""Windows of consecutive frames as datapoints, of data whose order is that of time."""

import numpy as np

from aevb.data import Dataset, Description
from aevb.data.standardization import Standardization
from aevb.errors import UserError


def windowed(dataset: Dataset, num_frames: int) -> Dataset:
    """Returns a dataset of windows of T frames, each a row [T D].

    The training data are all windows of T frames in a row, which overlap. The validation and test
    data are windows that do not overlap, from the first frame of the split on, so that no frame
    counts twice; the frames after the last whole window are left out. No window crosses splits. The
    picture of a window has its frames below one another.

    Args:
        dataset: its splits are in the order of time.
        num_frames: T.

    Raises:
        UserError: a split has fewer than T frames, or the frames have classes.
    """
    if dataset.labels is not None:
        raise UserError(
            f"data.window is {num_frames}, and the frames of {dataset.name} are in classes, which "
            "are no sequence; put the frames into one folder"
        )
    for split, frames in dataset.splits.items():
        if len(frames) < num_frames:
            raise UserError(
                f"data.window is {num_frames}, and the {split} split of {dataset.name} has "
                f"{len(frames)} frames; it can be at most that"
            )
    image = dataset.image_shape
    return dataset._replace(
        train=_windows(np.asarray(dataset.train), num_frames),
        valid=None if dataset.valid is None else _disjoint(dataset.valid, num_frames),
        test=_disjoint(dataset.test, num_frames),
        image_shape=None if image is None else (num_frames * image[0], *image[1:]),
        shape=(num_frames, *dataset.description.shape),
        standardization=_repeated(dataset.standardization, num_frames),
    )


def frame_of(data: Description, num_frames: int) -> Description:
    """Returns the description of a frame of data whose datapoints are windows of T frames."""
    image, by = data.image_shape, data.standardization
    num_dims = data.num_dims // num_frames
    if by is not None and len(by.mean) > 1:
        by = Standardization(by.mean[:num_dims], by.scale[:num_dims])
    return data._replace(
        num_dims=num_dims,
        image_shape=None if image is None else (image[0] // num_frames, *image[1:]),
        shape=data.shape[1:],
        standardization=by,
    )


def _windows(x: np.ndarray, num_frames: int) -> np.ndarray:
    """Returns the windows [N - T + 1, T D] of frames x [N, D]."""
    first = np.arange(len(x) - num_frames + 1)
    return x[first[:, None] + np.arange(num_frames)].reshape(len(first), -1)


def _disjoint(x: np.ndarray, num_frames: int) -> np.ndarray:
    """Returns the windows [N // T, T D] of frames x [N, D]."""
    number = len(x) // num_frames
    return x[: number * num_frames].reshape(number, num_frames * x.shape[1])


def _repeated(by: Standardization | None, num_frames: int) -> Standardization | None:
    if by is None or len(by.mean) == 1:  # one mean and scale for all columns
        return by
    return Standardization(by.mean * num_frames, by.scale * num_frames)
