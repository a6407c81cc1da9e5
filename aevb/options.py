"""The fields of a config that hold a function's arguments by name, as "b1=0.9,eps=1e-4"."""

import math

from aevb.errors import UserError


def parse_options(options: str, *, field: str, example: str) -> dict[str, float]:
    """ "b1=0.9,eps=1e-4" -> {"b1": 0.9, "eps": 1e-4}; finite numbers, each name once.

    Args:
        options: what the field holds.
        field: its name, for the message.
        example: of what it may hold, for the message.

    Raises:
        UserError: it is written otherwise.
    """
    parsed: dict[str, float] = {}
    for item in filter(str.strip, options.split(",")):
        name, _, number = (part.strip() for part in item.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name in parsed or not math.isfinite(value):
            raise UserError(
                f"{field} is {options!r}, which goes wrong at {item.strip()!r}; write finite "
                f"numbers as name=value, each name once, separated by commas: {example}"
            )
        parsed[name] = value
    return parsed
