"""Compares runs: a page with a table to sort, curves and pictures, and the table as CSV.

aevb report FOLDER ... [--output=FILE.html]

Each folder is a run's or a sweep's, or contains such folders. Runs that differ only in the seed
share a row, with the mean and the standard error of each quantity. A sweep writes its own page when
it ends.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from aevb.cli.common import Parser, reporting_mistakes
from aevb.errors import UserError
from aevb.reports import comparison
from aevb.reports.comparison import COMPARISON
from aevb.runtime.run_lock import unusable


def make(folders: Sequence[Path], output: Path | None) -> str:
    """Writes the page and the table; returns the text for the terminal.

    Raises:
        UserError: there is no run, or the files cannot be written.
    """
    if output and output.suffix != ".html":
        raise UserError(f"--output is {str(output)!r}; it must be the name of a page, FILE.html")
    found = comparison.compare(folders)
    if len({folder.is_absolute() for folder in folders}) > 1:  # commonpath refuses a mixture
        folders = [folder.absolute() for folder in folders]
    file = output or Path(os.path.commonpath(folders)) / COMPARISON
    try:
        page, table = comparison.write(found, file)
    except OSError as error:
        raise unusable(file, error) from error
    left_out = [f"left out: {folder}: {why}" for folder, why in found.left_out.items()]
    return "\n".join([comparison.text_table(found), *left_out, str(page), str(table)])


def main(arguments: Sequence[str]) -> int:
    """Runs `aevb report`; returns the exit status: 0 if done, 2 for a user's mistake."""
    parser = Parser(
        prog="aevb report", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folders", type=Path, nargs="+", help="folders of runs or sweeps")
    where = f"the page's file; by default, {COMPARISON} in the folder that contains all of these"
    parser.add_argument("--output", type=Path, help=where)

    def body() -> int:
        args = parser.parse_args(arguments)
        print(make(args.folders, args.output))
        return 0

    return reporting_mistakes(body)
