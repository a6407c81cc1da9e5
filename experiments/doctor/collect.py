"""Trains the situations and the healthy runs, each with several seeds, into a folder.

python -m experiments.doctor.collect --out=FOLDER [--only=NAME,...] [--set=tuning] [--seeds=3] \
[--processes=4]

FOLDER/NAME/SEED gets the data, the run in run/, what the run printed, and outcome.json: the cause,
the answers that are right, the seconds, and the message of a run that failed. A run with an outcome
is not repeated.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax

from aevb import runs
from aevb.cli.common import Parser, reporting_mistakes
from aevb.errors import UserError
from aevb.storage.metrics_log import write_json

from . import healthy, held_out, situations
from .situations import SETS

CORPUS = {
    each.name: each
    for each in (
        *situations.TUNING, *healthy.TUNING, *held_out.FAULTS, *held_out.HEALTHY_RUNS,
    )
}  # fmt: skip
OUTCOME, DATA, RUN, PRINTED = "outcome.json", "data.npy", "run", "printed.txt"


def train(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Trains a situation with a seed in its folder; returns the outcome, which it also writes."""
    situation, began = CORPUS[name], time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    failed = None
    printed = (folder / PRINTED).open("w", encoding="utf-8")
    with printed, redirect_stdout(printed), redirect_stderr(printed):
        try:
            situation.write_data(seed, folder / DATA)
            runs.run(situation.values(seed, folder / DATA), folder / RUN)
        except UserError as error:
            failed = str(error)
    jax.clear_caches()  # the programs of a run are of no use to others
    outcome = {
        "name": name,
        "seed": seed,
        "set": situation.set,
        "cause": situation.cause,
        "accepted": sorted(situation.accepted),
        "seconds": round(time.monotonic() - began, 1),
        "failed": failed,
    }
    write_json(folder / OUTCOME, outcome)
    return outcome


def collect(tasks: Sequence[tuple[str, int]], folder: Path, num_processes: int = 1) -> None:
    """Trains the situations with these names and seeds that have no outcome; prints a line each."""
    left = [
        (name, seed, folder / name / str(seed))
        for name, seed in tasks
        if not (folder / name / str(seed) / OUTCOME).exists()
    ]
    if num_processes == 1:
        for task in left:
            _report(train(*task))
        return
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(train, *task) for task in left]):
            _report(done.result())


def _report(outcome: dict[str, Any]) -> None:
    name, seed, seconds = outcome["name"], outcome["seed"], outcome["seconds"]
    print(f"{name} {seed}: {seconds} s {outcome['failed'] or ''}".rstrip(), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--set", choices=(*SETS, "all"), default="all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of each")
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time")
    args = parser.parse_args(arguments)
    names = args.only.split(",") if args.only else list(CORPUS)
    if unknown := [name for name in names if name not in CORPUS]:
        raise UserError(f"--only names {unknown[0]!r}; it must be of {', '.join(CORPUS)}")
    chosen = [name for name in names if args.set in ("all", CORPUS[name].set)]
    tasks = [(name, seed) for name in chosen for seed in range(args.seeds)]
    collect(tasks, args.out, args.processes)
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(main))
