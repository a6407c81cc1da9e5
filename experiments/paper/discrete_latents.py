"""Trains a sigmoid belief network by each estimator of discrete latents, and compares them.

python -m experiments.paper.discrete_latents [--data-dir=FOLDER] [--seeds=3] [--examples=N] \
[--trial-examples=N] [--images=1000] [--only=vimco,nvil]

The model is that of experiments/sigmoid_belief_network.py. Each estimator has the same number of
samples and of training examples. Its step size is the one of three with the highest log p(x) of
validation images after a shorter training with the first seed. The results are log p(x) of test
images by importance sampling from the encoder, the evidence lower bound, the CPU time of training,
and the variance of the gradient at the end of training, on one minibatch. Of data that are
simulated by the model, log p(x) is bounded from above too. A model that was trained
as its relaxation is scored as the discrete model with the same parameters.

What is in the results file is not repeated, so that a run that was stopped goes on. `python -m
docs.tools` makes the table of docs/estimators.md from it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aevb import optimizers
from aevb.algorithms.base import Batch, TrainState
from aevb.cli.common import Parser, reporting_mistakes
from aevb.config import Values, validate, with_values
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.evaluation import diagnostics, log_likelihood
from aevb.evaluation.diagnostics import Moments
from aevb.evaluation.elbo import fixed_inputs, some_of
from aevb.evaluation.log_likelihood import ELBO, Points
from aevb.experiment import build_algorithm, build_model, load
from aevb.experiments import sigmoid_belief_network
from aevb.marginal import ESTIMATORS, Estimator
from aevb.runtime import provenance, xla
from aevb.storage.metrics_log import write_json
from aevb.training import loop
from aevb.types import Key, PyTree
from aevb.vae import VAE

from .studies import ROOT

OUTPUT = ROOT / "experiments" / "results" / "discrete_latents.json"
STEP_SIZES = (1e-3, 3e-3, 1e-2)
RELAXED = {"model.guide": "relaxed_bernoulli", "model.prior": "relaxed_bernoulli"}
WAYS: dict[str, dict[str, Any]] = {  # name -> fields of the config
    "score_function_loo": {"algorithm.bound": "score_function_loo"},
    "nvil": {"algorithm.bound": "nvil"},
    "vimco": {"algorithm.bound": "vimco"},
    "relaxed_bernoulli": {**RELAXED, "algorithm.bound": "sgvb_a"},
    "wake_sleep": {"algorithm.name": "wake_sleep"},
    "reweighted_wake_sleep": {"algorithm.name": "reweighted_wake_sleep"},
}
SEED = 20140417  # of the noise of evaluations
NUM_GRADIENTS, MINIBATCH = 100, 20  # of the variance of the gradient
NUM_SIMULATED = 200  # datapoints of the model, whose log p(x) is bounded from both sides
NUM_VALID, NUM_VALID_SAMPLES = 500, 100  # of log p(x) by which a step size is chosen


class Scale(NamedTuple):
    """The sizes of the comparison."""

    num_examples: int
    num_trial_examples: int
    num_images: int
    num_samples: int  # K of log p(x)


def values_of(way: str, step_size: float, seed: int, num_examples: int, folder: str) -> Values:
    """Returns the config of a run."""
    fields = {
        **WAYS[way], "optimizer.step_size": step_size, "seed": seed,
        "train.num_examples": num_examples, "data.manual_dir": folder,
    }  # fmt: skip
    return validate(with_values(sigmoid_belief_network.get_config(), fields))


def train(values: Values, dataset: Dataset) -> tuple[PyTree, float]:
    """Trains a model; returns its parameters, and the seconds of all cores after compilation.

    They depend less on what else the machine does than those of a clock.
    """
    _, algorithm = build_model(values, dataset.description, examples_of(dataset))
    batch_size = values["train.batch_size"]
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=batch_size)
    keys = loop.run_keys(jax.random.key(values["seed"]))
    data = jnp.asarray(dataset.train)
    state = loop.first_state(algorithm.init, jax.random.key(values["seed"]))
    state, _ = loop.train_to(advance, keys.loop, data, state, jnp.int32(1))  # compiles
    last = jnp.int32(values["train.num_examples"] // batch_size)
    began = time.process_time()
    state, _ = jax.block_until_ready(loop.train_to(advance, keys.loop, data, state, last))
    return state.params, time.process_time() - began


def examples_of(dataset: Dataset) -> Any:
    """Returns the function number -> training datapoints, by which the biases start."""

    def examples(number: int) -> jax.Array:
        index = np.linspace(0, len(dataset.train) - 1, number).astype(np.int32)
        with jax.ensure_compile_time_eval():
            return fixed_inputs(dataset.preprocess, index, dataset.train[index])

    return examples


def discrete_model(dataset: Dataset, folder: str) -> VAE:
    """Returns the model with latents of 0 and 1, which has the parameters of every way."""
    return build_model(values_of("vimco", STEP_SIZES[0], 0, 100, folder), dataset.description)[0]


def inputs(dataset: Dataset, split: str, number: int) -> jax.Array:
    """Returns some datapoints of a split, always the same, [n, D]."""
    index = some_of(len(dataset.splits[split]), number)
    return fixed_inputs(dataset.preprocess, index, dataset.splits[split][index])


def scores(vae: VAE, params: PyTree, x: jax.Array, estimator: Estimator, **settings: Any) -> Any:
    """Returns the estimates at the datapoints x [n, D]."""
    key = jax.random.key(SEED)
    return log_likelihood.estimate_points(key, (vae, params), Points(x, None), estimator, settings)[
        0
    ]


def log_p(vae: VAE, params: PyTree, x: jax.Array, num_samples: int) -> Any:
    """Returns the estimates of log p(x) by importance sampling."""
    return scores(vae, params, x, ESTIMATORS["importance"], num_samples=num_samples)


def width(vae: VAE, params: PyTree, num_points: int, num_samples: int) -> dict[str, float]:
    """Returns log p(x) of data simulated by the model, from both sides."""
    key = jax.random.key(SEED)
    points = log_likelihood.simulate(key, vae, params, num_points)
    settings = {"num_samples": num_samples}
    return {
        ESTIMATORS[name].kind: float(
            np.mean(
                log_likelihood.estimate_points(
                    key, (vae, params), points, ESTIMATORS[name], settings
                )[0].value
            )
        )
        for name in ("importance", "importance_upper")
    }


def gradient_variance(values: Values, dataset: Dataset, params: PyTree) -> dict[str, float]:
    """Returns the variance of the gradient on one minibatch, summed over a part's parameters."""
    vae, _ = build_model(values, dataset.description)
    algorithm = build_algorithm(values, vae, len(dataset.train), optimizers.make("sgd", 1.0))
    x = inputs(dataset, "train", MINIBATCH)
    state = algorithm.init(jax.random.key(0))._replace(params=params)
    batch = Batch(x, jnp.arange(len(x), dtype=jnp.int32))

    @jax.jit
    def moments_of(key: Key, state: TrainState) -> Moments:
        def gradient(key: Key) -> PyTree:
            after, _ = algorithm.update(key, state, batch)
            return jax.tree.map(jnp.subtract, after.params, state.params)

        return diagnostics.gradient_moments(key, gradient, NUM_GRADIENTS)

    moments = moments_of(jax.random.key(SEED), state)
    variance = {part: dict(tree) for part, tree in moments.variance.items()}
    variance["encoder"].pop("baseline", None)  # nvil's; it is no parameter of q(z|x)
    return {
        part: sum(float(np.sum(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree))
        for part, tree in variance.items()
    }


def choose(way: str, dataset: Dataset, vae: VAE, scale: Scale, folder: str) -> dict[str, Any]:
    """Returns log p(x) of validation images by step size, and the step size with the highest."""
    x = inputs(dataset, "valid", NUM_VALID)
    found = {}
    for step_size in STEP_SIZES:
        values = values_of(way, step_size, 0, scale.num_trial_examples, folder)
        params, _ = train(values, dataset)
        estimates = log_p(vae, without_baseline(params), x, NUM_VALID_SAMPLES)
        found[str(step_size)] = float(np.mean(estimates.value))
    best = max(STEP_SIZES, key=lambda step_size: found[str(step_size)])
    return {"step_size": best, "valid_log_p": found}


def without_baseline(params: PyTree) -> PyTree:
    """Returns the parameters of the model alone."""
    encoder = {name: leaf for name, leaf in params["encoder"].items() if name != "baseline"}
    return {**params, "encoder": encoder}


def measure(values: Values, dataset: Dataset, vae: VAE, scale: Scale) -> dict[str, Any]:
    """Trains a model, and returns its scores on test images and what it cost."""
    params, seconds = train(values, dataset)
    own, x = without_baseline(params), inputs(dataset, "test", scale.num_images)
    estimates = log_p(vae, own, x, scale.num_samples)
    bounds = scores(vae, own, x, ELBO)
    return {
        "test_log_p": float(np.mean(estimates.value)),
        "test_bound": float(np.mean(bounds.value)),
        "pareto_k": float(np.median(estimates.diagnostics["pareto_k"])),
        "effective_sample_size": float(np.median(estimates.diagnostics["effective_sample_size"])),
        "simulated_log_p": width(vae, own, NUM_SIMULATED, scale.num_samples),
        "gradient_variance": gradient_variance(values, dataset, params),
        "seconds": round(seconds, 2),
    }


def compare(ways: Sequence[str], num_seeds: int, scale: Scale, folder: str, file: Path) -> None:
    """Adds what is missing to the results file, run by run."""
    found: dict[str, Any] = {"ways": {}}
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    if found["ways"] and found["scale"] != scale._asdict():
        raise UserError(f"{file} has other sizes, {found['scale']}; name a new --output")
    found |= {
        "command": "python -m experiments.paper.discrete_latents",
        "scale": scale._asdict(), "machine": provenance.machine(),
        "versions": provenance.versions(),
    }  # fmt: skip
    dataset = load(values_of("vimco", STEP_SIZES[0], 0, scale.num_examples, folder))
    found["data"] = dataset.name
    vae = discrete_model(dataset, folder)
    for way in ways:
        row = found["ways"].setdefault(way, {"runs": {}})
        if "step_size" not in row:
            row |= choose(way, dataset, vae, scale, folder)
            write_json(file, found)
    for seed in range(num_seeds):
        for way in ways:
            row = found["ways"][way]
            if str(seed) in row["runs"]:
                continue
            values = values_of(way, row["step_size"], seed, scale.num_examples, folder)
            row["runs"][str(seed)] = measure(values, dataset, vae, scale)
            write_json(file, found)
            log = row["runs"][str(seed)]
            print(f"{way} {seed}: {log['test_log_p']:.2f}, {log['seconds']:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", default="", help="folder of files downloaded by yourself")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of each")
    parser.add_argument("--examples", type=int, default=250_000, help="of each run")
    parser.add_argument("--trial-examples", type=int, default=50_000, help="of each trial")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--samples", type=int, default=1000, help="of log p(x), K")
    parser.add_argument("--only", default=",".join(WAYS), help="names, separated by commas")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the results file")
    args = parser.parse_args(arguments)
    xla.use_cache()
    ways = args.only.split(",")
    if unknown := [way for way in ways if way not in WAYS]:
        raise UserError(f"--only names {unknown[0]!r}; it must be of {', '.join(WAYS)}")
    scale = Scale(args.examples, args.trial_examples, args.images, args.samples)
    compare(ways, args.seeds, scale, args.data_dir, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(main))
