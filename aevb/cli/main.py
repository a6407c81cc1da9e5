"""The command `aevb` and its subcommands."""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aevb.errors import UserError
from aevb.runtime import signals


class Command(NamedTuple):
    """A subcommand of `aevb`."""

    module: str  # has main(arguments) -> exit status; imported only if the command is given
    help: str
    resumes: bool = False  # whether the same command resumes after an interruption


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit status.

    The status is 2 if there is no such command or it cannot be imported.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("--help", "-h"):
        print(help_text())
        return 0
    if name == "--version":
        from importlib.metadata import version  # not needed for anything else

        print(f"aevb {version('aevb')}")
        return 0
    try:
        start = load(name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sys.argv = [f"aevb {name}", *rest]  # absl flags read their values and the name from it
    return start(rest)


def load(name: str) -> Callable[[Sequence[str]], int]:
    """Imports a command's module and returns its `main`.

    Raises:
        UserError: there is no command of that name, or a library that it needs is not installed.
    """
    if name not in COMMANDS:
        what = f"{name!r} is not a command" if name else "a command is missing"
        raise UserError(f"{what}; it is one of {', '.join(COMMANDS)} (aevb --help)")
    command = COMMANDS[name]
    signals.exit_at_once(resumes=command.resumes)  # before the slow imports
    try:
        return importlib.import_module(command.module).main
    except ModuleNotFoundError as error:
        raise UserError(
            f"aevb {name} needs {error.name}, which is not installed; install aevb with its "
            "dependencies (pip install aevb)"
        ) from error


def help_text() -> str:
    """Returns the help text, with one line for each command."""
    lines = [f"  aevb {name:10} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Auto-Encoding Variational Bayes (Kingma & Welling, arXiv 1312.6114) in JAX.",
            "",
            *lines,
            "",
            "`aevb COMMAND --help` lists its flags, `aevb --version` prints the version.",
        ]
    )


COMMANDS = {
    "run": Command("aevb.cli.run", "train an experiment, or a sweep of it", resumes=True),
    "data": Command("aevb.cli.data", "describe data before a model is trained on them"),
    "evaluate": Command("aevb.cli.evaluate", "estimate log p(x) of a finished run"),
    "report": Command("aevb.cli.report", "compare runs, as a page and as a table"),
    "explore": Command("aevb.cli.explore", "write the page of a finished run again"),
    "doctor": Command("aevb.cli.doctor", "say what is wrong with a run, and what to change"),
    "export": Command("aevb.cli.export", "write a finished run's model for other programs"),
}
