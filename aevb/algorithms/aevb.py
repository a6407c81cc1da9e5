"""Auto-Encoding Variational Bayes: algorithm 1 of Kingma & Welling (2013), with any bound."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.algorithms import gradient_ascent
from aevb.algorithms.base import Algorithm, Batch
from aevb.algorithms.gradient_ascent import over_datapoints
from aevb.losses import Bound
from aevb.types import Key, PyTree
from aevb.vae import VAE


def make(
    vae: VAE,
    optimizer: optax.GradientTransformation,
    *,
    bound: Bound,
    num_samples: int = 1,
    accumulation_steps: int = 1,
) -> Algorithm:
    """Returns AEVB: gradient ascent on phi and theta together.

    Args:
        optimizer: its weight decay is the prior on phi and theta (`optimizers.prior_decay`).
        bound: an entry of `aevb.losses.BOUNDS`.
        num_samples: L, samples per datapoint.
        accumulation_steps: number of parts of a minibatch, processed one after the other.
    """

    def objective(params: PyTree, key: Key, batch: Batch) -> tuple[Array, dict[str, Array]]:
        """Returns eq. (8) divided by N, which is the mean bound [], and the metrics."""

        def bound_of(key: Key, x: Array) -> Array:
            stats = vae.encode(params, x)
            return bound(key, stats, vae.guide, vae.joint(params, x), num_samples=num_samples)

        keys = jax.random.split(key, len(batch.x))
        bounds = over_datapoints(bound_of, keys, batch.x, num_parts=accumulation_steps)
        value = jnp.mean(bounds)
        return value, {"objective": value}

    return gradient_ascent.algorithm(objective, vae.init, optimizer)
