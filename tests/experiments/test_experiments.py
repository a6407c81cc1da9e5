"""Every experiment, and every program other than run.py, from its command to its files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import FILES, config_of
from programs import program, run_program

from aevb import data, runs
from aevb.cli import evaluate
from aevb.config import validate
from aevb.data import Options
from aevb.errors import UserError
from aevb.losses import BOUNDS
from aevb.storage.metrics_log import read_with_digest
from experiments.paper import discrete_latents, protocol


@pytest.fixture
def without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces datasets whose files may be missing by random pixels of the same size and kind."""
    made = data.load("synthetic", Options(synthetic_num_dims=784, synthetic_num_train=300))
    assert made.valid is not None
    train, valid, test = (
        (split > 0).astype(np.uint8) for split in (made.train, made.valid, made.test)
    )
    images = made._replace(train=train, valid=valid, test=test, kind="binary", image_shape=(28, 28))
    of_train, of_valid, of_test = (np.arange(len(made.splits[name])) % 10 for name in made.splits)
    labels = data.Labels(tuple("0123456789"), of_train, of_test, of_valid)
    images = images._replace(labels=labels)
    for name in ("mnist", "binarized_mnist"):
        named = images._replace(name=name)
        entry = data.DATASETS[name]._replace(load=lambda options, named=named: named)
        monkeypatch.setitem(data.DATASETS, name, entry)


EXPERIMENTS = [
    file if file.stem == "frey_faces" else pytest.param(file, marks=pytest.mark.slow)
    for file in FILES
]


@pytest.mark.usefixtures("without_files", "standard_promotion")  # optax's Adam promotes
@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_takes_two_steps_and_writes_the_files_of_a_run(file: Path, tmp_path: Path):
    config = config_of(file)
    if not config.data.name.removeprefix("file:"):  # the user names the data
        images = np.random.default_rng(0).integers(256, size=(300, 6, 5))
        np.save(tmp_path / "images.npy", images.astype(np.uint8))
        config.data.name = f"file:{tmp_path / 'images.npy'}"
    config.train.num_examples = 2 * config.train.batch_size
    config.train.first_eval = config.train.batch_size
    config.train.eval_every = 0
    if config.optimizer.schedule == "burda":  # of at least 364 steps
        config.optimizer.schedule, config.optimizer.schedule_options = "constant", {}
    values = validate(config)
    folder = tmp_path / "run"
    summary = runs.run(values, folder)

    assert summary["num_examples"] == 2 * values["train.batch_size"]
    assert summary["examples_per_second"] > 0
    assert summary["seconds"] > 0
    for split in ("train", "test"):
        assert np.isfinite(summary[f"{split}_bound"])
        assert summary[f"{split}_bound_standard_error"] > 0
    assert not any("bits_per_dim" in name for name in summary)  # of Gaussians and of binary data
    assert read_with_digest(folder / "summary.json") == summary
    assert read_with_digest(folder / "config.json").keys() == values.keys()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["examples"] for line in lines] == [
        values["train.batch_size"],
        2 * values["train.batch_size"],
    ]
    pictures = {"bound", "reconstructions", "samples"}
    pictures |= {"manifold"} if values["model.num_latents"] == 2 else set()
    pictures |= {"analogies"} if values["model.labels"] else set()
    pictures |= {"samples_of_top"} if isinstance(values["model.num_latents"], tuple) else set()
    assert {picture.stem for picture in (folder / "figures").glob("*.png")} == pictures
    assert runs.run(values, folder) == summary  # already finished


@pytest.mark.slow
def test_a_run_on_data_other_than_images_draws_only_its_curve(undisturbed: Path):
    assert [picture.name for picture in (undisturbed / "figures").iterdir()] == ["bound.png"]


@pytest.mark.slow
def test_reproduce_writes_means_and_curves_over_seeds_and_resumes(tmp_path: Path):
    output = tmp_path / "results.json"
    command: list[Any] = [
        "-m",
        "experiments.paper.reproduce",
        "--rows=frey_random_2",
        "--num_examples=3000",
    ]
    command += [f"--runs={tmp_path / 'runs'}", f"--output={output}"]
    program(*command, "--num_seeds=1")
    first = (tmp_path / "runs" / "frey_random_2" / "seed=0" / "summary.json").stat().st_mtime_ns
    program(*command, "--num_seeds=2")
    assert first == (
        (tmp_path / "runs" / "frey_random_2" / "seed=0" / "summary.json").stat().st_mtime_ns
    )
    row = json.loads(output.read_text())["rows"]["frey_random_2"]
    bounds = [run["test_bound"] for run in row["runs"]]
    assert row["test_bound"]["mean"] == pytest.approx(np.mean(bounds))
    half_width = 12.706 * abs(bounds[0] - bounds[1]) / 2  # t with 1 degree of freedom
    assert row["test_bound"]["half_width"] == pytest.approx(half_width, rel=1e-4)
    assert row["num_failed"] == 0
    for run in row["runs"]:
        assert run["data"]["split"] == "random"
        assert run["curve"]["examples"][-1] == run["num_examples"] == 3000
        assert run["curve"]["test_bound"][-1] == pytest.approx(run["test_bound"])


def test_reproduce_records_a_run_that_failed(tmp_path: Path):
    output = tmp_path / "results.json"
    program(
        "-m",
        "experiments.paper.reproduce",
        "--rows=frey_random_2",
        "--num_seeds=1",
        f"--runs={tmp_path / 'runs'}",
        f"--output={output}",
        "--",
        "--config.optimizer.step_size=0",
    )
    row = json.loads(output.read_text())["rows"]["frey_random_2"]
    assert row["num_failed"] == 1
    assert "step_size" in row["runs"][0]["failed"]


@pytest.mark.slow
def test_gradient_variance_compares_every_bound_at_every_point(tmp_path: Path):
    output = tmp_path / "variance.json"
    program(
        "-m",
        "experiments.paper.gradient_variance",
        "--config=experiments/figure_4_frey.py",
        "--config.data.name=synthetic",
        "--config.data.split=",
        "--config.model.likelihood=gaussian",
        "--config.model.hidden=(5,)",
        "--examples=100,300",
        "--seeds=2",
        "--samples=4",
        "--draws=50",
        f"--output={output}",
    )
    report = json.loads(output.read_text())
    assert str(tmp_path) not in report["command"]
    assert [point["examples"] for point in report["points"]] == [100, 300]
    for point in report["points"]:
        assert point["bounds"].keys() == BOUNDS.keys()
        for name, figures in point["bounds"].items():
            assert figures["encoder"]["mean"] > 0, name
            assert figures["decoder"]["mean"] > 0, name
            # An unbiased estimator has 1 here up to chance, over some 150 parameters.
            if "bias_in_standard_errors" in figures:
                assert 0.5 < figures["bias_in_standard_errors"]["mean"] < 2.0, name
        noise = {name: figures["encoder"]["mean"] for name, figures in point["bounds"].items()}
        assert noise["score_function"] > noise["score_function_loo"] > noise["sgvb_b"]


def test_wrong_points_of_gradient_variance_are_refused_in_one_line(tmp_path: Path):
    for points in ("300,100", "many", "10,300"):
        done = run_program(
            "-m",
            "experiments.paper.gradient_variance",
            "--config=experiments/figure_4_frey.py",
            f"--examples={points}",
            f"--output={tmp_path / 'never.json'}",
        )
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: --examples")


@pytest.mark.slow
def test_annealing_is_measured_for_all_numbers_of_temperatures_and_chains(
    faces: Path, tmp_path: Path
):
    output = tmp_path / "annealing.json"
    program(
        "-m",
        "experiments.paper.annealing",
        f"--workdir={faces}",
        "--temperatures=2,30",
        "--chains=2,8",
        "--points=3",
        f"--output={output}",
    )
    report = json.loads(output.read_text())
    assert str(tmp_path) not in report["command"]
    sizes = [(row["num_temps"], row["num_chains"]) for row in report["rows"]]
    assert sizes == [(2, 2), (2, 8), (30, 2), (30, 8)]
    gaps = [row["below_reference"]["mean"] for row in report["rows"]]
    assert np.all(np.isfinite(gaps))
    assert gaps[-1] < gaps[0]


@pytest.mark.slow
def test_the_paper_study_trains_measures_reports_and_resumes(tmp_path: Path):
    """The study is the one that needs every part: a sweep, posteriors over theta, log p(x)."""
    command = [
        "-m",
        "experiments.paper",
        "--quick",
        "--only=full_vb_frey",
        f"--runs={tmp_path}",
        "--",
        "--axis=data.num_train=100",
        "--config.train.num_examples=400",
        "--config.model.hidden=(5,)",
    ]
    program(*command)
    results = tmp_path / "results" / "full_vb_frey.json"
    found = json.loads(results.read_text())
    (run,) = found["runs"]
    assert run["curve"]["examples"][-1] == run["num_examples"] == 400
    assert run["step_size"] == 0.02
    measured = run["measured"]
    assert np.isfinite(measured["mean"]["estimators"]["importance"]["mean"])
    assert measured["samples"]["model"]["num_theta"] > 1
    assert measured["evidence"]["kl_theta"] > 0
    assert measured["evidence"]["bound"] < run["train_bound"]
    results.unlink()
    program(*command)
    again = json.loads(results.read_text())
    assert again["runs"] == found["runs"]

    program("-m", "docs.tools.paper", f"--folder={tmp_path}")
    assert "Frey faces, N = 100" in (tmp_path / "paper.md").read_text()


def test_the_results_of_the_protocol_of_gated_layers_are_collected(
    undisturbed: Path, tmp_path: Path
):
    folder, output = tmp_path / "run", tmp_path / "protocol.json"
    shutil.copytree(undisturbed, folder)
    done = evaluate.main(
        [f"--workdir={folder}", "--which=best", "--estimators=importance", "--num_points=5",
         "--proposal=encoder", f"--output={folder / 'importance.json'}"]
    )  # fmt: skip
    assert done == 0
    assert protocol.main([f"--run={folder}", "--name=static", f"--output={output}"]) == 0
    assert protocol.main([f"--run={folder}", "--name=dynamic", f"--output={output}"]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert list(rows) == ["static", "dynamic"]
    assert rows["static"]["log_p"]["importance"]["num_points"] == 5
    assert rows["static"]["best_test_bound"] == pytest.approx(
        json.loads((folder / "summary.json").read_text())["best_test_bound"]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("without_files", "standard_promotion")
def test_the_comparison_of_discrete_latents_takes_up_where_it_stopped(tmp_path: Path):
    output = tmp_path / "discrete.json"
    small = ["--examples=300", "--trial-examples=200", "--images=4", "--samples=20", "--seeds=1"]

    def compare(*flags: str) -> Any:
        assert discrete_latents.main([*small, f"--output={output}", *flags]) == 0
        return json.loads(output.read_text())["ways"]

    first = compare("--only=nvil")
    ways = compare("--only=nvil,relaxed_bernoulli,wake_sleep")
    assert ways["nvil"] == first["nvil"]
    for way in ways.values():
        assert way["step_size"] in discrete_latents.STEP_SIZES
        (run,) = way["runs"].values()
        assert run["gradient_variance"].keys() == {"encoder", "decoder", "prior"}
        assert min(run["gradient_variance"].values()) > 0.0
        assert run["test_bound"] < run["test_log_p"] < 0.0
        assert run["simulated_log_p"].keys() == {"lower", "upper"}
    with pytest.raises(UserError, match="has other sizes"):
        discrete_latents.main([f"--output={output}"])
    with pytest.raises(UserError, match="--only names 'vae'"):
        discrete_latents.main([f"--output={output}", "--only=vae"])
