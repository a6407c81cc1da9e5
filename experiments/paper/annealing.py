"""Measures annealed importance sampling against the number of temperatures and of chains.

python -m experiments.paper.annealing --workdir=RUN [--temperatures=3,10,30,100,300] \
[--chains=4,16,64] [--points=20]

RUN is the folder of a finished run. On the first images of its test data, log p(x) is estimated by
`ais` from the encoder's q(z|x), for each number of temperatures T and of chains C. The reference is
importance sampling from a density that is fitted to all modes of each posterior. The program writes
experiments/results/annealing.json, from which `python -m docs.tools` makes the table of
docs/estimators.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aevb.cli.common import Parser, reporting_mistakes
from aevb.evaluation import log_likelihood
from aevb.evaluation.elbo import fixed_inputs
from aevb.evaluation.log_likelihood import Points
from aevb.inference import hmc
from aevb.marginal import ESTIMATORS, Estimate
from aevb.proposals import PROPOSALS
from aevb.runs.evaluate import SEED
from aevb.runs.trained import TrainedRun, load_run
from aevb.runtime import provenance
from aevb.storage import metrics_log

from .studies import ROOT

RESULTS = ROOT / "experiments" / "results" / "annealing.json"
NUM_SAMPLES = 20_000  # K of the reference
SHOWN = (
    "data.name",
    "data.split",
    "model.num_latents",
    "model.hidden",
    "train.num_examples",
    "seed",
)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="the folder of a finished run")
    parser.add_argument("--temperatures", type=_numbers, default=[3, 10, 30, 100, 300])
    parser.add_argument("--chains", type=_numbers, default=[4, 16, 64])
    parser.add_argument("--points", type=int, default=20, help="images, from the start of the test")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def measure(run: TrainedRun, given: argparse.Namespace) -> dict[str, Any]:
    """Returns the reference, and the estimates for each T and C with their distance from it."""
    stored = run.dataset.test[: given.points]
    points = Points(fixed_inputs(run.dataset.preprocess, np.arange(len(stored)), stored), None)
    keys = iter(jax.random.split(jax.random.key(SEED), 100))

    def estimate(name: str, proposal: str, settings: dict[str, Any]) -> Estimate:
        found, _ = log_likelihood.estimate_points(
            next(keys), (run.model.vae, run.model.params), points, ESTIMATORS[name], settings,
            propose=PROPOSALS[proposal],
        )  # fmt: skip
        return found

    reference = estimate("importance", "modes", {"num_samples": NUM_SAMPLES})
    rows = []
    for num_temps in given.temperatures:
        for num_chains in given.chains:
            sizes = {"num_temps": num_temps, "num_chains": num_chains}
            found = estimate("ais", "encoder", {**sizes, "settings": hmc.DEFAULTS})
            gap = log_likelihood.width(found, reference)
            rows.append(sizes | {"below_reference": gap})
            print(sizes, gap, flush=True)
    return {
        "reference": log_likelihood.summarize(reference, {"num_samples": NUM_SAMPLES}),
        "settings": hmc.DEFAULTS._asdict(),
        "rows": rows,
    }


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    run = load_run(given.workdir)
    shown = [word for word in arguments if not word.startswith(("--workdir", "--output"))]
    report = {
        "command": " ".join(["python -m experiments.paper.annealing --workdir=RUN", *shown]),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "config": {name: run.config[name] for name in SHOWN},
        "noise_seed": SEED,
        "num_points": given.points,
        **measure(run, given),
    }
    metrics_log.write_json(given.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(lambda: main(sys.argv[1:])))
