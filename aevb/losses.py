"""Bounds on log p(x) and their estimators. They need only jax, and work with any JAX model.

Each estimator takes ONE datapoint and returns a scalar in nats to be maximized; `jax.vmap` extends
it to a minibatch. The guide's statistics are an explicit argument, so that an estimator can choose
where the gradient with respect to phi flows. The returned value is always the value of the bound,
even where the gradient is not its derivative. An estimator raises a ValueError if num_samples is
below 1 or if another argument is not as its docstring requires.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from aevb.types import Key, LogDensity, PyTree

REAL = "real numbers"  # the support of most guides and priors


@runtime_checkable
class Density(Protocol):
    """A normalized density of z: a distribution, or one of `aevb.priors` or `aevb.factors`."""

    def log_prob(self, z: Any, /) -> Array: ...


class Guide(NamedTuple):
    """The approximate posterior q_phi(z|x), as pure functions of its statistics (any pytree).

    z is an array [Z], or any pytree of arrays.
    """

    sample: Callable[[Key, PyTree], Any]  # (key, statistics) -> z, reparameterized
    log_prob: Callable[[PyTree, Any], Array]  # (statistics, z) -> [], nats
    # (statistics, prior of a `Joint`) -> KL(q || prior) [], nats; None if not closed-form
    kl: Callable[[PyTree, object], Array | None] | None = None
    # z and log q(z|x) at once, where this is cheaper; gives the same z as `sample` for the same key
    sample_and_log_prob: Callable[[Key, PyTree], tuple[Any, Array]] | None = None
    # (statistics, prior) -> the terms of `kl`, one for each latent [Z], if it is such a sum
    kl_per_unit: Callable[[PyTree, object], Array | None] | None = None
    # (key, statistics, prior) -> the z of `sample`, and terms [] by name of an unbiased estimate of
    # KL(q || prior): for guides of several factors, of which some have a closed form at z
    sample_and_kls: Callable[[Key, PyTree, Any], tuple[Any, Mapping[str, Array]]] | None = None
    support: str = REAL  # the values of z, in words; HMC and L-BFGS need `REAL`
    is_reparameterized: bool = True  # whether samples carry phi's gradient
    baseline: Callable[[PyTree], Array] | None = None  # statistics -> [], nats, for `nvil`


class Joint(NamedTuple):
    """The joint density p_theta(x, z) at one x, with theta and x closed over.

    The guide finds the closed form of KL(q || p(z)) by the type of the prior, so there is none for
    a prior that is only a function.
    """

    prior: Any  # p(z), a `Density`, or the function z -> log p(z) [], nats
    log_lik: LogDensity  # z -> log p(x|z) [], nats

    def log_prior(self, z: Any) -> Array:
        """Returns log p(z) [] of z, in nats."""
        return log_prior(self.prior, z)


def log_prior(prior: Any, z: Any) -> Array:
    """Returns log p(z) [] of z, in nats, of a `Density` or of the function log p(z)."""
    return prior.log_prob(z) if isinstance(prior, Density) else prior(z)


class Bound(Protocol):
    """The call signature of every entry of `BOUNDS`."""

    def __call__(
        self, key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
    ) -> Array: ...


def closed_kl(stats: PyTree, guide: Guide, joint: Joint) -> Array | None:
    """Returns KL(q(z|x) || p(z)) [] in nats, or None if this pair has no closed form."""
    return None if guide.kl is None else guide.kl(stats, joint.prior)


# Log-densities at samples of z


def log_weights(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int) -> Array:
    """Computes log p(x, z_k) - log q(z_k|x) at z_k ~ q(z|x), k = 1..K.

    Returns [K] in nats: the integrand of eq. (2), and the log importance weights of log p(x).

    Raises:
        ValueError: num_samples is below 1.
    """

    def log_weight(key: Key) -> Array:
        z, log_q = sample_and_log_prob(key, stats, guide)
        return joint.log_prior(z) + joint.log_lik(z) - log_q

    return over_samples(log_weight, key, num_samples)


def sample_and_log_prob(key: Key, stats: PyTree, guide: Guide) -> tuple[Any, Array]:
    """Draws z ~ q(z|x), and computes its log-density by the more accurate of the guide's functions.

    Returns z and log q(z|x) [] in nats.
    """
    if guide.sample_and_log_prob is not None:
        return guide.sample_and_log_prob(key, stats)
    z = guide.sample(key, stats)
    return z, guide.log_prob(stats, z)


def log_densities(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int, at_least: int = 1
) -> tuple[Array, Array]:
    """Computes log p(x, z_l) and log q(z_l|x) at z_l ~ q(z|x), without a gradient through z_l.

    Returns both as [L] in nats.

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
    """Splits `log_weights` into three terms [K], in nats, by the path that the gradient takes.

    The gradients of the three terms add up to that of `log_weights`. The first term has the value
    of `log_weights` and only theta's gradient. The second has phi's gradient through z, and the
    third has phi's gradient through the parameters of log q; their values have no meaning. theta is
    closed over, so its gradient in log p(x, z) cannot be stopped. The second term is therefore
    linear in z, with the slope of the log importance weight at z.

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
        along = jax.tree.map(lambda slope, z: jnp.sum(stop_gradient(slope) * z), slope, z)
        return log_w, jax.tree.reduce(jnp.add, along), -guide.log_prob(stats, fixed)

    return over_samples(by_route, key, num_samples)


def over_samples(
    function: Callable[[Key], PyTree], key: Key, num_samples: int, *, at_least: int = 1
) -> PyTree:
    """Calls `function` with a separate key for each sample and stacks the results: leaves [L, ...].

    The number of samples is checked because a mean over no samples would be a silent NaN.

    Raises:
        ValueError: num_samples is below at_least.
    """
    if num_samples < at_least:
        raise ValueError(f"num_samples is {num_samples}; it must be at least {at_least}")
    keys = jax.random.split(key, num_samples)
    if num_samples == 1:  # under vmap, an axis of size 1 makes XLA transpose copies
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), function(keys[0]))
    return jax.vmap(function)(keys)


# Estimators of the evidence lower bound


def sgvb_a(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """Estimates the ELBO by 1/L Sum_l [log p(x, z_l) - log q(z_l|x)], z_l ~ q(z|x); eq. (6).

    Returns [] in nats. It is unbiased for the evidence lower bound (ELBO) of eq. (2), for any guide
    that can be sampled.
    """
    return jnp.mean(log_weights(key, stats, guide, joint, num_samples=num_samples))


def sgvb_b(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """Estimates the ELBO by -KL(q(z|x) || p(z)) + 1/L Sum_l log p(x|z_l), z_l ~ q(z|x); eq. (7).

    Returns [] in nats. It is unbiased for the ELBO of eq. (3), and needs a guide with a closed-form
    KL to the prior, or with `sample_and_kls`, whose mean is the KL. Its variance is typically less
    than that of `sgvb_a`, but not always: at the exact posterior `sgvb_a` has zero variance.
    """
    kl, log_lik = _kl_and_log_lik("sgvb_b", key, stats, guide, joint, num_samples)
    return log_lik - kl


def evidence_lower_bound(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
) -> Array:
    """Estimates the ELBO by `sgvb_b`, or by `sgvb_a` if the KL has no closed form.

    Returns [] in nats. It is the estimator for evaluation, whatever the bound used for training.
    """
    has_kl = guide.sample_and_kls is not None or closed_kl(stats, guide, joint) is not None
    bound = sgvb_b if has_kl else sgvb_a
    return bound(key, stats, guide, joint, num_samples=num_samples)


def rate_and_distortion(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
) -> tuple[Array, Array]:
    """Estimates the rate KL(q(z|x) || p(z)) and the distortion -E_q[log p(x|z)]; Alemi et al. 2018.

    Returns both as [] in nats. Minus their sum is `evidence_lower_bound` with the same key, up to
    rounding. The rate is exact if it has a closed form. Otherwise it is the mean over the samples
    of log q(z|x) - log p(z), in which the terms of `sample_and_kls` have their closed forms.
    """
    kl = closed_kl(stats, guide, joint)

    def at_sample(key: Key) -> tuple[Array, Array]:
        if kl is not None:
            return kl, -joint.log_lik(guide.sample(key, stats))
        if guide.sample_and_kls is not None:
            z, kls = guide.sample_and_kls(key, stats, joint.prior)
            return jnp.sum(jnp.stack([*kls.values()])), -joint.log_lik(z)
        z, log_q = sample_and_log_prob(key, stats, guide)
        return log_q - joint.log_prior(z), -joint.log_lik(z)

    rates, distortions = over_samples(at_sample, key, num_samples)
    return jnp.mean(rates), jnp.mean(distortions)


def score_function(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
) -> Array:
    """Estimates the ELBO as `sgvb_a`, with phi's gradient 1/L Sum_l f(z_l) grad log q(z_l|x).

    Returns [] in nats, with f = log p(x, z) - log q(z|x). This is the naive estimator (REINFORCE)
    of section 2.2. The samples are not reparameterized, so it applies to every guide that can be
    sampled and scored, but its variance is high.
    """
    log_joint, log_q = log_densities(key, stats, guide, joint, num_samples=num_samples)
    f = log_joint - log_q
    return _value(jnp.mean(f), gradient_of=jnp.mean(log_joint + stop_gradient(f) * log_q))


def score_function_loo(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1
) -> Array:
    """Estimates the ELBO as `score_function`, with f(z_l) minus the mean f of the other samples.

    Returns [] in nats. This is the leave-one-out baseline (Salimans & Knowles 2014; Kool et al.
    2019). It does not depend on z_l, so it adds no bias. It needs num_samples of at least 2.
    """
    log_joint, log_q = log_densities(key, stats, guide, joint, num_samples=num_samples, at_least=2)
    f = log_joint - log_q
    others = (jnp.sum(f) - f) / (num_samples - 1)
    reward = stop_gradient(f - others)
    return _value(jnp.mean(f), gradient_of=jnp.mean(log_joint + reward * log_q))


def nvil(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """Estimates the ELBO as `score_function`, with f(z_l) minus a learned baseline b(x).

    Returns [] in nats; Mnih & Gregor 2014, without their running mean and variance of f. b is the
    guide's `baseline`, or 0 if it has none. It ascends -(f(z_l) - b)^2 / 2, which has a gradient in
    b alone; parameters that b shares with the statistics would get it too.
    """
    log_joint, log_q = log_densities(key, stats, guide, joint, num_samples=num_samples)
    f = stop_gradient(log_joint - log_q)
    error = f if guide.baseline is None else f - guide.baseline(stats)
    surrogate = log_joint + stop_gradient(error) * log_q - 0.5 * jnp.square(error)
    return _value(jnp.mean(f), gradient_of=jnp.mean(surrogate))


def stl(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """Estimates the ELBO as `sgvb_a`, without phi's gradient through the parameters of log q.

    Returns [] in nats. The omitted term has mean 0. Sticking the landing (Roeder et al. 2017): at
    the exact posterior phi's gradient is 0 at every z, not only on average.
    """
    landed = guide._replace(
        log_prob=lambda stats, z: guide.log_prob(stop_gradient(stats), z),
        sample_and_log_prob=None,  # it would not stop the gradient
    )
    return jnp.mean(log_weights(key, stats, landed, joint, num_samples=num_samples))


# Tighter bounds from several samples


def iwae(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """Estimates the IWAE bound by log 1/K Sum_k p(x, z_k) / q(z_k|x), z_k ~ q(z|x).

    Returns [] in nats; Burda et al. 2015. Its mean is the ELBO at K = 1 and does not decrease in K.
    It tends to log p(x) if q(z|x) > 0 wherever p(x, z) > 0, so that the weights have the mean p(x),
    and if the ELBO is finite. The theorem of the paper assumes more: a bounded p(x, z) / q(z|x).
    """
    return _log_mean_exp(log_weights(key, stats, guide, joint, num_samples=num_samples))


def vimco(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """Estimates `iwae` with phi's gradient by the score function, with a baseline for each sample.

    Returns [] in nats; Mnih & Rezende 2016. The baseline of z_k is the bound with w_k replaced by
    the geometric mean of the other weights, or 0 nats if all of these are 0. It does not depend on
    z_k, so it adds no bias. The gradient of log w_k at fixed samples, theta's among it, is that of
    `iwae`. It needs num_samples of at least 2, and K^2 numbers.
    """
    log_joint, log_q = log_densities(key, stats, guide, joint, num_samples=num_samples, at_least=2)
    log_w, is_own = log_joint - log_q, jnp.eye(num_samples, dtype=bool)
    others = jnp.sum(jnp.where(is_own, 0.0, log_w[None]), axis=1) / (num_samples - 1)
    bound, baselines = _log_mean_exp(log_w), jnp.where(is_own, others[:, None], log_w[None])
    baseline = _log_mean_exp(baselines)
    signal = stop_gradient(bound - jnp.where(jnp.isneginf(baseline), 0.0, baseline))
    return _value(bound, gradient_of=bound + jnp.sum(signal * log_q))


def dreg(key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1) -> Array:
    """Estimates `iwae` with phi's gradient Sum_k w_k^2 (d log w(z_k) / dz) (dz_k / dphi).

    Returns [] in nats. Doubly reparameterized gradient (Tucker et al. 2018): the weights w_k,
    normalized to sum to 1, are squared because phi's gradient inside log q is reparameterized too.
    It has the same mean as IWAE's gradient, and less variance where q is close to the posterior.
    theta's gradient is that of IWAE.
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
    """Estimates the mean of num_groups IWAE bounds of num_samples / num_groups samples each.

    Returns [] in nats; Rainforth et al. 2018. One group gives IWAE, and groups of one sample give
    the ELBO. num_groups must divide num_samples.
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
    """Estimates `iwae` with phi's gradient taken from `miwae` on the same samples.

    Returns [] in nats. Rainforth et al. 2018: theta follows the tighter bound, and phi follows the
    bound whose gradient has the higher signal-to-noise ratio. num_groups must divide num_samples.
    """
    log_w, by_z, in_log_q = log_weights_by_route(key, stats, guide, joint, num_samples=num_samples)
    w = stop_gradient(jax.nn.softmax(log_w))
    w_in_group = stop_gradient(jax.nn.softmax(_grouped(log_w, num_groups))).ravel() / num_groups
    surrogate = jnp.sum(w * log_w + w_in_group * (by_z + in_log_q))
    return _value(_log_mean_exp(log_w), gradient_of=surrogate)


def ciwae(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1, beta: float = 0.5
) -> Array:
    """Estimates beta `sgvb_a` + (1 - beta) `iwae` on the same samples.

    Returns [] in nats; Rainforth et al. 2018. beta must be from 0 to 1.
    """
    _require(0 <= beta <= 1, f"beta is {beta}; it must be from 0 to 1")
    log_w = log_weights(key, stats, guide, joint, num_samples=num_samples)
    return beta * jnp.mean(log_w) + (1 - beta) * _log_mean_exp(log_w)


def renyi(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1, alpha: float = 0.5
) -> Array:
    """Estimates the Rényi bound by 1/(1 - alpha) log 1/K Sum_k (p(x, z_k) / q(z_k|x))^(1 - alpha).

    Returns [] in nats, for z_k ~ q(z|x); Li & Turner 2016. The bound decreases in alpha: alpha = 0
    is IWAE and alpha = 1, by continuity, is the ELBO. alpha must be at least 0, because with a
    negative alpha the estimate bounds log p(x) from neither side.
    """
    _require(0 <= alpha < math.inf, f"alpha is {alpha}; it must be a finite number of at least 0")
    log_w = log_weights(key, stats, guide, joint, num_samples=num_samples)
    if alpha == 1:
        return jnp.mean(log_w)
    largest = stop_gradient(jnp.max(log_w) if alpha < 1 else jnp.min(log_w))
    shift = jnp.where(jnp.isfinite(largest), largest, 0.0)
    powers = (1 - alpha) * (log_w - shift)  # at most 0, or infinite where a weight is 0
    # As alpha nears 1, the mean of exp(powers) nears 1 too, and expm1 keeps the digits of its log.
    # Where the mean is small, expm1 would lose them.
    change = jnp.mean(jnp.expm1(powers))
    is_near_1 = change > -0.5
    log_mean = jnp.where(
        is_near_1,
        jnp.log1p(jnp.where(is_near_1, change, 0.0)),
        jnp.log(jnp.mean(jnp.exp(powers))),
    )
    return shift + log_mean / (1 - alpha)


# Objectives with another weight on the KL


def beta_elbo(
    key: Key, stats: PyTree, guide: Guide, joint: Joint, *, num_samples: int = 1, beta: float = 4.0
) -> Array:
    """Estimates -beta KL(q(z|x) || p(z)) + 1/L Sum_l log p(x|z_l), z_l ~ q(z|x).

    Returns [] in nats. Higgins et al. 2017, for a guide with a closed-form KL to the prior; beta
    must be at least 0. Below beta = 1 IT IS NOT A BOUND on log p(x). Above 1 it is a bound, looser
    than `sgvb_b` by (beta - 1) KL.
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
    """Estimates -max(free_nats, KL(q(z|x) || p(z))) + 1/L Sum_l log p(x|z_l), z_l ~ q(z|x).

    Returns [] in nats. Kingma et al. 2016, applied to all latents as one group and to each
    datapoint separately, for a guide with a closed-form KL to the prior; free_nats must be at least
    0. Reducing a KL below free_nats changes nothing, so its gradient there is 0. The value is still
    a bound on log p(x), looser than `sgvb_b` by the unused free nats.
    """
    _require_free_nats(free_nats)
    of_closed = guide._replace(sample_and_kls=None)  # the maximum of an estimate would be biased
    kl, log_lik = _kl_and_log_lik("free_bits", key, stats, of_closed, joint, num_samples)
    return log_lik - jnp.maximum(kl, free_nats)


def free_bits_per_unit(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    num_samples: int = 1,
    free_nats: float = 0.1,
) -> Array:
    """Estimates -Sum_j max(free_nats, KL_j) + 1/L Sum_l log p(x|z_l), z_l ~ q(z|x).

    Returns [] in nats, with KL_j the term of latent j in KL(q(z|x) || p(z)): `free_bits` with each
    latent as a group, so that none gains by carrying no information. It needs a guide whose
    `kl_per_unit` knows the prior; free_nats must be at least 0. Here the maximum is that of one
    datapoint, and the value is a bound on log p(x). Kingma et al. (2016) first average the KL of a
    group over the minibatch, which leaves more freedom to each datapoint.
    """
    _require_free_nats(free_nats)
    kls = None if guide.kl_per_unit is None else guide.kl_per_unit(stats, joint.prior)
    if kls is None:
        raise ValueError(
            "free_bits_per_unit needs the KL of each latent to the prior, and there is none for "
            f"this guide and a prior of type {type(joint.prior).__name__}; use free_bits or "
            "sgvb_a, or diag_normal and StandardNormal(Z)"
        )
    log_lik = _mean_log_lik(key, stats, guide, joint, num_samples)
    return log_lik - jnp.sum(jnp.maximum(kls, free_nats))


def with_kl_weight(guide: Guide, joint: Joint, weight: float | Array) -> tuple[Guide, Joint]:
    """Returns a guide and a joint whose bounds weigh log p(z) - log q(z|x) by a factor.

    A weight that rises from 0 to 1 during training is the warm-up of Bowman et al. (2016) and
    Sønderby et al. (2016). With these two, `sgvb_a` and `sgvb_b` estimate E[log p(x|z)] -
    weight KL(q(z|x) || p(z)), and `iwae` weighs the samples by p(x|z) (p(z) / q(z|x))^weight. Below
    weight 1 THE VALUE IS NOT A BOUND on log p(x). The bounds in `TAKE_KL_WEIGHT` have the gradient
    of their value; the others need the density that z is drawn from.

    Args:
        weight: at least 0, a number or an array [].
    """

    def log_prob(stats: PyTree, z: Array) -> Array:
        return weight * guide.log_prob(stats, z)

    def sample_and_log_prob(key: Key, stats: PyTree) -> tuple[Array, Array]:
        assert guide.sample_and_log_prob is not None
        z, log_q = guide.sample_and_log_prob(key, stats)
        return z, weight * log_q

    def kl(stats: PyTree, prior: object) -> Array | None:
        del prior  # it is the weighted one
        found = closed_kl(stats, guide, joint)
        return None if found is None else weight * found

    def kl_per_unit(stats: PyTree, prior: object) -> Array | None:
        del prior
        found = None if guide.kl_per_unit is None else guide.kl_per_unit(stats, joint.prior)
        return None if found is None else weight * found

    def sample_and_kls(key: Key, stats: PyTree, prior: object) -> tuple[Any, Mapping[str, Array]]:
        del prior
        assert guide.sample_and_kls is not None
        z, kls = guide.sample_and_kls(key, stats, joint.prior)
        return z, {name: weight * kl for name, kl in kls.items()}

    both = sample_and_log_prob if guide.sample_and_log_prob is not None else None
    kls = sample_and_kls if guide.sample_and_kls is not None else None
    weighted = guide._replace(
        log_prob=log_prob, kl=kl, sample_and_log_prob=both, kl_per_unit=kl_per_unit,
        sample_and_kls=kls,
    )  # fmt: skip
    return weighted, Joint(lambda z: weight * joint.log_prior(z), joint.log_lik)


def minibatch_objective(bounds: Array, num_data: int) -> Array:
    """Computes N/M Sum_m bound_m from the per-datapoint bounds [M]; eq. (8).

    Returns [] in nats: an unbiased estimate of the bound on log p(X) of the whole dataset of N
    points.
    """
    return num_data * jnp.mean(bounds)


# Helper functions


def _require(met: bool, message: str) -> None:
    if not met:
        raise ValueError(message)


def _require_free_nats(free_nats: float) -> None:
    is_allowed = 0 <= free_nats < math.inf
    _require(is_allowed, f"free_nats is {free_nats}; it must be a finite number of at least 0")


def _value(value: Array, *, gradient_of: Array) -> Array:
    """Returns `value` with the gradient of `gradient_of`; adds no rounding error."""
    return stop_gradient(value) + (gradient_of - stop_gradient(gradient_of))


def _kl_and_log_lik(
    name: str, key: Key, stats: PyTree, guide: Guide, joint: Joint, num_samples: int
) -> tuple[Array, Array]:
    """Returns KL(q || prior) [] in closed form, and 1/L Sum_l log p(x|z_l) []; both in nats.

    The KL is an unbiased estimate if the guide has `sample_and_kls`.

    Raises:
        ValueError: the guide has no closed-form KL to the prior, or num_samples is below 1.
    """
    kl = closed_kl(stats, guide, joint)
    if kl is None and guide.sample_and_kls is not None:
        kl, distortion = rate_and_distortion(key, stats, guide, joint, num_samples=num_samples)
        return kl, -distortion
    if kl is None:
        raise ValueError(
            f"{name} needs a closed-form KL of the guide to the prior, and there is none for this "
            f"guide and a prior of type {type(joint.prior).__name__}; use sgvb_a, or a prior that "
            "guide.kl knows, such as StandardNormal(Z) and not its log_prob"
        )
    return kl, _mean_log_lik(key, stats, guide, joint, num_samples)


def _mean_log_lik(key: Key, stats: PyTree, guide: Guide, joint: Joint, num_samples: int) -> Array:
    """Returns 1/L Sum_l log p(x|z_l) [] at z_l ~ q(z|x), in nats.

    Raises:
        ValueError: num_samples is below 1.
    """

    def log_lik(key: Key) -> Array:
        return joint.log_lik(guide.sample(key, stats))

    return jnp.mean(over_samples(log_lik, key, num_samples))


def _log_mean_exp(log_w: Array) -> Array:
    """Returns the log of the mean of exp(log_w) over the last axis."""
    return jax.nn.logsumexp(log_w, axis=-1) - math.log(log_w.shape[-1])


def _grouped(log_w: Array, num_groups: int) -> Array:
    """Reshapes log_w [K] to [num_groups, K / num_groups].

    Raises:
        ValueError: num_groups does not divide K.
    """
    fits = isinstance(num_groups, int) and num_groups >= 1 and len(log_w) % num_groups == 0
    _require(fits, f"num_groups is {num_groups}; it must divide num_samples, which is {len(log_w)}")
    return log_w.reshape(num_groups, -1)


BOUNDS: dict[str, Bound] = {
    "sgvb_a": sgvb_a,
    "sgvb_b": sgvb_b,
    "score_function": score_function,
    "score_function_loo": score_function_loo,
    "nvil": nvil,
    "stl": stl,
    "iwae": iwae,
    "vimco": vimco,
    "dreg": dreg,
    "miwae": miwae,
    "piwae": piwae,
    "ciwae": ciwae,
    "renyi": renyi,
    "beta_elbo": beta_elbo,
    "free_bits": free_bits,
    "free_bits_per_unit": free_bits_per_unit,
}
"""The estimators of the bound by name, for `algorithm.bound` in a config."""

NOT_BOUNDS_ON_LOG_P = ("beta_elbo",)
"""Entries that can exceed log p(x); their docstrings say when.

Use them for training, but report another bound.
"""

TAKE_KL_WEIGHT = (
    "sgvb_a", "sgvb_b", "stl", "iwae", "miwae", "ciwae", "beta_elbo", "free_bits",
    "free_bits_per_unit",
)  # fmt: skip
"""Entries whose gradient is right with the densities of `with_kl_weight`."""

SCORE_FUNCTIONS = ("score_function", "score_function_loo", "nvil", "vimco")
"""Entries whose gradient in phi is right also where samples of z carry none."""

COUNT_UNUSED_UNITS = ("free_bits_per_unit",)
"""Entries whose value changes with the number of latents that are as in the prior."""

NOT_MEANS = ("iwae", "vimco", "dreg", "miwae", "piwae", "ciwae", "renyi")
"""Entries that are not a mean over samples of z.

Their expectation changes if the samples share a random quantity, such as theta.
"""
