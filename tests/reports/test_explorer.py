"""The page of a run: one file with all that it shows, which decodes like the run."""

import base64
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probit_entries
import pytest
import scipy.stats
from javascript import Engine, PageEngine
from marks import slow_but
from pages import content_of, floats, page_of_untrained, page_without_decoder
from PIL import Image
from programs import program

import aevb
from aevb import label_models, labels, runs
from aevb.cli import explore
from aevb.experiments import frey_film
from aevb.reports import explorer, films
from aevb.reports.pages import page

QUICK = {"train.num_examples": 2000, "train.first_eval": 1000}
REAL = {
    **QUICK, "data.name": "synthetic", "data.synthetic_num_train": 200,
    "data.synthetic_num_test": 50, "data.synthetic_num_dims": 6, "model.likelihood": "gaussian",
    "model.hidden": (8,), "model.num_latents": 4, "model.guide": "full_normal",
    "algorithm.bound": "sgvb_a",
}  # fmt: skip


def test_the_explorer_page_is_one_small_file_without_external_requests(faces: Path):
    text = (faces / "explorer.html").read_text()
    assert len(text) < 3_000_000
    assert "<!-- " not in text
    without_names = text.replace("http://www.w3.org/2000/svg", "")  # not a fetched address
    assert not re.search(r"https?://|\bsrc=|@import|url\(|fetch\(|XMLHttpRequest", without_names)


def test_the_decoder_of_the_explorer_page_is_that_of_the_run(faces: Path):
    run = aevb.load_run(faces)
    decode = Engine(content_of((faces / "explorer.html").read_text())["decoder"])
    expected = jax.jit(run.model.decode)
    for z in np.random.default_rng(0).normal(scale=2.0, size=(10, 2)).astype(np.float32):
        np.testing.assert_allclose(decode(z), expected(jnp.asarray(z)), atol=1e-5)


def test_the_scripts_of_the_explorer_page_decode_at_the_point(faces: Path):
    run, engine = aevb.load_run(faces), PageEngine((faces / "explorer.html").read_text())
    engine("moveTo(0.8, 0.3)")
    z = engine("state.z")
    np.testing.assert_allclose(scipy.stats.norm.cdf(z), [0.8, 0.3], atol=1e-6)
    decoded = engine("Array.from(decode(state.z))")
    np.testing.assert_allclose(decoded, run.model.decode(jnp.array(z)), atol=1e-5)
    assert engine("document.getElementById('z').textContent") == f"{z[0]:.2f}, {z[1]:.2f}"
    assert engine("document.getElementById('precomputed').textContent") == ""


def test_points_of_the_explorer_page_are_the_means_of_the_encoder(faces: Path):
    run, content = aevb.load_run(faces), content_of((faces / "explorer.html").read_text())
    points = content["points"]
    places = points["places"]
    x = run.dataset.preprocess(jax.random.key(0), jnp.asarray(run.dataset.test[places]))
    means = jax.jit(jax.vmap(run.model.encode))(x).mean
    np.testing.assert_allclose(floats(points["means"]).reshape(-1, 2), means, atol=1e-5)
    summary = runs.inspect(faces, run.config) or {}
    assert len(places) == len(run.dataset.test)
    assert floats(points["bounds"]).mean() == pytest.approx(summary["test_bound"], rel=1e-4)
    assert len(points["pictured"]) == 100


def test_the_explorer_page_opens_at_the_training_frame_that_is_reconstructed_best(faces: Path):
    run, text = aevb.load_run(faces), (faces / "explorer.html").read_text()
    train = run.dataset.train[np.linspace(0, len(run.dataset.train) - 1, 100).astype(int)]
    x = run.dataset.preprocess(jax.random.key(0), jnp.asarray(train))
    z = jax.vmap(run.model.encode)(x).mean
    errors = np.square(np.asarray(jax.vmap(run.model.decode)(z)) - x).sum(axis=1)
    best = np.argmin(errors)
    engine = PageEngine(text)
    np.testing.assert_allclose(engine("state.z"), z[best], atol=1e-5)
    opened = np.asarray(engine("Array.from(decode(state.z))"))
    assert np.square(opened - x[best]).sum() == pytest.approx(errors.min(), rel=1e-3)


def test_latents_of_the_explorer_page_are_sorted_by_their_kl(faces: Path):
    content = content_of((faces / "explorer.html").read_text())
    kls = [unit["kl"] for unit in content["units"]]
    assert kls == sorted(kls, reverse=True)
    run = aevb.load_run(faces)
    x = run.dataset.preprocess(jax.random.key(0), jnp.asarray(run.dataset.test))
    kl = jax.jit(jax.vmap(lambda one: run.model.encode(one).kl_to_standard_normal()))
    total = kl(x).mean()
    assert sum(kls) == pytest.approx(float(total), rel=1e-4)


def test_settings_of_the_explorer_page_mark_those_that_are_not_default(faces: Path):
    settings = content_of((faces / "explorer.html").read_text())["config"]
    changed = {one["name"] for one in settings if not one["is_default"]}
    assert {*QUICK, "model.hidden"} <= changed
    assert "model.num_latents" not in changed


@pytest.mark.slow
def test_data_other_than_images_and_another_guide_have_an_explorer_page():
    experiment, params, text = page_of_untrained(REAL)
    content = content_of(text)
    assert content["image"]["shape"] == [1, 6]
    assert content["image"]["low"] < 0 < content["image"]["high"]
    x = jnp.asarray(experiment.dataset.test[content["points"]["places"]])
    means = floats(content["points"]["means"]).reshape(-1, 4)
    expected = jax.vmap(lambda one: experiment.vae.encode(params, one).mean)(x)
    np.testing.assert_allclose(means, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_the_explorer_page_of_layers_moves_the_last_one(inference: str):
    """The layers below are at their means, and the points are the means of q(z2|x)."""
    values = {
        **REAL, "model.guide": "diag_normal", "algorithm.bound": "sgvb_b",
        "model.num_latents": (3, 2), "model.inference": inference, "model.layer_hidden": (5,),
    }  # fmt: skip
    experiment, params, text = page_of_untrained(values)
    top = jnp.float32([0.4, -1.2])
    vae = experiment.vae
    expected = vae.mean(params, vae.prior(params).mean_below(top))
    engine = PageEngine(text)
    found = engine("Array.from(decode([0.4, -1.2]))")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    content = content_of(text)
    means = floats(content["points"]["means"]).reshape(-1, 2)
    assert len(means) == len(content["points"]["places"])
    if inference == "top_down":
        x = jnp.asarray(experiment.dataset.test[content["points"]["places"]])
        exact = jax.vmap(lambda one: vae.encode(params, one)["z2"].mean)(x)
        assert np.abs(means - exact).max() < 6 / 8 * 1.5  # the means of 64 draws


@pytest.mark.slow
def test_a_model_without_an_encoder_has_an_explorer_page_without_points():
    values = {**REAL, "model.guide": "diag_normal", "algorithm.name": "mcem"}
    _, _, text = page_of_untrained(values)
    content = content_of(text)
    assert content["points"] is None
    assert content["decoder"] is not None
    assert PageEngine(text)("state.z") == [0.0] * 4


@pytest.mark.parametrize("num_latents", slow_but([2], [2, 5]))
def test_an_unsupported_decoder_has_an_explorer_page_with_precomputed_points(num_latents: int):
    experiment, params, text = page_without_decoder(num_latents)
    assert len(text) < 2_000_000
    content = content_of(text)
    assert content["decoder"] is None
    grid = content["grid"]
    assert "there is no JavaScript for JAX's operation erf" in grid["note"]
    z = floats(grid["latents"]).reshape(-1, num_latents)
    means = floats(content["points"]["means"]).reshape(-1, num_latents)
    pictured = content["points"]["pictured"]
    np.testing.assert_array_equal(z[-len(pictured) :], means[pictured])

    axes = [unit["unit"] for unit in content["units"][:3]]
    assert grid["num_axes"] == len(axes) == min(num_latents, 3)
    on_grid, side = z[: -len(pictured)], {2: 35, 5: 10 - 1}[num_latents]
    assert len(np.unique(on_grid, axis=0)) == len(on_grid) == side ** len(axes)
    quantiles = (np.arange(side) + 0.5) / side
    for unit in axes:
        found = np.unique(scipy.stats.norm.cdf(on_grid[:, unit]))
        np.testing.assert_allclose(found, quantiles, atol=1e-6)
    assert not np.any(np.delete(on_grid, axes, axis=1))

    pictures = np.frombuffer(base64.b64decode(grid["pictures"]), np.uint8).reshape(len(z), -1)
    decode = jax.jit(jax.vmap(lambda one: experiment.vae.mean(params, one)))
    expected = 255.0 * decode(jnp.asarray(z))
    np.testing.assert_allclose(pictures, np.clip(expected, 0.0, 255.0), atol=0.51)


def test_an_explorer_page_without_a_decoder_shows_the_nearest_precomputed_point(
    monkeypatch: pytest.MonkeyPatch,
):
    """Nearest in the square of the page, whose axes are quantiles of N(0, 1)."""
    monkeypatch.setattr(explorer, "MOST_PRECOMPUTED", 100_000)
    _, _, text = page_without_decoder(4)
    engine, content = PageEngine(text), content_of(text)
    grid = content["grid"]
    assert engine("document.getElementById('precomputed').textContent") == grid["note"]
    assert engine("document.getElementById('precomputed').hidden") is False
    assert engine("state.z") == content["start"]
    assert engine("[...sliders.keys()]") == [unit["unit"] for unit in content["units"][:3]]
    z = floats(grid["latents"]).reshape(-1, 4).astype(np.float64)
    pictures = np.frombuffer(base64.b64decode(grid["pictures"]), np.uint8).reshape(len(z), -1)
    quantiles = scipy.stats.norm.cdf(z)
    for wanted in np.random.default_rng(0).normal(size=(20, 4)):
        engine(f"move({wanted.tolist()})")
        distances = np.square(quantiles - scipy.stats.norm.cdf(wanted)).sum(axis=1)
        nearest = int(np.argmin(distances))
        np.testing.assert_allclose(engine("decode(state.z)"), pictures[nearest] / 255)
        numbers = engine("document.getElementById('z').textContent").split(", ")
        np.testing.assert_allclose([*map(float, numbers)], z[nearest], atol=0.00501)
    engine("choose(3)")
    datapoint = content["points"]["pictured"][3]
    np.testing.assert_allclose(engine("state.z"), engine(f"means[{datapoint}]"))
    reconstruction = pictures[len(z) - len(content["points"]["pictured"]) + 3]
    np.testing.assert_allclose(engine("decode(state.z)"), reconstruction / 255)


@pytest.mark.slow
def test_a_run_with_an_own_likelihood_has_a_working_explorer_page(tmp_path: Path):
    file = Path(probit_entries.__file__)
    program("-m", "aevb", "run", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    text = (tmp_path / "run" / "explorer.html").read_text()
    engine, run = PageEngine(text), aevb.load_run(tmp_path / "run")
    engine("moveTo(0.31, 0.74)")
    expected = run.model.decode(jnp.array(engine("at(state.z)")))
    np.testing.assert_allclose(engine("decode(state.z)"), expected, atol=0.51 / 255)
    np.testing.assert_allclose(engine("at(state.z).map(cdf)"), [0.31, 0.74], atol=0.71 / 35)


@pytest.mark.slow
def test_a_mixture_of_logistics_has_an_explorer_page_that_decodes_as_the_model(tmp_path: Path):
    images = np.random.default_rng(0).integers(256, size=(60, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    values = {**REAL, "data.name": f"file:{tmp_path / 'images.npy'}", "train.batch_size": 5}
    values |= {"model.likelihood": "discretized_logistic_mixture"}
    experiment, params, text = page_of_untrained(values)
    engine = PageEngine(text)
    expected = experiment.vae.mean(params, jnp.array(engine("state.z")))
    np.testing.assert_allclose(engine("Array.from(decode(state.z))"), expected, atol=1e-5)


def test_a_large_decoder_has_an_explorer_page_with_precomputed_points(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(explorer, "MOST_PROGRAM", 100)
    values = {**REAL, "model.guide": "diag_normal", "algorithm.name": "mcem"}
    _, _, text = page_of_untrained(values)
    assert "the decoder is too large" in PageEngine(text)("grid.note")


def test_an_explorer_page_with_a_decoder_has_no_precomputed_points(faces: Path):
    content = content_of((faces / "explorer.html").read_text())
    assert content["why_not"] == ""
    assert "grid" not in content


def test_text_of_the_content_cannot_close_the_script_element():
    evil = "</script><script>alert(1)</script><!-- scripts -->"
    text = page("explorer", evil, {"title": evil})
    assert content_of(text) == {"title": evil}
    assert text.count("<script") == 2


def test_the_explore_command_writes_the_same_page_again(faces: Path, tmp_path: Path):
    written = program("-m", "aevb", "explore", faces, f"--output={tmp_path / 'page.html'}").strip()
    pages = (Path(written), faces / "explorer.html")
    again, first = (content_of(path.read_text()) for path in pages)
    for content in (again, first):  # equal up to rounding, on another number of devices
        points = content["points"]
        points["means"], points["bounds"] = floats(points["means"]), floats(points["bounds"])
    for part in ("means", "bounds"):
        np.testing.assert_allclose(again["points"].pop(part), first["points"].pop(part), rtol=1e-3)
    assert again.keys() == first.keys()
    for part in again.keys() - {"units"}:
        assert again[part] == first[part], part


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["missing"], "missing"),
        (["RUN", "--step=7"], "step is 7"),
        (["RUN", "--output=missing/page.html"], "missing"),
    ],
)
def test_a_wrong_argument_of_explore_is_refused_in_one_line(
    faces: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert explore.main([str(faces) if one == "RUN" else one for one in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


CLASSES = ["a & <b>", "é", "数据"]


def of_classes(folder: Path) -> dict[str, Any]:
    """Returns settings for images in a folder for each class, which it writes."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for other in range(10):
            pixels = np.full((4, 4), 20 * number + other, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{other}.png")
    return {
        **REAL, "data.name": f"images:{folder}", "train.batch_size": 5,
        "model.likelihood": "discretized_logistic", "model.guide": "diag_normal",
    }  # fmt: skip


def test_points_of_the_explorer_page_have_the_colors_of_their_classes(tmp_path: Path):
    names = CLASSES
    experiment, _, text = page_of_untrained(of_classes(tmp_path))
    content = content_of(text)
    assert content["class_names"] == names
    classes = content["points"]["classes"]
    assert classes == [int(one[0]) // 20 for one in experiment.dataset.test]
    assert sorted(set(classes)) == [0, 1, 2]
    engine = PageEngine(text)
    colors = engine("colorsByClass(points.classes)[0]")
    assert len(set(colors)) == 3
    assert [colors.index(color) for color in colors] == [classes.index(k) for k in classes]
    assert engine("points.classes.map((_, point) => classOf(point))") == [
        f", {names[k]}" for k in classes
    ]


def test_the_explorer_page_of_data_without_labels_has_no_classes(faces: Path):
    text = (faces / "explorer.html").read_text()
    assert content_of(text)["class_names"] == content_of(text)["points"]["classes"] == []
    assert PageEngine(text)("classOf(0)") == ""


def test_the_explorer_page_of_a_model_with_labels_moves_z_at_a_label(tmp_path: Path):
    values = {**of_classes(tmp_path), "model.labels": "m2", "data.num_labels": 6}
    experiment, params, text = page_of_untrained(values | {"model.num_latents": 2})
    vae, content, engine = experiment.vae, content_of(text), PageEngine(text)
    assert content["support"] == ""
    assert sorted(unit["unit"] for unit in content["units"]) == [3, 4]
    assert all(unit["kl"] >= 0.0 for unit in content["units"])
    x = jnp.asarray(experiment.dataset.test[0] / 256.0, jnp.float32)
    label, own = label_models.most_probable(jax.jit(vae.encode)(params, x))
    expected = labels.join(label, own.mean, 3)
    np.testing.assert_allclose(engine("means[0]"), expected, atol=1e-5)
    engine("move(withUnits([0, 0, 1, 0, 0], (_, unit) => unit / 10))")
    assert engine("labelOf(state.z)") == 2
    at = labels.join(jnp.int32(2), jnp.float32([0.3, 0.4]), 3)
    decoded = engine("Array.from(decode(state.z))")
    np.testing.assert_allclose(decoded, jax.jit(vae.mean)(params, at), atol=1e-5)
    engine("(state.chosen = [0, 1], moveBetween(0.3))")
    first, second = (np.array(engine(f"means[points.pictured[{n}]]")) for n in range(2))
    found = engine("state.z")
    np.testing.assert_array_equal(found[:3], first[:3])
    np.testing.assert_allclose(found[3:], 0.7 * first[3:] + 0.3 * second[3:], rtol=1e-5)


@pytest.mark.parametrize("dynamics", slow_but(["neural"], ["", "neural"]))
def test_the_explorer_page_of_windows_plays_films(dynamics: str):
    values = {
        "data.window": 4, "data.num_train": 40, "model.dynamics": dynamics, "model.hidden": (5,),
        "model.num_latents": 3, "model.layer_hidden": (5,), "train.batch_size": 8,
        "optimizer.name": "adagrad",
    }  # fmt: skip
    if not dynamics:
        values["model.sequence_guide"] = "smoothing"
    experiment, params, text = page_of_untrained(values, frey_film.get_config())
    vae, content, engine = experiment.vae, content_of(text), PageEngine(text)
    assert [film["frames"] for film in content["films"]] == 6 * [4] + 3 * [60 if dynamics else 4]
    window = experiment.dataset.test[0].reshape(4, 560) / 256.0
    shown = np.array(engine("reels[0].shown"))
    np.testing.assert_allclose(shown, window, atol=1 / 255)
    key = jax.random.split(jax.random.key(films.SEED), films.NUM_SAMPLED)[0]
    prior = vae.prior(params)
    if dynamics:
        z = prior.prior._replace(num_steps=60).sample(key)
        mean = jax.vmap(lambda one: vae.frame.mean(params, one))(z)
    else:
        mean = vae.mean(params, prior.sample(key)).reshape(4, 560)
    np.testing.assert_allclose(engine("reels[6].shown"), np.clip(mean, 0, 1), atol=1 / 255)
    engine("showFrame(5)")
    assert engine("find('films').hidden") is False


def test_the_explorer_page_of_one_frame_a_datapoint_has_no_films(faces: Path):
    text = (faces / "explorer.html").read_text()
    assert content_of(text)["films"] == []
    assert PageEngine(text)("find('films').hidden") is True


def test_the_explorer_page_marks_missing_values():
    values = {
        "data.name": "frey_faces", "data.num_train": 64, "data.hide": "blocks",
        "model.hidden": (5,), "model.num_latents": 2, "train.batch_size": 8,
        "algorithm.bound": "sgvb_a",
    }  # fmt: skip
    experiment, _, text = page_of_untrained(values)
    points, engine = content_of(text)["points"], PageEngine(text)
    places = np.array(points["places"])[points["pictured"]]
    is_missing = np.isnan(experiment.dataset.test[places])
    assert 0.0 < is_missing.mean() < 1.0
    np.testing.assert_array_equal(engine("gaps"), is_missing)
    assert engine("find('gaps').hidden") is False
