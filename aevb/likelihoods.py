"""p_theta(x|z) given the statistics that a decoder puts out: normalized, in nats.

A statistic is an array a name: of `heads` some numbers for each data dimension, [D] where that is
one; of `shared` one number [1] in all. Constants are never dropped, so that training, evaluation
and log p(x) are on one scale. Logits may be of any finite size, log_var and log_scale up to 80
either way and log_std up to 40, beyond which float32 has no room for their exponentials.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.distributions import DiagNormal
from aevb.types import Key

Heads = Mapping[str, Array]

NUM_LEVELS = 256  # of grey
SERIES_BELOW = 0.5  # a logit of this size, where series and exact formula agree in every digit


class Likelihood(NamedTuple):
    """One family of p(x|z), as pure functions of the decoder's statistics."""

    heads: Mapping[str, int]  # the statistics it needs, and the numbers of each a data dimension
    kinds: tuple[str, ...]  # the kinds of data that it scores: binary, grey, real
    log_prob: Callable[[Heads, Array], Array]  # (statistics, x [D]) -> [], nats
    mean: Callable[[Heads], Array]  # E[x|z] -> [D]
    sample: Callable[[Key, Heads], Array]  # x ~ p(x|z) -> [D]
    shared: tuple[str, ...] = ()  # statistics that are free parameters, not functions of z: [1]
    levels: float | None = None  # it gives probabilities to x = k / levels; None for other x


def bernoulli_log_prob(heads: Heads, x: Array) -> Array:
    """Sum_d x_d log y_d + (1 - x_d) log(1 - y_d), y = sigmoid(logits), x in {0, 1} -> [], nats.

    Appendix C.1, eq. (11), written in the logits: finite for every finite logit.
    """
    logits = heads["logits"]
    # log(1 + exp(logit)), which jax.nn.softplus takes a third longer for, to handle infinities.
    softplus = jnp.maximum(logits, 0.0) + jnp.log1p(jnp.exp(jnp.minimum(logits, -logits)))
    return jnp.sum(x * logits - softplus)


bernoulli = Likelihood(
    heads={"logits": 1},
    kinds=("binary",),
    log_prob=bernoulli_log_prob,
    mean=lambda heads: jax.nn.sigmoid(heads["logits"]),
    sample=lambda key, heads: jax.random.bernoulli(key, jax.nn.sigmoid(heads["logits"])).astype(
        heads["logits"].dtype
    ),
)


def continuous_bernoulli_log_prob(heads: Heads, x: Array) -> Array:
    """Sum_d log C(y_d) + x_d log y_d + (1 - x_d) log(1 - y_d), x in [0, 1] -> [], nats.

    Loaiza-Ganem & Cunningham (2019), with their constant C that makes it a density. In the logit
    t of y it is exp(t x) t / (exp(t) - 1): an exponential density of rate |t|, from the end of
    [0, 1] that the logit favors, cut off at the other end. Near t = 0 that is 0/0, and a series
    in t takes over, whose first neglected term is 4e-10.
    """
    logits = heads["logits"]
    near_0 = jnp.abs(logits) < SERIES_BELOW
    # Each formula gets a harmless number where it is not used: a NaN would spoil the gradient.
    rate = jnp.where(near_0, 1.0, jnp.abs(logits))
    distance = jnp.where(logits > 0.0, 1.0 - x, x)
    exact = jnp.log(rate) - jnp.log(-jnp.expm1(-rate)) - rate * distance
    small = jnp.where(near_0, logits, 0.0)
    sq = jnp.square(small)
    log_sinh_ratio = sq * (1 / 24 - sq * (1 / 2880 - sq / 181440))  # log(sinh(t/2) / (t/2))
    series = small * (x - 0.5) - log_sinh_ratio
    return jnp.sum(jnp.where(near_0, series, exact))


def continuous_bernoulli_mean(heads: Heads) -> Array:
    """E[x|z] -> [D]. The family is exponential: d log p(x) / d logit = x - E[x], here at x = 0."""
    gradient = jax.grad(continuous_bernoulli_log_prob)
    return -gradient({"logits": heads["logits"]}, jnp.zeros_like(heads["logits"]))["logits"]


def continuous_bernoulli_sample(key: Key, heads: Heads) -> Array:
    """x ~ p(x|z) -> [D], by the inverse of the distribution function."""
    logits = heads["logits"]
    u = jax.random.uniform(key, logits.shape, logits.dtype)
    rate = jnp.maximum(jnp.abs(logits), 1e-6)  # below which it is uniform to the last digit
    distance = jnp.minimum(-jnp.log1p(u * jnp.expm1(-rate)) / rate, 1.0)  # 1 up to rounding
    return jnp.where(logits > 0.0, 1.0 - distance, distance)


continuous_bernoulli = Likelihood(
    heads={"logits": 1},
    kinds=("grey",),
    log_prob=continuous_bernoulli_log_prob,
    mean=continuous_bernoulli_mean,
    sample=continuous_bernoulli_sample,
)


def _normal(heads: Heads) -> DiagNormal:
    """Appendix C.2, eq. (12): mean and variance of every dimension from the decoder."""
    return DiagNormal(heads["mean"], heads["log_var"])


def _normal_unit_mean(heads: Heads) -> DiagNormal:
    """As `_normal`, the mean constrained to (0, 1) by a sigmoid: the paper's Frey-face decoder."""
    return DiagNormal(jax.nn.sigmoid(heads["mean_logits"]), heads["log_var"])


def _normal_shared(heads: Heads) -> DiagNormal:
    """As `_normal`, with one variance for all dimensions and all z: Rybkin et al. (2021), σ-VAE.

    It is learned: where the bound is greatest, it is the mean squared residual of the data. To
    compute it from the very x that it scores, or from the minibatch, is no likelihood, and no
    entry here: from one x it makes p(x|z) = c |x - mean|^-D, whose integral is infinite.
    """
    # One parameter travels slowly, and as log sigma half as far as log sigma^2 would have to.
    log_var = jnp.broadcast_to(2.0 * heads["log_std"], heads["mean"].shape)
    return DiagNormal(heads["mean"], log_var)


def _normal_likelihood(
    heads: tuple[str, ...],
    kinds: tuple[str, ...],
    normal: Callable[[Heads], DiagNormal],
    shared: tuple[str, ...] = (),
) -> Likelihood:
    return Likelihood(
        heads=dict.fromkeys(heads, 1),
        kinds=kinds,
        log_prob=lambda statistics, x: normal(statistics).log_prob(x),
        mean=lambda statistics: normal(statistics).mean,
        sample=lambda key, statistics: normal(statistics).sample(key),
        shared=shared,
    )


gaussian = _normal_likelihood(("mean", "log_var"), ("grey", "real"), _normal)
gaussian_unit_mean = _normal_likelihood(("mean_logits", "log_var"), ("grey",), _normal_unit_mean)
gaussian_shared = _normal_likelihood(("mean",), ("grey", "real"), _normal_shared, ("log_std",))


def level_of(x: Array) -> Array:
    """The grey level 0..255 of each pixel, as a float: k where k/256 <= x < (k + 1)/256 -> [D].

    So it is found from k / 256, from k / 255, and from dequantized pixels (k + u) / 256 with u
    uniform on [0, 1).
    """
    return jnp.clip(jnp.floor(x * NUM_LEVELS), 0, NUM_LEVELS - 1)


def discretized_logistic_log_prob(heads: Heads, x: Array) -> Array:
    """Sum_d log(F((k_d + 1)/256) - F(k_d/256)), k = `level_of`(x), -> [], nats.

    The logistic distribution function F of each pixel is that of Kingma et al. (2016), with the
    open ends of Salimans et al. (2017): level 0 has all that lies below it, and 255 all above. It
    is a probability, and what dequantization bounds: with p the density of F and u uniform on
    [0, 1), E_u[log p((k + u)/256)] - log 256 is never more (Theis et al., 2016).
    """
    level, inverse_scale = level_of(x), jnp.exp(-heads["log_scale"])
    low = (level / NUM_LEVELS - heads["location"]) * inverse_scale
    high = ((level + 1) / NUM_LEVELS - heads["location"]) * inverse_scale
    # F(high) - F(low) = F(high) (1 - F(low)) (1 - exp(low - high)), of which nothing cancels.
    log_below = jnp.where(level < NUM_LEVELS - 1, -jax.nn.softplus(-high), 0.0)
    log_above = jnp.where(level > 0, -jax.nn.softplus(low), 0.0)
    log_width = jnp.log(-jnp.expm1(-inverse_scale / NUM_LEVELS))
    is_inner = (level > 0) & (level < NUM_LEVELS - 1)
    return jnp.sum(log_below + log_above + jnp.where(is_inner, log_width, 0.0))


def discretized_logistic_mean(heads: Heads) -> Array:
    """E[x|z] of x = k/256 -> [D]: the sum over k = 1..255 of P(level >= k) / 256."""
    edges = jnp.arange(1, NUM_LEVELS) / NUM_LEVELS
    distance = heads["location"][:, None] - edges[None, :]
    return jnp.sum(jax.nn.sigmoid(distance * jnp.exp(-heads["log_scale"])[:, None]), 1) / NUM_LEVELS


def discretized_logistic_sample(key: Key, heads: Heads) -> Array:
    """x = k/256 ~ p(x|z) -> [D]: the level of a logistic sample."""
    location = heads["location"]
    noise = jax.random.logistic(key, location.shape, location.dtype)
    return level_of(location + jnp.exp(heads["log_scale"]) * noise) / NUM_LEVELS


discretized_logistic = Likelihood(
    heads={"location": 1, "log_scale": 1},
    kinds=("grey",),
    log_prob=discretized_logistic_log_prob,
    mean=discretized_logistic_mean,
    sample=discretized_logistic_sample,
    levels=float(NUM_LEVELS),
)


def categorical_log_prob(heads: Heads, x: Array) -> Array:
    """Sum_d log softmax(logits_d)[k_d], logits [256 D], k = `level_of`(x) -> [], nats."""
    log_probs = jax.nn.log_softmax(_logits_by_level(heads))
    level = level_of(x).astype(jnp.int32)
    return jnp.sum(jnp.take_along_axis(log_probs, level[:, None], axis=1))


def _logits_by_level(heads: Heads) -> Array:
    """The 256 logits of each dimension -> [D, 256]."""
    return heads["logits"].reshape(-1, NUM_LEVELS)


categorical = Likelihood(
    heads={"logits": NUM_LEVELS},
    kinds=("grey",),
    log_prob=categorical_log_prob,
    mean=lambda heads: (
        jax.nn.softmax(_logits_by_level(heads)) @ (jnp.arange(NUM_LEVELS) / NUM_LEVELS)
    ),
    sample=lambda key, heads: jax.random.categorical(key, _logits_by_level(heads)) / NUM_LEVELS,
    levels=float(NUM_LEVELS),
)

LIKELIHOODS = {
    "bernoulli": bernoulli,
    "continuous_bernoulli": continuous_bernoulli,
    "gaussian": gaussian,
    "gaussian_unit_mean": gaussian_unit_mean,
    "gaussian_shared": gaussian_shared,
    "discretized_logistic": discretized_logistic,
    "categorical": categorical,
}
