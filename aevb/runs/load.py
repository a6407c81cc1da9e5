"""Reads a run's folder: its states, and the identity of its data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from aevb.algorithms.averaging import evaluated, trained
from aevb.algorithms.base import Algorithm, TrainState
from aevb.config import Values, of_finished_run
from aevb.data import Dataset, Description
from aevb.data.identity import description_of, difference, identity
from aevb.errors import UserError
from aevb.experiment import Experiment, build, build_model
from aevb.storage import checkpoint
from aevb.storage.metrics_log import read_records, read_with_digest
from aevb.types import PyTree
from aevb.vae import VAE

WHICH = ("last", "best")
DATA = "data.json"  # the identity of a run's data


def experiment_of(folder: Path, config: Values, dataset: Dataset | None = None) -> Experiment:
    """Returns the objects of a run's config, with the data that the run was begun with.

    Args:
        dataset: the data, if they are in memory; else those that the config names.

    Raises:
        UserError: as for `build`, or the data are others.
    """
    experiment = build(config, dataset)
    require_same_data(folder, identity(experiment.dataset))
    return experiment


def model_of_run(
    folder: Path, config: Values, dataset: Dataset | None = None
) -> tuple[Description, VAE, Algorithm]:
    """Returns the description of a run's data, its model and its algorithm, without its data.

    Only a preprocessing of the user's own needs the data, which then are loaded and checked.

    Args:
        dataset: the data, if they are in memory; else those that the config names.

    Raises:
        UserError: the parts do not fit together, or such data are missing or have changed.
    """
    description = description_of(stored_identity(folder))
    if description is not None:
        return description, *build_model(config, description)
    dataset, vae, algorithm = experiment_of(folder, config, dataset)
    return dataset.description, vae, algorithm


def require_same_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Raises a UserError if the data with this `identity` are not those of a run."""
    if words := difference(stored_identity(folder), data):
        raise UserError(
            f"the data are not those that the run in {folder} was begun with: {words}; bring those "
            "back, or train in a new folder"
        )


def stored_identity(folder: Path) -> dict[str, Any]:
    """Returns the identity of a run's data.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return read_with_digest(folder / DATA)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / DATA} cannot be read ({error}), by which the run's data are known; put it "
            "back (every checkpoint has a copy in notes/metadata), or train in a new folder"
        ) from error


def read_state(
    folder: Path,
    algorithm: Algorithm,
    config: Values,
    step: int | None = None,
    *,
    which: str = "last",
) -> TrainState:
    """Returns the state of a run's newest sound checkpoint, of its best, or of the one at `step`.

    It writes nothing.

    Args:
        which: "last" or "best"; `step` takes precedence over it.

    Raises:
        UserError: there is no such checkpoint.
    """
    if step is None:
        require_which(which)
    restored, kept = None, []
    if (folder / "checkpoints").is_dir():
        if step is None and which == "best":
            step = _best_step(folder, config)
        manager = checkpoint.open_reader(folder / "checkpoints")
        like: Any = jax.eval_shape(algorithm.init, jax.random.key(config["seed"]))
        restored = checkpoint.restore(manager, like, step=step, only_read=True)
        kept = sorted(manager.all_steps())
        manager.close()
    if restored is None and step is not None:
        raise UserError(
            f"step is {step}, which has no sound checkpoint; {folder} keeps those of "
            f"{', '.join(map(str, kept))} (config.train.keep_checkpoints keeps all)"
        )
    if restored is None:
        raise UserError(f"{folder} has no sound checkpoint; train in a new folder")
    return restored.state


def require_which(which: str) -> None:
    """Raises a UserError if the name of a state is not one of WHICH."""
    if which not in WHICH:
        raise UserError(f"which is {which!r}; it must be one of {', '.join(WHICH)}")


def first_params(config: Values, like: PyTree) -> PyTree | None:
    """Returns the last parameters of the run that the config names to start from; None without one.

    Args:
        like: parameters of the model that is trained, or their shapes.

    Raises:
        UserError: there is no such finished run, or its parameters are of another model.
    """
    if not config["train.init_from"]:
        return None
    folder = Path(config["train.init_from"])
    other = of_finished_run(folder)
    _, _, algorithm = model_of_run(folder, other)
    params = evaluated(read_state(folder, algorithm, other).params)
    own = trained(like)
    differing = checkpoint.differences(checkpoint.structure(params), checkpoint.structure(own))
    if differing:
        raise UserError(
            f"config.train.init_from is {folder}, a run of another model: {differing[0]}; name a "
            "run with the same model and shape of data"
        )
    return params


def best_record(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the record of a log with the highest validation bound, or None without such bounds.

    Of several such records it returns the last; its checkpoint is the one that is kept.
    """
    scored = [record for record in records if "valid_bound" in record]
    return max(reversed(scored), key=lambda record: record["valid_bound"], default=None)


def _best_step(folder: Path, config: Values) -> int:
    """Returns the step of a run's best checkpoint.

    Raises:
        UserError: the run has no validation data.
    """
    best = best_record(read_records(folder / "metrics.jsonl"))
    if best is None:
        raise UserError(
            f"which is 'best', but {folder} is a run without validation data (config.data.num_valid"
            "), in which no checkpoint is the best; use which='last', or a step"
        )
    return best["examples"] // config["train.batch_size"]
