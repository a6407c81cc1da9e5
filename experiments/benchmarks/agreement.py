"""Compares the bounds of aevb and of an independent PyTorch program with the same settings.

    python experiments/benchmarks/agreement.py --data-dir=DATA [--row=frey_blocked_2]

The program trains torch_vae.py, which shares no line with aevb, with the settings of one row of
`experiments/paper/reproduce.py`. It compares the bounds over several seeds with those in
`experiments/results/reproduce.json`. PyTorch needs its own environment: see requirements.txt.
"""

import argparse
import json
import math
import subprocess
from pathlib import Path
from typing import Any

from aevb.runtime import provenance
from aevb.storage.metrics_log import mean_over_seeds, write_json

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent.parent
OURS = ROOT / "experiments" / "results" / "reproduce.json"

# The flags of torch_vae.py that are equivalent to a row of reproduce.py.
ROWS = {
    "frey_blocked_2": ["--data=frey", "--split=blocked", "--latent-dim=2"],
    "binarized_mnist_20": ["--data=mnist", "--latent-dim=20"],
}


def train(args: argparse.Namespace, num_examples: int, seed: int) -> dict[str, float]:
    """Runs the PyTorch program once, and returns its bounds at the end."""
    command = [
        str(args.bench_python),
        str(BENCHMARKS / "torch_vae.py"),
        f"--data-dir={args.data_dir}",
        *ROWS[args.row],
        f"--num-examples={num_examples}",
        f"--seed={seed}",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    return {split: last[f"{split}_bound"] for split in ("train", "test")}


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Returns the means, the standard errors, and the difference in units of its standard error."""
    aevb, torch = ({"bounds": bounds, **mean_over_seeds(bounds)} for bounds in (ours, theirs))
    error = math.hypot(aevb["standard_error"], torch["standard_error"])
    return {
        "aevb": aevb,
        "torch": torch,
        "difference": aevb["mean"] - torch["mean"],
        "difference_in_standard_errors": (aevb["mean"] - torch["mean"]) / error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--row", choices=list(ROWS), default="frey_blocked_2")
    parser.add_argument("--ours", type=Path, default=OURS)
    parser.add_argument("--bench-python", type=Path, default=ROOT / ".venv-bench/bin/python")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results/agreement.json")
    args = parser.parse_args()

    runs = json.loads(args.ours.read_text())["rows"][args.row]["runs"]
    theirs = []
    for run in runs:
        theirs.append(train(args, run["num_examples"], run["seed"]))
        print(f"seed {run['seed']}: aevb {run['test_bound']:.2f}, torch {theirs[-1]['test']:.2f}")
    result = {
        split: compare([run[f"{split}_bound"] for run in runs], [bound[split] for bound in theirs])
        for split in ("train", "test")
    }
    for split, compared in result.items():
        print(
            f"{split}: {compared['aevb']['mean']:.2f} ± {compared['aevb']['standard_error']:.2f} "
            f"against {compared['torch']['mean']:.2f} ± {compared['torch']['standard_error']:.2f}, "
            f"{compared['difference_in_standard_errors']:+.2f} standard errors apart"
        )
    report: dict[str, Any] = {"rows": {}}
    if args.output.exists():
        report = json.loads(args.output.read_text())
    report["command"] = "python experiments/benchmarks/agreement.py --data-dir=DATA --row=ROW"
    report["machine"] = provenance.machine()
    report["rows"][args.row] = result
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, report)


if __name__ == "__main__":
    main()
