"""Measures how often `aevb doctor` finds what is wrong with the runs of the corpus.

python -m experiments.doctor.measure --runs=FOLDER [--set=test] [--processes=4] \
[--output=experiments/results/doctor.json]

FOLDER is that of `experiments.doctor.collect`. A fault is found if one of the causes that the
doctor names is a right answer for the run. A false alarm is any cause that is named for a healthy
run. The thresholds of the doctor were set on the runs of the set "tuning" alone.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from aevb.cli.common import Parser, reporting_mistakes
from aevb.errors import UserError
from aevb.evaluation.intervals import mean_interval
from aevb.runs.diagnosis import of_folder
from aevb.runtime import provenance
from aevb.storage.metrics_log import write_json

from .collect import DATA, OUTCOME, RUN
from .situations import HEALTHY, SETS

NAMES = {  # the doctor's cause -> the corpus' word for it, where they differ
    "nonfinite_data": "non_finite",
    "likelihood_misfit": "wrong_likelihood",
    "other_kind": "wrong_likelihood",
    "wrong_range": "unscaled_data",
    "levels_as_real": "unscaled_data",
    "counts_as_real": "wrong_likelihood",
    "binary_as_density": "wrong_likelihood",
    "unbounded_density": "constant_columns",
    "point_mass": "wrong_likelihood",
    "few_datapoints": "too_few_data",
    "few_per_statistic": "too_few_data",
    "repeated_datapoints": "duplicates",
    "leaked_datapoints": "duplicates",
    "near_duplicates": "shuffled_film",
    "shifted_columns": "distribution_shift",
    "missing_classes": "distribution_shift",
    "copied_column": "label_leak",
    "row_numbers": "label_leak",
    "tiny_minibatch": "tiny_batches",
    "large_minibatch": "too_few_data",
}
REFUSED = "refused"  # the answer for a run that was refused before its first step


def answers(folder: Path) -> list[str]:
    """Returns the causes that are named for a run, in the words of the corpus."""
    outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    found = []
    if not (folder / RUN / "config.json").is_file():
        return [REFUSED]
    if outcome["failed"]:
        found.append("non_finite")
    data = f"file:{folder / DATA}" if (folder / DATA).is_file() else ""
    for hint in of_folder(folder / RUN, data).hints:
        found.append(NAMES.get(hint.cause, hint.cause))
    return sorted(set(found))


def row_of(folder: Path) -> dict[str, Any]:
    """Returns a row of the result: a run, its cause, and the causes that were named."""
    outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    fields = {name: outcome[name] for name in ("name", "seed", "set", "cause", "accepted")}
    return {**fields, "named": answers(folder)}


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns recall, false alarms, and precision and recall by cause.

    The seeds of a situation are alike, so that intervals are over situations.
    """
    ill = [row for row in rows if row["cause"] != HEALTHY]
    healthy = [row for row in rows if row["cause"] == HEALTHY]
    by_cause: dict[str, Any] = {}
    for cause in sorted({row["cause"] for row in ill}):
        own = [row for row in ill if row["cause"] == cause]
        named = [row for row in rows if cause in row["named"]]
        by_cause[cause] = {
            "situations": len({row["name"] for row in own}),
            "recall": _fraction(_is_found(row) for row in own),
            "named": len(named),
            "precision": _fraction(cause in row["accepted"] for row in named),
        }
    return {
        "recall": _over_situations(ill, _is_found),
        "false_alarms": _over_situations(healthy, lambda row: bool(row["named"])),
        "by_cause": by_cause,
    }


def _is_found(row: Mapping[str, Any]) -> bool:
    return bool(set(row["named"]) & {*row["accepted"], REFUSED})


def _fraction(values: Any) -> float | None:
    each = list(values)
    return sum(each) / len(each) if each else None


def _over_situations(rows: Sequence[Mapping[str, Any]], holds: Any) -> dict[str, Any]:
    by_name: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_name[row["name"]].append(holds(row))
    if not by_name:
        return {"mean": None, "half_width": None, "situations": 0, "runs": 0}
    interval = mean_interval([sum(each) / len(each) for each in by_name.values()])
    return {
        "mean": interval.mean,
        "half_width": interval.half_width,
        "situations": len(by_name),
        "runs": len(rows),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--set", choices=SETS, default="test")
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time")
    parser.add_argument("--output", type=Path, help="the file to write")
    args = parser.parse_args(arguments)
    folders = [
        file.parent
        for file in sorted(args.runs.glob(f"*/*/{OUTCOME}"))
        if json.loads(file.read_text(encoding="utf-8"))["set"] == args.set
    ]
    if not folders:
        raise UserError(f"--runs is {args.runs}, which has no runs of the set {args.set!r}")
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(row_of, folders))
    result = summarize(rows)
    for row in rows:
        mark = "+" if (_is_found(row) if row["cause"] != HEALTHY else not row["named"]) else "-"
        print(
            f"{mark} {row['name']} {row['seed']}: {row['cause']}; named {', '.join(row['named'])}"
        )
    print(json.dumps(result, indent=2))
    if args.output:
        content = {
            "command": "python -m experiments.doctor.collect; python -m experiments.doctor.measure",
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            **result,
            "rows": rows,
        }
        write_json(args.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(main))
