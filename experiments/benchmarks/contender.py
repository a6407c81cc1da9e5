"""A worker process that waits for requests on its stdin, so that contenders work in turn.

The worker prints one line of JSON when it is ready, and then one line for each line of its stdin.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from aevb.runtime import provenance
from aevb.storage.metrics_log import write_json

ROOT = Path(__file__).resolve().parent.parent.parent
T = TypeVar("T")
BUSY = 0.2  # busy cores of other processes, above which a warning is given


class Contender:
    """A worker process that lives until the end of the with block."""

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
        with contextlib.suppress(BrokenPipeError):  # if the worker has died
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


def in_turn(contenders: Sequence[T], round_number: int) -> list[T]:
    """Returns the contenders in this round's order. It rotates: a slow minute affects all."""
    first = round_number % len(contenders)
    return [*contenders[first:], *contenders[:first]]


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write_report(path: Path, *, command: str, load: float | None, **figures: Any) -> None:
    """Writes a results file: the figures, the command, the machine and its load."""
    report = {
        "command": command,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "load_of_others": load,
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)


def load_of_others(seconds: float = 2.0) -> float | None:
    """Measures the cores that other processes keep busy, while this one sleeps; None if unknown.

    On a machine with other load, threads that wait for each other slow down most. PyTorch has such
    threads, so its figures then look worse than they are.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return None

    def busy_and_all() -> tuple[int, int]:
        """Returns the busy ticks and all ticks of all cores since the machine started.

        The fields are: user nice system idle iowait irq softirq steal.
        """
        ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)

    busy, total = busy_and_all()
    time.sleep(seconds)
    busy_then, total_then = busy_and_all()
    load = (os.cpu_count() or 1) * (busy_then - busy) / max(1, total_then - total)
    if load > BUSY:
        print(f"warning: others use {load:.1f} cores; the figures will mislead", file=sys.stderr)
    return round(load, 2)
