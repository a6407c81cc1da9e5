"""A lock on a run's folder, which is released when its process ends, even if that is killed."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aevb.errors import UserError
from aevb.runtime.paths import require_utf8

LOCK = ".lock"  # the file remains; it has no effect unless a process holds its lock


def unusable(folder: Path, error: OSError) -> UserError:
    """Returns the error for a folder that cannot be read or written."""
    return UserError(
        f"--workdir={folder} cannot be used ({error.strerror}); name a folder that can be written"
    )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Returns a context that turns a full or missing disk into a UserError.

    Raises:
        UserError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written ({error.strerror or error}); every "
            "checkpoint until now is kept: make room, and give the same command again"
        ) from error


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Returns a context that holds the lock on a folder, which is created if necessary.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written or its path
            cannot be expressed in the locale.
    """
    require_utf8(folder)
    path = folder / LOCK
    # filelock's fallback on file systems without locks would outlive a killed process.
    lock = FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except Timeout:
        owner = path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
        raise UserError(
            f"--workdir={folder} is in use by {owner}; wait until that has ended, stop it, or "
            "name another folder"
        ) from None
    except OSError as error:
        raise unusable(folder, error) from error
    with held:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
