"""Missing values of data: blanks and NaN of the user's own, and values hidden for a study."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refusal

from aevb import data
from aevb.config import HIDDEN, default_config, validate, with_values
from aevb.data import Options, gaps, preprocessing, preview, standardization
from aevb.errors import UserError
from aevb.evaluation.elbo import fixed_inputs
from aevb.experiment import build, load
from aevb.runs.diagnosis import of_data

KEY = jax.random.key(0)
OWN = Options(missing=True)


def saved(folder: Path, array: np.ndarray) -> str:
    np.save(folder / "own.npy", array)
    return f"file:{folder / 'own.npy'}"


def table(folder: Path, text: str) -> str:
    (folder / "own.csv").write_text(text, encoding="utf-8")
    return f"file:{folder / 'own.csv'}"


def numbers(seed: int = 0, shape: tuple[int, ...] = (40, 6), share: float = 0.3) -> np.ndarray:
    """Returns real numbers of other scales in each column, of which a share is missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 10.0 ** np.arange(shape[1]) + 1e3
    x[rng.uniform(size=shape) < share] = np.nan
    return x


def test_hidden_entries_are_a_share_of_the_pixels_the_same_in_every_call():
    x = np.zeros((50, 20 * 10 * 3), np.uint8)
    first, again = (gaps.hide(x, "entries", 0.3, (20, 10, 3), 0) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    hidden = np.isnan(first).reshape(50, 200, 3)
    assert abs(hidden[..., 0].mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 10_000)
    assert np.all(hidden == hidden[..., :1])  # a pixel with all of its channels
    other = gaps.hide(x, "entries", 0.3, (20, 10, 3), 1)
    assert np.isnan(other).reshape(50, -1).tolist() != hidden.reshape(50, -1).tolist()


def test_a_hidden_block_is_one_rectangle_with_the_proportions_of_the_image():
    x = np.arange(30 * 20 * 10).reshape(30, -1) % 200
    hidden = gaps.hide(x, "blocks", 0.25, (20, 10), 0).reshape(30, 20, 10)
    corners = set()
    for image in np.isnan(hidden):
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert (len(rows), len(columns)) == (10, 5)
        assert image[np.ix_(rows, columns)].all()
        assert image.sum() == 50
        corners.add((rows[0], columns[0]))
    assert len(corners) > 20
    np.testing.assert_array_equal(
        hidden[~np.isnan(hidden)], x.reshape(30, 20, 10)[~np.isnan(hidden)]
    )


def test_values_that_cannot_be_hidden_are_refused():
    assert tuple(HIDDEN) == gaps.WAYS
    synthetic = {"data.name": "synthetic", "model.likelihood": "gaussian"}
    values = with_values(default_config(), {**synthetic, "data.hide": "blocks"})
    assert "which is for images" in refusal(load, validate(values))
    for share in (0.0, 1.0):
        config = with_values(default_config(), {"data.hide_share": share})
        assert "must be above 0 and below 1" in refusal(validate, config)


def test_blanks_of_a_table_are_missing_values_and_refused_otherwise(tmp_path: Path):
    name = table(tmp_path, "a,b,flag\n" + "1,2.5,true\n,3.5,\n4,NaN,false\n5,6,true\n" * 5)
    dataset = data.load(name, OWN._replace(standardize=False))
    assert dataset.has_missing
    assert dataset.kind == "real"
    x = np.concatenate([np.asarray(part) for part in dataset.splits.values()])
    expected = [[1, 2.5, 1], [np.nan, 3.5, np.nan], [4, np.nan, 0], [5, 6, 1]] * 5
    np.testing.assert_array_equal(x, expected)
    message = refusal(data.load, name)
    assert "has no value in datapoint 1 (from 0), column 'a'" in message
    assert "data.missing=True" in message


def test_nan_of_an_array_is_a_missing_value_and_refused_otherwise(tmp_path: Path):
    x = numbers()
    name = saved(tmp_path, x)
    dataset = data.load(name, OWN._replace(standardize=False))
    seen = np.concatenate([np.asarray(part) for part in dataset.splits.values()])
    np.testing.assert_array_equal(seen, x.astype(np.float32))
    message = refusal(data.load, name)
    assert "holds nan in datapoint" in message
    assert "data.missing=True takes NaN as not seen" in message
    x[3, 2] = np.inf
    assert "holds inf in datapoint 3" in refusal(data.load, saved(tmp_path, x), OWN)


def test_a_column_without_numbers_is_refused(tmp_path: Path):
    x = numbers()
    x[:, 4] = np.nan
    assert "has no number in column 4" in refusal(data.load, saved(tmp_path, x), OWN)
    x = numbers()
    x[:30, 1] = np.nan  # all of the training data
    x[30:, 1] = 1.0
    message = refusal(data.load, saved(tmp_path, x), OWN)
    assert "has no number in column 1 (from 0) of the training data" in message


def test_real_data_are_standardized_by_what_was_seen(tmp_path: Path):
    x = numbers(shape=(400, 6))
    dataset = data.load(saved(tmp_path, x), OWN)
    train = np.asarray(dataset.train)
    assert train.dtype == np.float32
    np.testing.assert_allclose(np.nanmean(train, axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(train, axis=0), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(train), np.isnan(x[: len(train)]))
    by = standardization.of_training_data(x[: len(train)], per_column=True)
    assert dataset.standardization == by


def test_a_column_with_one_number_and_gaps_is_constant():
    x = numbers(shape=(50, 3))
    x[:, 1] = np.where(np.isnan(x[:, 1]), np.nan, 7.0)
    by = standardization.of_training_data(x, per_column=True)
    assert (by.mean[1], by.scale[1]) == (7.0, 1.0)
    (words,) = standardization.warnings([x, x[:0], x], by, ("a", "b", "c"))
    assert words.startswith("column b is constant")


@pytest.mark.parametrize(
    ("stored", "kind"),
    [([0.0, 1.0], "binary"), ([0.25, 0.75], "unit"), ([3.0, -1.0], "real")],
)
def test_the_kind_is_guessed_from_what_was_seen(stored: list[float], kind: str, tmp_path: Path):
    x = np.tile(np.array(stored), (30, 4))
    x[np.random.default_rng(0).uniform(size=x.shape) < 0.3] = np.nan
    dataset = data.load(saved(tmp_path, x), OWN)
    assert dataset.kind == kind
    assert np.isnan(dataset.test).any()


@pytest.mark.parametrize("binarization", ["none", "dynamic", "fixed"])
def test_gaps_of_grey_levels_stay_gaps_in_every_binarization(binarization: str, tmp_path: Path):
    levels = np.random.default_rng(0).integers(0, 256, (30, 20)).astype(np.float64)
    levels[:, ::3] = np.nan
    levels[0] = 5.0
    options = OWN._replace(kind="grey", binarization=binarization)
    dataset = data.load(saved(tmp_path, levels), options)
    index = np.arange(len(dataset.train))
    x = np.asarray(fixed_inputs(dataset.preprocess, index, np.asarray(dataset.train)))
    np.testing.assert_array_equal(np.isnan(x), np.isnan(levels[: len(x)]))
    seen = x[~np.isnan(x)]
    assert set(np.unique(seen)) <= {0.0, 1.0} if binarization != "none" else seen.max() > 0.9


def test_a_binarization_of_bytes_is_that_of_the_same_numbers():
    levels = np.arange(256, dtype=np.uint8)
    of_bytes, of_numbers = (
        preprocessing.drawn(KEY, jnp.asarray(levels, dtype)) for dtype in (np.uint8, np.float32)
    )
    np.testing.assert_array_equal(of_bytes, of_numbers)


def test_hidden_grey_levels_keep_their_scale():
    values = validate(with_values(default_config(), {"data.hide": "entries"}))
    hidden, whole = load(values), load(validate(default_config()))
    index = np.arange(50)
    x, truth = (
        np.asarray(fixed_inputs(d.preprocess, index, np.asarray(d.train[index])))
        for d in (hidden, whole)
    )
    assert 0.4 < np.isnan(x).mean() < 0.6
    np.testing.assert_array_equal(x[~np.isnan(x)], truth[~np.isnan(x)])


def test_the_preview_counts_what_is_missing(tmp_path: Path):
    x = numbers()
    found = preview.look(data.load(saved(tmp_path, x), OWN._replace(standardize=False)))
    assert found.num_missing == np.isnan(x).sum()
    seen = x[~np.isnan(x)].astype(np.float32)
    np.testing.assert_allclose([found.low, found.high], [seen.min(), seen.max()])
    np.testing.assert_allclose(found.mean, seen.mean(dtype=np.float64), rtol=1e-6)


def own(folder: Path, **fields: Any) -> Any:
    fields = {
        "data.name": saved(folder, numbers()), "data.missing": True, "model.hidden": (4,),
        "model.likelihood": "gaussian", "train.batch_size": 8, **fields,
    }  # fmt: skip
    return validate(with_values(default_config(), fields))


def test_settings_that_missing_values_refuse_are_named(tmp_path: Path):
    message = refusal(build, own(tmp_path, **{"algorithm.name": "wake_sleep"}))
    assert "config.algorithm.name=wake_sleep trains the encoder on draws without gaps" in message
    config = with_values(default_config(), {"data.missing": True})
    assert "config.data.missing is True, which is for file:FILE" in refusal(validate, config)


def test_the_doctor_takes_missing_values_for_sound_and_infinities_for_broken(tmp_path: Path):
    values = own(tmp_path)
    dataset = load(values)
    assert not [hint for hint in of_data(dataset, values) if hint.cause == "nonfinite_data"]
    train = np.array(dataset.train)
    train[0, 0] = np.inf
    hints = of_data(dataset._replace(train=train), values)
    assert [hint.cause for hint in hints] == ["nonfinite_data"]


def test_a_dataset_without_the_mark_refuses_its_gaps(tmp_path: Path):
    with pytest.raises(UserError, match="must hold finite float32"):
        load(own(tmp_path, **{"data.missing": False}))
