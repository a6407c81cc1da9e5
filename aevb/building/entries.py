"""The entries that a config names, made with the config's options for them."""

import inspect
from collections.abc import Callable
from typing import Any

from aevb.config import OPTIONS, Values, entry_of, section
from aevb.errors import UserError

SECTION_OF = {field: options for options, field in OPTIONS.items()}


def make_entry(values: Values, field: str, *args: Any, **found: Any) -> Any:
    """Calls the factory that a field names with the config's options for it; returns the object.

    Args:
        found: keyword arguments that the data determine, for a factory that has them.

    Raises:
        UserError: the factory has no such option, or refuses a value.
    """
    make = entry_of(values, field)
    check_options(values, field, make, len(args), *found)
    parameters = inspect.signature(make).parameters
    taken = {name: value for name, value in found.items() if name in parameters}
    own = {**section(values, SECTION_OF[field]), **taken}
    try:
        return make(*args, **own)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"config.{field} is {values[field]!r}, which refuses its arguments: {error} "
            f"(config.{SECTION_OF[field]})"
        ) from error


def check_options(
    values: Values, field: str, make: Callable[..., Any], num_args: int, *taken: str
) -> None:
    """Raises a UserError if the config has an option that a factory does not take.

    Args:
        num_args: the number of positional arguments that the caller passes to the factory.
        taken: the names of the keyword arguments that the caller passes.
    """
    parameters = list(inspect.signature(make).parameters)[num_args:]
    own = [name for name in parameters if name not in taken]
    for name in section(values, SECTION_OF[field]):
        if name not in own:
            raise UserError(
                f"config.{SECTION_OF[field]}.{name} is unknown; {values[field]} has the options "
                f"{', '.join(own) or '(none)'}"
            )
