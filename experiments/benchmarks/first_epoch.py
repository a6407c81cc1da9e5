"""Measures the seconds from the command to the first evaluated epoch, in cold and warm starts.

    python experiments/benchmarks/first_epoch.py [--data-dir=DATA] [--experiments=figure_4_frey,...]

Each start is `experiments/run.py` as a user types it, in a new folder and with its first evaluation
after one epoch. The clock stops when the line of that evaluation is in `metrics.jsonl`; then the
run is killed. A cold start has an empty compilation cache, and the warm start after it has the
cache that the cold start filled.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

from aevb.storage.metrics_log import read_records

RUN = harness.ROOT / "experiments" / "run.py"
EPOCHS = {"figure_4_frey": 1300, "binarized_mnist": 50_000}  # examples, a multiple of the minibatch
PATIENCE_SECONDS = 120.0


def seconds_to_first_epoch(experiment: str, cache: Path, extra: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(RUN),
            f"--config={RUN.parent / experiment}.py",
            f"--workdir={folder}/run",
            f"--config.train.first_eval={EPOCHS[experiment]}",
            *extra,
        ]
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not (records := read_records(Path(folder, "run", "metrics.jsonl"))):
                if process.poll() is not None:
                    raise SystemExit(f"{experiment}: run.py ended with {process.returncode}")
                if time.perf_counter() - began > PATIENCE_SECONDS:
                    raise SystemExit(f"{experiment}: no epoch within {PATIENCE_SECONDS:.0f} s")
                time.sleep(0.01)
            seconds = time.perf_counter() - began
            assert records[0]["examples"] == EPOCHS[experiment]
            return seconds
        finally:
            process.kill()
            process.wait()


def measure(experiment: str, num_rounds: int, extra: list[str]) -> dict[str, Any]:
    """Measures cold and warm starts in turn."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(num_rounds):
        with tempfile.TemporaryDirectory() as cache:
            for kind, measured in seconds.items():
                measured.append(seconds_to_first_epoch(experiment, Path(cache), extra))
                print(f"{experiment} {kind}: {measured[-1]:.2f} s", flush=True)
    return {kind: harness.summary(measured) for kind, measured in seconds.items()}


def main() -> None:
    parser = harness.argument_parser(__doc__, rounds=3, needs_data=False)
    harness.add_choices(parser, "--experiments", EPOCHS)
    args = parser.parse_args()
    extra = [f"--config.data.manual_dir={args.data_dir.absolute()}"] if args.data_dir else []
    load = harness.load_of_others()
    seconds = {name: measure(name, args.rounds, extra) for name in args.experiments}
    harness.write_report(args, load, rounds=args.rounds, seconds=seconds)


if __name__ == "__main__":
    main()
