"""The flags and the protocol that the workers of train_speed.py share.

After set-up and one warm-up epoch a worker prints {"ready": true, ...}. Then it answers each line
of stdin with one line of JSON: "epoch" trains one epoch and answers {"seconds", "cpu_seconds",
"examples"}; "bound" answers {"test_bound"}, in nats, over all test datapoints; "memory" answers
{"peak_kib"}, the peak memory of the process so far. It ends at the end of stdin. Between requests
it blocks on stdin, so it takes no time from other contenders.

The module imports only what is in every environment: it is loaded into ours and into the peers'.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


class Sizes(NamedTuple):
    """The sizes of the paper's model of a dataset, except Z."""

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
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--data", choices=list(SIZES), required=True)
    parser.add_argument("--latent-dim", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--step-size", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_kib() -> int:
    """Returns the peak memory of this process; Linux only, 0 elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def answer(message: Mapping) -> None:
    print(json.dumps(message), flush=True)


def serve(
    train_epoch: Callable[[], int],
    test_bound: Callable[[], float],
    *,
    versions: Mapping[str, str],
    threads: int,
    device: str = "cpu",
    **more: str | int,
) -> None:
    """Warms up, prints that it is ready, and answers until stdin ends.

    Args:
        train_epoch: trains one epoch, waits until it is done, and returns its number of examples.
        test_bound: returns the mean bound over all test datapoints, in nats.
        versions: of the packages that do the work.
        threads: the number that they may use.
        device: the device that they work on.
        more: further entries of the first line.
    """

    def timed_epoch() -> dict:
        start, cpu_start = time.perf_counter(), time.process_time()
        examples = train_epoch()
        return {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
            "examples": examples,
        }

    train_epoch()
    ready = {"ready": True, "versions": dict(versions), "threads": threads, "device": device}
    answer(ready | more)
    for line in sys.stdin:
        match line.strip():
            case "epoch":
                answer(timed_epoch())
            case "bound":
                answer({"test_bound": test_bound()})
            case "memory":
                answer({"peak_kib": peak_kib()})
            case request:
                raise ValueError(f"request {request!r}: expected epoch, bound or memory")
