"""The report on the paper: verdicts follow from results files, and missing results are shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from aevb.evaluation.intervals import crossed_interval, mean_interval
from docs.tools import claims
from docs.tools import paper as maker
from docs.tools.papers_ends import ENDS
from experiments.paper.studies import LONG_STEPS
from experiments.paper.studies import RESULTS as STUDIED

EXAMPLES = [10_000, 100_000, 1_000_000, 10_000_000]


def run(
    algorithm: str, seed: int, bounds: list[float], num_latents: int, **setting: Any
) -> dict[str, Any]:
    return {
        "setting": {"model.num_latents": num_latents, "algorithm.name": algorithm, **setting},
        "seed": seed,
        "step_size": 0.02,
        "num_examples": EXAMPLES[-1],
        "seconds": 60.0,
        "train_bound": bounds[-1] + 1.0,
        "test_bound": bounds[-1],
        "curve": {
            "examples": EXAMPLES,
            "train_bound": [bound + 1.0 for bound in bounds],
            "test_bound": bounds,
        },
        "measured": None,
    }


def study(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": "python -m experiments.paper",
        "machine": {"processor": "some", "cores": 2, "system": "Linux"},
        "versions": {"jax": "0"},
        "runs": runs,
    }


def findings_of(folder: Path, **studies: list[dict[str, Any]]) -> Any:
    for name, runs in studies.items():
        (folder / f"{name}.json").write_text(json.dumps(study(runs)))
    return maker.Findings(folder)


def compared(shift: float, num_seeds: int = 2) -> list[dict[str, Any]]:
    """Returns seeds whose bounds differ widely, with AEVB ahead by about `shift` in each."""
    runs = []
    for seed in range(num_seeds):
        base = -120.0 + 20.0 * seed
        curve = [base - 60.0, base - 30.0, base - 10.0, base]
        ahead = [bound + shift + 0.2 * (seed % 2) for bound in curve]
        runs += [run("aevb", seed, ahead, 20), run("wake_sleep", seed, curve, 20)]
    return runs


def test_the_tables_are_those_of_the_results_files():
    text = maker.DOCUMENT.read_text()
    assert maker.text_of(text, maker.Findings(maker.STUDIED)) == text, (
        "run python -m docs.tools.paper"
    )
    assert all(f"<!-- {name} -->" in text for name in maker.TABLES)


def test_results_that_do_not_exist_are_marked_as_missing(tmp_path: Path):
    findings = maker.Findings(tmp_path)
    for name, make in maker.TABLES.items():
        assert maker.MISSING in make(findings), name
    maker.draw(findings, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shift", "num_seeds", "alone", "together", "verdict"), [
    (15.0, 2, 6, 6, "so far"),
    (5.0, 2, 6, 0, "in part"),  # t is 12.7 for one cell, and 76 for six together
    (5.0, 10, 6, 6, "so far"),
    (-5.0, 10, 0, 0, "in part"),
])  # fmt: skip
def test_the_claim_that_aevb_is_better_uses_pairs_of_a_seed_and_simultaneous_intervals(
    tmp_path: Path, shift: float, num_seeds: int, alone: int, together: int, verdict: str
):
    claim = claims.claim_better(findings_of(tmp_path, figure_2_mnist=compared(shift, num_seeds)))
    assert claim.holds == verdict
    assert claim.measured.startswith(
        f"ahead on average in {6 if shift > 0 else 0} of 6 cells (panel, decade, split); by 95 % "
        f"intervals of single cells in {alone}, by intervals that hold for all cells together in "
        f"{together}"
    )
    assert claim.measured.endswith("Frey faces: not run yet")
    assert ("MNIST Z = 20 at 10⁶, test: -4.9 ± 0.1" in claim.measured) == (shift < 0)


def test_a_claim_is_not_confirmed_by_one_seed(tmp_path: Path):
    claim = claims.claim_better(findings_of(tmp_path, figure_2_mnist=compared(5.0, 1)))
    assert claim.holds == "in part"
    assert "in 0, by" in claim.measured
    assert "MNIST Z = 20 at 10⁶, test: +5.0 (one value)" in claim.measured


def test_the_interval_of_a_lead_is_that_of_paired_differences(tmp_path: Path):
    findings = findings_of(tmp_path, figure_2_mnist=compared(5.0))
    (_, _, aevb, other, longest), *rest = findings.panels()
    assert not longest
    assert not rest
    lead = maker.paired(aevb, other, maker.at(100_000, "test_bound"))
    assert lead is not None
    half_width = 12.706 * 0.1  # t with 1 degree of freedom
    assert (lead.mean, lead.half_width) == pytest.approx((5.1, half_width), rel=1e-4)
    assert maker.paired(aevb, other, maker.at(300_000, "test_bound")) is None


@pytest.mark.parametrize(("shift", "words"), [(-1.5, "in 1 of 1"), (-5.0, "in 0 of 1")])
def test_the_end_of_a_curve_is_compared_with_that_of_the_paper(
    tmp_path: Path, shift: float, words: str
):
    end = ENDS["MNIST, Z = 20"]
    bounds = [-150.0, -120.0, -110.0, end.bound + shift]
    runs = [run(name, 0, bounds, 20) for name in ("aevb", "wake_sleep")]
    found = maker.ends_paragraph(findings_of(tmp_path, figure_2_mnist=runs))
    assert words in found
    outside = "MNIST, Z = 20 (-106.5 at 10⁷ here, below -101.5 ± 3 there)"
    assert (outside in found) == (shift < -end.error)


def test_the_end_of_a_panel_is_that_of_its_longest_run_which_has_a_row(tmp_path: Path):
    long_run = run("aevb", 0, [-150.0, -120.0, -110.0, -108.0], 20) | {
        "num_examples": 10**8,
        "test_bound": -103.0,
    }
    long_run["curve"] = {
        "examples": [*EXAMPLES, 10**8],
        "train_bound": [-150.0, -120.0, -110.0, -108.0, -102.0],
        "test_bound": [-150.0, -120.0, -110.0, -108.0, -103.0],
    }
    studies = {"figure_2_mnist": compared(-5.0), "figure_2_long_mnist_20_aevb": [long_run]}
    findings = findings_of(tmp_path, **studies)
    assert "in 1 of 1" in maker.ends_paragraph(findings)
    row = maker.longest_table(findings).splitlines()[-1]
    assert row == "| MNIST, Z = 20 | -108.0 | -103.0 |  |  | -101.5 ± 3 |"
    maker.draw(findings, tmp_path)
    assert (tmp_path / "figure_2_mnist.png").exists()


@pytest.mark.parametrize(("study", "num_latents", "algorithm"), LONG_STEPS)
def test_the_longest_runs_have_the_step_sizes_that_the_rule_chose(
    study: str, num_latents: int, algorithm: str
):
    setting = {"model__num_latents": num_latents, "algorithm__name": algorithm}
    runs = maker.Findings(STUDIED).runs(study, **setting)
    assert {run["step_size"] for run in runs} == {LONG_STEPS[study, num_latents, algorithm]}


def test_the_speed_up_is_measured_at_the_best_bound_of_the_slower_method():
    slow = [run("wake_sleep", 0, [-200.0, -150.0, -120.0, -110.0], 20)]
    fast = [run("aevb", 0, [-150.0, -109.0, -100.0, -95.0], 20)]
    found = maker.speed_up(fast, slow)
    assert found is not None
    assert found.mean == 100.0
    assert maker.speed_up(slow, fast) is None  # it never reaches that bound


@pytest.mark.parametrize(
    ("lead", "verdict"), [(0.5, "yes"), (-0.8, "yes"), (-0.95, "within errors"), (-1.2, "no")]
)
def test_the_claim_on_superfluous_latents_tolerates_a_loss_of_one_nat(
    tmp_path: Path, lead: float, verdict: str
):
    """The leads of ten seeds differ by 0.2, which is ± 0.08."""
    few, many = (
        [run("aevb", seed, [-150.0, -120.0, -105.0, -100.0], Z) for seed in range(10)]
        for Z in (20, 200)
    )
    for seed, one in enumerate(many):
        one["test_bound"] += lead + 0.2 * (seed % 2) - 0.1
    findings = findings_of(tmp_path, figure_2_mnist=few + many)
    claim, *missing = claims.claim_superfluous(findings)
    assert claim.holds == verdict
    assert [maker.MISSING in other.measured for other in missing] == [True, True]
    findings = findings_of(tmp_path, superfluous=few + many)
    _, claim, _ = claims.claim_superfluous(findings)
    assert claim.holds == verdict
    assert "on test it was 0.0 ± 0.0 after 10⁵, 0.0 ± 0.0 after 10⁶" in claim.measured


def evaluated(
    algorithm: str, seed: int, log_p: list[float], *, has_values: bool = True
) -> dict[str, Any]:
    """Returns a run of figure 3 with log p(x) of two images."""
    row = {"mean": sum(log_p) / 2, "standard_error": 1.0}
    row |= {"values": log_p} if has_values else {}
    found = run(algorithm, seed, [-1.0] * 4, 3, **{"data.num_train": 1000})
    return found | {"measured": {"appendix_d": {"test": [row]}}}


def test_a_lead_in_log_p_is_over_seeds_and_images_where_the_file_has_both(tmp_path: Path):
    for has_values in (True, False):
        runs = []
        for seed in range(3):
            runs.append(evaluated("aevb", seed, [-9.0 + seed, -5.0], has_values=has_values))
            runs.append(evaluated("wake_sleep", seed, [-10.0, -10.0], has_values=has_values))
        lead = claims.lead_in_figure_3(findings_of(tmp_path, figure_3=runs), "wake_sleep", 1000)
        assert lead is not None
        assert lead.mean == pytest.approx(3.5)
        table = [[1.0 + seed, 5.0] for seed in range(3)]
        expected = crossed_interval(table) if has_values else mean_interval([3.0, 3.5, 4.0])
        assert lead.half_width == pytest.approx(expected.half_width)


def test_a_figure_is_drawn_for_each_finished_study(tmp_path: Path):
    findings = findings_of(tmp_path, figure_2_mnist=compared(5.0))
    maker.draw(findings, tmp_path)
    assert [picture.name for picture in tmp_path.glob("*.png")] == ["figure_2_mnist.png"]
