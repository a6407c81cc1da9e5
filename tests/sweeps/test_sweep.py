"""Sweeps: every mapping gives the results of single runs, resumes, and survives a failed run."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from programs import ended, python, run_program, start_python, wait_for
from small_sweep import AXES, bounds, read, small

from aevb import runs
from aevb.errors import UserError
from aevb.reports import run_figures
from aevb.runtime import xla
from aevb.sweeps import devices, sweep
from aevb.sweeps.grid import Axes, Member, best_of, make_plan


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Returns the folder of a sweep that ran in sequence, and its result."""
    folder = tmp_path_factory.mktemp("finished") / "sweep"
    return folder, sweep.run(make_plan(small(), AXES), folder, "sequence")


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables the figures, for tests that do not need them."""
    monkeypatch.setattr(run_figures, "draw_run", lambda *arguments: None)
    monkeypatch.setattr(runs, "explorer_page", lambda *arguments: "")


def test_the_results_file_of_a_sweep_is_its_returned_result(finished: tuple[Path, dict[str, Any]]):
    folder, result = finished
    assert read(folder / "sweep.json") == result
    assert (folder / "sweep.png").stat().st_size > 10_000
    assert [row["setting"] for row in result["rows"]] == [
        {"model.num_latents": 1},
        {"model.num_latents": 3},
    ]
    for row in result["rows"]:
        assert row["seeds"] == 2
        values = row["test_bound"]["values"]
        assert row["test_bound"]["mean"] == pytest.approx(sum(values) / 2)
        half_width = 12.706 * abs(values[0] - values[1]) / 2  # t with 1 degree of freedom
        assert row["test_bound"]["half_width"] == pytest.approx(half_width, rel=1e-4)


def assert_as_alone(inside: Path, member: Member, alone: Path, rel: float) -> None:
    """Checks that a run within a sweep writes the same files as a single run."""
    summary = runs.run(member.values, alone)
    assert read(inside / "config.json") == read(alone / "config.json")
    assert {p.name for p in inside.iterdir()} == {p.name for p in alone.iterdir()}
    logs = [(f / "metrics.jsonl").read_text().splitlines() for f in (inside, alone)]
    assert len(logs[0]) == len(logs[1])
    found = read(inside / "summary.json")["test_bound"]
    assert found == pytest.approx(summary["test_bound"], rel=rel)
    assert runs.run(member.values, inside)["seed"] == member.values["seed"]  # already finished


def test_a_sequential_member_has_the_same_folder_as_a_single_run(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
):
    member = make_plan(small(), AXES).members()[-1]
    assert_as_alone(finished[0] / member.name, member, tmp_path, rel=1e-12)


@pytest.mark.slow
def test_a_stacked_member_has_nearly_the_same_folder_as_a_single_run(tmp_path: Path):
    """The bounds differ by rounding errors of six steps of Adagrad."""
    plan = make_plan(small(), {**AXES, "seed": (1,)})
    sweep.run(plan, tmp_path / "sweep", "stack")
    for member in plan.members():
        assert_as_alone(tmp_path / "sweep" / member.name, member, tmp_path / member.name, rel=0.02)


@pytest.mark.usefixtures("without_figures")
def test_finished_members_are_not_run_again_when_a_seed_is_added(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
):
    folder, first = Path(shutil.copytree(finished[0], tmp_path / "sweep")), finished[1]
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("summary.json")}
    assert sweep.run(make_plan(small(), AXES), folder, "sequence") == first
    more = sweep.run(make_plan(small(), {**AXES, "seed": (0, 1, 2)}), folder, "sequence")
    assert [row["seeds"] for row in more["rows"]] == [3, 3]
    assert all(path.stat().st_mtime_ns == was for path, was in times.items())


def test_another_sweep_in_the_same_folder_is_refused_and_leaves_the_first_as_it_was(
    finished: tuple[Path, dict[str, Any]],
):
    folder = finished[0]
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    other = small()
    other.model.hidden = (7,)
    for config, axes, words in (
        (small(), {"model.num_latents": (5,), "seed": (0,)}, "model.num_latents has the value 1"),
        (small(), {**AXES, "seed": (1, 2)}, "seed has the value 0 there and not here"),
        (small(), {"seed": (0, 1)}, "its axes are model.num_latents, seed there and seed here"),
        (other, AXES, "model.hidden is .* there and .* here"),
    ):
        with pytest.raises(UserError, match=f"holds another sweep: {words}"):
            sweep.run(make_plan(config, axes), folder, "sequence")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_sweep_whose_plan_is_damaged_is_refused(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
):
    folder = tmp_path / "sweep"
    folder.mkdir()
    text = (finished[0] / sweep.PLAN).read_text()
    (folder / sweep.PLAN).write_text(text.replace("seed", "need"))
    with pytest.raises(UserError, match=r"plan\.json cannot be read"):
        sweep.run(make_plan(small(), AXES), folder, "sequence")


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("mapping", ["sequence", "stack"])
def test_the_step_size_of_the_best_trial_is_taken(mapping: str, tmp_path: Path):
    axes = {**AXES, "seed": (0,), "optimizer.step_size": best_of(1e-9, 0.02, num_examples=400)}
    result = sweep.run(make_plan(small(), axes), tmp_path, mapping)
    assert [trial["chosen"] for trial in result["trials"]] == [{"optimizer.step_size": 0.02}] * 2
    for trial in result["trials"]:
        tried = {one["optimizer.step_size"]: one["train_bound"] for one in trial["tried"]}
        assert tried[0.02] > tried[1e-9]
    for name in bounds(tmp_path):
        config = read(tmp_path / name / "config.json")
        assert config["train.num_examples"] == (400 if name.startswith("trials") else 600)
        assert config["optimizer.step_size"] == 0.02 or name.startswith("trials")


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("mapping", ["sequence", "stack"])
def test_a_member_with_a_nonfinite_bound_is_reported_and_the_others_continue(
    mapping: str, tmp_path: Path
):
    axes: Axes = {"optimizer.step_size": (0.02, 1e30), "seed": (0,)}
    good, bad = sweep.run(make_plan(small(), axes), tmp_path, mapping)["rows"]
    assert (good["seeds"], good["failed"]) == (1, {})
    assert bad["seeds"] == 0
    [(name, reason)] = bad["failed"].items()
    assert "step_size=1e+30" in name
    assert "step_size" in reason
    assert not (tmp_path / name / "summary.json").exists()
    assert len(bounds(tmp_path)) == 1


def claim(folder: Path, member: Member) -> None:
    """Writes the first files of a run."""
    with runs.claimed(folder, member.values, {}):
        pass


def test_a_folder_of_a_run_or_of_another_sweep_is_refused(tmp_path: Path):
    plan = make_plan(small(), AXES)
    claim(tmp_path / "run", plan.members()[0])
    with pytest.raises(UserError, match="single run"):
        sweep.run(plan, tmp_path / "run")
    other = small()
    other.model.hidden = (7,)
    name = plan.members()[-1].name
    claim(tmp_path / "sweep" / name, make_plan(other, AXES).members()[-1])
    with pytest.raises(UserError, match="hidden"):
        sweep.run(plan, tmp_path / "sweep")
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [name]


def test_an_invalid_sweep_is_refused_before_any_run(tmp_path: Path):
    axes: Axes = {"model.likelihood": ("gaussian", "bernoulli")}
    with pytest.raises(UserError, match="bernoulli"):
        sweep.run(make_plan(small(), axes), tmp_path / "sweep", "sequence")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("num_devices", "num_runs", "on_cpu", "mapping"),
    [
        (2, 15, True, "devices"),
        (1, 15, True, "sequence"),
        (2, 1, True, "sequence"),
        (64, 3, True, "sequence"),
        (64, 40, True, "devices"),
        (1, 15, False, "stack"),
        (8, 256, False, "stack"),
    ],
)
def test_the_mapping_that_was_measured_to_be_fastest_is_chosen(
    num_devices: int, num_runs: int, on_cpu: bool, mapping: str
):
    assert devices.choose_mapping(num_devices, num_runs, on_cpu=on_cpu) == mapping


def test_members_with_the_same_guide_and_prior_are_stacked_for_any_number_of_latents():
    def key(**fields: Any) -> Any:
        (member,) = make_plan(small(), {name: (v,) for name, v in fields.items()}).members()
        return devices.stack_key(member.values)

    one, other = {"model.num_latents": 2}, {"model.num_latents": 5, "seed": 1}
    assert key(**one) == key(**other, **{"optimizer.step_size": 0.1})
    assert key(**one) != key(**one, **{"model.hidden": (7,)})
    for name, value in (
        *(("model.guide", "iaf"), ("model.prior", "mixture")),
        ("algorithm.bound", "free_bits_per_unit"),
    ):
        rest = {"algorithm.bound": "sgvb_a", name: value}
        assert key(**one, **rest) != key(**other, **rest)
        assert key(**one, **rest) == key(**one, **rest, seed=3)
    layers = {"model.num_latents": (3, 2)}
    assert key(**layers) == key(**layers, seed=1)
    assert key(**layers) != key(**{"model.num_latents": (2, 3)})


# The command line

SWEEP = [
    "experiments/run.py",
    "--config=experiments/figure_4_frey.py",
    "--sweep",
    "--axis=model.num_latents=2,4",
    "--config.optimizer.step_size=0.02",
    "--config.model.hidden=(20,)",
    "--config.train.num_examples=40000",
]
NUM_DEVICES = min(xla.num_cores(), 4)  # for four runs


def finish(folder: Path, mapping: str, axis: str) -> str:
    """Runs a sweep in a separate process, which sets up its devices; returns what it prints."""
    return python(*SWEEP, f"--workdir={folder}", f"--mapping={mapping}", axis)


def stop(folder: Path, mapping: str, axis: str) -> None:
    """Stops a sweep after its first evaluation."""
    process = start_python(*SWEEP, f"--workdir={folder}", f"--mapping={mapping}", axis)
    wait_for(lambda: list(folder.rglob("metrics.jsonl")), process)
    process.send_signal(signal.SIGTERM)
    stopped = ended(process)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped
    assert "resumes from there" in stopped.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mapping", "undisturbed", "axis"),
    [
        pytest.param(
            "devices", "sequence", "--axis=seed=0,1",
            marks=pytest.mark.skipif(NUM_DEVICES < 2, reason="one core is one device"),
        ),
        ("stack", "stack", "--axis=seed=0"),
    ],
)  # fmt: skip
def test_a_stopped_sweep_resumes_with_bitwise_the_same_results(
    mapping: str, undisturbed: str, axis: str, tmp_path: Path
):
    """On several devices, every run equals that of a sweep in sequence."""
    whole, folder = tmp_path / "undisturbed", tmp_path / "stopped"
    finish(whole, undisturbed, axis)
    stop(folder, mapping, axis)
    assert len(bounds(folder)) < len(bounds(whole))
    printed = finish(folder, mapping, axis)
    assert bounds(folder) == bounds(whole)
    for log in folder.rglob("metrics.jsonl"):
        examples = [json.loads(line)["examples"] for line in log.read_text().splitlines()]
        assert examples == sorted(set(examples))
        assert examples[-1] == 40_000
    assert any(line.split()[:1] == ["num_latents"] for line in printed.splitlines())
    if mapping == "devices":
        assert f"mapping: devices, {NUM_DEVICES} runs at a time" in printed
        for row in read(folder / "sweep.json")["rows"]:
            assert f"{row['test_bound']['mean']:.2f} +- " in printed


@pytest.mark.slow
def test_a_run_that_fails_shows_in_the_table_and_in_the_status(tmp_path: Path):
    done = run_program(
        *SWEEP, f"--workdir={tmp_path}", "--axis=optimizer.step_size=1e30", "--axis=seed=0",
        "--axis=model.num_latents=2",
    )  # fmt: skip
    assert done.returncode == 3
    assert "failed:" in done.stdout
    assert "Traceback" not in done.stderr
