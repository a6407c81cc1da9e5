"""Bounds on log p(x) and their estimators, for any model in any JAX library (this needs jax alone).

Each takes ONE datapoint and returns a scalar in nats to be maximised; `jax.vmap` makes the
minibatch. The guide's statistics are an explicit argument, so that an estimator can choose where
the gradient with respect to phi flows.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key, PyTree


class Guide(NamedTuple):
    """The approximate posterior q_phi(z|x), as pure functions of its statistics (any pytree)."""

    sample: Callable[[Key, PyTree], Array]  # reparameterised, differentiable -> z [Z]
    log_prob: Callable[[PyTree, Array], Array]  # (statistics, z [Z]) -> [], nats
    kl: Callable[[PyTree], Array] | None = None  # KL(q || prior) -> [], nats, where it is closed


class Joint(NamedTuple):
    """p_theta(x, z) at one x; theta and x are closed over."""

    log_prior: Callable[[Array], Array]  # log p(z) of z [Z] -> [], nats
    log_lik: Callable[[Array], Array]  # log p(x|z) of z [Z] -> [], nats


class Bound(Protocol):
    """What every entry of `BOUNDS` is called with."""

    def __call__(
        self, key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
    ) -> Array: ...


def log_weights(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int) -> Array:
    """log p(x, z_k) - log q(z_k|x) at z_k ~ q(z|x), k = 1..K -> [K], nats.

    The integrand of eq. (2), and the log importance weights of log p(x).

    Raises:
        ValueError: num_samples is below 1.
    """

    def log_weight(key: Key) -> Array:
        z = guide.sample(key, stats)
        return joint.log_prior(z) + joint.log_lik(z) - guide.log_prob(stats, z)

    return jax.vmap(log_weight)(_sample_keys(key, num_samples))


def sgvb_a(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """1/L Sum_l log p(x, z_l) - log q(z_l|x), z_l ~ q(z|x) -> [], nats; eq. (6).

    Unbiased for the evidence lower bound of eq. (2), for any guide that can be sampled.

    Raises:
        ValueError: num_samples is below 1.
    """
    return jnp.mean(log_weights(key, stats, guide, joint, num_samples=num_samples))


def sgvb_b(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """-KL(q(z|x) || p(z)) + 1/L Sum_l log p(x|z_l), z_l ~ q(z|x) -> [], nats; eq. (7).

    Unbiased for the evidence lower bound of eq. (3). It typically has less variance than
    `sgvb_a`, though not always: at the exact posterior `sgvb_a` has none.

    Raises:
        ValueError: the guide has no KL in closed form, or num_samples is below 1.
    """
    if guide.kl is None:
        raise ValueError("sgvb_b needs a guide with a closed-form kl; use sgvb_a for this guide")

    def log_lik(key: Key) -> Array:
        return joint.log_lik(guide.sample(key, stats))

    keys = _sample_keys(key, num_samples)
    return -guide.kl(stats) + jnp.mean(jax.vmap(log_lik)(keys))


def minibatch_objective(bounds: Array, num_data: int) -> Array:
    """N/M Sum_m of the per-datapoint bounds [M] -> [], nats; eq. (8).

    An unbiased estimate of the bound on log p(X) of the whole data set of N points.
    """
    return num_data * jnp.mean(bounds)


def _sample_keys(key: Key, num_samples: int) -> Array:
    """One key for each sample -> [L]; a mean over no sample would be a silent NaN."""
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; a bound needs at least 1 sample")
    return jax.random.split(key, num_samples)


BOUNDS: dict[str, Bound] = {
    "sgvb_a": sgvb_a,
    "sgvb_b": sgvb_b,
}
