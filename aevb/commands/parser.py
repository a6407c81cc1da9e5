"""The parser of a command whose flags are few."""

import argparse
from typing import NoReturn

from aevb.errors import UserError


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")
