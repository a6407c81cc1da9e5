"""Loads a finished run as pure functions of one datapoint, for use in other programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jax import Array

from aevb.algorithms.base import Algorithm, TrainState
from aevb.config import Values, of_finished_run
from aevb.data import Dataset
from aevb.data.identity import description_of, difference, identity
from aevb.errors import UserError
from aevb.experiment import Experiment, build, build_model
from aevb.marginal import importance_sampling
from aevb.proposals import PROPOSALS
from aevb.storage import checkpoint
from aevb.storage.metrics_log import read_records, read_with_digest
from aevb.types import Key, PyTree
from aevb.vae import VAE

WHICH = ("last", "best")
DATA = "data.json"  # the identity of a run's data


@dataclass(frozen=True)
class TrainedRun:
    """A trained model. Its functions close over `params` and can be jitted and vmapped.

    x is a datapoint as the model takes it: a stored one after `preprocess`, which scales or
    binarizes pixels. For a run of full variational Bayes, the decoder's weights are the mean of
    their posterior.
    """

    encode: Callable[[Array], PyTree]  # x [D] -> statistics of q(z|x), such as a DiagNormal
    decode: Callable[[Array], Array]  # z [Z] -> E[x|z] [D]
    log_prob: Callable[..., Array]  # (key, x [D], num_samples=5000) -> log p(x) [], nats
    sample: Callable[[Key], tuple[Array, Array]]  # -> z [Z] ~ p(z), x [D] ~ p(x|z)
    preprocess: Callable[[Key, Array], Array]  # (key, a datapoint as stored [D]) -> x [D]
    vae: VAE  # the model from which the functions above are built
    params: PyTree
    config: Values
    _load: Callable[[], Dataset]

    @cached_property
    def dataset(self) -> Dataset:
        """The data of the run, which are loaded at the first use, and checked.

        Raises:
            UserError: they are missing or have changed.
        """
        return self._load()


def load_run(
    folder: str | Path, *, which: str = "last", step: int | None = None, data: str = ""
) -> TrainedRun:
    """Loads the model of a finished run, which does not need the data.

    `log_prob` is importance sampling from a density fitted to each datapoint's posterior, a
    stochastic lower bound. `aevb.marginal` has other estimators, with standard errors.

    Args:
        folder: the run's folder.
        which: "last", the state at the end of training, or "best", the one with the highest
            validation bound.
        step: the step of a checkpoint that the run kept, instead of these two.
        data: the data's new name, such as file:FILE, if they have moved since the run.

    Raises:
        UserError: there is no finished run, it has no such sound checkpoint, or it has a
            preprocessing of the user's own, and the data that define it are missing or have
            changed.
    """
    folder = Path(folder)
    config = of_finished_run(folder, data)
    description = description_of(_stored_identity(folder))
    if description is None:
        dataset, vae, algorithm = experiment_of(folder, config)
        description = dataset.description
    else:
        vae, algorithm = build_model(config, description)
    state = read_state(folder, algorithm, config, step, which=which)
    params = algorithm.vae_params(state.params)

    def log_prob(key: Key, x: Array, num_samples: int = 5000) -> Array:
        fit_key, draw_key = jax.random.split(key)
        joint = vae.joint(params, x)
        fit = PROPOSALS["laplace"](fit_key, vae.encode(params, x), vae.guide, joint)
        return importance_sampling(draw_key, *fit, joint, num_samples=num_samples).value

    return TrainedRun(
        encode=lambda x: vae.encode(params, x),
        decode=lambda z: vae.mean(params, z),
        log_prob=log_prob,
        sample=lambda key: vae.sample(key, params),
        preprocess=description.preprocess,
        vae=vae,
        params=params,
        config=config,
        _load=lambda: experiment_of(folder, config).dataset,
    )


def experiment_of(folder: Path, config: Values) -> Experiment:
    """Returns the objects of a run's config, with the data that the run was begun with.

    Raises:
        UserError: as for `build`, or the data are others.
    """
    experiment = build(config)
    require_same_data(folder, identity(experiment.dataset))
    return experiment


def require_same_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Raises a UserError if the data with this `identity` are not those of a run."""
    if words := difference(_stored_identity(folder), data):
        raise UserError(
            f"the data are not those that the run in {folder} was begun with: {words}; bring those "
            "back, or train in a new folder"
        )


def _stored_identity(folder: Path) -> dict[str, Any]:
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
    if step is None and which not in WHICH:
        raise UserError(f"which is {which!r}; it must be one of {', '.join(WHICH)}")
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
