"""What is wrong with a run: the hints of its data, its log and its model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from aevb.building.models import build_likelihood
from aevb.config import Values, of_run, total_latents
from aevb.data import Dataset
from aevb.doctor import of_model, sample
from aevb.doctor.baselines import Baseline, baselines
from aevb.doctor.hints import Hint, text, without_consequences
from aevb.doctor.of_data import hints_of_data
from aevb.doctor.of_log import Setting, hints_of_baselines, hints_of_log
from aevb.errors import UserError
from aevb.evaluation import elbo
from aevb.experiment import Experiment, build_model, with_likelihood
from aevb.likelihoods import Likelihood
from aevb.runs.load import experiment_of, read_state
from aevb.storage.metrics_log import read_records
from aevb.types import PyTree

NUM_POINTS = 500  # datapoints on which a model is checked
NUM_SCORED = 50  # of them, whose log p(x) is estimated
DTYPE = "model.compute_dtype"
ESTIMATES = "marginal.json"


class Diagnosis(NamedTuple):
    """The hints about a run, the simple models that its bound is compared with, and its log."""

    hints: list[Hint]
    baselines: list[Baseline]
    records: Sequence[Mapping[str, Any]]


def of_data(dataset: Dataset, config: Values) -> list[Hint]:
    """Returns the hints of a run's data and settings, before training."""
    return hints_of_data(
        dataset,
        _likelihood(dataset, config)[1],
        num_latents=total_latents(config),
        batch_size=config["train.batch_size"],
    )


def _likelihood(dataset: Dataset, config: Values) -> tuple[str, Likelihood]:
    """Returns the name of a run's likelihood, and that entry for x as it is stored."""
    values = with_likelihood(config, dataset.kind)
    return values["model.likelihood"], build_likelihood(values, dataset.description)


def print_hints(hints: Sequence[Hint]) -> None:
    """Prints hints, three lines each."""
    for hint in hints:
        print(text(hint), flush=True)


def of_training(
    dataset: Dataset, config: Values, records: Sequence[Mapping[str, Any]]
) -> Diagnosis:
    """Returns the hints of a run's log, and of its bound beside those of simple models.

    The bounds are those of the last record. Those of the test data are not used.
    """
    x = sample.draw(dataset, NUM_POINTS).train.astype(np.float64)
    log_spread = float(np.log(max(np.mean(sample.moments(x).variance), np.finfo(np.float32).tiny)))
    setting = Setting(total_latents(config), config["train.batch_size"], log_spread)
    rivals = baselines(dataset, *_likelihood(dataset, config), num_latents=setting.num_latents)
    last = records[-1] if records else {}
    bounds = {
        split: last[name] for split in ("train", "valid") if (name := f"{split}_bound") in last
    }
    hints = hints_of_log(records, setting)
    hints += hints_of_baselines(bounds, rivals) if bounds else []
    return Diagnosis(without_consequences(hints), rivals, records)


def of_trained(experiment: Experiment, config: Values, params: PyTree) -> list[Hint]:
    """Returns the hints of a trained model, from validation data, or training data without them.

    Args:
        params: the VAE's parameters.
    """
    dataset, vae, _ = experiment
    data = dataset.splits.get("valid", dataset.train)
    index, x = _inputs(dataset, data)
    key = jax.random.key(elbo.NOISE_SEED)
    hints = of_model.hints_of_units(key, vae, params, x)
    if vae.log_var is not None or dataset.kind == "counts":  # others have no spread to choose
        hints += of_model.hints_of_likelihood(
            key, vae, params, _inputs(dataset, dataset.train)[1],
            beyond_scale=dataset.kind != "counts",
        )  # fmt: skip
    if vae.has_encoder:
        hints += of_model.hints_of_weights(key, vae, params, x[:NUM_SCORED])
    if config[DTYPE] != "float32":
        exact, _ = build_model({**config, DTYPE: "float32"}, dataset.description)
        rounded, full = (
            elbo.make_score(each, dataset.preprocess)(params, data, index).mean
            for each in (vae, exact)
        )
        hints += of_model.hints_of_precision(rounded, full, config[DTYPE])
    return hints


def _inputs(dataset: Dataset, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of some datapoints of a split, and what the model receives of them."""
    index = elbo.some_of(len(data), NUM_POINTS)
    return index, np.asarray(elbo.fixed_inputs(dataset.preprocess, index, np.asarray(data[index])))


def of_folder(folder: Path, data: str = "") -> Diagnosis:
    """Returns the diagnosis of a run in its folder, which may be unfinished.

    Args:
        data: the data's new name, if they have moved.

    Raises:
        UserError: it is not the folder of a run, or its data are others or missing.
    """
    config = of_run(folder, data)
    experiment = experiment_of(folder, config)
    dataset, _, algorithm = experiment
    records = read_records(folder / "metrics.jsonl")
    of_log, rivals, _ = of_training(dataset, config, records)
    hints = of_data(dataset, config) + of_log
    try:
        state = read_state(folder, algorithm, config)
    except UserError:  # it has not come to its first checkpoint
        return Diagnosis(without_consequences(hints), rivals, records)
    hints += of_trained(experiment, config, algorithm.vae_params(state.params))
    if (file := folder / ESTIMATES).is_file():
        hints += of_model.hints_of_estimates(
            json.loads(file.read_text(encoding="utf-8"))["estimators"]
        )
    return Diagnosis(without_consequences(hints), rivals, records)
