"""Estimates log p(x) of a finished run's model, by the estimators of `marginal`."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from aevb import registry
from aevb.config import ENTRIES, Values, entry_of
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.evaluation import log_likelihood
from aevb.evaluation.elbo import fixed_inputs
from aevb.evaluation.log_likelihood import ELBO, Points, Propose
from aevb.experiment import build
from aevb.inference import hmc
from aevb.marginal import Estimate, Estimator
from aevb.runs.load import read_state
from aevb.runtime import provenance, xla
from aevb.storage import metrics_log
from aevb.types import Key, PyTree
from aevb.vae import VAE

SEED = 20131221  # of the noise and of simulated data: the day after the paper appeared


class Request(NamedTuple):
    """The flags of `aevb evaluate`, which has their defaults."""

    estimators: tuple[str, ...]
    proposal: str  # the density from which they start
    split: str  # test, valid, train or simulated
    which: str  # of the checkpoints, "last" or "best" by the validation bound
    step: int | None  # of another checkpoint, or None
    num_points: int  # n, the number of datapoints, from the start of the split
    num_samples: int  # K of importance
    num_temps: int  # T of ais and reverse_ais
    num_chains: int  # C of ais, reverse_ais and appendix_d
    num_draws: int  # L of each chain of appendix_d
    num_leapfrog: int
    num_warmup: int
    num_theta: int  # samples of theta, if it has a posterior; 0 for its mean


class Model(NamedTuple):
    """A model, and the parameters over which p(x) is averaged."""

    vae: VAE
    thetas: Sequence[PyTree]


def evaluate(folder: Path, config: Values, request: Request, output: Path) -> dict[str, Any]:
    """Estimates log p(x), writes the result to a file and returns it.

    Args:
        folder: of a finished run.
        config: from `config.of_finished_run`.
        output: the file.

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
    experiment = build(config)
    dataset, vae, algorithm = experiment
    state = read_state(folder, experiment, config, request.step, which=request.which)
    data_key, noise_key, theta_key = jax.random.split(jax.random.key(SEED), 3)
    model = Model(vae, [algorithm.vae_params(state.params)])
    if request.num_theta:
        draw = entry_of(config, "algorithm.name").draw_params
        keys = jax.random.split(theta_key, request.num_theta)
        model = Model(vae, [draw(key, state.params) for key in keys])
    points = _points(request, data_key, dataset, model)
    propose = registry.find("proposal", request.proposal, entries)
    # Over several theta the elbo is left out: log p(x) is not the log of a mean of exp(bound).
    wanted = ("elbo" if not request.num_theta else "", *request.estimators)
    found, rows = {}, {}
    for number, named in enumerate(estimators.items()):
        name, estimator = named
        if name in wanted:
            key, settings = jax.random.fold_in(noise_key, number), settings_of(estimator, request)
            found[name], seconds = _estimate(key, model, points, named, settings, propose)
            rows[name] = {
                "kind": kind_of(estimator, found[name]),
                "proposal": "encoder" if name == "elbo" else request.proposal,
                "settings": {k: v._asdict() if k == "settings" else v for k, v in settings.items()},
                **log_likelihood.summarize(found[name]),
                "seconds": round(seconds, 3),
            }
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
    return result


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
        if request.num_theta and estimators[name].kind == "upper":
            raise UserError(
                f"--estimators has {name!r}, an upper bound, but the mean of p(x) over "
                f"--num_theta={request.num_theta} samples is bounded from below alone; ask for "
                "importance or ais"
            )
    if request.num_theta and entry_of(config, "algorithm.name").draw_params is None:
        raise UserError(
            f"--num_theta is {request.num_theta}, but this is a run of {config['algorithm.name']}, "
            "which has no posterior over theta; leave it at 0"
        )
    if request.num_theta and request.split == "simulated":
        raise UserError("--num_theta is for data; --split=simulated draws from the mean of theta")
    proposals = registry.names("proposal", config.get(ENTRIES, ""))
    if request.proposal not in proposals:
        raise UserError(f"--proposal is {request.proposal!r}; it is one of {', '.join(proposals)}")


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
    """Returns those settings of a request that an estimator has arguments for."""
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
        return log_likelihood.simulate(key, model.vae, model.thetas[0], request.num_points)
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
) -> tuple[Estimate, float]:
    """Returns the estimate at each datapoint and its seconds; shows the progress."""
    (name, estimator), (vae, thetas) = named, model
    keys = [key] if len(thetas) == 1 else jax.random.split(key, len(thetas))
    parts, seconds = [], 0.0
    with metrics_log.progress_bar(len(points.x) * len(thetas), 0, "datapoints") as bar:
        bar.set_postfix_str(name)
        for key, params in zip(keys, thetas, strict=True):
            part, its_seconds = log_likelihood.estimate_points(
                key,
                (vae, params),
                points,
                estimator,
                settings,
                propose=propose,
                progress=lambda done, bar=bar, base=bar.n: bar.update(base + done - bar.n),
            )
            parts.append(part)
            seconds += its_seconds
    return log_likelihood.over_theta(parts), seconds


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
