"""Runs that go on after their end, and runs that start from the parameters of another."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import small_run
from refusals import contents_of, refusal

import aevb
from aevb import runs
from aevb.cli import run as command
from aevb.config import Values, default_config, validate, with_values
from aevb.storage.metrics_log import read_records

LOG = "metrics.jsonl"
SMALL = {
    "data.name": "synthetic", "data.synthetic_num_train": 100, "data.synthetic_num_test": 20,
    "model.likelihood": "gaussian", "model.hidden": (4,), "train.batch_size": 20,
    "train.num_examples": 400, "train.first_eval": 200, "train.evals_per_decade": 3,
}  # fmt: skip


def values(**changes: Any) -> Values:
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    return validate(with_values(default_config(), SMALL | changed))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished run, to read."""
    folder = tmp_path_factory.mktemp("first") / "run"
    runs.run(values(), folder)
    return folder


@pytest.mark.slow
def test_a_finished_run_goes_on_bitwise_as_if_it_had_been_asked_for_more(tmp_path: Path):
    runs.run(values(), tmp_path / "run")
    longer = runs.run(values(train__num_examples=1000), tmp_path / "run")
    whole = runs.run(values(train__num_examples=1000), tmp_path / "whole")
    assert longer["num_examples"] == 1000
    assert longer["train_bound"] == whole["train_bound"]
    found, expected = (aevb.load_run(tmp_path / name) for name in ("run", "whole"))
    jax.tree.map(np.testing.assert_array_equal, found.model.params, expected.model.params)
    bounds, expected = (
        {one["examples"]: one["valid_bound"] for one in read_records(tmp_path / name / LOG)}
        for name in ("run", "whole")
    )
    assert bounds == expected | {400: bounds[400]}  # the evaluation at the former end remains
    before = contents_of(tmp_path / "run")
    line = refusal(runs.run, values(), tmp_path / "run")
    assert "holds a run of 1,000 training examples, and config.train.num_examples is 400" in line
    assert contents_of(tmp_path / "run") == before


def test_only_the_number_of_examples_may_change(finished: Path):
    before = contents_of(finished)
    line = refusal(runs.run, values(train__num_examples=1000, seed=1), finished)
    assert "holds a run with another config: seed (0 there, 1 here)" in line
    assert contents_of(finished) == before


def test_a_run_starts_from_the_parameters_of_another(undisturbed: Path, tmp_path: Path):
    fields = {"train.num_examples": 100, "optimizer.step_size": 1e-30, "seed": 5}
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    start, folder = f"--init_from={undisturbed}", tmp_path / "run"
    config = f"--config={small_run.__file__}"
    assert command.main([config, *arguments, start, f"--workdir={folder}"]) == 0
    found, other = aevb.load_run(folder), aevb.load_run(undisturbed)
    assert found.config["train.init_from"] == str(undisturbed)
    assert_equal = partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(assert_equal, found.model.params, other.model.params)
    fields |= {"train.init_from": str(undisturbed)}
    in_memory = aevb.train(str(small_run.__file__), fields)
    jax.tree.map(np.testing.assert_array_equal, in_memory.model.params, found.model.params)


@pytest.mark.slow
def test_a_resumed_run_does_not_read_the_other_again(finished: Path, tmp_path: Path):
    other = tmp_path / "other"
    runs.run(values(), other)
    config = values(train__init_from=str(other), seed=3)
    runs.run(config, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    other.rename(tmp_path / "gone")
    runs.run({**config, "train.num_examples": 600}, tmp_path / "run")
    assert aevb.load_run(tmp_path / "run").summary["num_examples"] == 600


@pytest.mark.parametrize("case", ["another model", "no run", "no folder"])
def test_an_unsuitable_start_is_refused_before_anything_is_written(
    case: str, finished: Path, tmp_path: Path
):
    start = {"another model": finished, "no run": tmp_path, "no folder": tmp_path / "x"}[case]
    hidden = (5,) if case == "another model" else (4,)
    line = refusal(
        runs.run, values(train__init_from=str(start), model__hidden=hidden), tmp_path / "run"
    )
    assert ("a run of another model: [" if case == "another model" else "no config.json") in line
    assert not (tmp_path / "run").exists()
