"""A sweep's runs as jobs of their own: of SLURM, or processes of this machine; by submitit.

A job trains one member in its folder, as a run alone would be. One that is asked to make room saves
and is queued again; one that ends without a word is submitted anew; both go on from what was saved.
The jobs of SLURM outlive the process that has submitted them, and its command finds them again.
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
from aevb.config import Values
from aevb.errors import Interrupted, UserError
from aevb.experiment import Loader, build
from aevb.runtime import xla
from aevb.runtime.signals import CAUGHT, REQUEUE, Signals, exit_at_once
from aevb.storage.metrics_log import Report, read_records, write_json
from aevb.sweeps.grid import Member
from aevb.sweeps.outcomes import summary_of

JOBS = "jobs"  # a folder of the sweep's: what submitit writes, and
RECORD = "jobs.json"  # in it, which job is which member's
TRIES = 3  # of a member's jobs in a row that end without a word and without having saved more
REQUEUES = 1000  # of a job that has met its time limit
MINUTES = 240  # of a job, unless told otherwise; what it has not finished goes on in the next
NOT_OF_SBATCH = ("time", "signal_delay_s", "array_parallelism")  # but of submitit, as whole numbers
RUNNING, CANCELLED = "RUNNING", "CANCELLED"
ENDED = (
    "BOOT_FAIL", CANCELLED, "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip

Job = Any  # a submitit.Job


class Ended(NamedTuple):
    """What a job says when it ends."""

    reason: str = ""  # why its run has failed
    is_stopped: bool = False  # rather, by a signal


class Task:
    """What a job does; it is pickled."""

    def __init__(self, values: Values, folder: Path, *, one_thread: bool):
        self.values, self.folder, self.one_thread = values, folder, one_thread

    def __call__(self) -> Ended:
        exit_at_once([number for number in CAUGHT if number != REQUEUE])
        if self.one_thread:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
        try:
            runs.run(self.values, self.folder)
        except UserError as error:
            return Ended(str(error))
        except Interrupted as stop:
            if stop.received == REQUEUE:
                signal.raise_signal(REQUEUE)  # to submitit, whose turn it is now
            return Ended(is_stopped=True)
        except Exception as error:
            traceback.print_exc()
            last = " ".join(traceback.format_exception_only(error)[-1].split())
            return Ended(f"{last} (the log of its job has the whole of it)")
        return Ended()

    def checkpoint(self) -> Any:
        """For submitit: what is to be done in the next job."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class Engine(Protocol):
    """What takes jobs."""

    poll_seconds: float  # between two looks at them

    def room(self) -> int:
        """How many may be submitted now."""
        ...

    def submit(self, tasks: Sequence[Task]) -> list[Job]: ...

    def find(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Those that an earlier process has submitted; None for one that has ended."""
        ...

    def states(self, jobs: Sequence[Job]) -> list[str]:
        """In SLURM's words."""
        ...

    def leave(self, jobs: Sequence[Job]) -> None:
        """Before this process stops."""
        ...


class Slurm:
    """SLURM's queue; everything at once, as an array."""

    poll_seconds = 5.0

    def __init__(self, folder: Path, options: Mapping[str, Any]):
        """Raises a UserError where this is no machine of a cluster, or an option is none."""
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
        """`sacct` would know for longer, but not every cluster has it, and it lags behind."""
        asked = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", "--me"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        if told.returncode != 0:  # it is overloaded; the next time then
            return [RUNNING] * len(jobs)
        known = dict(line.split() for line in told.stdout.splitlines())
        return [known.get(job.job_id) or self._forgotten(job) for job in jobs]

    def _forgotten(self, job: Job) -> str:
        """SLURM keeps what has run for minutes, and what was cancelled before not at all."""
        return "COMPLETED" if job.paths.stdout.exists() else CANCELLED

    def leave(self, jobs: Sequence[Job]) -> None:
        """They go on."""
        ids = sorted({job.job_id.partition("_")[0] for job in jobs})
        if ids:
            print(f"\nSLURM goes on with job {', '.join(ids)}; `scancel` ends it", file=sys.stderr)


class Local:
    """Processes of this machine: one for each core, or for each of its NVIDIA GPUs."""

    poll_seconds = 0.5

    def __init__(self, folder: Path, options: Mapping[str, Any]):
        """Raises a UserError where there are options: these are SLURM's."""
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
        """Each saves, and ends."""
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
    began_at: int  # examples
    tries: int  # since more was saved


class Launcher:
    """Trains members of a sweep, each in a job of its own."""

    def __init__(self, folder: Path, name: str, options: Mapping[str, Any]):
        """A launcher for the sweep in a folder.

        Args:
            name: of `ENGINES`.
            options: of SLURM's jobs, as `sbatch` names them (`time` in minutes); and submitit's
                `array_parallelism`, how many jobs at a time, and `signal_delay_s`, how long before
                the end of its time a job is asked to save.

        Raises:
            UserError: it cannot be used here, or an option is none.
        """
        with contextlib.suppress(RuntimeError):  # jax is at work already
            jax.config.update("jax_platforms", "cpu")  # accelerators are for the jobs
        self.folder = folder.absolute()
        self.mapping = name
        self.devices: Sequence[str] = ()  # the jobs know
        self.failures: dict[str, str] = {}
        try:
            self._engine: Engine = ENGINES[name](self.folder, options)
        except ImportError as error:
            raise UserError(
                "--launcher needs submitit; install it: pip install 'aevb[cluster]'"
            ) from error
        self._one_thread = name == "local"
        self._load = Loader()
        self._seen: dict[str, int] = {}  # name of a member -> examples that were reported

    def describe(self) -> str:
        """How the runs are mapped."""
        return (
            f"launcher: {self.mapping}, a job for each run; their logs are in {self.folder / JOBS}"
        )

    def check(self, values: Values) -> None:
        """Raises a UserError where what a config names does not fit together, or is not there."""
        runs.require_boards(values)
        build(values, self._load(values))

    def run(self, members: Sequence[Member], signals: Signals, report: Report) -> None:
        """Trains and finishes what of the members is not finished, and waits for it.

        Raises:
            UserError: a folder cannot be used, or a job not be submitted.
            Interrupted: when a signal has come.
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
        """A job for each member, which is the given try."""
        if not members:
            return []
        tasks = [
            Task(member.values, self.folder / member.name, one_thread=self._one_thread)
            for member, _ in members
        ]
        saved = [self._saved(member) for member, _ in members]
        jobs = self._engine.submit(tasks)
        begun = [
            _Live(member, job, began_at, tries)
            for (member, tries), job, began_at in zip(members, jobs, saved, strict=True)
        ]
        self._record(begun)
        return begun

    def _judge(self, ended: _Live, state: str) -> int:
        """What becomes of a member whose job has ended: 0, or which try the next one is."""
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
        """How many examples a member has behind it, by its log."""
        records = read_records(self.folder / member.name / "metrics.jsonl")
        return records[-1]["examples"] if records else 0

    def _tell(self, member: Member, examples: int, report: Report) -> None:
        """Moves the bar on to where the member is."""
        report(examples - self._seen.get(member.name, 0), float("nan"))
        self._seen[member.name] = examples

    def _recorded(self) -> dict[str, str]:
        """Name of a member -> id of its last job."""
        try:
            return json.loads((self.folder / JOBS / RECORD).read_text())
        except (OSError, ValueError):
            return {}

    def _record(self, begun: Sequence[_Live]) -> None:
        jobs = self._recorded() | {each.member.name: each.job.job_id for each in begun}
        (self.folder / JOBS).mkdir(parents=True, exist_ok=True)
        write_json(self.folder / JOBS / RECORD, jobs)


def _result(job: Job) -> Ended | None:
    """What a job that has ended has said; None where it was killed."""
    from submitit.core.utils import UncompletedJobError

    if not job.paths.result_pickle.exists():
        return None
    try:
        return job.result()
    except UncompletedJobError:
        return Ended(f"its job could not be done; {job.paths.stderr} says why")


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """A context in which what submitit does not accept is the user's matter."""
    try:
        yield
    except (ValueError, RuntimeError, TypeError, subprocess.CalledProcessError) as error:
        raise UserError(f"{what}: {str(error).strip().splitlines()[0]}") from error


@contextlib.contextmanager
def _deaf_to_the_terminal() -> Iterator[None]:
    """A context in which processes are started that Ctrl-C does not reach before they listen."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
