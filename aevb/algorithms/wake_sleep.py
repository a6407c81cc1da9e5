"""The wake-sleep algorithm (Hinton et al. 1995), the paper's baseline, with AEVB's encoder."""

from functools import partial

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
    num_samples: int = 1,
    accumulation_steps: int = 1,
) -> Algorithm:
    """Returns wake-sleep: two simultaneous ascents of different objectives.

    - wake phase, for theta: log p(x, z) at the data's x and z ~ q(z|x);
    - sleep phase, for phi: log q(z|x) at simulated x, z ~ p(x, z), one pair per datapoint.

    The wake phase ascends the evidence lower bound. The sleep phase descends KL(p(z|x) || q(z|x))
    at the model's x, whereas the bound contains KL(q || p) at the data's x; this difference is the
    bias of wake-sleep.

    Args:
        optimizer: its weight decay is the prior on phi and theta (`optimizers.prior_decay`).
        num_samples: L, samples per datapoint in the wake phase.
        accumulation_steps: number of parts of a minibatch, processed one after the other.
    """

    def objective(params: PyTree, key: Key, batch: Batch) -> tuple[Array, dict[str, Array]]:
        """Returns the sum of both terms [], and the metrics.

        Neither term has a gradient in the parameters of the other.
        """
        wake_key, sleep_key = jax.random.split(key)

        def wake(key: Key, x: Array) -> tuple[Array, Array]:
            stats, joint = vae.encode(params, x), vae.joint(params, x)
            log_joint, log_q = log_densities(key, stats, vae.guide, joint, num_samples=num_samples)
            return jnp.mean(log_joint), jnp.mean(log_joint - log_q)

        def sleep(key: Key) -> Array:
            z, x = stop_gradient(vae.sample(key, params))
            return vae.guide.log_prob(vae.encode(params, x), z)

        number = len(batch.x)
        in_parts = partial(over_datapoints, num_parts=accumulation_steps)
        log_joint, bounds = in_parts(wake, jax.random.split(wake_key, number), batch.x)
        log_q = in_parts(sleep, jax.random.split(sleep_key, number))
        return jnp.mean(log_joint) + jnp.mean(log_q), {"objective": jnp.mean(bounds)}

    return gradient_ascent.algorithm(objective, vae.init, optimizer)
