"""Writes the tables and figures of docs/paper.md from the results of `python -m experiments.paper`.

    python -m docs.tools.paper [--folder=runs/paper-quick]

Each claim of the paper is a row: the claim, the measured result, and whether it confirms the claim.
A study that has not been run is reported as missing. Errors are standard errors over seeds.
Differences are between runs of the same seed, which start with the same weights and use the same
minibatches.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aevb.reports import figures
from aevb.reports.figures import Point
from experiments.paper.__main__ import PICTURES
from experiments.paper.__main__ import RESULTS as STUDIED

from .claims import all_claims
from .documents import MISSING, ROOT, filled_in, table
from .findings import (
    DECADES,
    FIGURE_3,
    FULL_VB,
    NAMES,
    NUM_TRAIN,
    Findings,
    Run,
    at,
    log_p,
    of_figure_3,
    over_seeds,
    paired,
    panels,
    power,
    speed_up,
)

DOCUMENT = ROOT / "docs" / "paper.md"


def claims_table(findings: Findings) -> str:
    rows = [f"| {' | '.join(claim)} |" for claim in all_claims(findings)]
    return "\n".join(
        ["| the paper says | we measured (nats) | holds |", "| --- | --- | --- |", *rows]
    )


def figure_2_table(findings: Findings) -> str:
    rows = []
    for _, title, num_latents, aevb, other in panels(findings):
        ends = [over_seeds([run["test_bound"] for run in runs]) for runs in (aevb, other)]
        leads = [paired(aevb, other, at(examples, "test_bound")) for examples in DECADES]
        faster = speed_up(aevb, other)
        rows.append(
            [
                f"{title}, Z = {num_latents}",
                *map(str, ends),
                *("" if lead is None else lead.signed for lead in leads),
                "" if faster is None else f"{faster}",
                "/".join(_steps(runs) for runs in (aevb, other)),
                str(len(aevb)),
            ]
        )
    header = ["", "AEVB, test", "wake-sleep, test"]
    header += [f"AEVB ahead at {power(examples)}" for examples in DECADES]
    header += ["fewer examples by", "step sizes", "seeds"]
    return table(header, rows) if rows else MISSING


def figure_3_table(findings: Findings) -> str:
    rows = []
    for num_train in findings.values("figure_3", NUM_TRAIN):
        for name in FIGURE_3:
            runs = of_figure_3(findings, name, data__num_train=num_train)
            if not runs:
                continue
            ends = [
                over_seeds([r["measured"]["appendix_d"][split][-1]["mean"] for r in runs])
                for split in ("train", "test")
            ]
            sandwich = [
                over_seeds([r["measured"]["sandwich"]["estimators"][e]["mean"] for r in runs])
                for e in ("importance", "ais", "appendix_d")
            ]
            rows.append(
                [
                    f"N = {num_train:,}, {NAMES[name]}",
                    *map(str, ends + sandwich),
                    _acceptance(runs),
                    _steps(runs),
                    str(len(runs)),
                ]
            )
    header = ["", "train", "test", "importance", "AIS", "appendix D", "acceptance"]
    return table([*header, "step size", "seeds"], rows) if rows else MISSING


def full_vb_table(findings: Findings) -> str:
    rows = []
    for study, title in FULL_VB.items():
        for num_train in findings.values(study, NUM_TRAIN):
            point = findings.runs(study, data__num_train=num_train, algorithm__name="aevb")
            full = findings.runs(study, data__num_train=num_train, algorithm__name="full_vb")
            rows.append(
                [
                    f"{title}, N = {num_train:,}",
                    str(over_seeds([run["test_bound"] for run in point])),
                    str(over_seeds([run["test_bound"] for run in full])),
                    str(over_seeds([log_p(run, "mean") for run in point])),
                    str(over_seeds([log_p(run, "mean") for run in full])),
                    str(over_seeds([log_p(run, "samples") for run in full])),
                    str(over_seeds([run["measured"]["evidence"]["bound"] for run in full])),
                    str(len(full)),
                ]
            )
    header = ["", "bound, MAP", "bound, mean of q(θ)", "log p(x), MAP", "log p(x), mean of q(θ)"]
    header += ["log p(x), samples of q(θ)", "bound on log p(X) / N", "seeds"]
    return table(header, rows) if rows else MISSING


SILENT = (
    ("silent_binarization", "MNIST's binarization, Z = 20", "data.binarization"),
    ("silent_split", "the split of the Frey faces, Z = 2", "data.split"),
    ("silent_init_mnist", "N(0, 0.01): standard deviation, MNIST, Z = 20", "model.init_std"),
    ("silent_init_frey", "N(0, 0.01): standard deviation, Frey faces, Z = 2", "model.init_std"),
    ("silent_biases", "the prior on biases, MNIST, Z = 20", "algorithm.prior_on_biases"),
)


def silent_table(findings: Findings) -> str:
    """Returns the choices that the paper leaves open, and the effect of each reading."""
    rows = []
    for study, title, axis in SILENT:
        for value in findings.values(study, axis):
            runs = findings.runs(study, **{axis.replace(".", "__"): value})
            bounds = [
                over_seeds([r[f"{split}_bound"] for r in runs]) for split in ("train", "test")
            ]
            rows.append([f"{title}: {value}", *map(str, bounds), _steps(runs), str(len(runs))])
    header = ["", "train bound", "test bound", "step size", "seeds"]
    return table(header, rows) if rows else MISSING


def provenance_table(findings: Findings) -> str:
    rows = []
    for study in findings.studies.values():
        machine, versions = study["machine"], study["versions"]
        rows.append(
            [
                f"`{study['command']}`",
                str(len(study["runs"])),
                str(sorted({run["seed"] for run in study["runs"]})),
                f"{sum(run['num_examples'] for run in study['runs']):.1e}",
                f"{sum(run.get('seconds', 0.0) for run in study['runs']) / 60:.0f}",
                f"{machine['processor']}, jax {versions['jax']}",
            ]
        )
    header = ["command", "runs", "seeds", "examples", "minutes of training", "machine"]
    return table(header, rows) if rows else MISSING


def _steps(runs: Sequence[Run]) -> str:
    return ", ".join(sorted({f"{run['step_size']:g}" for run in runs}))


def _acceptance(runs: Sequence[Run]) -> str:
    """Formats the acceptance of Monte Carlo EM's chains at the end of training."""
    found = [run["last_record"].get("recent_acceptance") for run in runs]
    return "" if None in found else f"{min(found):.2f} to {max(found):.2f}"


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
    "full variational Bayes": full_vb_table,
    "picture full variational Bayes": Picture(
        "full_vb", "Test log p(x) against N", ("full_vb_mnist", "full_vb_frey")
    ),
    "silent": silent_table,
    "provenance": provenance_table,
}


def text_of(document: str, findings: Findings) -> str:
    """Returns a document with each of its tables regenerated."""
    return filled_in(document, {name: lambda t=t: t(findings) for name, t in TABLES.items()})


def draw(findings: Findings, pictures: Path) -> None:
    """Draws figures 2, 3 and 6, as far as their studies have been run."""
    for study, limits in (("figure_2_mnist", (-180.0, -90.0)), ("figure_2_frey", (0.0, 1600.0))):
        if study in findings.studies:
            drawn = {
                f"{title}, Z = {num_latents}": {
                    NAMES["aevb"]: [run["curve"] for run in aevb],
                    NAMES["wake_sleep"]: [run["curve"] for run in other],
                }
                for name, title, num_latents, aevb, other in panels(findings)
                if name == study
            }
            best = max(max(r["curve"]["test_bound"]) for r in findings.runs(study))
            low, high = limits
            shown = (min(low, best - 0.25 * (high - low)), high)
            figures.save(
                figures.compared_curves(drawn, y_limits=shown), str(pictures / f"{study}.png")
            )
    if set(FIGURE_3.values()) <= findings.studies.keys():
        drawn = {
            f"N = {num_train:,}": {
                NAMES[name]: [_appendix_d_curve(run) for run in runs]
                for name in FIGURE_3
                if (runs := of_figure_3(findings, name, data__num_train=num_train))
            }
            for num_train in findings.values("figure_3", NUM_TRAIN)
        }
        figure = figures.compared_curves(
            drawn, y_label="log p(x) by appendix D (nats per datapoint)"
        )
        figures.save(figure, str(pictures / "figure_3.png"))
    if {"full_vb_mnist", "full_vb_frey"} <= findings.studies.keys():
        figure = figures.measurements(
            {title: _predictions(findings, study) for study, title in FULL_VB.items()},
            x_label="training datapoints N",
            y_label="test log p(x) (nats per datapoint)",
        )
        figures.save(figure, str(pictures / "full_vb.png"))


def _appendix_d_curve(run: Run) -> dict[str, list[float]]:
    found = run["measured"]["appendix_d"]
    return {
        "examples": found["examples"],
        **{f"{split}_bound": [e["mean"] for e in found[split]] for split in ("train", "test")},
    }


def _predictions(findings: Findings, study: str) -> dict[str, list[Point]]:
    lines = {}
    for label, algorithm, by in (
        ("MAP", "aevb", "mean"),
        ("mean of q(θ)", "full_vb", "mean"),
        ("samples of q(θ)", "full_vb", "samples"),
    ):
        points = []
        for num_train in findings.values(study, NUM_TRAIN):
            runs = findings.runs(study, data__num_train=num_train, algorithm__name=algorithm)
            found = over_seeds([log_p(run, by) for run in runs])
            points.append(Point(num_train, found.mean, found.error or 0.0))
        lines[label] = points
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="of a quick study, whose results are read and to which the report is written",
    )
    folder = parser.parse_args().folder
    results, pictures, document = STUDIED, PICTURES, DOCUMENT
    if folder:
        results, pictures, document = folder / "results", folder / "paper", folder / "paper.md"
    findings = Findings(results)
    pictures.mkdir(parents=True, exist_ok=True)
    draw(findings, pictures)
    document.write_text(text_of(DOCUMENT.read_text(), findings))
    print(f"{document}, of {len(findings.studies)} studies")


if __name__ == "__main__":
    main()
