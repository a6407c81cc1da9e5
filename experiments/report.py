"""Writes the tables and figures of docs/paper.md from what `experiments/paper.py` found.

    python experiments/report.py [--folder=runs/paper-quick]

Each claim of the paper is a row: what it says, what was measured, and whether that holds. A study
that was not run yet is said to be missing. Errors are standard errors over seeds; differences are
between runs of the same seed, which begin with the same weights and see the same minibatches.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paper import PICTURES, STUDIES
from paper import RESULTS as STUDIED
from readme import BENCHMARKS, IN_FULL, RESULTS, ROOT, filled_in, read, table

from aevb import figures
from aevb.figures import Point
from aevb.metrics import mean_over_seeds

DOCUMENT = ROOT / "docs" / "paper.md"
NAMES = {
    "sgvb": "AEVB",
    "wake_sleep": "wake-sleep",
    "mcem": "Monte-Carlo EM",
    "full_vb": "full variational Bayes",
}
DATA = {"figure_2_mnist": "MNIST", "figure_2_frey": "Frey faces"}
DECADES = (100_000, 1_000_000, 10_000_000)
PAPERS_SECONDS = 20 * 60  # for a million examples, at best
LATENTS, ALGORITHM, NUM_TRAIN = "model.num_latents", "algorithm.name", "data.num_train"
MISSING = "not run yet"

Run = Mapping[str, Any]


class Figure(NamedTuple):
    """A mean over seeds with its standard error, which one seed does not have."""

    mean: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.error is None else f" ± {self.error:.1f}")

    @property
    def signed(self) -> str:
        return "+" * (self.mean > 0) + str(self)


class Claim(NamedTuple):
    """A row of the report."""

    says: str
    measured: str
    holds: str


class Report:
    """The results files of a folder, and what they say."""

    def __init__(self, folder: Path):
        self.studies = {
            name: read(folder / f"{name}.json")
            for name in STUDIES
            if (folder / f"{name}.json").exists()
        }

    def runs(self, study: str, **setting: Any) -> list[Run]:
        """Of a study, those with these values (`__` standing for the dot of a field's name)."""
        wanted = {name.replace("__", "."): value for name, value in setting.items()}
        return [
            run
            for run in self.studies.get(study, {"runs": []})["runs"]
            if wanted.items() <= run["setting"].items()
        ]

    def values(self, study: str, axis: str) -> list[Any]:
        """What an axis of a study goes through, sorted."""
        return sorted({run["setting"][axis] for run in self.runs(study)})


def over_seeds(values: Sequence[float]) -> Figure:
    found = mean_over_seeds(values)
    return Figure(found["mean"], found["standard_error"])


Measure = Callable[[Run], float | None]  # None where a run has no such figure


def paired(
    first: Iterable[Run],
    second: Iterable[Run],
    measure: Measure,
    measure_second: Measure | None = None,
) -> Figure | None:
    """The difference between runs of the same seed; None where none has both."""
    others = {run["seed"]: (measure_second or measure)(run) for run in second}
    both = [(measure(run), others.get(run["seed"])) for run in first]
    found = [one - other for one, other in both if one is not None and other is not None]
    return over_seeds(found) if found else None


def at(examples: int, column: str) -> Measure:
    """A run's bound at the evaluation nearest to so many examples, but at most a tenth off."""

    def measure(run: Run) -> float | None:
        curve = run["curve"]
        nearest = min(
            range(len(curve["examples"])), key=lambda i: abs(curve["examples"][i] - examples)
        )
        if abs(curve["examples"][nearest] - examples) > examples / 10:
            return None
        return curve[column][nearest]

    return measure


def speed_up(aevb: Sequence[Run], other: Sequence[Run]) -> Figure | None:
    """How many times fewer examples AEVB needs for the test bound that the other ends with."""
    others, found = {run["seed"]: run for run in other}, []
    for run in aevb:
        if run["seed"] not in others:
            continue
        curve, target = run["curve"], others[run["seed"]]["curve"]
        goal = max(target["test_bound"])
        last = target["examples"][int(np.argmax(target["test_bound"]))]
        reached = [
            examples
            for examples, bound in zip(curve["examples"], curve["test_bound"], strict=True)
            if bound >= goal
        ]
        if not reached:
            return None
        found.append(last / reached[0])
    return over_seeds(found) if found else None


# Figure 2


def panels(report: Report) -> Iterable[tuple[str, str, int, list[Run], list[Run]]]:
    """(study, title, Z, runs of AEVB, runs of wake-sleep) of each panel of figure 2."""
    for study, title in DATA.items():
        for num_latents in report.values(study, LATENTS):
            aevb, other = (
                report.runs(study, model__num_latents=num_latents, algorithm__name=name)
                for name in ("sgvb", "wake_sleep")
            )
            yield study, title, num_latents, aevb, other


def figure_2_table(report: Report) -> str:
    rows = []
    for _, title, num_latents, aevb, other in panels(report):
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
    header += [f"AEVB ahead at {_power(examples)}" for examples in DECADES]
    header += ["fewer examples by", "step sizes", "seeds"]
    return table(header, rows) if rows else MISSING


def _steps(runs: Sequence[Run]) -> str:
    return ", ".join(sorted({f"{run['step_size']:g}" for run in runs}))


def _power(examples: int) -> str:
    return "10" + str(round(math.log10(examples))).translate(
        str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    )


def verdict(lead: Figure, least: float = 0.0) -> str:
    """Whether a lead is more than `least`, by two standard errors where they are known."""
    margin = 2 * (lead.error or 0.0)
    if lead.mean - margin > least:
        return "yes"
    return "no" if lead.mean + margin < least else "within errors"


def claim_better(report: Report) -> Claim:
    says = "AEVB converges considerably faster than wake-sleep and reaches a better solution, in "
    says += "all experiments (figure 2)"
    verdicts, others = [], []
    for _, title, num_latents, aevb, other in panels(report):
        for examples in DECADES:
            for split in ("train", "test"):
                lead = paired(aevb, other, at(examples, f"{split}_bound"))
                if lead is None:
                    continue
                verdicts.append(verdict(lead))
                if verdicts[-1] != "yes":
                    where = f"{title} Z = {num_latents} at {_power(examples)}, {split}"
                    others.append(f"{where}: {lead.signed}")
    if not verdicts:
        return Claim(says, MISSING, "")
    measured = f"ahead in {verdicts.count('yes')} of {len(verdicts)} cells (panel, decade, split)"
    if others:
        measured += "; not in " + "; ".join(others)
    return Claim(says, measured, "in part" if others else "yes")


def claim_superfluous(report: Report) -> list[Claim]:
    says = "Superfluous latent variables do not overfit (figure 2)"
    claims = []
    for study, many, few, least in (
        ("figure_2_mnist", 200, 20, -1.0),
        ("figure_2_frey", 20, 2, 0.0),
    ):
        lead = paired(
            report.runs(study, model__num_latents=many, algorithm__name="sgvb"),
            report.runs(study, model__num_latents=few, algorithm__name="sgvb"),
            lambda run: run["test_bound"],
        )
        title = f"{DATA[study]}, test: Z = {many} is ahead of Z = {few} by"
        if lead is None:
            claims.append(Claim(says, f"{title}: {MISSING}", ""))
        else:
            claims.append(Claim(says, f"{title} {lead.signed}", verdict(lead, least)))
    return claims


# Figure 3


def figure_3_table(report: Report) -> str:
    rows = []
    for num_train in report.values("figure_3", NUM_TRAIN):
        for name in ("sgvb", "wake_sleep", "mcem"):
            runs = report.runs("figure_3", data__num_train=num_train, algorithm__name=name)
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


def _acceptance(runs: Sequence[Run]) -> str:
    """Of MCEM's chains, at the end of training."""
    found = [run["last_record"].get("recent_acceptance") for run in runs]
    return "" if None in found else f"{min(found):.2f} to {max(found):.2f}"


def claim_figure_3(report: Report) -> list[Claim]:
    """Of wake-sleep, and of MCEM."""
    says = {
        "wake_sleep": "AEVB's marginal likelihood is above wake-sleep's (figure 3)",
        "mcem": "MCEM is no online algorithm, and cannot be applied efficiently to the full MNIST "
        "data set (figure 3)",
    }
    claims = []
    for name, words in says.items():
        leads = {
            num_train: paired(
                report.runs("figure_3", data__num_train=num_train, algorithm__name="sgvb"),
                report.runs("figure_3", data__num_train=num_train, algorithm__name=name),
                lambda run: run["measured"]["appendix_d"]["test"][-1]["mean"],
            )
            for num_train in report.values("figure_3", NUM_TRAIN)
        }
        found = {num_train: lead for num_train, lead in leads.items() if lead is not None}
        if not found:
            claims.append(Claim(words, MISSING, ""))
            continue
        measured = "test log p(x) after as many examples, AEVB ahead by " + ", ".join(
            f"{lead.signed} (N = {num_train:,})" for num_train, lead in found.items()
        )
        if name == "mcem":
            measured += f"; an example takes MCEM {_cost(report):.0f} times as long"
        verdicts = {verdict(lead) for lead in found.values()}
        claims.append(Claim(words, measured, verdicts.pop() if len(verdicts) == 1 else "in part"))
    return claims


def _cost(report: Report) -> float:
    """Of an example to MCEM, in AEVB's; both on a core that nothing else was given."""
    seconds = {
        name: np.median(
            [run["seconds"] / run["num_examples"] for run in report.runs("figure_3", **setting)]
        )
        for name in ("sgvb", "mcem")
        for setting in [{"algorithm__name": name}]
    }
    return float(seconds["mcem"] / seconds["sgvb"])


def claim_appendix_d(report: Report) -> Claim:
    says = "The estimator of appendix D is good for few latent dimensions"
    gaps = [
        run["measured"]["sandwich"]["sandwich"]["appendix_d - ais"]["mean"]
        for run in report.runs("figure_3")
    ]
    if not gaps:
        return Claim(says, MISSING, "")
    typical, widest = float(np.median(np.abs(gaps))), float(np.max(np.abs(gaps)))
    measured = f"3 latents: {typical:.2f} nats from AIS in the median of {len(gaps)} models, "
    measured += f"{widest:.2f} at most"
    return Claim(says, measured, "yes" if widest < 1.0 else "in part")


# Figure 6, and what else is claimed


def figure_6_table(report: Report) -> str:
    rows = []
    for study, title in (("figure_6_mnist", "MNIST"), ("figure_6_frey", "Frey faces")):
        for num_train in report.values(study, NUM_TRAIN):
            point = report.runs(study, data__num_train=num_train, algorithm__name="sgvb")
            full = report.runs(study, data__num_train=num_train, algorithm__name="full_vb")
            rows.append(
                [
                    f"{title}, N = {num_train:,}",
                    str(over_seeds([run["test_bound"] for run in point])),
                    str(over_seeds([run["test_bound"] for run in full])),
                    str(over_seeds([_log_p(run, "mean") for run in point])),
                    str(over_seeds([_log_p(run, "mean") for run in full])),
                    str(over_seeds([_log_p(run, "samples") for run in full])),
                    str(over_seeds([run["measured"]["evidence"]["bound"] for run in full])),
                    str(len(full)),
                ]
            )
    header = ["", "bound, MAP", "bound, mean of q(θ)", "log p(x), MAP", "log p(x), mean of q(θ)"]
    header += ["log p(x), samples of q(θ)", "bound on log p(X) / N", "seeds"]
    return table(header, rows) if rows else MISSING


def _log_p(run: Run, by: str) -> float:
    return run["measured"][by]["estimators"]["importance"]["mean"]


def claim_full_vb(report: Report) -> Claim:
    says = "Variational inference can be had for θ too (appendix F; no experiment)"
    leads = []
    for study, title in (("figure_6_mnist", "MNIST"), ("figure_6_frey", "Frey faces")):
        for num_train in report.values(study, NUM_TRAIN):
            lead = paired(
                report.runs(study, data__num_train=num_train, algorithm__name="full_vb"),
                report.runs(study, data__num_train=num_train, algorithm__name="sgvb"),
                lambda run: _log_p(run, "samples"),
                lambda run: _log_p(run, "mean"),
            )
            if lead is not None:
                leads.append(f"{title} N = {num_train:,}: {lead.signed}")
    if not leads:
        return Claim(says, MISSING, "")
    return Claim(says, "test log p(x), ahead of MAP by " + "; ".join(leads), "see figure 6")


def claim_time(report: Report) -> Claim:
    says = "20 to 40 minutes per million training samples, on a Xeon of 40 effective GFLOPS"
    rate = read(BENCHMARKS / f"{IN_FULL}.json")["contenders"]["aevb"]["examples_per_second"]
    seconds = 1e6 / rate["median"]
    share = PAPERS_SECONDS / seconds
    measured = f"MNIST, Z = 20, two CPU cores: {seconds:.1f} s, 1/{share:.0f} of 20 minutes"
    return Claim(says, measured, f"{share:.0f} times faster")


def claim_variance(report: Report) -> list[Claim]:
    runs = read(RESULTS / "gradient_variance.json")["runs"]

    def ratio(name: str) -> list[float]:
        return [
            point["bounds"][name]["encoder"] / point["bounds"]["sgvb_b"]["encoder"]
            for run in runs
            for point in run
        ]

    b_below_a = [value > 1 for value in ratio("sgvb_a")]
    naive = ratio("score_function")
    return [
        Claim(
            "L^B typically has less variance than L^A (section 2.3)",
            f"φ's gradient: less in {sum(b_below_a)} of {len(b_below_a)} models and moments, "
            f"by {np.median(ratio('sgvb_a')):.2f} in the median",
            "yes" if all(b_below_a) else "in part",
        ),
        Claim(
            "The naive gradient estimator has too much variance to be practical (section 2.2)",
            f"φ's gradient: {np.median(naive):.0e} times that of L^B in the median, "
            f"{min(naive):.0e} at least",
            "yes" if min(naive) > 10 else "no",
        ),
    ]


def claim_one_sample(report: Report) -> Claim:
    says = "One sample a datapoint is enough for minibatches of 100 (section 2.3)"
    lead = paired(
        report.runs("silent_samples", algorithm__num_samples=10),
        report.runs("silent_samples", algorithm__num_samples=1),
        lambda run: run["test_bound"],
    )
    if lead is None:
        return Claim(says, MISSING, "")
    measured = f"MNIST, Z = 20, 10⁶ examples, test: L = 10 is ahead of L = 1 by {lead.signed}"
    return Claim(says, measured, "yes" if lead.mean < 1.0 else "no")


def claims_table(report: Report) -> str:
    claims = [
        claim_better(report),
        *claim_superfluous(report),
        *claim_figure_3(report),
        claim_appendix_d(report),
        *claim_variance(report),
        claim_one_sample(report),
        claim_time(report),
        claim_full_vb(report),
    ]
    return "\n".join(
        ["| the paper says | we measured (nats) | holds |", "| --- | --- | --- |"]
        + [f"| {' | '.join(claim)} |" for claim in claims]
    )


SILENT = (
    ("silent_binarization", "MNIST's binarisation, Z = 20", "data.binarization"),
    ("silent_split", "the split of the Frey faces, Z = 2", "data.split"),
    ("silent_init_mnist", "N(0, 0.01): standard deviation, MNIST, Z = 20", "model.init_std"),
    ("silent_init_frey", "N(0, 0.01): standard deviation, Frey faces, Z = 2", "model.init_std"),
    ("silent_biases", "the prior on biases, MNIST, Z = 20", "algorithm.prior_on_biases"),
)


def silent_table(report: Report) -> str:
    """What the paper leaves open, and what each reading makes."""
    rows = []
    for study, title, axis in SILENT:
        for value in report.values(study, axis):
            runs = report.runs(study, **{axis.replace(".", "__"): value})
            bounds = [
                over_seeds([r[f"{split}_bound"] for r in runs]) for split in ("train", "test")
            ]
            rows.append([f"{title}: {value}", *map(str, bounds), _steps(runs), str(len(runs))])
    header = ["", "train bound", "test bound", "step size", "seeds"]
    return table(header, rows) if rows else MISSING


def provenance_table(report: Report) -> str:
    rows = []
    for study in report.studies.values():
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


class Picture(NamedTuple):
    """A file beside the document, shown once the studies that it needs were run."""

    file: str
    caption: str
    needs: tuple[str, ...]

    def __call__(self, report: Report) -> str:
        if set(self.needs) <= report.studies.keys():
            return f"![{self.caption}](paper/{self.file}.png)"
        return f"{self.caption}: {MISSING}"


TABLES: Mapping[str, Callable[[Report], str]] = {
    "claims": claims_table,
    "figure 2": figure_2_table,
    "picture 2 mnist": Picture(
        "figure_2_mnist", "The bound along training, MNIST", ("figure_2_mnist",)
    ),
    "picture 2 frey": Picture(
        "figure_2_frey", "The bound along training, Frey faces", ("figure_2_frey",)
    ),
    "figure 3": figure_3_table,
    "picture 3": Picture("figure_3", "log p(x) along training", ("figure_3",)),
    "picture 4": Picture("figure_4", "Two learned manifolds", ("figure_2_frey", "figure_5")),
    "picture 5": Picture("figure_5", "Samples of MNIST", ("figure_2_frey", "figure_5")),
    "figure 6": figure_6_table,
    "picture 6": Picture(
        "figure_6", "Test log p(x) against N", ("figure_6_mnist", "figure_6_frey")
    ),
    "silent": silent_table,
    "provenance": provenance_table,
}


def text_of(document: str, report: Report) -> str:
    """A document with each of its tables made anew."""
    return filled_in(document, {name: lambda t=t: t(report) for name, t in TABLES.items()})


def draw(report: Report, pictures: Path) -> None:
    """Figures 2, 3 and 6, of the studies that were run."""
    for study, limits in (("figure_2_mnist", (-150.0, -90.0)), ("figure_2_frey", (0.0, 1600.0))):
        if study in report.studies:
            drawn = {
                f"{title}, Z = {num_latents}": {
                    NAMES["sgvb"]: [run["curve"] for run in aevb],
                    NAMES["wake_sleep"]: [run["curve"] for run in other],
                }
                for name, title, num_latents, aevb, other in panels(report)
                if name == study
            }
            best = max(max(r["curve"]["test_bound"]) for r in report.runs(study))
            low, high = limits
            shown = (min(low, best - 0.25 * (high - low)), high)
            figures.save(
                figures.compared_curves(drawn, y_limits=shown), str(pictures / f"{study}.png")
            )
    if "figure_3" in report.studies:
        drawn = {
            f"N = {num_train:,}": {
                NAMES[name]: [_appendix_d_curve(run) for run in runs]
                for name in ("sgvb", "wake_sleep", "mcem")
                if (
                    runs := report.runs("figure_3", data__num_train=num_train, algorithm__name=name)
                )
            }
            for num_train in report.values("figure_3", NUM_TRAIN)
        }
        figure = figures.compared_curves(
            drawn, y_label="log p(x) by appendix D (nats per datapoint)", columns=2
        )
        figures.save(figure, str(pictures / "figure_3.png"))
    if {"figure_6_mnist", "figure_6_frey"} <= report.studies.keys():
        figure = figures.measurements(
            {
                title: _predictions(report, study)
                for study, title in (("figure_6_mnist", "MNIST"), ("figure_6_frey", "Frey faces"))
            },
            x_label="training datapoints N",
            y_label="test log p(x) (nats per datapoint)",
        )
        figures.save(figure, str(pictures / "figure_6.png"))


def _appendix_d_curve(run: Run) -> dict[str, list[float]]:
    found = run["measured"]["appendix_d"]
    return {
        "examples": found["examples"],
        **{f"{split}_bound": [e["mean"] for e in found[split]] for split in ("train", "test")},
    }


def _predictions(report: Report, study: str) -> dict[str, list[Point]]:
    lines = {}
    for label, algorithm, by in (
        ("MAP", "sgvb", "mean"),
        ("mean of q(θ)", "full_vb", "mean"),
        ("samples of q(θ)", "full_vb", "samples"),
    ):
        points = []
        for num_train in report.values(study, NUM_TRAIN):
            runs = report.runs(study, data__num_train=num_train, algorithm__name=algorithm)
            found = over_seeds([_log_p(run, by) for run in runs])
            points.append(Point(num_train, found.mean, found.error or 0.0))
        lines[label] = points
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="of `paper.py --quick`, in which the report is left too"
    )
    folder = parser.parse_args().folder
    results, pictures, document = STUDIED, PICTURES, DOCUMENT
    if folder:
        results, pictures, document = folder / "results", folder / "paper", folder / "paper.md"
    report = Report(results)
    pictures.mkdir(parents=True, exist_ok=True)
    draw(report, pictures)
    document.write_text(text_of(DOCUMENT.read_text(), report))
    print(f"{document}, of {len(report.studies)} studies")


if __name__ == "__main__":
    main()
