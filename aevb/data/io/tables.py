"""Reads one array of numbers from a file, in the format that its suffix names."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class UnsuitableError(ValueError):
    """The error of a file that can be read. Its message continues a sentence about the file."""


class Stored(NamedTuple):
    """An array as it is in a file."""

    values: np.ndarray  # [N, ...]
    columns: tuple[str, ...] | None = None  # the names of a table's columns


def read(path: Path, key: str = "", *, blank_is_nan: bool = False) -> Stored:
    """Reads the array of a file; that of an .npy file stays on disk.

    Args:
        key: the name of the array in a file that holds several.
        blank_is_nan: whether a table may lack values, which become NaN.

    Raises:
        UnsuitableError: the file does not hold such an array.
        Exception: the file cannot be read; many types of error, if it is damaged.
    """
    suffix = path.suffix.lower()
    if suffix not in (known := (*ARRAYS, *TABLES)):
        raise UnsuitableError(f"has the suffix {suffix!r}; it must be one of {', '.join(known)}")
    if key and suffix not in (".npz", ".mat"):
        raise UnsuitableError(f"holds one array, and data.key is {key!r}; it is for .npz and .mat")
    if suffix in TABLES:
        return _numbers(TABLES[suffix](path), blank_is_nan=blank_is_nan)
    return ARRAYS[suffix](path, key)


def column_names(path: Path) -> tuple[str, ...] | None:
    """Returns the names of a table's columns without reading its rows; None if it has none."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from pyarrow import parquet

        with path.open("rb") as file:
            return tuple(parquet.read_schema(file).names)
    if suffix not in (".csv", ".tsv"):
        return None
    names = _first_line(path)
    return None if all(map(_is_number, names)) else tuple(names)


def _npy(path: Path, key: str) -> Stored:
    stored = _load(path)
    if left := path.stat().st_size - stored.offset - stored.nbytes:
        raise UnsuitableError(f"has {left} bytes after its array")
    return Stored(stored)


def _npz(path: Path, key: str) -> Stored:
    with _load(path) as arrays:
        return Stored(_chosen(arrays, key))


def _load(path: Path) -> Any:
    """Opens an .npy or .npz file, as a memmap or an NpzFile. Mapping a truncated file fails.

    Python objects are refused, because loading them runs code.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "pickle" in str(error) or "Python objects" in str(error):  # numpy advises to allow them
            words = "is no file that np.save or np.savez wrote, or holds Python objects"
            raise UnsuitableError(words) from None
        raise


def _mat(path: Path, key: str) -> Stored:
    import scipy.io

    try:
        found = scipy.io.loadmat(str(path))
    except NotImplementedError:
        raise UnsuitableError(
            "is a MATLAB file of version 7.3; save it with the option -v7"
        ) from None
    return Stored(_chosen({k: v for k, v in found.items() if not k.startswith("__")}, key))


def _chosen(arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    names = list(arrays)
    if not key and len(names) == 1:
        key = names[0]
    if key not in names:
        seen = f"data.key is {key!r}" if key else "data.key is not set"
        raise UnsuitableError(
            f"holds the arrays {', '.join(names) or '(none)'}, and {seen}; name one"
        )
    return arrays[key]


def _text(path: Path) -> Any:
    from pyarrow import csv as arrow

    delimiter, first = _delimiter(path), _first_line(path)
    return arrow.read_csv(
        _content(path),
        read_options=arrow.ReadOptions(
            autogenerate_column_names=all(map(_is_number, first)), use_threads=False
        ),
        parse_options=arrow.ParseOptions(delimiter=delimiter),
    )


def _content(path: Path) -> Any:
    """Returns the content of a file for arrow, which cannot open every name that Python can.

    It is a copy in arrow's own memory. Python's bytes could be released by one of arrow's threads
    while the interpreter ends, which aborts the process.
    """
    import pyarrow

    stream = pyarrow.BufferOutputStream()
    stream.write(path.read_bytes())
    return pyarrow.BufferReader(stream.getvalue())


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _first_line(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file, delimiter=_delimiter(path)), [])


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(_content(path), use_threads=False)


def _numbers(table: Any, *, blank_is_nan: bool) -> Stored:
    """Returns the columns of a pyarrow table as one array [N, D].

    Raises:
        UnsuitableError: a column does not hold numbers, or lacks a value.
    """
    from pyarrow import types

    if not table.num_columns or not table.num_rows:
        raise UnsuitableError("is empty")
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if column.null_count and not blank_is_nan:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise UnsuitableError(
                f"has no value in datapoint {row} (from 0), column {name!r}; fill it in, or "
                "leave the row or the column out, or set data.missing=True to model what is there"
            )
        if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
            raise UnsuitableError(
                f"has a column {name!r} of type {kind}, such as {column[0].as_py()!r}; leave it "
                "out, or write numbers"
            )
    columns = [
        (c.cast("int8") if types.is_boolean(c.type) and c.null_count else c).to_numpy()
        for c in table.columns
    ]
    return Stored(np.column_stack(columns), tuple(table.column_names))


TABLES: dict[str, Callable[[Path], Any]] = {".csv": _text, ".tsv": _text, ".parquet": _parquet}
ARRAYS: dict[str, Callable[[Path, str], Stored]] = {".npy": _npy, ".npz": _npz, ".mat": _mat}
