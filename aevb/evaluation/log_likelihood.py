"""log p(x) of a trained model on many datapoints, between lower and upper bounds."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from aevb.evaluation.intervals import Interval, interval_from, joint_df, standard_error
from aevb.inference.importance_weights import pareto_k_threshold
from aevb.losses import Guide, Joint, evidence_lower_bound
from aevb.marginal import MAX_R_HAT, Estimate, Estimator
from aevb.proposals import Proposal, encoder
from aevb.types import Key, PyTree
from aevb.vae import VAE

BATCH = 50  # datapoints per compiled call, at most
BATCH_ON_CPU = 10  # the samples of more would leave the cache
BOUND_SAMPLES = 100  # L of the evidence lower bound
LEAST_IS_WORST = (
    "acceptance", "effective_sample_size", "bulk_effective_sample_size",
    "tail_effective_sample_size", "is_upper_bound",
)  # fmt: skip
MIN_EFFECTIVE = 10.0  # least trusted effective sample size of samples
EFFECTIVE_CHAINS = 0.8  # least trusted effective sample size of chains, over their number


class Points(NamedTuple):
    """Datapoints in the form that the model scores."""

    x: Array  # [n, D]
    z: Array | None  # [n, Z], exact samples of p(z|x); only simulated data have them


def simulate(key: Key, vae: VAE, params: PyTree, number: int) -> Points:
    """Draws z ~ p(z), x ~ p(x|z) from the model itself, `number` times."""
    keys = jax.random.split(key, number)
    z, x = jax.lax.map(lambda key: vae.sample(key, params), keys, batch_size=BATCH)
    return Points(x, z)


def elbo(key: Key, stats: PyTree, guide: Guide, joint: Joint) -> Estimate:
    """Estimates the evidence lower bound and its standard error, for comparison.

    It uses eq. (7), or eq. (6) if the KL has no closed form.
    """
    draws = jax.vmap(lambda key: evidence_lower_bound(key, stats, guide, joint))(
        jax.random.split(key, BOUND_SAMPLES)
    )
    return Estimate(jnp.mean(draws), jnp.std(draws, ddof=1) / math.sqrt(BOUND_SAMPLES), {})


ELBO = Estimator(elbo, "lower", moves_z=False)

Propose = Callable[[Key, PyTree, Guide, Joint], Proposal]  # an entry of `proposals.PROPOSALS`


def estimate_points(
    key: Key,
    model: tuple[VAE, PyTree],
    points: Points,
    estimator: Estimator,
    settings: Mapping[str, Any],
    *,
    propose: Propose = encoder,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[Estimate, float]:
    """Runs one estimator at every datapoint.

    Returns an `Estimate` with fields [n], and the run time in seconds without compilation.
    Datapoint number i has the key fold_in(key, i), so its estimate does not depend on the number of
    datapoints.

    Args:
        model: a VAE and its parameters.
        estimator: an entry of `marginal.ESTIMATORS`, or `ELBO`.
        settings: keyword arguments of the estimator, besides the model.
        propose: returns the density from which the estimator starts; `ELBO` needs the encoder's.
        progress: called after each batch with the number of datapoints that are done.
    """
    vae, params = model
    draws = [(key, lambda: params)]
    (found,), seconds = estimate_at(
        draws, vae, points, estimator, settings, propose=propose, progress=progress
    )
    return found, seconds


def estimate_at(
    draws: Sequence[tuple[Key, Callable[[], PyTree]]],
    vae: VAE,
    points: Points,
    estimator: Estimator,
    settings: Mapping[str, Any],
    *,
    propose: Propose = encoder,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[list[Estimate], float]:
    """Runs one estimator at every datapoint for each of several theta, by one compiled program.

    Returns the estimates of `estimate_points`, one for each theta, and the run time in seconds.

    Args:
        draws: the key of each theta's noise, and a function that returns the VAE's parameters with
            that theta, so that only one is in memory.
        progress: called after each batch with the number of estimates that are done.
    """

    def one(key: Key, params: PyTree, number: Array, x: Array, z: Array | None) -> Estimate:
        point_key = jax.random.fold_in(key, number)
        stats, joint = vae.encode(params, x), vae.joint(params, x)
        fit_key, draw_key = jax.random.split(point_key)
        start, guide = propose(fit_key, stats, vae.guide, joint)
        exact = {"posterior_sample": z} if estimator.needs_posterior_sample else {}
        return estimator.estimate(draw_key, start, guide, joint, **settings, **exact)

    number = len(points.x)
    most = BATCH_ON_CPU if jax.default_backend() == "cpu" else BATCH
    batch = math.ceil(number / math.ceil(number / most))  # so that few points are computed twice

    def arguments(first: int) -> tuple[Array, Array, Array | None]:
        # The last batch wraps around, so that it is as long as the others.
        index = jnp.arange(first, first + batch) % number
        return index, points.x[index], None if points.z is None else points.z[index]

    over_points = jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0, 0)))
    compiled, found, seconds = None, [], 0.0
    for count, (key, params_of) in enumerate(draws):
        params, parts = params_of(), []
        compiled = compiled or over_points.lower(key, params, *arguments(0)).compile()
        started = time.perf_counter()
        for first in range(0, number, batch):
            parts.append(jax.tree.map(np.asarray, compiled(key, params, *arguments(first))))
            progress(count * number + min(first + batch, number))
        seconds += time.perf_counter() - started
        found.append(jax.tree.map(lambda *leaves: np.concatenate(leaves)[:number], *parts))
    return found, seconds


def summarize(estimate: Estimate, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the mean over datapoints [n] in nats, its two standard errors and the diagnostics.

    One standard error is over datapoints. The other is that of the estimator's random numbers, with
    its degrees of freedom. An entry `worst` is the smallest value for a diagnostic in
    `LEAST_IS_WORST`, and the largest value for others. pareto_smoothed is itself an estimate of
    log p(x), so its mean is returned.
    """
    value, error = (np.asarray(leaf, np.float64) for leaf in estimate[:2])
    errors = error / len(value)
    return {
        **over_data(value),
        "estimator_standard_error": float(np.sqrt(np.sum(errors**2))),
        "estimator_df": joint_df(errors, num_independent(settings) - 1),
        **spread(estimate.diagnostics),
        "num_failing": num_failing(estimate.diagnostics, settings),
        "values": values_of(value),
    }


def over_data(value: np.ndarray) -> dict[str, float | None]:
    """Returns the mean of values [n] of datapoints, and its standard error; None for one value."""
    error = standard_error(value) if len(value) > 1 else None
    return {"mean": float(np.mean(value)), "standard_error": error}


def values_of(value: np.ndarray) -> list[float]:
    """Returns values [n] in nats, rounded for a file, to compare runs on the same datapoints."""
    return [round(float(each), 4) for each in value]


def spread(diagnostics: Mapping[str, ArrayLike]) -> dict[str, dict[str, float | None]]:
    """Returns the median and the worst value of each diagnostic [n] over datapoints."""
    found = {}
    for name, leaf in diagnostics.items():
        each = np.asarray(leaf, np.float64)
        worst = np.min if name in LEAST_IS_WORST else np.max
        found[name] = {"median": _finite(np.median(each)), "worst": _finite(worst(each))}
        if name == "pareto_smoothed":
            found[name] = {"mean": _finite(np.mean(each))}
    return found


def num_independent(settings: Mapping[str, Any]) -> int:
    """Returns the number of independent draws of an estimator: its chains, or else its samples.

    An estimator that has neither counts as having as many as `ELBO`.
    """
    return settings.get("num_chains", settings.get("num_samples", BOUND_SAMPLES))


def num_terms(settings: Mapping[str, Any]) -> int:
    """Returns the number of terms that an estimator averages: of chains, samples, or both."""
    sizes = [settings[name] for name in ("num_chains", "num_samples") if name in settings]
    return math.prod(sizes) if sizes else BOUND_SAMPLES


def limits(settings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Returns the lowest and highest trusted values of the diagnostics of an estimator.

    Pareto k: Vehtari et al. (2024). R-hat: at most 1.05. The effective sample size of samples is at
    least 10, since the bias of the log of a mean is about -1/2 (1/ESS - 1/K) nats. The effective
    sample size of chains is at least 0.8 of their number. There are too few chains to fit Pareto k,
    and in simulations (tests/evaluation/test_coverage.py) the interval is too narrow where the
    chains' weights differ more.
    """
    least = EFFECTIVE_CHAINS * settings["num_chains"] if "num_chains" in settings else MIN_EFFECTIVE
    return {
        "pareto_k": (-math.inf, pareto_k_threshold(num_terms(settings))),
        "r_hat": (-math.inf, MAX_R_HAT),
        "effective_sample_size": (least, math.inf),
    }


def num_failing(diagnostics: Mapping[str, ArrayLike], settings: Mapping[str, Any]) -> int:
    """Returns the number of datapoints at which a diagnostic [n] is outside the `limits` or NaN.

    Pareto k is ignored if it is NaN at every datapoint, because there were too few terms to fit it.
    """
    failing = np.zeros(1, bool)
    for name, (low, high) in limits(settings).items():
        each = np.asarray(diagnostics.get(name, ()), np.float64)
        if each.size and not (name == "pareto_k" and np.all(np.isnan(each))):
            failing = failing | ~((each >= low) & (each <= high))
    return int(np.sum(failing))


def reason_to_distrust(row: Mapping[str, Any]) -> str | None:
    """Returns why a row of `marginal.json` has no interval of its estimator, or None if it has one.

    It has none if a diagnostic fails at any datapoint, because the estimate there, and so the mean,
    can be wrong by much more than its standard error.
    """
    if row.get("num_theta") and "over_theta" not in row:
        return f"the weights of its {row['num_theta']} theta were not recorded"
    if "over_theta" in row:
        measured, settings = row["over_theta"], {"num_samples": row["num_theta"]}
    else:
        measured, settings = row, row["settings"]
    reasons = []
    for name, (low, high) in limits(settings).items():
        worst = measured.get(name, {"worst": None})["worst"]
        if worst is not None and not low <= worst <= high:
            limit = f"below {low:.3g}" if worst < low else f"above {high:.3g}"
            reasons.append(f"{name} is {worst:.3g}, {limit}")
    if reasons or measured.get("num_failing"):
        return ", ".join(reasons) or "a diagnostic is not a number"
    return None


def intervals_of(row: Mapping[str, Any], num_points: int) -> tuple[Interval, Interval]:
    """Returns the mean of a row of `marginal.json` with two intervals: over data, of the estimator.

    Both are for the estimator's expectation: the first for its mean over all data, the second for
    its mean over these datapoints. The only error of the second is from the estimator's random
    numbers. It is missing if there is a `reason_to_distrust`. For a row over several theta, the
    first is then missing too.
    """
    mean, over_data, reason = row["mean"], row["standard_error"], reason_to_distrust(row)
    data = own = Interval(mean, None, num_points)
    if over_data is not None and not (reason and row.get("num_theta")):
        data = interval_from(mean, [over_data], num_points - 1, number=num_points)
    if reason is None:
        df = row.get("estimator_df") or num_independent(row["settings"]) - 1
        own = interval_from(mean, [row["estimator_standard_error"]], df, number=num_points)
    return data, own


def width(lower: Estimate, upper: Estimate) -> dict[str, float | None]:
    """Returns the mean, its standard error and the maximum of upper - lower over datapoints."""
    gap = np.asarray(upper.value, np.float64) - np.asarray(lower.value, np.float64)
    return {**over_data(gap), "widest": float(np.max(gap))}


def _finite(value: np.floating) -> float | None:
    """Returns the value as a float, or None if it is non-finite, because JSON cannot hold it."""
    return float(value) if math.isfinite(value) else None
