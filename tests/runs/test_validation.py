"""Choices are made on validation data: the test data are scored, and decide nothing."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from marks import slow_but

import aevb
from aevb import data, runs
from aevb.cli import doctor
from aevb.config import Values, default_config, validate, with_values
from aevb.data import Dataset, DatasetEntry, Options, synthetic
from aevb.errors import UserError
from aevb.evaluation.elbo import make_score
from aevb.storage import checkpoint
from aevb.sweeps import sweep
from aevb.sweeps.grid import best_of, make_plan

VALUES = {
    "data.name": "synthetic", "data.synthetic_num_train": 20, "data.synthetic_num_test": 50,
    "data.synthetic_num_dims": 6, "model.likelihood": "gaussian", "model.hidden": (8,),
    "optimizer.step_size": 0.1, "train.batch_size": 10, "train.num_examples": 2000,
    "train.first_eval": 100, "train.evals_per_decade": 2,
}  # fmt: skip


def values(**changes: Any) -> Values:
    return validate(with_values(default_config(), VALUES | changes))


def short(num_valid: int) -> Values:
    return values(**{"data.num_valid": num_valid, "train.num_examples": 400})


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run whose validation bound is highest before the end."""
    folder = tmp_path_factory.mktemp("validation") / "run"
    changes = {
        "model.hidden": (50,), "train.num_examples": 40_000, "train.first_eval": 3000,
        "train.evals_per_decade": 4,
    }  # fmt: skip
    runs.run(values(**changes), folder)
    return folder


@pytest.fixture(scope="module")
def without_validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run without validation data."""
    folder = tmp_path_factory.mktemp("without_validation") / "run"
    runs.run(short(0), folder)
    return folder


def test_the_best_checkpoint_is_the_one_with_the_highest_validation_bound(overfitted: Path):
    records = [json.loads(line) for line in (overfitted / "metrics.jsonl").read_text().splitlines()]
    highest = max(records, key=lambda record: record["valid_bound"])
    assert highest["examples"] < records[-1]["examples"]  # else best and last are the same
    best, last = aevb.load_run(overfitted, which="best"), aevb.load_run(overfitted)
    valid = best.dataset.splits["valid"]
    score = make_score(best.model.vae, best.dataset.preprocess)
    found = score(best.model.params, valid, np.arange(len(valid)))
    assert found.mean == pytest.approx(highest["valid_bound"], rel=1e-6)
    assert found.mean > score(last.model.params, valid, np.arange(len(valid))).mean


def test_the_summary_has_the_test_bound_of_the_last_and_of_the_best_checkpoint(overfitted: Path):
    summary = json.loads((overfitted / "summary.json").read_text())
    for which, prefix in (("last", ""), ("best", "best_")):
        run = aevb.load_run(overfitted, which=which)
        score = make_score(run.model.vae, run.dataset.preprocess)
        for split in ("valid", "test"):
            each = run.dataset.splits[split]
            found = score(run.model.params, each, np.arange(len(each)))
            assert summary[f"{prefix}{split}_bound"] == pytest.approx(found.mean, rel=1e-6)
            error = summary[f"{prefix}{split}_bound_standard_error"]
            assert error == pytest.approx(found.standard_error, rel=1e-6)


def test_a_run_without_validation_data_has_no_best_checkpoint(without_validation: Path):
    summary = json.loads((without_validation / "summary.json").read_text())
    assert "test_bound" in summary
    assert not [name for name in summary if name.startswith(("best_", "valid_"))]
    with pytest.raises(UserError, match="is a run without validation data"):
        aevb.load_run(without_validation, which="best")
    with pytest.raises(UserError, match="must be one of last, best"):
        aevb.load_run(without_validation, which="first")


def with_other_test_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the synthetic dataset other test data, far from the training data, one of them NaN."""

    def load(options: Options) -> Dataset:
        dataset = synthetic.load(options)
        test = dataset.test + 1000.0
        test[0] = np.nan
        return dataset._replace(test=test)

    monkeypatch.setitem(data.DATASETS, "synthetic", DatasetEntry(load))


def decided(folder: Path) -> dict[str, Any]:
    """Returns everything that a run has decided: its log, the kept checkpoints and its summary."""
    reader = checkpoint.open_reader(folder / "checkpoints")
    run = aevb.load_run(folder)
    digests = {
        step: checkpoint.digest(aevb.load_run(folder, step=step).model.params)
        for step in reader.all_steps()
    }

    def without_test(record: dict[str, Any]) -> dict[str, Any]:
        left_out = ("seconds", "examples_per_second", "digest")
        return {k: v for k, v in record.items() if "test_" not in k and k not in left_out}

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {
        "log": [without_test(json.loads(line)) for line in lines],
        "checkpoints": digests,
        "last": checkpoint.digest(run.model.params),
        "summary": without_test(json.loads((folder / "summary.json").read_text())),
    }


@pytest.mark.parametrize("num_valid", slow_but([-1], [-1, 0]))
def test_no_decision_of_a_run_changes_when_the_test_data_do(
    num_valid: int, without_validation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    these = without_validation
    if num_valid:
        these = tmp_path / "these"
        runs.run(short(num_valid), these)
    first = decided(these)
    with_other_test_data(monkeypatch)
    runs.run(short(num_valid), tmp_path / "others")
    assert decided(tmp_path / "others") == first


@pytest.mark.slow
def test_no_early_end_average_or_hint_of_a_run_changes_when_the_test_data_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = {
        "algorithm.average_decay": 0.9, "algorithm.kl_schedule": "linear", "train.eval_every": 100,
        "algorithm.kl_schedule_options": {"warmup_examples": 200}, "train.patience": 1,
    }  # fmt: skip
    runs.run(values(**changes), tmp_path / "these")
    first, hints = decided(tmp_path / "these"), doctor.report(tmp_path / "these")
    assert first["summary"]["stopped_early"]
    assert "bound after" in hints
    with_other_test_data(monkeypatch)
    runs.run(values(**changes), tmp_path / "others")
    assert decided(tmp_path / "others") == first
    assert doctor.report(tmp_path / "others") == hints


@pytest.mark.slow
@pytest.mark.parametrize("by", ["train", "valid"])
def test_no_choice_of_a_sweep_changes_when_the_test_data_do(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step_sizes = best_of(1e-4, 0.1, num_examples=200, by=by)
    axes = {"optimizer.step_size": step_sizes, "seed": (0,)}
    plan = make_plan(with_values(default_config(), VALUES | {"train.num_examples": 200}), axes)
    (trial,) = sweep.run(plan, tmp_path / "these", "sequence")["trials"]
    assert trial["by"] == f"{by}_bound"
    best = max(trial["tried"], key=lambda one: one[f"{by}_bound"])
    assert trial["chosen"] == {"optimizer.step_size": best["optimizer.step_size"]}
    with_other_test_data(monkeypatch)
    assert sweep.run(plan, tmp_path / "others", "sequence")["trials"] == [trial]


@pytest.mark.slow
def test_a_sweep_of_full_vb_chooses_by_the_bound_that_includes_the_kl_of_theta(tmp_path: Path):
    """The step that lowers the objective most is not the one with the higher bound at the mean."""
    changes = VALUES | {"algorithm.name": "full_vb", "train.num_examples": 200}
    axes = {"optimizer.step_size": best_of(1e-4, 0.02, num_examples=200), "seed": (0,)}
    plan = make_plan(with_values(default_config(), changes), axes)
    (trial,) = sweep.run(plan, tmp_path, "sequence")["trials"]
    assert trial["by"] == "train_objective"
    best = max(trial["tried"], key=lambda one: one["train_objective"])
    assert trial["chosen"] == {"optimizer.step_size": best["optimizer.step_size"]}


def test_a_choice_by_validation_needs_validation_data(tmp_path: Path):
    changes = VALUES | {"data.num_valid": 0, "train.num_examples": 100}
    axes = {"optimizer.step_size": best_of(0.01, 0.1, num_examples=100, by="valid")}
    plan = make_plan(with_values(default_config(), changes), axes)
    with pytest.raises(UserError, match=r"there are no validation data; set"):
        sweep.run(plan, tmp_path / "sweep", "sequence")
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(UserError, match="chosen by 'test'; it must be one of train, valid"):
        make_plan(default_config(), {"optimizer.step_size": best_of(0.1, by="test")})


@pytest.mark.slow
def test_the_objective_of_full_vb_is_the_mean_bound_at_random_theta_less_the_kl(
    tmp_path: Path,
):
    """Compares the summary with `log_evidence_bound`, whose error it must be within."""
    from aevb.algorithms import full_vb
    from aevb.evaluation.elbo import fixed_inputs
    from aevb.experiment import build
    from aevb.runs.load import read_state

    changes = {"algorithm.name": "full_vb", "data.synthetic_num_train": 500}
    config = values(**changes, **{"train.num_examples": 1000})
    summary = runs.run(config, tmp_path)
    dataset, vae, algorithm = build(config)
    state = read_state(tmp_path, build(config).algorithm, config)
    assert algorithm.objective is not None
    x = fixed_inputs(dataset.preprocess, np.arange(500), dataset.train)
    bound, error = jax.jit(
        lambda key: full_vb.log_evidence_bound(key, vae, state.params, x, num_samples=100, stds=1.0)
    )(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 500)
    own = jax.vmap(lambda key, x: algorithm.objective(key, state.params, x))(keys, x)  # pyright: ignore[reportOptionalCall]
    expected, off = float(bound) / 500, float(np.hypot(error / 500, np.std(own) / np.sqrt(500)))
    assert abs(summary["train_objective"] - expected) < 4 * off
    assert abs(summary["train_objective"] - summary["train_bound"]) > 4 * off  # the KL of theta
