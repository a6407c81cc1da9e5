"""The README: its figures are those of the results files, and its code runs."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from programs import ROOT

import aevb
from aevb.runs.trained import TrainedRun
from docs.tools import __main__ as maker

README = (ROOT / "README.md").read_text()
RUNS = (ROOT / "docs" / "how_to" / "runs.md").read_text()
[LOSS, PYTHON] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
[LOAD] = re.findall(r"```python\n(.*?)```", RUNS, re.DOTALL)


def test_the_tables_are_those_of_the_results_files():
    used = ""
    for document in maker.DOCUMENTS:
        text = document.read_text()
        assert maker.filled_in(text, maker.TABLES) == text, "run python -m docs.tools"
        used += text
    assert {name for name in maker.TABLES if f"<!-- {name} -->" in used} == set(maker.TABLES)


def test_the_check_of_tables_finds_a_changed_number():
    table = README.index("<!-- headline -->")
    digit = re.compile(r"\d").search(README, table)
    assert digit is not None
    forged = README[: digit.start()] + "7" * 6 + README[digit.end() :]
    assert maker.filled_in(forged, maker.TABLES) == README


def test_a_placeholder_without_a_table_is_an_error():
    with pytest.raises(KeyError, match="headlime"):
        maker.filled_in(README.replace("<!-- headline -->", "<!-- headlime -->"), maker.TABLES)


def test_the_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120


@pytest.mark.usefixtures("standard_promotion")  # optax's adam leans on it
def test_the_readmes_example_of_the_losses_runs_and_lowers_the_loss(
    capsys: pytest.CaptureFixture[str],
):
    exec(LOSS, {})
    first, second, third = map(float, capsys.readouterr().out.split())
    assert first > second > third


@pytest.mark.slow
def test_the_readmes_example_of_a_finished_run_runs(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "runs" / "frey_faces").mkdir(parents=True)
    (tmp_path / "runs" / "frey_faces" / "default").symlink_to(faces)
    monkeypatch.chdir(tmp_path)
    user: dict[str, Any] = {}
    exec(LOAD, user)
    assert user["means"].shape == (5, 28, 20)
    assert user["bounds"].shape == (5,)
    assert jnp.isfinite(user["log_p"])


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_the_readmes_lines_from_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    few = {"train.num_examples": 2000, "train.first_eval": 1000, "model.hidden": (8,)}

    def briefly(function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `fit` or `train` with a few examples and units."""
        return lambda first, fields=few, **others: function(first, {**few, **fields}, **others)

    monkeypatch.setattr(aevb, "fit", briefly(aevb.fit), raising=False)
    monkeypatch.setattr(aevb, "train", briefly(aevb.train), raising=False)
    user: dict[str, Any] = {"aevb": aevb, "x": np.random.default_rng(0).normal(size=(300, 3))}
    exec(PYTHON, user)
    assert aevb.load_run("folder").decode(jnp.zeros(2)).shape == (3,)
    assert user["run"].decode(jnp.zeros(10)).shape == (28, 20)
    assert (tmp_path / "runs" / "a" / "summary.json").exists()


def test_the_names_of_the_readmes_lines_from_python_exist():
    names = set(re.findall(r"\brun\.(\w+)", PYTHON))
    assert names == {"encode", "decode", "sample", "log_prob", "history", "summary", "save"}
    known = {field.name for field in dataclasses.fields(TrainedRun)} | set(dir(TrainedRun))
    assert names <= known
