"""A run and its folder: claim it, train, draw, summarize."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aevb.algorithms.skip_nonfinite import num_skipped
from aevb.config import WITHOUT_EFFECT, Values, section, with_defaults
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.evaluation import elbo
from aevb.experiment import Experiment, build
from aevb.reports.explorer import explorer_page
from aevb.runtime import distributed, provenance, xla
from aevb.runtime.run_lock import LOCK, owned, unusable, writing
from aevb.storage import trackers
from aevb.storage.metrics_log import UNFINISHED, read_signed, replace_text, write_signed
from aevb.storage.trackers import Pictures
from aevb.training import trainer
from aevb.training.trainer import Trained
from aevb.types import PyTree

CONFIG, SUMMARY, EXPLORER = "config.json", "summary.json", "explorer.html"
BEFORE_CONFIG = (LOCK, CONFIG + UNFINISHED)  # files that a run may leave when it dies at once
BY_BOUND = ("aevb", "full_vb")  # algorithms that maximize what config.algorithm.bound names


def inspect(folder: Path, config: Values) -> dict[str, Any] | None:
    """Looks into a run's folder, which need not exist -> its summary, if the run is finished.

    Raises:
        UserError: the folder belongs to something else, or cannot be read.
    """
    try:
        if (folder / CONFIG).exists():
            _refuse_another(_read(folder / CONFIG), _as_json(config), folder)
        elif folder.exists() and any(file.name not in BEFORE_CONFIG for file in folder.iterdir()):
            raise UserError(
                f"--workdir={folder} holds files but no config.json, so it is no run's folder; "
                "name a new or an empty one"
            )
        summary = folder / SUMMARY
        return _read(summary) if summary.exists() else None
    except OSError as error:
        raise unusable(folder, error) from error


@contextmanager
def claimed(folder: Path, config: Values) -> Iterator[dict[str, Any] | None]:
    """A context in which this process alone has a run's folder, with its config in it.

    Its value is the summary, if the run has been finished in the meantime.

    Raises:
        UserError: another process has it, has made it another run's, or it cannot be written, now
            or later.
    """
    with owned(folder):
        finished = inspect(folder, config)
        if finished is None:
            try:
                write_signed(folder / CONFIG, config)
            except OSError as error:
                raise unusable(folder, error) from error
        with writing(folder):
            yield finished


def _as_json(config: Values) -> dict[str, Any]:
    """The values as a JSON file gives them back: its tuples are lists."""
    return json.loads(json.dumps(config))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_signed(path)
    except ValueError as error:
        remedy = {
            CONFIG: "put it back (every checkpoint has a copy in notes/metadata), or name another "
            "--workdir",
            SUMMARY: "delete it and give the command again, which makes it of the last checkpoint",
        }
        raise UserError(f"{path} is damaged ({error}); {remedy[path.name]}") from error


def _refuse_another(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    found = _as_json(with_defaults(found))
    differing = [
        f"{name} ({found.get(name)!r} there, {wanted.get(name)!r} here)"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name) and name not in WITHOUT_EFFECT
    ]
    if differing:
        raise UserError(
            f"--workdir={folder} holds a run with another config: {', '.join(differing)}; "
            "name another folder, or give the same config to resume"
        )


def run(config: Values, folder: Path, *, debug: bool = False) -> dict[str, Any]:
    """Trains what a validated config names, in its folder -> the summary.

    A finished run is not run again; one that was interrupted goes on, and ends bitwise as if it
    had not been.

    Of several processes the first has the summary, and the others {}.

    Args:
        debug: whether JAX looks for leaked tracers, and the source of a NaN is looked for.

    Raises:
        UserError: something that the user can put right.
        Interrupted: on one of `signals.CAUGHT`, with everything saved.
    """
    with distributed.together(), jax.checking_leaks() if debug else nullcontext():
        finished = distributed.by_the_first(lambda: inspect(folder, config))
        if distributed.most_of(int(finished is not None)):
            return finished or {}
        xla.use_cache()
        return _run(config, folder, debug)


def _run(config: Values, folder: Path, debug: bool) -> dict[str, Any]:
    experiment = build(config)
    require_boards(config)
    with ExitStack() as held:  # only now: a refused config leaves nothing behind
        claim = claimed(folder, config)
        finished = distributed.by_the_first(lambda: held.enter_context(claim))
        if distributed.most_of(int(finished is not None)):
            return finished or {}
        score = elbo.make_score(experiment.vae, experiment.dataset.preprocess)
        if distributed.is_first():
            print(f"run:   {folder}\n{describe(experiment, config)}", flush=True)
        trained = trainer.fit(
            experiment.algorithm,
            experiment.dataset,
            score,
            trainer.Settings(**section(config, "train")),
            key=jax.random.key(config["seed"]),
            folder=folder,
            about=about(config),
            pictures=pictures_of(experiment, config),
            debug=debug,
        )
        summary = distributed.by_the_first(
            lambda: finish(experiment, score, trained, config, folder)
        )
        return summary or {}


def about(config: Values) -> dict[str, Any]:
    """What every checkpoint of a run carries along."""
    return {"config": config, "versions": provenance.versions()}


def require_boards(config: Values) -> None:
    """Raises a UserError where a library is not installed that a run's boards need."""
    trackers.require_libraries(tensorboard=config["train.tensorboard"], wandb=config["train.wandb"])


def pictures_of(experiment: Experiment, config: Values) -> Pictures | None:
    """What boards show of a run's parameters; None where none is on, or the data are no images."""
    if not config["train.tensorboard"] and config["train.wandb"] == trackers.OFF:
        return None
    from aevb.reports import run_figures  # and matplotlib, for which other runs need not wait

    return run_figures.pictures_of(experiment)


def finish(
    experiment: Experiment, score: elbo.Scorer, trained: Trained, config: Values, folder: Path
) -> dict[str, Any]:
    """Draws and summarizes a run that is trained -> the summary, with which it is finished."""
    dataset = experiment.dataset
    params = experiment.algorithm.vae_params(trained.state.params)
    speed = trained.examples_per_second
    summary = {
        **_bounds(score, params, dataset, is_density=experiment.vae.levels is None),
        "num_examples": int(trained.state.step) * config["train.batch_size"],
        "skipped_steps": num_skipped(trained.state) or 0,
        "examples_per_second": None if speed is None else round(speed, 1),
        "seconds": round(trained.seconds, 3),
        "data": _describe_data(dataset, config),
        "seed": config["seed"],
        "versions": provenance.versions(),
        "machine": {**provenance.machine(), "device": jax.devices()[0].device_kind},
    }
    from aevb.reports import run_figures  # and matplotlib, for which training need not have waited

    run_figures.draw_run(experiment, params, trained.records, folder / "figures")
    page = explorer_page(experiment, params, trained.records, config, summary)
    replace_text(folder / EXPLORER, page)
    write_signed(folder / SUMMARY, summary)
    return summary


def _bounds(
    score: elbo.Scorer, params: PyTree, dataset: Dataset, *, is_density: bool
) -> dict[str, float]:
    """The bound on all of each split, with its standard error, and bits for grey data."""
    figures = {}
    for split, data in (("train", dataset.train), ("test", dataset.test)):
        mean, error = score(params, data, np.arange(len(data)))
        figures[f"{split}_bound"] = mean
        figures[f"{split}_bound_standard_error"] = error
        if dataset.levels is not None:
            figures[f"{split}_bits_per_dim"] = elbo.bits_per_dim(
                mean,
                num_dims=data.shape[1],
                levels=dataset.levels if is_density else None,
            )
    return figures


def _describe_data(dataset: Dataset, config: Values) -> dict[str, Any]:
    """What a published number must carry."""
    return {
        "name": dataset.name,
        "split": config["data.split"],
        "binarization": config["data.binarization"],
        "kind": dataset.kind,
        "levels": dataset.levels,
        "num_train": len(dataset.train),
        "num_test": len(dataset.test),
        "num_dims": dataset.train.shape[1],
    }


def describe(experiment: Experiment, config: Values) -> str:
    """What is about to be trained, in three lines."""
    dataset = experiment.dataset
    params = jax.eval_shape(experiment.vae.init, jax.random.key(0))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    sizes = (dataset.train.shape[1], *config["model.hidden"], config["model.num_latents"])
    how = config["algorithm.name"]
    if how in BY_BOUND:
        how += f" with {config['algorithm.bound']}"
    return (
        f"data:  {dataset.name}, {len(dataset.train):,} training and {len(dataset.test):,} test "
        f"datapoints ({dataset.kind})\n"
        f"model: {config['model.network']} {'-'.join(map(str, sizes))} and back, "
        f"{config['model.likelihood']}, {num_params:,} parameters\n"
        f"train: {how}, "
        f"{config['optimizer.name']} with step size {config['optimizer.step_size']:g}"
    )
