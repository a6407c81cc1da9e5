"""The results files of the paper's studies, and statistics over their seeds."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aevb.evaluation.intervals import (
    LEVEL,
    Interval,
    crossed_interval,
    interval_from,
    mean_interval,
)
from aevb.evaluation.log_likelihood import reason_to_distrust
from experiments.paper.studies import STUDIES, long_name

from .documents import read

NAMES = {
    "aevb": "AEVB",
    "wake_sleep": "wake-sleep",
    "mcem": "Monte-Carlo EM",
    "full_vb": "full variational Bayes",
}
FIGURE_2 = {"figure_2_mnist": "MNIST", "figure_2_frey": "Frey faces"}
FIGURE_3 = {"aevb": "figure_3", "wake_sleep": "figure_3", "mcem": "figure_3_mcem"}
FULL_VB = {  # study -> its data, and the study of its point estimates
    "full_vb_mnist": ("MNIST", "full_vb_mnist_map"),
    "full_vb_frey": ("Frey faces", "full_vb_frey_map"),
    "full_vb_frey_1000": ("Frey faces", "full_vb_frey_map"),
}
DECADES = (100_000, 1_000_000, 10_000_000)
NUM_TRAIN = "data.num_train"

Run = Mapping[str, Any]
Measure = Callable[[Run], Any]  # a number, or None if the run has no such figure


class Panel(NamedTuple):
    """The runs of a panel of figure 2."""

    study: str
    title: str
    aevb: list[Run]
    other: list[Run]  # by wake-sleep
    longest: Mapping[str, Run] = {}  # algorithm -> its run of 10^8 examples, with one seed


class Findings:
    """The results files of a folder."""

    def __init__(self, folder: Path):
        self.studies = {
            name: read(folder / f"{name}.json")
            for name in STUDIES
            if (folder / f"{name}.json").exists()
        }

    def runs(self, study: str, **setting: Any) -> list[Run]:
        """Returns the runs of a study that have these values; `__` stands for a field's dot."""
        wanted = {name.replace("__", "."): value for name, value in setting.items()}
        runs = self.studies.get(study, {"runs": []})["runs"]
        return [run for run in runs if wanted.items() <= run["setting"].items()]

    def values(self, study: str, axis: str = NUM_TRAIN) -> list[Any]:
        """Returns the sorted values of an axis of a study."""
        return sorted({run["setting"][axis] for run in self.runs(study)})

    def panels(self) -> Iterator[Panel]:
        """Yields the panels of figure 2."""
        for study, data in FIGURE_2.items():
            for Z in self.values(study, "model.num_latents"):
                aevb, other = (
                    self.runs(study, model__num_latents=Z, algorithm__name=name)
                    for name in ("aevb", "wake_sleep")
                )
                longest = {
                    name: run
                    for name in ("aevb", "wake_sleep")
                    for run in self.runs(long_name(study, Z, name))
                }
                yield Panel(study, f"{data}, Z = {Z}", aevb, other, longest)

    def figure_3(self, algorithm: str, **setting: Any) -> list[Run]:
        """Returns the runs of an algorithm that have these values of other fields."""
        return self.runs(FIGURE_3[algorithm], algorithm__name=algorithm, **setting)

    def full_vb(self, study: str, num_train: int) -> tuple[list[Run], list[Run]]:
        """Returns the runs with a point estimate of theta, and those with a posterior."""
        _, of_points = FULL_VB[study]
        point, full = (self.runs(name, data__num_train=num_train) for name in (of_points, study))
        return point, full


def differences(
    first: Iterable[Run],
    second: Iterable[Run],
    measure: Measure,
    measure_second: Measure | None = None,
) -> list[Any]:
    """Returns the differences between runs of the same seed, for the seeds that have both."""
    others = {run["seed"]: (measure_second or measure)(run) for run in second}
    both = [(measure(run), others.get(run["seed"])) for run in first]
    return [one - other for one, other in both if one is not None and other is not None]


def paired(
    first: Iterable[Run],
    second: Iterable[Run],
    measure: Measure,
    measure_second: Measure | None = None,
    *,
    level: float = LEVEL,
) -> Interval | None:
    """Returns the mean difference between runs of the same seed, or None if no seed has both."""
    found = differences(first, second, measure, measure_second)
    return mean_interval(found, level=level) if found else None


def paired_over_images(
    first: Iterable[Run], second: Iterable[Run], measure: Measure
) -> Interval | None:
    """Returns the mean difference over seeds and images, both random, or None if there is no pair.

    Args:
        measure: returns a run's values [n] at the n images that all runs share, or None.
    """
    found = differences(first, second, measure)
    return crossed_interval(found) if found else None


def at(examples: int, column: str) -> Measure:
    """Returns a measure: a run's bound at the evaluation nearest to `examples`, at most 10% off."""

    def measure(run: Run) -> float | None:
        off = np.abs(np.array(run["curve"]["examples"]) - examples)
        nearest = int(np.argmin(off))
        return run["curve"][column][nearest] if off[nearest] <= examples / 10 else None

    return measure


def speed_up(aevb: Sequence[Run], other: Sequence[Run]) -> Interval | None:
    """Returns the factor by which AEVB needs fewer examples to reach the other's best test bound.

    Returns None if no seed has both runs, or if a run of AEVB does not reach it.
    """
    others, found = {run["seed"]: run["curve"] for run in other}, []
    for run in aevb:
        if run["seed"] not in others:
            continue
        curve, target = run["curve"], others[run["seed"]]
        best = int(np.argmax(target["test_bound"]))
        reached = np.array(curve["test_bound"]) >= target["test_bound"][best]
        if not reached.any():
            return None
        found.append(target["examples"][best] / curve["examples"][int(np.argmax(reached))])
    return mean_interval(found) if found else None


def log_p(run: Run, by: str) -> float:
    """Returns a full-VB run's test log p(x), by the "mean" or by "samples" of theta."""
    return run["measured"][by]["estimators"]["importance"]["mean"]


def is_reliable(run: Run, by: str) -> bool:
    """Checks whether a run's test log p(x) has enough samples of theta.

    log p(x) at the mean of q(theta) always passes.
    """
    found = run["measured"][by]
    row = {"num_theta": found["model"]["num_theta"], **found["estimators"]["importance"]}
    return not row["num_theta"] or reason_to_distrust(row) is None


def at_the_images(run: Run) -> np.ndarray | None:
    """Returns log p(x) [n] of a run of figure 3 at each test image, by appendix D at the end.

    Returns None for an older results file, which has only the mean.
    """
    values = run["measured"]["appendix_d"]["test"][-1].get("values")
    return None if values is None else np.array(values)


def over_images(runs: Sequence[Run]) -> float:
    """Returns the half-width of figure 3's 95 % intervals over test images, averaged over runs.

    Each interval is for log p(x) of one run's model, by appendix D at the end of training.
    """
    halves = []
    for run in runs:
        row = run["measured"]["appendix_d"]["test"][-1]
        number = run["measured"]["sandwich"]["data"]["num_points"]
        error = [row["standard_error"]]
        halves.append(interval_from(row["mean"], error, number - 1, number=number).half_width)
    return float(np.mean(halves))


def power(examples: int) -> str:
    """Formats a power of ten, for example 10⁶."""
    return "10" + "⁰¹²³⁴⁵⁶⁷⁸⁹"[round(math.log10(examples))]
