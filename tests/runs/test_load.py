"""A finished run as functions, and their agreement with the run's evaluation."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aevb
from aevb import runs
from aevb.config import default_config, validate, with_values
from aevb.errors import UserError
from aevb.evaluation.elbo import make_score

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run on the linear-Gaussian data, whose log p(x) is easy to estimate."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    values = {
        "data.name": "synthetic", "data.synthetic_num_train": 200, "data.synthetic_num_test": 50,
        "data.synthetic_num_dims": 6, "model.likelihood": "gaussian", "model.hidden": (8,),
        "model.num_latents": 2, "train.num_examples": 4000, "train.first_eval": 1000,
        "train.evals_per_decade": 2, "train.keep_checkpoints": True,
    }  # fmt: skip
    runs.run(validate(with_values(default_config(), values)), folder)
    return folder


def test_a_loaded_run_has_the_test_bound_of_its_summary(folder: Path):
    run = aevb.load_run(folder)
    score = make_score(run.model.vae, run.dataset.preprocess)
    test = run.dataset.test
    found = score(run.model.params, test, np.arange(len(test)))
    summary = runs.inspect(folder, run.config)
    assert summary is not None
    assert found.mean == pytest.approx(summary["test_bound"], rel=1e-6)


def test_the_mean_bound_of_the_test_datapoints_is_that_of_the_summary(folder: Path):
    run = aevb.load_run(folder)
    keys = jax.random.split(KEY, len(run.dataset.test))
    found = jax.jit(jax.vmap(run.bound))(keys, run.dataset.test)
    error = run.summary["test_bound_standard_error"]
    assert jnp.mean(found) == pytest.approx(run.summary["test_bound"], abs=0.2 * error)
    assert jnp.var(found, ddof=1) ** 0.5 / len(found) ** 0.5 == pytest.approx(error, rel=0.1)


def test_functions_of_a_loaded_run_can_be_jitted_and_vmapped(folder: Path):
    run = aevb.load_run(str(folder))
    z, x = jax.jit(jax.vmap(run.sample))(jax.random.split(KEY, 5))
    assert (z.shape, x.shape) == ((5, 2), (5, 6))
    posterior = jax.jit(jax.vmap(run.encode))(x)
    assert posterior.mean.shape == posterior.log_var.shape == (5, 2)
    means = jax.jit(jax.vmap(run.decode))(posterior.mean)
    assert means.shape == (5, 6)
    np.testing.assert_allclose(means[3], run.decode(posterior.mean[3]), rtol=1e-5)
    gradient = jax.grad(lambda z: jnp.sum(run.decode(z)))(z[0])
    assert np.all(np.isfinite(gradient))


@pytest.mark.slow
def test_log_prob_of_a_loaded_run_is_that_by_quadrature_over_the_latent_plane(folder: Path):
    run = aevb.load_run(folder)
    _, x = run.sample(KEY)
    found = jax.jit(lambda key: run.log_prob(key, x, num_samples=2000))(KEY)
    joint = run.model.vae.joint(run.model.params, x)
    axis = jnp.linspace(-6.0, 6.0, 601)
    points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    heights = jax.jit(jax.vmap(lambda z: joint.log_prior(z) + joint.log_lik(z)))(points)
    exact = jax.nn.logsumexp(heights) + 2 * np.log(0.02)
    assert found == pytest.approx(float(exact), abs=0.02)


def test_loading_a_run_logs_nothing(folder: Path, caplog: pytest.LogCaptureFixture):
    aevb.load_run(folder)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_run_loaded_at_an_earlier_step_has_other_parameters(folder: Path):
    early, late = aevb.load_run(folder, step=10), aevb.load_run(folder)
    differs = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), early.model.params, late.model.params
    )
    assert any(jax.tree.leaves(differs))


def test_loading_a_run_changes_no_file(folder: Path):
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
    aevb.load_run(folder)
    assert {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))} == before


def test_loading_a_folder_without_a_finished_run_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"not the folder of a run: it has no config\.json"):
        aevb.load_run(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match="not finished"):
        aevb.load_run(tmp_path)
    (tmp_path / "summary.json").write_text((folder / "summary.json").read_text())
    with pytest.raises(UserError, match=r"data\.json cannot be read"):
        aevb.load_run(tmp_path)
    (tmp_path / "data.json").write_text((folder / "data.json").read_text())
    with pytest.raises(UserError, match="no sound checkpoint"):
        aevb.load_run(tmp_path)
    with pytest.raises(UserError, match=r"step is 7, .* keeps those of 10, .*, 40 "):
        aevb.load_run(folder, step=7)
