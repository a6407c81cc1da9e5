"""Checks of a trained model: its hidden units, its precision, and its importance weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr, ndtri

from aevb import marginal
from aevb.doctor.hints import Hint
from aevb.doctor.sample import moments
from aevb.evaluation.log_likelihood import reason_to_distrust
from aevb.inference.importance_weights import pareto_k_threshold
from aevb.losses import REAL
from aevb.types import Key, PyTree
from aevb.vae import VAE

# of the values of a layer; a sound layer of ReLUs is 0 half of the time
LARGEST_DEAD = 0.95
# The ends are this part of the range of a layer's values.
END = 0.01
# nats per datapoint; sound models with products of bfloat16 differ by a hundredth of it
LARGEST_ROUNDING = 0.1
NUM_WEIGHTS = 500  # samples of a datapoint
NUM_DRAWS = 99  # of x ~ p(x|z), among which a value has a rank
NUM_BINS = 20
# nats for each value that another distribution would gain; sound models are below a third of it
LARGEST_MISFIT = 0.03
# of the datapoints; the encoder's density is narrower than the posterior in most sound models
LARGEST_FAILING = 0.9


def hints_of_units(key: Key, vae: VAE, params: PyTree, x: np.ndarray) -> list[Hint]:
    """Returns a hint for each layer of hidden units that are dead or saturated.

    The inputs of the encoder are datapoints, and those of the decoder are their codes z ~ q(z|x),
    or draws from N(0, I) without an encoder.

    Args:
        x: datapoints as the model receives them, [n, D].
    """

    def units_of(key: Key, x: Array) -> Mapping[str, Array]:
        z = vae.guide.sample(key, vae.encode(params, x))
        return vae.hidden(params, x, z)

    layers = jax.jit(jax.vmap(units_of))(jax.random.split(key, len(x)), jnp.asarray(x))
    hints = []
    for name, units in layers.items():
        values = np.asarray(units, np.float64)
        low, high = np.min(values), np.max(values)
        end = END * (high - low)
        share = float(np.mean((values <= low + end) | (values >= high - end)))
        if share > LARGEST_DEAD:
            hints.append(
                Hint(
                    "dead_units",
                    f"almost all units of {name} are dead or saturated",
                    f"{share:.1%} of their values over {len(x)} inputs are at an end of the range "
                    f"(more than {LARGEST_DEAD:.0%})",
                    "start from smaller weights (config.model.init=fan_in), take a smaller "
                    "config.optimizer.step_size, or another activation "
                    "(config.model.network_options.activation=silu)",
                )
            )
    return hints


def hints_of_precision(bound: float, bound_float32: float, dtype: str) -> list[Hint]:
    """Returns a hint if a model's bound depends on the precision of its matrix products.

    Args:
        bound: in nats per datapoint, with products of `dtype`.
        bound_float32: of the same parameters and noise, with products of float32.
    """
    if abs(bound - bound_float32) <= LARGEST_ROUNDING:
        return []
    return [
        Hint(
            "low_precision",
            f"{dtype} rounds away digits that the model needs",
            f"the bound is {bound:.2f} nats in {dtype} and {bound_float32:.2f} in float32, with "
            f"the same parameters (more than {LARGEST_ROUNDING:g} apart)",
            "set config.model.compute_dtype=float32, or standardize the data",
        )
    ]


def misfits(
    key: Key, vae: VAE, params: PyTree, x: np.ndarray, *, beyond_scale: bool = True
) -> np.ndarray:
    """Returns by how much another family of p(x_d|z) would raise the likelihood, [D].

    Under a right likelihood the rank of a value among draws from p(x_d|z), with z ~ q(z|x), is
    uniform (Dawid 1984; ties are broken at random). The KL divergence of the ranks' distribution
    from it is what the log-score gains by a recalibration. The part that another location and scale
    would gain is left out: it is the divergence of the Gaussian with the mean and variance of the
    ranks' normal scores. The result is in nats for each value, less the bias of a histogram.

    Args:
        x: datapoints as the model receives them, [n, D].
        beyond_scale: False to count location and scale too, for counts.
    """

    def ranks(key: Key, x: Array) -> tuple[Array, Array]:
        z_key, draw_key = jax.random.split(key)
        z = vae.guide.sample(z_key, vae.encode(params, x))
        keys = jax.random.split(draw_key, NUM_DRAWS)
        drawn = jax.vmap(lambda key: vae.draw(key, params, z))(keys)
        return jnp.sum(drawn < x[None], axis=0), jnp.sum(drawn == x[None], axis=0)

    keys = jax.random.split(key, len(x))
    of_all = jax.jit(lambda keys, x: jax.lax.map(lambda a: ranks(*a), (keys, x)))
    below, equal = map(np.asarray, of_all(keys, x))
    ties = np.random.default_rng(0).uniform(size=x.shape) * (equal + 1)
    places = (below + ties) / (NUM_DRAWS + 1)
    bins = np.where(np.isnan(x), NUM_BINS, places * NUM_BINS).astype(int)
    number = np.maximum(np.sum(bins < NUM_BINS, axis=0), 1)  # of the values that are not missing
    shares = np.stack([np.sum(bins == place, axis=0) for place in range(NUM_BINS)]) / number
    expected, num_free = np.full_like(shares, 1.0 / NUM_BINS), NUM_BINS - 1
    if beyond_scale:
        scores = np.asarray(ndtri(jnp.clip(jnp.asarray(places), 1e-6, 1.0 - 1e-6)), np.float64)
        _, mean, variance = moments(np.where(np.isnan(x), np.nan, scores))
        std = np.sqrt(variance)
        ends = np.asarray(ndtri(jnp.arange(1, NUM_BINS) / NUM_BINS), np.float64)
        cdf = np.asarray(ndtr(jnp.asarray((ends[:, None] - mean) / std)), np.float64)
        expected = np.diff(cdf, axis=0, prepend=0.0, append=1.0)
        num_free -= 2
    ratios = np.where(shares > 0, shares, 1.0) / np.where(shares > 0, expected, 1.0)
    return np.sum(shares * np.log(ratios), axis=0) - num_free / (2 * number)


def hints_of_likelihood(
    key: Key, vae: VAE, params: PyTree, x: np.ndarray, *, beyond_scale: bool = True
) -> list[Hint]:
    """Returns a hint if the data have another distribution around E[x|z] than the likelihood.

    Args:
        x: training datapoints as the model receives them, [n, D].
        beyond_scale: as for `misfits`.
    """
    each = misfits(key, vae, params, x, beyond_scale=beyond_scale)
    mean, column = float(np.mean(each)), int(np.argmax(each))
    if mean <= LARGEST_MISFIT:
        return []
    return [
        Hint(
            "likelihood_misfit",
            "the values are not distributed around their means as the likelihood has it",
            f"by the ranks of {len(x)} datapoints among draws from p(x|z), another likelihood "
            f"would gain {mean:.2f} nats for each value (more than {LARGEST_MISFIT:g}), and "
            f"{each[column]:.2f} in column {column} (from 0)",
            "for skew or heavy tails take logarithms of the columns, or "
            "config.model.likelihood=student_t; for counts config.model.likelihood="
            "negative_binomial or zero_inflated_poisson",
        )
    ]


def hints_of_weights(key: Key, vae: VAE, params: PyTree, x: np.ndarray) -> list[Hint]:
    """Returns a hint if importance sampling from the encoder fails at most datapoints.

    Args:
        x: datapoints as the model receives them, [n, D].
    """

    def pareto_k(key: Key, x: Array) -> Array:
        estimate = marginal.importance_sampling(
            key, vae.encode(params, x), vae.guide, vae.joint(params, x), num_samples=NUM_WEIGHTS
        )
        return estimate.diagnostics["pareto_k"]

    keys = jax.random.split(key, len(x))
    k = np.asarray(jax.jit(lambda keys, x: jax.lax.map(lambda a: pareto_k(*a), (keys, x)))(keys, x))
    limit = pareto_k_threshold(NUM_WEIGHTS)
    failing = float(np.mean(~(k <= limit)))
    if failing <= LARGEST_FAILING:
        return []
    return [
        Hint(
            "importance_weights",
            "importance sampling from the encoder cannot estimate log p(x) of this model",
            f"Pareto k is above {limit:.2f} at {failing:.0%} of {len(x)} datapoints, with "
            f"{NUM_WEIGHTS} samples (more than {LARGEST_FAILING:.0%})",
            "start from the posterior's modes (aevb evaluate --proposal=modes), use "
            "--estimators=ais, or a richer guide (config.model.guide=full_normal or iaf)"
            if vae.guide.support == REAL
            else "take more samples (aevb evaluate --num_samples)",
        )
    ]


def hints_of_estimates(rows: Mapping[str, Mapping[str, Any]]) -> list[Hint]:
    """Returns a hint for each estimate of log p(x) whose diagnostic fails.

    Args:
        rows: the estimators' rows of a `marginal.json`.
    """
    return [
        Hint(
            "importance_weights",
            f"the estimate of log p(x) by {name} cannot be trusted",
            reason,
            "take more samples, or another --proposal or estimator of aevb evaluate",
        )
        for name, row in rows.items()
        if (reason := reason_to_distrust(row)) is not None
    ]
