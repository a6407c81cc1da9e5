"""The standardization of real data, against float64 and SciPy."""

from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

from aevb import data
from aevb.building.models import in_own_units
from aevb.data import Options, standardization
from aevb.data.identity import description_of, identity
from aevb.data.standardization import Standardization, Standardized, of_training_data
from aevb.likelihoods import gaussian


def table(number: int = 300) -> np.ndarray:
    """Returns columns of very different scales and offsets, [N, 4] float64."""
    draws = np.random.default_rng(0).normal(size=(number, 4))
    return draws * [1e-6, 1.0, 50.0, 1e6] + [0.0, 1e6, -3.0, 1e6]


def saved(folder: Path, x: np.ndarray) -> str:
    file = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(file, x)
    return f"file:{file}"


def test_training_data_have_mean_0_and_deviation_1(tmp_path: Path):
    dataset = data.load(saved(tmp_path, table()))
    train = np.asarray(dataset.train, np.float64)
    assert train.shape == (210, 4)
    np.testing.assert_allclose(np.mean(train, axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.std(train, axis=0), 1.0, rtol=1e-5)
    assert abs(np.mean(dataset.test[:, 1])) > 1e-3  # other splits by the training data's moments


@pytest.mark.parametrize("number", [0, 50])
def test_the_moments_are_those_of_the_data_that_are_trained_on(number: int, tmp_path: Path):
    dataset = data.load(saved(tmp_path, table()), Options(num_train=number))
    used = table()[:210] if number == 0 else table()[np.arange(50) * 210 // 50]
    by = dataset.standardization
    assert by is not None
    np.testing.assert_allclose(by.scale, np.std(used, axis=0), rtol=1e-5)
    off = (np.array(by.mean) - np.mean(used, axis=0)) / np.std(used, axis=0)
    np.testing.assert_allclose(off, 0.0, atol=1e-5)
    inverted = by.invert(np.asarray(dataset.train, np.float64))  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose((inverted - used) / np.array(by.scale), 0.0, atol=1e-6)


def test_data_in_other_units_are_the_same_data(tmp_path: Path):
    plain = data.load(saved(tmp_path, table()))
    for scale, offset in ((1e-6, 0.0), (1e6, 1e6), (np.array([1e6, 1e-3, 1.0, 1e-6]), 3.0)):
        moved = data.load(saved(tmp_path, table() * scale + offset))
        np.testing.assert_allclose(
            np.asarray(moved.train), np.asarray(plain.train), rtol=1e-3, atol=1e-3
        )
        assert moved.standardization
        assert plain.standardization
        by_scale = moved.standardization.log_jacobian(4) - plain.standardization.log_jacobian(4)
        log_scale = np.sum(np.log(np.broadcast_to(scale, (4,))))
        np.testing.assert_allclose(by_scale, -log_scale, atol=1e-4)


def test_the_log_density_is_that_of_the_data_in_their_own_units():
    by = Standardization((1.0, -2.0), (3.0, 0.5))
    x = np.array([2.5, -2.2], np.float32)
    likelihood = in_own_units(gaussian, by.log_jacobians(2))
    heads = {"mean": np.array([0.1, 0.2], np.float32), "log_var": np.array([0.3, -1], np.float32)}
    found = likelihood.log_prob(jax.tree.map(jax.numpy.asarray, heads), by.apply(x))
    deviation = np.exp(0.5 * heads["log_var"]) * np.array(by.scale)
    mean = np.array(by.mean) + np.array(by.scale) * heads["mean"]
    np.testing.assert_allclose(found, stats.norm.logpdf(x, mean, deviation).sum(), rtol=1e-5)


def test_images_have_one_mean_and_one_scale(tmp_path: Path):
    images = table(60).reshape(-1, 2, 2) * np.float64(1e-3)
    dataset = data.load(saved(tmp_path, images))
    assert dataset.standardization
    assert len(dataset.standardization.mean) == 1
    assert dataset.standardization.log_jacobian(4) == pytest.approx(
        -4 * np.log(np.std(images[: len(dataset.train)])), abs=1e-4
    )


def test_a_constant_column_is_centered_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    x = table()
    x[:, 2] = 7.5
    dataset = data.load(saved(tmp_path, x))
    assert dataset.standardization
    assert dataset.standardization.scale[2] == 1.0
    assert np.all(np.asarray(dataset.train)[:, 2] == 0.0)
    words = capsys.readouterr().err
    assert "column 2 (from 0) is constant in the training data" in words
    assert words.count("\n") == 1


def test_an_outlier_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x.csv").write_text("a,b\n" + "".join(f"{n % 7},{n % 5}\n" for n in range(98)))
    with (tmp_path / "x.csv").open("a") as file:
        file.write("3,1e9\n3,1\n")
    data.load(f"file:{tmp_path / 'x.csv'}")
    words = capsys.readouterr().err
    assert "column b is up to" in words
    assert "standard deviations from the mean" in words
    assert "column a" not in words


def test_standardization_can_be_turned_off(tmp_path: Path):
    dataset = data.load(saved(tmp_path, table()), Options(standardize=False))
    assert dataset.standardization is None
    np.testing.assert_array_equal(dataset.train, table()[:210].astype(np.float32))


def test_standardized_data_are_computed_when_they_are_read(tmp_path: Path):
    np.save(tmp_path / "x.npy", table())
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    by = of_training_data(stored, per_column=True)
    lazy = Standardized(stored, by)
    whole = np.asarray(lazy)
    assert (lazy.shape, lazy.nbytes, len(lazy)) == ((300, 4), 4800, 300)
    np.testing.assert_array_equal(lazy[np.array([3, 1])], whole[[3, 1]])
    np.testing.assert_array_equal(lazy[10:20], whole[10:20])
    assert whole.dtype == np.float32


def test_the_moments_do_not_depend_on_the_order_of_the_additions():
    x = table()
    assert of_training_data(x, per_column=True) == of_training_data(x[::-1], per_column=True)


def test_the_description_of_standardized_data_is_read_back(tmp_path: Path):
    dataset = data.load(saved(tmp_path, table()))
    assert description_of(identity(dataset)) == dataset.description


def test_a_streamed_table_is_standardized(tmp_path: Path):
    options = Options(dir=str(tmp_path / "tfds"))
    dataset = data.load(saved(tmp_path, table()), options)
    on_disk = data.on_disk(dataset, options)
    np.testing.assert_array_equal(on_disk.train[:], np.asarray(dataset.train))
    assert identity(on_disk) == identity(dataset)


def test_the_message_on_constant_columns_names_at_most_five():
    x = np.ones((10, 9))
    words = standardization.warnings([x], of_training_data(x, per_column=True), list("abcdefghi"))
    assert words[0].startswith("columns a, b, c, d, e and 4 more are constant")
