"""The sample of a dataset that its checks look at."""

from pathlib import Path

import numpy as np
import small_data

from aevb import data
from aevb.data import Options
from aevb.doctor import sample
from aevb.evaluation.elbo import fixed_inputs


def test_the_inputs_are_those_of_evaluation():
    """A binarization that is drawn anew in training has the draw of the evaluated bound."""
    dataset = small_data.of_array(small_data.grey_digits(), binarization="dynamic")
    seen = sample.draw(dataset, 50)
    index = np.arange(50) * len(dataset.train) // 50
    expected = fixed_inputs(dataset.preprocess, index, dataset.train[index])
    np.testing.assert_array_equal(seen.train, expected)
    assert set(np.unique(seen.train)) == {0.0, 1.0}


def test_data_on_disk_have_the_same_sample(tmp_path: Path):
    for dataset in (data.load("synthetic"), small_data.of_array(small_data.normals(500, 3))):
        stored = data.on_disk(dataset, Options(dir=str(tmp_path)))
        for one, other in zip(sample.draw(dataset, 40), sample.draw(stored, 40), strict=True):
            assert one.shape[0] == 40
            np.testing.assert_array_equal(one, other)


def test_few_datapoints_are_taken_of_large_ones():
    assert len(sample.rows(np.empty((100, 50)), 80, 1000)) == 20
    assert len(sample.rows(np.empty((100, 50)), 80)) == 80
    np.testing.assert_array_equal(sample.rows(np.empty((3, 10**7)), 3), [0, 1])
    np.testing.assert_array_equal(sample.rows(np.empty((1, 10**7)), 3), [0])


def test_without_validation_data_their_sample_is_empty():
    for valid in (None, np.empty((0, 2), np.float32)):
        seen = sample.draw(small_data.of_splits(small_data.normals(9, 2), valid), 5)
        assert seen.valid.shape == (0, 2)
