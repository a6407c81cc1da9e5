"""Writes the interactive page of a finished run's latent space.

aevb explore RUN [--which=best] [--step=STEP] [--output=FILE]

Every run writes its page, explorer.html, when it ends. This command writes it again, for example
from another checkpoint. The page works offline, and decodes any point in the browser. If it has no
JavaScript for an operation of the decoder, it contains precomputed points instead, and says so.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from aevb.cli.common import Parser, add_run_flags, reporting_mistakes
from aevb.config import of_finished_run


def make(folder: Path, which: str, step: int | None, output: Path | None, data: str = "") -> Path:
    """Writes the page of a finished run and returns its file.

    Raises:
        UserError: there is no finished run, it has no such checkpoint, or the file cannot be
            written.
    """
    config = of_finished_run(folder, data)
    from aevb import runs
    from aevb.reports.explorer import explorer_page
    from aevb.runs.load import experiment_of, read_state
    from aevb.runtime.run_lock import unusable
    from aevb.storage import metrics_log  # imports jax; after the check, which does not need it

    experiment = experiment_of(folder, config)
    state = read_state(folder, experiment.algorithm, config, step, which=which)
    params = experiment.algorithm.vae_params(state.params)
    records = metrics_log.read_records(folder / "metrics.jsonl")
    summary = runs.inspect(folder, of_finished_run(folder)) or {}
    written = output or folder / runs.EXPLORER
    try:
        page = explorer_page(experiment, params, records, config, summary)
        metrics_log.replace_text(written, page)
    except OSError as error:
        raise unusable(written, error) from error
    return written


def main(arguments: Sequence[str]) -> int:
    """Runs `aevb explore`; returns the exit status: 0 if done, 2 for a user's mistake."""
    parser = Parser(
        prog="aevb explore", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_run_flags(parser)
    parser.add_argument("--data", default="", help="the data's new name, if they have moved")
    parser.add_argument("--output", type=Path, help="file; by default, RUN/explorer.html")

    def body() -> int:
        args = parser.parse_args(arguments)
        print(make(args.run, args.which, args.step, args.output, args.data))
        return 0

    return reporting_mistakes(body)
