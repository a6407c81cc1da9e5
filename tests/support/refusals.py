"""The message with which a function refuses something, and the files that it left alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aevb.errors import UserError


def refusal(function: Callable[..., object], *arguments: object) -> str:
    """Calls a function, checks that it refuses in one line, and returns this line."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    (line,) = str(caught.value).splitlines()
    return line


def contents_of(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
