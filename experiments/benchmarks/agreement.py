"""Compares the bounds of aevb and of an independent PyTorch program with the same settings.

    python experiments/benchmarks/agreement.py --data-dir=DATA [--row=frey_blocked_2]

The program runs torch_vae.py, which shares no line with aevb, with the settings of one row of
`experiments/paper/reproduce.py` and the same seeds. It compares the bounds with those in
`experiments/results/reproduce.json`. PyTorch needs its own environment: see requirements.txt.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import harness

from aevb.evaluation.intervals import difference_interval, mean_interval

OURS = harness.ROOT / "experiments" / "results" / "reproduce.json"

# The flags of torch_vae.py that are equivalent to a row of reproduce.py.
ROWS = {
    "frey_blocked_2": ["--data=frey", "--split=blocked", "--latent-dim=2"],
    "binarized_mnist_20": ["--data=mnist", "--latent-dim=20"],
}


def train(args: argparse.Namespace, num_examples: int, seed: int) -> dict[str, float]:
    """Runs the PyTorch program once, and returns its bounds at the end."""
    flags = [f"--data-dir={args.data_dir}", f"--num-examples={num_examples}", f"--seed={seed}"]
    command = harness.command_of("torch_vae.py", *ROWS[args.row], *flags, python=args.bench_python)
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    return {split: last[f"{split}_bound"] for split in ("train", "test")}


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Returns the bounds of each seed, their means and the difference, with 95 % intervals."""
    aevb, torch = ({"bounds": each, **mean_interval(each)._asdict()} for each in (ours, theirs))
    difference = difference_interval(ours, theirs)._asdict()
    return {"aevb": aevb, "torch": torch, "difference": difference}


def main() -> None:
    parser = harness.argument_parser(__doc__, needs_data=True)
    parser.add_argument("--row", choices=list(ROWS), default="frey_blocked_2")
    parser.add_argument("--ours", type=Path, default=OURS)
    harness.add_peers(parser)
    args = parser.parse_args()
    harness.require_peers(parser, args)
    runs = json.loads(args.ours.read_text(encoding="utf-8"))["rows"][args.row]["runs"]
    theirs = [train(args, run["num_examples"], run["seed"]) for run in runs]
    result = {
        split: compare([run[f"{split}_bound"] for run in runs], [bound[split] for bound in theirs])
        for split in ("train", "test")
    }
    print(json.dumps(result, indent=2))
    before = args.output or harness.BENCHMARKS / "results" / "agreement.json"
    rows = json.loads(before.read_text(encoding="utf-8"))["rows"] if before.exists() else {}
    harness.write_report(args, None, rows={**rows, args.row: result})


if __name__ == "__main__":
    main()
