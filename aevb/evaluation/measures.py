"""What a run records of its model besides the bound: rate, distortion, units in use, and others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.distributions import DiagNormal, StandardNormal
from aevb.evaluation.diagnostics import (
    ACTIVE,
    Aggregate,
    aggregate_posterior,
    marginals,
)
from aevb.losses import Guide, Joint, over_samples, rate_and_distortion
from aevb.types import Key, PyTree

ACTIVE_KL = 0.01  # nats: the mean KL of a latent from the prior, above which it is in use
NUM_DRAWS = 16  # samples of a guide whose moments have no closed form
NUM_AGGREGATED = 250  # datapoints whose pairs estimate the aggregate posterior


class Terms(NamedTuple):
    """The quantities of one datapoint from which `summarize` makes the measures."""

    rate: Array  # [], nats
    distortion: Array  # [], nats
    mean: Array  # [Z], of q(z|x)
    log_var: Array  # [Z], of q(z|x)
    error: Array  # [Z], the variance of `mean` as an estimate
    unit_kl: Array | None  # [Z], nats, from N(0, 1); None for another prior
    likelihood_log_var: Array | None  # [3]: smallest, mean and largest over the dimensions of x
    kls: Mapping[str, Array] | None = None  # [] each, nats: the rate by factor of the latents


def terms(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    likelihood_log_var: Callable[[Any], Array] | None = None,
) -> Terms:
    """Returns the terms of one datapoint, with one sample of z.

    Args:
        likelihood_log_var: z [Z] -> log variances of p(x|z), [D] or [1]; None if it has none.
    """
    rate, distortion = rate_and_distortion(key, stats, guide, joint)
    mean, log_var, error = marginals(key, stats, guide, num_draws=NUM_DRAWS)
    is_standard = type(joint.prior) is StandardNormal
    spread, kls = None, None
    if (by_factor := guide.sample_and_kls) is not None:
        of_one = over_samples(lambda key: by_factor(key, stats, joint.prior)[1], key, 1)
        kls = {name: kl[0] for name, kl in of_one.items()}
    if likelihood_log_var is not None:
        z = over_samples(lambda key: guide.sample(key, stats), key, 1)  # that of the distortion
        found = likelihood_log_var(jax.tree.map(lambda leaf: leaf[0], z))
        spread = jnp.stack([jnp.min(found), jnp.mean(found), jnp.max(found)])
    unit_kl = DiagNormal(mean, log_var).kl_per_unit_to_standard_normal() if is_standard else None
    return Terms(rate, distortion, mean, log_var, error, unit_kl, spread, kls)


def of_latents(found: Terms, num_latents: int) -> Terms:
    """Returns the terms without the latents after the first `num_latents`, which are padding."""

    def cut(leaf: Array | None) -> Array | None:
        return None if leaf is None else leaf[..., :num_latents]

    return found._replace(
        mean=cut(found.mean), log_var=cut(found.log_var), error=cut(found.error),
        unit_kl=cut(found.unit_kl),
    )  # fmt: skip


def summarize(
    found: Terms, aggregate: Aggregate | None = None, layer_sizes: Sequence[int] = ()
) -> dict[str, float]:
    """Returns the measures of a set of datapoints, by name.

    They are the mean rate and distortion; the number of active units, whose posterior mean varies
    with x (Burda et al. 2015) or whose mean KL from the prior is above ACTIVE_KL; the mutual
    information I(x; z) and KL(q(z) || p(z)) of the aggregate posterior, by `aggregate_posterior`;
    the KL of the aggregate posterior's marginals from N(0, 1), taken as Gaussian and added up; and
    the smallest, mean and largest log variances of q(z|x) and p(x|z). All KLs are in nats. Several
    layers of latents also have the rate and the active units of each: rate_z1, active_units_z1. A
    measure that the model does not have is left out.

    Args:
        found: the terms of n datapoints, leaves [n, ...].
        aggregate: the terms [m] of some of them.
        layer_sizes: Z1, Z2, ... of several layers, which the latents join.
    """
    rate, distortion, mean, log_var, error = (np.asarray(leaf, np.float64) for leaf in found[:5])
    activity = np.var(mean, axis=0) - np.mean(error, axis=0)
    measures = {
        "rate": np.mean(rate),
        "distortion": np.mean(distortion),
        "active_units": np.sum(activity > ACTIVE),
    }
    for name, kl in (found.kls or {}).items():
        measures[f"rate_{name}"] = np.mean(np.asarray(kl, np.float64))
    for number, end in enumerate(np.cumsum(layer_sizes, dtype=int)):
        part = activity[end - layer_sizes[number] : end]
        measures[f"active_units_z{number + 1}"] = np.sum(part > ACTIVE)
    if found.unit_kl is not None:
        total_var = activity + np.mean(np.exp(log_var), axis=0)
        of_marginal = np.square(np.mean(mean, axis=0)) + total_var - 1.0 - np.log(total_var)
        unit_kl = np.mean(np.asarray(found.unit_kl, np.float64), axis=0)
        measures["active_units_by_kl"] = np.sum(unit_kl > ACTIVE_KL)
        measures["aggregate_marginal_kl"] = 0.5 * np.sum(of_marginal)
    if aggregate is not None:
        information, kl = (np.mean(np.asarray(leaf, np.float64)) for leaf in aggregate)
        measures |= {"mutual_information": information, "aggregate_kl": kl}
    measures |= _spread("posterior_log_var", log_var, log_var, log_var)
    if found.likelihood_log_var is not None:
        of_x = np.asarray(found.likelihood_log_var, np.float64)
        measures |= _spread("likelihood_log_var", *of_x.T)
    return {name: float(value) for name, value in measures.items()}


def of_split(split: str, measures: Mapping[str, float]) -> dict[str, float]:
    """Returns the measures by the names that they have in a log: train_rate, valid_rate, ..."""
    return {f"{split}_{name}": value for name, value in measures.items()}


def _spread(
    name: str, smallest: np.ndarray, mean: np.ndarray, largest: np.ndarray
) -> dict[str, float]:
    return {
        f"{name}_min": float(np.min(smallest)),
        f"{name}_mean": float(np.mean(mean)),
        f"{name}_max": float(np.max(largest)),
    }


def measure(
    key: Key,
    x: Array,
    encode: Callable[[Array], PyTree],
    guide: Guide,
    joint_of: Callable[[Array], Joint],
    *,
    num_data: float | None = None,
    likelihood_log_var: Callable[[Array], Array] | None = None,
) -> Mapping[str, float]:
    """Returns the measures of a model of one's own on a batch: those that a run records.

    Args:
        x: [n, D], or any array of n datapoints; at least 2.
        encode: a datapoint -> statistics of q(z|x).
        joint_of: a datapoint -> its `Joint`; all have the same prior.
        num_data: N, the number of datapoints of the whole set, of which x is a sample; None for n.
        likelihood_log_var: as for `terms`.
    """
    terms_key, pairs_key = jax.random.split(key)

    def one(key: Key, x: Array) -> Terms:
        return terms(key, encode(x), guide, joint_of(x), likelihood_log_var)

    @jax.jit
    def both(x: Array) -> tuple[Terms, Aggregate]:
        some = x[:NUM_AGGREGATED]
        log_prior = joint_of(x[0]).log_prior
        aggregate = aggregate_posterior(
            pairs_key, jax.vmap(encode)(some), guide, log_prior, num_data=num_data or len(x)
        )
        return jax.vmap(one)(jax.random.split(terms_key, len(x)), x), aggregate

    found, aggregate = both(x)
    measures = summarize(found, aggregate)
    return {"bound": -(measures["rate"] + measures["distortion"]), **measures}
