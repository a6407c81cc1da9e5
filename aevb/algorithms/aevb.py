"""Auto-Encoding Variational Bayes: algorithm 1 of Kingma & Welling (2013), with any bound."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.algorithms import gradient_ascent
from aevb.algorithms.base import Algorithm, Batch
from aevb.algorithms.gradient_ascent import over_datapoints
from aevb.losses import Bound, with_kl_weight
from aevb.types import Key, PyTree
from aevb.vae import VAE


def make(
    vae: VAE,
    optimizer: optax.GradientTransformation,
    *,
    bound: Bound,
    num_samples: int = 1,
    accumulation_steps: int = 1,
    kl_weight: Callable[[Array], Array] | None = None,
    term: Callable[[Key, PyTree], Array] | None = None,
) -> Algorithm:
    """Returns AEVB: gradient ascent on phi and theta together.

    Args:
        optimizer: its weight decay is the prior on phi and theta (`optimizers.prior_decay`).
        bound: an entry of `aevb.losses.BOUNDS`.
        num_samples: L, samples per datapoint.
        accumulation_steps: number of parts of a minibatch, processed one after the other.
        kl_weight: steps taken [] -> the weight of the KL to the prior, as in
            `aevb.losses.with_kl_weight`; None for 1.
        term: (key, params) -> a term [] that is added to the mean bound, in nats; None for none.
    """

    def objective(
        step: Array, params: PyTree, key: Key, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """Returns eq. (8) divided by N, which is the mean bound [], and the metrics."""
        key, term_key = (key, None) if term is None else jax.random.split(key)

        def bound_of(key: Key, x: Array) -> Array:
            stats, guide, joint = vae.encode(params, x), vae.guide, vae.joint(params, x)
            if kl_weight is not None:
                guide, joint = with_kl_weight(guide, joint, kl_weight(step))
            return bound(key, stats, guide, joint, num_samples=num_samples)

        keys = jax.random.split(key, len(batch.x))
        bounds = over_datapoints(bound_of, keys, batch.x, num_parts=accumulation_steps)
        value = jnp.mean(bounds)
        if term is not None and term_key is not None:
            value += term(term_key, params)
        metrics = {"objective": value}
        return value, metrics if kl_weight is None else {**metrics, "kl_weight": kl_weight(step)}

    return gradient_ascent.algorithm_at(lambda step: partial(objective, step), vae.init, optimizer)
