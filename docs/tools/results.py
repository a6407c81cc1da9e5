"""The tables of README.md and docs/results.md: bounds over seeds, and a comparison with PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from aevb.evaluation.intervals import difference_interval, mean_interval
from aevb.reports import figures
from experiments.paper.studies import REPRODUCED, ROWS

from .documents import benchmark, read, table

HEADLINE = ("frey_blocked_2", "frey_random_20", "binarized_mnist_20")


def _bounds(result: Mapping[str, Any]) -> dict[str, str]:
    runs = _finished(result)
    return {
        f"{split} bound (nats)": mean_interval([run[f"{split}_bound"] for run in runs]).text()
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
    """Returns the mean bound on all of each split, with its interval over seeds."""
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

    def row(title: str, ours: list[float], theirs: list[float]) -> dict[str, str]:
        return {
            "": title,
            "aevb (nats)": mean_interval(ours).text(),
            "PyTorch (nats)": mean_interval(theirs).text(),
            "difference (nats)": difference_interval(ours, theirs).text(is_signed=True),
        }

    return table(
        row(f"{ROWS[name].title}, {split}", *(found[who]["bounds"] for who in ("aevb", "torch")))
        for name, result in benchmark("agreement")["rows"].items()
        for split, found in result.items()
    )


def curves() -> Figure:
    """Draws the bound along training of the rows at the step size of their config."""
    rows = read(REPRODUCED)["rows"]
    return figures.bound_curves(
        {
            row.title.replace("`", ""): [run["curve"] for run in rows[name]["runs"]]
            for name, row in ROWS.items()
            if "optimizer.step_size" not in row.overrides
        }
    )


TABLES: Mapping[str, Callable[[], str]] = {
    "headline": headline_table,
    "results": results_table,
    "agreement": agreement_table,
}
FIGURES = {"curves": curves}
