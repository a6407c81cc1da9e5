"""Measures the variance of the gradient of every bound during the training of one model.

python -m experiments.paper.gradient_variance --config=experiments/binarized_mnist.py \
[--examples=10000,100000,1000000] [--seeds=3] [--config.FIELD=VALUE ...]

The model is trained according to the config. At each count of examples, the gradient of every
bound, with the same number of samples each, is drawn many times on one minibatch. The variance is
the sum over the parameters of the encoder or of the decoder. The program writes
experiments/results/gradient_variance.json, from which `python -m docs.tools` makes the table and
the figure of docs/estimators.md.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from aevb.cli.common import reporting_mistakes
from aevb.cli.run import CONFIG_IS_MISSING, parse
from aevb.config import Values, validate
from aevb.errors import UserError
from aevb.evaluation import diagnostics
from aevb.evaluation.intervals import mean_interval
from aevb.experiment import build
from aevb.losses import BOUNDS, Bound
from aevb.runtime import provenance
from aevb.storage import metrics_log
from aevb.training import loop
from aevb.types import Key

from .studies import ROOT

RESULTS = ROOT / "experiments" / "results" / "gradient_variance.json"

# Maps a bound to another bound whose gradient it also estimates.
SAME_GRADIENT = {
    "sgvb_a": "sgvb_b",
    "score_function": "sgvb_b",
    "score_function_loo": "sgvb_b",
    "nvil": "sgvb_b",
    "stl": "sgvb_b",
    "dreg": "iwae",
    "vimco": "iwae",
}
Moments = dict[str, Callable[[Any, Key], Any]]  # of the gradient of each bound


def define_flags(flag_values: flags.FlagValues) -> None:
    """Adds the flags of this program, except --config."""
    points = ["10000", "100000", "1000000"]
    about = "How much training the models have had."
    flags.DEFINE_list("examples", points, about, flag_values=flag_values)
    for name, value, meaning, least in (
        ("seeds", 3, "How many models are trained.", 2),
        ("samples", 8, "Samples of z per datapoint.", 2),
        ("draws", 200, "Gradients of each bound.", 2),
        ("datapoints", 20, "Size of the minibatch.", 1),
    ):
        flags.DEFINE_integer(name, value, meaning, least, flag_values=flag_values)
    flags.DEFINE_string("output", str(RESULTS), "The results file.", flag_values=flag_values)


def measure(
    values: Values, points: list[int], given: flags.FlagValues
) -> list[list[dict[str, Any]]]:
    """Trains one model per seed, and returns the figures of every bound at each point for each."""
    dataset, vae, algorithm = build(values)
    batch_size = values["train.batch_size"]
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=batch_size)
    data, init = jnp.asarray(dataset.train), jax.jit(algorithm.init)
    chosen = jax.random.choice(jax.random.key(1), len(data), (given.datapoints,), replace=False)
    x = jax.vmap(dataset.preprocess)(jax.random.split(jax.random.key(2), len(chosen)), data[chosen])
    draw = make_moments(vae, x, num_samples=given.samples, num_draws=given.draws)
    runs = []
    for seed in range(given.seeds):
        init_key, order_key, step_key = jax.random.split(jax.random.key(seed), 3)
        keys = loop.LoopKeys(order_key, step_key)
        state, measured = init(init_key), []
        for point in points:
            state, _ = loop.train_to(advance, keys, data, state, jnp.int32(point // batch_size))
            bounds = summarize(draw, state.params, given.draws)
            measured.append({"examples": point, "bounds": bounds})
            print(f"seed {seed}: {point:,} examples", flush=True)
        runs.append(measured)
    return runs


def make_moments(vae: Any, x: Any, *, num_samples: int, num_draws: int) -> Moments:
    """Returns `moments(params, key)` of the gradient averaged over the minibatch x, per bound."""

    def moments_of(bound: Bound):
        def mean_bound(params: Any, key: Key):
            def bound_of(key: Key, x: Any):
                stats, joint = vae.encode(params, x), vae.joint(params, x)
                return bound(key, stats, vae.guide, joint, num_samples=num_samples)

            return jnp.mean(jax.vmap(bound_of)(jax.random.split(key, len(x)), x))

        def moments(params: Any, key: Key):
            gradient = jax.grad(mean_bound)
            return diagnostics.gradient_moments(key, lambda k: gradient(params, k), num_draws)

        return jax.jit(moments)

    return {name: moments_of(bound) for name, bound in BOUNDS.items()}


def summarize(draw: Moments, params: Any, num_draws: int) -> dict[str, dict[str, Any]]:
    """Returns each bound's variance by part and layer, its bias, and the seconds per gradient."""
    moments, found = {}, {}
    for number, (name, moments_of) in enumerate(draw.items()):
        jax.block_until_ready(moments_of(params, jax.random.key(100)))  # compiles it
        began = time.perf_counter()
        moments[name] = jax.block_until_ready(moments_of(params, jax.random.key(101 + number)))
        seconds = (time.perf_counter() - began) / num_draws
        layers = {
            "/".join(str(entry.key) for entry in path): float(np.sum(np.asarray(leaf, np.float64)))
            for path, leaf in jax.tree.leaves_with_path(moments[name].variance)
        }
        parts = {
            part: sum(value for layer, value in layers.items() if layer.startswith(part))
            for part in ("encoder", "decoder")
        }
        found[name] = {**parts, "layers": layers, "seconds": seconds}
    for name, other in SAME_GRADIENT.items():
        found[name]["bias_in_standard_errors"] = distance(moments[name], moments[other])
    return found


def distance(first: Any, second: Any) -> float:
    """Returns the root mean square difference of two mean gradients, in standard errors."""
    bias, error = diagnostics.gradient_bias(first, second)
    ratios = [
        np.square(np.asarray(b)[np.asarray(e) > 0] / np.asarray(e)[np.asarray(e) > 0])
        for b, e in zip(jax.tree.leaves(bias), jax.tree.leaves(error), strict=True)
    ]
    return math.sqrt(np.mean(np.concatenate(ratios)))


def over_seeds(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the mean over seeds of each figure and its 95 % interval, point by point."""

    def of_bound(found: list[dict[str, Any]]) -> dict[str, Any]:
        names = [figure for figure in found[0] if figure != "layers"]
        return {name: mean_interval([each[name] for each in found])._asdict() for name in names}

    return [
        {
            "examples": same_point[0]["examples"],
            "bounds": {
                name: of_bound([point["bounds"][name] for point in same_point])
                for name in same_point[0]["bounds"]
            },
        }
        for same_point in zip(*runs, strict=True)
    ]


def points_of(words: list[str], values: Values) -> list[int]:
    """Returns the requested counts of examples.

    Raises:
        UserError: they are not increasing whole numbers, each at least the size of a minibatch.
    """
    points = [int(word) for word in words if word.isdecimal()]
    if len(points) != len(words) or not points or sorted(set(points)) != points:
        raise UserError(
            f"--examples is {','.join(words)!r}; it must be rising whole numbers: 10000,100000"
        )
    if points[0] < values["train.batch_size"]:
        raise UserError(
            f"--examples begins at {points[0]}; it must be at least one minibatch, "
            f"config.train.batch_size={values['train.batch_size']}"
        )
    return points


def main(argv: list[str]) -> int:
    given = parse(argv[1:], define_flags)
    if given.config is None:
        raise UserError(CONFIG_IS_MISSING)
    values = validate(given.config)
    runs = measure(values, points_of(given.examples, values), given)
    shown = [word for word in argv[1:] if not word.startswith("--output")]
    report = {
        "command": " ".join(["python -m experiments.paper.gradient_variance", *shown]),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "data": values["data.name"],
        **{name: getattr(given, name) for name in ("seeds", "samples", "draws", "datapoints")},
        "points": over_seeds(runs),
        "runs": runs,
    }
    Path(given.output).parent.mkdir(parents=True, exist_ok=True)
    metrics_log.write_json(Path(given.output), report)
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(lambda: main(sys.argv)))
