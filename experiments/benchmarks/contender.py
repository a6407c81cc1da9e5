"""A worker process that waits for requests on its stdin, so that contenders work in turn.

It announces itself by one line of JSON, and answers each line of its stdin by one more.
"""

import contextlib
import json
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class Contender:
    """A worker process, from its start to the end of the with block."""

    def __init__(self, name: str, command: list[str]):
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # of a worker that has died
            self._requests.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def read_answer(self) -> dict:
        line = self._answers.readline()
        if not line:
            raise SystemExit(f"{self.name}: the worker ended with status {self._process.wait()}")
        return json.loads(line)

    def ask(self, request: str) -> dict:
        try:
            self._requests.write(request + "\n")
            self._requests.flush()
        except BrokenPipeError:
            raise SystemExit(f"{self.name}: the worker ended early") from None
        return self.read_answer()


def in_turn(contenders: list[Contender], round_number: int) -> list[Contender]:
    """The contenders in this round's order, which rotates: a slow minute falls on all."""
    first = round_number % len(contenders)
    return contenders[first:] + contenders[:first]


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
