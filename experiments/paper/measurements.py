"""What is measured on the finished runs of the study: log p(x), latents in use, evidence."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from aevb.algorithms import full_vb
from aevb.cli import evaluate
from aevb.distributions import DiagNormal
from aevb.evaluation.elbo import fixed_inputs
from aevb.experiment import build
from aevb.runs.evaluate import SEED
from aevb.runs.load import read_state
from aevb.storage import metrics_log

IN_USE = 0.1  # nats of a latent's KL, averaged over the test data


class Scale(NamedTuple):
    """The size of the measurements."""

    num_points: int = 200  # datapoints whose log p(x) is estimated
    num_chains: int = 4
    num_samples: int = 1000  # K of importance sampling
    num_temps: int = 200
    num_theta: int = 20
    num_samples_at_theta: int = 100  # K of importance sampling at each theta
    num_evaluations: int = 6  # measured per run, the last ones: from 10⁴ examples on


QUICK = Scale(
    num_points=10,
    num_chains=2,
    num_samples=100,
    num_temps=10,
    num_theta=2,
    num_samples_at_theta=10,
    num_evaluations=1,
)


class Run(NamedTuple):
    """A finished run of a study."""

    folder: Path
    config: Mapping[str, Any]


def appendix_d_along_training(run: Run, scale: Scale) -> dict[str, Any]:
    """Returns log p(x) by the paper's estimator at each evaluation, and both bounds at the end.

    All of them use a fit of every mode of each posterior. The posteriors of Monte Carlo EM have
    several modes; estimates that start from one mode find only a part of p(x).
    """
    common = ("--proposal=modes", f"--num_chains={scale.num_chains}")
    papers = ("--num_draws=50", "--num_leapfrog=4", "--num_warmup=100")  # few, from a fit
    curve: dict[str, Any] = {"examples": [], "train": [], "test": []}
    for record in metrics_log.read_records(run.folder / "metrics.jsonl")[-scale.num_evaluations :]:
        curve["examples"].append(record["examples"])
        step = record["examples"] // run.config["train.batch_size"]
        for split in ("train", "test"):
            flags = ("--estimators=appendix_d", f"--split={split}", f"--step={step}", *common)
            found = estimate(run, f"{step}_{split}", scale, *flags, *papers)
            curve[split].append(found["estimators"]["appendix_d"])
    for split in ("train", "test"):  # only the end of training is compared image by image
        curve[split] = [*map(without_values, curve[split][:-1]), curve[split][-1]]
    sizes = (f"--num_samples={scale.num_samples}", f"--num_temps={scale.num_temps}")
    both = estimate(run, "sandwich", scale, *sizes, *common)
    both["estimators"] = {name: without_values(it) for name, it in both["estimators"].items()}
    return {"appendix_d": curve, "sandwich": both}


def without_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an estimator's row of `marginal.json` without its estimate at each datapoint."""
    return {name: entry for name, entry in row.items() if name != "values"}


def predictions(run: Run, scale: Scale) -> dict[str, Any]:
    """Returns the test log p(x) at the mean of theta, and what there is to say of its posterior.

    That at the mean is of the last state and of the best by the validation bound. That by samples
    of theta is of the first seed alone, because it takes minutes: each theta has its own Laplace
    approximation of each datapoint's posterior.
    """
    flags = ("--estimators=importance", f"--num_samples={scale.num_samples}")
    found: dict[str, Any] = {
        "mean": estimate(run, "mean", scale, *flags),
        "best": estimate(run, "best", scale, *flags, "--which=best"),
    }
    if run.config["algorithm.name"] == "full_vb":
        found |= posterior_over_theta(run, scale)
        if run.config["seed"] == 0:
            sizes = (
                f"--num_samples={scale.num_samples_at_theta}", f"--num_theta={scale.num_theta}"
            )  # fmt: skip
            found["samples"] = estimate(run, "samples", scale, "--estimators=importance", *sizes)
    return found


def posterior_over_theta(run: Run, _scale: Scale) -> dict[str, Any]:
    """Returns the bound on log p(X), the objective along training, and KL(theta) by unit."""
    return {
        "evidence": evidence_bound(run),
        "convergence": convergence(run),
        "kl_theta": kl_by_unit(run),
    }


def estimate(run: Run, name: str, scale: Scale, *flags: str) -> dict[str, Any]:
    """Returns the result of `aevb evaluate`, which runs once for each run and name."""
    output = run.folder / "marginal" / f"{name}.json"
    if not output.exists():
        output.parent.mkdir(exist_ok=True)
        points = f"--num_points={scale.num_points}"
        arguments = [f"--workdir={run.folder}", f"--output={output}", points, *flags]
        evaluate.run(evaluate.parse(arguments))
    return json.loads(output.read_text(encoding="utf-8"))


def evidence_bound(run: Run) -> dict[str, float]:
    """Returns full variational Bayes' bound on log p(X) of its training data, over N; nats."""
    dataset, vae, algorithm = build(run.config)
    state = read_state(run.folder, algorithm, run.config)
    number = len(dataset.train)
    x = fixed_inputs(dataset.preprocess, np.arange(number), dataset.train)
    stds = _stds(run, state.params)
    bound, error = jax.jit(
        lambda key: full_vb.log_evidence_bound(
            key, vae, state.params, x, num_samples=100, stds=stds
        )
    )(jax.random.key(SEED))
    return {
        "bound": float(bound) / number,
        "estimator_standard_error": float(error) / number,
        "kl_theta": float(full_vb.kl_to_prior(state.params, stds)) / number,
    }


def convergence(run: Run) -> dict[str, Any]:
    """Returns the objective and KL(q(theta) || p(theta)) / N along training, in nats a datapoint.

    Both are means over the steps since the evaluation before. `last_tenth` has their changes over
    the last tenth of the training examples.
    """
    records = metrics_log.read_records(run.folder / "metrics.jsonl")
    columns = {"objective": "recent_objective", "kl_theta": "recent_kl"}
    found = {name: [record[column] for record in records] for name, column in columns.items()}
    examples = [record["examples"] for record in records]
    before = int(np.argmin(np.abs(np.array(examples) - 0.9 * examples[-1])))
    last_tenth = {
        "from": examples[before],
        **{name: values[-1] - values[before] for name, values in found.items()},
    }
    return {"examples": examples, **found, "last_tenth": last_tenth}


def kl_by_unit(run: Run) -> dict[str, Any]:
    """Returns KL(q(theta) || p(theta)) of the decoder's weights by unit, in nats, decreasing.

    The weights of a hidden unit are those from the latents to it, and from it to the heads. The
    weights of a latent are those from it to the hidden units.
    """
    params, stds = _theta(run)
    kl = jax.tree.map(_kl_per_weight, params["mean"]["decoder"], params["log_var"]["decoder"], stds)
    kernels = {name: np.asarray(layer["kernel"]) for name, layer in kl.items() if "kernel" in layer}
    into = kernels.pop("hidden_0")  # [Z, H]
    if any(kernel.shape[0] != into.shape[1] for kernel in kernels.values()):
        raise ValueError("the decoder has more than one hidden layer")
    of_hidden = into.sum(axis=0) + sum(kernel.sum(axis=1) for kernel in kernels.values())
    return {
        "hidden_units": np.sort(of_hidden)[::-1].tolist(),
        "latents": np.sort(into.sum(axis=1))[::-1].tolist(),
        "all": float(full_vb.kl_to_prior(params, _stds(run, params))),
    }


def _theta(run: Run) -> tuple[Any, Any]:
    """Returns the parameters of a run, and the prior's standard deviations of the decoder."""
    params = read_state(run.folder, build(run.config).algorithm, run.config).params
    return params, _stds(run, params)["decoder"]


def _stds(run: Run, params: Any) -> Any:
    scale = run.config.get("algorithm.options.prior_scale", "constant")
    return full_vb.prior_stds(params, run.config["algorithm.param_prior_std"], scale)


def _kl_per_weight(mean: jax.Array, log_var: jax.Array, std: float) -> jax.Array:
    scaled = DiagNormal((mean / std).ravel(), log_var.ravel() - 2.0 * math.log(std))
    return scaled.kl_per_unit_to_standard_normal().reshape(mean.shape)


def latents_in_use(run: Run, scale: Scale) -> dict[str, Any]:
    """Counts the latents that carry information in the test data, with the KL of both groups."""
    dataset, vae, algorithm = build(run.config)
    state = read_state(run.folder, algorithm, run.config)
    params = algorithm.vae_params(state.params)
    index = np.linspace(0, len(dataset.test) - 1, 10 * scale.num_points).astype(int)
    x = fixed_inputs(dataset.preprocess, index, dataset.test[index])
    kls = jax.vmap(lambda one: vae.encode(params, one).kl_per_unit_to_standard_normal())(x)
    kl = np.asarray(kls).mean(axis=0)
    used = kl > IN_USE
    return {
        "latents_in_use": int(used.sum()),
        "kl_in_use": float(kl[used].sum()),
        "kl_of_the_others": float(kl[~used].sum()),
    }
