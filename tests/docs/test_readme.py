"""The README: its figures are those of the results files, its code runs."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
LOSS, LOAD, MIXTURE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """experiments/readme.py, which like its neighbors finds them beside itself."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    yield importlib.import_module("readme")
    for name in (
        "readme",
        "reproduce",
        "documents",
        "classical_tables",
        "scaling_tables",
        "findings",
    ):
        sys.modules.pop(name, None)


def test_the_tables_are_those_of_the_results_files(maker: Any):
    used = ""
    for document in maker.DOCUMENTS:
        text = document.read_text()
        assert maker.filled_in(text, maker.TABLES) == text, "run experiments/readme.py"
        used += text
    assert {name for name in maker.TABLES if f"<!-- {name} -->" in used} == set(maker.TABLES)


def test_a_changed_figure_in_a_table_is_noticed(maker: Any):
    table = README.index("<!-- results -->")
    digit = re.compile(r"\d").search(README, table)
    assert digit is not None
    forged = README[: digit.start()] + "7" * 6 + README[digit.end() :]
    assert maker.filled_in(forged, maker.TABLES) == README


def test_a_mark_without_a_table_is_noticed(maker: Any):
    with pytest.raises(KeyError, match="sped"):
        maker.filled_in(README.replace("<!-- speed -->", "<!-- sped -->"), maker.TABLES)


@pytest.mark.slow
def test_the_example_of_the_mixture_runs():
    x = jax.random.normal(jax.random.key(0), (100, 2)) + jnp.array([[-9.0, 0.0], [9.0, 0.0]] * 50)
    user: dict[str, Any] = {"jax": jax, "x": x, "x_new": x[:3]}
    exec(MIXTURE, user)
    assert user["fit"].num_components == 2


def test_the_example_of_the_losses_runs_and_its_gradient_lowers_the_loss():
    assert len(LOSS.splitlines()) <= 20
    weights = jax.random.normal(jax.random.key(0), (2, 6, 4)) / 3
    user: dict[str, Any] = {
        "encode": lambda params, x: jnp.split(x @ params[0], 2),
        "decode": lambda params, z: params[1] @ jnp.concatenate([z, jnp.ones(2)]),
    }
    exec(LOSS, user)
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (50, 6)).astype(jnp.float32)
    key = jax.random.key(2)
    value, gradient = jax.value_and_grad(user["loss"])(weights, key, x)
    assert user["loss"](weights - 0.1 * gradient, key, x) < value - 0.01


@pytest.mark.slow
def test_the_example_of_a_finished_run_runs(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "runs" / "frey_faces").mkdir(parents=True)
    (tmp_path / "runs" / "frey_faces" / "default").symlink_to(faces)
    monkeypatch.chdir(tmp_path)
    user: dict[str, Any] = {"jax": jax, "x": jnp.full((3, 560), 0.5)}
    exec(LOAD, user)
    assert user["means"].shape == (3, 560)
    assert jnp.isfinite(user["log_p"])
