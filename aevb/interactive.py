"""Training from Python: `fit` an array in memory, `train` an experiment by its name."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aevb import experiments, registry, runs
from aevb.config import Config, Values, require_field, validate, with_values
from aevb.errors import UserError
from aevb.experiment import build
from aevb.runs.in_memory import available, in_memory
from aevb.runs.load import require_which
from aevb.runs.trained import TrainedRun, dataset_of, load_run

OWN_DATA = "own_data"  # the experiment whose settings `fit` starts from
NO_FIELDS: Mapping[str, Any] = {}


def fit(
    x: Any,
    fields: Mapping[str, Any] = NO_FIELDS,
    *,
    y: Any = None,
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
        y: labels [N], whole numbers from 0, and -1 for a missing one; None for no labels. The model
            is then m2 with all labels that are given, unless `fields` has another of
            "model.labels" and "data.num_labels". Each class is split by itself.
        num_latents: Z.
        folder: where the run is written, as by `aevb run`, resumed if it was interrupted; None to
            write nothing.
        which: the state that is returned: "best" by the validation bound, or "last".

    Raises:
        UserError: x or a field is unsuitable, or training diverged.
        Interrupted: a signal was received, such as that of Ctrl-C.
    """
    require_which(which)
    config, entries = _experiment(OWN_DATA)
    of_labels = {} if y is None else {"model.labels": "m2", "data.num_labels": 0}
    fields = {"model.num_latents": num_latents, **of_labels, **fields, "data.name": "array:x"}
    values = _validated(config, entries, fields)
    dataset = dataset_of(x if y is None else (x, y), values)
    changes: dict[str, Any] = {"data.name": dataset.name}
    if "train.batch_size" not in fields:
        changes["train.batch_size"] = min(values["train.batch_size"], len(dataset.train))
    values = {**values, **changes}
    if folder is None:
        return in_memory(values, build(values, dataset), which)
    runs.run(values, Path(folder), dataset=dataset)
    return load_run(folder, which=available(which, dataset), data=dataset)


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
    require_which(which)
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
