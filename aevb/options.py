"""The parser of config fields that hold keyword arguments, such as "b1=0.9,eps=1e-4"."""

import math

from aevb.errors import UserError


def parse_options(options: str, *, field: str, example: str) -> dict[str, float]:
    """Returns {"b1": 0.9, "eps": 1e-4} for "b1=0.9,eps=1e-4".

    Args:
        options: the value of the field.
        field: the name of the field, for the error message.
        example: a valid value, for the error message.

    Raises:
        UserError: an item is not name=number, a number is not finite, or a name occurs twice.
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
