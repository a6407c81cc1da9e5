"""Training in a folder: the loop, and in its pauses evaluation, log, checkpoints and progress."""

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
SHOWN = 8  # datapoints that a message names

Origin = Callable[[BadStep], str]  # where in the source it came from, in words


class Settings(NamedTuple):
    """The config's train.* fields, which say what each means."""

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
    """What training leaves."""

    state: TrainState
    records: list[dict[str, Any]]  # of the log, one each evaluation
    seconds: float  # of training alone, over all resumptions; a stack's, shared by its members
    examples_per_second: float | None  # steady: without compilation; None if all was done before


class Failed(NamedTuple):
    """A run that cannot go on; its last good checkpoint is kept."""

    reason: str  # for a user, in one line


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
    """Trains in a folder, from its newest sound checkpoint if it has one.

    However often it is killed and called again, the state it ends with is bitwise the same.

    Args:
        about: what travels along in every checkpoint, as JSON.
        pictures: that boards show of the parameters at each evaluation.
        debug: whether the source of a NaN is looked for.

    Raises:
        UserError: the objective or a bound is no longer a number.
        Interrupted: on one of `signals.CAUGHT`, after saving.
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
    """What a run has on disk while it trains: its checkpoints, its log, its boards."""

    def __init__(
        self,
        folder: Path,
        first: TrainState,
        *,
        keep_all: bool = False,
        about: Mapping[str, Any] | None = None,
        pictures: Pictures | None = None,
    ):
        """Opens a folder, with the newest sound checkpoint in it or else the first state."""
        self.folder, self.about, self.pictures = folder, about, pictures
        self.manager = checkpoint.open_manager(folder / "checkpoints", keep_all=keep_all)
        restored = checkpoint.restore(self.manager, first)
        self.resumed = restored is not None
        self.state, self.seconds, self._records = restored or (first, 0.0, [])
        self.step = int(self.state.step)

    def start(self, settings: Settings) -> None:
        """Makes the log ready to be written, as it was where the run is."""
        path, examples = self.folder / "metrics.jsonl", self.step * settings.batch_size
        if self._records is None:  # of a checkpoint that does not have it
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
        """Of an evaluation of these parameters."""
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
        """-> all records."""
        self.manager.close()
        for board in self.boards:
            board.close(is_done=is_done)
        return self.log.records


class Follower(Journal):
    """The journal of a process that is not the first: it reads where the run is, and no more."""

    def __init__(self, folder: Path, first: TrainState, step: int | None):
        """Opens a folder at the step that the first process has found, None for none."""
        restored = None
        if step is not None:
            reader = checkpoint.open_reader(folder / "checkpoints")
            restored = checkpoint.restore(reader, first, step=step, only_read=True)
            reader.close()
        self.folder, self.resumed = folder, restored is not None
        self.state, self.seconds, _ = restored or (first, 0.0, [])
        self.step = int(self.state.step)

    def start(self, settings: Settings) -> None:
        """It has no log."""

    def record(self, record: Mapping[str, Any], params: PyTree) -> None:
        """The first process does."""

    def save(self, state: TrainState, test_bound: float | None) -> None:
        """The first process does."""

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
    """Trains the members of a stack to the end, each with a journal of its own.

    A member whose objective is no longer a number has failed: it is neither recorded nor saved any
    more, and the others go on.

    Args:
        data: `dataset.train` on the device that is to train.
        journals: of the members, which are all at the same step.
        origin: tells of a bad step where in the source it came from.

    Raises:
        Interrupted: after saving, when a signal has come.
    """
    for journal in journals:
        journal.start(settings)
    state = runs.join([journal.state for journal in journals])
    # A checkpoint comes back to the device that saved it.
    keys, state = distributed.place((runs.keys, state), data.device)
    evaluation = _make_evaluation(runs, dataset, settings.eval_examples)
    num_steps, batch_size = settings.num_steps, settings.batch_size
    stops = evaluation_steps(num_steps, settings)
    failures: dict[int, Failed] = {}
    speed = Speed()
    last_save = time.monotonic()
    advance = runs.program.compile(keys, data, state)
    before = jax.tree.map(jnp.copy, state)  # as it was in the last pause
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
    """Steps at which training examples are evenly spaced in their logarithm, the last included."""
    ratio = num_steps * settings.batch_size / settings.first_eval
    count = max(0, math.ceil(settings.evals_per_decade * math.log10(ratio)))
    points = [
        settings.first_eval * 10 ** (number / settings.evals_per_decade) for number in range(count)
    ]
    steps = {max(1, round(point / settings.batch_size)) for point in points}
    return sorted({step for step in steps if step < num_steps} | {num_steps})


def _make_evaluation(runs: Stack, dataset: Dataset, limit: int):
    """`evaluation(params)` -> each member's bounds of (at most `limit` points of) both splits."""
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
    """What a record says of the steps since the last pause, and of those ever passed over."""
    skipped = means.pop(SKIPPED, 0)
    recent = {f"recent_{name}": mean for name, mean in means.items() if skipped < pause.num_steps}
    total = num_skipped(state)
    return recent if total is None else {**recent, SKIPPED: total}


def _diverged(
    bad: BadStep | None, journal: Journal, batch_size: int, origin: Origin | None
) -> Failed:
    """Keeps the states around a bad step, and tells of it."""
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
    """Examples per second of training, once it is under way."""

    WARM_UP = 2  # stretches

    def __init__(self) -> None:
        self._num_stretches = 0
        self._all = self._steady = (0, 0.0)  # examples and seconds, of which a long run keeps sums

    def add(self, examples: int, seconds: float) -> None:
        """A stretch."""

        def more(total: tuple[int, float]) -> tuple[int, float]:
            return total[0] + examples, total[1] + seconds

        self._all = more(self._all)
        if self._num_stretches >= self.WARM_UP:
            self._steady = more(self._steady)
        self._num_stretches += 1

    def steady(self) -> float | None:
        """Over all stretches but the first two, which warm up, if there are others."""
        examples, seconds = self._steady if self._num_stretches > self.WARM_UP else self._all
        return examples / seconds if seconds else None
