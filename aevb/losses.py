"""Bounds on log p(x) and their estimators, for any model in any JAX library (this needs jax alone).

Each takes ONE datapoint and returns a scalar in nats to be maximized; `jax.vmap` makes the
minibatch. The guide's statistics are an explicit argument, so that an estimator can choose where
the gradient with respect to phi flows. What is returned is always the bound's own value, also
where the gradient is not its derivative. Where an argument is not as a docstring wants it, or
num_samples is below 1, the bound raises a ValueError.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from aevb.types import Key, PyTree


class Guide(NamedTuple):
    """The approximate posterior q_phi(z|x), as pure functions of its statistics (any pytree)."""

    sample: Callable[[Key, PyTree], Array]  # reparameterized, differentiable -> z [Z]
    log_prob: Callable[[PyTree, Array], Array]  # (statistics, z [Z]) -> [], nats
    kl: Callable[[PyTree], Array] | None = None  # KL(q || prior) -> [], nats, where it is closed
    # z and log q(z|x) at once, where that is cheaper; the same z as `sample` of the same key
    sample_and_log_prob: Callable[[Key, PyTree], tuple[Array, Array]] | None = None


class Joint(NamedTuple):
    """p_theta(x, z) at one x; theta and x are closed over."""

    log_prior: Callable[[Array], Array]  # log p(z) of z [Z] -> [], nats
    log_lik: Callable[[Array], Array]  # log p(x|z) of z [Z] -> [], nats


class Bound(Protocol):
    """What every entry of `BOUNDS` is called with."""

    def __call__(
        self, key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
    ) -> Array: ...


# Log-densities at samples of z


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


# Estimators of the evidence lower bound


def sgvb_a(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """1/L Sum_l log p(x, z_l) - log q(z_l|x), z_l ~ q(z|x) -> [], nats; eq. (6).

    Unbiased for the evidence lower bound of eq. (2), for any guide that can be sampled.
    """
    return jnp.mean(log_weights(key, stats, guide, joint, num_samples=num_samples))


def sgvb_b(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """-KL(q(z|x) || p(z)) + 1/L Sum_l log p(x|z_l), z_l ~ q(z|x) -> [], nats; eq. (7).

    Unbiased for the evidence lower bound of eq. (3), for a guide with a closed KL. It typically
    has less variance than `sgvb_a`, though not always: at the exact posterior `sgvb_a` has none.
    """
    kl, log_lik = _kl_and_log_lik("sgvb_b", key, stats, guide, joint, num_samples)
    return log_lik - kl


def evidence_lower_bound(guide: Guide) -> Bound:
    """`sgvb_b`, or `sgvb_a` for a guide without a closed KL: the estimator to evaluate by."""
    return sgvb_a if guide.kl is None else sgvb_b


def score_function(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
) -> Array:
    """`sgvb_a` with phi's gradient 1/L Sum_l f(z_l) grad log q(z_l|x) -> [], nats; section 2.2.

    The naive estimator (REINFORCE), f = log p(x, z) - log q(z|x). Nothing is reparameterized, so
    it serves every guide that can be sampled and scored, at the price of its variance.
    """
    log_joint, log_q = log_densities(key, stats, guide, joint, num_samples=num_samples)
    f = log_joint - log_q
    return _value(jnp.mean(f), gradient_of=jnp.mean(log_joint + stop_gradient(f) * log_q))


def score_function_loo(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
) -> Array:
    """`score_function` with f(z_l) less the mean f of the other samples -> [], nats.

    The leave-one-out baseline (VIMCO of Mnih & Rezende 2016; RLOO of Kool et al. 2019). It does
    not depend on z_l, so that it adds no bias. num_samples must be at least 2.
    """
    log_joint, log_q = log_densities(key, stats, guide, joint, num_samples=num_samples, at_least=2)
    f = log_joint - log_q
    others = (jnp.sum(f) - f) / (num_samples - 1)
    reward = stop_gradient(f - others)
    return _value(jnp.mean(f), gradient_of=jnp.mean(log_joint + reward * log_q))


def stl(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """`sgvb_a` without phi's gradient inside log q, whose mean is 0 -> [], nats.

    Sticking the landing (Roeder et al. 2017): at the exact posterior phi's gradient is 0 at every
    z, rather than on average alone.
    """
    landed = guide._replace(
        log_prob=lambda stats, z: guide.log_prob(stop_gradient(stats), z),
        sample_and_log_prob=None,  # which stops nothing
    )
    return jnp.mean(log_weights(key, stats, landed, joint, num_samples=num_samples))


# Tighter bounds, of more than one sample


def iwae(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """log 1/K Sum_k p(x, z_k) / q(z_k|x), z_k ~ q(z|x) -> [], nats; Burda et al. 2015.

    Its mean is the evidence lower bound at K = 1, does not decrease in K, and tends to log p(x).
    """
    return _log_mean_exp(log_weights(key, stats, guide, joint, num_samples=num_samples))


def dreg(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """`iwae` with phi's gradient Sum_k w_k^2 (d log w(z_k) / dz) (dz_k / dphi) -> [], nats.

    Doubly reparameterized (Tucker et al. 2018): the weights w_k, normalized to a sum of 1, become
    squares once phi's gradient inside log q is reparameterized in its turn. It has the mean of
    IWAE's gradient, and less variance where q is near the posterior. theta's gradient is IWAE's.
    """
    log_w, by_z, _ = log_weights_by_route(key, stats, guide, joint, num_samples=num_samples)
    w = stop_gradient(jax.nn.softmax(log_w))
    return _value(_log_mean_exp(log_w), gradient_of=jnp.sum(w * log_w + w**2 * by_z))


def miwae(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    num_samples: int = 1,
    num_groups: int = 2,
) -> Array:
    """The mean of num_groups IWAE bounds of num_samples / num_groups samples each -> [], nats.

    Rainforth et al. 2018. From IWAE (one group) to the evidence lower bound (groups of one);
    num_groups must divide num_samples.
    """
    log_w = log_weights(key, stats, guide, joint, num_samples=num_samples)
    return jnp.mean(_log_mean_exp(_grouped(log_w, num_groups)))


def piwae(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    num_samples: int = 1,
    num_groups: int = 2,
) -> Array:
    """`iwae` with phi's gradient that of `miwae` on the same samples -> [], nats.

    Rainforth et al. 2018: theta follows the tighter bound, and phi the one whose gradient has the
    better ratio of signal to noise. num_groups must divide num_samples.
    """
    log_w, by_z, in_log_q = log_weights_by_route(key, stats, guide, joint, num_samples=num_samples)
    w = stop_gradient(jax.nn.softmax(log_w))
    w_in_group = stop_gradient(jax.nn.softmax(_grouped(log_w, num_groups))).ravel() / num_groups
    surrogate = jnp.sum(w * log_w + w_in_group * (by_z + in_log_q))
    return _value(_log_mean_exp(log_w), gradient_of=surrogate)


def ciwae(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1, beta: float = 0.5
) -> Array:
    """beta `sgvb_a` + (1 - beta) `iwae` on the same samples -> [], nats; Rainforth et al. 2018.

    beta must be from 0 to 1.
    """
    _require(0 <= beta <= 1, f"beta is {beta}; it must be from 0 to 1")
    log_w = log_weights(key, stats, guide, joint, num_samples=num_samples)
    return beta * jnp.mean(log_w) + (1 - beta) * _log_mean_exp(log_w)


def renyi(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1, alpha: float = 0.5
) -> Array:
    """1/(1 - alpha) log 1/K Sum_k (p(x, z_k) / q(z_k|x))^(1 - alpha), z_k ~ q(z|x) -> [], nats.

    Li & Turner 2016. It falls as alpha rises; alpha = 0 is IWAE and alpha = 1, by continuity, the
    evidence lower bound. alpha must be at least 0: below, it bounds log p(x) from neither side.
    """
    _require(0 <= alpha < math.inf, f"alpha is {alpha}; it must be a finite number of at least 0")
    log_w = log_weights(key, stats, guide, joint, num_samples=num_samples)
    if alpha == 1:
        return jnp.mean(log_w)
    # As alpha nears 1 so does the mean of exp, whose log needs the digits that expm1 keeps.
    powers = (1 - alpha) * log_w
    highest = stop_gradient(jnp.max(powers))
    return (highest + jnp.log1p(jnp.mean(jnp.expm1(powers - highest)))) / (1 - alpha)


# Objectives with another weight on the KL


def beta_elbo(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1, beta: float = 4.0
) -> Array:
    """-beta KL(q(z|x) || p(z)) + 1/L Sum_l log p(x|z_l), z_l ~ q(z|x) -> [], nats.

    Higgins et al. 2017, for a guide with a closed KL; beta must be at least 0. Below beta = 1 IT IS
    NOT A BOUND on log p(x); above, it is one that is (beta - 1) KL looser than `sgvb_b`.
    """
    _require(0 <= beta < math.inf, f"beta is {beta}; it must be a finite number of at least 0")
    kl, log_lik = _kl_and_log_lik("beta_elbo", key, stats, guide, joint, num_samples)
    return log_lik - beta * kl


def free_bits(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    num_samples: int = 1,
    free_nats: float = 1.0,
) -> Array:
    """-max(free_nats, KL(q(z|x) || p(z))) + 1/L Sum_l log p(x|z_l), z_l ~ q(z|x) -> [], nats.

    Kingma et al. 2016, with all latents as one group and each datapoint by itself, for a guide with
    a closed KL; free_nats must be at least 0. A KL below free_nats costs nothing more, hence has no
    gradient. It stays a bound on log p(x), looser than `sgvb_b` by the free nats that are not used.
    """
    _require(
        0 <= free_nats < math.inf,
        f"free_nats is {free_nats}; it must be a finite number of at least 0",
    )
    kl, log_lik = _kl_and_log_lik("free_bits", key, stats, guide, joint, num_samples)
    return log_lik - jnp.maximum(kl, free_nats)


def minibatch_objective(bounds: Array, num_data: int) -> Array:
    """N/M Sum_m of the per-datapoint bounds [M] -> [], nats; eq. (8).

    An unbiased estimate of the bound on log p(X) of the whole data set of N points.
    """
    return num_data * jnp.mean(bounds)


# Their parts


def _require(met: bool, message: str) -> None:
    if not met:
        raise ValueError(message)


def _value(value: Array, *, gradient_of: Array) -> Array:
    """`value` with the gradient of another scalar, which adds 0 without a rounding error."""
    return stop_gradient(value) + (gradient_of - stop_gradient(gradient_of))


def _kl_and_log_lik(
    name: str, key: Key, stats: PyTree, guide: Guide, joint: Joint, num_samples: int
) -> tuple[Array, Array]:
    """KL(q || prior) [] in closed form, and 1/L Sum_l log p(x|z_l) []; nats."""
    if guide.kl is None:
        raise ValueError(f"{name} needs a guide with a closed-form kl; use sgvb_a for this guide")

    def log_lik(key: Key) -> Array:
        return joint.log_lik(guide.sample(key, stats))

    return guide.kl(stats), jnp.mean(over_samples(log_lik, key, num_samples))


def _log_mean_exp(log_w: Array) -> Array:
    """Over the last axis."""
    return jax.nn.logsumexp(log_w, axis=-1) - math.log(log_w.shape[-1])


def _grouped(log_w: Array, num_groups: int) -> Array:
    """[K] -> [num_groups, K / num_groups]."""
    fits = isinstance(num_groups, int) and num_groups >= 1 and len(log_w) % num_groups == 0
    _require(fits, f"num_groups is {num_groups}; it must divide num_samples, which is {len(log_w)}")
    return log_w.reshape(num_groups, -1)


BOUNDS: dict[str, Bound] = {
    "sgvb_a": sgvb_a,
    "sgvb_b": sgvb_b,
    "score_function": score_function,
    "score_function_loo": score_function_loo,
    "stl": stl,
    "iwae": iwae,
    "dreg": dreg,
    "miwae": miwae,
    "piwae": piwae,
    "ciwae": ciwae,
    "renyi": renyi,
    "beta_elbo": beta_elbo,
    "free_bits": free_bits,
}

NOT_BOUNDS_ON_LOG_P = ("beta_elbo",)
"""Entries that can exceed log p(x): their docstrings say when. Train with them, report others."""

NOT_MEANS = ("iwae", "dreg", "miwae", "piwae", "ciwae", "renyi")
"""Entries that are no mean over samples of z: what the samples share changes what they expect."""
