"""A run in its folder: locking, training, figures and the summary."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from inspect import signature
from pathlib import Path
from threading import Thread
from typing import Any

import jax
import numpy as np

from aevb import registry
from aevb.algorithms.averaging import starting_at
from aevb.algorithms.base import TrainState
from aevb.algorithms.skip_nonfinite import num_skipped
from aevb.config import (
    ENTRIES,
    LATENTS,
    WITHOUT_EFFECT,
    Values,
    entry_of,
    has_path,
    is_finished,
    layers_of,
    section,
)
from aevb.data import Dataset
from aevb.data.identity import identity
from aevb.errors import UserError
from aevb.evaluation import classification, elbo, manifold, measures
from aevb.evaluation.bits import bits_of
from aevb.experiment import Experiment, build, require_same_schedules, with_likelihood
from aevb.registry import EXPERIMENT
from aevb.reports.explorer import explorer_page
from aevb.runs import diagnosis
from aevb.runs.load import DATA, best_record, first_params, read_state, require_same_data
from aevb.runtime import distributed, provenance, xla
from aevb.runtime.checksums import as_read_back
from aevb.runtime.run_lock import LOCK, owned, unusable, writing
from aevb.storage import trackers
from aevb.storage.metrics_log import UNFINISHED, read_with_digest, replace_text, write_with_digest
from aevb.storage.trackers import Pictures
from aevb.training import trainer
from aevb.training.journal import Journal
from aevb.training.settings import Settings
from aevb.training.trainer import Run, Trained
from aevb.types import PyTree

Bounds = dict[str, float | None]  # entries of a summary

ERROR = "_standard_error"  # suffix of the entry of a standard error
CONFIG, SUMMARY, EXPLORER = "config.json", "summary.json", "explorer.html"
# The files of a run that was killed before its config was written.
BEFORE_CONFIG = (
    *(LOCK, EXPERIMENT, EXPERIMENT + UNFINISHED, DATA, DATA + UNFINISHED, CONFIG + UNFINISHED),
)


def inspect(
    folder: Path, config: Values, data: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the summary in a run's folder if the run is finished, else None.

    The folder does not have to exist.

    Args:
        data: the `identity` of the config's data. If it is not given, and the config has another
            path to the data than the run, the result is None.

    Raises:
        UserError: the folder belongs to another run or to something else, its data are others, or
            it cannot be read.
    """
    try:
        if (folder / CONFIG).exists():
            stored = _read(folder / CONFIG)
            _refuse_another(stored, as_read_back(config), folder)
            if data is not None:
                require_same_data(folder, data)
            elif stored["data.name"] != config["data.name"]:
                return None
        elif folder.exists() and any(file.name not in BEFORE_CONFIG for file in folder.iterdir()):
            raise UserError(
                f"--workdir={folder} holds files but no config.json, so it is no folder of a run; "
                "name a new or an empty one"
            )
        return _read(folder / SUMMARY) if is_finished(folder, config) else None
    except OSError as error:
        raise unusable(folder, error) from error


@contextmanager
def claimed(
    folder: Path, config: Values, data: Mapping[str, Any]
) -> Iterator[dict[str, Any] | None]:
    """Locks a run's folder for this process while the context is open, and writes the config.

    A new run's folder also gets the identity of its data and, if the experiment's file brings
    entries, a copy of that file. A run whose data have moved gets their new path.

    The value of the context is the summary if the run is finished, else None.

    Args:
        data: the `identity` of the config's data.

    Raises:
        UserError: another process holds the lock, the folder belongs to another run or to one with
            other data, or it cannot be written, at the start or later.
    """
    with owned(folder):
        finished = inspect(folder, config, data)
        try:
            if not (folder / CONFIG).exists():
                keep_experiment(folder, config)
                write_with_digest(folder / DATA, data)
            if finished is None or _read(folder / CONFIG)["data.name"] != config["data.name"]:
                write_with_digest(folder / CONFIG, config)
        except OSError as error:
            raise unusable(folder, error) from error
        with writing(folder):
            yield finished


def keep_experiment(folder: Path, config: Values) -> None:
    """Writes a copy of the experiment's file into a run's folder, if it brings entries."""
    if digest := config.get(ENTRIES):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / EXPERIMENT, registry.text_of(digest))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_with_digest(path)
    except ValueError as error:
        remedy = {
            CONFIG: "put it back (every checkpoint has a copy in notes/metadata), or name another "
            "--workdir",
            SUMMARY: "delete it and give the command again, which makes it of the last checkpoint",
        }
        raise UserError(f"{path} is damaged ({error}); {remedy[path.name]}") from error


def _refuse_another(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    if found.get(ENTRIES) != wanted.get(ENTRIES):
        raise UserError(
            f"--workdir={folder} holds a run whose entries come from another experiment's file, or "
            f"from an earlier state of it; its copy is {folder / EXPERIMENT}; name another folder"
        )
    longer = "train.num_examples"  # a run can go on
    if found[longer] > wanted[longer]:
        raise UserError(
            f"--workdir={folder} holds a run of {found[longer]:,} training examples, and "
            f"config.{longer} is {wanted[longer]:,}; it can go on for more, or name another folder"
        )
    differing = [
        f"{name} ({found.get(name)!r} there, {wanted.get(name)!r} here)"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
        and name not in (*WITHOUT_EFFECT, longer)
        and not (name == "data.name" and has_path(found[name]) and has_path(wanted[name]))
    ]
    if differing:
        raise UserError(
            f"--workdir={folder} holds a run with another config: {', '.join(differing)}; "
            "name another folder, or give the same config to resume"
        )
    require_same_schedules({**wanted, longer: found[longer]}, wanted[longer])


def run(
    config: Values, folder: Path, *, debug: bool = False, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Trains the run of a validated config in its folder; returns the summary.

    A finished run is not repeated, but goes on if the config has more training examples. An
    interrupted run resumes, and its result is bitwise that of an uninterrupted one. With several
    processes, process 0 returns the summary and the others {}.

    Args:
        debug: whether JAX checks for leaked tracers, and a NaN is traced to its source line.
        dataset: the data, if they are in memory and have no name.

    Raises:
        UserError: an error that the user can correct.
        Interrupted: one of `signals.CAUGHT` was received; everything is saved.
    """
    leaks = jax.checking_leaks() if debug else nullcontext()
    with distributed.together(), leaks, ExitStack() as held:
        finished = None
        with distributed.stopping_together():
            if distributed.is_process_0():
                finished = inspect(folder, config)
        if distributed.largest(int(finished is not None)):
            return finished or {}
        xla.use_cache()
        Thread(target=_import_slow_libraries).start()
        experiment = build(config, dataset)
        data = identity(experiment.dataset)
        require_trackers(config)
        with distributed.stopping_together():  # after the checks: a refused config creates no files
            if distributed.is_process_0():
                if not (folder / "checkpoints").exists():
                    check_start(experiment, config)
                finished = held.enter_context(claimed(folder, config, data))
        if distributed.largest(int(finished is not None)):
            return finished or {}
        return _train(experiment, config, folder, about(config, data), debug)


def _import_slow_libraries() -> None:
    """Imports what is needed first at a checkpoint and at the end, while XLA compiles."""
    with suppress(ImportError):  # raised again where the library is used
        for name in ("orbax.checkpoint", "aevb.reports.run_figures"):
            import_module(name)


def _train(
    experiment: Experiment, config: Values, folder: Path, notes: Mapping[str, Any], debug: bool
) -> dict[str, Any]:
    """Trains and finishes a run in its folder, which process 0 has claimed.

    Args:
        notes: from `about`.
    """
    training = training_of(experiment, config, debug)
    if distributed.is_process_0():
        print(f"run:   {folder}\n{describe(experiment, config)}", flush=True)
        diagnosis.print_hints(diagnosis.of_data(experiment.dataset, config))
    pictures = pictures_of(experiment, config)
    trained = trainer.fit(
        training,
        settings_of(config),
        lambda first: open_journal(folder, first, config, notes, pictures),
    )
    with distributed.stopping_together():
        if distributed.is_process_0():
            return finish(experiment, training.score, trained, config, folder)
    return {}


def open_journal(
    folder: Path,
    first: TrainState,
    config: Values,
    notes: Mapping[str, Any],
    pictures: Pictures | None,
) -> Journal:
    """Opens the journal of a run in its folder, at its newest checkpoint or at its start.

    Args:
        first: the first state of the config's seed.
        notes: from `about`.

    Raises:
        UserError: the run that the config names to start from is not suitable.
    """
    journal = Journal(folder, first, settings_of(config), about=notes, pictures=pictures)
    if not journal.resumed:
        journal.state = first_state(config, first)
    return journal


def first_state(config: Values, first: TrainState) -> TrainState:
    """Returns the first state of a seed, with the parameters of another run if it names one."""
    params = first_params(config, first.params)
    return first if params is None else first._replace(params=starting_at(params, first.params))


def check_start(experiment: Experiment, config: Values) -> None:
    """Raises a UserError if the run that the config names to start from is not suitable."""
    if config["train.init_from"]:
        first = jax.eval_shape(experiment.algorithm.init, jax.random.key(0))
        first_params(config, first.params)


def training_of(experiment: Experiment, config: Values, debug: bool = False) -> Run:
    """Returns what is trained and how it is evaluated."""
    key = jax.random.key(config["seed"])
    return Run(experiment.algorithm, experiment.dataset, score_of(experiment), key, debug)


def score_of(experiment: Experiment) -> elbo.Scorer:
    """Returns the function that evaluates a model, also on the labels if it has any."""
    dataset, vae, _ = experiment
    score = elbo.make_score(vae, dataset.preprocess)
    return classification.with_labels(score, vae, dataset) if vae.num_labels else score


def settings_of(config: Values) -> Settings:
    """Returns the settings of a config's training."""
    settings = section(config, "train")
    return Settings(**{name: settings[name] for name in Settings._fields})


def about(config: Values, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metadata that every checkpoint of a run has: config, data and versions."""
    return {"config": config, "data": data, "versions": provenance.versions()}


def require_trackers(config: Values) -> None:
    """Raises a UserError if a library that the run's trackers need is not installed."""
    trackers.require_libraries(tensorboard=config["train.tensorboard"], wandb=config["train.wandb"])


def pictures_of(experiment: Experiment, config: Values) -> Pictures | None:
    """Returns the function from parameters to the images that trackers log.

    It returns None if no tracker is on, or if the data are not images.
    """
    if not config["train.tensorboard"] and config["train.wandb"] == trackers.OFF:
        return None
    from aevb.reports import run_figures  # imports matplotlib, which other runs do not need

    return run_figures.pictures_of(experiment)


def finish(
    experiment: Experiment, score: elbo.Scorer, trained: Trained, config: Values, folder: Path
) -> dict[str, Any]:
    """Writes the figures, the page and the summary of a trained run; returns the summary.

    The test data are scored here, once for the last state and once for the best.
    """

    def read_best(step: int) -> TrainState | None:
        try:
            return read_state(folder, experiment.algorithm, config, step)
        except UserError:  # the reason is on stderr already
            return None

    summary = summarize(experiment, score, trained, config, read_best)
    write_results(experiment, trained.state, trained.records, config, summary, folder)
    return summary


def summarize(
    experiment: Experiment,
    score: elbo.Scorer,
    trained: Trained,
    config: Values,
    read_best: Callable[[int], TrainState | None],
) -> dict[str, Any]:
    """Returns the summary of a trained run.

    Args:
        read_best: returns the state of the best checkpoint, which is at this step; None if it was
            damaged.
    """
    dataset = experiment.dataset
    params = experiment.algorithm.vae_params(trained.state.params)
    speed = trained.examples_per_second
    last = _bounds(score, params, experiment, dataset.splits)
    return {
        **last,
        **_objective(experiment, trained.state),
        **_of_best(experiment, score, trained, config, read_best, last),
        "hints": [
            hint._asdict() for hint in diagnosis.of_training(dataset, config, trained.records).hints
        ],
        "manifold": manifold.measure(experiment.vae, params, dataset),
        "num_examples": (done := int(trained.state.step)) * config["train.batch_size"],
        "stopped_early": done < settings_of(config).num_steps,
        "skipped_steps": num_skipped(trained.state) or 0,
        "examples_per_second": None if speed is None else round(speed, 1),
        "seconds": round(trained.seconds, 3),
        "data": _describe_data(dataset, config),
        "seed": config["seed"],
        "versions": provenance.versions(),
        "machine": {**provenance.machine(), "device": jax.devices()[0].device_kind},
    }


def write_results(
    experiment: Experiment,
    state: TrainState,
    records: list[dict[str, Any]],
    config: Values,
    summary: Mapping[str, Any],
    folder: Path,
) -> None:
    """Writes the figures, the page and the summary of a trained run into its folder.

    The summary is written last and marks the run as finished.
    """
    from aevb.reports import run_figures  # imports matplotlib, which training does not need

    params = experiment.algorithm.vae_params(state.params)
    run_figures.draw_run(experiment, params, records, folder / "figures")
    replace_text(folder / EXPLORER, explorer_page(experiment, params, records, config, summary))
    write_with_digest(folder / SUMMARY, summary)


def _bounds(
    score: elbo.Scorer, params: PyTree, experiment: Experiment, splits: Iterable[str]
) -> Bounds:
    """Returns the bound on each whole split, its standard error, bits/dim and measures."""
    dataset = experiment.dataset
    figures: Bounds = {}
    for split in splits:
        data = dataset.splits[split]
        found = score(params, data, np.arange(len(data)))
        figures[f"{split}_bound"] = found.mean
        figures[f"{split}_bound{ERROR}"] = found.standard_error
        for name, bits in bits_of(found.mean, dataset, experiment.vae).items():
            figures[f"{split}_{name}"] = bits
        figures |= measures.of_split(split, found.measures)
    return figures


def _objective(experiment: Experiment, state: TrainState) -> dict[str, float]:
    """Returns the algorithm's own objective on all training data; {} if it has none."""
    dataset, _, algorithm = experiment
    if algorithm.objective is None:
        return {}
    score = elbo.scorer(elbo.with_fixed_noise(algorithm.objective, dataset.preprocess))
    found = score(state.params, dataset.train, np.arange(len(dataset.train)))
    return {"train_objective": found.mean}


def _of_best(
    experiment: Experiment,
    score: elbo.Scorer,
    trained: Trained,
    config: Values,
    read_best: Callable[[int], TrainState | None],
    last: Bounds,
) -> Bounds:
    """Returns the bounds of the checkpoint with the highest validation bound.

    It returns {} if there are no validation data, or if that checkpoint was damaged.

    Args:
        last: the bounds of the last state, which are not computed again if it is the best.
    """
    best = best_record(trained.records)
    if best is None:
        return {}
    found = last
    if (step := best["examples"] // config["train.batch_size"]) != int(trained.state.step):
        if (state := read_best(step)) is None:
            return {}
        params = experiment.algorithm.vae_params(state.params)
        found = _bounds(score, params, experiment, ("valid", "test"))
    names = [f"{split}_bound{error}" for split in ("valid", "test") for error in ("", ERROR)]
    return {"best_num_examples": best["examples"], **{f"best_{it}": found[it] for it in names}}


def _describe_data(dataset: Dataset, config: Values) -> dict[str, Any]:
    """Returns the description of the data that must accompany a published number."""
    return {
        "name": dataset.name,
        "split": config["data.split"],
        "binarization": config["data.binarization"],
        "kind": dataset.kind,
        "levels": dataset.levels,
        "is_dequantized": dataset.is_dequantized,
        "num_train": len(dataset.train),
        "num_valid": len(dataset.splits.get("valid", ())),
        "num_test": len(dataset.test),
        "num_dims": dataset.train.shape[1],
    }


def describe(experiment: Experiment, config: Values) -> str:
    """Returns a description of the data, the model and the training in three lines."""
    dataset = experiment.dataset
    params = jax.eval_shape(experiment.vae.init, jax.random.key(0))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    num_valid = len(dataset.splits.get("valid", ()))
    sizes = (dataset.train.shape[1], *config["model.hidden"], *layers_of(config[LATENTS]))
    is_guessed = config["data.name"].startswith(("file:", "array:")) and not config["data.kind"]
    kind = f"{dataset.kind}, guessed; data.kind states it" if is_guessed else dataset.kind
    likelihood = with_likelihood(config, dataset.kind)["model.likelihood"]
    how = config["algorithm.name"]
    if "bound" in signature(entry_of(config, "algorithm.name").make).parameters:
        how += f" with {config['algorithm.bound']}"
    return (
        f"data:  {dataset.name}, {len(dataset.train):,} training, {num_valid:,} validation "
        f"and {len(dataset.test):,} test datapoints ({kind})\n"
        f"model: {config['model.network']} {'-'.join(map(str, sizes))} and back, "
        f"{likelihood}, {num_params:,} parameters\n"
        f"train: {how}, "
        f"{config['optimizer.name']} with step size {config['optimizer.step_size']:g}"
    )
