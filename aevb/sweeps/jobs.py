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
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
REQUEUES = 1000  # of a job that has reached its time limit
MINUTES = 240  # default time limit of a job; an unfinished run resumes in the next job
NOT_OF_SBATCH = ("time", "signal_delay_s", "array_parallelism")  # integer options of submitit
RUNNING, CANCELLED = "RUNNING", "CANCELLED"
ENDED = (
    "BOOT_FAIL", CANCELLED, "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip

Job = Any  # a submitit.Job


class Ended(NamedTuple):
    """The result that a job returns when it ends."""

    reason: str = ""  # why its run has failed
    is_stopped: bool = False  # whether a signal stopped it, instead of a failure


class Task:
    """The function that a job runs; it is pickled."""

    def __init__(self, values: Values, folder: Path, *, one_thread: bool):
        self.values, self.folder, self.one_thread = values, folder, one_thread

    def __call__(self) -> Ended:
        exit_at_once([number for number in CAUGHT if number != REQUEUE])
        bring_again(self.values.get(ENTRIES, ""), self.folder)
        if self.one_thread:
            xla.add_flags("--xla_cpu_multi_thread_eigen=false")
        try:
            runs.run(self.values, self.folder)
        except UserError as error:
            return Ended(str(error))
        except Interrupted as stop:
            if stop.received == REQUEUE:
                signal.raise_signal(REQUEUE)  # now handled by submitit, which requeues the job
            return Ended(is_stopped=True)
        except Exception as error:
            traceback.print_exc()
            last = " ".join(traceback.format_exception_only(error)[-1].split())
            return Ended(f"{last} (the log of its job has the whole of it)")
        return Ended()

    def checkpoint(self) -> Any:
        """Returns the submission of the next job; submitit calls this before it requeues."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class Engine(Protocol):
    """A queue to which jobs are submitted."""

    poll_seconds: float  # time between two queries of the jobs' states

    def room(self) -> int:
        """Returns the number of jobs that can be submitted now."""
        ...

    def submit(self, tasks: Sequence[Task]) -> list[Job]: ...

    def find(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Returns jobs that an earlier process submitted; None for each that has ended."""
        ...

    def states(self, jobs: Sequence[Job]) -> list[str]:
        """Returns the state of each job, under SLURM's names."""
        ...

    def leave(self, jobs: Sequence[Job]) -> None:
        """Releases or ends the jobs before this process stops."""
        ...


class Slurm:
    """The SLURM queue; all jobs are submitted at once, as an array."""

    poll_seconds = 5.0

    def __init__(self, folder: Path, options: Mapping[str, Any]):
        """Raises a UserError if SLURM is not available here, or an option is invalid."""
        import submitit

        with _one_line("--launcher=slurm"):
            self._executor = submitit.SlurmExecutor(folder / JOBS, max_num_timeout=REQUEUES)
        numbers = {name: options[name] for name in NOT_OF_SBATCH if name in options}
        for name, value in numbers.items():
            if not isinstance(value, int):
                raise UserError(f"--slurm={name}={value}; it must be a whole number")
        self._executor.update_parameters(
            job_name=f"aevb-{folder.name}"[:40],
            additional_parameters={k: v for k, v in options.items() if k not in numbers},
            **{"time": MINUTES, **numbers},
        )

    def room(self) -> int:
        return sys.maxsize

    def submit(self, tasks: Sequence[Task]) -> list[Job]:
        with _one_line("sbatch"):
            return list(self._executor.submit_array(tasks))

    def find(self, job_ids: Sequence[str]) -> list[Job | None]:
        import submitit

        jobs = [submitit.SlurmJob(self._executor.folder, job_id) for job_id in job_ids]
        states = self.states(jobs)
        return [None if state in ENDED else job for job, state in zip(jobs, states, strict=True)]

    def states(self, jobs: Sequence[Job]) -> list[str]:
        """Returns the state of each job from `squeue`.

        `sacct` keeps states for longer, but not every cluster has it, and it is delayed.
        """
        asked = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", "--me"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        if told.returncode != 0:  # SLURM is overloaded; ask again at the next poll
            return [RUNNING] * len(jobs)
        known = dict(line.split() for line in told.stdout.splitlines())
        return [known.get(job.job_id) or self._forgotten(job) for job in jobs]

    def _forgotten(self, job: Job) -> str:
        """Returns the state of a job that `squeue` no longer lists.

        SLURM lists a job for some minutes after it ran, and not at all if it was cancelled before
        it started. The job's output file shows whether it started.
        """
        return "COMPLETED" if job.paths.stdout.exists() else CANCELLED

    def leave(self, jobs: Sequence[Job]) -> None:
        """Leaves the jobs running and prints their ids."""
        ids = sorted({job.job_id.partition("_")[0] for job in jobs})
        if ids:
            print(f"\nSLURM goes on with job {', '.join(ids)}; `scancel` ends it", file=sys.stderr)


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
        self._gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
        self._free = list(range(self._gpus or xla.num_cores()))
        self._taken: dict[str, int] = {}  # id of a job -> its core or GPU
        self._executor = submitit.LocalExecutor(folder / JOBS, max_num_timeout=REQUEUES)

    def room(self) -> int:
        return len(self._free)

    def submit(self, tasks: Sequence[Task]) -> list[Job]:
        jobs = []
        for task in tasks:
            place = self._free.pop()
            self._executor.update_parameters(
                timeout_min=60 * 24 * 365,
                **({"gpus_per_node": 1, "visible_gpus": (place,)} if self._gpus else {}),
            )
            with _deaf_to_the_terminal():
                job = self._executor.submit(task)
            self._taken[job.job_id] = place
            jobs.append(job)
        return jobs

    def find(self, job_ids: Sequence[str]) -> list[Job | None]:
        return [None] * len(job_ids)

    def states(self, jobs: Sequence[Job]) -> list[str]:
        states = []
        for job in jobs:
            states.append("COMPLETED" if job.done() else RUNNING)
            if states[-1] in ENDED and job.job_id in self._taken:
                self._free.append(self._taken.pop(job.job_id))
        return states

    def leave(self, jobs: Sequence[Job]) -> None:
        """Sends SIGTERM to each job, on which it saves and ends, and waits for all."""
        for job in jobs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        while not all(state in ENDED for state in self.states(jobs)):
            time.sleep(0.1)


ENGINES = {"slurm": Slurm, "local": Local}


class _Live(NamedTuple):
    """A member and its job."""

    member: Member
    job: Job
    began_at: int  # training examples that were saved when the job was submitted
    tries: int  # consecutive jobs, including this one, since the last that saved more


class Launcher:
    """The trainer of a sweep's members that runs each in its own job."""

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
            self._engine: Engine = ENGINES[name](self.folder, options)
        except ImportError as error:
            raise UserError(
                "--launcher needs submitit; install it: pip install 'aevb[cluster]'"
            ) from error
        self._one_thread = name == "local"
        self._load = Loader()
        self._seen: dict[str, int] = {}  # name of a member -> examples reported so far

    def describe(self) -> str:
        """Returns a line that describes the launcher and names the folder of the logs."""
        return (
            f"launcher: {self.mapping}, a job for each run; their logs are in {self.folder / JOBS}"
        )

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
        todo = []
        for member in members:
            if summary_of(self.folder, member):
                self._tell(member, member.num_examples, report)
            else:
                todo.append(member)
        recorded = self._recorded()
        found: dict[str, Job | None] = {}
        if begun := [m.name for m in todo if m.name in recorded]:
            jobs = self._engine.find([recorded[name] for name in begun])
            found = dict(zip(begun, jobs, strict=True))
        live = [_Live(m, job, self._saved(m), 1) for m in todo if (job := found.get(m.name))]
        waiting = deque((m, 1) for m in todo if not found.get(m.name))
        while live or waiting:
            room = min(self._engine.room(), len(waiting))
            live += self._submit([waiting.popleft() for _ in range(room)])
            self._sleep(signals)
            if signals.received:
                self._engine.leave([each.job for each in live])
                raise Interrupted(signals.received, 0)
            states = self._engine.states([each.job for each in live])
            going_on = []
            for each, state in zip(live, states, strict=True):
                self._tell(each.member, self._saved(each.member), report)
                if state not in ENDED:
                    going_on.append(each)
                elif tries := self._judge(each, state):
                    waiting.append((each.member, tries))
                else:
                    self._tell(each.member, each.member.num_examples, report)
            live = going_on

    def _submit(self, members: Sequence[tuple[Member, int]]) -> list[_Live]:
        """Submits a job for each member, given with the number of its try."""
        if not members:
            return []
        tasks = [
            Task(member.values, self.folder / member.name, one_thread=self._one_thread)
            for member, _ in members
        ]
        for member, _ in members:
            runs.keep_experiment(self.folder / member.name, member.values)
        saved = [self._saved(member) for member, _ in members]
        jobs = self._engine.submit(tasks)
        begun = [
            _Live(member, job, began_at, tries)
            for (member, tries), job, began_at in zip(members, jobs, saved, strict=True)
        ]
        self._record(begun)
        return begun

    def _judge(self, ended: _Live, state: str) -> int:
        """Returns the number of the next try of a member whose job has ended, or 0 for none.

        If the member has failed, the reason is recorded in `failures`.
        """
        member, job = ended.member, ended.job
        if summary_of(self.folder, member):
            return 0
        said = _result(job)
        if said is not None and not said.is_stopped:
            self.failures[member.name] = said.reason
            return 0
        if state == CANCELLED:
            self.failures[member.name] = f"job {job.job_id} was cancelled"
            return 0
        tries = 1 if self._saved(member) > ended.began_at else ended.tries + 1
        if tries > TRIES:
            self.failures[member.name] = (
                f"its job has ended ({state}) {TRIES} times without having saved anything; "
                f"{job.paths.stderr} has its last words"
            )
            return 0
        return tries

    def _sleep(self, signals: Signals) -> None:
        until = time.monotonic() + self._engine.poll_seconds
        while time.monotonic() < until and not signals.received:
            time.sleep(0.1)

    def _saved(self, member: Member) -> int:
        """Returns the number of training examples in the last record of a member's log."""
        records = read_records(self.folder / member.name / "metrics.jsonl")
        return records[-1]["examples"] if records else 0

    def _tell(self, member: Member, examples: int, report: Report) -> None:
        """Reports the member's progress since the last call to the progress bar."""
        report(examples - self._seen.get(member.name, 0), float("nan"))
        self._seen[member.name] = examples

    def _recorded(self) -> dict[str, str]:
        """Returns name of a member -> id of its last job, from the record on disk."""
        try:
            return json.loads((self.folder / JOBS / RECORD).read_text())
        except (OSError, ValueError):
            return {}

    def _record(self, begun: Sequence[_Live]) -> None:
        jobs = self._recorded() | {each.member.name: each.job.job_id for each in begun}
        (self.folder / JOBS).mkdir(parents=True, exist_ok=True)
        write_json(self.folder / JOBS / RECORD, jobs)


def _result(job: Job) -> Ended | None:
    """Returns the result of a job that has ended; None if it was killed."""
    from submitit.core.utils import UncompletedJobError

    if not job.paths.result_pickle.exists():
        return None
    try:
        return job.result()
    except UncompletedJobError:
        return Ended(f"its job could not be done; {job.paths.stderr} says why")


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns submitit's errors inside the context into a UserError of one line.

    Args:
        what: the flag or command that the message names.
    """
    try:
        yield
    except (ValueError, RuntimeError, TypeError, subprocess.CalledProcessError) as error:
        raise UserError(f"{what}: {str(error).strip().splitlines()[0]}") from error


@contextlib.contextmanager
def _deaf_to_the_terminal() -> Iterator[None]:
    """Ignores SIGINT inside the context.

    Processes started there ignore Ctrl-C until they install their own handler.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
