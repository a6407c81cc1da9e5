"""Plots of the documents: the position of each part. Their appearance is not tested."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle

from docs.tools import plots

CURVE = {
    "examples": [100, 1000, 10_000],
    "train_bound": [-200.0, -120.0, -100.0],
    "test_bound": [-210.0, -130.0, -115.0],
}


def only_axes(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def test_compared_curves_are_means_over_seeds_with_a_band_from_the_lowest_to_the_highest():
    low, high = ({**CURVE, "test_bound": [v + shift for v in CURVE["test_bound"]]}
                 for shift in (-2.0, 2.0))  # fmt: skip
    figure = plots.compared_curves(
        {"Z = 2": {"AEVB": [low, high], "wake-sleep": [CURVE]}}, y_limits=(-150.0, -90.0)
    )
    axes = only_axes(figure)
    assert axes.get_title() == "Z = 2"
    assert axes.get_xscale() == "log"
    assert axes.get_ylim() == (-150.0, -90.0)
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {f"{n}, {s}" for n in ("AEVB", "wake-sleep") for s in ("train", "test")}
    np.testing.assert_allclose(np.asarray(lines["AEVB, test"].get_ydata()), CURVE["test_bound"])
    assert lines["AEVB, test"].get_color() != lines["wake-sleep, test"].get_color()
    bands = [np.asarray(band.get_paths()[0].vertices) for band in axes.collections]
    assert len(bands) == 2  # a single seed has none
    x, y = bands[1].T
    at_the_end = y[np.isclose(x, CURVE["examples"][-1])]
    assert (np.min(at_the_end), np.max(at_the_end)) == pytest.approx((-117.0, -113.0))


def test_compared_curves_mark_a_single_long_run_and_published_values():
    curve = {**CURVE, "test_bound": [-205.0, -125.0, -110.0]}
    figure = plots.compared_curves(
        {"Z = 2": {"AEVB": [CURVE]}, "Z = 5": {"AEVB": [CURVE]}},
        marks={"Z = 5": {"elsewhere": plots.Point(1e5, -105.0, 3.0)}},
        longest={"Z = 5": {"AEVB": curve}},
    )
    first, second = figure.axes
    assert len(first.lines) == 2
    lines = {str(line.get_label()): line for line in second.lines}
    alone = lines["AEVB, test, one seed"]
    np.testing.assert_array_equal(np.asarray(alone.get_ydata()), curve["test_bound"])
    assert alone.get_linestyle() == ":"
    assert alone.get_color() == lines["AEVB, test"].get_color()
    (bar,) = [c for c in second.collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose(bar.get_segments()[0], [[1e5, -108.0], [1e5, -102.0]])
    (legend,) = figure.legends
    named = {text.get_text() for text in legend.get_texts()}
    assert named == {"AEVB, train", "AEVB, test", "AEVB, test, one seed", "elsewhere"}


def test_speeds_are_bars_of_medians_below_the_limit():
    panel = plots.Speeds({"fast": [3.0, 9.0, 4.0], "slow": [1.0, 1.0, 2.0]}, [10.0, 12.0, 11.0])
    axes = only_axes(plots.speeds({"shape": panel}))
    assert axes.get_title() == "shape"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fast", "slow"]
    bars = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert bars == [4.0, 1.0]
    (limit,) = [line for line in axes.lines if line.get_label() == plots.LIMIT_LABEL]
    assert np.all(np.asarray(limit.get_xdata()) == 11.0)
    left, right = axes.get_xlim()
    assert left == 0.0
    assert right >= 12.0


def test_panels_are_drawn_side_by_side_with_their_titles():
    x = np.array([1.0, 2.0, 4.0])
    line = plots.Curves({"square": (x, x**2)}, "x", "y", axes={"xscale": "log"})
    plane = plots.Contours(x, x, {"density": np.eye(3)}, "z₁", "z₂", path=np.ones((2, 2)))
    clusters = plots.Clusters(
        np.zeros((4, 2)), np.array([0, 0, 1, 1]), np.array([[1.0, 2.0], [3.0, 4.0]]),
        np.stack([np.diag([4.0, 1.0])] * 2), np.array([0.5, 0.5]),
    )  # fmt: skip
    figure = plots.panels({"a": line, "b": plane, "c": clusters})
    first, second, third = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c"]
    assert (first.get_xscale(), first.get_xlabel(), first.get_ylabel()) == ("log", "x", "y")
    np.testing.assert_allclose(np.asarray(first.lines[0].get_ydata()), [1.0, 4.0, 16.0])
    assert len(second.lines) == 1
    ellipses = [patch for patch in third.patches if isinstance(patch, Ellipse)]
    centers = np.array([ellipse.get_center() for ellipse in ellipses])
    np.testing.assert_array_equal(centers, [[1.0, 2.0], [3.0, 4.0]])
    sizes = {tuple(sorted((ellipse.width, ellipse.height))) for ellipse in ellipses}
    assert sizes == {(2.0 * plots.ELLIPSE_STDS, 4.0 * plots.ELLIPSE_STDS)}
