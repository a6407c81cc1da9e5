"""The tables of README.md and docs/results.md: bounds over seeds, and a comparison with PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from aevb.reports import figures
from experiments.paper.studies import REPRODUCED, ROWS

from .documents import benchmark, read, table

HEADLINE = ("frey_blocked_2", "frey_random_20", "binarized_mnist_20")


def _bounds(result: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{split} bound (nats)": f"{result[f'{split}_bound']:.1f} ± "
        f"{result[f'{split}_bound_standard_error']:.1f}"
        for split in ("train", "test")
    }


def _finished(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [run for run in result["runs"] if "failed" not in run]


def headline_table() -> str:
    """Returns the bounds of three rows of the results."""
    rows = read(REPRODUCED)["rows"]
    return table(
        {"": ROWS[name].title, **_bounds(rows[name]), "seeds": str(len(_finished(rows[name])))}
        for name in HEADLINE
    )


def results_table() -> str:
    """Returns mean ± standard error over seeds of the bound on all of each split."""
    found = read(REPRODUCED)["rows"]
    rows = []
    for name, row in ROWS.items():
        runs = _finished(found[name])
        rows.append(
            {
                "": row.title,
                "training examples": f"{runs[0]['num_examples'] / 1e6:g}·10⁶",
                **_bounds(found[name]),
                "seeds": str(len(runs)),
            }
        )
    return table(rows)


def agreement_table() -> str:
    """Returns the bounds of the independent PyTorch program with those of aevb."""

    def figure(of: Mapping[str, float]) -> str:
        return f"{of['mean']:.1f} ± {of['standard_error']:.1f}"

    return table(
        {
            "": f"{ROWS[name].title}, {split}",
            "aevb (nats)": figure(compared["aevb"]),
            "PyTorch (nats)": figure(compared["torch"]),
            "difference (standard errors)": f"{compared['difference_in_standard_errors']:+.1f}",
        }
        for name, result in benchmark("agreement")["rows"].items()
        for split, compared in result.items()
    )


def curves() -> Figure:
    """Draws the bound along training of the rows with three seeds."""
    rows = read(REPRODUCED)["rows"]
    return figures.bound_curves(
        {
            row.title.replace("`", ""): [run["curve"] for run in rows[name]["runs"]]
            for name, row in ROWS.items()
            if row.num_seeds == 3
        }
    )


TABLES: Mapping[str, Callable[[], str]] = {
    "headline": headline_table,
    "results": results_table,
    "agreement": agreement_table,
}
FIGURES = {"curves": curves}
