"""The message with which a function refuses something."""

from collections.abc import Callable

import pytest

from aevb.errors import UserError


def refusal(function: Callable[..., object], *arguments: object) -> str:
    """Calls a function, checks that it refuses in one line, and returns this line."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    (line,) = str(caught.value).splitlines()
    return line
