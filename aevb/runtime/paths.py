"""Paths that a user gave."""

import os
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
