"""The public files of a dataset: their possible locations and their expected contents."""

import hashlib
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aevb.data import Options
from aevb.data.io import array_records
from aevb.data.io.array_records import Records
from aevb.errors import UserError
from aevb.runtime.paths import absolute

SHIPPED = Path(__file__).parent.parent / "files"
VERSION = "1.0.0"  # of the prepared datasets
BLOCK = 2**24  # bytes that are digested at a time


class Download(NamedTuple):
    """A downloadable file, with its size and digest in the form that TFDS registers."""

    url: str
    size: int  # bytes
    sha256: str


class Part(NamedTuple):
    """One array of a dataset, and the file that contains it."""

    names: tuple[str, ...]  # the possible names of the file on this machine
    shape: tuple[int, ...]  # [N, ...], of uint8
    sha256: str  # of the array's bytes, row-major; independent of the format of the file
    download: Download | None = None  # None: the file ships with the package


class Source(NamedTuple):
    """The files of a dataset, and the function that reads one."""

    name: str
    format: str  # in words
    read: Callable[[Path], np.ndarray]  # reads a file; may raise any of UNREADABLE
    splits: dict[str, dict[str, Part]]  # {"train": {"image": ..., "label": ...}, ...}
    citation: str


UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError),
    *(zlib.error, zipfile.BadZipFile),
)


def read(source: Source, part: Part, path: Path) -> np.ndarray:
    """Reads the array of `part`, uint8 of its shape, from the file at `path`.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        array = source.read(path)
    except UNREADABLE as error:
        raise _refused(source, part, path, f"it cannot be read ({one_line(error)})") from None
    if array.shape != part.shape:
        raise _refused(source, part, path, f"its shape is {array.shape}")
    if (seen := digest(array)) != part.sha256:
        raise _refused(source, part, path, f"its pixels or labels have the SHA-256 {seen}")
    return array


def _refused(source: Source, part: Part, path: Path, why: str) -> UserError:
    origin = f" from {part.download.url}" if part.download else ": reinstall the package"
    return UserError(
        f"{path} is not the file of {source.name} that was expected: {why}; expected "
        f"{source.format} of shape {part.shape} and content SHA-256 {part.sha256}; "
        f"get it again{origin}"
    )


def find(source: Source, part: Part, options: Options) -> Path | None:
    """Returns the file of `part` on this machine, or None if there is none.

    Raises:
        UserError: `options.manual_dir` is given and is not a folder.
    """
    manual = manual_dir(options)
    if options.manual_dir and not os.path.isdir(manual):
        raise UserError(
            f"data.manual_dir is {options.manual_dir!r}, which is not a folder ({manual}); name "
            f"one that holds the files of {source.name}, or leave it empty"
        )
    for folder in (SHIPPED, manual / source.name, manual):
        for name in part.names:
            if os.path.exists(folder / name):  # also False without permission
                return folder / name
    return None


def kept_records(
    name: str, key: str, blocks: Iterable[np.ndarray], options: Options, otherwise: str = ""
) -> Records:
    """Returns datapoints as records below `options.dir`. Writes them first if they do not exist.

    Args:
        name: the dataset's name, for error messages.
        key: a unique name of these datapoints, which becomes the folder's name.
        blocks: uint8 or float32 [n, D] each; consumed only if the records do not exist.
        otherwise: an alternative for the user, appended to the message of a failed write.

    Raises:
        UserError: the records cannot be written, or are damaged.
    """
    folder = data_dir(options) / "aevb_records" / re.sub(r"[^A-Za-z0-9._-]+", "_", key)
    if folder.is_dir():
        return Records(folder)
    try:
        return array_records.write(folder, blocks)
    except OSError as error:
        raise UserError(
            f"the records of {name} cannot be written to {folder} ({one_line(error)}); let "
            f"data.dir or $TFDS_DATA_DIR name a folder that can be written and has space{otherwise}"
        ) from None


def data_dir(options: Options) -> Path:
    """Returns the folder in which datasets are prepared, as an absolute path without `~`.

    Raises:
        UserError: the path begins with `~`, and there is no home folder.
    """
    return absolute(
        options.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "data.dir"
    )


def manual_dir(options: Options) -> Path:
    """Returns the folder for files that the user has downloaded.

    Raises:
        UserError: the path begins with `~`, and there is no home folder.
    """
    if options.manual_dir:
        return absolute(options.manual_dir, "data.manual_dir")
    return data_dir(options) / "downloads" / "manual"


def digest(array: np.ndarray | Records) -> str:
    """Returns the SHA-256 of an array's bytes, row-major; of `Records` without loading them all."""
    row = math.prod(array.shape[1:]) * array.dtype.itemsize
    total, rows = hashlib.sha256(), max(1, BLOCK // max(1, row))
    for start in range(0, len(array), rows):
        total.update(np.ascontiguousarray(array[start : start + rows]).data)
    return total.hexdigest()


def one_line(error: object) -> str:
    """Returns the message of an exception, or else its type's name, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def how_to_bring(source: Source, missing: list[Part], options: Options) -> str:
    """Returns instructions for missing files: their URLs and the folder to put them into."""
    manual = manual_dir(options)
    folder = manual if options.manual_dir else manual / source.name
    urls = ", ".join(part.download.url for part in missing if part.download)
    return f"put these files into {folder} (or where data.manual_dir points) and try again: {urls}"
