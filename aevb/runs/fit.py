"""Training from Python: `fit` an array in memory, `train` an experiment by its name."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aevb import experiments, registry, runs
from aevb.algorithms.base import TrainState
from aevb.config import Config, Values, require_field, validate, with_values
from aevb.data import Dataset
from aevb.data.identity import identity
from aevb.errors import UserError
from aevb.experiment import Experiment, build
from aevb.runs.load import WHICH
from aevb.runs.trained import TrainedRun, dataset_of, load_run, model_of
from aevb.storage import checkpoint
from aevb.storage.metrics_log import MetricsLog
from aevb.training import trainer
from aevb.training.journal import MemoryJournal
from aevb.training.trainer import Trained

OWN_DATA = "own_data"  # the experiment whose settings `fit` starts from
NO_FIELDS: Mapping[str, Any] = {}


def fit(
    x: Any,
    fields: Mapping[str, Any] = NO_FIELDS,
    *,
    num_latents: int = 2,
    folder: str | Path | None = None,
    which: str = "best",
) -> TrainedRun:
    """Trains a variational auto-encoder on an array in memory; returns the trained run.

    The settings are those of the experiment `own_data`, which fit the kind of the data: binary,
    grey, unit (in [0, 1]) or real. The kind is guessed, and printed: bool, and numbers that are all
    0 or 1, are binary; floating point in [0, 1] is unit and other floating point real; whole
    numbers in 0..255 are grey levels, or real in a table with named columns.

    Args:
        x: [N, D], or images [N, height, width] or [N, height, width, channels], of NumPy or JAX, or
            a table with columns. The last fifth is test data and a tenth before it validation data,
            in the order of x; {"data.split": "random"} shuffles them first.
        fields: values for any field of the config, such as {"data.kind": "grey", "seed": 1}.
        num_latents: Z.
        folder: where the run is written, as by `aevb run`, resumed if it was interrupted; None to
            write nothing.
        which: the state that is returned: "best" by the validation bound, or "last".

    Raises:
        UserError: x or a field is unsuitable, or training diverged.
        Interrupted: a signal was received, such as that of Ctrl-C.
    """
    config, entries = _experiment(OWN_DATA)
    fields = {"model.num_latents": num_latents, **fields, "data.name": "array:x"}
    values = _validated(config, entries, fields)
    dataset = dataset_of(x, values)
    changes: dict[str, Any] = {"data.name": dataset.name}
    if "train.batch_size" not in fields:
        changes["train.batch_size"] = min(values["train.batch_size"], len(dataset.train))
    values = {**values, **changes}
    if folder is None:
        return in_memory(values, build(values, dataset), which)
    runs.run(values, Path(folder), dataset=dataset)
    return load_run(folder, which=_available(which, dataset), data=dataset)


def train(
    experiment: str = experiments.DEFAULT,
    fields: Mapping[str, Any] = NO_FIELDS,
    *,
    workdir: str | Path | None = None,
    which: str = "last",
) -> TrainedRun:
    """Trains an experiment, as `aevb run` does; returns the trained run.

    Args:
        experiment: the name of one of the package's experiments, or a file with get_config().
        fields: values for fields of its config, such as {"model.num_latents": 10}.
        workdir: the run's folder; None to write nothing.
        which: the state that is returned: "last", or "best" by the validation bound.

    Raises:
        UserError: an error that the user can correct.
        Interrupted: a signal was received, such as that of Ctrl-C.
    """
    values = _validated(*_experiment(experiment), fields)
    if workdir is None:
        return in_memory(values, build(values), which)
    runs.run(values, Path(workdir))
    return load_run(workdir, which=which)


def _experiment(name: str) -> tuple[Config, str]:
    """Returns the config of an experiment, and the digest of its file if it brings entries.

    Raises:
        UserError: there is no such experiment.
    """
    file = Path(experiments.file_of(str(name)))
    if not file.is_file():
        raise UserError(
            f"the experiment is {str(name)!r}; name a file with get_config(), or one of "
            f"{', '.join(experiments.names())}"
        )
    get_config = runpy.run_path(str(file)).get("get_config")
    if get_config is None:
        raise UserError(f"{file} has no get_config()")
    return get_config(), registry.bring(file)


def _validated(config: Config, entries: str, fields: Mapping[str, Any]) -> Values:
    """Returns the validated values of a config with other values for some fields.

    Raises:
        UserError: a field is unknown, or has a value that is not allowed.
    """
    for name in fields:
        require_field(name)
    return validate(with_values(config, fields), entries)


def _available(which: str, dataset: Dataset) -> str:
    """Returns "last" for data without a validation split, in which no state is the best."""
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
            UserError: it has seen more examples.
        """
        if num_examples < (done := self.summary["num_examples"]):
            raise UserError(
                f"num_examples is {num_examples:,}, and the run has seen {done:,}; it must be "
                "at least as many"
            )
        config = {**self.config, "train.num_examples": num_examples}
        return in_memory(config, self.experiment, self.which, self.journal)

    def save(self, folder: Path) -> None:
        """Writes the run's folder, as if it had been trained in it.

        Raises:
            UserError: the folder holds something, or cannot be written.
        """
        dataset, batch_size = self.experiment.dataset, self.config["train.batch_size"]
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} holds files; name a new folder to save the run in")
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
    which = _available(which, experiment.dataset)
    if which not in WHICH:
        raise UserError(f"which is {which!r}; it must be one of {', '.join(WHICH)}")
    training, settings = runs.training_of(experiment, config), runs.settings_of(config)
    journal: list[MemoryJournal] = []

    def open_journal(first: TrainState) -> MemoryJournal:
        journal.append(MemoryJournal(first, settings, before))
        return journal[0]

    print(runs.describe(experiment, config), flush=True)
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
        origin=InMemory(experiment, config, kept, trained, summary, which),
    )
