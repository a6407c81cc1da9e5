"""A run knows its data: others are refused, and leave its folder as it was."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aevb
from aevb import runs
from aevb.cli import evaluate, explore
from aevb.config import Config, Values, default_config, validate, with_values
from aevb.errors import UserError
from aevb.runs.load import DATA
from aevb.storage import checkpoint
from aevb.sweeps import sweep
from aevb.sweeps.grid import make_plan

RUN = {
    "model.likelihood": "gaussian", "model.hidden": (8,), "train.batch_size": 10,
    "train.num_examples": 40, "train.first_eval": 20, "train.evals_per_decade": 1,
}  # fmt: skip


def config(name: str, **changes: Any) -> Config:
    return with_values(default_config(), RUN | {"data.name": name} | changes)


def values(name: str, **changes: Any) -> Values:
    return validate(config(name, **changes))


def table(seed: int = 0, number: int = 60, num_dims: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, num_dims)).astype(np.float32)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def unfinish(folder: Path) -> None:
    """Makes a finished run one that was killed after its first checkpoints."""
    for name in ("summary.json", "explorer.html"):
        (folder / name).unlink()
    steps = sorted(int(step.name) for step in (folder / "checkpoints").iterdir())
    shutil.rmtree(folder / "checkpoints" / str(steps[-1]))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns the file of the data and the folder of a finished run, which tests leave alone.

    The run was given a relative path of the file.
    """
    folder = tmp_path_factory.mktemp("original")
    np.save(folder / "table.npy", table())
    with contextlib.chdir(folder):
        runs.run(values("file:table.npy"), folder / "run")
    return folder / "table.npy", folder / "run"


@pytest.fixture
def finished(original: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Returns the file of the data and a copy of the finished run; puts the data back."""
    file, folder = original
    shutil.copytree(folder, tmp_path / "run")
    yield file, tmp_path / "run"
    np.save(file, table())


@pytest.fixture
def killed(finished: tuple[Path, Path]) -> tuple[Path, Path]:
    """Returns the file of the data and the folder of a run that was killed."""
    unfinish(finished[1])
    return finished


OTHERS = {
    "fewer columns": (table()[:, :8], "12 columns then, 8 columns now"),
    "fewer rows": (table()[:50], "42 training datapoints then, 35 now"),
    "other values": (table(seed=1), "the same shape, but other values"),
    "another kind": (table() > 0, "real data then, binary data now"),
}


def test_a_resumption_with_other_data_is_refused_and_touches_nothing(
    killed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    """After the refusals, the run resumes with its own data."""
    file, folder = killed
    before = contents_of(folder)
    for other, words in OTHERS.values():
        np.save(file, other)
        likelihood = "bernoulli" if other.dtype == bool else "gaussian"
        with pytest.raises(UserError) as refusal:
            runs.run(values(f"file:{file}", **{"model.likelihood": likelihood}), folder)
        assert "\n" not in str(refusal.value)
        assert words in str(refusal.value) or "another config" in str(refusal.value)
        assert "damaged" not in capsys.readouterr().err
        assert contents_of(folder) == before
    np.save(file, table())
    runs.run(values(f"file:{file}"), folder)
    assert (folder / "summary.json").exists()
    assert not (folder / checkpoint.DAMAGED).exists()


def test_a_finished_run_does_not_score_other_data(finished: tuple[Path, Path]):
    file, folder = finished
    np.save(file, table(seed=1))
    before = contents_of(folder)
    flags = [f"--workdir={folder}", "--estimators=importance", "--num_samples=10", "--num_points=2"]
    for attempt in (
        lambda: aevb.load_run(folder).dataset,
        lambda: evaluate.run(evaluate.parse(flags)),
        lambda: explore.make(folder, "last", None, None),
        lambda: sweep_of(f"file:{file}", folder),
    ):
        with pytest.raises(UserError, match=r"not those that the run in .* was begun with"):
            attempt()
        assert contents_of(folder) == before


def sweep_of(name: str, run: Path) -> None:
    """Runs a sweep with one finished member, which is a copy of a run."""
    plan = make_plan(config(name), {"seed": (0,)})
    folder = run.parent / "sweep"
    shutil.copytree(run, folder / plan.members()[0].name, dirs_exist_ok=True)
    sweep.run(plan, folder, "sequence")


def test_a_relative_path_is_kept_as_an_absolute_one(
    original: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, folder = original
    assert json.loads((folder / "config.json").read_text())["data.name"] == f"file:{file}"
    monkeypatch.chdir(tmp_path)
    np.save("table.npy", table(seed=1))
    run = aevb.load_run(folder)
    train = run.dataset.train
    by = run.dataset.standardization
    assert by is not None
    np.testing.assert_allclose(by.invert(train), table()[: len(train)], atol=1e-5)


def test_data_that_have_moved_are_named_anew_and_checked(killed: tuple[Path, Path]):
    file, folder = killed
    moved = file.with_name("moved.npy")
    os.replace(file, moved)
    with pytest.raises(UserError, match="is no file"):
        runs.run(values(f"file:{file}"), folder)
    np.save(file.with_name("others.npy"), table(seed=1))
    before = contents_of(folder)
    with pytest.raises(UserError, match="other values"):
        runs.run(values(f"file:{file.with_name('others.npy')}"), folder)
    assert contents_of(folder) == before
    finished = runs.run(values(f"file:{moved}"), folder)
    assert finished["num_examples"] == 40
    again = file.with_name("again.npy")
    os.replace(moved, again)
    run = aevb.load_run(folder, data=f"file:{again}")
    assert jax.tree.leaves(run.model.params)
    flags = [f"--workdir={folder}", f"--data=file:{again}", "--estimators=importance"]
    few = ["--num_samples=10", "--num_points=2"]
    assert evaluate.run(evaluate.parse([*flags, *few]))["data"]["num_points"] == 2
    assert explore.make(folder, "last", None, None, f"file:{again}").exists()
    # The command of a finished run with the new name returns its summary, and keeps the name.
    assert runs.run(values(f"file:{again}"), folder) == finished
    assert aevb.load_run(folder).config["data.name"] == f"file:{again}"


def test_a_run_without_the_identity_of_its_data_is_refused(killed: tuple[Path, Path]):
    file, folder = killed
    kept = (folder / DATA).read_text()
    for damaged in (None, kept.replace("real", "grey")):
        (folder / DATA).unlink() if damaged is None else (folder / DATA).write_text(damaged)
        with pytest.raises(UserError, match=r"data\.json cannot be read .* put it back"):
            runs.run(values(f"file:{file}"), folder)
    notes = next((folder / "checkpoints").glob("*/notes/metadata"))
    about = json.loads(notes.read_text())["about"]
    del (stored := json.loads(kept))["digest"]
    assert about["data"] == stored


def test_a_run_without_its_data_and_in_another_folder_does_what_it_did_with_them(
    finished: tuple[Path, Path], tmp_path: Path
):
    file, folder = finished
    before, x, key = aevb.load_run(folder), jnp.asarray(table()[0]), jax.random.key(0)
    file.unlink()
    moved = folder.rename(tmp_path / "moved")
    run = aevb.load_run(moved)
    jax.tree.map(np.testing.assert_array_equal, run.model.params, before.model.params)

    def results_of(run: aevb.TrainedRun, key: jax.Array, x: jax.Array, z: jax.Array) -> Any:
        log_p = run.log_prob(key, x, num_samples=10)
        return run.encode(x), run.decode(z), run.sample(key), log_p

    now, then = (jax.jit(partial(results_of, each))(key, x, jnp.ones(2)) for each in (run, before))
    jax.tree.map(np.testing.assert_array_equal, now, then)
    np.testing.assert_array_equal(run.model.preprocess(key, x), x)
    with pytest.raises(UserError, match="is no file"):
        _ = run.dataset


@pytest.mark.slow
def test_a_learned_prior_that_starts_at_data_is_loaded_without_them(tmp_path: Path):
    file = tmp_path / "table.npy"
    np.save(file, table())
    changes = {
        "model.prior": "vamp",
        "model.prior_components": 5,
        "algorithm.bound": "sgvb_a",
        "train.num_examples": 10,
    }
    runs.run(values(f"file:{file}", **changes), tmp_path / "run")
    before = aevb.load_run(tmp_path / "run")
    file.unlink()
    run = aevb.load_run(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, run.model.params, before.model.params)
    (_, drawn), (_, again) = (jax.jit(each.sample)(jax.random.key(0)) for each in (before, run))
    np.testing.assert_array_equal(again, drawn)
