"""What docs/paper.md says of full variational Bayes follows from its results files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.tools import claims, full_vb
from docs.tools.findings import Findings

HIDDEN = {"in use": 5 + 784, "pruned": 1.0}  # nats of a hidden unit's weights, of MNIST


def run(
    algorithm: str, seed: int, log_p: float, *, objective: float = 0.5, kl: float = 0.5,
    theta: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Returns a run on 100 images, two of which are scored.

    Args:
        log_p: at the best state; it is 10 nats lower at the last.
        objective: its change over the last tenth, in nats.
        kl: the change of KL(theta) / N, of 100 nats.
        theta: the diagnostics of samples of theta, or None if there are no samples.
    """

    def estimated(mean: float, **row: Any) -> dict[str, Any]:
        row |= {"mean": mean, "values": [mean - 1.0, mean + 1.0], "settings": {"num_samples": 100}}
        return {"estimators": {"importance": row}, "model": {"num_theta": 20 * bool(theta)}}

    convergence = {
        "examples": [900, 1000],
        "objective": [-300.0 - objective, -300.0],
        "kl_theta": [100.0 - kl, 100.0],
        "last_tenth": {"from": 900, "objective": objective, "kl_theta": kl},
    }
    measured = {
        "best": estimated(log_p),
        "mean": estimated(log_p - 10.0),
        "evidence": {"bound": -300.0, "kl_theta": 100.0},
        "convergence": convergence,
        "kl_theta": {"hidden_units": [HIDDEN["in use"]] * 2 + [HIDDEN["pruned"]] * 3},
    }
    if theta is not None:
        means = {"5": log_p - 12.0, "20": log_p - 9.0}
        measured["samples"] = estimated(log_p - 9.0, over_theta={**theta, "means": means})
    return {
        "setting": {"data.num_train": 100, "algorithm.name": algorithm},
        "seed": seed,
        "step_size": 0.003,
        "best_num_examples": 500,
        "best_test_bound": log_p - 20.0,
        "test_bound": log_p - 30.0,
        "measured": measured,
    }


def findings_of(folder: Path, runs: list[dict[str, Any]]) -> Findings:
    for study, algorithm in (("full_vb_mnist", "full_vb"), ("full_vb_mnist_map", "aevb")):
        own = [one for one in runs if one["setting"]["algorithm.name"] == algorithm]
        (folder / f"{study}.json").write_text(json.dumps({"runs": own}))
    return Findings(folder)


@pytest.mark.parametrize(
    ("objective", "kl", "num_converged", "num_within_1_nat"),
    [(2.9, 0.9, 3, 0), (-2.9, -0.9, 3, 0), (0.9, 0.1, 3, 3), (3.1, 0.1, 0, 0), (0.1, 1.1, 0, 3)],
)
def test_a_run_has_converged_if_the_objective_and_the_kl_change_by_a_hundredth_in_the_last_tenth(
    tmp_path: Path, objective: float, kl: float, num_converged: int, num_within_1_nat: int
):
    """The objective is -300 nats, KL(theta) is 100 nats."""
    runs = [run("full_vb", seed, -150.0, objective=objective, kl=kl) for seed in range(3)]
    table = full_vb.convergence_table(findings_of(tmp_path, [run("aevb", 0, -160.0), *runs]))
    assert table.endswith(f"full_vb_frey, full_vb_frey_1000: {full_vb.MISSING}.")
    *_, nats, largest, largest_kl, converged, within, _ = table.splitlines()[2].split(" | ")
    assert nats == f"{objective:+.1f} ± 0.0"
    assert (largest, largest_kl) == (f"{abs(objective) / 300:.2%}", f"{abs(kl) / 100:.2%}")
    assert (converged, within) == (f"{num_converged} of 3", f"{num_within_1_nat}")


def test_the_lead_over_map_is_of_the_best_and_of_the_last_state(tmp_path: Path):
    """Images differ in their log p(x), but not in the lead."""
    runs = [run(name, seed, mean) for name, mean in (("aevb", -160.0), ("full_vb", -157.0))
            for seed in range(3)]  # fmt: skip
    findings = findings_of(tmp_path, runs)
    claim = claims.claim_full_vb(findings)
    assert "best by the validation bound: MNIST N = 100: +3.0 ± 0.0" in claim.measured
    assert "at the end: MNIST N = 100: +3.0 ± 0.0" in claim.measured
    rows = full_vb.predictions_table(findings).splitlines()
    assert rows[2].startswith("| MNIST, N = 100, MAP | 500 to 500 | -180.0 ± 0.0 | -190.0 ± 0.0")
    assert "-157.0 ± 0.0 | -167.0 ± 0.0" in rows[3]


@pytest.mark.parametrize(("size", "is_reliable"), [(15.0, True), (9.0, False)])
def test_a_mean_over_theta_with_a_small_effective_sample_size_is_marked_as_not_reliable(
    tmp_path: Path, size: float, is_reliable: bool
):
    theta = {"effective_sample_size": {"worst": size}}
    runs = [run("aevb", 0, -160.0), run("full_vb", 0, -157.0, theta=theta)]
    sentence = full_vb.samples_sentence(findings_of(tmp_path, runs))
    assert ("not reliable" in sentence) != is_reliable
    assert "-169.0 (5), -166.0 (20); at the mean of q(θ) -167.0" in sentence


def test_a_hidden_unit_is_in_use_above_a_tenth_of_a_nat_per_weight(tmp_path: Path):
    runs = [run("aevb", 0, -160.0), run("full_vb", 0, -157.0)]
    sentence = full_vb.pruned_sentence(findings_of(tmp_path, runs))
    assert sentence == "In use are 2 to 2 of 5 (MNIST, N = 100)."
    assert full_vb.num_with_half(runs[1]) == 2  # they have nearly all of it
    figure = full_vb.draw_pruning(findings_of(tmp_path, runs))
    (axes,) = figure.axes
    first = axes.lines[0].get_ydata()
    np.testing.assert_array_equal(np.asarray(first)[:2], [1.0, 1.0])


def test_the_criterion_is_drawn_along_training(tmp_path: Path):
    runs = [run("aevb", 0, -160.0), *(run("full_vb", seed, -157.0) for seed in range(2))]
    (axes,) = full_vb.draw_convergence(findings_of(tmp_path, runs)).axes
    objectives = [line for line in axes.lines if line.get_color() == "C0"]
    assert [np.asarray(line.get_ydata()).tolist() for line in objectives] == 2 * [[-300.5, -300.0]]


def test_studies_that_were_not_run_are_reported_as_missing(tmp_path: Path):
    findings = Findings(tmp_path)
    for words in (full_vb.pruned_sentence(findings), full_vb.samples_sentence(findings)):
        assert words == full_vb.MISSING
    assert claims.claim_full_vb(findings).measured == full_vb.MISSING
