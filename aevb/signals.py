"""SIGTERM and SIGINT as a wish that the training loop grants at its next pause."""

import signal
from types import FrameType
from typing import Any

CAUGHT = (signal.SIGTERM, signal.SIGINT)


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
