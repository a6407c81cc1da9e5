"""`aevb doctor`: what it prints of sound, unfinished and diverged runs, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from aevb import runs
from aevb.cli import doctor
from aevb.config import default_config, validate, with_values
from aevb.errors import UserError


def values(data: Path, **changes: object) -> dict[str, object]:
    fields = {
        "data.name": f"file:{data}", "model.hidden": (20,), "train.batch_size": 20,
        "train.num_examples": 2000, "train.first_eval": 100, "optimizer.step_size": 0.02,
        "model.likelihood": "",
    }  # fmt: skip
    return dict(validate(with_values(default_config(), {**fields, **changes})))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Returns the file of a table whose last column copies its first one."""
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2)) @ random.normal(size=(2, 5)) + random.normal(size=(300, 5))
    np.save(tmp_path / "table.npy", np.column_stack([x, 2.0 * x[:, 0] + 1.0]))
    return tmp_path / "table.npy"


def test_a_fault_of_the_data_is_printed_before_training_and_by_the_doctor(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs.run(values(table), tmp_path / "run")
    assert "copied_column: a column is a copy of another one" in capsys.readouterr().out
    assert doctor.main([str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "bound after 2,000 examples: train " in printed
    assert "gaussian_shared without z: train " in printed
    assert "copied_column" in printed
    assert "columns 0 and 5 (from 0)" in printed


@pytest.mark.slow
def test_a_run_without_a_checkpoint_is_diagnosed_by_its_data(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs.run(values(table, **{"train.num_examples": 200}), tmp_path / "run")
    for name in ("checkpoints", "metrics.jsonl", "summary.json"):
        inner = tmp_path / "run" / name
        shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
    capsys.readouterr()
    assert doctor.main([str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "the run has no evaluation yet" in printed
    assert "copied_column" in printed


def test_a_sound_run_has_no_fault_and_nothing_is_written(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
):
    before = sorted(file.stat().st_mtime_ns for file in undisturbed.rglob("*"))
    assert doctor.main([str(undisturbed)]) == 0
    assert "bound after" in capsys.readouterr().out
    assert sorted(file.stat().st_mtime_ns for file in undisturbed.rglob("*")) == before


def test_a_folder_that_is_no_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert doctor.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is not the folder of a run" in error


def test_the_summary_of_a_run_has_the_hints_of_its_log(table: Path, tmp_path: Path):
    runs.run(values(table, **{"optimizer.step_size": 1e-6}), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    causes = [hint["cause"] for hint in summary["hints"]]
    assert causes
    assert all(hint["evidence"] and hint["remedy"] for hint in summary["hints"])


def test_a_non_finite_step_is_reported_with_its_probable_cause(table: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"is -?(nan|inf|not finite).*config\.optimizer"):
        runs.run(values(table, **{"optimizer.step_size": 1e30}), tmp_path / "run")
