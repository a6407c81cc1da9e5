"""A run without a folder: its training, its extension, and its writing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aevb import runs
from aevb.algorithms.base import TrainState
from aevb.config import Values
from aevb.data import Dataset
from aevb.data.identity import identity
from aevb.errors import UserError
from aevb.experiment import Experiment, require_same_schedules
from aevb.runs import diagnosis
from aevb.runs.load import require_which
from aevb.runs.trained import TrainedRun, model_of
from aevb.runtime.paths import require_empty
from aevb.storage import checkpoint
from aevb.storage.metrics_log import MetricsLog
from aevb.training import trainer
from aevb.training.journal import MemoryJournal
from aevb.training.trainer import Trained


def available(which: str, dataset: Dataset) -> str:
    """Returns the state to take: "last" for data without a validation split, which have no best.

    Raises:
        UserError: `which` is unknown.
    """
    require_which(which)
    return which if "valid" in dataset.splits else "last"


class InMemory(NamedTuple):
    """A run in memory, with which it can be written or go on."""

    experiment: Experiment
    config: Values
    journal: MemoryJournal
    trained: Trained
    summary: Mapping[str, Any]
    which: str

    def dataset(self) -> Dataset:
        """Returns the run's data."""
        return self.experiment.dataset

    def extend(self, num_examples: int) -> TrainedRun:
        """Trains the run longer.

        Raises:
            UserError: it has seen more examples, or its schedule ended with it.
        """
        if num_examples < (done := self.summary["num_examples"]):
            raise UserError(
                f"num_examples is {num_examples:,}, and the run has seen {done:,}; it must be "
                "at least as many"
            )
        require_same_schedules(self.config, num_examples)
        config = {**self.config, "train.num_examples": num_examples}
        return in_memory(config, self.experiment, self.which, self.journal)

    def save(self, folder: Path) -> None:
        """Writes the run's folder, as if it had been trained in it.

        Raises:
            UserError: the folder holds something, or cannot be written.
        """
        dataset, batch_size = self.experiment.dataset, self.config["train.batch_size"]
        require_empty(folder, "save the run in")
        data = identity(dataset)
        with runs.claimed(folder, self.config, data):
            manager = checkpoint.open_manager(folder / "checkpoints")
            for state in filter(None, (self.journal.best, self.journal.state)):
                examples = int(state.step) * batch_size
                records = [one for one in self.journal.records if one["examples"] <= examples]
                checkpoint.save(
                    manager,
                    int(state.step),
                    state,
                    seconds=records[-1]["seconds"],
                    records=records,
                    about=runs.about(self.config, data),
                    valid_bound=records[-1].get("valid_bound"),
                )
            manager.close()
            MetricsLog(folder / "metrics.jsonl", self.journal.records)
            runs.write_results(
                self.experiment, self.trained.state, self.journal.records, self.config,
                self.summary, folder,
            )  # fmt: skip


def in_memory(
    config: Values, experiment: Experiment, which: str, before: MemoryJournal | None = None
) -> TrainedRun:
    """Trains a run without a folder; returns it.

    Args:
        before: the journal of the run that goes on; None to begin.

    Raises:
        UserError: training diverged, or `which` is unknown.
    """
    which = available(which, experiment.dataset)
    training, settings = runs.training_of(experiment, config), runs.settings_of(config)
    journal: list[MemoryJournal] = []

    def open_journal(first: TrainState) -> MemoryJournal:
        start = first if before else runs.first_state(config, first)
        journal.append(MemoryJournal(start, settings, before))
        return journal[0]

    print(runs.describe(experiment, config), flush=True)
    diagnosis.print_hints(diagnosis.of_data(experiment.dataset, config))
    trained = trainer.fit(training, settings, open_journal)
    kept = journal[0]
    summary = runs.summarize(experiment, training.score, trained, config, lambda step: kept.best)
    state = kept.best if which == "best" and kept.best is not None else kept.state
    params = experiment.algorithm.vae_params(state.params)
    description = experiment.dataset.description
    return TrainedRun(
        model=model_of(experiment.vae, params, description),
        data=description,
        config=config,
        summary=summary,
        history=kept.records,
        step=int(state.step),
        origin=InMemory(experiment, config, kept, trained, summary, which),
    )
