"""The tables of docs/estimators.md: variances of gradients, and log p(x) from both sides."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aevb.evaluation.intervals import Interval, interval_from, mean_interval
from aevb.evaluation.log_likelihood import intervals_of, reason_to_distrust
from aevb.marginal import MAX_R_HAT

from . import plots
from .documents import MISSING, RESULTS, benchmark, read, table


def gradient_table() -> str:
    """Returns the variance of each bound's gradient, in the encoder and in the decoder."""
    report = read(RESULTS / "gradient_variance.json")
    points, runs = report["points"], report["runs"]

    def variance(number: int, name: str, part: str) -> str:
        each = [run[number]["bounds"][name][part] for run in runs]
        return f"{np.median(each):.3g} ({min(each):.2g} to {max(each):.2g})"

    def row(name: str) -> dict[str, str]:
        bias = [point["bounds"][name].get("bias_in_standard_errors") for point in points]
        return {
            "": f"`{name}`",
            **{
                f"{symbol} after {point['examples']:,} examples": variance(number, name, part)
                for symbol, part in (("φ", "encoder"), ("θ", "decoder"))
                for number, point in enumerate(points)
            },
            "bias (standard errors)": ", ".join(f"{each['mean']:.2f}" for each in bias if each),
            "gradient (ms)": f"{1000 * points[-1]['bounds'][name]['seconds']['mean']:.0f}",
        }

    return table(map(row, points[0]["bounds"]))


def marginal_table(*files: str) -> str:
    """Returns bounds on log p(x) from both sides, their intervals and the gap between them.

    If a diagnostic fails, the cell of the estimator's interval contains the reason instead.

    Args:
        files: results files for the same datapoints.
    """
    reports = [read(RESULTS / f"{file}.json") for file in files]
    number = reports[0]["data"]["num_points"]

    def row(name: str, over_data: Interval, own: str, found: Mapping[str, Any]) -> dict[str, str]:
        pareto_k = found.get("pareto_k", {"median": None})["median"]
        return {
            f"{number:,} test images": name,
            "proposal": found.get("proposal", ""),
            "bound": side(found),
            "mean (nats)": f"{over_data.mean:.3f}",
            "± over data": f"{over_data.half_width:.3f}",
            "± of the estimator": own,
            "Pareto k": "" if pareto_k is None else f"{pareto_k:.2f}",
        }

    rows = {}  # a later file replaces an estimate from the same proposal
    for report in reports:
        for name, found in report["estimators"].items():
            over_data, own = intervals_of(found, number)
            reason = reason_to_distrust(found)
            rows[name, found["proposal"]] = row(
                f"`{name}`", over_data, reason or f"{own.half_width:.4f}", found
            )
        for pair, gap in report["widths"].items():
            error = [gap["standard_error"]]
            over_data = interval_from(gap["mean"], error, number - 1, number=number)
            rows[pair, ""] = row(pair, over_data, "", {})
    return table(rows.values())


def side(found: Mapping[str, Any]) -> str:
    """Returns "lower", "upper" or "width", with the condition under which appendix D is upper.

    Appendix D is an upper bound only where its chains agree.
    """
    kind = found.get("kind", "width")
    if kind == "upper" and found["r_hat"]["worst"] > MAX_R_HAT:
        return f"upper where R̂ ≤ {MAX_R_HAT}"
    return kind


def annealing_table() -> str:
    """Returns how far AIS is below the reference, for each number of temperatures and chains."""
    report = read(RESULTS / "annealing.json")
    found = {(row["num_temps"], row["num_chains"]): row for row in report["rows"]}
    temps, chains = (sorted(set(sizes)) for sizes in zip(*found, strict=True))

    def cell(row: Mapping[str, Any]) -> str:
        gap, number = row["below_reference"], report["num_points"]
        found = interval_from(gap["mean"], [gap["standard_error"]], number - 1, number=number)
        return found.text(3)

    return table(
        {
            "temperatures": f"{num_temps:,}",
            **{f"{number} chains": cell(found[num_temps, number]) for number in chains},
        }
        for num_temps in temps
    )


def discrete_table() -> str:
    """Returns log p(x) of a belief network by each way of training it, and what it cost."""
    file = RESULTS / "discrete_latents.json"
    if not file.is_file():
        return MISSING

    def row(name: str, way: Mapping[str, Any]) -> dict[str, str]:
        runs = list(way["runs"].values())

        def variance(part: str) -> str:
            each = [run["gradient_variance"][part] for run in runs]
            median, least, most = map(_three_digits, (np.median(each), min(each), max(each)))
            return f"{median} ({least} to {most})"

        def gap(run: Mapping[str, Any]) -> float:
            both = run["simulated_log_p"]
            return both["upper"] - both["lower"]

        return {
            "": f"`{name}`",
            "step size": f"{way['step_size']:g}",
            **{
                title: mean_interval([run[figure] for run in runs]).text(2)
                for title, figure in (
                    ("test log p(x) (nats)", "test_log_p"), ("test bound (nats)", "test_bound"),
                )
            },
            "upper less lower, simulated data": f"{np.median([gap(run) for run in runs]):.0f}",
            "variance of φ's gradient": variance("encoder"),
            "variance of θ's gradient": variance("decoder"),
            "seconds": f"{np.median([run['seconds'] for run in runs]):.0f}",
            "seeds": str(len(runs)),
        }  # fmt: skip

    return table(row(name, way) for name, way in read(file)["ways"].items() if way["runs"])


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def marginal_speed_table() -> str:
    """Returns medians of the paired benchmark of log p(x)."""
    return table(
        {
            "": name,
            "images/s": f"{found['images_per_second']['median']:.1f}",
            "speedup of aevb": "" if name == "aevb" else f"{found['ratio']['median']:.2f}",
            "mean log p(x) (nats)": f"{found['log_p']:.2f}",
            "peak memory at K = 500 and 50,000 (MiB)": "{few:.0f} and {many:.0f}".format(
                **found["peak_mib"]
            ),
        }
        for name, found in benchmark("marginal_speed")["contenders"].items()
    )


def gradient_variance() -> Figure:
    """Draws the median over models of the variance of each bound's gradient, in the encoder."""
    runs = read(RESULTS / "gradient_variance.json")["runs"]
    variances = {
        name: [
            float(np.median([point["bounds"][name]["encoder"] for point in same_point]))
            for same_point in zip(*runs, strict=True)
        ]
        for name in runs[0][0]["bounds"]
    }
    return plots.gradient_variance([point["examples"] for point in runs[0]], variances)


TABLES: Mapping[str, Callable[[], str]] = {
    "gradients": gradient_table,
    "marginal 3": lambda: marginal_table("marginal_3"),
    "marginal 20": lambda: marginal_table("marginal_20_encoder", "marginal_20"),
    "annealing": annealing_table,
    "discrete latents": discrete_table,
    "marginal speed": marginal_speed_table,
}
FIGURES = {"gradient_variance": gradient_variance}
