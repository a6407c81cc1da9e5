"""Training from Python: arrays in memory, experiments by name, longer runs, and saved ones."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from refusals import contents_of
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA

import aevb
from aevb import data, runs
from aevb.config import validate, with_values
from aevb.data import units
from aevb.errors import UserError
from aevb.evaluation.elbo import make_score
from aevb.experiment import build
from aevb.experiments import own_data
from aevb.runs.in_memory import InMemory
from aevb.runs.trained import TrainedRun, dataset_of
from aevb.storage import checkpoint
from aevb.storage.metrics_log import read_with_digest, write_with_digest

KEY = jax.random.key(0)
SMALL = {
    "model.hidden": (8,), "train.num_examples": 600, "train.batch_size": 20,
    "train.first_eval": 200, "train.evals_per_decade": 4, "optimizer.name": "adagrad",
    "optimizer.step_size": 0.02,
}  # fmt: skip


def table(number: int = 80) -> np.ndarray:
    """Returns correlated columns of different scales and offsets, [N, 3]."""
    random = np.random.default_rng(0)
    z = random.normal(size=(number, 1))
    return (z + 0.3 * random.normal(size=(number, 3))) * [1.0, 1e4, 1e-3] + [0.0, 5e4, 7.0]


def images(number: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, 4, 5), dtype=np.uint8)


VALUES = validate(with_values(own_data.get_config(), {**SMALL, "data.name": "array:x"}))


@pytest.fixture(scope="module")
def fitted() -> TrainedRun:
    return aevb.fit(table(), SMALL)


@pytest.fixture(scope="module")
def faces() -> TrainedRun:
    return aevb.fit(images(), SMALL)


# The functions of a run


def test_fitting_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    run = aevb.fit(table(), SMALL)
    assert run.summary["num_examples"] == 600
    assert [record["examples"] for record in run.history] == [200, 360, 600]
    assert not [*tmp_path.iterdir()]


def test_a_datapoint_is_in_the_shape_and_units_of_the_users_array(faces: TrainedRun):
    x = images()[7]
    by_levels, by_model = faces.encode(x), faces.model.encode(jnp.asarray(x.ravel() / 256.0))
    np.testing.assert_allclose(by_levels.mean, by_model.mean, rtol=1e-5)
    np.testing.assert_allclose(faces.encode(x.ravel()).mean, by_levels.mean)
    z = jnp.array([0.3, -1.0])
    mean = faces.decode(z)
    assert mean.shape == (4, 5)
    np.testing.assert_allclose(mean.ravel(), 256.0 * faces.model.decode(z), rtol=1e-6)
    _, drawn = faces.sample(KEY)
    np.testing.assert_allclose(drawn.ravel(), 256.0 * faces.model.sample(KEY)[1], rtol=1e-6)
    assert faces.log_prob(KEY, x, 20) == faces.model.log_prob(
        KEY, jnp.asarray(x.ravel(), jnp.float32) / 256.0, 20
    )


def test_real_numbers_are_decoded_into_their_own_units(fitted: TrainedRun):
    x = table()
    train = x[: len(fitted.dataset.train)]
    mean, std = np.mean(train, axis=0), np.std(train, axis=0)
    standardized = (x[3] - mean) / std
    np.testing.assert_allclose(
        fitted.encode(x[3]).mean, fitted.model.encode(jnp.asarray(standardized)).mean, rtol=1e-4
    )
    z = jnp.zeros(2)
    np.testing.assert_allclose(
        fitted.decode(z), mean + std * np.asarray(fitted.model.decode(z)), rtol=1e-4
    )


@pytest.mark.parametrize("factor", slow_but([1e6], [1e-6, 1e6]))
def test_the_bound_of_other_units_differs_by_the_log_of_the_scale(
    factor: float, fitted: TrainedRun
):
    scales = np.array([factor, 1.0, 1e3 / factor])
    moved = aevb.fit(table() * scales + [0.0, 1e6, 1e6 * scales[2]], SMALL)
    for split in ("train", "valid", "test"):
        expected = fitted.summary[f"{split}_bound"] - np.sum(np.log(scales))
        assert moved.summary[f"{split}_bound"] == pytest.approx(expected, abs=0.3)


def test_the_points_of_a_run_are_those_of_the_users_array(fitted: TrainedRun, faces: TrainedRun):
    for run, x in ((fitted, table()), (faces, images())):
        test = run.points("test")
        np.testing.assert_allclose(test, x[len(x) - len(test) :], rtol=1e-5)
        np.testing.assert_allclose(run.encode(test[0]).mean, run.encode(x[-len(test)]).mean, 1e-4)
    with pytest.raises(UserError, match="split is 'tset'; it must be one of train, valid, test"):
        fitted.points("tset")


def test_the_functions_can_be_jitted_and_vmapped(faces: TrainedRun):
    x = images()[:5]
    posterior = jax.jit(jax.vmap(faces.encode))(x)
    assert posterior.mean.shape == (5, 2)
    assert jax.jit(jax.vmap(faces.decode))(posterior.mean).shape == (5, 4, 5)
    z, drawn = jax.jit(jax.vmap(faces.sample))(jax.random.split(KEY, 3))
    assert (z.shape, drawn.shape) == ((3, 2), (3, 4, 5))


@pytest.mark.slow
def test_a_random_binarization_takes_a_key():
    run = aevb.fit(images(), {**SMALL, "data.binarization": "dynamic"})
    with pytest.raises(UserError, match="is random, as a binarization is; give a key"):
        run.encode(images()[0])
    assert not np.allclose(
        run.encode(images()[0], jax.random.key(1)).mean, run.encode(images()[0], KEY).mean
    )
    assert np.isfinite(run.log_prob(KEY, images()[0], 10))
    assert set(np.unique(run.sample(KEY)[1])) <= {0.0, 255.0}


def test_a_datapoint_of_another_shape_is_refused(faces: TrainedRun):
    with pytest.raises(UserError, match=r"x has the shape \(4, 4\); .* \(4, 5\), or \(20,\)"):
        faces.encode(np.zeros((4, 4)))


@pytest.mark.parametrize("shape", [(60, 4, 5, 1), (60, 4, 5, 3), (60, 20)])
def test_the_last_axis_of_an_array_is_kept(shape: tuple[int, ...]):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    description = dataset_of(jnp.asarray(x), VALUES).description
    levels = units.from_model(description, units.to_model(description, x[3]))
    np.testing.assert_array_equal(levels, x[3])


def test_an_array_that_is_changed_afterwards_does_not_change_the_run():
    x = images()
    dataset = dataset_of(x, VALUES)
    x[:] = 0
    np.testing.assert_array_equal(dataset.train[0], images()[0].ravel())


# The kinds of data


CASES: dict[str, tuple[Any, str, str]] = {
    "bool": (images() > 127, "binary", "bernoulli"),
    "zeros and ones": ((images() > 127).astype(float), "binary", "bernoulli"),
    "levels": (images(), "grey", "continuous_bernoulli"),
    "floating point in [0, 1]": (images() / 255.0, "unit", "continuous_bernoulli"),
    "floating point": (table(), "real", "gaussian_shared"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kind_of_an_array_chooses_its_likelihood(case: str):
    x, kind, likelihood = CASES[case]
    dataset = dataset_of(x, VALUES)
    assert dataset.kind == kind
    words = runs.describe(build(VALUES, dataset), VALUES)
    assert f"({kind}, guessed; data.kind states it)" in words
    assert f", {likelihood}, " in words


@pytest.mark.usefixtures("standard_promotion")  # optax's Adam promotes a whole number
def test_a_small_array_has_smaller_minibatches():
    run = aevb.fit(table(12), {"train.num_examples": 100, "model.hidden": (4,)})
    assert run.config["train.batch_size"] == len(run.dataset.train) < 12


@pytest.mark.slow
def test_counts_are_modelled_in_their_own_units_whatever_their_size():
    counts = np.random.default_rng(0).poisson([0.01, 3.0, 50.0, 1e5], (200, 4))
    run = aevb.fit(counts, {**SMALL, "data.kind": "counts"})
    assert run.data.kind == "counts"
    np.testing.assert_array_equal(run.dataset.train[0], counts[0])
    mean = jax.jit(run.decode)(jnp.zeros(2))
    np.testing.assert_allclose(mean[1:], [3.0, 50.0, 1e5], rtol=0.5)
    statistics = jax.jit(jax.vmap(run.encode))(counts[:20])
    assert np.all(np.abs(statistics.mean) < 10.0)
    _, drawn = run.sample(KEY)
    np.testing.assert_array_equal(drawn, np.round(drawn))
    assert run.summary["test_bound"] < 0.0  # the log of a probability


def test_columns_of_a_data_frame_are_named_in_messages():
    class Frame:
        columns = ("height", "weight")

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            return np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]])

    with pytest.raises(UserError, match=r"x holds nan in datapoint 1, column 'weight'"):
        aevb.fit(Frame())


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(5), r"x has the shape \(5,\); give an array of numbers \[N, D\]"),
        (np.array([["a", "b"]] * 3), "x holds <U1; give an array"),
        (np.zeros((1, 4)), "x holds one datapoint"),
        (np.full((3, 2), np.inf), "x holds inf in datapoint 0, column 0"),
    ],
)
def test_an_unsuitable_array_is_refused_in_one_line(x: np.ndarray, words: str):
    with pytest.raises(UserError, match=words) as caught:
        aevb.fit(x)
    assert "\n" not in str(caught.value)


def test_a_wrong_field_is_refused():
    with pytest.raises(UserError, match=r"config\.model\.latents is unknown"):
        aevb.fit(table(), {"model.latents": 3})
    with pytest.raises(UserError, match=r"unknown \(do you mean config\.model\.num_latents\?\)"):
        aevb.fit(table(), {"num_latents": 3})
    with pytest.raises(UserError, match=r"config\.train\.num_examples is -1"):
        aevb.fit(table(), {"train.num_examples": -1})
    with pytest.raises(UserError, match="which is 'first'"):
        aevb.fit(table(), SMALL, which="first")


# Best and last, longer runs, saved ones


@pytest.mark.slow
def test_the_best_state_is_that_of_the_highest_validation_bound():
    fields = {**SMALL, "train.num_examples": 6000, "optimizer.step_size": 0.02}
    run = aevb.fit(table(), fields)
    best = max(run.history, key=lambda record: record["valid_bound"])
    assert run.summary["best_num_examples"] == best["examples"]
    score = make_score(run.model.vae, run.dataset.preprocess)
    valid = run.dataset.splits["valid"]
    found = score(run.model.params, valid, np.arange(len(valid))).mean
    assert found == pytest.approx(best["valid_bound"], rel=1e-5)
    assert found == pytest.approx(run.summary["best_valid_bound"], rel=1e-5)


def last_of(run: TrainedRun) -> str:
    origin = run.origin
    assert isinstance(origin, InMemory)
    return checkpoint.digest(origin.journal.state)


def test_an_extended_run_is_bitwise_the_longer_run(fitted: TrainedRun):
    whole = aevb.fit(table(), {**SMALL, "train.num_examples": 1300})
    extended = fitted.extend(1300)
    assert last_of(extended) == last_of(whole)
    assert last_of(extended) != last_of(fitted)
    assert extended.summary["test_bound"] == whole.summary["test_bound"]
    examples = {record["examples"] for record in whole.history}
    assert examples | {600} == {record["examples"] for record in extended.history}
    assert fitted.summary["num_examples"] == 600
    with pytest.raises(UserError, match="num_examples is 100, and the run has seen 600"):
        fitted.extend(100)


def test_a_saved_run_is_the_one_that_training_in_a_folder_writes(
    fitted: TrainedRun, tmp_path: Path
):
    saved = fitted.save(tmp_path / "saved")
    written = aevb.fit(table(), SMALL, folder=tmp_path / "written")
    names = {path.relative_to(saved).parts[0] for path in saved.rglob("*")}
    assert names == {
        path.relative_to(tmp_path / "written").parts[0]
        for path in (tmp_path / "written").rglob("*")
    }
    loaded = aevb.load_run(saved, which="best")
    for run in (loaded, written):
        jax.tree.map(np.testing.assert_array_equal, run.model.params, fitted.model.params)
        assert run.summary["test_bound"] == fitted.summary["test_bound"]
        np.testing.assert_array_equal(run.encode(table()[0]).mean, fitted.encode(table()[0]).mean)
    with pytest.raises(UserError, match=r"data\.name is 'array:.*data=x"):
        _ = loaded.dataset
    with_data = aevb.load_run(saved, data=table())
    np.testing.assert_array_equal(with_data.dataset.train, fitted.dataset.train)
    with pytest.raises(UserError, match="other values"):
        _ = aevb.load_run(saved, data=table() ** 3).dataset
    with pytest.raises(UserError, match=r"summary\.json is a file; name a new folder"):
        fitted.save(saved / "summary.json")
    before = contents_of(saved)
    with pytest.raises(UserError, match="holds files; name a new folder"):
        fitted.save(saved)
    assert contents_of(saved) == before


@pytest.mark.slow
def test_a_run_in_a_folder_goes_on_for_more_examples(tmp_path: Path):
    run = aevb.fit(table(), SMALL, folder=tmp_path / "short", which="last")
    longer = run.extend(1300)
    whole = aevb.fit(table(), {**SMALL, "train.num_examples": 1300}, which="last")
    jax.tree.map(np.testing.assert_array_equal, longer.model.params, whole.model.params)
    assert longer.summary["num_examples"] == 1300
    assert aevb.load_run(tmp_path / "short").summary["test_bound"] == longer.summary["test_bound"]
    before = contents_of(tmp_path / "short")
    with pytest.raises(
        UserError, match=r"holds a run of 1,300 .*num_examples is 600; it can go on"
    ):
        aevb.fit(table(), SMALL, folder=tmp_path / "short")
    assert contents_of(tmp_path / "short") == before
    copy = longer.save(tmp_path / "copy")
    assert aevb.load_run(copy).summary == longer.summary
    with pytest.raises(UserError, match="exists; name a new folder"):
        longer.save(copy)


def test_a_run_whose_extension_was_interrupted_is_not_finished(undisturbed: Path, tmp_path: Path):
    shutil.copytree(undisturbed, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    write_with_digest(config, {**read_with_digest(config), "train.num_examples": 30_000})
    with pytest.raises(UserError, match="a run that is not finished"):
        aevb.load_run(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_an_experiment_is_trained_by_its_name(tmp_path: Path):
    fields = {"model.hidden": (8,), "model.num_latents": 3, "train.num_examples": 200}
    run = aevb.train("frey_faces", fields, workdir=tmp_path / "a")
    assert (tmp_path / "a" / "summary.json").exists()
    assert run.decode(jnp.zeros(3)).shape == (28, 20)
    again = aevb.train("frey_faces", fields)
    jax.tree.map(np.testing.assert_array_equal, run.model.params, again.model.params)
    with pytest.raises(UserError, match="the experiment is 'faces'; name a file"):
        aevb.train("faces")


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", ["digits", "diabetes", "faces"])
def test_a_fit_without_a_setting_is_better_than_principal_components(name: str):
    """By the held-out log-density of real data, and by the distance of images to their means."""
    if name == "faces":
        splits = data.load("frey_faces").splits.values()
        x = np.concatenate([np.asarray(part) for part in splits]).reshape(-1, 28, 20)
    else:
        loaded: Any = load_digits() if name == "digits" else load_diabetes(scaled=False)
        x = loaded.images if name == "digits" else loaded.data
    run = aevb.fit(x)
    train, test = run.dataset.train, run.dataset.test
    flat = x.reshape(len(x), -1).astype(float)
    pca = PCA(2).fit(flat[: len(train)])
    held_out = flat[len(x) - len(test) :]
    if run.data.kind == "real":
        assert run.summary["best_test_bound"] > pca.score(held_out) + 4.0
    if run.data.image_shape is None:
        return  # PCA minimizes the distance in the units of the columns, the model in deviations
    encoded = jax.jit(jax.vmap(lambda one: run.decode(run.encode(one).mean)))(held_out)
    errors = [
        np.sqrt(np.mean(np.square(means.reshape(held_out.shape) - held_out)))
        for means in (encoded, pca.inverse_transform(pca.transform(held_out)))
    ]
    assert errors[0] < errors[1]


# Where it is called


def test_fitting_works_inside_a_running_event_loop(tmp_path: Path):
    async def body() -> TrainedRun:
        return aevb.fit(table(), {**SMALL, "train.num_examples": 40}, folder=tmp_path / "run")

    assert asyncio.run(body()).summary["num_examples"] == 40


@pytest.mark.slow
def test_fitting_works_in_another_thread():
    found: list[TrainedRun] = []

    def body() -> None:
        found.append(aevb.fit(table(), {**SMALL, "train.num_examples": 40}))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found[0].summary["num_examples"] == 40


def test_a_run_is_printed_in_one_line(fitted: TrainedRun):
    bound = fitted.summary["test_bound"]
    assert repr(fitted) == (
        f"<TrainedRun of {fitted.data.name}: 2 latent dimensions, 600 examples, test bound "
        f"{bound:.2f} nats>"
    )


def test_a_notebook_shows_bounds_curve_and_pictures(fitted: TrainedRun, faces: TrainedRun):
    for run, number in ((fitted, 1), (faces, 2)):
        text = run._repr_html_()
        assert text.count("<img") == number
        assert f"{run.summary['test_bound']:.2f} nats" in text


def test_the_settings_of_fit_are_those_of_an_experiment():
    assert with_values(own_data.get_config(), {}).model.likelihood == ""
