"""The end of a run that is out of patience: where, after a kill, in a stack, without a folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from refusals import refusal

import aevb
from aevb import runs
from aevb.config import Values, default_config, validate, with_values
from aevb.storage.metrics_log import read_records
from aevb.sweeps import sweep
from aevb.sweeps.grid import make_plan
from aevb.training.settings import evaluation_steps, is_out_of_patience

EVERY, PATIENCE = 400, 2
OVERFITTING = {
    "data.name": "synthetic", "data.synthetic_num_train": 20, "data.synthetic_num_test": 50,
    "data.synthetic_num_dims": 6, "model.likelihood": "gaussian", "model.hidden": (50,),
    "optimizer.step_size": 0.1, "train.batch_size": 10, "train.num_examples": 40_000,
    "train.eval_every": EVERY, "train.patience": PATIENCE,
}  # fmt: skip


def values(**changes: Any) -> Values:
    return validate(with_values(default_config(), OVERFITTING | changes))


def summary_of(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    left_out = ("seconds", "examples_per_second", "digest")
    return {name: value for name, value in summary.items() if name not in left_out}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run that has stopped early, to read."""
    folder = tmp_path_factory.mktemp("early") / "run"
    runs.run(values(), folder)
    return folder


def of_bounds(*bounds: float, weights: tuple[float, ...] = ()) -> list[dict[str, float]]:
    records = [{"valid_bound": bound} for bound in bounds]
    for record, weight in zip(records, weights, strict=False):
        record["recent_kl_weight"] = weight
    return records


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], False),
        (of_bounds(-3, -1, -2), False),
        (of_bounds(-3, -1, -2, -2), True),
        (of_bounds(-3, -1, -2, -1), False),  # an equal bound is a new best one, as in load_run
        (of_bounds(-3, -1, -2, -1, -4, -5), True),
        (of_bounds(-1, -2, -3, -4, weights=(0.2, 0.6, 0.9, 1.0)), False),
        (of_bounds(-1, -2, -3, -4, weights=(0.2, 1.0, 1.0, 1.0)), True),
        ([{"test_bound": -1.0}] * 9, False),
    ],
)
def test_patience_counts_the_evaluations_since_the_best(records: list, expected: bool):
    assert is_out_of_patience(records, PATIENCE) is expected
    assert not is_out_of_patience(records, 0)


def test_evaluations_can_be_evenly_spaced():
    settings = runs.settings_of(values(**{"train.num_examples": 1490, "train.eval_every": 405}))
    assert evaluation_steps(settings) == [40, 80, 120, 149]
    assert evaluation_steps(settings._replace(eval_every=5000)) == [149]


def test_a_run_stops_when_it_is_out_of_patience(stopped: Path):
    summary, records = summary_of(stopped), read_records(stopped / "metrics.jsonl")
    best = max(records, key=lambda record: record["valid_bound"])["examples"]
    assert [record["examples"] for record in records] == list(
        range(EVERY, best + PATIENCE * EVERY + 1, EVERY)
    )
    assert summary["stopped_early"]
    assert summary["num_examples"] == records[-1]["examples"] < OVERFITTING["train.num_examples"]
    assert summary["best_num_examples"] == best
    assert int(aevb.load_run(stopped).step) == summary["num_examples"] // 10


def test_a_stopped_run_is_finished_for_any_length(stopped: Path):
    before = summary_of(stopped)
    again = runs.run(values(**{"train.num_examples": 80_000}), stopped)
    assert again["num_examples"] == before["num_examples"]
    assert summary_of(stopped) == before


@pytest.mark.slow
def test_a_run_that_was_killed_stops_where_it_would_have(stopped: Path, tmp_path: Path):
    """It is killed two evaluations before its end, or after its last evaluation."""
    expected = aevb.load_run(stopped).model.params
    first = summary_of(stopped)["num_examples"] - 2 * EVERY
    runs.run(values(**{"train.num_examples": first}), tmp_path / "begun")
    runs.run(values(), tmp_path / "begun")
    shutil.copytree(stopped, tmp_path / "ended")
    (tmp_path / "ended" / "summary.json").unlink()
    runs.run(values(), tmp_path / "ended")
    for name in ("begun", "ended"):
        assert summary_of(tmp_path / name) == summary_of(stopped)
        found = aevb.load_run(tmp_path / name).model.params
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_a_run_in_memory_stops_too():
    run = aevb.train("figure_4_frey", OVERFITTING | {"data.split": ""})
    assert run.summary["stopped_early"]
    assert run.extend(80_000).summary["num_examples"] == run.summary["num_examples"]


@pytest.mark.slow
def test_members_of_a_stack_stop_where_they_do_alone(tmp_path: Path):
    axes = {"seed": (0, 1), "optimizer.step_size": (0.1, 0.02)}
    plan = make_plan(with_values(default_config(), OVERFITTING), axes)
    ends = []
    for mapping in ("stack", "sequence"):
        sweep.run(plan, tmp_path / mapping, mapping)
        summaries = sorted((tmp_path / mapping).rglob("summary.json"))
        ends.append([json.loads(file.read_text())["num_examples"] for file in summaries])
    together, alone = ends
    assert len(set(together)) > 1
    assert together == alone


def test_patience_without_validation_data_is_refused(tmp_path: Path):
    line = refusal(runs.run, values(**{"data.num_valid": 0}), tmp_path / "run")
    assert line.startswith("config.train.patience is 2, and synthetic has no validation data")
    assert not (tmp_path / "run").exists()
