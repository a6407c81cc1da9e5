"""Writes the tables and figures of docs/paper.md from the results of `python -m experiments.paper`.

    python -m docs.tools.paper [--folder=runs/paper-quick]

Each claim of the paper is a row: the claim, the measured result, and whether it confirms the claim.
A study that has not been run is reported as missing. After ± is half of a 95 % interval over seeds.
Differences are between runs of the same seed, which start with the same weights and use the same
minibatches.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aevb.evaluation.intervals import mean_interval
from aevb.reports import figures
from experiments.paper.studies import PICTURES
from experiments.paper.studies import RESULTS as STUDIED

from . import full_vb, plots
from .claims import all_claims
from .documents import MISSING, ROOT, filled_in, table
from .findings import (
    DECADES,
    FIGURE_3,
    FULL_VB,
    NAMES,
    Findings,
    Measure,
    Run,
    at,
    over_images,
    paired,
    power,
    speed_up,
)
from .papers_ends import ENDS, EXAMPLES

DOCUMENT = ROOT / "docs" / "paper.md"
SILENT = (
    ("silent_binarization", "MNIST's binarization, Z = 20", "data.binarization"),
    ("silent_split", "the split of the Frey faces, Z = 2", "data.split"),
    ("silent_init_mnist", "N(0, 0.01): standard deviation, MNIST, Z = 20", "model.init_std"),
    ("silent_init_frey", "N(0, 0.01): standard deviation, Frey faces, Z = 2", "model.init_std"),
    ("silent_biases", "the prior on biases, MNIST, Z = 20", "algorithm.prior_on_biases"),
)


def _mean(runs: Sequence[Run], measure: str | Measure) -> str:
    """Formats the mean over seeds of an entry of the runs, or of a measure."""
    values = [run[measure] if isinstance(measure, str) else measure(run) for run in runs]
    return mean_interval(values).text()


def _steps(runs: Sequence[Run]) -> str:
    return ", ".join(sorted({f"{run['step_size']:g}" for run in runs}))


def _acceptance(runs: Sequence[Run]) -> str:
    """Formats the acceptance rates of Monte-Carlo EM's chains at the end of training."""
    found = [run["last_record"].get("recent_acceptance") for run in runs]
    return "" if None in found else f"{min(found):.2f} to {max(found):.2f}"


def claims_table(findings: Findings) -> str:
    rows = [
        {"claim of the paper": says, "measured (nats)": measured, "confirmed": holds}
        for says, measured, holds in all_claims(findings)
    ]
    return table(rows, are_numbers=False)


def figure_2_table(findings: Findings) -> str:
    def lead(aevb: Sequence[Run], other: Sequence[Run], examples: int) -> str:
        found = paired(aevb, other, at(examples, "test_bound"))
        return "" if found is None else found.text(is_signed=True)

    def faster(aevb: Sequence[Run], other: Sequence[Run]) -> str:
        found = speed_up(aevb, other)
        return "" if found is None else found.text()

    return table(
        {
            "": title,
            "AEVB, test bound": _mean(aevb, "test_bound"),
            "paper's AEVB at 10⁸, from memory": str(ENDS[title]),
            "wake-sleep, test bound": _mean(other, "test_bound"),
            **{f"lead of AEVB at {power(n)}": lead(aevb, other, n) for n in DECADES},
            "speedup in examples": faster(aevb, other),
            "step sizes": f"{_steps(aevb)}/{_steps(other)}",
            "seeds": str(len(aevb)),
        }
        for _, title, aevb, other, _ in findings.panels()
    )


def longest_table(findings: Findings) -> str:
    """Returns the test bounds of the runs of 10⁸ examples beside those of 10⁷."""
    return table(
        {
            "": title,
            **{
                f"{NAMES[name]}, {power(n)}": _bound_at(longest[name], n) if name in longest else ""
                for name in ("aevb", "wake_sleep")
                for n in (DECADES[-1], EXAMPLES)
            },
            "paper's AEVB, from memory": str(ENDS[title]),
        }
        for _, title, _, _, longest in findings.panels()
        if longest
    )


def _bound_at(run: Run, examples: int) -> str:
    """Formats a run's test bound at a number of examples; "" if it has not been reached."""
    found = at(examples, "test_bound")(run)
    return "" if found is None else f"{found:.1f}"


def ends_paragraph(findings: Findings) -> str:
    """Returns a sentence that lists the panels where AEVB ends outside the paper's range."""
    outside, panels = [], list(findings.panels())
    for _, title, aevb, _, longest in panels:
        end, examples = ENDS[title], DECADES[-1]
        bound = mean_interval([run["test_bound"] for run in aevb]).mean
        if "aevb" in longest:
            bound, examples = longest["aevb"]["test_bound"], longest["aevb"]["num_examples"]
        if not end.has(bound):
            words = "below" if bound < end.bound else "above"
            outside.append(f"{title} ({bound:.1f} at {power(examples)} here, {words} {end} there)")
    if not panels:
        return MISSING
    inside = len(panels) - len(outside)
    return (
        f"AEVB's test bound ends within the remembered range of the paper's curve in {inside} of "
        f"{len(panels)} panels. The others are {'; '.join(outside) or 'none'}."
    )


def figure_3_table(findings: Findings) -> str:
    def appendix_d(split: str) -> Measure:
        return lambda run: run["measured"]["appendix_d"][split][-1]["mean"]

    def at_the_end(estimator: str) -> Measure:
        return lambda run: run["measured"]["sandwich"]["estimators"][estimator]["mean"]

    return table(
        {
            "": f"N = {num_train:,}, {NAMES[name]}",
            **{f"log p(x), {split}": _mean(runs, appendix_d(split)) for split in ("train", "test")},
            "importance sampling": _mean(runs, at_the_end("importance")),
            "AIS": _mean(runs, at_the_end("ais")),
            "appendix D": _mean(runs, at_the_end("appendix_d")),
            "± over test images": f"{over_images(runs):.1f}",
            "acceptance rate": _acceptance(runs),
            "step size": _steps(runs),
            "seeds": str(len(runs)),
        }
        for num_train in findings.values("figure_3")
        for name in FIGURE_3
        if (runs := findings.figure_3(name, data__num_train=num_train))
    )


def silent_table(findings: Findings) -> str:
    """Returns the choices that the paper leaves open, and the effect of each reading."""
    return table(
        {
            "": f"{title}: {value}",
            "train bound": _mean(runs, "train_bound"),
            "test bound": _mean(runs, "test_bound"),
            "step size": _steps(runs),
            "seeds": str(len(runs)),
        }
        for study, title, axis in SILENT
        for value in findings.values(study, axis)
        for runs in [findings.runs(study, **{axis.replace(".", "__"): value})]
    )


def provenance_table(findings: Findings) -> str:
    return table(
        {
            "study": f"`{name}`",
            "runs": str(len(study["runs"])),
            "seeds": str(sorted({run["seed"] for run in study["runs"]})),
            "examples": f"{sum(run['num_examples'] for run in study['runs']):.1e}",
            "training (minutes)": f"{sum(run['seconds'] for run in study['runs']) / 60:.0f}",
            "machine": f"{study['machine']['processor']}, jax {study['versions']['jax']}",
        }
        for name, study in findings.studies.items()
    )


class Picture(NamedTuple):
    """An image file of the document, shown once the studies that it needs have been run."""

    file: str
    caption: str
    needs: tuple[str, ...]

    def __call__(self, findings: Findings) -> str:
        if set(self.needs) <= findings.studies.keys():
            return f"![{self.caption}](paper/{self.file}.png)"
        return f"{self.caption}: {MISSING}"


TABLES: Mapping[str, Callable[[Findings], str]] = {
    "claims": claims_table,
    "figure 2": figure_2_table,
    "ends": ends_paragraph,
    "longest": longest_table,
    "picture 2 mnist": Picture(
        "figure_2_mnist", "The bound along training, MNIST", ("figure_2_mnist",)
    ),
    "picture 2 frey": Picture(
        "figure_2_frey", "The bound along training, Frey faces", ("figure_2_frey",)
    ),
    "figure 3": figure_3_table,
    "picture 3": Picture("figure_3", "log p(x) along training", ("figure_3", "figure_3_mcem")),
    "picture 4": Picture("figure_4", "Two learned manifolds", ("figure_2_frey", "figure_5")),
    "picture 5": Picture("figure_5", "Samples of MNIST", ("figure_2_frey", "figure_5")),
    "full vb convergence": full_vb.convergence_table,
    "picture full vb convergence": Picture(
        "full_vb_convergence", "The objective and KL(θ) along training", ("full_vb_frey",)
    ),
    "full vb pruned": full_vb.pruned_sentence,
    "picture full vb pruning": Picture(
        "full_vb_pruning", "KL(θ) per weight of each hidden unit", ("full_vb_frey",)
    ),
    "full vb predictions": full_vb.predictions_table,
    "full vb samples": full_vb.samples_sentence,
    "full vb options": full_vb.options_table,
    "silent": silent_table,
    "provenance": provenance_table,
}


def text_of(document: str, findings: Findings) -> str:
    """Returns a document with each of its tables regenerated."""
    return filled_in(document, {name: lambda t=t: t(findings) for name, t in TABLES.items()})


def draw(findings: Findings, pictures: Path) -> None:
    """Draws figures 2 and 3 and those of full variational Bayes, if their studies were run."""
    for study, limits in (("figure_2_mnist", (-180.0, -90.0)), ("figure_2_frey", (0.0, 1600.0))):
        if study in findings.studies:
            _draw_figure_2(findings, study, limits, pictures / f"{study}.png")
    if set(FIGURE_3.values()) <= findings.studies.keys():
        drawn = {
            f"N = {num_train:,}": {
                NAMES[name]: [_appendix_d_curve(run) for run in runs]
                for name in FIGURE_3
                if (runs := findings.figure_3(name, data__num_train=num_train))
            }
            for num_train in findings.values("figure_3")
        }
        label = "log p(x) by appendix D (nats per datapoint)"
        figures.save(plots.compared_curves(drawn, y_label=label), str(pictures / "figure_3.png"))
    if FULL_VB.keys() & findings.studies.keys():
        for name, drawing in (
            ("convergence", full_vb.draw_convergence(findings)),
            ("pruning", full_vb.draw_pruning(findings)),
        ):
            figures.save(drawing, str(pictures / f"full_vb_{name}.png"))


def _draw_figure_2(findings: Findings, study: str, limits: tuple[float, float], file: Path) -> None:
    drawn = {
        panel.title: {
            NAMES["aevb"]: [run["curve"] for run in panel.aevb],
            NAMES["wake_sleep"]: [run["curve"] for run in panel.other],
        }
        for panel in findings.panels()
        if panel.study == study
    }
    best = max(max(run["curve"]["test_bound"]) for run in findings.runs(study))
    low, high = limits
    shown = (min(low, best - 0.25 * (high - low)), high)
    marks = {
        title: {"AEVB in the paper, from memory": plots.Point(EXAMPLES, *ENDS[title])}
        for title in drawn
    }
    longest = {
        panel.title: {NAMES[name]: run["curve"] for name, run in panel.longest.items()}
        for panel in findings.panels()
    }
    figure = plots.compared_curves(drawn, y_limits=shown, marks=marks, longest=longest)
    figures.save(figure, str(file))


def _appendix_d_curve(run: Run) -> dict[str, list[float]]:
    found = run["measured"]["appendix_d"]
    return {
        "examples": found["examples"],
        **{f"{split}_bound": [e["mean"] for e in found[split]] for split in ("train", "test")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="of a quick study, to which the report goes")
    folder = parser.parse_args().folder
    results, pictures, document = STUDIED, PICTURES, DOCUMENT
    if folder:
        results, pictures, document = folder / "results", folder / "paper", folder / "paper.md"
    findings = Findings(results)
    pictures.mkdir(parents=True, exist_ok=True)
    draw(findings, pictures)
    document.write_text(text_of(DOCUMENT.read_text(encoding="utf-8"), findings), encoding="utf-8")
    print(f"{document}, of {len(findings.studies)} studies")


if __name__ == "__main__":
    main()
