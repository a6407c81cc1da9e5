"""Windows of consecutive frames: which there are, and what they keep of the frames."""

from pathlib import Path
from typing import Any

import numpy as np
from refusals import refusal

from aevb import data
from aevb.data import Options, units
from aevb.data.windows import frame_of, windowed

NUM_FRAMES = 7


def film(**options: Any) -> data.Dataset:
    return data.load("frey_faces", Options(split="blocked", **options))


def test_training_windows_are_all_those_of_the_split_and_the_others_are_disjoint():
    frames, windows = film(), film(window=NUM_FRAMES)
    assert windows.valid is not None
    assert frames.valid is not None
    assert len(windows.train) == len(frames.train) - NUM_FRAMES + 1
    for first in (0, 1, len(windows.train) - 1):
        expected = frames.train[first : first + NUM_FRAMES].reshape(-1)
        np.testing.assert_array_equal(windows.train[first], expected)
    for whole, split in ((frames.valid, windows.valid), (frames.test, windows.test)):
        number = len(whole) // NUM_FRAMES
        assert split.shape == (number, NUM_FRAMES * 560)
        joined = split.reshape(-1, 560)
        np.testing.assert_array_equal(joined, whole[: number * NUM_FRAMES])


def test_a_window_is_a_picture_of_its_frames_below_one_another():
    windows = film(window=NUM_FRAMES)
    assert windows.image_shape == (NUM_FRAMES * 28, 20)
    description = windows.description
    assert description.shape == (NUM_FRAMES, 28, 20)
    frame = frame_of(description, NUM_FRAMES)
    assert frame == film().description._replace(num_train=len(windows.train))


def test_the_number_of_training_data_is_that_of_windows():
    assert film(window=NUM_FRAMES, num_train=50).train.shape == (50, NUM_FRAMES * 560)


def test_a_value_hidden_in_a_frame_is_hidden_in_all_of_its_windows():
    windows = film(window=2, num_valid=0, hide="entries", hide_share=0.3).train
    assert 0.25 < np.isnan(windows).mean() < 0.35
    second_of_one, first_of_next = windows[:-1, 560:], windows[1:, :560]
    np.testing.assert_array_equal(np.isnan(second_of_one), np.isnan(first_of_next))


def test_columns_of_a_table_keep_their_standardization_in_every_frame(tmp_path: Path):
    x = np.random.default_rng(0).normal([5.0, -100.0], [0.1, 30.0], size=(200, 2))
    np.savetxt(tmp_path / "walk.csv", x, delimiter=",", header="a,b", comments="")
    options = Options(split="blocked")
    one = data.load(f"file:{tmp_path}/walk.csv", options)
    windows = data.load(f"file:{tmp_path}/walk.csv", options._replace(window=3))
    np.testing.assert_array_equal(windows.test[0], one.test[:3].reshape(-1))
    assert one.standardization is not None
    description = windows.description
    np.testing.assert_allclose(
        units.from_model(description, units.to_model(description, x[:3])), x[:3], rtol=1e-4
    )
    assert frame_of(description, 3).standardization == one.standardization
    assert description.of_x is not None
    total = 3 * one.standardization.log_jacobian(2)
    np.testing.assert_allclose(description.of_x.log_jacobian(6), total)


def test_a_window_longer_than_a_split_is_refused():
    words = refusal(lambda: film(window=201))
    assert "data.window is 201, and the valid split of frey_faces has 200 frames" in words
    assert len(film(window=201, num_valid=0).test) == 1


def test_frames_in_classes_are_refused():
    faces = film()
    labels = data.Labels(("a",), *(np.zeros(len(faces.splits[s]), int) for s in ("train", "test")))
    assert "are in classes" in refusal(windowed, faces._replace(labels=labels), 3)
