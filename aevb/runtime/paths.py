"""Paths that a user gave."""

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
