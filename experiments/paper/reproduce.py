"""Trains every row of the tables of results with several seeds, and writes the results.

python -m experiments.paper.reproduce [--rows=frey_random_2,...] [--num_examples=N] \
[-- FLAGS OF run.py]

The runs are trained one after another in runs/reproduce/, each as by `experiments/run.py`. If the
program is stopped and started again, it continues where it stopped. The requested rows are replaced
in the results file, with their curves; the others are kept. `python -m docs.tools` makes the tables
of README.md and docs/results.md from that file.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from aevb import data
from aevb.evaluation import manifold
from aevb.evaluation.intervals import mean_interval
from aevb.runtime import provenance
from aevb.storage import metrics_log

from .studies import OWN_ROWS, REPRODUCED, ROOT, ROWS, Row, argument_parser, run_py

TRAINED = {**ROWS, **OWN_ROWS}


def train(row: Row, seed: int, folder: Path, extra: list[str]) -> dict[str, Any]:
    """Trains one run, and returns its summary and curve, or the reason of its failure."""
    overrides = {**row.overrides, "seed": seed}
    flags = [f"--config.{field}={value}" for field, value in overrides.items()]
    done = subprocess.run(
        run_py(row.experiment, folder, [*flags, *extra]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    curve = metrics_log.curve(metrics_log.read_records(folder / "metrics.jsonl"))
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"seed": seed, "failed": lines[-1] if lines else done.returncode, "curve": curve}
    return {**json.loads((folder / "summary.json").read_text(encoding="utf-8")), "curve": curve}


def collect(row: Row, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns a row of the results file: means over the seeds that finished, and every run."""
    result: dict[str, Any] = {"experiment": row.experiment, "overrides": row.overrides}
    finished = [run for run in runs if "failed" not in run]
    result["num_failed"] = len(runs) - len(finished)
    for split in ("train", "test"):
        if finished:
            bounds = [run[f"{split}_bound"] for run in finished]
            result[f"{split}_bound"] = mean_interval(bounds)._asdict()
    if row.experiment == "frey_faces":
        film = np.concatenate([*data.load("frey_faces").splits.values()])
        result["film_step_ratio"] = manifold.step_ratio(manifold.film_steps(film))
    return result | {"runs": runs}


def main() -> None:
    parser = argument_parser(__doc__, "--rows", TRAINED)
    parser.add_argument("--num_examples", type=int, help="of each run, for a quick look")
    parser.add_argument("--num_seeds", type=int, help="for a quick look")
    parser.add_argument("--output", type=Path, default=REPRODUCED)
    args = parser.parse_args()
    if args.num_examples:
        args.extra.append(f"--config.train.num_examples={args.num_examples}")
    folder = args.runs or ROOT / "runs" / "reproduce"
    for name in args.rows:
        row, runs = TRAINED[name], []
        for seed in range(args.num_seeds or row.num_seeds):
            runs.append(train(row, seed, folder / name / f"seed={seed}", args.extra))
            print(name, seed, runs[-1].get("test_bound", runs[-1].get("failed")), flush=True)
        report: dict[str, Any] = {"rows": {}}
        if args.output.exists():
            report = json.loads(args.output.read_text(encoding="utf-8"))
        report["command"] = "python -m experiments.paper.reproduce"
        report |= {"machine": provenance.machine(), "versions": provenance.versions()}
        report["rows"][name] = collect(row, runs)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        metrics_log.write_json(args.output, report)


if __name__ == "__main__":
    main()
