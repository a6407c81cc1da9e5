"""The claims of the paper, each with the measured result and whether it confirms the claim."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from aevb.evaluation.intervals import LEVEL, Interval, mean_interval, simultaneous_level, verdict

from . import full_vb
from .documents import IN_FULL, MISSING, RESULTS, benchmark, read
from .findings import (
    DECADES,
    FIGURE_2,
    FIGURE_3,
    Findings,
    Run,
    at,
    at_the_images,
    paired,
    paired_over_images,
    power,
)

PAPERS_SECONDS = 20 * 60  # for a million examples, at best
MARGIN = 1.0  # nats that superfluous latents, or one sample instead of ten, may cost


class Claim(NamedTuple):
    """A row of the report."""

    says: str
    measured: str
    holds: str = ""


def all_claims(findings: Findings) -> list[Claim]:
    """Returns all claims, in the order of the paper's figures and then of its text."""
    return [
        claim_better(findings),
        *claim_superfluous(findings),
        *claim_figure_3(findings),
        claim_appendix_d(findings),
        *claim_variance(),
        claim_one_sample(findings),
        claim_time(),
        claim_full_vb(findings),
    ]


def _leads(leads: Mapping[str, Interval | None], form: str) -> str:
    return "; ".join(
        form.format(lead.text(is_signed=True), name) for name, lead in leads.items() if lead
    )


def _test_bound(run: Run) -> float:
    return run["test_bound"]


def claim_better(findings: Findings) -> Claim:
    says = "AEVB converges considerably faster than wake-sleep and reaches a better solution, in "
    says += "all experiments (figure 2)"
    cells = cells_of_figure_2(findings)
    if not cells:
        return Claim(says, MISSING)
    together = cells_of_figure_2(findings, simultaneous_level(len(cells)))
    others = {where: lead for where, lead in cells.items() if verdict(lead) != "yes"}
    proven = sum(verdict(lead) == "yes" for lead in together.values())
    ahead = sum(lead.mean > 0 for lead in cells.values())
    measured = (
        f"ahead on average in {ahead} of {len(cells)} cells (panel, decade, split); by 95 % "
        f"intervals of single cells in {len(cells) - len(others)}, by intervals that hold for all "
        f"cells together in {proven}"
    )
    if others:
        measured += f"; not by that of the single cell in {_leads({**others}, '{1}: {0}')}"
    missing = [title for study, title in FIGURE_2.items() if study not in findings.studies]
    measured += "".join(f"; {title}: {MISSING}" for title in missing)
    if proven < len(cells):
        return Claim(says, measured, "in part")
    return Claim(says, measured, "so far" if missing else "yes")


def cells_of_figure_2(findings: Findings, level: float = LEVEL) -> dict[str, Interval]:
    """Returns the lead of AEVB in each cell of figure 2: panel, decade and split."""
    return {
        f"{panel.title.replace(',', '')} at {power(examples)}, {split}": lead
        for panel in findings.panels()
        for examples in DECADES
        for split in ("train", "test")
        if (lead := paired(panel.aevb, panel.other, at(examples, f"{split}_bound"), level=level))
    }


def claim_superfluous(findings: Findings) -> list[Claim]:
    says = "Superfluous latent variables do not overfit (figure 2)"
    claims = []
    for study, data, many, few, least in (
        ("figure_2_mnist", FIGURE_2["figure_2_mnist"], 200, 20, -MARGIN),
        ("superfluous", "MNIST, 3·10⁷ examples at step size 0.02", 200, 20, -MARGIN),
        ("figure_2_frey", FIGURE_2["figure_2_frey"], 20, 2, 0.0),
    ):
        larger, smaller = (
            findings.runs(study, model__num_latents=number, algorithm__name="aevb")
            for number in (many, few)
        )
        lead = paired(larger, smaller, _test_bound)
        measured = f"{data}, test: Z = {many} is ahead of Z = {few} by"
        if lead is None:
            claims.append(Claim(says, f"{measured}: {MISSING}"))
            continue
        on_train = paired(larger, smaller, lambda run: run["train_bound"])
        assert on_train is not None  # an overfitted model is ahead on the training data
        measured += f" {lead.text(is_signed=True)}; on the training data by "
        measured += on_train.text(is_signed=True)
        if study == "superfluous":
            measured += _along_training(larger, smaller) + _in_use(larger)
        claims.append(Claim(says, measured, verdict(lead, least)))
    return claims


def _along_training(first: list[Run], second: list[Run]) -> str:
    leads = {power(number): paired(first, second, at(number, "test_bound")) for number in DECADES}
    found = _leads(leads, "{0} after {1}").replace(";", ",")
    return f"; on test it was {found} examples" if found else ""


def _in_use(runs: list[Run]) -> str:
    found = [run["measured"] for run in runs if run["measured"]]
    if not found:
        return ""
    numbers = sorted({it["latents_in_use"] for it in found})
    lost = mean_interval([it["kl_of_the_others"] for it in found]).text(2)
    return f"; it uses {' or '.join(map(str, numbers))} latents, and the others cost {lost} nats"


def claim_figure_3(findings: Findings) -> list[Claim]:
    """Returns the claims on wake-sleep and on Monte-Carlo EM in figure 3."""
    says = {
        "wake_sleep": "AEVB's marginal likelihood is above wake-sleep's (figure 3)",
        "mcem": "MCEM is no online algorithm, and cannot be applied efficiently to the full MNIST "
        "data set (figure 3)",
    }
    claims = []
    for name, words in says.items():
        leads = {
            f"{num_train:,}": lead
            for num_train in findings.values("figure_3")
            if (lead := lead_in_figure_3(findings, name, num_train))
        }
        if not leads:
            claims.append(Claim(words, MISSING))
            continue
        found = _leads({**leads}, "{0} (N = {1})").replace(";", ",")
        measured = f"test log p(x) after as many examples, AEVB ahead by {found}"
        verdicts = {verdict(lead) for lead in leads.values()}
        claims.append(Claim(words, measured, verdicts.pop() if len(verdicts) == 1 else "in part"))
    return claims


def lead_in_figure_3(findings: Findings, name: str, num_train: int) -> Interval | None:
    """Returns AEVB's lead in test log p(x) over another algorithm, at the end of training.

    Its interval is over seeds and test images, or over seeds alone if the results files have only
    means.
    """
    aevb, other = (findings.figure_3(each, data__num_train=num_train) for each in ("aevb", name))
    over_both = paired_over_images(aevb, other, at_the_images)
    return over_both or paired(
        aevb, other, lambda run: run["measured"]["appendix_d"]["test"][-1]["mean"]
    )


def claim_appendix_d(findings: Findings) -> Claim:
    says = "The estimator of appendix D is good for few latent dimensions"
    gaps = [
        abs(run["measured"]["sandwich"]["widths"]["appendix_d - ais"]["mean"])
        for algorithm in FIGURE_3
        for run in findings.figure_3(algorithm)
    ]
    if not gaps:
        return Claim(says, MISSING)
    measured = f"3 latents: {np.median(gaps):.2f} nats from AIS in the median of {len(gaps)} "
    measured += f"models, {max(gaps):.2f} at most"
    return Claim(says, measured, "yes" if max(gaps) < 1.0 else "in part")


def claim_variance() -> list[Claim]:
    runs = read(RESULTS / "gradient_variance.json")["runs"]
    points = [point["bounds"] for run in runs for point in run]
    of_a, naive = (
        np.array([point[name]["encoder"] / point["sgvb_b"]["encoder"] for point in points])
        for name in ("sgvb_a", "score_function")
    )
    return [
        Claim(
            "L^B typically has less variance than L^A (section 2.3)",
            f"φ's gradient: less in {sum(of_a > 1)} of {len(of_a)} models and moments, "
            f"by {np.median(of_a):.2f} in the median",
            "yes" if all(of_a > 1) else "in part",
        ),
        Claim(
            "The naive gradient estimator has too much variance to be practical (section 2.2)",
            f"φ's gradient: {np.median(naive):.0e} times that of L^B in the median, "
            f"{min(naive):.0e} at least",
            "yes" if min(naive) > 10 else "no",
        ),
    ]


def claim_one_sample(findings: Findings) -> Claim:
    says = "One sample a datapoint is enough for minibatches of 100 (section 2.3)"
    one, ten = (findings.runs("silent_samples", algorithm__num_samples=L) for L in (1, 10))
    lead = paired(one, ten, _test_bound)
    if lead is None:
        return Claim(says, MISSING)
    measured = "MNIST, Z = 20, 10⁶ examples, test: L = 1 is ahead of L = 10 by "
    return Claim(says, measured + lead.text(is_signed=True), verdict(lead, -MARGIN))


def claim_time() -> Claim:
    says = "20 to 40 minutes per million training samples, on a Xeon of 40 effective GFLOPS"
    rate = benchmark(IN_FULL)["contenders"]["aevb"]["examples_per_second"]["median"]
    share = PAPERS_SECONDS * rate / 1e6
    measured = f"MNIST, Z = 20, two CPU cores: {1e6 / rate:.1f} s, 1/{share:.0f} of 20 minutes"
    return Claim(says, measured, f"{share:.0f} times faster")


def claim_full_vb(findings: Findings) -> Claim:
    says = "Variational inference is possible for θ too (appendix F; no experiment)"
    found = [
        f"{words}: {_leads(leads, '{1}: {0}')}"
        for words, state in (("best by the validation bound", "best"), ("at the end", "mean"))
        if (leads := full_vb.leads(findings, state))
    ]
    if not found:
        return Claim(says, MISSING)
    measured = f"test log p(x) at the mean of q(θ), ahead of MAP; {'. '.join(found)}"
    return Claim(says, measured, "see full variational Bayes below")
