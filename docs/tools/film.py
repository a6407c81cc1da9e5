"""The tables and the figure of the Frey film in docs/results.md."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aevb.evaluation.intervals import mean_interval
from aevb.reports import figures

from .documents import MISSING, RESULTS, read, table

FILE = RESULTS / "film.json"
TITLES = {
    "neural": "state-space model, neural dynamics",
    "linear": "state-space model, linear dynamics",
    "frames": "VAE of single frames",
    "frames_random": "VAE of single frames, random split",
}
BASELINES = {
    "previous_frame": "Gaussian around the previous frame",
    "mean_face": "Gaussian around the mean face",
}
SMOOTHING = 20  # frames whose mean is drawn


def _found() -> Mapping[str, Any] | None:
    return read(FILE) if FILE.is_file() else None


def score_table() -> str:
    """Returns log p of a frame of the last fifth, given what came before."""
    if (found := _found()) is None:
        return MISSING
    settings = found["settings"]
    many, few = f"K = {settings['num_samples']:,}", f"K = {settings['few']}"

    def row(title: str, runs: list[Mapping[str, Any]]) -> dict[str, str]:
        return {
            "": title,
            f"log p of a frame, {many} (nats)": mean_interval([r["log_p"] for r in runs]).text(),
            few: mean_interval([r["with_few"] for r in runs]).text(),
        }

    rows = [row(title, found["models"][name]) for name, title in TITLES.items()]
    for name, title in BASELINES.items():
        cells = [title, f"{found['baselines'][name]['log_p']:.1f}", ""]
        rows.append(dict(zip(rows[0], cells, strict=True)))
    return table(rows)


def prediction_table() -> str:
    """Returns the root mean square error of predictions by the frames ahead."""
    if (found := _found()) is None:
        return MISSING
    rows = []
    for name in ("neural", "linear"):
        by_run = [run["rmse"] for run in found["models"][name]]
        errors = {h: mean_interval([rmse[h] for rmse in by_run]).text(4) for h in by_run[0]}
        rows.append({"frames ahead": TITLES[name], **errors})
    for name, title in BASELINES.items():
        rmse = found["baselines"][name]["rmse"]
        center = title.removeprefix("Gaussian around ")
        rows.append({"frames ahead": center, **{h: f"{e:.4f}" for h, e in rmse.items()}})
    return table(rows)


def film_figure() -> Figure:
    """Draws log p along the last fifth, and the errors of predictions by the frames ahead."""
    found = read(FILE)
    titles = ("log p of a frame given the past", "Error of the predicted mean")
    figure, (left, right) = figures.titled_axes(titles, (5.5, 3.6))
    window = np.ones(SMOOTHING) / SMOOTHING
    for name in ("neural", "frames", "previous_frame"):
        if name in BASELINES:
            values = np.array(found["baselines"][name]["values"])
        else:
            values = np.mean([run["values"] for run in found["models"][name]], axis=0)
        smooth = np.convolve(values, window, mode="valid")
        label = (TITLES | BASELINES)[name]
        left.plot(np.arange(len(smooth)) + SMOOTHING / 2, smooth, label=label)
    for name in ("neural", "linear", *BASELINES):
        if name in BASELINES:
            rmse = found["baselines"][name]["rmse"]
        else:
            runs = [run["rmse"] for run in found["models"][name]]
            rmse = {h: float(np.mean([run[h] for run in runs])) for h in runs[0]}
        label = (TITLES | BASELINES)[name].removeprefix("Gaussian around ")
        right.semilogx([int(h) for h in rmse], [*rmse.values()], "o-", label=label)
    figures.label_axes(left, "frame of the last fifth", "nats")
    figures.label_axes(right, "frames ahead", "root mean square error of a pixel")
    for axes in (left, right):
        axes.legend(loc="best", fontsize="small")
    return figure


TABLES: Mapping[str, Callable[[], str]] = {
    "film scores": score_table,
    "film predictions": prediction_table,
}
FIGURES = {"film": film_figure} if FILE.is_file() else {}
