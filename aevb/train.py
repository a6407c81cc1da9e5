"""Training in a folder: the loop, and in its pauses evaluation, log, checkpoints and progress."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aevb import checkpoint, evaluate, loop
from aevb.algorithms.base import Algorithm, TrainState
from aevb.data import Dataset
from aevb.errors import Interrupted, UserError
from aevb.evaluate import Scorer
from aevb.loop import LoopKeys
from aevb.metrics import MetricsLog, TensorBoard, progress_bar
from aevb.signals import Signals
from aevb.types import Key, PyTree


class Settings(NamedTuple):
    """The config's train.* fields, which say what each means."""

    num_examples: int
    batch_size: int
    first_eval: int
    evals_per_decade: int
    eval_examples: int
    checkpoint_seconds: float
    tensorboard: bool


class Trained(NamedTuple):
    """What training leaves."""

    state: TrainState
    records: list[dict[str, Any]]  # of the log, one each evaluation
    seconds: float  # of training alone, over all resumptions
    examples_per_second: float  # steady: without compilation and the first moments


def fit(
    algorithm: Algorithm,
    dataset: Dataset,
    score: Scorer,
    settings: Settings,
    *,
    key: Key,
    folder: Path,
) -> Trained:
    """Trains in a folder, from its newest sound checkpoint if it has one.

    However often it is killed and called again, the state it ends with is bitwise the same.

    Raises:
        UserError: the bound is no longer a number.
        Interrupted: on SIGTERM or SIGINT, after saving.
    """
    init_key, order_key, step_key = jax.random.split(key, 3)
    state = jax.jit(algorithm.init)(init_key)
    manager = checkpoint.open_manager(folder / "checkpoints")
    restored = checkpoint.restore(manager, state)
    state, seconds = restored or (state, 0.0)
    batch_size = settings.batch_size
    done = int(state.step) * batch_size
    if restored:
        print(f"resuming from the checkpoint at {done:,} training examples", flush=True)
    log = MetricsLog(folder / "metrics.jsonl", keep_until=done)
    board = TensorBoard(folder / "tensorboard", log.records) if settings.tensorboard else None

    num_steps = settings.num_examples // batch_size
    stops = evaluation_steps(num_steps, settings)
    data = jnp.asarray(dataset.train)
    evaluation = _make_evaluation(score, dataset, settings.eval_examples)
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=batch_size)
    speed = Speed()
    last_save = time.monotonic()
    with Signals() as signals, progress_bar(num_steps * batch_size, done) as bar:
        for pause in loop.pauses(
            advance, LoopKeys(order_key, step_key), data, state, num_steps=num_steps, stops=stops
        ):
            state, examples = pause.state, pause.step * batch_size
            _refuse_nan("the bound of a minibatch", pause.metrics["bound"], examples)
            seconds += pause.seconds
            speed.add(pause.num_steps * batch_size, pause.seconds)
            bar.set_postfix_str(f"bound {pause.metrics['bound']:.1f}", refresh=False)
            bar.update(pause.num_steps * batch_size)
            test_bound = None
            if pause.step in stops:
                record = {"examples": examples, **evaluation(state.params), "seconds": seconds}
                test_bound = record["test_bound"]
                _refuse_nan("the test bound", test_bound, examples)
                log.append(record)
                if board:
                    board.append(record)
            late = time.monotonic() - last_save > settings.checkpoint_seconds
            if pause.step in stops or signals.received or late:
                checkpoint.save(manager, state, seconds=seconds, test_bound=test_bound)
                last_save = time.monotonic()
            if signals.received and pause.step < num_steps:
                raise Interrupted(signals.received, examples)
    manager.close()
    return Trained(state, log.records, seconds, speed.steady())


def evaluation_steps(num_steps: int, settings: Settings) -> list[int]:
    """Steps at which training examples are evenly spaced in their logarithm, the last included."""
    ratio = num_steps * settings.batch_size / settings.first_eval
    count = max(0, math.ceil(settings.evals_per_decade * math.log10(ratio)))
    points = [
        settings.first_eval * 10 ** (number / settings.evals_per_decade) for number in range(count)
    ]
    steps = {max(1, round(point / settings.batch_size)) for point in points}
    return sorted({step for step in steps if step < num_steps} | {num_steps})


def _make_evaluation(score: Scorer, dataset: Dataset, limit: int):
    """`evaluation(params)` -> the bounds of (at most `limit` datapoints of) both splits."""
    splits = {"train": dataset.train, "test": dataset.test}
    some = {name: evaluate.some_of(len(data), limit) for name, data in splits.items()}

    def evaluation(params: PyTree) -> dict[str, float]:
        return {
            f"{name}_bound": score(params, data, some[name]).mean for name, data in splits.items()
        }

    return evaluation


def _refuse_nan(what: str, value: float, examples: int) -> None:
    if not math.isfinite(value):
        raise UserError(
            f"{what} is {value} at {examples:,} training examples; the checkpoint before it is "
            "kept; try a smaller config.optimizer.step_size"
        )


class Speed:
    """Examples per second of training, once it is under way."""

    def __init__(self) -> None:
        self.stretches: list[tuple[int, float]] = []

    def add(self, examples: int, seconds: float) -> None:
        self.stretches.append((examples, seconds))

    def steady(self) -> float:
        """Over all stretches but the first two, which warm up, if there are others."""
        stretches = self.stretches[2:] or self.stretches
        seconds = sum(seconds for _, seconds in stretches)
        return sum(examples for examples, _ in stretches) / seconds if seconds else math.nan
