"""Code that the benchmarks share: workers that take turns, flags, and the results file.

A worker is a process that holds its model and waits for requests on its stdin. It prints one line
of JSON when it is ready, and then one line for each line of its stdin (worker.py).
"""

import argparse
import contextlib
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aevb.runtime import provenance
from aevb.storage.metrics_log import write_json

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parents[1]
NOT_SHOWN = {"output", "bench_python", "extra", "earlier"}  # flags that do not change the figures
BUSY = 0.2  # cores; a warning is given if other processes keep more than this busy
T = TypeVar("T")


class Named(Protocol):
    """A contender, in this process or in one of its own."""

    name: str


C = TypeVar("C", bound=Named)


class Contender:
    """A worker process that lives until the end of the with block."""

    def __init__(self, name: str, command: list[str]):
        """Starts the worker and waits until it is ready."""
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.ready = self._read_answer()
        print(f"{name}: {self.ready}", flush=True)

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

    def _read_answer(self) -> dict:
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
        return self._read_answer()


def command_of(script: str, *flags: str, python: Path | None = None) -> list[str]:
    """Returns the command of a program of this folder, in this environment or in the peers'."""
    interpreter = sys.executable if python is None else str(python.absolute())
    return [interpreter, str(BENCHMARKS / script), *flags]


def in_turn(contenders: Sequence[T], round_number: int) -> list[T]:
    """Returns the contenders in the order of a round.

    The order rotates from round to round, so that a slow minute affects all contenders.
    """
    first = round_number % len(contenders)
    return [*contenders[first:], *contenders[:first]]


def take_turns(
    contenders: Sequence[C], rounds: int, measure: Callable[[C, int], T]
) -> dict[str, list[T]]:
    """Returns each contender's measurements, one per round; one contender works at a time.

    Args:
        contenders: the participants of every round, in an order that rotates.
        rounds: the number of rounds.
        measure: maps a contender and the number of the round to a measurement.
    """
    found: dict[str, list[T]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in in_turn(contenders, number):
            found[contender.name].append(measure(contender, number))
        print(f"round {number + 1}/{rounds}", flush=True)
    return found


def summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(these: Iterable[float], those: Iterable[float]) -> dict[str, float]:
    """Summarizes ratios taken per round, so that a slow minute affects both of their terms."""
    return summary([a / b for a, b in zip(these, those, strict=True)])


# Flags, and the results file


def argument_parser(
    description: str | None, *, rounds: int | None = None, needs_data: bool | None = None
) -> argparse.ArgumentParser:
    """Returns a parser of the flags that several benchmarks have.

    Args:
        description: the docstring of the benchmark.
        rounds: the default of --rounds, which is left out if it is None.
        needs_data: whether --data-dir is required; None leaves the flag out.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="the results file (in results/)")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    if needs_data is not None:
        help_text = "folder of the datasets' files"
        parser.add_argument("--data-dir", type=Path, required=needs_data, help=help_text)
    return parser


def add_choices(parser: argparse.ArgumentParser, flag: str, choices: Iterable[str]) -> None:
    """Adds a flag with a comma-separated list of names, by default all."""
    names = list(choices)

    def some(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(names):
            words = f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}"
            raise argparse.ArgumentTypeError(words)
        return text.split(",")

    parser.add_argument(flag, type=some, default=names, help=f"comma-separated: {','.join(names)}")


def integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def add_peers(parser: argparse.ArgumentParser) -> None:
    default = ROOT / ".venv-bench" / "bin" / "python"
    parser.add_argument("--bench-python", type=Path, default=default, help="the peers' interpreter")


def require_peers(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not args.bench_python.exists():
        parser.error(f"no {args.bench_python}; `make .venv-bench/peers` makes it")


def shown_command(args: argparse.Namespace) -> str:
    """Returns the command that repeats the run, without this machine's folders."""
    flags = {name: value for name, value in vars(args).items() if name not in NOT_SHOWN}
    if flags.get("data_dir"):
        flags["data_dir"] = "DATA"
    words = [
        f"--{name.replace('_', '-')}="
        + (",".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in flags.items()
        if value is not None
    ]
    return shlex.join(["python", f"experiments/benchmarks/{Path(sys.argv[0]).name}", *words])


def write_report(args: argparse.Namespace, load: float | None, **figures: Any) -> None:
    """Writes a results file: the figures, the command, the machine and its load."""
    path = args.output or BENCHMARKS / "results" / f"{Path(sys.argv[0]).stem}.json"
    report = {
        "command": shown_command(args),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "load_of_others": load,
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    print(path)


def load_of_others(seconds: float = 2.0) -> float | None:
    """Measures the cores that other processes keep busy, while this one sleeps; None if unknown.

    On a machine with other load, threads that wait for each other slow down most. PyTorch has such
    threads, so its measured speed is then too low.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return None

    def busy_and_all() -> tuple[int, int]:
        """Returns the busy ticks and all ticks of all cores since the machine started.

        The fields are: user nice system idle iowait irq softirq steal.
        """
        ticks = [
            int(field) for field in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
        ]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)

    busy, total = busy_and_all()
    time.sleep(seconds)
    busy_then, total_then = busy_and_all()
    load = (os.cpu_count() or 1) * (busy_then - busy) / max(1, total_then - total)
    if load > BUSY:
        print(f"warning: others use {load:.1f} cores; the figures will mislead", file=sys.stderr)
    return round(load, 2)
