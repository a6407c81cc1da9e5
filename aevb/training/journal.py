"""The journal of a run during training, in a folder or in memory: its states and its log."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aevb.algorithms.base import TrainState
from aevb.algorithms.skip_nonfinite import SKIPPED, num_skipped
from aevb.optimizers import CLIPPED, num_clipped
from aevb.storage import checkpoint
from aevb.storage.metrics_log import MetricsLog
from aevb.storage.trackers import Pictures, open_trackers
from aevb.training.loop import Pause
from aevb.training.settings import Settings, is_out_of_patience

SECONDS_BETWEEN_SAVES = 2.0  # at least, of two evaluations whose states are saved at once


class Unsaved(NamedTuple):
    """The state of an evaluation that waits for the next checkpoint."""

    step: int
    state: TrainState
    seconds: float  # of training until it
    num_records: int  # of the log until it
    valid_bound: float | None


class Journal:
    """The checkpoints, the log and the trackers of one run, which one process writes."""

    def __init__(
        self,
        folder: Path,
        first: TrainState,
        settings: Settings,
        *,
        about: Mapping[str, Any] | None = None,
        pictures: Pictures | None = None,
    ):
        """Restores the newest sound checkpoint of a folder, or else begins at the state `first`.

        The log and the trackers are opened and cut back to that step.

        Args:
            about: JSON metadata that is saved in every checkpoint.
            pictures: maps the parameters to the images that trackers log at each evaluation.
        """
        self.folder, self._settings, self._about = folder, settings, dict(about or {})
        self._manager = checkpoint.open_manager(
            folder / "checkpoints", keep_all=settings.keep_checkpoints
        )
        restored = checkpoint.restore(self._manager, first)
        self.resumed = restored is not None
        self.step, self.state, self.seconds, records = restored or (0, first, 0.0, [])
        self._log = MetricsLog(folder / "metrics.jsonl", records)
        self._trackers = open_trackers(
            folder,
            records,
            examples=self.step * settings.batch_size,
            config=self._about.get("config"),
            tensorboard=settings.tensorboard,
            wandb=settings.wandb,
        )
        self._pictures = pictures if self._trackers else None
        self._last_save = time.monotonic()
        self._waiting: list[Unsaved] = []

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log until now, one record for each evaluation."""
        return self._log.records

    def is_due(self) -> bool:
        """Returns whether the last checkpoint is older than the config allows."""
        return time.monotonic() - self._last_save > self._settings.checkpoint_seconds

    def add(
        self, pause: Pause, bounds: Mapping[str, float] | None, *, is_interrupted: bool = False
    ) -> None:
        """Records the evaluation of a pause, if there is one, and saves the state.

        A checkpoint takes as long as many steps. If the last one is of a moment ago, the state of
        an evaluation waits in memory for the next one, and is saved with it if it then belongs to
        the checkpoints that are kept: the last two and the best by the validation bound.

        Args:
            pause: a pause of this run alone; its metrics have no axis.
            bounds: the train_bound, and the valid_bound or the test_bound.
            is_interrupted: whether training ends here.
        """
        if bounds is not None:
            self._record(pause, bounds)
        score = bounds.get("valid_bound") if bounds else None
        new = Unsaved(pause.step, pause.state, self.seconds, len(self.records), score)
        settings = self._settings
        is_over = (
            is_interrupted
            or pause.step == settings.num_steps
            or is_out_of_patience(self.records, settings.patience)
        )
        age = time.monotonic() - self._last_save
        if is_over or settings.keep_checkpoints or bounds is None or age > SECONDS_BETWEEN_SAVES:
            self._save(new)
            return
        best = max(record.get("valid_bound", -math.inf) for record in self.records)
        kept = [one for one in self._waiting[:-1] if one.valid_bound == best]
        self._waiting = [*kept, *self._waiting[-1:], new._replace(state=copied(new.state))]

    def _save(self, *new: Unsaved) -> None:
        """Saves the states that wait, and then another one."""
        states, self._waiting = [*self._waiting, *new], []  # they do not wait on if saving fails
        for step, state, seconds, num_records, valid_bound in states:
            checkpoint.save(
                self._manager,
                step,
                state,
                seconds=seconds,
                records=self.records[:num_records],
                about=self._about,
                valid_bound=valid_bound,
            )
        self._last_save = time.monotonic()

    def _record(self, pause: Pause, bounds: Mapping[str, float]) -> None:
        record = record_of(pause, bounds, self.seconds, self._settings)
        self._log.append(record)
        pictures = self._pictures(pause.state.params) if self._pictures else None
        for tracker in self._trackers:
            tracker.append(record, pictures)

    def keep_diverged(self, states: Sequence[TrainState]) -> str:
        """Saves the states before and after a non-finite step in a folder; returns its name."""
        folder = self.folder / "diverged"
        shutil.rmtree(folder, ignore_errors=True)
        manager = checkpoint.open_manager(folder, keep_all=True)
        for state in states:
            checkpoint.save(manager, int(state.step), state, seconds=self.seconds)
        manager.close()
        return f"in {folder}"

    def close(self, *, is_done: bool) -> None:
        """Closes the checkpoints and the trackers; `is_done` is False for an unfinished run."""
        with ExitStack() as last:  # all of it happens, even if a disk is full
            for tracker in self._trackers:
                last.callback(tracker.close, is_done=is_done)
            last.callback(self._manager.close)
            self._save()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(is_done=kind is None)


class MemoryJournal:
    """The last state, the best one by the validation bound, and the log of a run in memory."""

    resumed = False

    def __init__(
        self,
        first: TrainState,
        settings: Settings,
        before: "MemoryJournal | None" = None,
    ):
        """Begins at the state `first`, or where `before` ended."""
        self._settings = settings
        self.state = copied(before.state if before else first)
        self.seconds = before.seconds if before else 0.0
        self.records = list(before.records) if before else []
        self.best = before.best if before else None

    def is_due(self) -> bool:
        """Returns False: there is no checkpoint to save."""
        return False

    def add(
        self, pause: Pause, bounds: Mapping[str, float] | None, *, is_interrupted: bool = False
    ) -> None:
        """Records the evaluation of a pause, if there is one, and keeps the state."""
        del is_interrupted
        self.state = copied(pause.state)
        if bounds is None:
            return
        self.records.append(record_of(pause, bounds, self.seconds, self._settings))
        score = bounds.get("valid_bound")
        if score is not None and score >= max(one["valid_bound"] for one in self.records):
            self.best = self.state

    def keep_diverged(self, states: Sequence[TrainState]) -> str:
        """Does nothing; returns where the states are not."""
        return "not kept, since the run has no folder"

    def close(self, *, is_done: bool) -> None:
        """Does nothing."""

    def __enter__(self) -> "MemoryJournal":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@jax.jit
def copied(state: TrainState) -> TrainState:
    """Returns a copy of a state, which training does not overwrite."""
    return jax.tree.map(jnp.copy, state)


def record_of(
    pause: Pause, bounds: Mapping[str, float], seconds: float, settings: Settings
) -> dict[str, float]:
    """Returns the record of an evaluation at a pause."""
    return {
        "examples": pause.step * settings.batch_size,
        **bounds,
        **_recent(pause),
        "seconds": seconds,
    }


def _recent(pause: Pause) -> dict[str, float]:
    """Returns mean metrics since the last pause, and the totals of skipped and clipped steps."""
    means = {name: float(mean) for name, mean in pause.metrics.items()}
    if means.pop(SKIPPED, 0) == pause.num_steps:
        means = {}
    totals = {SKIPPED: num_skipped(pause.state), CLIPPED: num_clipped(pause.state.opt_state)}
    return {
        **{f"recent_{name}": mean for name, mean in means.items()},
        **{name: total for name, total in totals.items() if total is not None},
    }
