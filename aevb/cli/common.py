"""What commands have in common: how mistakes are told, and that it matters not who listens."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from typing import NoReturn

from absl import logging

from aevb.errors import Interrupted, UserError
from aevb.storage.metrics_log import Unminded


class Parser(argparse.ArgumentParser):
    """For a command whose flags are few; it says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def reporting_mistakes(body: Callable[[], int]) -> int:
    """What `body` returns, or the exit status of what it raises, which it tells in one line.

    Where nobody reads what it prints any more, as of `aevb run --help | head`, it goes on.
    """
    logging.set_verbosity(logging.FATAL)  # what orbax warns of is no mistake, or is told here
    try:
        with redirect_stdout(Unminded(sys.stdout)) if sys.stdout else nullcontext():
            return body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.status
    finally:
        _leave_nothing_unsaid()


def _leave_nothing_unsaid() -> None:
    """Else Python, when it ends, would try to say it, and complain."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
