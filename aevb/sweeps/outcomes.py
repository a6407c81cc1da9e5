"""The results of the members of a sweep."""

from pathlib import Path
from typing import Any

from aevb import runs
from aevb.sweeps.grid import Member


def summary_of(folder: Path, member: Member) -> dict[str, Any]:
    """Returns the summary of a member, or {} if it is not finished.

    Args:
        folder: the sweep's folder.

    Raises:
        UserError: the member's folder belongs to something else, or cannot be read.
    """
    return runs.inspect(folder / member.name, member.values) or {}
