"""A run that is stopped and started again ends in the same state as an undisturbed one.

The quick tests stop it in the test's process; the slow ones start separate processes. The tests
that damage a run's files are in `faults/`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import OPTIMIZED, ROOT, Done, run_program

from aevb.storage import metrics_log

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
        env={**os.environ, **OPTIMIZED},
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
    """Returns the SHA-256 of parameters and optimizer state by step, for each kept checkpoint."""
    return {
        step.name: json.loads((step / "notes" / "metadata").read_text())["state"]
        for step in (folder / "checkpoints").iterdir()
        if step.name.isdecimal()
    }


def log(folder: Path) -> list[dict[str, float]]:
    """Returns the log without the entries that depend on time."""
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


# In the test's process


def run_small(folder: Path) -> Done:
    return run_program(
        "experiments/run.py", "--config=tests/support/small_run.py", f"--workdir={folder}"
    )


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1)),
    ],
)
def test_a_run_that_a_signal_stops_saves_and_ends_bitwise_as_undisturbed(
    number: signal.Signals, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The signal is sent at the second evaluation, as if from another process."""
    folder, append = tmp_path / "run", metrics_log.MetricsLog.append

    def append_and_signal(log: metrics_log.MetricsLog, record: dict[str, float]) -> None:
        append(log, record)
        if len(log.records) == 2:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(metrics_log.MetricsLog, "append", append_and_signal)
        stopped = run_small(folder)
    assert stopped.returncode == 128 + number
    assert stopped.stderr.splitlines()[-1].startswith(f"stopped by {number.name} and saved at ")
    done = run_small(folder)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint" in done.stdout
    last = max(digests(undisturbed), key=int)
    assert digests(folder)[last] == digests(undisturbed)[last]
    assert log(folder) == log(undisturbed)
    assert bounds(folder) == bounds(undisturbed)


def test_a_finished_run_given_again_prints_its_summary_and_changes_nothing(undisturbed: Path):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert "20,000 training examples" in run_small(undisturbed).stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


# In separate processes


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    finish(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(
    number: signal.Signals, long_run: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start(folder)
    while not (folder / "metrics.jsonl").exists() or not log(folder):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1].startswith(f"stopped by {number.name} and saved at ")
    assert "resuming from the checkpoint" in finish(folder)
    assert_same_end(folder, long_run)


@pytest.mark.slow
def test_two_runs_end_bitwise_the_same(long_run: Path, tmp_path: Path):
    finish(tmp_path / "run")
    assert_same_end(tmp_path / "run", long_run)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    long_run: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(long_run, folder)
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
    assert_same_end(folder, long_run)
