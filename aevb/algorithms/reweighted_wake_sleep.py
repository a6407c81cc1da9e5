"""Reweighted wake-sleep (Bornschein & Bengio 2015): wake-sleep with importance weights."""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.lax import stop_gradient

from aevb.algorithms import gradient_ascent
from aevb.algorithms.base import Algorithm, Batch
from aevb.algorithms.gradient_ascent import over_datapoints
from aevb.losses import log_densities
from aevb.types import Key, PyTree
from aevb.vae import VAE


def make(
    vae: VAE,
    optimizer: optax.GradientTransformation,
    *,
    num_samples: int = 5,
    accumulation_steps: int = 1,
) -> Algorithm:
    """Returns reweighted wake-sleep with a wake phase for theta and a wake phase for phi.

    Both phases use the data's x and K samples z_k ~ q(z|x). The weights w_k are
    p(x, z_k) / q(z_k|x), normalized to sum to 1. theta ascends Sum_k w_k log p(x, z_k), whose
    gradient tends to that of log p(x) as K grows. phi ascends Sum_k w_k log q(z_k|x), which
    descends KL(p(z|x) || q(z|x)) at the data. With K = 1 the mean of phi's gradient is 0, so phi
    learns nothing.

    Args:
        optimizer: its weight decay is the prior on phi and theta (`optimizers.prior_decay`).
        num_samples: K, at least 2.
        accumulation_steps: number of parts of a minibatch, processed one after the other.

    Raises:
        ValueError: num_samples is below 2.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}; it must be at least 2")

    def objective(params: PyTree, key: Key, batch: Batch) -> tuple[Array, dict[str, Array]]:
        """Returns the sum of both terms [], and the metrics.

        No z has a gradient, so each term has a gradient only in its own parameters.
        """

        def awake(key: Key, x: Array) -> tuple[Array, Array]:
            log_joint, log_q = log_densities(
                key, vae.encode(params, x), vae.guide, vae.joint(params, x),
                num_samples=num_samples,
            )  # fmt: skip
            log_w = stop_gradient(log_joint - log_q)
            value = jnp.sum(jax.nn.softmax(log_w) * (log_joint + log_q))
            return value, jax.nn.logsumexp(log_w) - jnp.log(num_samples)

        keys = jax.random.split(key, len(batch.x))
        values, bounds = over_datapoints(awake, keys, batch.x, num_parts=accumulation_steps)
        return jnp.mean(values), {"objective": jnp.mean(bounds)}

    return gradient_ascent.algorithm(objective, vae.init, optimizer)
