"""The README: its figures are those of the results files, and its code runs."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from programs import ROOT

from docs.tools import __main__ as maker

README = (ROOT / "README.md").read_text()
RUNS = (ROOT / "docs" / "how_to" / "runs.md").read_text()
[LOSS] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
    user: dict[str, Any] = {"jax": jax, "x": jnp.full((3, 560), 0.5)}
    exec(LOAD, user)
    assert user["means"].shape == (3, 560)
    assert jnp.isfinite(user["log_p"])
