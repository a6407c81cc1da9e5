"""The page of a run: one file with all that it shows, which decodes like the run."""

import base64
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from javascript import Engine
from pages import content_of
from programs import program

import aevb
from aevb import runs
from aevb.cli import explore
from aevb.config import default_config, validate, with_values
from aevb.experiment import Experiment, build
from aevb.reports.explorer import explorer_page
from aevb.reports.pages import page
from aevb.types import PyTree

QUICK = {"train.num_examples": 2000, "train.first_eval": 1000}
REAL = {
    **QUICK, "data.name": "synthetic", "data.synthetic_num_train": 200,
    "data.synthetic_num_test": 50, "data.synthetic_num_dims": 6, "model.likelihood": "gaussian",
    "model.hidden": (8,), "model.num_latents": 4, "model.guide": "full_normal",
    "algorithm.bound": "sgvb_a",
}  # fmt: skip


SUMMARY = {
    "train_bound": -1.0, "train_bound_standard_error": 0.1, "test_bound": -2.0,
    "test_bound_standard_error": 0.1, "num_examples": 0,
}  # fmt: skip


def page_of_untrained(values: dict[str, Any]) -> tuple[Experiment, PyTree, dict[str, Any]]:
    """Returns an untrained model, its parameters and the content of its page."""
    config = validate(with_values(default_config(), values))
    experiment = build(config)
    algorithm = experiment.algorithm
    params = algorithm.vae_params(jax.jit(algorithm.init)(jax.random.key(0)).params)
    return experiment, params, content_of(explorer_page(experiment, params, [], config, SUMMARY))


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_the_page_is_one_small_file_that_asks_for_nothing(faces: Path):
    text = (faces / "explorer.html").read_text()
    assert len(text) < 3_000_000
    assert "<!-- " not in text
    without_names = text.replace("http://www.w3.org/2000/svg", "")  # not a fetched address
    assert not re.search(r"https?://|\bsrc=|@import|url\(|fetch\(|XMLHttpRequest", without_names)


def test_its_decoder_is_the_runs(faces: Path):
    run = aevb.load_run(faces)
    decode = Engine(content_of((faces / "explorer.html").read_text())["decoder"])
    for key in jax.random.split(jax.random.key(0), 10):
        z = 2.0 * jax.random.normal(key, (2,))
        np.testing.assert_allclose(decode(np.asarray(z)), run.decode(z), atol=1e-5)


def test_its_points_are_where_the_encoder_puts_the_data(faces: Path):
    run, content = aevb.load_run(faces), content_of((faces / "explorer.html").read_text())
    points = content["points"]
    places = points["places"]
    x = run.dataset.preprocess(jax.random.key(0), jnp.asarray(run.dataset.test[places]))
    means = jax.vmap(run.encode)(x).mean
    np.testing.assert_allclose(floats(points["means"]).reshape(-1, 2), means, atol=1e-5)
    summary = runs.inspect(faces, run.config) or {}
    assert len(places) == len(run.dataset.test)
    assert floats(points["bounds"]).mean() == pytest.approx(summary["test_bound"], rel=1e-4)
    assert len(points["pictured"]) == 100


def test_units_are_ordered_by_their_kl(faces: Path):
    content = content_of((faces / "explorer.html").read_text())
    kls = [unit["kl"] for unit in content["units"]]
    assert kls == sorted(kls, reverse=True)
    run = aevb.load_run(faces)
    x = run.dataset.preprocess(jax.random.key(0), jnp.asarray(run.dataset.test))
    total = jax.vmap(lambda one: run.encode(one).kl_to_standard_normal())(x).mean()
    assert sum(kls) == pytest.approx(float(total), rel=1e-4)


def test_settings_tell_what_is_not_the_default(faces: Path):
    settings = content_of((faces / "explorer.html").read_text())["config"]
    changed = {one["name"] for one in settings if not one["is_default"]}
    assert {*QUICK, "model.hidden"} <= changed
    assert "model.num_latents" not in changed


@pytest.mark.slow
def test_data_that_are_no_images_and_another_guide_have_a_page():
    experiment, params, content = page_of_untrained(REAL)
    assert content["image"]["shape"] == [1, 6]
    assert content["image"]["low"] < 0 < content["image"]["high"]
    x = jnp.asarray(experiment.dataset.test[content["points"]["places"]])
    means = floats(content["points"]["means"]).reshape(-1, 4)
    errors = np.abs(means - jax.vmap(lambda one: experiment.vae.encode(params, one).mean)(x))
    assert 0.0 < errors.max() < 6 / 8  # the mean of 64 draws with a standard deviation below 1


@pytest.mark.slow
def test_a_model_without_an_encoder_has_a_page_without_points():
    values = {**REAL, "model.guide": "diag_normal", "algorithm.name": "mcem"}
    _, _, content = page_of_untrained(values)
    assert content["points"] is None
    assert content["decoder"] is not None


def test_no_text_of_the_content_can_end_it():
    evil = "</script><script>alert(1)</script><!-- scripts -->"
    text = page("explorer", evil, {"title": evil})
    assert content_of(text) == {"title": evil}
    assert text.count("<script") == 2


def test_aevb_explore_writes_it_anew(faces: Path, tmp_path: Path):
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
def test_a_mistake_gets_one_line(
    faces: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert explore.main([str(faces) if one == "RUN" else one for one in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
