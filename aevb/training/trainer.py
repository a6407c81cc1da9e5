"""Training in a folder: the loop with evaluation, log, checkpoints and progress at its pauses."""

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from signal import Signals as Signal
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aevb.algorithms.base import Algorithm, TrainState
from aevb.algorithms.skip_nonfinite import SKIPPED, num_skipped
from aevb.data import Dataset
from aevb.errors import Interrupted, UserError
from aevb.evaluation import elbo
from aevb.evaluation.elbo import Scorer
from aevb.runtime import distributed
from aevb.runtime.signals import Signals
from aevb.storage import checkpoint
from aevb.storage.metrics_log import MetricsLog, Report, progress_bar, read_records, reporter
from aevb.storage.trackers import Pictures, open_boards
from aevb.training import loop, nonfinite, stacked_runs, streaming
from aevb.training.loop import Pause
from aevb.training.nonfinite import BadStep
from aevb.training.stacked_runs import Stack
from aevb.training.streaming import Data
from aevb.types import Key, PyTree

REMEDY = "try a smaller config.optimizer.step_size"
SHOWN = 8  # datapoints that an error message lists

Origin = Callable[[BadStep], str]  # describes the source line of the first non-finite value


class Settings(NamedTuple):
    """The config's train.* fields, which are documented in the config."""

    num_examples: int
    batch_size: int
    first_eval: int
    evals_per_decade: int
    eval_examples: int
    checkpoint_seconds: float
    keep_checkpoints: bool
    tensorboard: bool
    num_devices: int = 0
    wandb: str = "off"

    @property
    def num_steps(self) -> int:
        return self.num_examples // self.batch_size


class Trained(NamedTuple):
    """The result of training."""

    state: TrainState
    records: list[dict[str, Any]]  # the log, one record for each evaluation
    seconds: float  # of training alone, over all resumptions; a member's share of a stack's time
    examples_per_second: float | None  # without warm-up; None if no step was left to train


class Failed(NamedTuple):
    """The outcome of a run that diverged; its last finite checkpoint is kept."""

    reason: str  # one line for the user


def fit(
    algorithm: Algorithm,
    dataset: Dataset,
    score: Scorer,
    settings: Settings,
    *,
    key: Key,
    folder: Path,
    about: Mapping[str, Any] | None = None,
    pictures: Pictures | None = None,
    debug: bool = False,
) -> Trained:
    """Trains in a folder, resuming from its newest sound checkpoint if there is one.

    The final state is bitwise the same, however often training is killed and resumed.

    Args:
        about: JSON metadata that is saved in every checkpoint.
        pictures: returns the images of the parameters that trackers log at each evaluation.
        debug: whether to search for the source line of a NaN.

    Raises:
        UserError: the run diverged: the state, the objective or a bound is not finite.
        Interrupted: one of `signals.CAUGHT` was received; the state is saved first.
    """
    placement = distributed.place_for(settings.batch_size, settings.num_devices)
    program = streaming.make_program(
        algorithm, dataset, batch_size=settings.batch_size, split=distributed.split(placement)
    )
    run = stacked_runs.alone(algorithm, program, score, key)
    (first,) = run.init()
    journal = distributed.by_the_first(
        lambda: Journal(
            folder, first, keep_all=settings.keep_checkpoints, about=about, pictures=pictures
        )
    )
    step = distributed.as_the_first(journal.step if journal and journal.resumed else -1)
    journal = journal or Follower(folder, first, None if step < 0 else step)
    if journal.resumed and distributed.is_first():
        print(
            f"resuming from the checkpoint at {journal.step * settings.batch_size:,} training "
            "examples",
            flush=True,
        )
    with (
        Signals() as signals,
        progress_bar(
            settings.num_steps * settings.batch_size,
            journal.step * settings.batch_size,
            is_shown=distributed.is_first(),
        ) as bar,
    ):
        data = streaming.on_device(dataset.train, placement)
        origin = partial(nonfinite.origin, algorithm, dataset.preprocess, run.keys, data)
        (trained,) = fit_stack(
            run, dataset, data, settings, [journal], signals=signals, report=reporter(bar),
            origin=origin if debug else None,
        )  # fmt: skip
    if isinstance(trained, Failed):
        raise UserError(trained.reason)
    return trained


class Journal:
    """The checkpoints, the log and the trackers of a run during training."""

    def __init__(
        self,
        folder: Path,
        first: TrainState,
        *,
        keep_all: bool = False,
        about: Mapping[str, Any] | None = None,
        pictures: Pictures | None = None,
    ):
        """Opens a folder and restores its newest sound checkpoint, or else uses `first`."""
        self.folder, self.about, self.pictures = folder, about, pictures
        self.manager = checkpoint.open_manager(folder / "checkpoints", keep_all=keep_all)
        restored = checkpoint.restore(self.manager, first)
        self.resumed = restored is not None
        self.state, self.seconds, self._records = restored or (first, 0.0, [])
        self.step = int(self.state.step)

    def start(self, settings: Settings) -> None:
        """Opens the log and the trackers, cut back to the step at which the run resumes."""
        path, examples = self.folder / "metrics.jsonl", self.step * settings.batch_size
        if self._records is None:  # the checkpoint has no copy of the log
            self._records = [r for r in read_records(path) if r["examples"] <= examples]
        self.log = MetricsLog(path, self._records)
        self.boards = open_boards(
            self.folder,
            self.log.records,
            examples=examples,
            config=self.about["config"] if self.about else None,
            tensorboard=settings.tensorboard,
            wandb=settings.wandb,
        )

    def record(self, record: Mapping[str, Any], params: PyTree) -> None:
        """Appends the record of an evaluation of `params` to the log and the trackers."""
        self.log.append(record)
        pictures = self.pictures(params) if self.boards and self.pictures else None
        for board in self.boards:
            board.append(record, pictures)

    def save(self, state: TrainState, test_bound: float | None) -> None:
        checkpoint.save(
            self.manager, state, seconds=self.seconds, records=self.log.records, about=self.about,
            test_bound=test_bound,
        )  # fmt: skip

    def close(self, *, is_done: bool) -> list[dict[str, Any]]:
        """Closes the checkpoints and the trackers; returns all records."""
        self.manager.close()
        for board in self.boards:
            board.close(is_done=is_done)
        return self.log.records


class Follower(Journal):
    """The journal of every process except process 0. It restores the state and writes nothing."""

    def __init__(self, folder: Path, first: TrainState, step: int | None):
        """Restores the checkpoint at the step that process 0 restored; None uses `first`."""
        restored = None
        if step is not None:
            reader = checkpoint.open_reader(folder / "checkpoints")
            restored = checkpoint.restore(reader, first, step=step, only_read=True)
            reader.close()
        self.folder, self.resumed = folder, restored is not None
        self.state, self.seconds, _ = restored or (first, 0.0, [])
        self.step = int(self.state.step)

    def start(self, settings: Settings) -> None:
        """Does nothing: only process 0 has a log."""

    def record(self, record: Mapping[str, Any], params: PyTree) -> None:
        """Does nothing: process 0 writes the record."""

    def save(self, state: TrainState, test_bound: float | None) -> None:
        """Does nothing: process 0 saves the checkpoint."""

    def close(self, *, is_done: bool) -> list[dict[str, Any]]:
        return []


def fit_stack(
    runs: Stack,
    dataset: Dataset,
    data: Data,
    settings: Settings,
    journals: Sequence[Journal],
    *,
    signals: Signals,
    report: Report,
    origin: Origin | None = None,
) -> list[Trained | Failed]:
    """Trains the members of a stack to the end, each with its own journal.

    A member whose state, objective or test bound is not finite has failed. It is no longer recorded
    or saved, and the other members continue.

    Args:
        data: `dataset.train` on the device that trains.
        journals: one for each member; all are at the same step.
        origin: describes the source line of a non-finite step.

    Raises:
        Interrupted: a signal was received; the states are saved first.
    """
    for journal in journals:
        journal.start(settings)
    state = runs.join([journal.state for journal in journals])
    # A checkpoint is restored to the device that saved it.
    keys, state = distributed.place((runs.keys, state), data.device)
    evaluation = _make_evaluation(runs, dataset, settings.eval_examples)
    num_steps, batch_size = settings.num_steps, settings.batch_size
    stops = evaluation_steps(num_steps, settings)
    failures: dict[int, Failed] = {}
    speed = Speed()
    last_save = time.monotonic()
    advance = runs.program.compile(keys, data, state)
    before = jax.tree.map(jnp.copy, state)  # the state at the last pause
    pauses = loop.pauses(
        advance, keys, data, state, num_steps=num_steps, stops=stops,
        agree=distributed.as_the_first,
    )  # fmt: skip
    for pause in pauses:
        state, examples = pause.state, pause.step * batch_size
        recent = {name: np.atleast_1d(mean) for name, mean in pause.metrics.items()}
        objectives = recent["objective"]
        sound = np.asarray(nonfinite.are_finite(state, runs.size)) & np.isfinite(objectives)
        scores = evaluation(distributed.local(state.params)) if pause.step in stops else None
        for number in set(range(runs.size)) - failures.keys():
            if not sound[number]:
                bad = nonfinite.find(
                    runs, number, advance, keys, data, before,
                    stop=pause.step, batch_size=batch_size,
                )  # fmt: skip
                failures[number] = _diverged(bad, journals[number], batch_size, origin)
            elif scores and not math.isfinite(bound := scores[number]["test_bound"]):
                failures[number] = Failed(
                    f"the test bound is {bound} at {examples:,} training examples, and all else "
                    f"is finite; the checkpoint before it is kept; {REMEDY}"
                )
        if len(failures) == runs.size:
            break
        before = jax.tree.map(jnp.copy, state)
        going = [number for number in range(runs.size) if number not in failures]
        speed.add(pause.num_steps * batch_size, pause.seconds / runs.size)
        report(pause.num_steps * batch_size * runs.size, float(np.mean(objectives[going])))
        received = distributed.most_of(int(signals.received or 0))
        late = time.monotonic() - last_save > settings.checkpoint_seconds
        for number in going:
            journal = journals[number]
            journal.seconds += pause.seconds / runs.size
            to_save = scores or received or late
            member = runs.member(distributed.local(state), number) if to_save else None
            if scores and member:
                means = {name: float(each[number]) for name, each in recent.items()}
                record = {"examples": examples, **scores[number], **_recent(means, pause, member)}
                journal.record({**record, "seconds": journal.seconds}, member.params)
            if member:
                test_bound = scores[number]["test_bound"] if scores else None
                journal.save(member, test_bound)
                last_save = time.monotonic()
        if received and pause.step < num_steps:
            for journal in journals:
                journal.close(is_done=False)
            raise Interrupted(Signal(received), examples)
    records = [
        journal.close(is_done=number not in failures) for number, journal in enumerate(journals)
    ]
    return [
        failures.get(number)
        or Trained(
            runs.member(distributed.local(state), number),
            records[number],
            journal.seconds,
            speed.steady(),
        )
        for number, journal in enumerate(journals)
    ]


def evaluation_steps(num_steps: int, settings: Settings) -> list[int]:
    """Returns the steps of the evaluations, evenly spaced in log(examples), and the last step."""
    ratio = num_steps * settings.batch_size / settings.first_eval
    count = max(0, math.ceil(settings.evals_per_decade * math.log10(ratio)))
    points = [
        settings.first_eval * 10 ** (number / settings.evals_per_decade) for number in range(count)
    ]
    steps = {max(1, round(point / settings.batch_size)) for point in points}
    return sorted({step for step in steps if step < num_steps} | {num_steps})


def _make_evaluation(runs: Stack, dataset: Dataset, limit: int):
    """Returns `evaluation(params)`, which returns each member's bounds on both splits.

    At most `limit` datapoints of each split are used.
    """
    splits = {"train": dataset.train, "test": dataset.test}
    some = {name: elbo.some_of(len(data), limit) for name, data in splits.items()}

    def evaluation(params: PyTree) -> list[dict[str, float]]:
        bounds = np.zeros((len(splits), runs.size))
        if distributed.is_first():
            for row, (name, data) in zip(bounds, splits.items(), strict=True):
                row[:] = [score.mean for score in runs.score(params, data, some[name])]
        bounds = distributed.numbers_of_the_first(bounds)
        return [
            {f"{name}_bound": float(bound) for name, bound in zip(splits, each, strict=True)}
            for each in bounds.T
        ]

    return evaluation


def _recent(means: dict[str, float], pause: Pause, state: TrainState) -> dict[str, float]:
    """Returns the mean metrics since the last pause and the total number of skipped steps."""
    skipped = means.pop(SKIPPED, 0)
    recent = {f"recent_{name}": mean for name, mean in means.items() if skipped < pause.num_steps}
    total = num_skipped(state)
    return recent if total is None else {**recent, SKIPPED: total}


def _diverged(
    bad: BadStep | None, journal: Journal, batch_size: int, origin: Origin | None
) -> Failed:
    """Saves the states before and after a non-finite step; returns the failure with its message."""
    if bad is None:
        return Failed(
            "the state is not finite, but was when the same steps were taken again, which is a "
            "fault of the machine; the last checkpoint is kept: give the command again"
        )
    folder = journal.folder / "diverged"
    shutil.rmtree(folder, ignore_errors=True)
    manager = checkpoint.open_manager(folder, keep_all=True)
    for state in (bad.before, bad.after):
        checkpoint.save(manager, state, seconds=journal.seconds)
    manager.close()
    points = ", ".join(map(str, bad.indices[:SHOWN])) + ", ..." * (len(bad.indices) > SHOWN)
    where = f", on the minibatch of datapoints {points}" if len(bad.indices) else ""
    skipped = num_skipped(bad.before)
    after = f", after {skipped:,} bad steps that were skipped" if skipped else ""
    source = f"; {origin(bad)}" if origin else ""
    return Failed(
        f"{bad.problem} at step {bad.step + 1:,} "
        f"({(bad.step + 1) * batch_size:,} training examples){where}{after}; the last checkpoint "
        f"is kept, and the states before and after that step are in {folder}{source}; {REMEDY}"
        + ("" if origin else ", or --debug, which finds out where it arose")
    )


class Speed:
    """The training speed in examples per second, after the warm-up."""

    WARM_UP = 2  # intervals between pauses

    def __init__(self) -> None:
        self._num_stretches = 0
        self._all = self._steady = (0, 0.0)  # sums of examples and of seconds

    def add(self, examples: int, seconds: float) -> None:
        """Adds one interval between pauses."""

        def more(total: tuple[int, float]) -> tuple[int, float]:
            return total[0] + examples, total[1] + seconds

        self._all = more(self._all)
        if self._num_stretches >= self.WARM_UP:
            self._steady = more(self._steady)
        self._num_stretches += 1

    def steady(self) -> float | None:
        """Returns examples/s without the first two intervals, or over all if there are no others.

        It returns None if there is no interval.
        """
        examples, seconds = self._steady if self._num_stretches > self.WARM_UP else self._all
        return examples / seconds if seconds else None
