"""The report on the paper: verdicts follow from results files, and missing results are shown."""

import json
from pathlib import Path
from typing import Any

import pytest

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


def compared(shift: float) -> list[dict[str, Any]]:
    """Returns two seeds whose bounds differ widely, with AEVB ahead by about `shift` in each."""
    runs = []
    for seed, base in ((0, -120.0), (1, -100.0)):
        curve = [base - 60.0, base - 30.0, base - 10.0, base]
        ahead = [bound + shift + 0.2 * seed for bound in curve]
        runs += [run("aevb", seed, ahead, 20), run("wake_sleep", seed, curve, 20)]
    return runs


def test_the_tables_are_those_of_the_results_files():
    text = maker.DOCUMENT.read_text()
    assert maker.text_of(text, maker.Findings(maker.STUDIED)) == text, (
        "run python -m docs.tools.paper"
    )
    assert all(f"<!-- {name} -->" in text for name in maker.TABLES)


def test_what_was_not_run_is_said_to_be_missing(tmp_path: Path):
    findings = maker.Findings(tmp_path)
    for name, make in maker.TABLES.items():
        assert maker.MISSING in make(findings), name
    maker.draw(findings, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shift", "verdict"), [(5.0, "so far"), (-5.0, "in part")])
def test_whether_aevb_is_ahead_is_read_off_pairs_of_one_seed(
    tmp_path: Path, shift: float, verdict: str
):
    claim = claims.claim_better(findings_of(tmp_path, figure_2_mnist=compared(shift)))
    assert claim.holds == verdict
    if shift > 0:
        words = "ahead in 6 of 6 cells (panel, decade, split); Frey faces: not run yet"
        assert claim.measured == words
    else:
        assert claim.measured.startswith("ahead in 0 of 6 cells")
        assert "MNIST Z = 20 at 10⁶, test: -4.9 ± 0.1" in claim.measured


def test_a_lead_has_the_error_of_its_pairs(tmp_path: Path):
    findings = findings_of(tmp_path, figure_2_mnist=compared(5.0))
    (_, _, aevb, other, longest), *rest = findings.panels()
    assert not longest
    assert not rest
    lead = maker.paired(aevb, other, maker.at(100_000, "test_bound"))
    assert lead is not None
    assert (lead.mean, lead.error) == pytest.approx((5.1, 0.1))
    assert maker.paired(aevb, other, maker.at(300_000, "test_bound")) is None


@pytest.mark.parametrize(("shift", "words"), [(-1.5, "in 1 of 1"), (-5.0, "in 0 of 1")])
def test_an_end_is_compared_with_the_papers(tmp_path: Path, shift: float, words: str):
    end = ENDS["MNIST, Z = 20"]
    bounds = [-150.0, -120.0, -110.0, end.bound + shift]
    runs = [run(name, 0, bounds, 20) for name in ("aevb", "wake_sleep")]
    found = maker.ends_paragraph(findings_of(tmp_path, figure_2_mnist=runs))
    assert words in found
    outside = "MNIST, Z = 20 (-106.5 at 10⁷ here, below -101.5 ± 3 there)"
    assert (outside in found) == (shift < -end.error)


def test_the_longest_run_of_a_panel_is_its_end_and_has_a_row(tmp_path: Path):
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


def test_fewer_examples_are_counted_to_the_others_best_bound():
    slow = [run("wake_sleep", 0, [-200.0, -150.0, -120.0, -110.0], 20)]
    fast = [run("aevb", 0, [-150.0, -109.0, -100.0, -95.0], 20)]
    found = maker.speed_up(fast, slow)
    assert found is not None
    assert found.mean == 100.0
    assert maker.speed_up(slow, fast) is None  # it never reaches that bound


@pytest.mark.parametrize(("lead", "verdict"), [(0.5, "yes"), (-0.9, "yes"), (-1.1, "no")])
def test_superfluous_latents_may_cost_a_nat(tmp_path: Path, lead: float, verdict: str):
    few = [run("aevb", 0, [-150.0, -120.0, -105.0, -100.0], 20)]
    many = [run("aevb", 0, [-150.0, -120.0, -105.0, -100.0 + lead], 200)]
    findings = findings_of(tmp_path, figure_2_mnist=few + many)
    claim, *missing = claims.claim_superfluous(findings)
    assert claim.holds == verdict
    assert [maker.MISSING in other.measured for other in missing] == [True, True]
    findings = findings_of(tmp_path, superfluous=few + many)
    _, claim, _ = claims.claim_superfluous(findings)
    assert claim.holds == verdict
    assert "on test it was 0.0 after 10⁵, 0.0 after 10⁶" in claim.measured


def test_the_figures_of_what_was_run_are_drawn(tmp_path: Path):
    findings = findings_of(tmp_path, figure_2_mnist=compared(5.0))
    maker.draw(findings, tmp_path)
    assert [picture.name for picture in tmp_path.glob("*.png")] == ["figure_2_mnist.png"]
