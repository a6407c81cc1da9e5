"""Draws the figures of the paper; each function takes arrays and returns a Figure."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150
BOUND_LABEL = "evidence lower bound (nats per datapoint)"
LIMIT_LABEL = "the matrix products alone"


Curve = Mapping[str, Sequence[float]]
"""A run's log by column: examples, train_bound and test_bound, nats per datapoint."""


def bound_curve(curve: Curve, *, title: str) -> Figure:
    """Draws the bound against the number of training examples, as in figure 2 of the paper."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    _draw_curves(axes, [curve], title)
    axes.set_ylabel(BOUND_LABEL)
    return figure


def bound_curves(runs: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draws one panel for each title, with one line for each run and split."""
    columns = 2
    rows = math.ceil(len(runs) / columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(5 * columns, 3.3 * rows), layout="constrained", squeeze=False
    )
    for axes in panels.flat[len(runs) :]:
        axes.remove()
    for axes, (title, curves) in zip(panels.flat, runs.items(), strict=False):
        _draw_curves(axes, curves, title)
    figure.supylabel(BOUND_LABEL.replace(" (", "\n("))
    return figure


def _draw_curves(axes: Axes, curves: Sequence[Curve], title: str) -> None:
    """Draws the bounds of runs on both splits against the number of training examples.

    The y axis is cut off below, because runs can start thousands of nats below their end.
    """
    for split, color, style in (("train", "tab:blue", "--"), ("test", "tab:red", "-")):
        for number, curve in enumerate(curves):
            axes.semilogx(
                curve["examples"],
                curve[f"{split}_bound"],
                color=color,
                linestyle=style,
                label=None if number else split,
            )
    values = np.array([v for c in curves for v in [*c["train_bound"], *c["test_bound"]]])
    values = values[np.isfinite(values)]
    if len(values):
        low, high = np.quantile(values, 0.25), values.max()
        margin = max(0.1 * (high - low), 1.0)
        axes.set_ylim(max(values.min() - margin, low - 2 * (high - low) - margin), high + margin)
    axes.set_xlabel("training examples seen")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")


def compared_curves(
    panels: Mapping[str, Mapping[str, Sequence[Curve]]],
    *,
    y_label: str = BOUND_LABEL,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Draws figures 2 and 3 of the paper: one panel per title, one color per label.

    The lines are means over runs that differ only in the seed, with a band of one standard error to
    either side. Lines of the training split are dashed.
    """
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.2 * rows), layout="constrained", squeeze=False,
        sharey=y_limits is not None,
    )  # fmt: skip
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    colors = plt.get_cmap("tab10").colors  # pyright: ignore[reportAttributeAccessIssue]
    for axes, (title, compared) in zip(grid.flat, panels.items(), strict=False):
        for color, (label, runs) in zip(colors, compared.items(), strict=False):
            examples = np.asarray(runs[0]["examples"])
            for split, style in (("train", "--"), ("test", "-")):
                values = np.array([run[f"{split}_bound"] for run in runs], np.float64)
                mean = np.mean(values, axis=0)
                axes.semilogx(examples, mean, style, color=color, label=f"{label}, {split}")
                if len(runs) > 1:
                    error = np.std(values, axis=0, ddof=1) / math.sqrt(len(runs))
                    axes.fill_between(
                        examples, mean - error, mean + error, color=color, alpha=0.2, linewidth=0
                    )
        if y_limits is not None:
            axes.set_ylim(*y_limits)
        axes.set_xlabel("training examples seen")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    lines, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(
        lines, labels, loc="outside upper center", ncols=max(2, len(labels) // 2), fontsize="small"
    )
    figure.supylabel(y_label.replace(" (", "\n("))
    return figure


class Point(NamedTuple):
    """A measurement with its standard error."""

    x: float
    mean: float
    error: float


def measurements(
    panels: Mapping[str, Mapping[str, Sequence[Point]]], *, x_label: str, y_label: str
) -> Figure:
    """Draws one panel per title, with a line with error bars per label, over a logarithmic axis."""
    figure, row = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.6), layout="constrained", squeeze=False
    )
    for axes, (title, lines) in zip(row.flat, panels.items(), strict=True):
        for label, points in lines.items():
            x, mean, error = np.array(points, np.float64).T
            axes.errorbar(x, mean, error, marker="o", capsize=3, label=label)
        axes.set_xscale("log")
        axes.set_xlabel(x_label)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize="small")
    row.flat[0].set_ylabel(y_label)
    return figure


def gradient_variance(examples: Sequence[int], variances: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the variance of the encoder's gradient of each bound during training.

    The legend is to the right of the axes.
    """
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    styles = itertools.product(("-", "--"), plt.get_cmap("tab10").colors[:7])  # pyright: ignore[reportAttributeAccessIssue]
    for (name, values), (style, color) in zip(variances.items(), styles, strict=False):
        axes.loglog(examples, values, style, color=color, marker=".", label=name)
    axes.set_xlabel("training examples seen")
    axes.set_ylabel("variance of φ's gradient, summed over parameters (nats²)")
    axes.grid(alpha=0.3)
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
    figure, row = plt.subplots(
        1, len(panels), figsize=(5 * len(panels), 3.3), layout="constrained", squeeze=False
    )
    for axes, (title, panel) in zip(row.flat, panels.items(), strict=True):
        names, rounds = list(panel.contenders), list(panel.contenders.values())
        medians = np.array([np.median(rates) for rates in rounds])
        spread = [
            medians - [min(rates) for rates in rounds],
            [max(rates) for rates in rounds] - medians,
        ]
        axes.barh(names, medians, xerr=spread, color="tab:blue", ecolor="black")
        axes.axvline(np.median(panel.limit), color="tab:red", linestyle="--", label=LIMIT_LABEL)
        axes.set_xlim(0.0, 1.05 * max(map(max, [*rounds, panel.limit])))
        axes.invert_yaxis()
        axes.set_xlabel("training examples/s")
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(title)
        axes.legend(loc="lower right")
    return figure


def tile(images: np.ndarray) -> np.ndarray:
    """Tiles images [R, C, h, w(, 3)] into one picture [R h, C w(, 3)], the first row at the top."""
    rows, columns, height, width, *colors = images.shape
    return images.swapaxes(1, 2).reshape(rows * height, columns * width, *colors)


def _show(axes: Axes, images: np.ndarray) -> None:
    """Draws images [R, C, h, w(, 3)] of values in [0, 1] side by side, black to white."""
    picture = tile(images)
    if picture.ndim == 3:
        picture = np.clip(picture, 0.0, 1.0)  # as vmin and vmax do for grey images
    axes.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def manifold(images: np.ndarray, quantiles: np.ndarray, *, title: str) -> Figure:
    """Draws the learned 2-D manifold, figure 4 of the paper.

    Args:
        images: [G, G, h, w], the decoder's mean at (row i, column j). The second latent varies over
            the rows, with its largest quantile at the top, and the first over the columns.
        quantiles: [G], the increasing quantiles of N(0, 1) at which both latents were set.
    """
    return manifolds({title: images}, quantiles)


def manifolds(panels: Mapping[str, np.ndarray], quantiles: np.ndarray) -> Figure:
    """Draws the `manifold` of several models, one panel per title."""
    sizes = []
    for images in panels.values():
        count, _, height, width = images.shape[:4]
        scale = 7.0 / max(count * height, count * width)
        sizes.append((count * width * scale + 1.0, count * height * scale + 1.0))
    widths, heights = zip(*sizes, strict=True)
    figure, row = plt.subplots(
        1, len(panels), figsize=(sum(widths), max(heights)), layout="constrained", squeeze=False,
        width_ratios=widths,
    )  # fmt: skip
    for axes, (title, images) in zip(row.flat, panels.items(), strict=True):
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
        axes.set_title(title)
    return figure


def reconstructions(originals: np.ndarray, means: np.ndarray, *, title: str) -> Figure:
    """Draws originals [C, h, w] in the upper row and the model's means [C, h, w] below them."""
    pairs = np.stack([originals, means])
    figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
    _show(axes, pairs)
    height = originals.shape[1]
    axes.set_yticks([height / 2 - 0.5, 1.5 * height - 0.5], ["x", "E[x|z]"])
    axes.set_title(title)
    return figure


def samples(panels: Mapping[str, np.ndarray]) -> Figure:
    """Draws random samples [B, h, w] of each model on a square grid, figure 5 of the paper."""
    figure, row = plt.subplots(
        1, len(panels), figsize=(5 * len(panels), 5.9), layout="constrained", squeeze=False
    )
    for axes, (title, images) in zip(row.flat, panels.items(), strict=True):
        side = math.isqrt(len(images))
        _show(axes, images[: side * side].reshape(side, side, *images.shape[1:]))
        axes.set_title(title)
    return figure


def save(figure: Figure, path: str) -> None:
    """Writes a figure to an image file at its own size, and closes it."""
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
