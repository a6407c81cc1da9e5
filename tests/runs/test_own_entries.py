"""Entries that an experiment's file brings are used, found again and protected from changes."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from programs import ROOT, Done, run_program, run_python

from aevb import load_run, registry
from aevb.errors import UserError

FILE = ROOT / "tests" / "support" / "own_entries.py"


def command(name: str, *flags: object) -> Done:
    """Runs a subcommand of `aevb`."""
    return run_program("-m", "aevb", name, *flags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished run whose experiment file no longer exists."""
    file = tmp_path_factory.mktemp("experiment") / "mine.py"
    shutil.copy(FILE, file)
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = command("run", f"--config={file}", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "model: mlp 5-4-2 and back, heavy_tailed" in done.stdout
    assert "train: prior_samples with tempered" in done.stdout
    file.unlink()
    return folder


def test_a_run_keeps_a_copy_of_its_experiment_file(folder: Path):
    assert (folder / "experiment.py").read_text() == FILE.read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config["model.likelihood_options.df"] == 3.0
    assert config["entries"] == registry.bring(FILE)


def test_a_loaded_run_has_the_learned_vector_of_its_own_likelihood(folder: Path):
    run = load_run(folder)
    assert run.model.params["decoder"]["log_scale"].shape == (5,)
    assert run.dataset.name == "waves"
    assert np.max(run.dataset.train) == pytest.approx(2.0, abs=0.01)  # the option `amplitude`
    x = run.dataset.preprocess(jax.random.key(0), run.dataset.test[0])
    log_p = jax.jit(partial(run.log_prob, num_samples=10))(jax.random.key(1), x)
    assert np.isfinite(log_p)


@pytest.mark.slow
def test_evaluation_uses_an_estimator_of_the_experiment_file(folder: Path, tmp_path: Path):
    output = tmp_path / "marginal.json"
    flags = ("--estimators=importance,doubled", "--num_points=4", "--num_samples=200")
    done = command("evaluate", f"--workdir={folder}", f"--output={output}", *flags)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["estimators"]
    assert rows["doubled"]["settings"] == {"num_samples": 200}
    off = rows["doubled"]["mean"] - rows["importance"]["mean"]
    errors = [rows[name]["estimator_standard_error"] for name in ("doubled", "importance")]
    assert abs(off) < 5 * np.hypot(*errors)


def test_a_run_resumes_only_with_the_same_experiment_file(folder: Path, tmp_path: Path):
    again = command("run", f"--config={FILE}", f"--workdir={folder}")
    assert again.returncode == 0, again.stderr
    changed = tmp_path / "mine.py"
    changed.write_text(FILE.read_text().replace("df=4.0", "df=5.0"))
    refused = command("run", f"--config={changed}", f"--workdir={folder}")
    assert refused.returncode == 2
    assert "entries come from another experiment's file" in refused.stderr


def test_a_changed_or_missing_copy_of_the_experiment_file_is_refused(folder: Path, tmp_path: Path):
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "experiment.py").write_text(FILE.read_text() + "\n# seen\n")
    with pytest.raises(UserError, match=r"experiment\.py has changed since the run was trained"):
        load_run(run)
    (run / "experiment.py").unlink()
    with pytest.raises(UserError, match=r"experiment\.py is missing"):
        load_run(run)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--mapping=stack", "--launcher=local"])
def test_each_run_of_a_sweep_has_the_entries_of_the_experiment_file(how: str, tmp_path: Path):
    folder = tmp_path / "sweep"
    flags = (f"--config={FILE}", f"--workdir={folder}", "--sweep", how)
    done = run_python("-m", "aevb", "run", *flags)
    assert done.returncode == 0, done.stderr
    members = sorted(folder.glob("model.likelihood_options.df=*"))
    assert len(members) == 2
    for member in members:
        assert load_run(member).dataset.name == "waves"


def test_help_lists_the_entries_of_the_experiment_file():
    text = command("run", f"--config={FILE}", "--help").stdout
    for name in ("waves", "heavy_tailed", "tempered", "prior_samples"):
        assert name in text
    assert "heavy_tailed" not in command("run", "--help").stdout


def refusal(*flags: str) -> str:
    done = command("run", *flags)
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_an_option_that_an_entry_does_not_have_is_refused_with_those_that_it_has(tmp_path: Path):
    mine, folder = f"--config={FILE}", f"--workdir={tmp_path / 'run'}"
    for option, has in {
        "data.options.phase": "waves has the options amplitude",
        "model.likelihood_options.scale": "heavy_tailed has the options df",
        "model.guide_options.rank": "diag_normal has the options (none)",
        "algorithm.options.temperature": "prior_samples has the options scale",
        "algorithm.bound_options.alpha": "tempered has the options power",
    }.items():
        if option == "model.guide_options.rank":
            mine = "--config=figure_4_frey"  # the algorithm of the file has no guide
        message = refusal(mine, folder, f"--config.{option}=1.0")
        assert f"config.{option} is unknown; {has}" in message
        mine = f"--config={FILE}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("{'likelihod': {}}", "has the kind 'likelihod'; the kinds are dataset, network"),
        ("{'bound': {'iwae': print}}", "has the bound 'iwae', which the package has too"),
        ("[print]", "which is no mapping; it must return {kind: {name: entry}}"),
        ("{'bound': [print]}", "which is no mapping; it must return {kind: {name: entry}}"),
        ("1 / 0", "cannot be read: division by zero"),
    ],
)
def test_invalid_entries_of_an_experiment_file_are_refused_in_one_line(
    entries: str, words: str, tmp_path: Path
):
    file = tmp_path / "mine.py"
    file.write_text(
        "from aevb.config import default_config as get_config\n\n\n"
        f"def get_entries():\n    return {entries}\n"
    )
    assert words in refusal(f"--config={file}", f"--workdir={tmp_path / 'run'}")
