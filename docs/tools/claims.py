"""The claims of the paper, each with the measured result and whether it confirms the claim."""

from typing import NamedTuple

import numpy as np

from .documents import BENCHMARKS, IN_FULL, MISSING, RESULTS, read
from .findings import (
    DECADES,
    FIGURE_2,
    FIGURE_3,
    FULL_VB,
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
    verdict,
)

PAPERS_SECONDS = 20 * 60  # for a million examples, at best


class Claim(NamedTuple):
    """A row of the report."""

    says: str
    measured: str
    holds: str


def all_claims(findings: Findings) -> list[Claim]:
    """Returns all claims, in the order of the paper's figures and then of its text."""
    return [
        claim_better(findings),
        *claim_superfluous(findings),
        *claim_figure_3(findings),
        claim_appendix_d(findings),
        *claim_variance(findings),
        claim_one_sample(findings),
        claim_time(findings),
        claim_full_vb(findings),
    ]


def claim_better(findings: Findings) -> Claim:
    says = "AEVB converges considerably faster than wake-sleep and reaches a better solution, in "
    says += "all experiments (figure 2)"
    verdicts, others = [], []
    for _, title, num_latents, aevb, other in panels(findings):
        for examples in DECADES:
            for split in ("train", "test"):
                lead = paired(aevb, other, at(examples, f"{split}_bound"))
                if lead is None:
                    continue
                verdicts.append(verdict(lead))
                if verdicts[-1] != "yes":
                    where = f"{title} Z = {num_latents} at {power(examples)}, {split}"
                    others.append(f"{where}: {lead.signed}")
    if not verdicts:
        return Claim(says, MISSING, "")
    measured = f"ahead in {verdicts.count('yes')} of {len(verdicts)} cells (panel, decade, split)"
    if others:
        measured += "; not in " + "; ".join(others)
    missing = [title for study, title in FIGURE_2.items() if study not in findings.studies]
    measured += "".join(f"; {title}: {MISSING}" for title in missing)
    return Claim(says, measured, "in part" if others else "so far" if missing else "yes")


def claim_superfluous(findings: Findings) -> list[Claim]:
    says = "Superfluous latent variables do not overfit (figure 2)"
    claims = []
    for study, data, many, few, least in (
        ("figure_2_mnist", FIGURE_2["figure_2_mnist"], 200, 20, -1.0),
        ("superfluous", "MNIST, 3·10⁷ examples at step size 0.02", 200, 20, -1.0),
        ("figure_2_frey", FIGURE_2["figure_2_frey"], 20, 2, 0.0),
    ):
        larger, smaller = (
            findings.runs(study, model__num_latents=number, algorithm__name="aevb")
            for number in (many, few)
        )
        lead = paired(larger, smaller, lambda run: run["test_bound"])
        title = f"{data}, test: Z = {many} is ahead of Z = {few} by"
        if lead is None:
            claims.append(Claim(says, f"{title}: {MISSING}", ""))
            continue
        on_train = paired(larger, smaller, lambda run: run["train_bound"])
        measured = f"{title} {lead.signed}"
        if on_train is not None:  # an overfitted model is ahead on the training data
            measured += f"; on the training data by {on_train.signed}"
        if study == "superfluous":
            measured += _along_training(larger, smaller) + _in_use(larger)
        claims.append(Claim(says, measured, verdict(lead, least)))
    return claims


def _along_training(first: list[Run], second: list[Run]) -> str:
    leads = {power(number): paired(first, second, at(number, "test_bound")) for number in DECADES}
    found = [f"{lead.signed} after {number}" for number, lead in leads.items() if lead is not None]
    return f"; on test it was {', '.join(found)} examples" if found else ""


def _in_use(runs: list[Run]) -> str:
    found = [run["measured"] for run in runs if run["measured"]]
    if not found:
        return ""
    numbers = sorted({it["latents_in_use"] for it in found})
    lost = over_seeds([it["kl_of_the_others"] for it in found])
    return f"; it uses {' or '.join(map(str, numbers))} latents, and the others cost {lost} nats"


def claim_figure_3(findings: Findings) -> list[Claim]:
    """Returns the claims on wake-sleep and on Monte Carlo EM in figure 3."""
    says = {
        "wake_sleep": "AEVB's marginal likelihood is above wake-sleep's (figure 3)",
        "mcem": "MCEM is no online algorithm, and cannot be applied efficiently to the full MNIST "
        "data set (figure 3)",
    }
    claims = []
    for name, words in says.items():
        leads = {
            num_train: paired(
                of_figure_3(findings, "aevb", data__num_train=num_train),
                of_figure_3(findings, name, data__num_train=num_train),
                lambda run: run["measured"]["appendix_d"]["test"][-1]["mean"],
            )
            for num_train in findings.values("figure_3", NUM_TRAIN)
        }
        found = {num_train: lead for num_train, lead in leads.items() if lead is not None}
        if not found:
            claims.append(Claim(words, MISSING, ""))
            continue
        measured = "test log p(x) after as many examples, AEVB ahead by " + ", ".join(
            f"{lead.signed} (N = {num_train:,})" for num_train, lead in found.items()
        )
        verdicts = {verdict(lead) for lead in found.values()}
        claims.append(Claim(words, measured, verdicts.pop() if len(verdicts) == 1 else "in part"))
    return claims


def claim_appendix_d(findings: Findings) -> Claim:
    says = "The estimator of appendix D is good for few latent dimensions"
    gaps = [
        run["measured"]["sandwich"]["sandwich"]["appendix_d - ais"]["mean"]
        for algorithm in FIGURE_3
        for run in of_figure_3(findings, algorithm)
    ]
    if not gaps:
        return Claim(says, MISSING, "")
    typical, widest = float(np.median(np.abs(gaps))), float(np.max(np.abs(gaps)))
    measured = f"3 latents: {typical:.2f} nats from AIS in the median of {len(gaps)} models, "
    measured += f"{widest:.2f} at most"
    return Claim(says, measured, "yes" if widest < 1.0 else "in part")


def claim_variance(findings: Findings) -> list[Claim]:
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


def claim_one_sample(findings: Findings) -> Claim:
    says = "One sample a datapoint is enough for minibatches of 100 (section 2.3)"
    lead = paired(
        findings.runs("silent_samples", algorithm__num_samples=1),
        findings.runs("silent_samples", algorithm__num_samples=10),
        lambda run: run["test_bound"],
    )
    if lead is None:
        return Claim(says, MISSING, "")
    measured = f"MNIST, Z = 20, 10⁶ examples, test: L = 1 is ahead of L = 10 by {lead.signed}"
    return Claim(says, measured, verdict(lead, least=-1.0))


def claim_time(findings: Findings) -> Claim:
    says = "20 to 40 minutes per million training samples, on a Xeon of 40 effective GFLOPS"
    rate = read(BENCHMARKS / f"{IN_FULL}.json")["contenders"]["aevb"]["examples_per_second"]
    seconds = 1e6 / rate["median"]
    share = PAPERS_SECONDS / seconds
    measured = f"MNIST, Z = 20, two CPU cores: {seconds:.1f} s, 1/{share:.0f} of 20 minutes"
    return Claim(says, measured, f"{share:.0f} times faster")


def claim_full_vb(findings: Findings) -> Claim:
    says = "Variational inference can be had for θ too (appendix F; no experiment)"
    leads = []
    for study, title in FULL_VB.items():
        for num_train in findings.values(study, NUM_TRAIN):
            lead = paired(
                findings.runs(study, data__num_train=num_train, algorithm__name="full_vb"),
                findings.runs(study, data__num_train=num_train, algorithm__name="aevb"),
                lambda run: log_p(run, "samples"),
                lambda run: log_p(run, "mean"),
            )
            if lead is not None:
                leads.append(f"{title} N = {num_train:,}: {lead.signed}")
    if not leads:
        return Claim(says, MISSING, "")
    return Claim(
        says,
        "test log p(x), ahead of MAP by " + "; ".join(leads),
        "see full variational Bayes below",
    )
