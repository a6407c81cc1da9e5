"""Describes a dataset, before a model is trained on it.

aevb data NAME [--config.data.FIELD=VALUE ...] [--picture=FILE.png] [--config=EXPERIMENT]

NAME is what --config.data.name is in a run: a dataset of the package or of the experiment's file,
tfds:NAME, file:FILE or images:FOLDER. The fields of data are those of a run, so the numbers are of
the data that a run with them has. The text states the number and the shape of the datapoints, the
kind of their values and how it was found, their range, constant and equal columns, equal
datapoints, and the split. Data that a run refuses are refused with the same message.

--picture writes the first hundred training images, or the first ten of each class, or a histogram
of each of the first columns of other data. An existing file is never replaced.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from aevb import experiments
from aevb.cli.common import reporting_mistakes
from aevb.cli.run import HELP, entries_of, parse
from aevb.config import default_config, has_path, help_text, validate
from aevb.errors import UserError

if TYPE_CHECKING:
    from aevb.data import Dataset
    from aevb.data.preview import Findings

UNBOUNDED = "; a Gaussian with learned variances is unbounded on them"
MOST_NAMED = 8  # columns or classes that a line names
SPLITS = {
    "blocked": "blocks in the order of the data",
    "random": "a permutation with a fixed seed",
}


def define_flags(found: flags.FlagValues) -> None:
    """Adds the flags of `aevb data` except --config."""
    flags.DEFINE_string("picture", "", "The file of a picture, FILE.png; none by default.", found)


def run(given: flags.FlagValues) -> str:
    """Returns the description of the data, and writes the picture if it was asked for.

    Raises:
        UserError: an error that the user can correct.
    """
    values = validate(given.config, entries_of(given))
    picture = Path(given.picture) if given.picture else None
    if picture:
        _require_new(picture)

    from aevb.data import preview  # after the checks, because it imports jax
    from aevb.experiment import load_stored

    dataset = load_stored({**values, "data.standardize": False})  # in the units of the file
    columns = _columns(dataset, values)
    lines = describe(dataset, preview.look(dataset), columns, values)
    if picture:
        _draw(dataset, columns, picture)
        lines.append(str(picture))
    elif dataset.image_shape:
        lines.append("--picture=FILE.png writes a picture of the first images")
    return "\n".join(lines)


def _require_new(picture: Path) -> None:
    if picture.suffix.lower() != ".png":
        raise UserError(f"--picture is {str(picture)!r}; it must be the name of a FILE.png")
    if picture.exists():
        raise UserError(f"--picture={picture} exists; name a new file")
    if not picture.parent.is_dir():
        raise UserError(f"--picture={picture} is in a folder that does not exist; make it first")


def _draw(dataset: "Dataset", columns: list[str], file: Path) -> None:
    from aevb.reports import figures  # imports matplotlib, which the text does not need
    from aevb.reports.data_pictures import picture
    from aevb.runtime.run_lock import unusable

    try:
        figures.save(picture(dataset, columns), str(file))
    except OSError as error:
        raise unusable(file, error) from error


def _columns(dataset: "Dataset", values: Any) -> list[str]:
    """Returns the name of each column: of a table its own, of an image the place of the pixel."""
    from aevb.data import user_files

    number, shape = dataset.test.shape[1], dataset.image_shape
    if shape:
        width, channels = shape[1], shape[2] if shape[2:] else 1
        places = (
            (c // channels // width, c // channels % width, c % channels) for c in range(number)
        )
        return [f"({', '.join(map(str, place[: len(shape)]))})" for place in places]
    names = user_files.column_names(values["data.name"])
    if names is None or len(names) != number:
        return [f"number {column} (from 0)" for column in range(number)]
    return [*names]


def describe(
    dataset: "Dataset", findings: "Findings", columns: list[str], values: Any
) -> list[str]:
    """Returns the lines of the description.

    Args:
        columns: the names of the columns.
        values: the validated config.
    """
    number = sum(map(len, dataset.splits.values()))
    some = "" if findings.num_seen == number else f" (of {findings.num_seen:,} evenly spaced ones)"
    shape = " x ".join(map(str, dataset.image_shape or ()))
    word = "pixels (row, column, from 0)" if shape else "columns"
    constant = [columns[column] for column in findings.constant]
    equal = [f"{columns[one]} = {columns[first]}" for one, first in findings.equal]
    rows = {
        "data": dataset.name,
        "datapoints": f"{number:,}, of "
        + (f"{shape} pixels" if shape else f"{len(columns):,} columns"),
        "kind": _kind(dataset, findings, values),
        "likelihoods": ", ".join(_likelihoods(dataset)),
        "values": f"from {findings.low:g} to {findings.high:g}, mean {findings.mean:.4g}, as stored"
        + some,
        "missing": _missing(dataset, findings),
        "constant": _of_columns(constant, len(columns), word, UNBOUNDED),
        "equal": _of_columns(equal, len(columns), word),
        "repeated": f"{findings.num_repeated:,} datapoints are equal to an earlier one"
        f"{some}; {findings.num_leaked:,} of validation and test to one of training",
        "split": _split(dataset, values),
    }
    if dataset.labels is not None:
        rows["classes"] = _classes(dataset)
    return [f"{name + ':':12} {words}" for name, words in rows.items()]


def _missing(dataset: "Dataset", findings: "Findings") -> str:
    if not dataset.has_missing:
        return "none: a gap, a NaN or an infinity would have been refused"
    share = findings.num_missing / (findings.num_seen * dataset.test.shape[1])
    return f"{findings.num_missing:,} values ({share:.1%}), which count as not seen"


def _kind(dataset: "Dataset", findings: "Findings", values: Any) -> str:
    from aevb.data import kinds

    name, binarization = values["data.name"], values["data.binarization"]
    if binarization != "none":
        return f"{dataset.kind} (grey levels, made so by data.binarization={binarization})"
    if values["data.kind"]:
        return f"{dataset.kind} (as config.data.kind states)"
    if not has_path(name):
        return f"{dataset.kind} (of this dataset)"
    if name.startswith("images:"):
        return f"{dataset.kind} (the levels 0..255 of images)"
    is_table = Path(name).suffix.lower() in (".csv", ".tsv", ".parquet")
    why = kinds.reason(dataset.kind, is_whole=findings.is_whole, is_table=is_table)
    return f"{dataset.kind} (guessed: {why}; --config.data.kind=KIND states it)"


def _likelihoods(dataset: "Dataset") -> list[str]:
    """Returns the names of the package's likelihoods that score data of this kind."""
    from aevb.likelihoods import LIKELIHOODS

    return [name for name, make in LIKELIHOODS.items() if dataset.kind in make(1).kinds]


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _of_columns(names: list[str], number: int, word: str, warning: str = "") -> str:
    """Returns how many of the columns these are, with the names of some."""
    if not names:
        return "none"
    return f"{len(names):,} of {number:,} {word}: {_some(names)}{warning}"


def _split(dataset: "Dataset", values: Any) -> str:
    how = values["data.split"]
    words = f"{how}, {SPLITS[how]}" if how in SPLITS else how
    if dataset.labels is not None and has_path(values["data.name"]):
        words += ", of each class"
    valid = len(dataset.splits.get("valid", ()))
    return (
        f"{words}: {len(dataset.train):,} for training, {valid:,} for validation and "
        f"{len(dataset.test):,} for the test"
    )


def _classes(dataset: "Dataset") -> str:
    import numpy as np

    labels = dataset.labels
    assert labels is not None
    parts = [part for part in (labels.train, labels.valid, labels.test) if part is not None]
    numbers = [np.bincount(part[part >= 0], minlength=len(labels.names)) for part in parts]
    names = [
        f"{name} {' + '.join(str(number[k]) for number in numbers)}"
        for k, name in enumerate(labels.names)
    ]
    return f"{len(names):,}, for training + validation + test: {_some(names)}"


def main(arguments: Sequence[str]) -> int:
    """Runs `aevb data`; returns the exit status: 0 if done, 2 for a user's mistake."""

    def body() -> int:
        if HELP & set(arguments):
            fields = help_text(default_config(), section_name="data.")
            print(f"{__doc__}\nFields of data, with their defaults:\n\n{fields}")
            return 0
        named = [*arguments]
        if named and not named[0].startswith("-"):
            named[0] = f"--config.data.name={named[0]}"
        if not any(re.match(r"--?config(\.data\.name)?(=|$)", flag) for flag in named):
            raise UserError(
                "NAME is missing; it is a dataset such as frey_faces, file:FILE or images:FOLDER"
            )
        if not any(re.match(r"--?config(\.data\.split)?(=|$)", flag) for flag in named):
            named.append(
                "--config.data.split="
            )  # of the dataset, and not of the default experiment
        print(run(parse(named, define=define_flags, default=experiments.DEFAULT)))
        return 0

    return reporting_mistakes(body)
