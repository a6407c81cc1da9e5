"""log p(x) of many datapoints, and the command that tabulates it."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import changed
from oracles import standard_errors_off
from programs import run_program

from aevb import likelihoods, runs, vae
from aevb.evaluation import log_likelihood
from aevb.evaluation.log_likelihood import (
    ELBO,
    Points,
    estimate_at,
    estimate_points,
    intervals_of,
    reason_to_distrust,
    simulate,
    summarize,
    width,
)
from aevb.marginal import ESTIMATORS, Estimate, importance_sampling
from aevb.networks import mlp, normal_init
from aevb.proposals import laplace

NUM_DIMS, NUM_LATENTS = 4, 2

HEADS = {"mean": NUM_LATENTS, "log_var": NUM_LATENTS}
MODEL = vae.make(
    mlp(NUM_DIMS, HEADS, hidden=(), initialization=normal_init(0.1)),  # nearly the prior
    mlp(NUM_LATENTS, {"logits": NUM_DIMS}, hidden=(3,), initialization=normal_init(0.5)),
    likelihoods.bernoulli,
    num_latents=NUM_LATENTS,
)
PARAMS = jax.jit(MODEL.init)(jax.random.key(0))
IMPORTANCE = ESTIMATORS["importance"]


def all_images() -> jax.Array:
    """Returns every x of NUM_DIMS bits, [2^D, D]."""
    bits = np.arange(2**NUM_DIMS)[:, None] >> np.arange(NUM_DIMS)[None] & 1
    return jnp.asarray(bits, jnp.float32)


def importance(x: jax.Array, number: int = 500) -> Estimate:
    settings = {"num_samples": number}
    key = jax.random.key(1)
    return estimate_points(key, (MODEL, PARAMS), Points(x, None), IMPORTANCE, settings)[0]


@pytest.mark.slow
def test_estimated_probabilities_of_all_images_sum_to_1():
    """This holds only if log p(x) is on the right scale."""
    found = importance(all_images(), 20_000)
    total = np.sum(np.exp(np.asarray(found.value, np.float64)))
    error = np.sqrt(np.sum((np.exp(found.value) * found.standard_error) ** 2))
    assert abs(total - 1.0) < 4 * error
    assert error < 0.01


@pytest.mark.slow
def test_the_estimate_of_a_datapoint_does_not_depend_on_the_batch_size(
    monkeypatch: pytest.MonkeyPatch,
):
    """The estimate does not depend on the batches, the last of which is shorter."""
    x = all_images()
    together = importance(x)
    monkeypatch.setattr(log_likelihood, "BATCH", 5)
    np.testing.assert_allclose(importance(x).value, together.value, rtol=1e-5)
    assert importance(x).value.shape == (16,)
    alone = importance_sampling(
        jax.random.split(jax.random.fold_in(jax.random.key(1), 11))[1],  # [0] is the proposal's
        MODEL.encode(PARAMS, x[11]),
        MODEL.guide,
        MODEL.joint(PARAMS, x[11]),
        num_samples=500,
    )
    assert together.value[11] == pytest.approx(float(alone.value), rel=1e-5)


@pytest.mark.slow
def test_a_proposal_is_fitted_to_each_datapoint():
    """The estimate agrees with the one without a proposal, and its error is smaller."""
    points, settings = Points(all_images(), None), {"num_samples": 500}
    key = jax.random.key(4)
    exact = importance(points.x, 20_000)
    fitted, _ = estimate_points(key, (MODEL, PARAMS), points, IMPORTANCE, settings, propose=laplace)
    off = (fitted.value - exact.value) / np.hypot(fitted.standard_error, exact.standard_error)
    assert np.all(abs(off) < 4.5)
    assert np.mean(fitted.standard_error) < np.mean(importance(points.x).standard_error)


def test_progress_reports_the_number_of_finished_datapoints(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_likelihood, "BATCH_ON_CPU", 7)
    told: list[int] = []
    points = Points(all_images(), None)
    key = jax.random.key(0)
    estimate_points(key, (MODEL, PARAMS), points, ELBO, {}, progress=told.append)
    assert told == [6, 12, 16]


def test_simulated_datapoints_and_latents_are_drawn_from_the_model():
    """Latents have the prior's distribution, and each image appears in proportion to its p(x)."""
    points = simulate(jax.random.key(3), MODEL, PARAMS, 10_000)
    assert points.z is not None
    assert standard_errors_off(points.z, 0.0) < 4
    assert standard_errors_off(jnp.square(points.z), 1.0) < 4
    names = np.asarray(points.x, np.int64) @ 2 ** np.arange(NUM_DIMS)
    shares = np.bincount(names, minlength=16) / 10_000
    exact = np.exp(np.asarray(importance(all_images(), 20_000).value, np.float64))
    assert np.all(abs(shares - exact) < 4.5 * np.sqrt(exact * (1 - exact) / 10_000))


def test_a_summary_has_separate_standard_errors_of_data_and_of_estimator():
    estimate = Estimate(
        jnp.float32([1.0, 3.0, 5.0]),
        jnp.float32([0.3, 0.0, 0.4]),
        {"effective_sample_size": jnp.float32([19, 15, 17]), "pareto_k": jnp.full(3, jnp.nan)},
    )
    summary = summarize(estimate, {"num_samples": 20})
    assert summary["mean"] == pytest.approx(3.0)
    assert summary["standard_error"] == pytest.approx(2.0 / math.sqrt(3.0))
    assert summary["estimator_standard_error"] == pytest.approx(0.5 / 3.0)
    assert summary["estimator_df"] == pytest.approx(0.25**2 / ((0.09**2 + 0.16**2) / 19))
    assert summary["effective_sample_size"] == {"median": 17.0, "worst": 15.0}
    assert summary["pareto_k"] == {"median": None, "worst": None}  # JSON has no NaN
    assert summary["values"] == [1.0, 3.0, 5.0]
    assert summary["num_failing"] == 0


def row_of(settings: dict[str, Any], **diagnostics: list[float]) -> dict[str, Any]:
    """Returns the row of two datapoints with these diagnostics."""
    estimate = Estimate(
        jnp.float32([1.0, 2.0]),
        jnp.float32([0.1, 0.1]),
        {name: jnp.float32(values) for name, values in diagnostics.items()},
    )
    return {**summarize(estimate, settings), "settings": settings}


SAMPLES, CHAINS = {"num_samples": 5000}, {"num_chains": 16, "num_samples": 100}
DIAGNOSED = {
    "k": (SAMPLES, {"pareto_k": [0.1, 0.75]}, "pareto_k is 0.75, above 0.7"),
    "k of few samples": (
        {"num_samples": 100}, {"pareto_k": [0.1, 0.55]}, "pareto_k is 0.55, above 0.5"
    ),
    "effective samples": (
        SAMPLES, {"effective_sample_size": [4000, 9]}, "effective_sample_size is 9, below 10"
    ),
    "effective chains": (
        {"num_chains": 16}, {"effective_sample_size": [15, 12]}, "is 12, below 12.8"
    ),
    "r_hat": (CHAINS, {"r_hat": [1.0, 1.06], "pareto_k": [0.1, 0.2]}, "r_hat is 1.06, above 1.05"),
    "no number": (CHAINS, {"r_hat": [1.0, math.nan]}, "a diagnostic is not a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIAGNOSED)
def test_where_a_diagnostic_fails_at_one_datapoint_the_estimator_has_no_interval(name: str):
    settings, diagnostics, words = DIAGNOSED[name]
    row = row_of(settings, **diagnostics)
    assert words in (reason_to_distrust(row) or "")
    over_data, own = intervals_of(row, 2)
    assert own.half_width is None
    assert over_data.half_width is not None  # of the mean over data of what the estimator gives
    assert row["num_failing"] == 1
    better = {each: values[:1] + values[:1] for each, values in diagnostics.items()}
    assert intervals_of(row_of(settings, **better), 2)[1].half_width is not None


def test_the_interval_of_chains_is_by_t_with_their_number_less_one():
    row = row_of({"num_chains": 4}, effective_sample_size=[4.0, 4.0])
    _, own = intervals_of({**row, "estimator_df": 3}, 2)
    assert own.half_width == pytest.approx(3.182 * 0.1 / math.sqrt(2), rel=1e-3)
    assert row["estimator_df"] == pytest.approx(6)  # two datapoints with the same error


def test_one_datapoint_has_no_interval_over_data():
    estimate = Estimate(jnp.float32([1.0]), jnp.float32([0.1]), {})
    row = {**summarize(estimate, SAMPLES), "settings": SAMPLES}
    over_data, own = intervals_of(row, 1)
    assert (row["standard_error"], over_data.half_width) == (None, None)
    assert own.half_width == pytest.approx(0.196, rel=1e-3)


def test_the_width_is_the_mean_difference_over_the_same_datapoints():
    lower = Estimate(jnp.float32([-9.0, -1.0]), jnp.zeros(2), {})
    upper = Estimate(jnp.float32([-8.0, -0.5]), jnp.zeros(2), {})
    assert width(lower, upper) == {
        "mean": pytest.approx(0.75),
        "standard_error": pytest.approx(0.25),
        "widest": pytest.approx(1.0),
    }


def test_estimates_at_several_theta_are_those_at_each_theta():
    others = jax.tree.map(lambda leaf: leaf + 0.1, PARAMS)
    keys = jax.random.split(jax.random.key(2))
    draws = [(keys[0], lambda: PARAMS), (keys[1], lambda: others)]
    points, settings, told = Points(all_images(), None), {"num_samples": 20}, []
    found, _ = estimate_at(draws, MODEL, points, IMPORTANCE, settings, progress=told.append)
    for (key, params_of), together in zip(draws, found, strict=True):
        alone, _ = estimate_points(key, (MODEL, params_of()), points, IMPORTANCE, settings)
        np.testing.assert_array_equal(together.value, alone.value)
    assert told == [8, 16, 24, 32]


# The command


@pytest.fixture(scope="module")
def folder(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a finished run in `run` and an unfinished one in `begun`."""
    tmp = tmp_path_factory.mktemp("evaluate")
    shutil.copytree(undisturbed, tmp / "run")
    (tmp / "begun").mkdir()
    (tmp / "begun" / "config.json").write_text((tmp / "run" / "config.json").read_text())
    (tmp / "empty").mkdir()
    (tmp / "taken.npz").write_bytes(b"mine")
    return tmp


@pytest.mark.slow
def test_the_evaluation_command_tables_lower_and_upper_bounds_that_agree(folder: Path):
    done = run_program(
        "experiments/evaluate.py",
        f"--workdir={folder}/run",
        "--estimators=importance,ais,reverse_ais,appendix_d",
        "--split=simulated",
        "--num_points=12",
        "--num_temps=100",
        "--num_chains=20",
        "--num_leapfrog=4",
        "--num_draws=50",
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((folder / "run" / "marginal.json").read_text())
    rows = result["estimators"]
    sides = {name: row["kind"] for name, row in rows.items()}
    assert sides == {
        "elbo": "lower",
        "importance": "lower",
        "ais": "lower",
        "reverse_ais": "upper",
        "appendix_d": "upper",
    }
    for name, row in rows.items():
        assert f"{name:12} {row['kind']:5} {row['mean']:10.3f}" in done.stdout
        if name != "elbo":
            error = math.hypot(
                row["estimator_standard_error"], rows["importance"]["estimator_standard_error"]
            )
            assert abs(row["mean"] - rows["importance"]["mean"]) < 4 * error, name
    assert rows["elbo"]["mean"] < rows["importance"]["mean"]
    pairs = {f"{u} - {w}" for u in ("reverse_ais", "appendix_d") for w in ("importance", "ais")}
    assert set(result["widths"]) == pairs


# arguments, and words of the error line
MISTAKES = {
    "no workdir": ([], ["--workdir"]),
    "no such run": (["--workdir={tmp}/none"], ["{tmp}/none", "config.json"]),
    "no run in the folder": (["--workdir={tmp}/empty"], ["{tmp}/empty", "config.json"]),
    "unfinished": (["--workdir={tmp}/begun"], ["{tmp}/begun", "not finished"]),
    "unknown estimator": (
        ["--workdir={tmp}/run", "--estimators=ais,nuts"],
        ["'nuts'", "importance", "appendix_d"],
    ),
    "no estimator": (["--workdir={tmp}/run", "--estimators="], ["''", "importance"]),
    "no point": (["--workdir={tmp}/run", "--num_points=0"], ["num_points", "0", "at least 1"]),
    "too many points": (["--workdir={tmp}/run", "--num_points=101"], ["101", "100", "synthetic"]),
    "word for a number": (["--workdir={tmp}/run", "--num_points=all"], ["num_points", "'all'"]),
    "unknown proposal": (["--workdir={tmp}/run", "--proposal=prior"], ["'prior'", "laplace"]),
    "unknown split": (["--workdir={tmp}/run", "--split=val"], ["'val'", "test", "simulated"]),
    "unknown flag": (["--workdir={tmp}/run", "--points=3"], ["--points=3"]),
    "one sample of theta": (
        ["--workdir={tmp}/run", "--num_theta=1", "--estimators=importance"],
        ["num_theta is 1", "aevb"],
    ),
    "appendix D over theta": (
        ["--workdir={tmp}/run", "--num_theta=9", "--estimators=appendix_d"],
        ["appendix_d", "one theta", "--num_theta=9", "reverse_ais"],
    ),
    "samples of theta without a posterior": (
        ["--workdir={tmp}/run", "--num_theta=2", "--estimators=importance"],
        ["num_theta", "2", "aevb"],
    ),
    "step that is not kept": (
        ["--workdir={tmp}/run", "--step=7", "--num_points=3"],
        ["step is 7", "200", "keep_checkpoints"],
    ),
    "estimates in no archive": (["--workdir={tmp}/run", "--save=a.csv"], ["'a.csv'", "FILE.npz"]),
    "estimates in a file that exists": (
        ["--workdir={tmp}/run", "--save={tmp}/taken.npz"],
        ["--save={tmp}/taken.npz exists", "name a new file"],
    ),
    "estimates in no folder": (
        ["--workdir={tmp}/run", "--save={tmp}/none/a.npz"],
        ["{tmp}/none/a.npz", "folder that does not exist", "make it first"],
    ),
    "reverse AIS of data": (
        ["--workdir={tmp}/run", "--estimators=reverse_ais"],
        ["reverse_ais", "--split=simulated", "appendix_d"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_argument_of_the_evaluation_is_refused_in_one_line_with_status_2(
    mistake: str, folder: Path
):
    arguments, words = MISTAKES[mistake]
    done = run_program(
        "experiments/evaluate.py", *(argument.format(tmp=folder) for argument in arguments)
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word.format(tmp=folder) in done.stderr
    assert not (folder / "none").exists()
    assert (folder / "taken.npz").read_bytes() == b"mine"


def test_the_saved_estimates_are_those_of_each_datapoint_of_the_split(folder: Path, tmp_path: Path):
    output, file = tmp_path / "marginal.json", tmp_path / "scores.npz"
    done = run_program(
        "experiments/evaluate.py", f"--workdir={folder}/run", f"--output={output}",
        f"--save={file}", "--estimators=importance", "--num_points=3", "--num_samples=20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [str(output), str(file)]
    rows = json.loads(output.read_text())["estimators"]
    found = np.load(file)
    names = {"elbo", "importance"}
    assert {*found} == {"index", *names, *(f"{name}_standard_error" for name in names)}
    np.testing.assert_array_equal(found["index"], [0, 1, 2])
    for name in names:
        np.testing.assert_allclose(found[name], rows[name]["values"], atol=5e-5)
        errors = found[f"{name}_standard_error"]
        expected = np.sqrt(np.sum(errors.astype(float) ** 2)) / 3
        assert rows[name]["estimator_standard_error"] == pytest.approx(expected)


def test_the_evaluation_refuses_a_run_without_an_undamaged_checkpoint(folder: Path, tmp_path: Path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    done = run_program("experiments/evaluate.py", f"--workdir={run}", "--num_points=3")
    assert done.returncode == 2, done.stderr
    assert "has no sound checkpoint; train in a new folder" in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def with_posterior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run of full variational Bayes on linear-Gaussian data."""
    tmp = tmp_path_factory.mktemp("posterior")
    values = changed(
        data__name="synthetic", data__synthetic_num_train=400, data__synthetic_num_test=100,
        model__likelihood="gaussian", model__hidden=(), model__num_latents=1,
        algorithm__name="full_vb", algorithm__param_prior_std=1.0,
        train__num_examples=100_000,
    )  # fmt: skip
    runs.run(values, tmp / "run")
    return tmp / "run"


@pytest.mark.slow
def test_the_command_brackets_log_p_over_theta_on_simulated_data(with_posterior: Path):
    done = run_program(
        "experiments/evaluate.py",
        f"--workdir={with_posterior}",
        "--estimators=importance,reverse_ais",
        "--split=simulated",
        "--num_theta=200",
        "--num_points=10",
        "--num_samples=200",
        "--num_temps=200",
        "--num_leapfrog=5",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((with_posterior / "marginal.json").read_text())
    lower, upper = (result["estimators"][name] for name in ("importance", "reverse_ais"))
    assert list(result["estimators"]) == ["importance", "reverse_ais"]
    assert (lower["num_theta"], upper["proposal"]) == (200, "encoder")
    error = math.hypot(lower["estimator_standard_error"], upper["estimator_standard_error"])
    assert -4 * error < upper["mean"] - lower["mean"] < 0.3
    assert "mean by the number of theta:" in done.stdout
    assert "(50)" in done.stdout
    assert "theta's effective_sample_size: median" in done.stdout


@pytest.mark.slow
def test_the_evaluation_marks_a_mean_over_few_theta_as_not_reliable(
    with_posterior: Path, tmp_path: Path
):
    done = run_program(
        "experiments/evaluate.py",
        f"--workdir={with_posterior}",
        f"--output={tmp_path / 'few.json'}",
        "--estimators=importance",
        "--num_theta=8",
        "--num_points=5",
        "--num_samples=50",
    )
    assert done.returncode == 0, done.stderr
    assert "not reliable: effective_sample_size is" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("importance"))
    assert line.count("no interval") == 2
