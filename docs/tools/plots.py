"""Plots for the documents: results of several runs, functions, densities and point clouds.

Each function takes arrays and returns a Figure.
"""

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from aevb.reports.figures import BOUND_LABEL, Curve, label_axes, titled_axes

COLORS = ("tab:blue", "tab:red", "tab:green", "tab:orange", "tab:purple", "tab:brown")
STYLES = ("-", "--", ":", "-.")
PANEL = (4.4, 3.4)  # inches
ELLIPSE_STDS = 2.0
LIMIT_LABEL = "the matrix products alone"


class Point(NamedTuple):
    """A measurement with half of its interval."""

    x: float
    mean: float
    half_width: float


def compared_curves(
    panels: Mapping[str, Mapping[str, Sequence[Curve]]],
    *,
    y_label: str = BOUND_LABEL,
    y_limits: tuple[float, float] | None = None,
    marks: Mapping[str, Mapping[str, Point]] = MappingProxyType({}),
    longest: Mapping[str, Mapping[str, Curve]] = MappingProxyType({}),
) -> Figure:
    """Draws figures 2 and 3 of the paper: one panel per title, one color per label.

    The lines are means over runs that differ only in the seed, in a band from the lowest run to the
    highest. Lines of the training split are dashed.

    Args:
        marks: title -> label -> a value with its error, drawn as a mark with a bar.
        longest: title -> label -> the curve of a single run, whose test bound is a dotted line.
    """
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    figure, grid = titled_axes(panels, (4.2, 3.2), columns, sharey=y_limits is not None)
    for axes, (title, compared) in zip(grid, panels.items(), strict=True):
        for number, (label, runs) in enumerate(compared.items()):
            for split, style in (("train", "--"), ("test", "-")):
                _draw_mean(axes, runs, split, style, color=f"C{number}", label=f"{label}, {split}")
            if curve := longest.get(title, {}).get(label):
                alone = f"{label}, test, one seed"
                examples, bounds = curve["examples"], curve["test_bound"]
                axes.semilogx(examples, bounds, ":", color=f"C{number}", label=alone)
        for label, (x, mean, error) in marks.get(title, {}).items():
            axes.errorbar(x, mean, error, color="black", marker="D", ms=4, capsize=3, label=label)
        if y_limits is not None:
            axes.set_ylim(*y_limits)
        label_axes(axes, "training examples seen")
    drawn: dict[str, Any] = {}
    for axes in grid:
        lines, labels = axes.get_legend_handles_labels()
        drawn |= dict(zip(labels, lines, strict=True))
    figure.legend(
        drawn.values(), drawn, loc="outside upper center", ncols=max(2, len(drawn) // 2),
        fontsize="small",
    )  # fmt: skip
    figure.supylabel(y_label.replace(" (", "\n("))
    return figure


def _draw_mean(
    axes: Axes, runs: Sequence[Curve], split: str, style: str, *, color: str, label: str
) -> None:
    """Draws the mean bound of runs with several seeds, and a band from the lowest to the highest.

    A 95 % interval over few seeds would fill the axes where one of the runs lags behind.
    """
    examples = np.asarray(runs[0]["examples"])
    values = np.array([run[f"{split}_bound"] for run in runs], np.float64)
    axes.semilogx(examples, np.mean(values, axis=0), style, color=color, label=label)
    if len(runs) > 1:
        low, high = np.min(values, axis=0), np.max(values, axis=0)
        axes.fill_between(examples, low, high, color=color, alpha=0.2, linewidth=0)


def gradient_variance(examples: Sequence[int], variances: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the variance of the encoder's gradient of each bound during training.

    The legend is to the right of the axes.
    """
    figure, (axes,) = titled_axes([""], (7, 5))
    styles = itertools.product(("-", "--"), range(7))
    for (name, values), (style, number) in zip(variances.items(), styles, strict=False):
        axes.loglog(examples, values, style, color=f"C{number}", marker=".", label=name)
    label_axes(
        axes, "training examples seen", "variance of φ's gradient, summed over parameters (nats²)"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


class Speeds(NamedTuple):
    """Measured speeds in examples/s, one number per round."""

    contenders: Mapping[str, Sequence[float]]
    limit: Sequence[float]  # the upper limit that the machine sets


def speeds(panels: Mapping[str, Speeds]) -> Figure:
    """Draws one panel per title, with one bar per contender.

    The bar is the median over the rounds, with a line from the slowest round to the fastest. A
    dashed line marks the median of the machine's upper limit.
    """
    figure, row = titled_axes(panels, (5, 3.3))
    for axes, (contenders, limit) in zip(row, panels.values(), strict=True):
        rates = np.array([*contenders.values()])  # [contenders, rounds]
        medians = np.median(rates, axis=1)
        spread = [medians - rates.min(axis=1), rates.max(axis=1) - medians]
        axes.barh([*contenders], medians, xerr=spread, color="tab:blue", ecolor="black")
        axes.axvline(np.median(limit), color="tab:red", linestyle="--", label=LIMIT_LABEL)
        axes.set_xlim(0.0, 1.05 * max(rates.max(), *limit))
        axes.invert_yaxis()
        axes.set_xlabel("training examples/s")
        axes.locator_params(axis="x", nbins=4)
        axes.legend(loc="lower right")
    return figure


class Curves(NamedTuple):
    """A panel of lines y(x)."""

    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]  # label -> x [n], y [n]
    x_label: str
    y_label: str
    marker: str = ""
    axes: Mapping[str, Any] = {}  # other properties of the axes, for matplotlib's Axes.set

    def draw(self, axes: Axes) -> None:
        for number, (label, (x, y)) in enumerate(self.lines.items()):
            color, style = COLORS[number % len(COLORS)], STYLES[number % len(STYLES)]
            axes.plot(x, y, color, linestyle=style, marker=self.marker, label=label)
        axes.set(xlabel=self.x_label, ylabel=self.y_label, **self.axes)
        axes.legend(loc="best", fontsize="small")


class Contours(NamedTuple):
    """A panel of level sets of densities over a plane, with optional points and a path."""

    x: np.ndarray  # [G]
    y: np.ndarray  # [G]
    densities: Mapping[str, np.ndarray]  # label -> [G, G], indexed by x, then y
    x_label: str
    y_label: str
    points: np.ndarray | None = None  # [n, 2]
    path: np.ndarray | None = None  # [n, 2]

    def draw(self, axes: Axes) -> None:
        handles = []
        for number, (label, density) in enumerate(self.densities.items()):
            color, style = COLORS[number], STYLES[number]
            levels = np.max(density) * np.exp(-0.5 * np.square([2.5, 1.5, 0.5]))
            axes.contour(self.x, self.y, density.T, levels=levels, colors=color, linestyles=style)
            handles.append(Line2D([], [], color=color, linestyle=style, label=label))
        if self.points is not None:
            axes.scatter(*self.points.T, s=4, color="gray", alpha=0.4, linewidths=0, zorder=0)
        if self.path is not None:
            axes.plot(*self.path.T, color="black", marker=".", linewidth=0.8)
        axes.set(xlabel=self.x_label, ylabel=self.y_label)
        axes.legend(handles=handles, loc="best", fontsize="small")


class Clusters(NamedTuple):
    """A panel of points in the plane with the ellipses of a mixture's components."""

    points: np.ndarray  # [n, 2]
    label_of: np.ndarray  # [n], the component of each
    means: np.ndarray  # [K, 2]
    covariances: np.ndarray  # [K, 2, 2]
    weights: np.ndarray  # [K]

    def draw(self, axes: Axes) -> None:
        for number, mean in enumerate(self.means):
            color = COLORS[number % len(COLORS)]
            members = self.points[self.label_of == number]
            axes.scatter(*members.T, s=6, color=color, alpha=0.5, linewidths=0)
            lengths, directions = np.linalg.eigh(self.covariances[number])
            angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
            width = 0.5 + 4.0 * self.weights[number]
            axes.add_patch(
                Ellipse(
                    tuple(mean), *(2.0 * ELLIPSE_STDS * np.sqrt(lengths)), angle=float(angle),
                    fill=False, edgecolor=color, linewidth=width,
                )
            )  # fmt: skip
        axes.set(xlabel="x₁", ylabel="x₂", aspect="equal")


Panel = Curves | Contours | Clusters


def panels(named: Mapping[str, Panel]) -> Figure:
    """Draws panels side by side, each under its title."""
    figure, row = titled_axes(named, PANEL)
    for axes, panel in zip(row, named.values(), strict=True):
        panel.draw(axes)
        axes.grid(alpha=0.3)
    return figure
