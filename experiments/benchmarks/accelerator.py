"""Measures the accelerator that jax finds, in at most twelve minutes, as `make bench-gpu` does.

    python experiments/benchmarks/accelerator.py --data-dir=DATA [--minutes=12] [--only=single]

    single      training speed of one run: MLP and convolutions in float32, TF32 and bfloat16
    stacks      training speed of 1 to 256 runs in one program
    importance  log p(x) by importance sampling
    sweep       the paper's sweep on MNIST for up to five minutes, and the time of 10^8 examples
                that follows from its speed
    torch       the single runs in PyTorch, if --bench-python exists and sees the same device

The results file, results/<gpu or tpu>/accelerator.json, is written anew after each measurement (a
cell). The same command continues it: it measures the cells that are missing. A cell that fails is
recorded with its error, and measured again only with --retry. A cell for which too little time is
left is named under `not_measured`. `python -m docs.tools` makes the tables.

One worker process at a time holds the device (accelerator_worker.py, torch_accelerator_worker.py).
--quick checks every cell in a tiny form, on a CPU too, and writes to runs/bench.
"""

import argparse
import contextlib
import datetime
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from accelerator_cells import FULL, GROUPS, QUICK, Cell, cells

from aevb.errors import UserError
from aevb.runtime import provenance
from aevb.storage.metrics_log import write_json

COMMAND = "python experiments/benchmarks/accelerator.py --data-dir=DATA"
NO_TIME = "too little time was left; the same command measures it"
COMPARED = ("device", "machine", "versions", "quick")  # equal for all cells of a results file
START = 120.0  # seconds that the first worker may take to start
SHARE = 0.9  # of the time of a cell, for one that uses what it is given


class WorkerError(Exception):
    """A worker ended, or did not answer in time."""


class TimeoutWorkerError(WorkerError):
    """A worker did not answer in time, and was ended."""


class Worker:
    """A worker process with a time limit for each answer."""

    def __init__(self, command: Sequence[str], seconds: float):
        """Starts the process, and waits until it is ready.

        Raises:
            WorkerError: the process has ended, or was ended after these seconds.
        """
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
            cwd=harness.ROOT,
        )  # fmt: skip
        self.ready = self._answer(seconds)

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Returns the answer to a request.

        Raises:
            WorkerError: the process has ended, or was ended after these seconds.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        began = time.monotonic()
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line:
            return json.loads(line)
        status = self._process.wait()
        if time.monotonic() - began >= seconds:
            raise TimeoutWorkerError(f"no answer within {seconds:.0f} s")
        raise WorkerError(f"the worker ended with status {status}")

    def close(self) -> None:
        """Ends the process, and waits until the device is free."""
        self._process.kill()
        self._process.communicate()


class Workers:
    """The workers of aevb and of PyTorch; at most one is alive."""

    def __init__(self, commands: Mapping[str, Sequence[str]]):
        self._commands = commands
        self._alive: tuple[str, Worker] | None = None

    def start(self, library: str, seconds: float) -> Worker:
        """Returns the worker of a library; another one is ended first."""
        if self._alive is None or self._alive[0] != library:
            self.close()
            self._alive = library, Worker(self._commands[library], seconds)
        return self._alive[1]

    def ask(self, cell: Cell, seconds: float) -> dict[str, Any]:
        """Returns a cell's record, measured within these seconds.

        Raises:
            WorkerError: the cell failed.
        """
        began, request = time.monotonic(), dict(cell.request)
        try:
            worker = self.start(cell.library, seconds)
            left = seconds - (time.monotonic() - began)
            if "budget" in request:
                request["budget"] = min(request["budget"], SHARE * left)
            answer = worker.ask(request, left)
            if "error" in answer:
                raise WorkerError(answer["error"])
        except WorkerError:
            self.close()  # the next cell has a new process, without what this one left behind
            raise
        return answer

    def close(self) -> None:
        if self._alive is not None:
            self._alive[1].close()
            self._alive = None


# The results file


def opened(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the results so far of a file, or new results.

    Raises:
        UserError: the file has results of another device, machine, version or form.
    """
    if not path.exists():
        return {**about, "cells": {}, "not_measured": {}}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        both = report["torch"] and about["torch"]  # a part may be without PyTorch
        names = (*COMPARED, "torch") if both else COMPARED
        then, now = ({name: each[name] for name in names} for each in (report, about))
        words = difference(then, now)
        report["cells"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no results file of this program ({type(error).__name__}: {error}); delete "
            "it, or name another file by --output"
        ) from error
    if words:
        raise UserError(
            f"{path} has other results: {words}; delete it, or name another file by --output"
        )
    return {**report, "torch": about["torch"] or report["torch"]}


def difference(then: Mapping[str, Any], now: Mapping[str, Any], name: str = "") -> str | None:
    """Returns the first difference of two nested dictionaries in words, or None."""
    for key in sorted({*then, *now}):
        ours, theirs, where = then.get(key), now.get(key), f"{name}{key}"
        if isinstance(ours, dict) and isinstance(theirs, dict):
            if words := difference(ours, theirs, f"{where}."):
                return words
        elif ours != theirs:
            return f"its {where} is {ours!r}, and now it is {theirs!r}"
    return None


def recorded(cell: Cell, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record of a cell from the answer of its worker."""
    found = {**cell.about, **answer}
    speed = harness.summary(found.pop("rates"))
    unit = "images_per_second" if cell.group == "importance" else "examples_per_second"
    return {
        **found,
        unit: speed,
        "flop_per_example": cell.flops,
        "tflop_per_second": 1e-12 * cell.flops * speed["median"],
    }


# The run


def run(
    todo: Sequence[Cell],
    report: dict[str, Any],
    *,
    ask: Callable[[Cell, float], Mapping[str, Any]],
    time_left: Callable[[], float],
    save: Callable[[], None],
) -> None:
    """Measures the cells that the report does not have, as long as there is time.

    Args:
        ask: (cell, seconds) -> the answer of its worker; raises a WorkerError if the cell fails.
        time_left: returns the seconds that are left.
        save: writes the report; called after each cell.
    """
    todo = [cell for cell in todo if cell.name not in report["cells"]]
    for number, cell in enumerate(todo, start=1):
        left = time_left()
        seconds = min(cell.seconds, left)
        if left < cell.least:
            report["not_measured"][cell.name] = NO_TIME
            continue
        began = time.monotonic()
        try:
            record = recorded(cell, ask(cell, seconds))
        except TimeoutWorkerError as error:
            if seconds < cell.seconds:
                report["not_measured"][cell.name] = NO_TIME
                continue
            record = {**cell.about, "error": str(error)}
        except WorkerError as error:
            record = {**cell.about, "error": str(error)}
        record["seconds"] = round(time.monotonic() - began, 2)
        report["cells"][cell.name] = record
        report["not_measured"].pop(cell.name, None)
        save()
        print(f"[{number}/{len(todo)}] {line_of(cell.name, record)}", flush=True)
    save()


def line_of(name: str, record: Mapping[str, Any]) -> str:
    """Returns a line for the terminal."""
    if "error" in record:
        return f"{name}: {record['error']}"
    unit = "images" if "images_per_second" in record else "examples"
    speed = record[f"{unit}_per_second"]
    line = (
        f"{name}: {speed['median']:,.0f} {unit}/s ({speed['min']:,.0f} to {speed['max']:,.0f}), "
        f"{record['tflop_per_second']:.3g} TFLOP/s, in {record['seconds']:.0f} s"
    )
    if "extrapolated" not in record:
        return line
    return (
        f"{line}; {record['members']} members, {record['examples_a_member']:,} examples each; "
        f"10^8 examples each: {record['extrapolated']['hours']:.3g} h (extrapolated)"
    )


def peer(bench_python: Path, platform: str) -> tuple[str, str]:
    """Returns the version of PyTorch for a platform of jax, and "" or why it is not measured."""
    if platform not in ("cpu", "gpu"):
        return "", f"PyTorch is not measured on a {platform}"
    if not bench_python.exists():
        return "", "there is no PyTorch; `make .venv-bench/peers` installs it"
    asked = subprocess.run(
        [str(bench_python.absolute()), "-c", "import torch as t\n"
         "print(t.__version__, t.cuda.get_device_name() if t.cuda.is_available() else '')"],
        stdout=subprocess.PIPE, encoding="utf-8", check=False,
    )  # fmt: skip
    version, _, device = asked.stdout.strip().partition(" ")
    if asked.returncode or (platform == "gpu" and not device):
        return version, f"PyTorch {version or 'there'} finds no GPU"
    return version, ""


def parse_args() -> argparse.Namespace:
    parser = harness.argument_parser(__doc__, needs_data=True)
    parser.add_argument("--minutes", type=float, default=12.0, help="the most that all may take")
    parser.add_argument("--quick", action="store_true", help="tiny, and not for publication")
    parser.add_argument("--retry", action="store_true", help="measure failed cells again")
    harness.add_choices(parser, "--only", GROUPS)
    harness.add_peers(parser)
    return parser.parse_args()


def described(args: argparse.Namespace, device: Mapping[str, Any], torch: str) -> dict[str, Any]:
    """Returns what the results file says of the run."""
    return {
        "command": COMMAND + " --quick" * args.quick,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": dict(device),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "torch": torch,  # its version, or ""
        "quick": args.quick,
        "load_of_others": harness.load_of_others(),
    }


def results_file(args: argparse.Namespace, platform: str) -> Path:
    """Returns the results file.

    Raises:
        UserError: there is no accelerator.
    """
    if platform == "cpu" and not args.quick:
        raise UserError(
            "jax finds no accelerator, only a CPU; install jax's for it, such as 'jax[cuda13]' or "
            "'jax[tpu]', into the environment of this command, or check the program by --quick"
        )
    folder = harness.ROOT / "runs" / "bench" if args.quick else harness.BENCHMARKS / "results"
    path = args.output or folder / platform / "accelerator.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def measure(args: argparse.Namespace, workers: Workers, time_left: Callable[[], float]) -> Path:
    """Measures what the results file does not have; returns the file.

    Raises:
        UserError: there is no accelerator, or the file has other results.
    """
    try:
        device = workers.start("aevb", START).ready["device"]
    except WorkerError as error:
        raise UserError(f"jax cannot use its device: {error}; its message is above") from error
    path = results_file(args, device["platform"])
    torch, why_not = peer(args.bench_python, device["platform"])
    about = described(args, device, torch)
    report = opened(path, about)
    if args.retry:
        kept = {name: each for name, each in report["cells"].items() if "error" not in each}
        report["cells"] = kept
    todo = [cell for cell in cells(QUICK if args.quick else FULL) if cell.group in args.only]
    if why_not:
        unmeasured = {cell.name: why_not for cell in todo if cell.library == "torch"}
        report["not_measured"] |= unmeasured
        todo = [cell for cell in todo if cell.name not in unmeasured]
    print(f"{device['kind']}: {path}", flush=True)
    run(
        todo,
        report,
        ask=workers.ask,
        time_left=time_left,
        save=lambda: write_json(path, report),
    )
    for reason in sorted(set(report["not_measured"].values())):
        names = [name for name, each in report["not_measured"].items() if each == reason]
        print(f"not measured: {', '.join(names)} ({reason})")
    return path


def main() -> None:
    began = time.monotonic()
    args = parse_args()
    flag = f"--data-dir={args.data_dir.absolute()}"
    peers = {"python": args.bench_python}
    workers = Workers(
        {
            "aevb": harness.command_of("accelerator_worker.py", flag),
            "torch": harness.command_of("torch_accelerator_worker.py", flag, **peers),
        }
    )
    try:
        path = measure(args, workers, lambda: 60 * args.minutes - (time.monotonic() - began))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")
    finally:
        workers.close()
    print(f"{path}, after {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
