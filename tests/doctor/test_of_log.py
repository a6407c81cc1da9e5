"""The checks of a log: each fires on a log with its fault, and none on a sound one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aevb.doctor.baselines import Baseline
from aevb.doctor.hints import CAUSES, EXPLAINED_BY, Hint, without_consequences
from aevb.doctor.of_divergence import SMALLER_STEP, probable_cause
from aevb.doctor.of_log import Setting, hints_of_baselines, hints_of_log
from aevb.evaluation.elbo import Score

Records = list[dict[str, Any]]
SETTING = Setting(num_latents=5, batch_size=100)


def sound() -> Records:
    """Returns a log whose bounds rise and level off, with all latents in use."""
    examples = np.geomspace(1e4, 1e6, 21)
    rise = 100.0 * (1.0 - np.exp(-examples / 1e5))
    return [
        {
            "examples": int(number), "train_bound": -200.0 + gain, "valid_bound": -202.0 + gain,
            "train_rate": 12.0, "train_active_units": 5.0, "train_mutual_information": 6.0,
            "train_aggregate_marginal_kl": 0.1, "train_likelihood_log_var_min": -3.0,
            "train_likelihood_log_var_max": 1.0, "gradient_norm": 10.0,
        }
        for number, gain in zip(examples, rise, strict=True)
    ]  # fmt: skip


def causes(records: Records) -> list[str]:
    return [hint.cause for hint in hints_of_log(records, SETTING)]


def test_a_sound_log_has_no_hint():
    assert causes(sound()) == []


def test_a_gradient_that_grows_while_the_bound_rises_has_no_hint():
    """It does where a variance of p(x|z) becomes small."""
    records = sound()
    records[-1]["gradient_norm"] = 1e5
    assert causes(records) == []


def test_a_bound_that_falls_while_the_objective_rises_has_no_hint():
    """So it may be with a small weight of the KL, with which the bound is not what is trained."""
    records = [
        record | {"recent_objective": float(number)} for number, record in enumerate(jumping())
    ]
    assert causes(records) == []
    records[-1]["recent_objective"] = 0.0
    assert causes(records) == ["step_too_large"]


def test_a_small_variance_of_data_with_a_small_spread_has_no_hint():
    setting = SETTING._replace(log_spread=-13.0)
    assert "variance_runs_away" in [hint.cause for hint in hints_of_log(vanishing(), SETTING)]
    narrow = [record | {"train_likelihood_log_var_max": -12.0} for record in vanishing()]
    assert hints_of_log(narrow, setting) == []


def test_too_few_evaluations_have_no_hint():
    assert causes(collapsed()[:4]) == []


def collapsed() -> Records:
    records = sound()
    for record in records[10:]:
        record |= {"train_mutual_information": 0.01, "train_active_units": 0.0, "train_rate": 0.02}
    return records


def vanishing() -> Records:
    return [record | {"train_likelihood_log_var_min": -15.0} for record in sound()]


def growing() -> Records:
    return [record | {"train_likelihood_log_var_max": 14.0} for record in sound()]


def overfitted() -> Records:
    records = sound()
    for step, record in enumerate(records[12:]):
        record["valid_bound"] -= 5.0 * step
    return records


def jumping() -> Records:
    records = sound()
    records[15]["train_bound"] -= 60.0
    return records


def skipping() -> Records:
    return [record | {"skipped": 3} for record in sound()]


def unfinished() -> Records:
    return [record | {"train_bound": -200.0 + record["examples"] / 1e4} for record in sound()]


def exploding() -> Records:
    records = sound()
    records[-1] |= {"gradient_norm": 1e5, "train_bound": -140.0}
    return records


def far_from_prior() -> Records:
    return [record | {"train_aggregate_marginal_kl": 80.0} for record in sound()]


def narrowing() -> Records:
    records = sound()
    for number, record in enumerate(records):
        record["train_likelihood_log_var_min"] = -4.0 - 0.3 * number
    return records


def with_holes() -> Records:
    return [record | {"train_aggregate_kl": 25.0} for record in sound()]


@pytest.mark.parametrize(
    ("log", "cause", "evidence"),
    [
        (narrowing, "variance_runs_away", "has fallen by"),
        (with_holes, "aggregate_far_from_prior", "q(z) is 25.0 nats from the prior"),
        (collapsed, "posterior_collapse", "0 of 5 latents are active, I(x; z) is 0.01 nats"),
        (vanishing, "variance_runs_away", "-15.0 at the end (below"),
        (growing, "variance_runs_away", "14.0 at the end (above"),
        (overfitted, "overfitting", "while the training bound rose from"),
        (jumping, "step_too_large", "the training bound fell by"),
        (skipping, "step_too_large", "3 steps with a non-finite result"),
        (unfinished, "step_too_small", "came in the last third"),
        (exploding, "exploding_gradients", "was 10 at first and 1e+05 after 1,000,000"),
        (far_from_prior, "aggregate_far_from_prior", "80.0 nats from the prior"),
    ],
)
def test_a_fault_is_named_with_its_figure(log: Callable[[], Records], cause: str, evidence: str):
    (hint,) = [hint for hint in hints_of_log(log(), SETTING) if hint.cause == cause]
    assert hint.cause == cause
    assert evidence in hint.evidence
    assert "config." in hint.remedy


def test_a_bound_that_jumps_with_tiny_minibatches_is_called_so():
    (hint,) = hints_of_log(jumping(), SETTING._replace(batch_size=2))
    assert hint.cause == "tiny_minibatch"
    assert "minibatches of 2" in hint.evidence


def test_a_consequence_is_not_named_beside_its_cause():
    hints = [
        Hint(cause, "", "", "") for cause in ("below_baseline", "overfitting", "importance_weights")
    ]
    assert [hint.cause for hint in without_consequences(hints)] == ["overfitting"]
    assert without_consequences(hints[:1]) == hints[:1]
    named = {cause for causes in EXPLAINED_BY.values() for cause in causes}
    assert CAUSES.keys() >= EXPLAINED_BY.keys() | named


def test_a_collapse_says_since_when():
    (hint,) = hints_of_log(collapsed(), SETTING)
    assert f"since {collapsed()[10]['examples']:,} examples" in hint.evidence


@pytest.mark.parametrize("log", [collapsed, overfitted, far_from_prior])
def test_no_hint_of_a_log_depends_on_test_data(log: Callable[[], Records]):
    without = log()
    measured = [
        record | {f"test_{name}": np.nan for name in ("bound", "rate", "active_units")}
        for record in without
    ]
    assert hints_of_log(measured, SETTING) == hints_of_log(without, SETTING)


def rival(name: str, valid: float) -> Baseline:
    return Baseline(name, Score(valid + 1.0, 0.1), Score(valid, 0.1))


def test_a_bound_below_a_simple_model_is_named():
    rivals = [rival("bernoulli without z", -150.0)]
    (hint,) = hints_of_baselines({"train": -160.0, "valid": -155.0}, rivals)
    assert hint.cause == "below_baseline"
    assert "-155.00 nats, and that of bernoulli without z -150.00" in hint.evidence
    assert hints_of_baselines({"train": -110.0, "valid": -112.0}, rivals) == []


def test_data_as_simple_as_a_linear_model_are_no_fault():
    """Probabilistic PCA is then the best model, and a bound is a little below it."""
    rivals = [rival("gaussian without z", -150.0), rival("probabilistic PCA, Z = 5", -120.0)]
    assert hints_of_baselines({"train": -121.0, "valid": -121.5}, rivals) == []
    assert hints_of_baselines({"train": -135.0, "valid": -136.0}, rivals) != []


@pytest.mark.parametrize(
    ("problem", "last", "cause"),
    [
        ("the minibatch is not finite", {}, "the data hold values that are not finite"),
        ("the objective is nan", {"train_likelihood_log_var_min": -20.0}, "a variance of p(x|z)"),
        ("the objective is nan", {"train_posterior_log_var_max": 30.0}, "a variance of q(z|x)"),
        ("the objective is nan", {"gradient_norm": 1e6}, "the gradient had grown"),
        ("the objective is nan", {}, SMALLER_STEP),
    ],
)
def test_the_probable_cause_of_a_nan_is_read_from_the_log(
    problem: str, last: dict[str, float], cause: str
):
    records = sound()
    records[-1] |= last
    assert probable_cause(problem, records).startswith(cause)
    assert probable_cause("the objective is nan", []) == SMALLER_STEP
