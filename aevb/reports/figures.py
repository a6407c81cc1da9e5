"""Draws the figures of the paper; each function takes arrays and returns a Figure."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150
FONTS = (  # the first is part of matplotlib; the others have characters that it lacks
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans", "Microsoft YaHei",
)  # fmt: skip
FAMILY = [font for font in FONTS if font in {one.name for one in font_manager.fontManager.ttflist}]
BOUND_LABEL = "evidence lower bound (nats per datapoint)"


Curve = Mapping[str, Sequence[float]]
"""A run's log by column: examples, and the bounds of its splits, nats per datapoint."""

MISSING = (0.25, 0.4, 0.75)  # red, green and blue of a missing pixel
COLORS = {"train": "tab:blue", "valid": "tab:green", "test": "tab:red"}  # by split


def titled_axes(
    titles: Collection[str], size: tuple[float, float], columns: int | None = None, **how: Any
) -> tuple[Figure, list[Axes]]:
    """Returns a figure with one panel of `size` inches per title; by default, in one row."""
    columns = columns or len(titles)
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **how)
    for axes in grid.flat[len(titles) :]:
        axes.remove()
    panels = [*grid.flat[: len(titles)]]
    for axes, title in zip(panels, titles, strict=True):
        # A dollar in the name of a file is a dollar.
        axes.set_title(title, parse_math=False, fontfamily=FAMILY)
    return figure, panels


def label_axes(axes: Axes, x_label: str, y_label: str = "") -> None:
    """Labels the axes and draws a grid."""
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)


def bound_curve(curve: Curve, *, title: str) -> Figure:
    """Draws the bound against the number of training examples, as in figure 2 of the paper."""
    figure, (axes,) = titled_axes([title], (6, 4))
    _draw_bounds(axes, [curve])
    axes.set_ylabel(BOUND_LABEL)
    return figure


def bound_curves(runs: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draws one panel for each title, with one line for each run and split."""
    figure, panels = titled_axes(runs, (5, 3.3), columns=2)
    for axes, curves in zip(panels, runs.values(), strict=True):
        _draw_bounds(axes, curves)
    figure.supylabel(BOUND_LABEL.replace(" (", "\n("))
    return figure


def _draw_bounds(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draws the bounds of runs on each split against the number of training examples.

    The y axis is cut off below, because runs can start thousands of nats below their end.
    """
    drawn = []
    for split, color in COLORS.items():
        having = [curve for curve in curves if f"{split}_bound" in curve]
        for number, curve in enumerate(having):
            style, label = "--" if split == "train" else "-", None if number else split
            axes.semilogx(
                curve["examples"], curve[f"{split}_bound"], style, color=color, label=label
            )
            drawn += curve[f"{split}_bound"]
    values = np.array(drawn)
    values = values[np.isfinite(values)]
    if len(values):
        low, high = np.quantile(values, 0.25), values.max()
        margin = max(0.1 * (high - low), 1.0)
        axes.set_ylim(max(values.min() - margin, low - 2 * (high - low) - margin), high + margin)
    label_axes(axes, "training examples seen")
    axes.legend(loc="best")


def tile(images: np.ndarray) -> np.ndarray:
    """Tiles images [R, C, h, w(, 3)] into one picture [R h, C w(, 3)], the first row at the top."""
    rows, columns, height, width, *colors = images.shape
    return images.swapaxes(1, 2).reshape(rows * height, columns * width, *colors)


def _show(axes: Axes, images: np.ndarray) -> None:
    """Draws images [R, C, h, w(, 3)] of values in [0, 1] side by side, black to white.

    Missing values, NaN, have the color MISSING.
    """
    picture = tile(images)
    if np.isnan(picture).any():
        colors = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
        picture = np.where(np.isnan(colors), MISSING, colors)
    if picture.ndim == 3:
        picture = np.clip(picture, 0.0, 1.0)  # as vmin and vmax do for grey images
    axes.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def manifolds(panels: Mapping[str, np.ndarray], quantiles: np.ndarray) -> Figure:
    """Draws the learned 2-D manifolds of some models, figure 4 of the paper.

    Args:
        panels: title -> images [G, G, h, w(, 3)], the decoder's mean at (row i, column j). The
            second latent varies over the rows, with its largest quantile at the top, and the first
            over the columns.
        quantiles: [G], the increasing quantiles of N(0, 1) at which both latents were set.
    """
    shapes = [tile(images).shape[1::-1] for images in panels.values()]  # width and height in pixels
    widths, heights = zip(*(7.0 * np.array(s) / max(s) + 1.0 for s in shapes), strict=True)
    figure, row = titled_axes(
        panels, (sum(widths) / len(panels), max(heights)), width_ratios=widths
    )
    for axes, images in zip(row, panels.values(), strict=True):
        count, _, height, width = images.shape[:4]
        _show(axes, images)
        marks = np.linspace(0, count - 1, 5).round().astype(int)
        across, up = (
            [f"{values[mark]:.2f}" for mark in marks] for values in (quantiles, quantiles[::-1])
        )
        axes.set_xticks(marks * width + width / 2 - 0.5, across)
        axes.set_yticks(marks * height + height / 2 - 0.5, up)
        axes.set_xlabel("Φ(z₁), quantile of the first latent")
        axes.set_ylabel("Φ(z₂), quantile of the second latent")
    return figure


def reconstructions(originals: np.ndarray, means: np.ndarray, *, title: str) -> Figure:
    """Draws originals [C, h, w] in the upper row and the model's means [C, h, w] below them."""
    figure, (axes,) = titled_axes([title], (9, 2.6))
    _show(axes, np.stack([originals, means]))
    height = originals.shape[1]
    axes.set_yticks([height / 2 - 0.5, 1.5 * height - 0.5], ["x", "E[x|z]"])
    return figure


def samples(panels: Mapping[str, np.ndarray]) -> Figure:
    """Draws random samples [B, h, w] of each model on a square grid, figure 5 of the paper."""
    figure, row = titled_axes(panels, (5, 5.9))
    for axes, images in zip(row, panels.values(), strict=True):
        side = math.isqrt(len(images))
        _show(axes, images[: side * side].reshape(side, side, *images.shape[1:]))
    return figure


def image_rows(images: np.ndarray, names: Sequence[str], *, title: str) -> Figure:
    """Draws images [R, C, h, w(, 3)] of values in [0, 1]; the names, if any, are those of rows."""
    rows, columns, height, width = images.shape[:4]
    scale = min(8.0 / max(columns * width, rows * height), 0.5)  # inches of a pixel
    size = (max(scale * columns * width, 3.0) + 1.0, max(scale * rows * height, 1.0) + 0.5)
    figure, (axes,) = titled_axes([title], size)
    _show(axes, images)
    if names:
        places = [(row + 0.5) * height - 0.5 for row in range(rows)]
        axes.set_yticks(places, names, parse_math=False, fontfamily=FAMILY)
        axes.tick_params(length=0)
    return figure


def histograms(x: np.ndarray, names: Sequence[str]) -> Figure:
    """Draws the histogram of each column of x [N, D], titled with its name."""
    figure, panels = titled_axes(names, (2.2, 1.8), columns=min(len(names), 6))
    for axes, column in zip(panels, x.T, strict=True):
        axes.hist(column[~np.isnan(column)], bins=30)
        axes.set_yticks([])
        axes.title.set_fontsize("medium")
    return figure


def save(figure: Figure, path: str) -> None:
    """Writes a figure to an image file at its own size.

    A character that no installed font of FONTS has is drawn as a box.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(path, dpi=DPI)
