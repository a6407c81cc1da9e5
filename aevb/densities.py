"""q_phi(z|x) and p_theta(x, z) as pure functions, and their log-densities at samples of z.

Every bound on log p(x) and every estimator of it is made of them. phi is whatever the statistics of
q depend on, theta whatever the model closes over.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from aevb.types import Key, PyTree


class Guide(NamedTuple):
    """The approximate posterior q_phi(z|x), as pure functions of its statistics (any pytree)."""

    sample: Callable[[Key, PyTree], Array]  # reparameterised, differentiable -> z [Z]
    log_prob: Callable[[PyTree, Array], Array]  # (statistics, z [Z]) -> [], nats
    kl: Callable[[PyTree], Array] | None = None  # KL(q || prior) -> [], nats, where it is closed
    # z and log q(z|x) at once, where that is cheaper; the same z as `sample` of the same key
    sample_and_log_prob: Callable[[Key, PyTree], tuple[Array, Array]] | None = None


class Joint(NamedTuple):
    """p_theta(x, z) at one x; theta and x are closed over."""

    log_prior: Callable[[Array], Array]  # log p(z) of z [Z] -> [], nats
    log_lik: Callable[[Array], Array]  # log p(x|z) of z [Z] -> [], nats


def log_weights(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int) -> Array:
    """log p(x, z_k) - log q(z_k|x) at z_k ~ q(z|x), k = 1..K -> [K], nats.

    The integrand of eq. (2), and the log importance weights of log p(x).

    Raises:
        ValueError: num_samples is below 1.
    """

    def log_weight(key: Key) -> Array:
        if guide.sample_and_log_prob is not None:
            z, log_q = guide.sample_and_log_prob(key, stats)
        else:
            z = guide.sample(key, stats)
            log_q = guide.log_prob(stats, z)
        return joint.log_prior(z) + joint.log_lik(z) - log_q

    return over_samples(log_weight, key, num_samples)


def log_densities(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int, at_least: int = 1
) -> tuple[Array, Array]:
    """log p(x, z_l) [L] and log q(z_l|x) [L] at z_l ~ q(z|x) that carry no gradient; nats.

    Raises:
        ValueError: num_samples is below at_least.
    """

    def at_sample(key: Key) -> tuple[Array, Array]:
        z = stop_gradient(guide.sample(key, stats))
        return joint.log_prior(z) + joint.log_lik(z), guide.log_prob(stats, z)

    return over_samples(at_sample, key, num_samples, at_least=at_least)


def log_weights_by_route(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int
) -> tuple[Array, Array, Array]:
    """Three [K] whose gradients add up to that of `log_weights`, one for each way it comes; nats.

    The first is `log_weights` with theta's gradient alone. The second has phi's gradient by way of
    z and the third phi's inside log q; their values mean nothing. theta is closed over, so that
    nothing can stop its gradient in log p(x, z): the second is linear in z with the slope there.

    Raises:
        ValueError: num_samples is below 1.
    """

    def by_route(key: Key) -> tuple[Array, Array, Array]:
        def log_weight(z: Array) -> Array:
            log_q = guide.log_prob(stop_gradient(stats), z)
            return joint.log_prior(z) + joint.log_lik(z) - log_q

        z = guide.sample(key, stats)
        fixed = stop_gradient(z)
        log_w, slope = jax.value_and_grad(log_weight)(fixed)
        return log_w, jnp.sum(stop_gradient(slope) * z), -guide.log_prob(stats, fixed)

    return over_samples(by_route, key, num_samples)


def over_samples(
    function: Callable[[Key], PyTree], key: Key, num_samples: int, *, at_least: int = 1
) -> PyTree:
    """What `function` makes of a key of its own for each sample, stacked: leaves [L, ...].

    A mean over no sample would be a silent NaN.

    Raises:
        ValueError: num_samples is below at_least.
    """
    if num_samples < at_least:
        raise ValueError(f"num_samples is {num_samples}; it must be at least {at_least}")
    keys = jax.random.split(key, num_samples)
    if num_samples == 1:  # within a minibatch XLA transposes copies for an axis of one sample
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), function(keys[0]))
    return jax.vmap(function)(keys)
