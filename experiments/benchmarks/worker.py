"""The flags and the protocol of the benchmarks' workers.

After set-up a worker prints {"ready": true, ...}. Then it answers each line of stdin with one line
of JSON, until stdin ends. Between requests it blocks on stdin, so it takes no time from other
contenders.

The workers of train_speed.py warm up with one epoch. "epoch" trains one epoch and answers
{"seconds", "cpu_seconds", "examples"}; "bound" answers {"test_bound"}, in nats, over all test
datapoints; "memory" answers {"peak_kib"}, the peak memory of the process so far.

The module imports only the standard library, because workers in the peers' environment use it too.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple


class Sizes(NamedTuple):
    """The sizes of a dataset and of the paper's model of it, except Z."""

    num_dims: int  # D
    num_hidden: int
    num_heads: int  # of the decoder, each [D]
    num_train: int  # N


SIZES = {
    "mnist": Sizes(784, 500, 1, 50_000),
    "frey": Sizes(560, 200, 2, 1572),
}


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the flags that train_speed.py gives to every worker."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the datasets")
    add_model(parser)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the model and of its training."""
    parser.add_argument("--data", choices=list(SIZES), required=True)
    parser.add_argument("--latent-dim", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--step-size", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_kib(field: str) -> int:
    """Returns this process's memory now (VmRSS) or its peak (VmHWM); 0 if not on Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def peak_kib() -> int:
    return memory_kib("VmHWM")


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Returns the result of a call, with its "seconds" and "cpu_seconds"."""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = call()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return result, {"seconds": seconds, "cpu_seconds": cpu_seconds}


def serve(
    packages: Sequence[str], answer_to: Callable[[str], Mapping[str, Any]], **more: Any
) -> None:
    """Prints that the worker is ready, and answers each line of stdin until it ends.

    Args:
        packages: the packages that do the work; their versions are printed.
        answer_to: maps a request to its answer.
        more: further entries of the first line.
    """
    versions = {name: version(name) for name in packages}
    print(json.dumps({"ready": True, "versions": versions, **more}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer_to(line.strip())), flush=True)


def serve_training(
    packages: Sequence[str],
    train_epoch: Callable[[], int],
    test_bound: Callable[[], float],
    *,
    threads: int | None = None,
    device: str = "cpu",
    **more: str | int,
) -> None:
    """Warms up by one epoch, and serves training.

    Args:
        packages: the packages that do the work.
        train_epoch: trains one epoch, waits until it is done, and returns its number of examples.
        test_bound: returns the mean bound over all test datapoints, in nats.
        threads: the number of threads that the packages may use (default: one per core).
        device: the device that the packages use.
        more: further entries of the first line.
    """

    def answer_to(request: str) -> dict[str, Any]:
        match request:
            case "epoch":
                examples, times = timed(train_epoch)
                return {**times, "examples": examples}
            case "bound":
                return {"test_bound": test_bound()}
            case "memory":
                return {"peak_kib": peak_kib()}
        raise ValueError(f"request {request!r}: expected epoch, bound or memory")

    train_epoch()
    serve(packages, answer_to, threads=threads or num_cores(), device=device, **more)
