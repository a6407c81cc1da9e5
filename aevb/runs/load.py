"""Loads a finished run as pure functions of one datapoint, for use in other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import Array

from aevb.algorithms.base import TrainState
from aevb.config import Values, of_finished_run
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.experiment import Experiment, build
from aevb.marginal import importance_sampling
from aevb.proposals import PROPOSALS
from aevb.storage import checkpoint
from aevb.types import Key, PyTree
from aevb.vae import VAE


class TrainedRun(NamedTuple):
    """A trained model. Its functions close over `params` and can be jitted and vmapped.

    x is a datapoint as the model takes it: a row of `dataset.train` after `dataset.preprocess`,
    which scales or binarizes pixels. For a run of full variational Bayes, the decoder's weights are
    the mean of their posterior.
    """

    encode: Callable[[Array], PyTree]  # x [D] -> statistics of q(z|x), such as a DiagNormal
    decode: Callable[[Array], Array]  # z [Z] -> E[x|z] [D]
    log_prob: Callable[..., Array]  # (key, x [D], num_samples=5000) -> log p(x) [], nats
    sample: Callable[[Key], tuple[Array, Array]]  # -> z [Z] ~ p(z), x [D] ~ p(x|z)
    vae: VAE  # the model from which the functions above are built
    params: PyTree
    dataset: Dataset
    config: Values


def load_run(folder: str | Path, *, step: int | None = None) -> TrainedRun:
    """Loads the model of a finished run.

    `log_prob` is importance sampling from a density fitted to each datapoint's posterior, a
    stochastic lower bound. `aevb.marginal` has other estimators, with standard errors.

    Args:
        folder: the run's folder. The dataset is loaded too, because it determines the model's
            shape.
        step: the step of a checkpoint that the run kept; None for the newest.

    Raises:
        UserError: there is no finished run, it has no sound checkpoint, or its data are missing.
    """
    folder = Path(folder)
    config = of_finished_run(folder)
    experiment = build(config)
    dataset, vae, algorithm = experiment
    params = algorithm.vae_params(read_state(folder, experiment, config, step).params)

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
        vae=vae,
        params=params,
        dataset=dataset,
        config=config,
    )


def read_state(
    folder: Path, experiment: Experiment, config: Values, step: int | None = None
) -> TrainState:
    """Returns the state of a run's newest sound checkpoint, or of the one at `step`.

    It writes nothing.

    Raises:
        UserError: there is no such checkpoint.
    """
    restored, kept = None, []
    if (folder / "checkpoints").is_dir():
        manager = checkpoint.open_reader(folder / "checkpoints")
        like: Any = jax.eval_shape(experiment.algorithm.init, jax.random.key(config["seed"]))
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
