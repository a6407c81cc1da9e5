"""Paths that a user gave."""

import os
import sys
from pathlib import Path

from aevb.errors import UserError


def absolute(path: str, field: str) -> Path:
    """Returns the absolute path, without `~`, of a path that a user gave in `field`.

    Raises:
        UserError: the path begins with `~`, and there is no home folder.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # no home folder
        raise UserError(f"{path!r} cannot be resolved ({error}); set {field}") from None


def require_empty(folder: Path, purpose: str) -> None:
    """Raises a UserError if a folder holds files or is a file; it does not have to exist.

    Args:
        purpose: what a new folder is for, as in "save the run in".

    Raises:
        OSError: the folder cannot be read.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "holds files" if folder.is_dir() else "is a file"
        raise UserError(f"{folder} {what}; name a new folder to {purpose}")


def shown(name: str) -> str:
    """Returns the name of a file as text that can be written as UTF-8.

    In the locale C, Python has surrogates for the bytes of a name that are not ASCII. Bytes that
    are no UTF-8 become question marks.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode(errors="replace")
    return name


def require_utf8(folder: Path) -> None:
    """Raises a UserError if the locale cannot express a folder's path, as checkpoints need it.

    This is so in the locale C for a path that is not ASCII.
    """
    path = str(folder.absolute())
    try:
        os.fsencode(path)
        path.encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise UserError(
            f"the folder {folder} cannot hold checkpoints: its path is not of the locale, whose "
            f"encoding is {encoding}; set LC_ALL=C.UTF-8, or name another folder"
        ) from None
