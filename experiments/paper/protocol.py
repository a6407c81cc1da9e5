"""Writes the results of a run of experiments/gated_mnist.py, with its log p(x), to a results file.

python experiments/run.py --config=experiments/gated_mnist.py --workdir=RUN
python experiments/evaluate.py --workdir=RUN --which=best --estimators=importance \
--proposal=encoder --num_samples=5000 --num_points=10000 --output=RUN/importance.json
python experiments/evaluate.py --workdir=RUN --which=best --estimators=ais --num_points=200 \
--output=RUN/ais.json
python -m experiments.paper.protocol --run=RUN --name=static

The row of this name is replaced in the results file, and the others are kept. `python -m
docs.tools` makes the table of docs/results.md from it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aevb.cli.common import Parser, reporting_mistakes
from aevb.config import of_finished_run
from aevb.evaluation.intervals import mean_interval
from aevb.evaluation.log_likelihood import reason_to_distrust
from aevb.storage.metrics_log import read_with_digest, write_json

from .studies import ROOT

OUTPUT = ROOT / "experiments" / "results" / "protocol.json"
SUMMARY = (
    "train_bound", "best_valid_bound", "best_test_bound", "best_test_bound_standard_error",
    "best_num_examples", "num_examples", "seconds", "seed", "data", "versions", "machine",
)  # fmt: skip
ESTIMATES = ("importance", "ais")  # files of a run's folder


def row_of(folder: Path) -> dict[str, Any]:
    """Returns the row of a finished run: its bounds, and its estimates of log p(x).

    Raises:
        UserError: it is not the folder of a finished run.
    """
    config = of_finished_run(folder)
    summary = read_with_digest(folder / "summary.json")
    row: dict[str, Any] = {"examples_per_epoch": summary["data"]["num_train"], "log_p": {}}
    row |= {name: summary[name] for name in SUMMARY}
    row["hidden"], row["num_latents"] = config["model.hidden"], config["model.num_latents"]
    values = {}
    for name in ESTIMATES:
        if (file := folder / f"{name}.json").is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            estimate = found["estimators"][name]
            row["log_p"][name] = {
                "mean": estimate["mean"],
                "standard_error": estimate["standard_error"],
                "settings": estimate["settings"],
                "num_points": found["data"]["num_points"],
                "seconds": estimate["seconds"],
                "reason_to_distrust": reason_to_distrust(estimate),
            }
            values[name] = np.asarray(estimate["values"])
    if len(values) == len(ESTIMATES):  # both begin with the first images of the split
        importance, ais = (values[name] for name in ESTIMATES)
        row["ais_minus_importance"] = mean_interval(ais - importance[: len(ais)])._asdict()
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--name", required=True, help="of the row, such as static")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the results file")
    args = parser.parse_args(arguments)
    rows = {}
    if args.output.is_file():
        rows = json.loads(args.output.read_text(encoding="utf-8"))["rows"]
    command = "python experiments/run.py --config=experiments/gated_mnist.py"
    write_json(args.output, {"command": command, "rows": {**rows, args.name: row_of(args.run)}})
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(main))
