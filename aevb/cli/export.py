"""Exports the model of a finished run for programs without this package.

aevb export RUN --output=FOLDER [--which=best] [--step=STEP]

The folder gets encoder.stablehlo (x -> the statistics of q(z|x)) and decoder.stablehlo (z ->
E[x|z]), which JAX runs on a CPU, a GPU or a TPU for any number of datapoints, x in the user's
shape and units; parameters.safetensors, for programs without JAX; and the card model.json, with
the names and shapes of inputs and outputs, the run's settings and its bounds. Where the
preprocessing is random, as a binarization is, its noise is an input.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from aevb.cli.common import Parser, add_run_flags, reporting_mistakes
from aevb.config import of_finished_run


def make(folder: Path, which: str, step: int | None, output: Path) -> Path:
    """Exports the model of a finished run; returns the folder.

    Raises:
        UserError: there is no finished run, it has no such checkpoint, the folder holds files or
            cannot be written, or the model cannot be exported.
    """
    of_finished_run(folder)
    from aevb.runs.trained import load_run  # imports jax; after the check, which does not need it

    return load_run(folder, which=which, step=step).export(output)


def main(arguments: Sequence[str]) -> int:
    """Runs `aevb export`; returns the exit status: 0 if done, 2 for a user's mistake."""
    parser = Parser(
        prog="aevb export", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_run_flags(parser)
    parser.add_argument("--output", type=Path, required=True, help="a new folder for the files")

    def body() -> int:
        args = parser.parse_args(arguments)
        made = make(args.run, args.which, args.step, args.output)
        print(*sorted(made.iterdir()), sep="\n")
        return 0

    return reporting_mistakes(body)
