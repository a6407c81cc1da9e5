"""A user error is reported in one clear line with exit status 2, without a traceback."""

import os
import urllib.request
from pathlib import Path
from typing import NoReturn

import pytest
from programs import ROOT, Done, run_program, run_python

from aevb.config import FIELDS, default_config, validate
from aevb.storage.metrics_log import write_with_digest

FREY = "--config=experiments/figure_4_frey.py"
MNIST = "--config=experiments/mnist.py"
CATEGORICAL = "--config.model.likelihood=categorical"
DEQUANTIZE = "--config.data.dequantize=True"
MANY = "--config.train.num_examples=3000000"
SYNTHETIC = ("--config.data.name=synthetic", "--config.model.likelihood=gaussian")


def run(*arguments: str) -> Done:
    return run_program("experiments/run.py", *arguments)


# arguments, and words that the line must have: the error, and the allowed values or the remedy
MISTAKES = {
    "no config": ([], ["--config is missing", "frey_faces.py"]),
    "no such file": (["--config=experiments/nope.py"], ["nope.py", "No such file"]),
    "no config in file": (["--config={tmp}/empty.py"], ["get_config"]),
    "config file with an error": (["--config={tmp}/broken.py"], ["broken.py"]),
    "unknown flag": ([FREY, "--wrokdir=x"], ["wrokdir"]),
    "unknown field": (
        [FREY, "--config.model.num_latent=3"],
        ["config.model.num_latent is unknown", "do you mean config.model.num_latents?", "--help"],
    ),
    "unknown section": ([FREY, "--config.modle.num_latents=3"], ["modle"]),
    "stray word": ([FREY, "latents=3"], ["latents=3", "--config.FIELD=VALUE"]),
    "value missing": ([FREY, "--config.seed"], ["config.seed"]),
    "word for a number": ([FREY, "--config.seed=one"], ["config.seed", "one"]),
    "fraction for a count": ([FREY, "--config.train.batch_size=1.5"], ["batch_size", "1.5"]),
    "None for a number": ([FREY, "--config.seed=None"], ["seed", "None"]),
    "negative size": ([FREY, "--config.model.num_latents=-3"], ["num_latents", "-3", "at least 1"]),
    "negative seed": ([FREY, "--config.seed=-1"], ["seed", "-1", "at least 0"]),
    "seed beyond 32 bits": ([FREY, "--config.seed=5000000000"], ["seed", "5000000000"]),
    "zero step": ([FREY, "--config.optimizer.step_size=0"], ["step_size", "0.0", "above 0"]),
    "NaN step": ([FREY, "--config.optimizer.step_size=nan"], ["step_size", "nan"]),
    "zero in hidden": ([FREY, "--config.model.hidden=(200,0)"], ["hidden", "(200, 0)"]),
    "word in hidden": ([FREY, "--config.model.hidden=wide"], ["hidden", "wide"]),
    "a sweep to debug": ([FREY, "--debug", "--sweep"], ["--debug", "sweep", "--workdir"]),
    "negative skips": (
        [FREY, "--config.algorithm.skip_bad_steps=-1"],
        ["skip_bad_steps", "-1", "at least 0"],
    ),
    "unknown data": ([FREY, "--config.data.name=cifar"], ["cifar", "frey_faces", "mnist"]),
    "empty name": ([FREY, "--config.data.name="], ["data.name", "''", "frey_faces"]),
    "unknown likelihood": ([FREY, "--config.model.likelihood=mse"], ["mse", "bernoulli"]),
    "a negative limit of log variances": (
        [FREY, "--config.model.log_var_limit=-1"],
        ["config.model.log_var_limit is -1.0", "at least 0"],
    ),
    "a start at the mean of 256 logits": (
        [FREY, CATEGORICAL, "--config.model.init_at_mean=True"],
        ["config.model.init_at_mean is True", "'categorical'", "config.model.init_at_mean=False"],
    ),
    "unknown guide": (
        [FREY, "--config.model.guide=flow"],
        ["flow", "diag_normal", "planar", "iaf"],
    ),
    "no layer": ([FREY, "--config.model.guide_layers=0"], ["guide_layers", "0", "at least 1"]),
    "no hidden unit": ([FREY, "--config.model.guide_hidden=0"], ["guide_hidden", "at least 1"]),
    "unknown prior": ([FREY, "--config.model.prior=flat"], ["flat", "mixture", "vamp"]),
    "no component": (
        [FREY, "--config.model.prior_components=0"],
        ["prior_components", "at least 1"],
    ),
    "unknown bound": ([FREY, "--config.algorithm.bound=elbo"], ["elbo", "sgvb_a", "sgvb_b"]),
    "unknown algorithm": ([FREY, "--config.algorithm.name=gan"], ["gan", "aevb", "mcem"]),
    "certain acceptance": (
        [FREY, "--config.algorithm.target_acceptance=1"],
        ["target_acceptance", "1.0", "between 0 and 1"],
    ),
    "split of another data set": ([FREY, "--config.data.split=fifths"], ["fifths", "blocked"]),
    "binarized faces": ([FREY, "--config.data.binarization=fixed"], ["fixed", "none"]),
    "grey scale": ([FREY, "--config.data.grey_scale=100"], ["grey_scale", "100", "256"]),
    "less than a minibatch": ([FREY, "--config.train.num_examples=50"], ["num_examples", "50"]),
    "axis without a sweep": ([FREY, "--axis=seed=0,1"], ["--axis", "--sweep"]),
    "mapping without a sweep": ([FREY, "--mapping=stack"], ["--mapping", "--sweep"]),
    "axis of no field": ([FREY, "--sweep", "--axis=sede=0,1"], ["sede"]),
    "axis with a value twice": ([FREY, "--sweep", "--axis=seed=0,0"], ["seed", "twice"]),
    "axis with a bad value": (
        [FREY, "--sweep", "--axis=train.batch_size=100,0"],
        ["batch_size", "0"],
    ),
    "unknown mapping": ([FREY, "--sweep", "--mapping=cloud"], ["cloud", "devices"]),
    "grey pixels under Bernoulli": (
        [FREY, "--config.model.likelihood=bernoulli"],
        ["bernoulli", "grey", "frey_faces", "continuous_bernoulli", "data.binarization"],
    ),
    "real numbers as grey levels": (
        [FREY, "--config.data.name=synthetic", "--config.data.split=", CATEGORICAL],
        ["categorical", "grey", "the real data of synthetic", "gaussian"],
    ),
    "grey levels on another scale": (
        [FREY, CATEGORICAL, "--config.data.grey_scale=255"],
        ["categorical", "k / 256", "k / 255", "data.grey_scale=256"],
    ),
    "dequantized real numbers": (
        [FREY, "--config.data.name=synthetic", "--config.data.split=", DEQUANTIZE],
        ["data.dequantize is True", "synthetic holds real data"],
    ),
    "dequantized levels under probabilities of levels": (
        [FREY, CATEGORICAL, DEQUANTIZE],
        ["config.data.dequantize is True", "categorical", "dequantize=False"],
    ),
    "closed KL of a flow": (
        [FREY, "--config.model.guide=planar"],
        ["sgvb_b", "sgvb_a", "config.model.guide"],
    ),
    "closed KL to a mixture": (
        [FREY, "--config.model.prior=mixture", "--config.algorithm.bound=free_bits"],
        ["free_bits", "sgvb_a", "config.model.prior"],
    ),
    "KL of each latent of a full covariance": (
        [FREY, "--config.model.guide=full_normal", "--config.algorithm.bound=free_bits_per_unit"],
        ["free_bits_per_unit", "use free_bits", "diag_normal", "config.model.guide"],
    ),
    "more pseudo-inputs than data": (
        [FREY, "--config.model.prior=vamp", "--config.model.prior_components=2000"],
        ["prior_components", "2000", "1372"],
    ),
    "convolutions of no image": (
        [FREY, *SYNTHETIC, "--config.data.split=", "--config.model.network=conv"],
        ["conv", "images", "synthetic"],
    ),
    "convolutions without a layer": (
        [FREY, "--config.model.network=conv", "--config.model.hidden=()"],
        ["conv", "at least one layer", "hidden"],
    ),
    "local noise of convolutions": (
        [FREY, "--config.model.network=conv", "--config.algorithm.name=full_vb"],
        ["weight_noise", "local", "mlp", "datapoint"],
    ),
    "minibatch in unequal parts": (
        [FREY, "--config.algorithm.accumulation_steps=3"],
        ["accumulation_steps", "3", "batch_size=100"],
    ),
    "options in one string": (
        [FREY, "--config.optimizer.options=b1=0.9"],
        ["config.optimizer.options holds", "optimizer.name", "config.optimizer.options.NAME=VALUE"],
    ),
    "option of data in a file": (
        [FREY, "--config.data.name=file:{tmp}/file", "--config.data.options.scale=2.0"],
        ["config.data.options.scale is unknown", "file:", "(none)"],
    ),
    "unknown optimizer": ([FREY, "--config.optimizer.name=adamm"], ["adamm", "adagrad"]),
    "optimizer option": (
        [FREY, "--config.optimizer.name=adam", "--config.optimizer.options.beta=1"],
        ["beta", "b1"],
    ),
    "option of another bound": (
        [FREY, "--config.algorithm.bound=iwae", "--config.algorithm.bound_options.alpha=1"],
        ["iwae", "bound_options.alpha", "(none)"],
    ),
    "value that a bound refuses": (
        [FREY, "--config.algorithm.bound=ciwae", "--config.algorithm.bound_options.beta=2"],
        ["ciwae", "beta is 2", "from 0 to 1", "bound_options"],
    ),
    "a sample too few": (
        [FREY, "--config.algorithm.bound=score_function_loo"],
        ["score_function_loo", "num_samples is 1", "at least 2"],
    ),
    "one sample of reweighted wake-sleep": (
        [FREY, "--config.algorithm.name=reweighted_wake_sleep"],
        ["reweighted_wake_sleep", "num_samples is 1", "at least 2", "config.algorithm.num_samples"],
    ),
    "encoder in the prior of wake-sleep": (
        [FREY, "--config.algorithm.name=wake_sleep", "--config.model.prior=vamp"],
        ["wake_sleep", "vamp", "mixture"],
    ),
    "more training data than there are": (
        [FREY, "--config.data.num_train=2000"],
        ["num_train", "2000", "1372"],
    ),
    "batch beyond the data": ([FREY, "--config.train.batch_size=2000"], ["2000", "1372"]),
    "data missing": ([MNIST, "--config.data.dir={tmp}"], ["mnist", "{tmp}"]),
    "folder without an image": (
        [FREY, "--config.data.name=images:{tmp}/other"],
        ["holds no image"],
    ),
    "own data without a name": (
        ["--config=experiments/own_data.py"],
        ["'file:'", "--config.data.name=file:scores.csv"],
    ),
    "file without a prefix": ([FREY, "--config.data.name={tmp}/file"], ["do you mean file:{tmp}/"]),
    "folder without a prefix": ([FREY, "--config.data.name={tmp}"], ["do you mean images:{tmp}?"]),
    "tfds without a name": ([FREY, "--config.data.name=tfds:"], ["tfds:NAME"]),
    "workdir is a file": ([FREY, "--workdir={tmp}/file"], ["{tmp}/file"]),
    "workdir below a file": ([FREY, "--workdir={tmp}/file/run"], ["{tmp}/file/run"]),
    "workdir of something else": ([FREY, "--workdir={tmp}/other"], ["{tmp}/other", "config.json"]),
    "workdir of another run": (
        [FREY, "--workdir={tmp}/run", "--config.model.num_latents=3", MANY],
        ["model.num_latents", "2 there", "3 here"],
    ),
    "data folder is a file": ([MNIST, "--config.data.dir={tmp}/file"], ["{tmp}/file"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp = tmp_path_factory.mktemp("mistakes")
    (tmp / "file").write_text("not a folder")
    (tmp / "broken.py").write_text("def get_config(:\n")
    (tmp / "empty.py").write_text("")
    (tmp / "other").mkdir()
    (tmp / "other" / "thesis.txt").write_text("precious")
    (tmp / "run").mkdir()
    write_with_digest(tmp / "run" / "config.json", validate(default_config()))
    return tmp


def no_network(*arguments: object, **options: object) -> NoReturn:
    raise OSError("Network is unreachable")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_setting_or_file_of_a_run_is_refused_in_one_line_with_status_2(
    mistake: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments, words = MISTAKES[mistake]
    arguments = [argument.format(tmp=folder) for argument in arguments]
    if not any(argument.startswith("--workdir") for argument in arguments):
        arguments.append(f"--workdir={folder}/new")
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word.format(tmp=folder) in line
    assert not (folder / "new").exists()  # a refused command leaves no files


def test_help_shows_every_field_without_importing_jax(tmp_path: Path):
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')\n")
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = run_python("experiments/run.py", FREY, "--help", env=env)
    assert done.returncode == 0, done.stderr
    for field in FIELDS:
        assert f"--config.{field.name}=" in done.stdout
        assert field.help in done.stdout
