"""What a run writes for people and programs: JSON lines, JSON files, a progress bar."""

import contextlib
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aevb.runtime.checksums import is_sound, sign

UNFINISHED = ".tmp"  # after the name of a file that is not whole yet, which a crash can leave


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`replace_text` by JSON."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def write_signed(path: Path, content: Mapping[str, Any]) -> None:
    """`write_json`, with the content's own digest as its last entry."""
    write_json(path, sign(content))


def read_signed(path: Path) -> dict[str, Any]:
    """What `write_signed` wrote; without a digest, as it was before there were any, it is believed.

    Raises:
        ValueError: it is something else.
        OSError: it cannot be read.
    """
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if content.get("digest") is not None and not is_sound(content):
        raise ValueError("its content and its digest do not belong together")
    content.pop("digest", None)
    return content


def replace_text(path: Path, text: str) -> None:
    """Replaces a file as a whole: a reader, or a crash, sees the old one or the new one."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, in the order of `examples`."""

    def __init__(self, path: Path, records: Sequence[Mapping[str, Any]] = ()):
        """Writes the log anew, with the records so far: a resumed run repeats and misses none."""
        self.path = path
        self.records = [dict(record) for record in records]
        replace_text(path, "".join(json.dumps(record) + "\n" for record in self.records))

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line, which is on the disk when this returns."""
        self.records.append(dict(record))
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a `metrics.jsonl`; one that a crash cut off ends it."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def curve(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """A log by column: the bounds of both splits against the training examples."""
    columns = ("examples", "train_bound", "test_bound")
    return {column: [record[column] for record in records] for column in columns}


def mean_over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """{"mean", "standard_error"} of the same figure in runs of several seeds.

    The standard error of a single value is not known: None; nor is that of values of which one is
    not finite, as their mean is not.
    """
    if not all(map(math.isfinite, values)):
        return {"mean": sum(values) / len(values), "standard_error": None}
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "standard_error": error}


class Unminded:
    """A stream whose reader may go away: nothing ends, or waits, because nobody looks at it.

    tqdm would leave its lock taken where a write fails, and a sweep's other threads wait for it.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Lines(tqdm):
    """A bar in a file: a whole line each time that it is shown, without control characters."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if hasattr(self, "start_t") and msg != "":  # not at the very start, nor to be wiped out
            self.fp.write(f"{self}\n")

    def close(self) -> None:
        if not self.disable:
            with self.get_lock():
                self.display()
        super().close()


def progress_bar(total: int, done: int, unit: str = "examples", *, is_shown: bool = True) -> tqdm:
    """What is done, how fast, and the time left, on stderr.

    On a terminal it is a bar; in a file a line each half minute, and one at the end.
    """
    common: dict[str, Any] = {
        "file": Unminded(sys.stderr),
        "disable": not is_shown,
        "total": total,
        "initial": done,
        "unit": f" {unit}",
        "unit_scale": True,
    }
    numbers = "{rate_fmt}, {remaining} left{postfix}"
    if sys.stderr.isatty():
        bar_format = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} " + numbers
        return tqdm(**common, dynamic_ncols=True, bar_format=bar_format)
    bar_format = "{percentage:3.0f}%  {n_fmt}/{total_fmt}{unit}, " + numbers
    # With miniters the clock alone decides, and tqdm's monitor leaves it alone.
    return _Lines(**common, leave=False, mininterval=30.0, miniters=1, bar_format=bar_format)


Report = Callable[[int, float], object]
# (training examples since the last time, what was maximized on them, nats per datapoint)


def reporter(bar: tqdm) -> Report:
    """Moves a progress bar on; an objective of NaN is not known."""

    def report(examples: int, objective: float) -> None:
        if math.isfinite(objective):
            bar.set_postfix_str(f"objective {objective:.1f}", refresh=False)
        bar.update(examples)

    return report
