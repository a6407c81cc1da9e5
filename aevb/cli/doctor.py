"""Says what is wrong with a run, by which figure it is seen, and which setting to change.

aevb doctor RUN [--data=NAME]

The data, the log and the last checkpoint of the run are checked; nothing is written. The run can be
unfinished, or have stopped at a non-finite step. For each fault that is found there are three
lines. Before them are the bounds of simple models on the same data, which the run's bound should
exceed. Only training and validation data are used, never the test data. docs/troubleshooting.md
describes the faults, and docs/doctor.md how often they are found.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from aevb.cli.common import Parser, reporting_mistakes


def report(folder: Path, data: str = "") -> str:
    """Returns the diagnosis of a run as text for the terminal.

    Raises:
        UserError: it is not the folder of a run, or its data are others or missing.
    """
    from aevb.doctor.hints import text  # imports jax; after --help, which does not need it
    from aevb.runs.diagnosis import of_folder

    hints, rivals, records = of_folder(folder, data)
    lines = []
    if records:
        last = records[-1]
        bounds = [
            f"{split} {last[name]:.2f}"
            for split in ("train", "valid")
            if (name := f"{split}_bound") in last
        ]
        lines.append(f"bound after {last['examples']:,} examples: {', '.join(bounds)} nats")
    else:
        lines.append("the run has no evaluation yet, so only its data are checked")
    for rival in rivals:
        valid = "" if rival.valid is None else f", valid {rival.valid.mean:.2f}"
        lines.append(f"{rival.name}: train {rival.train.mean:.2f}{valid} nats")
    if not hints:
        lines.append("no fault was found")
    return "\n".join([*lines, *map(text, hints)])


def main(arguments: Sequence[str]) -> int:
    """Runs `aevb doctor`; returns the exit status: 0 if done, 2 for a user's mistake."""
    parser = Parser(
        prog="aevb doctor", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--data", default="", help="the data's new name, if they have moved")

    def body() -> int:
        args = parser.parse_args(arguments)
        print(report(args.run, args.data))
        return 0

    return reporting_mistakes(body)
