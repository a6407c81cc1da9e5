"""Compares runs in a page and a table; runs that differ only in the seed share a row."""

import base64
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from aevb.config import DEFAULTS, WITHOUT_EFFECT, Values
from aevb.errors import UserError
from aevb.evaluation.bits import BITS, UNITS
from aevb.evaluation.intervals import mean_interval
from aevb.reports.pages import page
from aevb.runtime.paths import shown
from aevb.storage.metrics_log import curve, read_records, read_with_digest, replace_text

COMPARISON = "comparison.html"
SEED = "seed"
TRIALS = "trials"  # the subfolder of a sweep with the short runs that chose a value
PICTURES = ("manifold", "reconstructions", "samples")  # shown for the first run of a row
MOST_PICTURES = 20_000_000  # characters that the pictures may take in a page


class Column(NamedTuple):
    """A measured quantity of a run, shown as a column."""

    name: str  # in the CSV file
    label: str  # with its unit
    digits: int  # decimal places in tables for people


BOUNDS = (
    Column("train_bound", "train bound (nats)", 2),
    Column("valid_bound", "valid bound (nats)", 2),
    Column("test_bound", "test bound (nats)", 2),
    Column("best_test_bound", "test bound, best checkpoint (nats)", 2),
    *(
        Column(f"{split}_{name}", f"{split} {unit}", 3)
        for name, unit in UNITS.items()
        for split in ("train", "valid", "test")
    ),
)
MEASURES = (
    Column("test_rate", "test rate (nats)", 2),
    Column("test_distortion", "test distortion (nats)", 2),
    Column(f"test_rate_{BITS}", f"test rate ({UNITS[BITS]})", 3),
    Column(f"test_distortion_{BITS}", f"test distortion ({UNITS[BITS]})", 3),
    Column("test_active_units", "active units", 0),
)
COSTS = (
    Column("examples_per_second", "examples/s", 0),
    Column("seconds", "seconds of training", 1),
)


class Run(NamedTuple):
    """The contents of a run's folder."""

    folder: Path
    config: Values
    summary: Mapping[str, Any]  # {} if the run is not finished
    curve: Mapping[str, Sequence[float]]  # its log by column
    log_p: Mapping[str, Any]  # the result of `aevb evaluate` for its last state, or {}

    @property
    def quantities(self) -> dict[Column, float]:
        """All measured quantities of the run."""
        found = {column: self.summary.get(column.name) for column in (*BOUNDS, *MEASURES, *COSTS)}
        if self.log_p:
            split, number = self.log_p["data"]["split"], self.log_p["data"]["num_points"]
            for estimator, measured in self.log_p["estimators"].items():
                name = f"log_p_{estimator}_{split}_{number}"
                label = f"log p(x) by {estimator}, {number:,} of {split} (nats)"
                found[Column(name, label, 2)] = measured["mean"]
        return {column: value for column, value in found.items() if value is not None}


class Row(NamedTuple):
    """The runs of one setting."""

    setting: Mapping[str, Any]  # the fields in which the rows differ
    runs: tuple[Run, ...]  # one for each seed

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.summary]

    def over_seeds(self, column: Column) -> dict[str, Any] | None:
        """Returns {"mean", "half_width", "number", "values"} over the seeds; None without values.

        The half-width is that of the 95 % interval, and None for a single value.
        """
        found = [run.quantities.get(column) for run in self.finished]
        values = [value for value in found if value is not None]
        return {**mean_interval(values)._asdict(), "values": values} if values else None


class Comparison(NamedTuple):
    """The compared runs, and the folders that were left out."""

    rows: tuple[Row, ...]
    fields: tuple[str, ...]  # the config fields in which the rows differ
    columns: tuple[Column, ...]
    left_out: Mapping[Path, str]  # folder -> the reason


def compare(folders: Sequence[Path]) -> Comparison:
    """Reads the runs in some folders and returns their comparison.

    Each folder is a run's, a sweep's, or one that contains such folders.

    Raises:
        UserError: there is no folder of that name, or no run in it that can be read.
    """
    runs, left_out = _read_all(folders)
    fields = tuple(
        name
        for name in _compared_fields(runs)
        if len({json.dumps(run.config.get(name)) for run in runs}) > 1
    )
    groups: dict[str, dict[int, Run]] = {}  # setting -> seed -> run
    for run in sorted(runs, key=lambda run: not run.summary):  # finished ones first
        by_seed = groups.setdefault(json.dumps([run.config.get(name) for name in fields]), {})
        seed = run.config[SEED]
        if seed in by_seed:
            left_out[run.folder] = f"it has the config and the seed of {by_seed[seed].folder}"
        else:
            by_seed[seed] = run
    rows = []
    for by_seed in groups.values():
        members = tuple(by_seed[seed] for seed in sorted(by_seed))
        rows.append(Row({name: members[0].config.get(name) for name in fields}, members))
    rows.sort(key=lambda row: [_sort_key(value) for value in row.setting.values()])
    known = {column for run in runs for column in run.quantities}
    log_p = sorted(known - {*BOUNDS, *COSTS})
    columns = tuple(column for column in (*BOUNDS, *log_p, *COSTS) if column in known)
    return Comparison(tuple(rows), fields, columns, left_out)


def _read_all(folders: Sequence[Path]) -> tuple[list[Run], dict[Path, str]]:
    """Returns the runs in some folders, each once, and the folders that cannot be read."""
    runs: dict[Path, Run] = {}
    left_out: dict[Path, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; name folders of runs or of sweeps")
        run_folders = list(_run_folders(folder))
        if not run_folders:
            raise UserError(f"{folder} holds no run: there is no config.json in it, or below it")
        for path in run_folders:
            try:
                runs[path.resolve()] = _read(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                left_out[path] = f"it cannot be read ({error!r})"
    if not runs:
        path, reason = next(iter(left_out.items()))
        raise UserError(f"of {path} nothing can be shown: {reason}")
    return list(runs.values()), left_out


def _compared_fields(runs: Sequence[Run]) -> list[str]:
    """Returns the names of the fields and options of runs, without those that may always differ."""
    names = dict.fromkeys([*DEFAULTS, *(name for run in runs for name in run.config)])
    return [name for name in names if name not in (SEED, *WITHOUT_EFFECT)]


def _run_folders(folder: Path) -> Iterator[Path]:
    """Yields the folders of runs, sorted: the folder itself, or those below it."""
    if (folder / "config.json").is_file():
        yield folder
        return
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and not inner.is_symlink() and inner.name != TRIALS:
            yield from _run_folders(inner)


def _read(folder: Path) -> Run:
    """Returns the run in a folder.

    It raises OSError, ValueError, KeyError or TypeError if a file is damaged or is not a run's.
    """
    config = read_with_digest(folder / "config.json")
    summary, estimates = folder / "summary.json", folder / "marginal.json"
    summary = read_with_digest(summary) if summary.is_file() else {}
    log_p = json.loads(estimates.read_text(encoding="utf-8")) if estimates.is_file() else {}
    if log_p and log_p["model"]["step"] * config["train.batch_size"] != summary.get("num_examples"):
        log_p = {}
    return Run(folder, config, summary, curve(read_records(folder / "metrics.jsonl")), log_p)


def _sort_key(value: Any) -> tuple[bool, float, str]:
    """Returns a key that sorts numbers first, by size, then everything else as text."""
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, _plain(value)


def _plain(value: Any) -> str:
    """Returns a field's value as one word: [200, 100] -> 200x100."""
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else shown(str(value))


def _label(field: str) -> str:
    """Returns a short label: model.num_latents -> num_latents, algorithm.name -> algorithm."""
    section, _, name = field.rpartition(".")
    return section if name == "name" else name


def as_csv(comparison: Comparison) -> str:
    """Returns the table as CSV, one line per row.

    The columns are the setting, the numbers of finished and of unfinished runs, and the mean and
    the half-width of the 95 % interval of each quantity over the seeds.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    statistics = ("mean", "half_width")
    names = [f"{column.name}_{each}" for column in comparison.columns for each in statistics]
    writer.writerow([*comparison.fields, "finished", "unfinished", *names])
    for row in comparison.rows:
        counts = [len(row.finished), len(row.runs) - len(row.finished)]
        found = [row.over_seeds(column) or {} for column in comparison.columns]
        numbers = [quantity.get(each) for quantity in found for each in statistics]
        writer.writerow([*map(_plain, row.setting.values()), *counts, *numbers])
    return out.getvalue()


def comparison_page(comparison: Comparison, folder: Path) -> str:
    """Returns the page as HTML: a table to sort and filter, curves, pictures and settings.

    Args:
        folder: the folder of the page, from which it links to the runs' own pages.
    """
    rows, columns = comparison.rows, comparison.columns
    runs = [run for row in rows for run in row.runs]
    data = sorted({run.config["data.name"] for run in runs})
    title = f"{', '.join(data)}: {len(runs)} {'run' if len(runs) == 1 else 'runs'} compared"
    pictures = _pictures(rows)
    content = {
        "title": title,
        "fields": [
            {"name": name, "label": _label(name), "values": _values(rows, name)}
            for name in comparison.fields
        ],
        "columns": [column._asdict() for column in columns],
        "rows": [
            {
                "setting": {name: _plain(value) for name, value in row.setting.items()},
                "runs": [_link(run, folder) for run in row.runs],
                "quantities": [row.over_seeds(column) for column in columns],
                "curves": [run.curve for run in row.runs],
                "pictures": shown,
            }
            for row, shown in zip(rows, pictures, strict=True)
        ],
        "pictures": [  # the most frequent first
            name
            for name, _ in Counter(sorted(n for shown in pictures for n in shown)).most_common()
        ],
        "settings": [
            {
                "name": name,
                "values": [_plain(row.runs[0].config.get(name)) for row in rows],
                "differs": name in comparison.fields,
            }
            for name in _compared_fields([row.runs[0] for row in rows])
        ],
        "left_out": [[shown(str(path)), reason] for path, reason in comparison.left_out.items()],
    }
    return page("comparison", title, content)


def _values(rows: Sequence[Row], field: str) -> list[str]:
    """Returns the distinct values of a field over the rows, sorted."""
    ordered = sorted((row.setting[field] for row in rows), key=_sort_key)
    return list(dict.fromkeys(map(_plain, ordered)))


def _pictures(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Returns name -> data URL of the pictures of each row's first finished run.

    Rows whose pictures do not fit into the page have none.
    """
    pictures, remaining = [], MOST_PICTURES
    for row in rows:
        shown = {}
        for name in PICTURES if row.finished else ():
            file = row.finished[0].folder / "figures" / f"{name}.png"
            if file.is_file():
                encoded = base64.b64encode(file.read_bytes()).decode()
                shown[name] = f"data:image/png;base64,{encoded}"
        if sum(map(len, shown.values())) > remaining:
            shown = {}
        remaining -= sum(map(len, shown.values()))
        pictures.append(shown)
    return pictures


def _link(run: Run, folder: Path) -> dict[str, Any]:
    """Returns a run's seed, folder, the URL of its page or None, and whether it is finished."""
    explorer = run.folder / "explorer.html"
    relative = os.path.relpath(explorer, folder)
    return {
        "seed": run.config[SEED],
        "folder": shown(str(run.folder)),
        "page": quote(os.fsencode(relative)) if explorer.is_file() else None,
        "is_finished": bool(run.summary),
    }


def text_table(comparison: Comparison) -> str:
    """Returns the rows and their bounds, with 95 % intervals, as a table for the terminal."""
    shown = [column for column in comparison.columns if column in BOUNDS[:3]]
    labels = [column.label for column in shown]
    lines = [[*map(_label, comparison.fields), "runs", *labels]]
    for row in comparison.rows:
        found = [_formatted(row.over_seeds(column), column.digits) for column in shown]
        count = f"{len(row.finished)}/{len(row.runs)}"
        lines.append([*map(_plain, row.setting.values()), count, *found])
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _formatted(quantity: Mapping[str, Any] | None, digits: int) -> str:
    if quantity is None:
        return ""
    half_width = quantity["half_width"]
    error = "" if half_width is None else f" +- {half_width:.{digits}f}"
    return f"{quantity['mean']:.{digits}f}{error}"


def write(comparison: Comparison, file: Path) -> tuple[Path, Path]:
    """Writes the page and, in the same folder, the CSV table; returns both files.

    Raises:
        OSError: a file cannot be written.
    """
    table = file.with_suffix(".csv")
    replace_text(table, as_csv(comparison))
    replace_text(file, comparison_page(comparison, file.parent))
    return file, table
