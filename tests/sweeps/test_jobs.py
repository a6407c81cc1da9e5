"""A sweep whose runs are jobs: the outcome of scripted jobs, and real processes.

`make test-slurm` tests real jobs of a real SLURM.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import submitit
from programs import ON_THE_CPU, ROOT, run_program, run_python
from small_sweep import AXES, bounds, small

from aevb import runs
from aevb.config import Values
from aevb.errors import Interrupted, UserError
from aevb.runtime.signals import REQUEUE, Signals
from aevb.storage.metrics_log import write_with_digest
from aevb.sweeps import jobs, sweep
from aevb.sweeps.grid import LAUNCHERS, Plan, make_plan, parse_option
from aevb.sweeps.jobs import Task


class Paths(NamedTuple):
    """The paths of a job's files."""

    result_pickle: Path
    stderr: Path


class ScriptedJob:
    """A job with the result that the script specifies, or without one."""

    def __init__(self, folder: Path, job_id: str, *results: str | None):
        self.job_id, self.results = job_id, results
        self.paths = Paths(folder / f"{job_id}.pkl", folder / f"{job_id}.err")
        if results:
            self.paths.result_pickle.touch()

    def result(self) -> str | None:
        return self.results[0]


Turn = tuple[str] | tuple[str, str | None]  # a job's last state, and its result unless it is killed


class Script:
    """An engine that gives each job in turn a state and a result, or lets it do its work at once.

    It is its own executor.
    """

    poll_seconds = 0.0
    job_class = ScriptedJob

    def __init__(self, folder: Path, *script: Turn | None, room: int = 9):
        folder.mkdir(exist_ok=True)
        self.executor, self.folder, self.script, self.most = self, folder, list(script), room
        self.jobs: dict[str, str] = {}
        self.left: list[str] = []
        self.begun: list[Path] = []

    def submit(self, tasks: Sequence[Task]) -> list[ScriptedJob]:
        jobs = []
        for task in tasks[: self.most]:
            number = str(len(self.begun))
            self.begun.append(task.folder)
            turn = self.script.pop(0) if self.script else None
            with Signals():  # restores the signal handlers that the task changes
                end, *results = turn or ("COMPLETED", task())
            self.jobs[number] = end
            jobs.append(ScriptedJob(self.folder, number, *results))
        return jobs

    def ends(self, jobs: Sequence[ScriptedJob]) -> list[str]:
        return [self.jobs.get(job.job_id, "COMPLETED") for job in jobs]

    def leave(self, jobs: Sequence[ScriptedJob]) -> None:
        self.left = [job.job_id for job in jobs]


def scripted(monkeypatch: pytest.MonkeyPatch, folder: Path, *script: Turn | None) -> Script:
    monkeypatch.setattr(runs, "run", pretend)
    engine = Script(folder / "engine", *script)
    monkeypatch.setitem(jobs.ENGINES, "local", lambda folder, options: engine)
    return engine


def pretend(values: Values, folder: Path, *, is_finished: bool = True) -> None:
    """Writes the files of a run without running it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_with_digest(folder / "config.json", values)
    if is_finished:
        examples = {"num_examples": values["train.num_examples"]}
        bounds = {"train_bound": 0.0, "test_bound": 0.0}
        write_with_digest(folder / "summary.json", examples | bounds)


def one_run(**axes: Any) -> Plan:
    return make_plan(small(), {"seed": (0,), **axes})


KILLED = ("OUT_OF_MEMORY",)
STOPPED = ("COMPLETED", None)


@pytest.mark.slow
def test_runs_of_jobs_end_as_those_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    in_earnest = runs.run
    engine = scripted(monkeypatch, tmp_path)
    monkeypatch.setattr(runs, "run", in_earnest)
    plan = make_plan(small(), {"seed": (0, 1)})
    result = sweep.run(plan, tmp_path / "jobs", launcher="local")
    same = sweep.run(plan, tmp_path / "here", "sequence")
    assert result["rows"] == same["rows"]
    assert result["mapping"] == "local"
    assert len(engine.begun) == 2
    again = sweep.run(plan, tmp_path / "jobs", launcher="local")
    assert again == result
    assert len(engine.begun) == 2  # a finished run has no job


@pytest.mark.parametrize("end", [KILLED, STOPPED, ("NODE_FAIL",), ("TIMEOUT",)])
def test_a_job_that_ends_without_a_result_is_submitted_again(
    end: Turn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    engine = scripted(monkeypatch, tmp_path, end, end)
    result = sweep.run(one_run(), tmp_path / "sweep", launcher="local")
    assert len(engine.begun) == 3
    assert result["rows"][0]["failed"] == {}
    assert result["rows"][0]["seeds"] == 1


def test_a_member_whose_jobs_make_no_progress_has_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    engine = scripted(monkeypatch, tmp_path, KILLED, KILLED, KILLED)
    result = sweep.run(one_run(), tmp_path / "sweep", launcher="local")
    (reason,) = result["rows"][0]["failed"].values()
    assert len(engine.begun) == jobs.TRIES
    for word in ("OUT_OF_MEMORY", str(jobs.TRIES), "2.err"):
        assert word in reason


def test_a_member_whose_jobs_make_progress_is_submitted_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Each of these jobs adds a line to the log before it is killed."""
    engine = scripted(monkeypatch, tmp_path, *[KILLED] * 7)
    ends = engine.ends

    def save(jobs: Sequence[ScriptedJob]) -> list[str]:
        folder = engine.begun[-1]
        pretend(member.values, folder, is_finished=engine.jobs[jobs[0].job_id] == "COMPLETED")
        line = {"examples": 100 * len(engine.begun), "train_bound": 0.0, "test_bound": 0.0}
        with (folder / "metrics.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        return ends(jobs)

    (member,) = one_run().members()
    monkeypatch.setattr(engine, "ends", save)
    result = sweep.run(one_run(), tmp_path / "sweep", launcher="local")
    assert len(engine.begun) == 8
    assert result["rows"][0]["failed"] == {}
    assert result["rows"][0]["seeds"] == 1


def test_a_cancelled_or_failed_job_does_not_affect_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    failed = ("COMPLETED", "the loss is nan at step 3")
    engine = scripted(monkeypatch, tmp_path, ("CANCELLED",), failed, None)
    plan = make_plan(small(), {"seed": (0, 1, 2)})
    (row,) = sweep.run(plan, tmp_path / "sweep", launcher="local")["rows"]
    assert row["seeds"] == 1
    assert row["failed"] == {
        "seed=0": "job 0 was cancelled",
        "seed=1": "the loss is nan at step 3",
    }
    assert len(engine.begun) == 3


def test_no_more_jobs_run_at_once_than_the_engine_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    engine = scripted(monkeypatch, tmp_path)
    engine.most = 1
    counts = []
    ends = engine.ends
    monkeypatch.setattr(engine, "ends", lambda jobs: counts.append(len(jobs)) or ends(jobs))
    sweep.run(make_plan(small(), AXES), tmp_path / "sweep", launcher="local")
    assert counts == [1] * 4


def test_a_signal_does_not_cancel_submitted_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    engine = scripted(monkeypatch, tmp_path, ("",), ("",))
    launcher = jobs.Launcher(tmp_path / "sweep", "local", {})
    with Signals() as signals:
        monkeypatch.setattr(engine, "ends", lambda jobs: signals.stop() or [""] * len(jobs))
        with pytest.raises(Interrupted):
            launcher.run(make_plan(small(), {"seed": (0, 1)}).members(), signals, lambda *_: None)
    assert engine.left == ["0", "1"]
    submitted = json.loads((tmp_path / "sweep" / "jobs" / "jobs.json").read_text())
    assert submitted == {"seed=0": "0", "seed=1": "1"}


def test_jobs_of_an_earlier_command_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    engine = scripted(monkeypatch, tmp_path)
    folder = tmp_path / "sweep"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "jobs.json").write_text('{"seed=0": "77"}')
    (member,) = one_run().members()
    asked = []

    def ends(jobs: Sequence[ScriptedJob]) -> list[str]:
        asked.append([job.job_id for job in jobs])
        if len(asked) == 1:
            return [""]
        runs.run(member.values, folder / member.name)
        return ["COMPLETED"]

    monkeypatch.setattr(engine, "ends", ends)
    result = sweep.run(one_run(), folder, launcher="local")
    assert result["rows"][0]["seeds"] == 1
    assert asked[:2] == [["77"], ["77"]]
    assert engine.begun == []


def test_an_ended_job_of_an_earlier_command_is_submitted_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    engine = scripted(monkeypatch, tmp_path)
    folder = tmp_path / "sweep"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "jobs.json").write_text('{"seed=0": "77"}')
    engine.jobs["77"] = "CANCELLED"
    result = sweep.run(one_run(), folder, launcher="local")
    assert result["rows"][0]["failed"] == {}
    assert len(engine.begun) == 1


def test_an_exception_of_a_job_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("in the\nmiddle")

    monkeypatch.setattr(runs, "run", broken)
    (member,) = one_run().members()
    with Signals():
        said = Task(member.values, tmp_path, one_thread=False)()
    assert said is not None
    assert said.startswith("ZeroDivisionError: in the middle (")
    assert "in broken" in capsys.readouterr().err  # the whole message, for the log


def test_a_job_that_cannot_call_its_task_names_the_log(tmp_path: Path):
    job = submitit.LocalExecutor(tmp_path).submit(eval, "1 / 0")
    while not job.done():
        time.sleep(0.1)
    said = jobs._reason_of_failure(job)
    assert said is not None
    assert str(job.paths.stderr) in said


def test_an_invalid_sweep_is_refused_before_any_job_is_submitted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    engine = scripted(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="bernoulli"):
        sweep.run(
            one_run(**{"model.likelihood": ("bernoulli",)}), tmp_path / "sweep", launcher="local"
        )
    assert engine.begun == []


def test_every_launcher_of_the_command_line_exists():
    assert tuple(jobs.ENGINES) == LAUNCHERS


# Processes of this machine

CONFIG = ["experiments/run.py", f"--config={ROOT / 'tests' / 'support' / 'small_run.py'}"]
LOCAL = [*CONFIG, "--sweep", "--launcher=local"]


@pytest.mark.slow
def test_the_local_launcher_gives_bitwise_the_results_of_one_process(tmp_path: Path):
    done = run_python(*LOCAL, "--axis=seed=0,1", f"--workdir={tmp_path / 'jobs'}")
    assert done.returncode == 0, done.stderr
    assert "launcher: local" in done.stdout
    here = [*CONFIG, "--sweep", "--mapping=sequence", "--axis=seed=0,1"]
    assert run_python(*here, f"--workdir={tmp_path / 'here'}").returncode == 0
    assert len(bounds(tmp_path / "here")) == 4
    assert bounds(tmp_path / "jobs") == bounds(tmp_path / "here")


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *LOCAL, "--axis=model.num_latents=2", f"--workdir={folder}", *more],
        cwd=ROOT,
        env={**os.environ, **ON_THE_CPU},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def controllers(folder: Path) -> list[int]:
    """Returns the ids of the processes that supervise the jobs."""
    jobs = folder / "jobs" / "jobs.json"
    return [int(job) for job in json.loads(jobs.read_text()).values()] if jobs.exists() else []


def workers(folder: Path) -> list[int]:
    """Returns the ids of the processes that train."""
    found = []
    for controller in controllers(folder):
        children = Path(f"/proc/{controller}/task/{controller}/children")
        found += [int(child) for child in children.read_text().split()] if children.exists() else []
    return found


def wait_for(ready: Any, process: subprocess.Popen[str]) -> None:
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [REQUEUE, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_process_of_the_local_launcher_is_resumed(number: signal.Signals, tmp_path: Path):
    """The signals are those of a queue that needs room, of a user, and of a kill."""
    assert run_python(*CONFIG, "--config.model.num_latents=2", f"--workdir={tmp_path / 'alone'}")
    folder = tmp_path / "sweep"
    process = start(folder, "--axis=seed=0")
    wait_for(lambda: list(folder.rglob("metrics.jsonl")) and workers(folder), process)
    for worker in workers(folder):
        os.kill(worker, number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "failed" not in out
    (log,) = folder.rglob("metrics.jsonl")
    examples = [json.loads(line)["examples"] for line in log.read_text().splitlines()]
    assert examples == sorted(set(examples))
    assert list(bounds(folder).values()) == list(bounds(tmp_path).values())[:1]


@pytest.mark.slow
def test_ctrl_c_saves_all_local_jobs_and_the_same_command_resumes_them(tmp_path: Path):
    folder = tmp_path / "sweep"
    process = start(folder, "--axis=seed=0,1")
    wait_for(lambda: len(list(folder.rglob("metrics.jsonl"))) == 2, process)
    os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C in a terminal
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT, err
    assert workers(folder) == []
    assert "resumes from there" in err.splitlines()[-1]
    again = start(folder, "--axis=seed=0,1")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert len(bounds(folder)) == 2
    assert "failed" not in out


# SLURM's own file, and user errors


def fake_slurm(folder: Path) -> dict[str, str]:
    """Returns a PATH with an `sbatch` that keeps its file, and a `squeue` without any jobs."""
    folder.mkdir()
    programs = {
        "srun": "exit 1",
        "sbatch": f'cp "$1" {folder}/kept.sh; echo "Submitted batch job 7"',
        "squeue": "echo 7_0 CANCELLED; echo 7_1 CANCELLED",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_the_submitted_batch_file_has_the_requested_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(jobs.Slurm, "poll_seconds", 0.0)
    monkeypatch.setenv("PATH", fake_slurm(tmp_path / "bin")["PATH"])
    options = dict(map(parse_option, ["partition=gpu", "gpus-per-node=1", "time=90"]))
    plan = make_plan(small(), {"seed": (0, 1)})
    result = sweep.run(plan, tmp_path / "sweep", launcher="slurm", options=options)
    assert set(result["rows"][0]["failed"].values()) == {
        "job 7_0 was cancelled",
        "job 7_1 was cancelled",
    }
    text = (tmp_path / "bin" / "kept.sh").read_text()
    for line in (
        "#SBATCH --array=0-1%2",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --job-name=aevb-sweep",
        "#SBATCH --partition=gpu",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --time=90",
    ):
        assert line in text.splitlines()
    assert f"{tmp_path / 'sweep' / 'jobs'}" in text


def test_a_job_unknown_to_slurm_has_ended_or_was_cancelled_before_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PATH", fake_slurm(tmp_path / "bin")["PATH"])
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho 8_0 RUNNING\n")
    slurm = jobs.Slurm(tmp_path, {})
    running, begun, never = (submitit.SlurmJob(tmp_path / "jobs", f"{n}_0") for n in (8, 7, 6))
    (tmp_path / "jobs").mkdir(exist_ok=True)
    begun.paths.stdout.touch()
    assert slurm.ends([running, begun, never]) == ["", "COMPLETED", "CANCELLED"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("local", {"partition": "gpu"}, ["--launcher=local", "partition"]),
        ("slurm", {}, ["--launcher=slurm", "srun"]),
    ],
)
def test_a_launcher_that_cannot_be_used_is_refused(
    name: str,
    options: dict[str, Any],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as refused:
        sweep.run(one_run(), tmp_path / "sweep", launcher=name, options=options)
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_refusal_by_sbatch_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PATH", fake_slurm(tmp_path / "bin")["PATH"])
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "sbatch: error: invalid partition: gqu" >&2; exit 1\n')
    with pytest.raises(UserError, match="invalid partition: gqu") as refused:
        sweep.run(one_run(), tmp_path / "s", launcher="slurm", options={"partition": "gqu"})
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="--slurm=time=4h"):
        sweep.run(one_run(), tmp_path / "s", launcher="slurm", options={"time": "4h"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--launcher=local"], ["--launcher", "--sweep"]),
        (["--sweep", "--slurm=partition=gpu"], ["--slurm", "--launcher=slurm"]),
        (["--sweep", "--launcher=slurm", "--slurm=gpu"], ["--slurm=gpu", "OPTION=VALUE"]),
        (["--sweep", "--launcher=local", "--mapping=stack"], ["--mapping", "--launcher"]),
    ],
)
def test_a_wrong_argument_of_a_launcher_is_refused_in_one_line(
    arguments: list[str], words: list[str], tmp_path: Path
):
    done = run_program(*CONFIG, *arguments, f"--workdir={tmp_path / 'sweep'}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_ctrl_c_does_not_end_a_process_that_is_still_starting():
    """Otherwise Python would end the process before it has set up anything to save."""
    before = signal.getsignal(signal.SIGINT)  # already ignored in a shell's background
    with jobs._ignoring_interrupts():
        child = subprocess.Popen(
            [sys.executable, "-c", "print('ready', flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGINT)
    child.communicate(b"\n", timeout=300)
    assert child.returncode == 0
    assert signal.getsignal(signal.SIGINT) is before
