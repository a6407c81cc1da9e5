"""The programs in docs/examples: each file runs, and its training improves the loss."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import program

FOLDER = Path(__file__).parent.parent.parent / "docs" / "examples"

# The examples that train a custom model for some 300 steps, and those that train a run.
OF_STEPS = (
    "bare_jax", "with_equinox", "with_haiku", "with_nnx", "own_likelihood", "conditional",
)  # fmt: skip
OF_RUNS = ("own_images", "trained_run")
OF_MEASURES = ("own_model_measures",)
OF_PLATES = ("global_parameters",)
OF_LABELS = ("few_labels",)


def function_of(example: str, name: str) -> Callable[..., Any]:
    return runpy.run_path(str(FOLDER / f"{example}.py"))[name]


def nats(example: str, *arguments: object) -> tuple[float, float]:
    """Runs an example by its command and returns the first two of the losses that it prints."""
    printed = program(FOLDER / f"{example}.py", *arguments)
    assert "nan" not in printed
    (line,) = re.findall(r"^(?:loss, first and last|-log p).*", printed, re.MULTILINE)
    first, second, *_ = re.findall(r"-?\d[\d.]*", line)
    return float(first), float(second)


def test_every_example_has_a_test():
    assert {file.name for file in FOLDER.iterdir() if file.name != "__pycache__"} == {
        f"{name}.py" for name in OF_STEPS + OF_RUNS + OF_MEASURES + OF_PLATES + OF_LABELS
    }


@pytest.mark.usefixtures("standard_promotion")  # needed by optax's Adam
def test_the_example_of_an_own_likelihood_lowers_its_loss():
    first, last = function_of("own_likelihood", "main")(num_steps=40)
    assert last < first


@pytest.mark.usefixtures("standard_promotion")
def test_the_example_of_measures_finds_the_line_of_its_mistake():
    measures, where = function_of("own_model_measures", "main")()
    assert measures["bound"] == pytest.approx(-measures["rate"] - measures["distortion"])
    assert measures["active_units"] == 2
    assert "own_model_measures.py" in where
    assert "jnp.log(variance)" in where


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_the_example_of_global_parameters_comes_to_the_best_bound_with_and_without_an_encoder():
    found, best = function_of("global_parameters", "main")()
    assert found.keys() == {"amortized", "own statistics"}
    for before, after in found.values():
        assert before < best - 1.0
        assert best - 0.03 < after < best + 0.01


@pytest.mark.slow
def test_the_example_of_few_labels_classifies_better_than_chance():
    errors = function_of("few_labels", "main")(num_examples=20_000)
    assert len(errors) == 3
    for of_valid, of_test in errors:
        assert of_valid < 0.5
        assert of_test < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("example", OF_STEPS)
def test_an_example_run_by_its_command_lowers_its_loss(example: str):
    first, last = nats(example)
    assert last < first


@pytest.mark.slow
def test_the_example_of_own_images_lowers_its_loss_and_scores_upright_images_higher(
    tmp_path: Path,
):
    first, last = nats("own_images", tmp_path)
    assert last < first
    assert (tmp_path / "run" / "figures" / "samples.png").exists()
    upright, turned = nats("trained_run", tmp_path / "run")
    assert upright < turned


@pytest.mark.parametrize("log_scale", [-3.0, 0.0, 2.0])
def test_the_likelihood_of_the_example_integrates_to_1(log_scale: float):
    integral = function_of("own_likelihood", "integral")
    assert float(integral(log_scale)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("example", OF_STEPS + OF_RUNS + OF_LABELS)
def test_an_example_has_at_most_100_lines_and_states_its_command(example: str):
    text = (FOLDER / f"{example}.py").read_text()
    assert f"\npython docs/examples/{example}.py" in text.split('"""')[1]
    assert 30 <= len(text.splitlines()) <= 100
