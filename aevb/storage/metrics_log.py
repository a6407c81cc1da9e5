"""The output of a run for people and programs: JSON lines, JSON files, a progress bar."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aevb.runtime.checksums import is_sound, with_digest

UNFINISHED = ".tmp"  # suffix of an incomplete file, which a crash can leave behind


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a file atomically by `content` as JSON."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def write_with_digest(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a file like `write_json`, with the content's digest as the last entry."""
    write_json(path, with_digest(content))


def read_with_digest(path: Path) -> dict[str, Any]:
    """Reads the content that `write_with_digest` wrote, without its digest.

    Raises:
        ValueError: the file is not a JSON object, or its digest is missing or does not match.
        OSError: the file cannot be read.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if not is_sound(content):
        raise ValueError("its content and its digest do not belong together")
    del content["digest"]
    return content


def replace_text(path: Path, text: str) -> None:
    """Replaces a file atomically: after a crash, and for readers, it is the old or the new one.

    It is UTF-8 in every locale. Surrogates, which it cannot hold, are escaped.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


class MetricsLog:
    """The log `metrics.jsonl`: one JSON object per line, in the order of `examples`."""

    def __init__(self, path: Path, records: Sequence[Mapping[str, Any]] = ()):
        """Rewrites the log with the records so far; a resumed run repeats and omits none."""
        self.path = path
        self.records = [dict(record) for record in records]
        replace_text(path, "".join(json.dumps(record) + "\n" for record in self.records))

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line, which is on disk when this returns."""
        self.records.append(dict(record))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads the complete lines of a `metrics.jsonl`, up to a line that a crash truncated.

    Returns [] if there is no file.
    """
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def curve(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Returns the columns of a log: the training examples, and the bounds of the splits in it."""
    held_out = [name for name in ("valid_bound", "test_bound") if records and name in records[0]]
    columns = ("examples", "train_bound", *held_out)
    return {column: [record[column] for record in records] for column in columns}


class IgnoringWriteErrors:
    """A stream that ignores failed writes, for example after its reader has closed the pipe.

    If a write raised an error, tqdm would not release its lock, and a sweep's other threads would
    wait for it forever.
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
    """A progress bar for files: each update is a line of its own, without control characters."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if hasattr(self, "start_t") and msg != "":  # neither at the start nor to clear the bar
            self.fp.write(f"{self}\n")

    def close(self) -> None:
        if not self.disable:
            with self.get_lock():
                self.display()
        super().close()


def progress_bar(total: int, done: int, unit: str = "examples", *, is_shown: bool = True) -> tqdm:
    """Returns a progress display on stderr: the amount done, the rate and the remaining time.

    On a terminal it is a bar. In a file it is one line every half minute and one at the end.
    """
    common: dict[str, Any] = {
        "file": IgnoringWriteErrors(sys.stderr),
        "disable": not is_shown,
        "total": total,
        "initial": done,
        "unit": f" {unit}",
        "unit_scale": True,
    }
    numbers = "{rate_fmt}, {remaining} left{postfix}"
    if sys.stderr.isatty() or "ipykernel" in sys.modules:  # a notebook redraws a line, too
        bar_format = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} " + numbers
        return tqdm(**common, dynamic_ncols=True, bar_format=bar_format)
    bar_format = "{percentage:3.0f}%  {n_fmt}/{total_fmt}{unit}, " + numbers
    # With miniters=1 only mininterval decides, and tqdm's monitor thread does not interfere.
    return _Lines(**common, leave=False, mininterval=30.0, miniters=1, bar_format=bar_format)


Report = Callable[[int, float], object]
# (training examples since the last call, the mean objective on them in nats per datapoint)


def reporter(bar: tqdm) -> Report:
    """Returns a function that advances a progress bar; it does not show non-finite objectives."""

    def report(examples: int, objective: float) -> None:
        if math.isfinite(objective):
            bar.set_postfix_str(f"objective {objective:.1f}", refresh=False)
        bar.update(examples)

    return report
