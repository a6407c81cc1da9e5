"""log p(x) of a trained model on many datapoints, between lower and upper bounds."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.losses import Guide, Joint, evidence_lower_bound
from aevb.marginal import Estimate, Estimator
from aevb.proposals import Proposal, encoder
from aevb.types import Key, PyTree
from aevb.vae import VAE

BATCH = 50  # datapoints per compiled call, at most
BOUND_SAMPLES = 100  # L of the evidence lower bound
LEAST_IS_WORST = (
    "acceptance", "effective_sample_size", "bulk_effective_sample_size",
    "tail_effective_sample_size", "is_upper_bound",
)  # fmt: skip


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


ELBO = Estimator(elbo, "lower")

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

    def one(params: PyTree, number: Array, x: Array, z: Array | None) -> Estimate:
        point_key = jax.random.fold_in(key, number)
        stats, joint = vae.encode(params, x), vae.joint(params, x)
        fit_key, draw_key = jax.random.split(point_key)
        start, guide = propose(fit_key, stats, vae.guide, joint)
        exact = {"posterior_sample": z} if estimator.needs_posterior_sample else {}
        return estimator.estimate(draw_key, start, guide, joint, **settings, **exact)

    number = len(points.x)
    batch = math.ceil(number / math.ceil(number / BATCH))  # so that few points are computed twice

    def arguments(first: int) -> tuple[Array, Array, Array | None]:
        # The last batch wraps around, so that it is as long as the others.
        index = jnp.arange(first, first + batch) % number
        return index, points.x[index], None if points.z is None else points.z[index]

    over_points = jax.jit(jax.vmap(one, in_axes=(None, 0, 0, 0)))
    compiled = over_points.lower(params, *arguments(0)).compile()
    started, found = time.perf_counter(), []
    for first in range(0, number, batch):
        found.append(jax.tree.map(np.asarray, compiled(params, *arguments(first))))
        progress(min(first + batch, number))
    seconds = time.perf_counter() - started
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:number], *found), seconds


def over_theta(estimates: Sequence[Estimate]) -> Estimate:
    """Returns log 1/S Sum_s p(x; theta_s) [n], from estimates of log p(x; theta_s) [n].

    Each entry is a datapoint. With theta_s ~ q(theta) it is a stochastic lower bound on
    log E_q[p(x; theta)]. Its standard error is that of the delta method over the S terms, whose own
    noise is independent. The diagnostics are means over theta.
    """
    if len(estimates) == 1:
        return estimates[0]
    values = np.stack([np.asarray(estimate.value, np.float64) for estimate in estimates])
    largest = np.max(values, axis=0)
    relative = np.exp(values - largest)  # [S, n]
    mean = np.mean(relative, axis=0)
    error = np.std(relative / mean, axis=0, ddof=1) / math.sqrt(len(estimates))
    diagnostics = jax.tree.map(lambda *d: np.mean(d, axis=0), *(e.diagnostics for e in estimates))
    return Estimate(jnp.asarray(largest + np.log(mean)), jnp.asarray(error), diagnostics)


def summarize(estimate: Estimate) -> dict[str, Any]:
    """Returns the mean over datapoints [n] in nats, its two standard errors and the diagnostics.

    One standard error is over datapoints, the other is that of the estimator. An entry `worst` is
    the smallest value of `LEAST_IS_WORST`, and the largest value of other diagnostics. Of
    pareto_smoothed, itself an estimate of log p(x), the mean is returned.
    """
    value, error = (np.asarray(leaf, np.float64) for leaf in estimate[:2])
    number = len(value)
    summary: dict[str, Any] = {
        "mean": float(np.mean(value)),
        # The first is the error from the choice of datapoints, the second from random numbers.
        "standard_error": _standard_error(value),
        "estimator_standard_error": float(np.sqrt(np.sum(error**2)) / number),
    }
    for name, leaf in estimate.diagnostics.items():
        each = np.asarray(leaf, np.float64)
        worst = np.min if name in LEAST_IS_WORST else np.max
        summary[name] = {"median": _finite(np.median(each)), "worst": _finite(worst(each))}
        if name == "pareto_smoothed":
            summary[name] = {"mean": _finite(np.mean(each))}
    return summary


def width(lower: Estimate, upper: Estimate) -> dict[str, float | None]:
    """Returns the mean, its standard error and the maximum of upper - lower over datapoints."""
    gap = np.asarray(upper.value, np.float64) - np.asarray(lower.value, np.float64)
    return {
        "mean": float(np.mean(gap)),
        "standard_error": _standard_error(gap),
        "widest": float(np.max(gap)),
    }


def _standard_error(values: np.ndarray) -> float | None:
    """Returns the standard error of the mean of values [n], or None for a single value."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _finite(value: np.floating) -> float | None:
    """Returns the value as a float, or None if it is non-finite, because JSON cannot hold it."""
    return float(value) if math.isfinite(value) else None
