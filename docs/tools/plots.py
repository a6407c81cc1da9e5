"""Plots functions, densities and point clouds for the documents; arrays in, Figure out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

COLORS = ("tab:blue", "tab:red", "tab:green", "tab:orange", "tab:purple", "tab:brown")
STYLES = ("-", "--", ":", "-.")
PANEL = (4.4, 3.4)  # inches
ELLIPSE_STDS = 2.0


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
    width, height = PANEL
    figure = Figure(figsize=(width * len(named), height), layout="constrained")
    row = figure.subplots(1, len(named), squeeze=False)
    for axes, (title, panel) in zip(row.flat, named.items(), strict=True):
        panel.draw(axes)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    return figure
