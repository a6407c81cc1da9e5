"""A run that is killed and started again ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import OPTIMISED, ROOT

COMMAND = [
    sys.executable,
    "experiments/run.py",
    "--config=experiments/frey_faces.py",
    "--config.model.hidden=(50,)",
    "--config.train.num_examples=400000",
    "--config.train.evals_per_decade=5",
    "--config.train.checkpoint_seconds=0.2",
]


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, f"--workdir={folder}"],
        cwd=ROOT,
        env={**os.environ, **OPTIMISED},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path) -> str:
    process = start(folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def digests(folder: Path) -> dict[str, str]:
    """Of every checkpoint that is kept: SHA-256 of parameters and optimizer state by step."""
    return {
        step.name: json.loads((step / "notes" / "metadata").read_text())["state"]
        for step in (folder / "checkpoints").iterdir()
        if step.name.isdecimal()
    }


def log(folder: Path) -> list[dict[str, float]]:
    """The log without what depends on the time."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds" and "recent" not in k}
        for line in lines
    ]


def bounds(folder: Path) -> dict[str, float]:
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if "bound" in name or "bits" in name}


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    last = str(400000 // 100)
    assert digests(folder)[last] == digests(undisturbed)[last]
    assert log(folder) == log(undisturbed)
    assert bounds(folder) == bounds(undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    finish(folder)
    return folder


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_the_same_command_goes_on(
    number: signal.Signals, undisturbed: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start(folder)
    while not (folder / "metrics.jsonl").exists() or not log(folder):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1].startswith(f"stopped by {number.name} and saved at ")
    assert "resuming from the checkpoint" in finish(folder)
    assert_same_end(folder, undisturbed)


@pytest.mark.slow
def test_two_runs_end_bitwise_the_same(undisturbed: Path, tmp_path: Path):
    finish(tmp_path / "run")
    assert_same_end(tmp_path / "run", undisturbed)


def test_a_finished_run_prints_its_summary_and_changes_nothing(undisturbed: Path):
    folder = undisturbed
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "400,000 training examples" in finish(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    undisturbed: Path, tmp_path: Path
):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    (folder / "summary.json").unlink()
    last = folder / "checkpoints" / str(400000 // 100)
    largest = max((last / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    process = start(folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "checkpoint of step 4000 is damaged" in err
    assert "resuming from the checkpoint" in out
    assert_same_end(folder, undisturbed)
