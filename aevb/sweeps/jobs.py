"""Trains each run of a sweep in its own job, on SLURM or in a local process, with submitit.

A job trains one member in its folder, as a single run does. A job that is preempted or reaches its
time limit saves and is queued again. A job that ends without a result is submitted again. Both
resume from the last checkpoint. SLURM jobs outlive the process that submitted them; if the same
command is given again, it finds them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from aevb import runs
from aevb.config import ENTRIES, Values, bring_again
from aevb.errors import Interrupted, UserError
from aevb.experiment import Loader, build
from aevb.runtime import xla
from aevb.runtime.signals import CAUGHT, REQUEUE, Signals, exit_at_once
from aevb.storage.metrics_log import Report, read_records, write_json
from aevb.sweeps.grid import Member
from aevb.sweeps.outcomes import summary_of

JOBS = "jobs"  # the subfolder of the sweep's folder to which submitit writes
RECORD = "jobs.json"  # a file in it: name of a member -> id of its last job
TRIES = 3  # consecutive jobs of a member that may end without a result and without saving more
REQUEUES = 1000  # at most, of a job that has reached its time limit
MINUTES = 240  # default time limit of a job; an unfinished run resumes in the next job
NOT_OF_SBATCH = ("time", "signal_delay_s", "array_parallelism")  # integer options of submitit
CANCELLED = "CANCELLED"
ENDED = (
    "BOOT_FAIL", CANCELLED, "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip

Job = Any  # a submitit.Job


class Task(NamedTuple):
    """The function that a job runs; it is pickled."""

    values: Values
    folder: Path
    one_thread: bool

    def __call__(self) -> str | None:
        """Trains the run; returns "", the reason if it has failed, or None if it was stopped."""
        exit_at_once([number for number in CAUGHT if number != REQUEUE])
        if self.one_thread:
            xla.add_flags("--xla_cpu_multi_thread_eigen=false")
        try:
            bring_again(self.values.get(ENTRIES, ""), self.folder)
            runs.run(self.values, self.folder)
        except UserError as error:
            return str(error)
        except Interrupted as stop:
            if stop.received == REQUEUE:
                signal.raise_signal(REQUEUE)  # now handled by submitit, which requeues the job
            return None
        except Exception as error:  # reported as the failure of this run
            traceback.print_exc()
            last = " ".join(traceback.format_exception_only(error)[-1].split())
            return f"{last} (the log of its job has the traceback)"
        return ""

    def checkpoint(self) -> Any:
        """Returns the submission of the next job; submitit calls this before it requeues."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class Slurm:
    """The SLURM queue; all jobs are submitted at once, as an array."""

    poll_seconds = 5.0

    def __init__(self, folder: Path, options: Mapping[str, Any]):
        """Raises a UserError if SLURM is not available here, or an option is invalid."""
        import submitit

        with _reporting_errors_of("--launcher=slurm"):
            self.executor = submitit.SlurmExecutor(folder / JOBS, max_num_timeout=REQUEUES)
        numbers = {name: options[name] for name in NOT_OF_SBATCH if name in options}
        for name, value in numbers.items():
            if not isinstance(value, int):
                raise UserError(f"--slurm={name}={value}; it must be a whole number")
        self.executor.update_parameters(
            job_name=f"aevb-{folder.name}"[:40],
            additional_parameters={k: v for k, v in options.items() if k not in numbers},
            **{"time": MINUTES, **numbers},
        )

    def submit(self, tasks: Sequence[Task]) -> list[Job]:
        """Submits all tasks."""
        with _reporting_errors_of("sbatch"):
            return list(self.executor.submit_array(tasks))

    def ends(self, jobs: Sequence[Job]) -> list[str]:
        """Returns the state in which each job has ended, from `squeue`; "" for a job that has not.

        submitit asks `sacct`. On a cluster without accounting its states are UNKNOWN, and a job
        that was killed or cancelled would seem to run forever.
        """
        asked = ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i %T"]
        answer = subprocess.run(
            asked, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if answer.returncode != 0:  # SLURM is overloaded; ask again at the next poll
            return [""] * len(jobs)
        states = dict(line.split() for line in answer.stdout.splitlines())
        for job in jobs:  # a job that SLURM no longer lists has run or was cancelled
            has_run = job.paths.stdout.exists()
            states.setdefault(job.job_id, "COMPLETED" if has_run else CANCELLED)
        return [state if (state := states[job.job_id]) in ENDED else "" for job in jobs]

    def leave(self, jobs: Sequence[Job]) -> None:
        """Leaves the jobs running and prints their ids."""
        ids = " ".join(sorted({job.job_id.partition("_")[0] for job in jobs}))
        if ids:
            print(f"\nSLURM continues with job {ids}; `scancel {ids}` ends it", file=sys.stderr)


class Local:
    """Local processes: one for each NVIDIA GPU, or for each core if there is no GPU."""

    poll_seconds = 0.5

    def __init__(self, folder: Path, options: Mapping[str, Any]):
        """Raises a UserError if there are options, because only SLURM has options."""
        import submitit

        if options:
            raise UserError(
                f"--slurm has {', '.join(options)}; a job of --launcher=local takes no options"
            )
        self._has_gpus = bool(gpus := list(Path("/dev").glob("nvidia[0-9]*")))
        self._jobs: list[Job | None] = [None] * (len(gpus) or xla.num_cores())  # one for each place
        self.executor = submitit.LocalExecutor(folder / JOBS, max_num_timeout=REQUEUES)

    def submit(self, tasks: Sequence[Task]) -> list[Job]:
        """Submits the first tasks, as many as there are free places."""
        free = [place for place, job in enumerate(self._jobs) if job is None or job.done()]
        for place, task in zip(free, tasks, strict=False):
            self.executor.update_parameters(
                timeout_min=60 * 24 * 365,
                **({"gpus_per_node": 1, "visible_gpus": (place,)} if self._has_gpus else {}),
            )
            with _ignoring_interrupts():
                self._jobs[place] = self.executor.submit(task)
        return [self._jobs[place] for place in free[: len(tasks)]]

    def ends(self, jobs: Sequence[Job]) -> list[str]:
        """Returns the state in which each job has ended; "" for a job that has not."""
        return [job.state if job.done() else "" for job in jobs]

    def leave(self, jobs: Sequence[Job]) -> None:
        """Sends SIGTERM to each job, so that it saves and ends, and waits for all."""
        for job in jobs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        while not all(job.done() for job in jobs):
            time.sleep(0.1)


ENGINES = {"slurm": Slurm, "local": Local}


class _Attempt(NamedTuple):
    """A member that is not finished, and its job."""

    member: Member
    saved: int  # training examples that were saved before the job
    number: int  # number of consecutive jobs since the last that saved more, including this one
    job: Job = None  # None before it is submitted


class Launcher:
    """The trainer that submits a job for each member of a sweep."""

    def __init__(self, folder: Path, name: str, options: Mapping[str, Any]):
        """Creates the launcher for the sweep in `folder`.

        Args:
            name: a key of `ENGINES`.
            options: options of the SLURM jobs, as `sbatch` names them (`time` in minutes), and
                those of submitit: `array_parallelism`, the number of jobs at a time, and
                `signal_delay_s`, the seconds before the time limit at which a job is told to save.

        Raises:
            UserError: the launcher cannot be used here, or an option is invalid.
        """
        with contextlib.suppress(RuntimeError):  # JAX is initialized already
            jax.config.update("jax_platforms", "cpu")  # leave the accelerators to the jobs
        self.folder = folder.absolute()
        self.mapping = name
        self.devices: Sequence[str] = ()  # known only in the jobs
        self.failures: dict[str, str] = {}
        try:
            self._engine: Slurm | Local = ENGINES[name](self.folder, options)
        except ImportError as error:
            message = "--launcher needs submitit; install it: pip install 'aevb[cluster]'"
            raise UserError(message) from error
        self._load = Loader()
        self._reported: dict[str, int] = {}  # name of a member -> examples reported so far

    def describe(self) -> str:
        """Returns a line that describes the launcher and names the folder of the logs."""
        return f"launcher: {self.mapping}, a job for each run; logs are in {self.folder / JOBS}"

    def check(self, values: Values) -> None:
        """Raises a UserError if a config is inconsistent, or something it names is missing."""
        runs.require_trackers(values)
        build(values, self._load(values))

    def run(self, members: Sequence[Member], signals: Signals, report: Report) -> None:
        """Submits jobs for the members that are not yet finished, and waits for them.

        Raises:
            UserError: a folder cannot be used, or a job cannot be submitted.
            Interrupted: a signal was received.
        """
        finished = [member for member in members if summary_of(self.folder, member)]
        for member in finished:
            self._report_progress(member, member.num_examples, report)
        todo = [_Attempt(m, self._saved(m), 1) for m in members if m not in finished]
        running = self._find(todo)
        found = [attempt.member for attempt in running]
        waiting = [attempt for attempt in todo if attempt.member not in found]
        for attempt in waiting:
            runs.keep_experiment(self.folder / attempt.member.name, attempt.member.values)
        while running or waiting:
            submitted = self._submit(waiting)
            running, waiting = running + submitted, waiting[len(submitted) :]
            self._sleep(signals)
            jobs = [attempt.job for attempt in running]
            if signals.received:
                self._engine.leave(jobs)
                raise Interrupted(signals.received, 0)
            running_before, running = running, []
            for attempt, end in zip(running_before, self._engine.ends(jobs), strict=True):
                examples = self._saved(attempt.member)
                if not end:
                    running.append(attempt)
                elif again := self._next(attempt, end):
                    waiting.append(again)
                else:
                    examples = attempt.member.num_examples
                self._report_progress(attempt.member, examples, report)

    def _find(self, attempts: Sequence[_Attempt]) -> list[_Attempt]:
        """Returns the attempts whose job was submitted by an earlier process and has not ended."""
        executor, ids = self._engine.executor, self._recorded()
        submitted = [
            attempt._replace(job=executor.job_class(executor.folder, ids[attempt.member.name]))
            for attempt in attempts
            if attempt.member.name in ids
        ]
        ends = self._engine.ends([attempt.job for attempt in submitted]) if submitted else []
        return [attempt for attempt, end in zip(submitted, ends, strict=True) if not end]

    def _submit(self, attempts: Sequence[_Attempt]) -> list[_Attempt]:
        """Submits jobs for the first attempts, as many as there is room for; returns these."""
        one_thread = self.mapping == "local"
        members = [attempt.member for attempt in attempts]
        tasks = [Task(member.values, self.folder / member.name, one_thread) for member in members]
        jobs = self._engine.submit(tasks) if tasks else []
        if jobs:
            ids = {member.name: job.job_id for member, job in zip(members, jobs, strict=False)}
            (self.folder / JOBS).mkdir(parents=True, exist_ok=True)
            write_json(self.folder / JOBS / RECORD, self._recorded() | ids)
        return [attempt._replace(job=job) for attempt, job in zip(attempts, jobs, strict=False)]

    def _next(self, attempt: _Attempt, end: str) -> _Attempt | None:
        """Returns the next attempt after one whose job has ended, or None if there is none.

        If the member has failed, the reason is recorded in `failures`.
        """
        member, job = attempt.member, attempt.job
        if summary_of(self.folder, member):
            return None
        reason, saved = _reason_of_failure(job), self._saved(member)
        number = 1 if saved > attempt.saved else attempt.number + 1
        if reason is not None:
            self.failures[member.name] = reason
        elif end == CANCELLED:
            self.failures[member.name] = f"job {job.job_id} was cancelled"
        elif number > TRIES:
            self.failures[member.name] = (
                f"its job has ended ({end}) {TRIES} times without saving anything; see "
                f"{job.paths.stderr}"
            )
        else:
            return _Attempt(member, saved, number)
        return None

    def _sleep(self, signals: Signals) -> None:
        until = time.monotonic() + self._engine.poll_seconds
        while time.monotonic() < until and not signals.received:
            time.sleep(0.1)

    def _saved(self, member: Member) -> int:
        """Returns the number of training examples in the last record of a member's log."""
        records = read_records(self.folder / member.name / "metrics.jsonl")
        return records[-1]["examples"] if records else 0

    def _report_progress(self, member: Member, examples: int, report: Report) -> None:
        """Reports a member's progress since the last call for this member."""
        report(examples - self._reported.get(member.name, 0), float("nan"))
        self._reported[member.name] = examples

    def _recorded(self) -> dict[str, str]:
        """Returns name of a member -> id of its last job, from the record on disk."""
        path = self.folder / JOBS / RECORD
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _reason_of_failure(job: Job) -> str | None:
    """Returns the result of an ended job's `Task`, or its error; None if the job was killed."""
    from submitit.core.utils import UncompletedJobError

    if not job.paths.result_pickle.exists():
        return None
    try:
        return job.result()
    except UncompletedJobError:
        return f"its job has failed; see {job.paths.stderr}"


@contextlib.contextmanager
def _reporting_errors_of(command: str) -> Iterator[None]:
    """Turns submitit's errors in the context into a UserError of one line, after `command`."""
    try:
        yield
    except (ValueError, RuntimeError, TypeError, subprocess.CalledProcessError) as error:
        raise UserError(f"{command}: {str(error).strip().splitlines()[0]}") from error


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignores Ctrl-C in the context, and in processes started there until they handle it."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
