"""Random and hostile settings: each is accepted and runs two steps, or gets one clear line."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_run import get_config

from aevb import runs
from aevb.config import FIELDS, validate, with_values
from aevb.errors import UserError

NUM_TRIED, NUM_QUICK = 1000, 12

NUMBERS = (0, 1, 2, 3, 7, 64, -1, 10**6, 10**12, 2**31, 2**63, 10**30)
FLOATS = (0.0, 1.0, 0.5, 1e-3, 1e-30, 1e30, 255.0, -1.0, float("nan"), float("inf"))
WORDS = (
    "", "x", "名", "none", "../..", "alpha=0.3", "alpha=", "b1=2", "num_groups=0", "adam", "sgd",
    "lbfgs", "lion", "fixed", "random", "beta=nan", "a" * 300, "\n", "scale_by_adam", "chain",
)  # fmt: skip


def named(field: Any) -> tuple[str, ...]:
    """Returns the values that the field's own text allows, some of which must be tried."""
    prefix = "one of "
    allowed = field.allowed.removeprefix(prefix).split(", ")
    return tuple(allowed) if field.allowed.startswith(prefix) else ()


def values_of(field: Any) -> st.SearchStrategy[Any]:
    """Returns values that are mostly of the right type, and mostly invalid."""
    match field.default:
        case bool():
            usual = st.booleans()
        case int():
            usual = st.sampled_from(NUMBERS) | st.integers(1, 12)
        case float():
            usual = st.sampled_from(FLOATS) | st.floats(1e-4, 2.0)
        case tuple():
            usual = st.lists(st.sampled_from(NUMBERS) | st.integers(1, 12), max_size=3).map(tuple)
        case _:
            names = named(field)
            usual = st.sampled_from((*names, *WORDS) if not names else (*names * 5, *WORDS))
    strange = st.sampled_from([None, "7", 7, 0.5, True, (), (1.5,), [3], {"a": 1}])
    return st.one_of(usual, usual, usual, usual, usual, strange)


def overrides() -> st.SearchStrategy[dict[str, Any]]:
    some = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique_by=lambda f: f.name)
    return some.flatmap(
        lambda fields: st.fixed_dictionaries({f.name: values_of(f) for f in fields})
    )


def two_steps(changed: dict[str, Any]) -> str:
    """Returns the outcome of a run of two minibatches."""
    refusal = ""
    try:
        values = validate(with_values(get_config(), changed))
        size = values["train.batch_size"]
        if values["train.num_examples"] > 2 * size:
            values = {**values, "train.num_examples": 2 * size}
        with tempfile.TemporaryDirectory() as folder:
            values = {**values, "data.dir": f"{folder}/data", "data.manual_dir": ""}
            summary = runs.run(values, Path(folder) / "run")
        assert summary["num_examples"] in (size, 2 * size)
    except UserError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) <= 1, refusal
    return "one line" if refusal else "ran two steps"


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(NUM_QUICK, marks=pytest.mark.slow),
        pytest.param(NUM_TRIED, marks=pytest.mark.faults),
    ],
    ids=["some", "all"],
)
def test_hostile_settings_run_or_are_refused_in_one_line(
    number: int, record_property: Callable[[str, object], None]
):
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(overrides())
    def try_all(changed: dict[str, Any]) -> None:
        outcomes[two_steps(changed)] += 1
        if sum(outcomes.values()) % 50 == 0:
            jax.clear_caches()

    try_all()
    record_property("fault", "hostile settings")
    record_property("outcome", ", ".join(f"{count} {word}" for word, count in outcomes.items()))
