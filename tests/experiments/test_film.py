"""The study of the Frey film: its baselines, its errors of predictions, and one path through it."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from docs.tools import film as tables
from experiments.paper import film


def test_the_baselines_are_gaussians_with_the_training_variances():
    x = np.random.default_rng(0).normal(size=(100, 3)).cumsum(axis=0).astype(np.float32)
    found = film.baselines(x, 30, 40)
    train = x[:30].astype(np.float64)
    stds = np.sqrt(np.mean(np.diff(train, axis=0) ** 2, axis=0))
    expected = scipy.stats.norm.logpdf(x[40:], x[39:99], stds).sum(axis=1)
    previous, mean_face = found["previous_frame"], found["mean_face"]
    assert previous["log_p"] == pytest.approx(expected.mean(), rel=1e-5)
    np.testing.assert_allclose(previous["values"], expected, atol=0.06)
    expected = scipy.stats.norm.logpdf(x[40:], train.mean(axis=0), train.std(axis=0)).sum(axis=1)
    assert mean_face["log_p"] == pytest.approx(expected.mean(), rel=1e-4)
    origins = range(39, 50)
    for horizon in film.HORIZONS:
        off = np.concatenate([x[t + horizon] - x[t] for t in origins])
        assert previous["rmse"][str(horizon)] == pytest.approx(np.sqrt(np.mean(off**2)), rel=1e-5)


def test_models_of_single_frames_see_the_frames_of_as_many_windows():
    windows, frames = (film.values_of(name, 0, 40_000) for name in ("neural", "frames"))
    for field in ("train.num_examples", "train.batch_size"):
        assert frames[field] == windows["data.window"] * windows[field]
    same = ("model.hidden", "model.num_latents", "model.likelihood", "optimizer.step_size")
    assert all(frames[field] == windows[field] for field in same)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax's Adam promotes
def test_the_study_of_the_film_trains_scores_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "film.json"
    arguments = ["--quick", "--seeds=2", f"--runs={tmp_path / 'runs'}", f"--output={output}"]
    assert film.main(arguments) == 0
    found = json.loads(output.read_text())
    for name in film.MODELS:
        assert [run["seed"] for run in found["models"][name]] == [0, 1]
        assert all(np.isfinite(run["log_p"]) for run in found["models"][name])
    assert len(found["models"]["neural"][0]["values"]) == 393
    assert film.main(arguments) == 0
    assert json.loads(output.read_text())["models"] == found["models"]
    monkeypatch.setattr(tables, "FILE", output)
    assert "±" in tables.score_table()
    assert "previous frame" in tables.prediction_table()
