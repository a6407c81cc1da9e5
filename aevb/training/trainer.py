"""Training of a run: advance, check, evaluate, record, save, stop."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache, partial
from signal import Signals as Signal
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from aevb.algorithms.base import Algorithm, TrainState
from aevb.algorithms.skip_nonfinite import is_finite, num_skipped
from aevb.data import Dataset
from aevb.doctor.of_divergence import SMALLER_STEP, probable_cause
from aevb.errors import Interrupted, UserError
from aevb.evaluation import elbo, measures
from aevb.evaluation.elbo import Scorer
from aevb.runtime import distributed, xla
from aevb.runtime.signals import Signals
from aevb.storage.metrics_log import Report, progress_bar, reporter
from aevb.training import loop, nonfinite, streaming
from aevb.training.journal import Journal, MemoryJournal, copied
from aevb.training.loop import Pause, Steps
from aevb.training.nonfinite import BadStep
from aevb.training.settings import Settings, evaluation_steps, is_out_of_patience
from aevb.types import Key

AnyJournal = Journal | MemoryJournal

SHOWN = 8  # datapoints that an error message lists


class Run(NamedTuple):
    """One run: what is trained, how it is evaluated, and the key of its seed."""

    algorithm: Algorithm
    dataset: Dataset
    score: Scorer
    key: Key
    debug: bool = False  # whether to search for the source line of a NaN


class Trained(NamedTuple):
    """The result of training."""

    state: TrainState
    records: list[dict[str, Any]]  # the log, one record for each evaluation
    seconds: float  # of training alone, over all resumptions; a member's share of a stack's time
    examples_per_second: float | None  # without warm-up; None if no step was left to train


class DivergedError(UserError):
    """The error of a run whose state, objective or bound is not finite."""


def fit(run: Run, settings: Settings, open_journal: Callable[[TrainState], AnyJournal]) -> Trained:
    """Trains a run, resuming from the state of its journal.

    The final state is bitwise the same, however often training is killed and resumed. If there are
    several processes, only process 0 opens the journal; the others return no records.

    Args:
        open_journal: returns the journal of a run with this first state.

    Raises:
        DivergedError: the state, the objective or a bound is not finite.
        Interrupted: one of `signals.CAUGHT` was received; the state is saved first.
    """
    placement = distributed.place_for(settings.batch_size, settings.num_devices)
    program = streaming.make_program(
        run.algorithm,
        run.dataset,
        batch_size=settings.batch_size,
        split=distributed.split(placement),
    )
    state, journal = loop.first_state(run.algorithm.init, run.key), None
    with distributed.stopping_together():
        if distributed.is_process_0():
            journal = open_journal(state)
            state = journal.state
    state = distributed.broadcast(state)
    total, done = (step * settings.batch_size for step in (settings.num_steps, int(state.step)))
    if journal and journal.resumed:
        print(f"resuming from the checkpoint at {done:,} training examples", flush=True)
    with Signals() as signals, progress_bar(total, done, is_shown=journal is not None) as bar:
        data = streaming.on_device(run.dataset.train, placement)
        keys = loop.run_keys(run.key).loop
        steps, state = loop.prepare(program, keys, data, state, settings.batch_size)
        return train(run, steps, state, settings, journal, signals=signals, report=reporter(bar))


def train(
    run: Run,
    steps: Steps,
    state: TrainState,
    settings: Settings,
    journal: AnyJournal | None,
    *,
    signals: Signals,
    report: Report,
) -> Trained:
    """Trains a run to the end, with evaluations, the log and checkpoints at its pauses.

    The end is the last step, or an evaluation at which the run is out of patience.

    Args:
        steps, state: from `loop.prepare`.
        journal: None in every process but process 0.

    Raises:
        DivergedError: the state, the objective or a bound is not finite.
        Interrupted: a signal was received; the state is saved first.
    """
    stops, num_steps, speed = evaluation_steps(settings), settings.num_steps, Speed()
    evaluate = _evaluation(run, settings)
    before = copied(state)  # the state at the last pause
    with journal or nullcontext():
        if _ends_early(journal, settings):  # it was interrupted after its last step
            num_steps = int(state.step)
        for pause in loop.pauses(
            steps, state, num_steps=num_steps, stops=stops, agree=distributed.broadcast_number
        ):
            if not (math.isfinite(pause.metrics["objective"]) and _finite_check()(pause.state)):
                bad = nonfinite.find(steps, before, pause.step)
                raise diverged(bad, settings.batch_size, journal, _source(run, steps, bad))
            state = distributed.local(pause.state)
            bounds = evaluate(state) if pause.step in stops else None
            require_finite(bounds, pause, settings.batch_size)
            before = copied(pause.state)
            speed.add(pause, settings.batch_size)
            report(pause.num_steps * settings.batch_size, float(pause.metrics["objective"]))
            received = distributed.largest(int(signals.received or 0))
            with distributed.stopping_together():
                if journal:
                    journal.seconds += pause.seconds
                    if bounds or received or journal.is_due():
                        journal.add(
                            pause._replace(state=state), bounds, is_interrupted=bool(received)
                        )
            if bounds and _ends_early(journal, settings):
                break
            if received and pause.step < num_steps:
                raise Interrupted(Signal(received), pause.step * settings.batch_size)
    if journal is None:
        return Trained(distributed.local(state), [], 0.0, speed.steady())
    return Trained(distributed.local(state), journal.records, journal.seconds, speed.steady())


def _ends_early(journal: AnyJournal | None, settings: Settings) -> bool:
    """Returns whether the log, which process 0 has, ends training here; equal in all processes."""
    is_over = journal is not None and is_out_of_patience(journal.records, settings.patience)
    return bool(distributed.largest(int(is_over)))


@cache
def _finite_check() -> Callable[[TrainState], Array]:
    return xla.jit_brief(is_finite)


def _evaluation(run: Run, settings: Settings) -> Callable[[TrainState], dict[str, float]]:
    """Returns the function of a state that gives what an evaluation records.

    All processes get the bounds on the training data and the followed split. Process 0 computes
    them, on at most `eval_examples` datapoints of each split, and has the other measures too: those
    of `measures`, and the norms of a step on a minibatch that is the same in all evaluations.
    """
    algorithm, dataset, score, key, _ = run
    splits, keys = ("train", dataset.followed), loop.run_keys(key).loop
    norms_of = jax.jit(partial(loop.norms_of, algorithm, dataset.preprocess))
    minibatch = elbo.some_of(len(dataset.train), settings.batch_size).astype(np.int32)

    def evaluate(state: TrainState) -> dict[str, float]:
        bounds, found = np.zeros(len(splits)), {}
        if distributed.is_process_0():
            params = algorithm.vae_params(state.params)
            for number, split in enumerate(splits):
                data = dataset.splits[split]
                index = elbo.some_of(len(data), settings.eval_examples)
                scored = score(params, data, index)
                bounds[number] = scored.mean
                found |= measures.of_split(split, scored.measures)
            norms = norms_of(keys, state, dataset.train[minibatch], minibatch)
            found |= {name: float(norm) for name, norm in norms.items()}
        bounds = map(float, distributed.broadcast(bounds))
        return {
            f"{split}_bound": bound for split, bound in zip(splits, bounds, strict=True)
        } | found

    return evaluate


def require_finite(bounds: Mapping[str, float] | None, pause: Pause, batch_size: int) -> None:
    """Raises a DivergedError if the training or validation bound of a pause is not finite."""
    names = {"train_bound": "training", "valid_bound": "validation"}  # test data must not decide
    for name, words in names.items():
        if bounds and not math.isfinite(bound := bounds.get(name, 0.0)):
            raise DivergedError(
                f"the {words} bound is {bound} at {pause.step * batch_size:,} training examples, "
                f"and the state is finite; the checkpoint before it is kept; {SMALLER_STEP}"
            )


def _source(run: Run, steps: Steps, bad: BadStep | None) -> str:
    """Returns a description of the source line of a non-finite step, or "" without debug."""
    if bad is None or not run.debug:
        return ""
    return nonfinite.origin(run.algorithm, run.dataset.preprocess, steps, bad)


def diverged(
    bad: BadStep | None, batch_size: int, journal: AnyJournal | None, source: str = ""
) -> DivergedError:
    """Saves the states before and after a non-finite step; returns the error that explains it."""
    if bad is None:
        return DivergedError(
            "the state is not finite, but was when the same steps were taken again, which is a "
            "fault of the machine; the last checkpoint is kept: give the command again"
        )
    kept = "process 0 says where"
    with distributed.stopping_together():
        if journal:
            kept = journal.keep_diverged([bad.before, bad.after])
    points = ", ".join(map(str, bad.indices[:SHOWN])) + ", ..." * (len(bad.indices) > SHOWN)
    where = f", on the minibatch of datapoints {points}" if len(bad.indices) else ""
    cause = probable_cause(bad.problem, journal.records if journal else [])
    skipped = num_skipped(bad.before)
    after = f", after {skipped:,} bad steps that were skipped" if skipped else ""
    return DivergedError(
        f"{bad.problem} at step {bad.step + 1:,} "
        f"({(bad.step + 1) * batch_size:,} training examples){where}{after}; the last "
        f"checkpoint is kept, and the states before and after that step are {kept}"
        + (f"; {source}; {cause}" if source else f"; {cause}, or --debug, which finds its source")
    )


class Speed:
    """The training speed in examples per second, after the warm-up."""

    WARM_UP = 2  # pauses

    def __init__(self) -> None:
        self._stretches: list[tuple[int, float]] = []  # examples and seconds

    def add(self, pause: Pause, batch_size: int) -> None:
        """Adds the interval that ended at a pause."""
        self._stretches.append((pause.num_steps * batch_size, pause.seconds))

    def steady(self) -> float | None:
        """Returns examples/s without the first two intervals, or over all if there are only these.

        It returns None if there is no interval.
        """
        counted = self._stretches[self.WARM_UP :] or self._stretches
        seconds = sum(seconds for _, seconds in counted)
        return sum(examples for examples, _ in counted) / seconds if seconds else None
