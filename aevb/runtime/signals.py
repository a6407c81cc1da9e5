"""Stop signals. A signal sets a flag; training saves and exits at its next pause.

Ctrl-C sends SIGINT. SLURM and Kubernetes preempt with SIGTERM, `sbatch --signal=USR1@60` with
SIGUSR1 one minute before, and submitit with SIGUSR2. Outside training, and on a second signal, the
process exits immediately. A run can be killed at any time, and loses only the progress since its
last checkpoint.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

REQUEUE = signal.SIGUSR2  # submitit's request to save, before it requeues the job
CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, REQUEUE)


def exit_at_once(numbers: Sequence[signal.Signals] = CAUGHT, *, resumes: bool = True) -> None:
    """Installs handlers that end the process with one line and status 128 + signal.

    A signal during Python's shutdown is ignored, so that the exit status is that of the finished
    program.

    Args:
        resumes: whether the same command resumes from saved files; otherwise it starts again.
    """
    then = "resumes from what was saved" if resumes else "starts again"

    def leave(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        sys.stderr.write(f"\nstopped by {name}; the same command {then}\n")
        sys.stderr.flush()
        os._exit(128 + number)  # sys.exit would wait for training threads

    for number in numbers:
        signal.signal(number, leave)
    atexit.register(_pass_over, numbers)


def _pass_over(numbers: Sequence[signal.Signals]) -> None:
    """Ignores the signals.

    Python removes its own handlers at shutdown, and by default a signal kills the process.
    """
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


class Signals:
    """A context that stores the first signal in `received`.

    On a second one, the previous handler is called. Python lets only the main thread handle
    signals; in another one the context does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {int(n): signal.signal(n, self._note) for n in CAUGHT}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def stop(self) -> None:
        """Requests a stop, like a SIGTERM."""
        self.received = self.received or signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, self._previous[number])
