"""The public files of a data set: where they may lie on this machine, and what they must hold."""

import hashlib
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

SHIPPED = Path(__file__).parent.parent / "files"
VERSION = "1.0.0"  # of the prepared data sets


class Download(NamedTuple):
    """A file that the network serves; size and digest as TFDS registers them."""

    url: str
    size: int  # bytes
    sha256: str


class Part(NamedTuple):
    """One array of a data set, and the file that brings it."""

    names: tuple[str, ...]  # what the file may be called on this machine
    shape: tuple[int, ...]  # [N, ...], of uint8
    sha256: str  # of these bytes, row-major: whichever file brings them, and however it packs them
    download: Download | None = None  # None: the file ships with the package


class Source(NamedTuple):
    """The files of a data set, and how one is read."""

    name: str
    format: str  # in words
    read: Callable[[Path], np.ndarray]  # a file, which may raise anything in UNREADABLE
    splits: dict[str, dict[str, Part]]  # {"train": {"image": ..., "label": ...}, ...}
    citation: str


UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError),
    *(zlib.error, zipfile.BadZipFile),
)


def read(source: Source, part: Part, path: Path) -> np.ndarray:
    """The array of `part`, uint8 of its shape, from the file at `path`.

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
    """The file of `part` on this machine, or None.

    Raises:
        UserError: `options.manual_dir` is given and is no folder.
    """
    manual = manual_dir(options)
    if options.manual_dir and not os.path.isdir(manual):
        raise UserError(
            f"data.manual_dir is {options.manual_dir!r}, which is not a folder ({manual}); name "
            f"one that holds the files of {source.name}, or leave it empty"
        )
    for folder in (SHIPPED, manual / source.name, manual):
        for name in part.names:
            if os.path.exists(folder / name):  # False, too, where one may not look
                return folder / name
    return None


def kept_records(
    name: str, key: str, blocks: Iterable[np.ndarray], options: Options, otherwise: str = ""
) -> Records:
    """Datapoints of a data set below `options.dir`, which are written there once.

    Args:
        name: of the data set, for the user.
        key: that no other datapoints have; the folder is called after it.
        blocks: uint8 or float32 [n, D] each, which are asked for only when they are not there.
        otherwise: what else a user may do where they cannot be written.

    Raises:
        UserError: they cannot be written, or are damaged.
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
    """The folder in which data sets are prepared, `~` and relative paths resolved.

    Raises:
        UserError: it is under a home folder, and there is none.
    """
    return absolute(
        options.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "data.dir"
    )


def manual_dir(options: Options) -> Path:
    """The folder for files that were brought by hand."""
    if options.manual_dir:
        return absolute(options.manual_dir, "data.manual_dir")
    return data_dir(options) / "downloads" / "manual"


def absolute(path: str, field: str) -> Path:
    """A path that a user gave in `field`, with `~` and relative ones resolved.

    Raises:
        UserError: it is under a home folder, and there is none.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # no home folder
        raise UserError(f"{path!r} cannot be resolved ({error}); set {field}") from None


def digest(array: np.ndarray) -> str:
    """The SHA-256 of an array's bytes, row-major."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def one_line(error: object) -> str:
    """What an exception says, or else its name, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def how_to_bring(source: Source, missing: list[Part], options: Options) -> str:
    """Returns what a user has to do about missing files: which, from where, to where."""
    manual = manual_dir(options)
    folder = manual if options.manual_dir else manual / source.name
    urls = ", ".join(part.download.url for part in missing if part.download)
    return f"put these files into {folder} (or where data.manual_dir points) and try again: {urls}"
