"""The protocol of the two workers of accelerator.py, and their timings.

Each line of stdin is a JSON object: the `kind` of a cell and the arguments of the function that
measures it. The answer is the cell's record, or {"error": one line} if the function fails.

The module imports only the standard library, because the worker in the peers' environment uses it
too.
"""

import json
import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import worker

LONGEST = 200  # characters of an error


def serve(
    packages: Sequence[str], measures: Mapping[str, Callable[..., dict[str, Any]]], **more: Any
) -> None:
    """Answers each request with the record of a cell, until stdin or the parent process ends.

    Args:
        packages: the packages that do the work; their versions are printed.
        measures: kind of a cell -> the function that measures it.
        more: further entries of the worker's first line.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    def answer_to(line: str) -> dict[str, Any]:
        request = json.loads(line)
        try:
            return measures[request.pop("kind")](**request)
        except Exception as error:
            traceback.print_exc()
            first = f"{error}".splitlines()[:1]
            return {"error": ": ".join([type(error).__name__, *first])[:LONGEST]}

    worker.serve(packages, answer_to, **more)


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended, so that it does not hold the device."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def rates(
    take: Callable[[int], float], examples: int, *, seconds: float, rounds: int
) -> dict[str, Any]:
    """Returns the examples/s of each of several rounds of steps, which last about `seconds` each.

    The steps before the rounds are a warm-up, from which the number of steps in a round is chosen.

    Args:
        take: takes a number of steps, waits for the device, and returns the last objective.
        examples: the number of examples in a step.

    Raises:
        ValueError: an objective is not finite.
    """
    take(1)  # compiles
    number = 1
    while (once := _seconds(take, number)) < seconds / 2:
        number *= 2
    number = max(1, round(number * seconds / once))
    return {
        "rates": [number * examples / _seconds(take, number) for _ in range(rounds)],
        "steps_a_round": number,
    }


def _seconds(take: Callable[[int], float], number: int) -> float:
    objective, times = worker.timed(lambda: take(number))
    if not math.isfinite(objective):
        raise ValueError(f"the objective is {objective}")
    return times["seconds"]
