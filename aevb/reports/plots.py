"""Plots functions, densities and point clouds for the documents; arrays in, Figure out."""

from collections.abc import Mapping
from typing import NamedTuple

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
    scale: str = "linear"  # of both axes: linear, log_x, log_y or log
    marker: str = ""
    equal: bool = False  # whether a unit has the same length on both axes


class Contours(NamedTuple):
    """A panel of level sets of densities over a plane, with optional points and a path."""

    x: np.ndarray  # [G]
    y: np.ndarray  # [G]
    densities: Mapping[str, np.ndarray]  # label -> [G, G], indexed by x, then y
    x_label: str
    y_label: str
    points: np.ndarray | None = None  # [n, 2]
    path: np.ndarray | None = None  # [n, 2]


class Clusters(NamedTuple):
    """A panel of points in the plane with the ellipses of a mixture's components."""

    points: np.ndarray  # [n, 2]
    label_of: np.ndarray  # [n], the component of each
    means: np.ndarray  # [K, 2]
    covariances: np.ndarray  # [K, 2, 2]
    weights: np.ndarray  # [K]


Panel = Curves | Contours | Clusters


def panels(named: Mapping[str, Panel]) -> Figure:
    """Draws panels side by side, each under its title."""
    width, height = PANEL
    figure = Figure(figsize=(width * len(named), height), layout="constrained")
    row = figure.subplots(1, len(named), squeeze=False)
    for axes, (title, panel) in zip(row.flat, named.items(), strict=True):
        match panel:
            case Curves():
                _draw_curves(axes, panel)
            case Contours():
                _draw_contours(axes, panel)
            case Clusters():
                _draw_clusters(axes, panel)
        axes.set_title(title)
    return figure


def _draw_curves(axes: Axes, panel: Curves) -> None:
    for number, (label, (x, y)) in enumerate(panel.lines.items()):
        axes.plot(
            x, y, COLORS[number % len(COLORS)], linestyle=STYLES[number % len(STYLES)],
            marker=panel.marker, label=label,
        )  # fmt: skip
    if panel.scale in ("log_x", "log"):
        axes.set_xscale("log")
    if panel.scale in ("log_y", "log"):
        axes.set_yscale("log")
    if panel.equal:
        axes.set_aspect("equal")
    _finish(axes, panel.x_label, panel.y_label)
    axes.legend(loc="best", fontsize="small")


def _draw_contours(axes: Axes, panel: Contours) -> None:
    handles = []
    for number, (label, density) in enumerate(panel.densities.items()):
        levels = np.max(density) * np.exp(-0.5 * np.square([2.5, 1.5, 0.5]))
        color, style = COLORS[number], STYLES[number]
        axes.contour(panel.x, panel.y, density.T, levels=levels, colors=color, linestyles=style)
        handles.append(Line2D([], [], color=color, linestyle=style, label=label))
    if panel.points is not None:
        axes.scatter(*panel.points.T, s=4, color="gray", alpha=0.4, linewidths=0, zorder=0)
    if panel.path is not None:
        axes.plot(*panel.path.T, color="black", marker=".", linewidth=0.8)
    _finish(axes, panel.x_label, panel.y_label)
    axes.legend(handles=handles, loc="best", fontsize="small")


def _draw_clusters(axes: Axes, panel: Clusters) -> None:
    for number, (mean, covariance, weight) in enumerate(
        zip(panel.means, panel.covariances, panel.weights, strict=True)
    ):
        color = COLORS[number % len(COLORS)]
        members = panel.points[panel.label_of == number]
        axes.scatter(*members.T, s=6, color=color, alpha=0.5, linewidths=0)
        lengths, directions = np.linalg.eigh(covariance)
        axes.add_patch(
            Ellipse(
                tuple(mean),
                *(2.0 * ELLIPSE_STDS * np.sqrt(lengths)),
                angle=float(np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))),
                fill=False, edgecolor=color, linewidth=0.5 + 4.0 * weight,
            )
        )  # fmt: skip
    axes.set_aspect("equal")
    _finish(axes, "x₁", "x₂")


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
