"""Markdown documents whose tables, between marks, are generated from results files."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
BENCHMARKS = ROOT / "experiments" / "benchmarks" / "results"
IN_FULL = "train_mnist_z20_b100"  # the training benchmark with every contender
MISSING = "not run yet"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def benchmark(name: str) -> dict[str, Any]:
    """Reads the results file of a benchmark."""
    return read(BENCHMARKS / f"{name}.json")


def table(rows: Iterable[Mapping[str, str]], *, are_numbers: bool = True) -> str:
    """Returns a Markdown table, or MISSING if there are no rows.

    Args:
        rows: map the headers to the cells; all rows have the same headers.
        are_numbers: whether all columns but the first are aligned to the right.
    """
    rows = list(rows)
    if not rows:
        return MISSING
    header = list(rows[0])
    assert all(list(row) == header for row in rows)
    ruler = ["---", *["---:" if are_numbers else "---"] * (len(header) - 1)]
    lines = [header, ruler, *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(figures: Mapping[str, float], digits: int = 1) -> str:
    """Formats the median of a figure with its range over rounds."""
    median, least, most = (f"{figures[name]:.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def filled_in(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Returns the text of a document with each of its tables regenerated.

    Raises:
        KeyError: the name in a mark is not in `tables`.
    """

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]()}\n\n{match[3]}"

    return re.sub(r"(<!-- ([\w ]+) -->\n).*?(<!-- end -->)", made, text, flags=re.DOTALL)
