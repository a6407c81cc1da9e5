"""Writes the tables of the README, and its figure of curves, from the results files.

    python experiments/readme.py

Between the marks `<!-- NAME -->` and `<!-- end -->` of README.md stands what `TABLES[NAME]` makes
of the committed results; a test sees to it that they say the same.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from reproduce import RESULTS as REPRODUCED
from reproduce import ROWS

from aevb import figures

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CURVES = ROOT / "docs" / "curves.png"
BENCHMARKS = ROOT / "experiments" / "benchmarks" / "results"

CONTENDERS = {
    "aevb": "aevb",
    "torch_compile": "PyTorch, preloaded tensor, `torch.compile`",
    "torch_preloaded": "PyTorch, preloaded tensor",
    "torch_dataloader": "PyTorch, TensorDataset and DataLoader",
}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ruler, *rows])


def results_table() -> str:
    """Mean ± standard error over seeds of the bound on all of each split."""
    report = read(REPRODUCED)
    rows = []
    for name, row in ROWS.items():
        result = report["rows"][name]
        finished = [run for run in result["runs"] if "failed" not in run]
        bounds = [
            f"{result[f'{split}_bound']:.1f} ± {result[f'{split}_bound_standard_error']:.1f}"
            for split in ("train", "test")
        ]
        bits = [run["test_bits_per_dim"] for run in finished if "test_bits_per_dim" in run]
        examples = f"{finished[0]['num_examples'] / 1e6:g}·10⁶"
        bits_text = f"{np.mean(bits):.2f}" if bits else ""
        rows.append([row.title, examples, *bounds, bits_text, str(len(finished))])
    header = ["", "examples", "train bound (nats)", "test bound (nats)", "test bits/dim", "seeds"]
    return table(header, rows)


def speed_table() -> str:
    """Medians over rounds of the paired benchmark, and its ratios."""
    report = read(BENCHMARKS / "train_speed.json")
    rows = []
    for name, title in CONTENDERS.items():
        result = report["contenders"][name]
        rate, ratio = result["examples_per_second"], result["ratio"]
        rows.append(
            [
                title,
                f"{rate['median']:,.0f}",
                "" if name == "aevb" else f"{ratio['median']:.2f}",
                f"{result['cpu_per_wall']:.2f}",
                f"{result['test_bound']:.1f}",
            ]
        )
    header = ["", "examples/s", "aevb is faster by", "cpu/wall", "test bound"]
    return table(header, rows)


def start_table() -> str:
    """Medians of the seconds from the command to the first finished epoch."""
    seconds = read(BENCHMARKS / "first_epoch.json")["seconds"]
    rows = [
        [f"`{name}`", f"{starts['cold']['median']:.1f} s", f"{starts['warm']['median']:.1f} s"]
        for name, starts in seconds.items()
    ]
    return table(["to the first evaluated epoch", "first time", "later"], rows)


def agreement_table() -> str:
    """The bounds of the independent PyTorch program beside ours."""
    rows = []
    for name, result in read(BENCHMARKS / "agreement.json")["rows"].items():
        for split, compared in result.items():
            both = [
                f"{compared[who]['mean']:.1f} ± {compared[who]['standard_error']:.1f}"
                for who in ("aevb", "torch")
            ]
            apart = f"{compared['difference_in_standard_errors']:+.1f}"
            rows.append([f"{ROWS[name].title}, {split}", *both, apart])
    return table(["", "aevb (nats)", "PyTorch (nats)", "standard errors apart"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "results": results_table,
    "speed": speed_table,
    "start": start_table,
    "agreement": agreement_table,
}


def filled_in(text: str) -> str:
    """The README's text with every table made anew."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, rf"\g<1>\n{make()}\n\n\g<2>", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"README.md has the mark <!-- {name} --> {count} times, not once")
    return text


def main() -> None:
    README.write_text(filled_in(README.read_text()))
    rows = read(REPRODUCED)["rows"]
    curves = {
        ROWS[name].title: [run["curve"] for run in rows[name]["runs"]]
        for name in ROWS
        if ROWS[name].num_seeds == 3
    }
    CURVES.parent.mkdir(exist_ok=True)
    figures.save(figures.bound_curves(curves), str(CURVES))


if __name__ == "__main__":
    main()
