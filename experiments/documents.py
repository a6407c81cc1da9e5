"""Markdown whose tables are made of results files: between marks, and in one way everywhere."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MISSING = "not run yet"
BENCHMARKS = ROOT / "experiments" / "benchmarks" / "results"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ruler, *rows])


def filled_in(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """A document's text with each of its tables made anew.

    Raises:
        KeyError: there is no table of a mark's name.
    """

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]()}\n\n{match[3]}"

    return re.sub(r"(<!-- ([\w ]+) -->\n).*?(<!-- end -->)", made, text, flags=re.DOTALL)
