"""The programs in docs/examples: each file runs, and its training improves the loss."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import slow_but
from programs import program

FOLDER = Path(__file__).parent.parent.parent / "docs" / "examples"

# The examples that train a custom model for some 300 steps (40 here), and those that train a run.
OF_STEPS = (
    "bare_jax", "with_equinox", "with_haiku", "with_nnx", "own_likelihood", "conditional",
)  # fmt: skip
OF_RUNS = ("own_images", "trained_run")


def function_of(example: str, name: str = "main") -> Callable[..., Any]:
    return runpy.run_path(str(FOLDER / f"{example}.py"))[name]


def require_fall(before: float, after: float, *others: float) -> None:
    assert np.all(np.isfinite([before, after, *others]))
    assert after < before


def test_every_file_of_the_folder_is_tried():
    assert {file.name for file in FOLDER.iterdir() if file.name != "__pycache__"} == {
        f"{name}.py" for name in OF_STEPS + OF_RUNS
    }


@pytest.mark.usefixtures("standard_promotion")  # needed by optax's Adam
@pytest.mark.parametrize("example", slow_but(["own_likelihood"], OF_STEPS))
def test_the_loss_of_an_example_falls(example: str):
    require_fall(*function_of(example)(num_steps=40))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[float, float]]:
    """Returns the folder of own_images, and the losses of its run."""
    folder = tmp_path_factory.mktemp("own")
    return folder, function_of("own_images")(folder, num_examples=4000)


@pytest.mark.slow
def test_the_loss_of_images_of_ones_own_falls(own: tuple[Path, tuple[float, float]]):
    folder, losses = own
    require_fall(*losses)
    assert (folder / "run" / "figures" / "samples.png").exists()


@pytest.mark.slow
def test_a_trained_run_tells_images_from_the_same_upside_down(
    own: tuple[Path, tuple[float, float]],
):
    require_fall(*function_of("trained_run")(own[0] / "run"))


@pytest.mark.parametrize("log_scale", [-3.0, 0.0, 2.0])
def test_the_likelihood_of_ones_own_integrates_to_one(log_scale: float):
    integral = function_of("own_likelihood", "integral")
    assert float(integral(log_scale)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("example", OF_STEPS + OF_RUNS)
def test_an_example_is_short_and_says_how_it_is_run(example: str):
    text = (FOLDER / f"{example}.py").read_text()
    assert f"\npython docs/examples/{example}.py" in text.split('"""')[1]
    assert 30 <= len(text.splitlines()) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("example", OF_STEPS + OF_RUNS)
def test_an_example_runs_by_its_command(example: str):
    printed = program(FOLDER / f"{example}.py")
    assert "loss, first and last" in printed or "-log p(x)" in printed
