"""The signals that ask a run to stop, as a wish that training grants at its next pause.

Ctrl-C is SIGINT; SLURM and Kubernetes pre-empt with SIGTERM, `sbatch --signal=USR1@60` with SIGUSR1
a minute before, and submitit with SIGUSR2. Outside training, or the second time, the process ends
at once: a run can be killed at any moment, and loses no more than it did since its last checkpoint.
"""

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

REQUEUE = signal.SIGUSR2  # by which submitit asks a job to save, so that it can be queued again
CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, REQUEUE)


def exit_at_once(numbers: Sequence[signal.Signals] = CAUGHT, *, goes_on: bool = True) -> None:
    """Makes each of the signals end the process with one line and status 128 + signal.

    One that comes when the program is done and Python tidies up is passed over: the status is then
    that of what was done.

    Args:
        goes_on: whether the same command goes on from what was saved; else it begins anew.
    """
    then = "goes on from what was saved" if goes_on else "begins anew"

    def leave(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        sys.stderr.write(f"\nstopped by {name}; the same command {then}\n")
        sys.stderr.flush()
        os._exit(128 + number)  # threads that train would hold up sys.exit

    for number in numbers:
        signal.signal(number, leave)
    atexit.register(_pass_over, numbers)


def _pass_over(numbers: Sequence[signal.Signals]) -> None:
    """Python forgets other handlers as it ends, and what a signal does by itself is to kill."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


class Signals:
    """A context in which the first signal is noted in `received`, and a second one is obeyed."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self._previous = {int(n): signal.signal(n, self._note) for n in CAUGHT}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def stop(self) -> None:
        """As if a SIGTERM had come."""
        self.received = self.received or signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, self._previous[number])
