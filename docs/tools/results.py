"""The tables of README.md and docs/results.md: bounds over seeds, and a comparison with PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from aevb.evaluation.intervals import (
    Interval,
    difference_interval,
    interval_from,
    mean_interval,
)
from aevb.reports import figures
from experiments.paper.studies import REPRODUCED, ROWS

from .documents import MISSING, RESULTS, benchmark, read, table

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


def imputation_table() -> str:
    """Returns the errors of the methods that fill missing values, by task."""
    file = RESULTS / "imputation.json"
    if not file.is_file():
        return MISSING

    def figure(found: Mapping[str, Any], name: str, digits: int) -> str:
        values = [run[name] for run in found["runs"] if name in run]
        if not values:
            return ""
        text = mean_interval(values).text(digits)
        return f"{values[0]:.{digits}f}" if len(values) == 1 else text

    return table(
        {
            "data": f"{row['data'].replace('_', ' ')}, {row['share']:.0%} by {row['hide']}",
            "fill": f"{name} ({found['choice']})" if found.get("choice") else name,
            "error": figure(found, "rmse", 4 if row["data"] == "frey_faces" else 3),
            "coverage": figure(found, "coverage", 2),
            "width of an interval": figure(found, "width", 3),
        }
        for row in read(file)["rows"]
        for name, found in row["methods"].items()
    )


def make_run_table() -> str:
    """Returns what `make run` reaches: its bounds, and its decoded plane beside the film."""
    result = read(REPRODUCED)["rows"]["make_run"]
    runs = _finished(result)
    seeds = f"mean of {len(runs)} seeds"

    def row(title: str, values: list[float], digits: int, of_film: str = "") -> dict[str, str]:
        text = mean_interval(values).text(digits)
        return {"": title, seeds: text, "the film": of_film}

    def bounds(title: str, name: str) -> dict[str, str]:
        return row(f"{title} bound (nats)", [run[name] for run in runs], 1)

    def near(title: str, name: str, digits: int) -> dict[str, str]:
        return row(title, [run["manifold"]["train"][name] for run in runs], digits)

    ratios = [run["manifold"]["step_ratio"] for run in runs]
    return table(
        [
            bounds("training", "train_bound"),
            bounds("validation", "valid_bound"),
            bounds("best validation", "best_valid_bound"),
            bounds("test", "test_bound"),
            near("distance to the nearest training frame", "distance", 4),
            near("90th percentile of that distance", "distance_90", 4),
            near("number of different nearest frames", "num_nearest", 0),
            row("step ratio", ratios, 2, f"{result['film_step_ratio']:.2f}"),
        ]
    )


PUBLISHED = {"static": -88.6, "dynamic": -84.5}
"""log p(x) of the plain VAE of Tomczak & Welling (2018), nats."""


def protocol_table() -> str:
    """Returns the bounds and log p(x) of the runs of `experiments.paper.protocol`."""
    file = RESULTS / "protocol.json"
    if not file.is_file():
        return MISSING

    def importance(row: Mapping[str, Any]) -> str:
        found = row["log_p"]["importance"]
        number = found["num_points"]
        return interval_from(
            found["mean"], found["standard_error"], number - 1, number=number
        ).text()

    def difference(row: Mapping[str, Any]) -> str:
        return Interval(**row["ais_minus_importance"]).text(2, is_signed=True)

    return table(
        {
            "binarization": name,
            "epochs until the best": f"{row['best_num_examples'] / row['examples_per_epoch']:.0f}",
            "test bound": f"{row['best_test_bound']:.2f}",
            "log p(x), 5,000 importance samples": importance(row),
            "published": f"{PUBLISHED[name]:.1f}",
            "AIS minus importance": difference(row),
            "minutes of training": f"{row['seconds'] / 60:.0f}",
        }
        for name, row in read(file)["rows"].items()
    )


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
    "make run": make_run_table,
    "agreement": agreement_table,
    "protocol": protocol_table,
    "imputation": imputation_table,
}
FIGURES = {"curves": curves}
