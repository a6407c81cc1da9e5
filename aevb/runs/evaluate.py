"""Estimates log p(x) of a finished run's model, by the estimators of `marginal`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from aevb import registry
from aevb.algorithms.averaging import evaluated
from aevb.config import ENTRIES, Values, entry_of
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.evaluation import log_likelihood, over_theta
from aevb.evaluation.elbo import fixed_inputs
from aevb.evaluation.log_likelihood import ELBO, Points, Propose
from aevb.inference import hmc
from aevb.losses import REAL, Guide
from aevb.marginal import Estimate, Estimator
from aevb.proposals import FITTED
from aevb.runs.load import experiment_of, read_state
from aevb.runtime import provenance, xla
from aevb.storage import metrics_log
from aevb.types import Key, PyTree
from aevb.vae import VAE

SEED = 20131221  # of the noise and of simulated data: the day after the paper appeared


class Request(NamedTuple):
    """The flags of `aevb evaluate`; `aevb.cli.evaluate` has their defaults."""

    estimators: tuple[str, ...]
    proposal: str  # the density from which the estimators start
    split: str  # test, valid, train or simulated
    which: str  # the checkpoint: "last", or "best" by the validation bound
    step: int | None  # the step of another checkpoint, or None
    num_points: int  # n, the number of datapoints, from the start of the split
    num_samples: int  # K of importance
    num_temps: int  # T of ais and reverse_ais
    num_chains: int  # C of ais, reverse_ais and appendix_d
    num_draws: int  # L of each chain of appendix_d
    num_leapfrog: int
    num_warmup: int
    num_theta: int  # samples of theta, if it has a posterior; 0 for its mean


class Model(NamedTuple):
    """A model, and the samples of its parameters over which p(x) is averaged."""

    vae: VAE
    thetas: Sequence[Callable[[], PyTree]]  # each returns a sample; a single one is the mean
    joint: tuple[VAE, PyTree] | None = None  # with theta among the latents; for simulated data

    def simulated(self) -> tuple[VAE, PyTree]:
        """Returns the model and parameters from which data are simulated."""
        return self.joint or (self.vae, self.thetas[0]())


def evaluate(
    folder: Path, config: Values, request: Request, output: Path, arrays: Path | None = None
) -> dict[str, Any]:
    """Estimates log p(x), writes the result to a file and returns it.

    Args:
        folder: the folder of a finished run.
        config: from `config.of_finished_run`.
        output: the file to write.
        arrays: the .npz to write, with the `arrays_of` the estimates; None for none.

    Raises:
        UserError: an error that the user can correct.
    """
    entries = config.get(ENTRIES, "")
    names = registry.names("estimator", entries)
    estimators = {"elbo": ELBO} | {
        name: registry.find("estimator", name, entries) for name in names
    }
    check(request, config, estimators)
    xla.use_cache()
    experiment = experiment_of(folder, config)
    dataset, vae, algorithm = experiment
    _require_real(vae.guide, request, estimators)
    state = read_state(folder, algorithm, config, request.step, which=request.which)
    data_key, noise_key, theta_key = jax.random.split(jax.random.key(SEED), 3)
    model = Model(vae, [lambda: algorithm.vae_params(state.params)])
    if request.num_theta:
        model = _with_samples(theta_key, vae, evaluated(state.params), config, request)
    points = _points(request, data_key, dataset, model)
    found, rows = _estimates(noise_key, model, points, request, estimators, entries)
    result = {
        "data": {"name": dataset.name} | _fields(request, "split", "num_points"),
        "model": {
            "num_latents": vae.num_latents,
            "step": int(state.step),
            "seed": config["seed"],
            **_fields(request, "num_theta"),
        },
        "noise_seed": SEED,
        "estimators": rows,
        "widths": _widths(request, found, estimators),
        "versions": provenance.versions(),
        "machine": {**provenance.machine(), "device": jax.devices()[0].device_kind},
    }
    metrics_log.write_json(output, result)
    if arrays is not None:
        _write_arrays(arrays, arrays_of(found))
    return result


def _estimates(
    key: Key,
    model: Model,
    points: Points,
    request: Request,
    estimators: Mapping[str, Estimator],
    entries: str,
) -> tuple[dict[str, Estimate], dict[str, dict[str, Any]]]:
    """Returns the estimates [n] and the row of `marginal.json` of each estimator, by its name."""
    # With several theta there is no elbo: log p(x) is not the log of a mean of exp(bound).
    wanted = ("elbo" if not request.num_theta else "", *request.estimators)
    found, rows = {}, {}
    for number, named in enumerate(estimators.items()):
        name, estimator = named
        if name in wanted:
            own_key, settings = jax.random.fold_in(key, number), settings_of(estimator, request)
            proposal = _proposal_of(name, estimator, request)
            propose = registry.find("proposal", proposal, entries)
            parts, seconds = _estimate(own_key, model, points, named, settings, propose)
            found[name], summary = _summarize(parts, settings)
            rows[name] = {
                "kind": kind_of(estimator, found[name]),
                "proposal": proposal,
                "settings": {k: v._asdict() if k == "settings" else v for k, v in settings.items()},
                **summary,
                "seconds": round(seconds, 3),
            }
    return found, rows


def arrays_of(found: Mapping[str, Estimate]) -> dict[str, np.ndarray]:
    """Returns the estimates of each datapoint by estimator, [n], in nats.

    Beside NAME is NAME_standard_error. `index` is the place of each datapoint in its split.
    """
    number = len(next(iter(found.values())).value)
    arrays = {"index": np.arange(number)}
    for name, estimate in found.items():
        arrays[name] = np.asarray(estimate.value)
        arrays[f"{name}_standard_error"] = np.asarray(estimate.standard_error)
    return arrays


def _write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a new .npz.

    Raises:
        UserError: the file exists, or cannot be written.
    """
    try:
        with file.open("xb") as stream:
            np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    except FileExistsError:
        raise UserError(f"--save={file} was made by another program; name a new file") from None
    except OSError as error:
        file.unlink(missing_ok=True)
        raise UserError(
            f"--save={file} cannot be written ({error.strerror}); name another file"
        ) from error


def _with_samples(key: Key, vae: VAE, params: PyTree, config: Values, request: Request) -> Model:
    """Returns the model with samples of theta and, for simulated data, with theta as latents."""
    entry = entry_of(config, "algorithm.name")
    keys = jax.random.split(key, request.num_theta)
    model = Model(vae, [partial(entry.draw_params, key, params) for key in keys])
    if request.split == "simulated":
        return model._replace(joint=(entry.with_theta_as_latents(vae, params), params))
    return model


def _summarize(
    parts: Sequence[Estimate], settings: Mapping[str, Any]
) -> tuple[Estimate, dict[str, Any]]:
    """Returns the estimate at each datapoint from those at each theta, and its statistics."""
    if len(parts) > 1:
        return over_theta.summarize(parts)
    return parts[0], log_likelihood.summarize(parts[0], settings)


def _proposal_of(name: str, estimator: Estimator, request: Request) -> str:
    """Returns the name of an estimator's proposal.

    It is the encoder's for the elbo, and if theta is among the latents: a density cannot be fitted
    to so many.
    """
    over_theta_and_z = request.num_theta and estimator.needs_posterior_sample
    return "encoder" if name == "elbo" or over_theta_and_z else request.proposal


def _fields(request: Request, *names: str) -> dict[str, Any]:
    return {name: getattr(request, name) for name in names}


def check(request: Request, config: Values, estimators: Mapping[str, Estimator]) -> None:
    """Raises a UserError if a name is unknown, or an estimator cannot be used on these data."""
    for name in request.estimators:
        if name not in estimators or name == "elbo":
            raise UserError(
                f"--estimators has {name!r}; it is a list, separated by commas, of "
                f"{', '.join(list(estimators)[1:])}"
            )
        if estimators[name].needs_posterior_sample and request.split != "simulated":
            raise UserError(
                f"--estimators has {name!r}, which starts from an exact sample of the posterior, "
                "and data have none; use --split=simulated, or appendix_d for an upper bound"
            )
        needs_sample = estimators[name].needs_posterior_sample
        if request.num_theta and estimators[name].kind == "upper" and not needs_sample:
            raise UserError(
                f"--estimators has {name!r}, an upper bound at one theta, which is no bound on the "
                f"mean of p(x) over --num_theta={request.num_theta} samples; ask for importance or "
                "ais or, with --split=simulated, reverse_ais"
            )
    entry = entry_of(config, "algorithm.name")
    if request.num_theta and entry.draw_params is None:
        raise UserError(
            f"--num_theta is {request.num_theta}, but this is a run of {config['algorithm.name']}, "
            "which has no posterior over theta; leave it at 0"
        )
    if request.num_theta and request.split == "simulated" and not entry.with_theta_as_latents:
        raise UserError(
            f"--split=simulated with --num_theta needs with_theta_as_latents, which the entry of "
            f"{config['algorithm.name']} does not have; use another split"
        )
    if request.num_theta == 1:
        raise UserError("--num_theta is 1, which has no error; it is 0 for the mean, or at least 2")
    proposals = registry.names("proposal", config.get(ENTRIES, ""))
    if request.proposal not in proposals:
        raise UserError(f"--proposal is {request.proposal!r}; it is one of {', '.join(proposals)}")


def _require_real(guide: Guide, request: Request, estimators: Mapping[str, Estimator]) -> None:
    """Raises a UserError if z is not real, and an estimator or the proposal needs it to be."""
    moving = [name for name in request.estimators if estimators[name].moves_z]
    if guide.support != REAL and (moving or request.proposal in FITTED):
        raise UserError(
            f"--estimators is {','.join(request.estimators)} and --proposal is {request.proposal}; "
            f"z of this run is of {guide.support}, along which there is no gradient to move; use "
            "--estimators=importance --proposal=encoder (and importance_upper of simulated data)"
        )


def kind_of(estimator: Estimator, estimate: Estimate) -> str:
    """Returns the side of log p(x) on which the estimates at the datapoints [n] lie.

    An upper bound whose diagnostic is_upper_bound is False at some datapoints is "upper at A of N",
    and its mean is no upper bound.
    """
    holds = np.asarray(estimate.diagnostics.get("is_upper_bound", True))
    if np.all(holds):
        return estimator.kind
    return f"{estimator.kind} at {np.sum(holds):,} of {len(holds):,}"


def settings_of(estimator: Estimator, request: Request) -> dict[str, Any]:
    """Returns the settings of a request that an estimator has arguments for."""
    chains = hmc.Settings(num_leapfrog=request.num_leapfrog, num_warmup=request.num_warmup)
    offered = {**request._asdict(), "settings": chains}
    wanted = inspect.signature(estimator.estimate).parameters
    return {name: offered[estimator.flags.get(name, name)] for name in wanted if name in offered}


def _points(request: Request, key: Key, dataset: Dataset, model: Model) -> Points:
    """Returns the datapoints of the request.

    Raises:
        UserError: the split has fewer.
    """
    if request.split == "simulated":
        return log_likelihood.simulate(key, *model.simulated(), request.num_points)
    if request.split not in dataset.splits:
        raise UserError(
            f"--split is {request.split}, but the run has no validation data "
            "(config.data.num_valid); use test or train"
        )
    stored = dataset.splits[request.split]
    if request.num_points > len(stored):
        raise UserError(
            f"--num_points is {request.num_points}; it can be at most the {len(stored)} datapoints "
            f"of the {request.split} split of {dataset.name}"
        )
    index = np.arange(request.num_points)
    return Points(fixed_inputs(dataset.preprocess, index, stored[index]), None)


def _estimate(
    key: Key,
    model: Model,
    points: Points,
    named: tuple[str, Estimator],
    settings: Mapping[str, Any],
    propose: Propose,
) -> tuple[list[Estimate], float]:
    """Returns the estimates at each datapoint, by theta, and the time in seconds; shows progress.

    An estimator that starts from an exact sample of the posterior gives one estimate, over theta
    and z together.
    """
    (name, estimator), vae, thetas = named, model.vae, model.thetas
    if estimator.needs_posterior_sample:
        vae, params = model.simulated()
        thetas = [lambda: params]
    keys = [key] if len(thetas) == 1 else jax.random.split(key, len(thetas))
    with metrics_log.progress_bar(len(points.x) * len(thetas), 0, "datapoints") as bar:
        bar.set_postfix_str(name)
        return log_likelihood.estimate_at(
            list(zip(keys, thetas, strict=True)),
            vae,
            points,
            estimator,
            settings,
            propose=propose,
            progress=lambda done: bar.update(done - bar.n),
        )


def _widths(
    request: Request, found: Mapping[str, Estimate], estimators: Mapping[str, Estimator]
) -> dict[str, dict[str, float | None]]:
    """Returns upper - lower for each pair of the estimators that were asked for."""
    lowers, uppers = (
        [name for name in request.estimators if estimators[name].kind == kind]
        for kind in ("lower", "upper")
    )
    return {
        f"{upper} - {lower}": log_likelihood.width(found[lower], found[upper])
        for upper in uppers
        for lower in lowers
    }
