"""A run that is stopped and started again ends in the same state as an undisturbed one.

Most tests stop it in the test's process; one starts separate processes. Random damage to a run's
files is in `faults/`.
"""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from programs import OPTIMIZED, Done, ended, run_program, start_python, wait_for

from aevb.storage import metrics_log


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
    last = max(digests(undisturbed), key=int)
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
def test_a_run_stopped_by_a_signal_saves_and_resumes_bitwise(
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
    assert_same_end(folder, undisturbed)


def test_the_command_of_a_finished_run_prints_its_summary_and_changes_nothing(undisturbed: Path):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert "20,000 training examples" in run_small(undisturbed).stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_resumes_from_the_previous_one(
    undisturbed: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    (folder / "summary.json").unlink()
    last = max((folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    largest = max((last / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    done = run_small(folder)
    assert done.returncode == 0, done.stderr
    assert f"checkpoint of step {last.name} is damaged" in done.stderr
    assert "resuming from the checkpoint" in done.stdout
    assert_same_end(folder, undisturbed)


# In separate processes


def start(folder: Path) -> subprocess.Popen[str]:
    return start_python(
        "experiments/run.py", "--config=experiments/figure_4_frey.py",
        "--config.model.hidden=(50,)", "--config.train.num_examples=200000",
        "--config.train.evals_per_decade=5", "--config.train.checkpoint_seconds=0.2",
        f"--workdir={folder}", env=OPTIMIZED,
    )  # fmt: skip


@pytest.mark.slow
def test_a_stopped_process_resumes_with_bitwise_the_result_of_an_uninterrupted_one(tmp_path: Path):
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    assert ended(start(whole)).returncode == 0
    process = start(folder)
    wait_for(lambda: (folder / "metrics.jsonl").exists() and log(folder), process)
    process.send_signal(signal.SIGTERM)
    stopped = ended(process)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert stopped.stderr.splitlines()[-1].startswith("stopped by SIGTERM and saved at ")
    assert "resuming from the checkpoint" in ended(start(folder)).stdout
    assert_same_end(folder, whole)
