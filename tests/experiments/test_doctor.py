"""The corpus of runs with known faults: its situations are valid, and they can be trained."""

import json
from collections import Counter
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb.doctor import hints
from aevb.errors import UserError
from aevb.runs.trained import load_run
from experiments.doctor import collect, draws, healthy, held_out, measure, situations
from experiments.doctor.collect import CORPUS
from experiments.doctor.situations import CAUSES, HEALTHY, SETS, Situation

ILL = [each for each in CORPUS.values() if each.cause != HEALTHY]
LARGEST = 2e6  # values of a data set that a short run can pass over often enough


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Situation:
    """Puts a situation with a few steps into the corpus instead of the one of its name."""
    situation = CORPUS["forty_rows"]
    few = {"train.num_examples": 60, "train.first_eval": 20, "model.hidden": (5,)}
    situation = situation._replace(overrides={**situation.overrides, **few})
    monkeypatch.setitem(CORPUS, situation.name, situation)
    return situation


@pytest.mark.parametrize("situation", CORPUS.values(), ids=CORPUS.keys())
def test_every_situation_has_data_and_a_valid_config(situation: Situation, tmp_path: Path):
    values = situation.values(2, tmp_path / "data.npy")
    assert values["seed"] == 2
    if situation.draw is None:
        assert values["data.name"] in ("frey_faces", "synthetic")
        return
    first, again, other = (situation.draw(np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.ndim in (2, 3)
    assert first.shape == other.shape
    assert first.size < LARGEST
    assert not np.array_equal(first, other)
    num_train = len(first) - len(first) // 10 - len(first) // 5
    assert values["train.batch_size"] <= num_train
    assert 1e3 < values["train.num_examples"] <= 5e5


def test_names_are_unique_and_every_cause_has_situations_in_both_sets():
    parts = (situations.TUNING, healthy.TUNING, held_out.FAULTS, held_out.HEALTHY_RUNS)
    assert len(CORPUS) == sum(len(part) for part in parts)
    causes = Counter((each.set, each.cause) for each in ILL)
    assert set(causes) == {(part, cause) for part in SETS for cause in CAUSES}
    assert not [name for name in CORPUS if not name.isidentifier()]


@pytest.mark.parametrize("is_healthy", [False, True])
def test_both_sets_have_many_situations(is_healthy: bool):
    sizes = Counter(each.set for each in CORPUS.values() if (each.cause == HEALTHY) == is_healthy)
    assert set(sizes) == set(SETS)
    assert min(sizes.values()) >= (24 if is_healthy else 40)


def test_an_ill_run_is_answered_by_its_own_cause_and_a_healthy_one_by_none():
    for each in CORPUS.values():
        assert (each.cause in each.accepted) == (each.cause != HEALTHY), each.name
        assert each.accepted <= set(CAUSES), each.name


def parameters(made: Any) -> list[str]:
    """Returns the names of the parameters of a function; [] of anything else."""
    return list(signature(made).parameters) if isfunction(made) else []


def functions_of(draw: Any) -> set[str]:
    """Returns the names of the functions of `draws` that made a draw, also those within others."""
    cells = getattr(draw, "__closure__", None) or ()
    inner = [functions_of(cell.cell_contents) for cell in cells if callable(cell.cell_contents)]
    return set().union({draw.__qualname__.partition(".")[0]}, *inner)


def test_the_sets_draw_their_data_from_different_functions():
    used = {part: set() for part in SETS}
    for each in CORPUS.values():
        if each.draw is not None:
            used[each.set] |= functions_of(each.draw)
    makers = {name for name, made in vars(draws).items() if parameters(made)[:1] == ["num"]}
    assert {"digits", "film", "surface"} <= makers & used["tuning"]
    assert {"strokes", "rings", "visits"} <= makers & used["test"]
    assert not makers & used["tuning"] & used["test"]


def test_digits_are_ten_pictures_at_all_places():
    images = draws.digits(3000, 9, flipped=0.0)(np.random.default_rng(0))
    seen = [image[np.ix_(image.any(axis=1), image.any(axis=0))].tobytes() for image in images]
    assert len(set(seen)) == 10
    assert min(Counter(seen).values()) > 200


def test_windows_overlap_but_for_one_value():
    x = draws.windows(50, 7)(np.random.default_rng(0))
    np.testing.assert_array_equal(x[1:, :-1], x[:-1, 1:])


@pytest.mark.usefixtures("standard_promotion")  # optax's Adam promotes a whole number
def test_collect_keeps_the_messages_of_two_situations_and_skips_them_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = ("a_missing_value", "division_by_zero")
    flags = [f"--out={tmp_path}", f"--only={','.join(names)}", "--seeds=1"]
    assert collect.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{name} 0" for name in names]
    for name, value in zip(names, ("nan", "inf"), strict=True):
        outcome = json.loads((tmp_path / name / "0" / "outcome.json").read_text())
        assert f"holds {value} in datapoint" in outcome["failed"]
        assert outcome["accepted"] == ["non_finite"]
    assert collect.main(flags) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax's Adam promotes a whole number
def test_collect_trains_a_situation_into_a_folder_from_which_it_is_loaded(
    short: Situation, tmp_path: Path
):
    assert collect.main([f"--out={tmp_path}", f"--only={short.name}", "--seeds=1"]) == 0
    folder = tmp_path / short.name / "0"
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["failed"] is None
    assert outcome["cause"] == "too_few_data"
    run = load_run(folder / "run")
    assert run.summary["num_examples"] == 60
    assert len(run.dataset.train) == 28


def test_an_unknown_name_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="'none_such'; it must be of"):
        collect.main([f"--out={tmp_path}", "--only=none_such"])


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_faults_of_a_part_of_the_corpus_are_found_and_a_healthy_run_has_no_hint(tmp_path: Path):
    names = ("beta_of_forty", "column_twice", "file_twice", "two_pictures_at_a_time", "factors")
    runs, output = tmp_path / "runs", tmp_path / "doctor.json"
    assert collect.main([f"--out={runs}", f"--only={','.join(names)}", "--seeds=1"]) == 0
    assert measure.main([f"--runs={runs}", "--set=tuning", f"--output={output}"]) == 0
    found = json.loads(output.read_text())
    assert found["recall"]["mean"] == 1.0
    assert found["recall"]["situations"] == 4
    assert found["false_alarms"]["mean"] == 0.0
    named = {row["name"]: row["named"] for row in found["rows"]}
    assert named["column_twice"] == ["label_leak"]
    assert named["file_twice"] == ["duplicates"]
    assert named["factors"] == []


def test_recall_and_precision_are_those_of_a_count_by_hand():
    def row(name: str, cause: str, named: list[str], seed: int = 0) -> dict[str, Any]:
        accepted = [] if cause == HEALTHY else [cause]
        return {
            "name": name, "seed": seed, "cause": cause, "accepted": accepted, "named": named,
        }  # fmt: skip

    found = measure.summarize(
        [
            row("a", "overfitting", ["overfitting"]), row("a", "overfitting", [], seed=1),
            row("b", "duplicates", ["duplicates", "overfitting"]),
            row("c", "non_finite", [measure.REFUSED]),
            row("d", HEALTHY, []), row("e", HEALTHY, ["overfitting"]),
        ]
    )  # fmt: skip
    assert found["recall"]["mean"] == pytest.approx((0.5 + 1.0 + 1.0) / 3)
    assert found["false_alarms"]["mean"] == 0.5
    assert found["by_cause"]["overfitting"]["recall"] == 0.5
    assert found["by_cause"]["overfitting"]["precision"] == pytest.approx(1 / 3)
    assert found["by_cause"]["non_finite"]["precision"] is None


def test_every_cause_of_the_doctor_has_a_word_of_the_corpus():
    words = {measure.NAMES.get(cause, cause) for cause in hints.CAUSES}
    without_situations = {"one_class"}
    assert words - without_situations <= set(CAUSES)
