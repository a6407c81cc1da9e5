"""Compares how well missing values are filled in: by a VAE, PCA, neighbours and column means.

python -m experiments.paper.imputation --runs=RUNS [--data_dir=DATA] [--seeds=3]

A part of the values is hidden in training, validation and test data: pixels or a block of each
Frey face (blocked split), entries of scikit-learn's table of breast cancers (random split, columns
standardized by what was seen). No method sees a complete datapoint. Each has one choice, made by
the error on the hidden values of the validation data: the numbers of latents or neighbours, and for
the VAE the state of training. The hidden values of the test data are looked at once.

A run that is finished in RUNS is not trained again. The results are written to
experiments/results/imputation.json, from which `python -m docs.tools` makes a table.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.impute import KNNImputer

import aevb
from aevb import runs
from aevb.classical import linear_gaussian_missing
from aevb.classical.coordinate_ascent import maximize
from aevb.cli.common import Parser, reporting_mistakes
from aevb.config import validate, with_values
from aevb.evaluation.elbo import fixed_inputs
from aevb.experiment import load
from aevb.experiments import missing_values, own_data
from aevb.runs.trained import Model
from aevb.runtime import provenance
from aevb.storage.metrics_log import write_json

from .studies import ROOT

OUTPUT = ROOT / "experiments" / "results" / "imputation.json"
LEVEL = 0.9  # of the intervals whose coverage is counted
NUM_SAMPLES, NUM_DRAWS = 1000, 200  # K and S of an imputation
COMPONENTS = (5, 10, 20, 40, 80)  # of PCA
NEIGHBOURS = (1, 3, 5, 10, 20)
NORMAL = 1.6448536269514722  # standard deviations of the interval of a normal
MOST_SWEEPS = 300  # of EM


class Task(NamedTuple):
    """A dataset, and which part of its values is hidden."""

    data: str  # frey_faces or a table
    hide: str
    share: float


TASKS = (
    Task("frey_faces", "entries", 0.5),
    Task("frey_faces", "blocks", 0.2),
    Task("breast_cancer", "entries", 0.2),
    Task("breast_cancer", "entries", 0.5),
)


class Split(NamedTuple):
    """Datapoints with gaps, and without them."""

    x: np.ndarray  # [n, D], NaN where hidden
    truth: np.ndarray  # [n, D]


class Filled(NamedTuple):
    """The estimates of all values of a split, with intervals if a method has them."""

    mean: np.ndarray  # [n, D]
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def values_of(task: Task, seed: int, data_dir: str, folder: Path) -> Any:
    """Returns the validated config of a run; writes the table into the folder if there is none."""
    fields: dict[str, Any] = {"data.hide": task.hide, "data.hide_share": task.share, "seed": seed}
    if task.data == "frey_faces":
        base = missing_values.get_config()
        fields |= {"data.manual_dir": data_dir}
    else:
        file = folder / f"{task.data}.npy"
        if not file.is_file():
            np.save(file, load_breast_cancer(return_X_y=True)[0])
        base = own_data.get_config()
        fields |= {
            "data.name": f"file:{file}", "data.split": "random", "model.num_latents": 10,
            "model.hidden": (50,), "train.num_examples": 400_000, "algorithm.bound": "iwae",
            "algorithm.num_samples": 5,
        }  # fmt: skip
    return validate(with_values(base, fields))


def splits_of(values: Any) -> dict[str, Split]:
    """Returns the data of a config as the model takes them, and the same without gaps."""
    gappy, whole = load(values), load({**values, "data.hide": ""})

    def inputs(dataset: Any, split: str) -> np.ndarray:
        data = np.asarray(dataset.splits[split])
        return np.asarray(fixed_inputs(dataset.preprocess, np.arange(len(data)), data))

    return {split: Split(inputs(gappy, split), inputs(whole, split)) for split in gappy.splits}


def errors(filled: Filled, split: Split) -> dict[str, float]:
    """Returns the root mean square error over the hidden values, and their coverage."""
    hidden = np.isnan(split.x)
    truth = split.truth[hidden]
    found = {"rmse": float(np.sqrt(np.mean(np.square(filled.mean[hidden] - truth))))}
    if filled.low is not None and filled.high is not None:
        low, high = filled.low[hidden], filled.high[hidden]
        found["coverage"] = float(np.mean((low <= truth) & (truth <= high)))
        found["width"] = float(np.mean(high - low))
    return found


# Methods: (training data with gaps, a choice) -> a function that fills a split


def by_mean(train: np.ndarray, _choice: int) -> Callable[[np.ndarray], Filled]:
    """Returns the fill by the mean of each column, with the interval of its quantiles."""
    mean = np.nanmean(train, axis=0)
    low, high = np.nanquantile(train, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return lambda x: Filled(*(np.broadcast_to(each, x.shape) for each in (mean, low, high)))


def by_neighbours(train: np.ndarray, choice: int) -> Callable[[np.ndarray], Filled]:
    """Returns the fill by the mean of the nearest training datapoints, of scikit-learn."""
    imputer = KNNImputer(n_neighbors=choice).fit(train)
    return lambda x: Filled(np.asarray(imputer.transform(x)))


def by_pca(train: np.ndarray, choice: int) -> Callable[[np.ndarray], Filled]:
    """Returns the fill by probabilistic PCA, fitted by EM to what was seen."""
    x = jnp.asarray(train)
    problem = linear_gaussian_missing.em(x, choice)
    first = problem.init(jax.random.key(0))
    fit = partial(maximize, problem, tolerance=1e-4 * x.size, max_sweeps=MOST_SWEEPS)
    params = jax.jit(fit)(first).state

    def fill(x: np.ndarray) -> Filled:
        of_one = partial(linear_gaussian_missing.conditional, params)
        mean, variance = map(np.asarray, jax.jit(jax.vmap(of_one))(jnp.asarray(x)))
        half = NORMAL * np.sqrt(variance)
        return Filled(mean, mean - half, mean + half)

    return fill


def fill_by_model(model: Model, x: np.ndarray) -> Filled:
    """Returns the fill by a trained model: E[x|x_seen], and quantiles of draws."""
    tails = jnp.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])

    def of_one(arguments: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        found = model.impute(*arguments, num_samples=NUM_SAMPLES, num_draws=NUM_DRAWS)
        return found.mean, jnp.quantile(found.draws, tails, axis=0)

    keys = jax.random.split(jax.random.key(0), len(x))
    fill = jax.jit(lambda keys, x: jax.lax.map(of_one, (keys, x)))
    mean, ends = map(np.asarray, fill(keys, jnp.asarray(x)))
    return Filled(mean, ends[:, 0], ends[:, 1])


METHODS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "column means": (by_mean, (0,)),
    "nearest neighbours": (by_neighbours, NEIGHBOURS),
    "probabilistic PCA, EM": (by_pca, COMPONENTS),
}


def row_of_method(name: str, splits: dict[str, Split]) -> dict[str, Any]:
    """Returns the test errors of a method at its choice by the validation data."""
    make, choices = METHODS[name]
    num_dims = splits["train"].x.shape[1]
    fills = {choice: make(splits["train"].x, choice) for choice in choices if choice < num_dims}
    on_valid = {c: errors(fill(splits["valid"].x), splits["valid"]) for c, fill in fills.items()}
    chosen = min(on_valid, key=lambda choice: on_valid[choice]["rmse"])
    return {"choice": chosen, "runs": [errors(fills[chosen](splits["test"].x), splits["test"])]}


def row_of_models(task: Task, seeds: int, data_dir: str, folder: Path) -> dict[str, Any]:
    """Trains a run for each seed, if it is not finished; returns the test errors of each."""
    found = []
    for seed in range(seeds):
        values = values_of(task, seed, data_dir, folder)
        workdir = folder / f"{task.data}_{task.hide}_{task.share}_{seed}"
        runs.run(values, workdir)
        splits = splits_of(values)
        by_state = {}
        for which in ("last", "best"):
            model = aevb.load_run(workdir, which=which).model
            valid = errors(fill_by_model(model, splits["valid"].x), splits["valid"])
            by_state[which] = (valid["rmse"], model)
        which = min(by_state, key=lambda which: by_state[which][0])
        test = fill_by_model(by_state[which][1], splits["test"].x)
        found.append({"seed": seed, "state": which, **errors(test, splits["test"])})
        print(f"{workdir.name}: {found[-1]}", flush=True)
    return {"runs": found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--data_dir", default="", help="folder of the datasets' files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default="", help="numbers of the tasks, such as 0,2; '' is all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the results file")
    args = parser.parse_args(arguments)
    args.runs.mkdir(parents=True, exist_ok=True)
    chosen = [TASKS[int(number)] for number in args.tasks.split(",")] if args.tasks else TASKS
    rows = []
    for task in chosen:
        splits = splits_of(values_of(task, 0, args.data_dir, args.runs))
        methods = {name: row_of_method(name, splits) for name in METHODS}
        methods["VAE"] = row_of_models(task, args.seeds, args.data_dir, args.runs)
        numbers = {split: len(each.x) for split, each in splits.items()}
        rows.append({**task._asdict(), "datapoints": numbers, "methods": methods})
    command = f"python -m experiments.paper.imputation --runs=RUNS --seeds={args.seeds}"
    write_json(
        args.output,
        {
            "command": command, "level": LEVEL, "rows": rows,
            "versions": provenance.versions(), "machine": provenance.machine(),
        },
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(main))
