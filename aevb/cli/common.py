"""Error messages of the commands, and output whose reader may close the pipe."""

import argparse
import io
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import NoReturn

from absl import logging

from aevb.errors import Interrupted, UserError
from aevb.storage.metrics_log import IgnoringWriteErrors


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, for commands with few flags."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the folder of a finished run, and the flags that choose one of its checkpoints."""
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "--which", choices=("last", "best"), default="last",
        help="the state at the end (default), or the one with the highest validation bound",
    )  # fmt: skip
    parser.add_argument("--step", type=int, help="step of another checkpoint that the run kept")


def reporting_mistakes(body: Callable[[], int]) -> int:
    """Runs `body` and returns its exit status; prints a mistake or an interruption in one line.

    If the reader of standard output has gone, as in `aevb run --help | head`, `body` continues.
    Characters that standard output cannot encode, as in the locale C, are escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it from the start
    logging.set_verbosity(logging.FATAL)  # orbax's warnings are harmless or are reported here
    try:
        with redirect_stdout(IgnoringWriteErrors(sys.stdout)) if sys.stdout else nullcontext():
            return body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.status
    finally:
        _flush_output()


def _flush_output() -> None:
    """Flushes standard output; discards the rest if its reader has gone.

    Otherwise Python would flush at exit and print an error.
    """
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
