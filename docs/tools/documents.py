"""Markdown documents whose tables, between marks, are generated from results files."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MISSING = "not run yet"
BENCHMARKS = ROOT / "experiments" / "benchmarks" / "results"
RESULTS = ROOT / "experiments" / "results"
IN_FULL = "train_mnist_z20_b100"  # the training benchmark with every contender


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table; all columns but the first are numbers."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ruler, *rows])


def filled_in(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Returns the text of a document with each of its tables regenerated.

    Raises:
        KeyError: a mark names no table.
    """

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]()}\n\n{match[3]}"

    return re.sub(r"(<!-- ([\w ]+) -->\n).*?(<!-- end -->)", made, text, flags=re.DOTALL)
