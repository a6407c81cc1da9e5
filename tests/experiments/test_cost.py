"""The cost benchmark: it measures what it lists, and reports figures that grow too fast."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "experiments" / "benchmarks"


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("cost")
    for name in ("cost", "harness", "worker"):
        sys.modules.pop(name, None)


def growing(cost: Any, power: float) -> list[dict[str, float]]:
    """Returns points at the sizes 1, 10, 100 whose every figure grows as size^power."""
    return [dict.fromkeys(cost.EXPECTED, 3.0 * size**power) for size in (1, 10, 100)]


def test_a_cost_that_grows_faster_than_expected_is_flagged(cost: Any):
    found = cost.growth("num_dims", [1, 10, 100], growing(cost, 1.0))
    assert all(figure["slope"] == pytest.approx(1.0) for figure in found.values())
    assert not found["step_seconds"]["surprise"]
    assert found["shuffle_seconds"]["surprise"]  # an order does not depend on D
    found = cost.growth("num_dims", [1, 10, 100], growing(cost, 2.0))
    assert all(figure["surprise"] for figure in found.values())


def test_every_axis_of_the_cost_study_has_a_cost_that_grows_with_it(cost: Any):
    assert set(cost.AXES) == set(cost.Work._fields)
    assert set(cost.AXES) == {axis for expected in cost.EXPECTED.values() for axis in expected}


@pytest.mark.slow
@pytest.mark.parametrize("num_members", [1, 3])
def test_every_point_of_the_cost_study_has_every_cost(
    cost: Any, monkeypatch: pytest.MonkeyPatch, num_members: int
):
    monkeypatch.setattr(cost, "SECONDS", 0.01)
    work = cost.Work(
        num_data=200, num_dims=6, hidden=5, batch_size=10, importance_samples=20,
        num_members=num_members,
    )  # fmt: skip
    figures = cost.measure(work)
    assert figures.keys() == cost.EXPECTED.keys()
    assert all(value >= 0 for value in figures.values())
    assert figures["step_argument_bytes"] >= 200 * 6
    assert figures["evaluation_seconds"] > 0
