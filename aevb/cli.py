"""The command `aevb`: the table at the foot says what it can do."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from aevb import signals
from aevb.errors import UserError


class Command(NamedTuple):
    """What comes after `aevb`."""

    module: str  # with main(arguments) -> exit status; imported when it is asked for
    help: str
    goes_on: bool = False  # where it was stopped, when it is given again


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status: 2 for what is no command, else that of the command."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("--help", "-h"):
        print(help_text())
        return 0
    if name == "--version":
        from importlib.metadata import version  # not needed for anything else

        print(f"aevb {version('aevb')}")
        return 0
    try:
        command = command_of(name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signals.exit_at_once(goes_on=command.goes_on)  # before all that takes its time to be imported
    sys.argv = [f"aevb {name}", *rest]  # where flags look for their values and a name
    return importlib.import_module(command.module).main(rest)


def command_of(name: str) -> Command:
    """The command of a name.

    Raises:
        UserError: there is none.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    what = f"{name!r} is no command" if name else "a command is missing"
    raise UserError(f"{what}; it is one of {', '.join(COMMANDS)} (aevb --help)")


def help_text() -> str:
    """What there is, a line each."""
    lines = [f"  aevb {name:10} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Auto-Encoding Variational Bayes (Kingma & Welling, arXiv 1312.6114) in JAX.",
            "",
            *lines,
            "",
            "`aevb COMMAND --help` lists the flags of one, `aevb --version` tells the version.",
        ]
    )


COMMANDS = {
    "run": Command("aevb.commands.run", "train an experiment, or a sweep of it", goes_on=True),
    "evaluate": Command("aevb.commands.evaluate", "estimate log p(x) of a finished run"),
}
