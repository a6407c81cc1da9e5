"""Likelihoods p_theta(x|z) as functions of the decoder's outputs: normalized, in nats.

The decoder's outputs are called statistics; each is a named array. A statistic in `heads` has a
fixed number of values per data dimension, and shape [D] if that number is 1. A statistic in
`shared` is a free parameter, the same for every z: a noise variance, say. Constants are never
dropped, so that training, evaluation and log p(x) are on one scale. Logits may have any finite
size. log_var, log_scale and log_excess_df may range from -80 to 80, log_std from -40 to 40, and
log_rate, log_mean and log_total_count from -70 to 80; beyond that, their exponentials leave the
range of float32.

A density of grey levels is not a probability of them, and has no bits per dimension unless the data
are dequantized. The likelihoods with `levels`, and those of counts, are probabilities.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from aevb.distributions import (
    LOG_2PI,
    DiagNormal,
    negative_binomial_log_prob,
    poisson_log_prob,
    student_t_log_prob,
    zero_inflated_log_prob,
)
from aevb.types import Key

Heads = Mapping[str, Array]

NUM_LEVELS = 256  # grey levels of a pixel
HALF_LEVEL = 0.5 / NUM_LEVELS  # from x = k/256 to the middle of its cell
NEAREST_TO_0 = 1e-3  # a mean of pixels nearer to 0 or 1 is replaced by this, as its logit is large
HALVINGS = 50  # of a bisection
SERIES_BELOW = 0.5  # |logit| below which a series is used; here both formulas agree in every digit
FAR = 8.0  # standard deviations beyond which a normal tail's mass is computed by Mills' ratio
NARROW = 0.5  # a cell is narrow if its width times max(1, distance from the mean) is below this
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)
LARGEST_RATE = 2.0**30  # of a Poisson draw, which is an int32
QUADRATURE = tuple(zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True))  # over [-1, 1]


class Likelihood(NamedTuple):
    """A family of likelihoods p(x|z), as pure functions of the decoder's statistics."""

    heads: Mapping[str, int]  # name of each statistic -> values per data dimension
    kinds: tuple[str, ...]  # kinds of data that it scores: binary, grey, unit, real, counts
    log_probs: Callable[[Heads, Array], Array]
    # (statistics, x [D]) -> log p(x_d|z) [D], nats; or their sum [], if dimensions are not
    # independent given z
    mean: Callable[[Heads], Array]  # statistics -> E[x|z] [D]
    sample: Callable[[Key, Heads], Array]  # (key, statistics) -> x ~ p(x|z) [D]
    shared: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    # name -> shape of each statistic that is a free parameter, not a function of z
    levels: float | None = None  # if set, exp(log_prob) is a probability of x = k / levels
    log_var: Callable[[Heads], Array] | None = None
    # statistics -> log variances of x [D], or [1] if they are equal; before x is discretized
    # mean of data [D], of any D -> some of the heads, elementwise, so that E[x|z] is this mean
    heads_at_mean: Callable[[Array], Heads] | None = None

    def log_prob(self, heads: Heads, x: Array) -> Array:
        """Returns log p(x|z) [] of x [D], in nats."""
        return jnp.sum(self.log_probs(heads, x))


def bernoulli_log_probs(heads: Heads, x: Array) -> Array:
    """Computes x_d log y_d + (1 - x_d) log(1 - y_d), with y = sigmoid(logits).

    Returns [D] in nats, for x [D] in {0, 1}: the terms of appendix C.1, eq. (11), computed from the
    logits. They are finite for every finite logit.
    """
    logits = heads["logits"]
    # log(1 + exp(logit)); jax.nn.softplus takes a third longer, because it handles infinities.
    softplus = jnp.maximum(logits, 0.0) + jnp.log1p(jnp.exp(jnp.minimum(logits, -logits)))
    return x * logits - softplus


bernoulli = Likelihood(
    heads={"logits": 1},
    kinds=("binary",),
    log_probs=bernoulli_log_probs,
    mean=lambda heads: jax.nn.sigmoid(heads["logits"]),
    sample=lambda key, heads: jax.random.bernoulli(key, jax.nn.sigmoid(heads["logits"])).astype(
        heads["logits"].dtype
    ),
    heads_at_mean=lambda mean: {"logits": jax.scipy.special.logit(_inside(mean))},
)


def _inside(mean: Array) -> Array:
    """Returns means of pixels, away from 0 and 1."""
    return jnp.clip(mean, NEAREST_TO_0, 1.0 - NEAREST_TO_0)


def continuous_bernoulli_log_probs(heads: Heads, x: Array) -> Array:
    """Computes log C(y_d) + x_d log y_d + (1 - x_d) log(1 - y_d), with y = sigmoid(logits).

    Returns [D] in nats, for x [D] in [0, 1]. Loaiza-Ganem & Cunningham (2019); their constant C
    normalizes the density. In the logit t of y, the density is exp(t x) t / (exp(t) - 1). This is
    an exponential density of rate |t|, which starts at the end of [0, 1] that the logit favors and
    is truncated at the other end. Near t = 0 the formula is 0/0. There it is replaced by a series
    in t; the first neglected term is at most 4e-10. Levels k / 255 are points of [0, 1], but their
    cells do not tile it; only levels k / 256 can be dequantized.
    """
    logits = heads["logits"]
    near_0 = jnp.abs(logits) < SERIES_BELOW
    # Each formula gets a safe input where it is not used, because a NaN would reach the gradient.
    rate = jnp.where(near_0, 1.0, jnp.abs(logits))
    distance = jnp.where(logits > 0.0, 1.0 - x, x)
    exact = jnp.log(rate) - jnp.log(-jnp.expm1(-rate)) - rate * distance
    small = jnp.where(near_0, logits, 0.0)
    sq = jnp.square(small)
    log_sinh_ratio = sq * (1 / 24 - sq * (1 / 2880 - sq / 181440))  # log(sinh(t/2) / (t/2))
    series = small * (x - 0.5) - log_sinh_ratio
    return jnp.where(near_0, series, exact)


def continuous_bernoulli_mean(heads: Heads) -> Array:
    """Returns the mean E[x|z] [D].

    For an exponential family, d log p(x) / d logit = x - E[x]. It is evaluated here at x = 0.
    """
    gradient = jax.grad(continuous_bernoulli.log_prob)
    return -gradient({"logits": heads["logits"]}, jnp.zeros_like(heads["logits"]))["logits"]


def continuous_bernoulli_sample(key: Key, heads: Heads) -> Array:
    """Draws x ~ p(x|z) [D] by inverting the cumulative distribution function."""
    logits = heads["logits"]
    u = jax.random.uniform(key, logits.shape, logits.dtype)
    rate = jnp.maximum(jnp.abs(logits), 1e-6)  # below 1e-6, x is uniform to the last digit
    distance = jnp.minimum(-jnp.log1p(u * jnp.expm1(-rate)) / rate, 1.0)  # rounding could exceed 1
    return jnp.where(logits > 0.0, 1.0 - distance, distance)


def _continuous_bernoulli_at_mean(mean: Array) -> Heads:
    """Returns the logits with this mean [D], by bisection, since the mean rises with the logit.

    A mean near 0 needs a logit near -1 / mean.
    """
    mean = _inside(mean)
    limit = jnp.full_like(mean, 2.0 / NEAREST_TO_0)

    def halved(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        is_above = continuous_bernoulli_mean({"logits": middle}) > mean
        return jnp.where(is_above, low, middle), jnp.where(is_above, middle, high)

    low, high = jax.lax.fori_loop(0, HALVINGS, halved, (-limit, limit))
    return {"logits": 0.5 * (low + high)}


continuous_bernoulli = Likelihood(
    heads={"logits": 1},
    kinds=("grey", "unit"),
    log_probs=continuous_bernoulli_log_probs,
    mean=continuous_bernoulli_mean,
    sample=continuous_bernoulli_sample,
    heads_at_mean=_continuous_bernoulli_at_mean,
)


def _normal(heads: Heads) -> DiagNormal:
    """Returns the Gaussian with the decoder's mean and variance; appendix C.2, eq. (12)."""
    return DiagNormal(heads["mean"], heads["log_var"])


def _normal_unit_mean(heads: Heads) -> DiagNormal:
    """Returns `_normal` with a sigmoid mean in (0, 1): the paper's Frey-face decoder."""
    return DiagNormal(jax.nn.sigmoid(heads["mean_logits"]), heads["log_var"])


def _normal_shared(heads: Heads) -> DiagNormal:
    """Returns `_normal` with a variance that is the same for all z.

    All dimensions share one variance, as in the σ-VAE of Rybkin et al. (2021), or each has its own,
    as in factor analysis. The variance is a learned parameter; where the bound is greatest, it
    equals the mean squared residual of the data. A variance computed from the x being scored, or
    from the minibatch, would not give a likelihood: computed from one x it gives p(x|z) =
    c |x - mean|^-D, and the integral of this is infinite.
    """
    # The parameter is log sigma because a single parameter moves slowly, and log sigma^2 would have
    # twice as far to move.
    log_var = jnp.broadcast_to(2.0 * heads["log_std"], heads["mean"].shape)
    return DiagNormal(heads["mean"], log_var)


def _normal_likelihood(
    heads: tuple[str, ...],
    kinds: tuple[str, ...],
    normal: Callable[[Heads], DiagNormal],
    shared: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    heads_at_mean: Callable[[Array], Heads] = lambda mean: {"mean": mean},
) -> Likelihood:
    return Likelihood(
        heads=dict.fromkeys(heads, 1),
        kinds=kinds,
        log_probs=lambda statistics, x: normal(statistics).log_probs(x),
        mean=lambda statistics: normal(statistics).mean,
        sample=lambda key, statistics: normal(statistics).sample(key),
        shared=shared,
        log_var=lambda statistics: normal(statistics).log_var,
        heads_at_mean=heads_at_mean,
    )


gaussian = _normal_likelihood(("mean", "log_var"), ("grey", "unit", "real"), _normal)
gaussian_unit_mean = _normal_likelihood(
    ("mean_logits", "log_var"),
    ("grey", "unit"),
    _normal_unit_mean,
    heads_at_mean=lambda mean: {"mean_logits": jax.scipy.special.logit(_inside(mean))},
)


def gaussian_shared(num_dims: int, *, per_dim: bool = False) -> Likelihood:
    """Returns the Gaussian whose variance is a learned parameter, the same for all z.

    Args:
        num_dims: D.
        per_dim: whether each dimension has a variance of its own, as in factor analysis.
    """
    shared = {"log_std": (num_dims if per_dim else 1,)}
    return _normal_likelihood(("mean",), ("grey", "unit", "real"), _normal_shared, shared)


def _student_t_log_probs(heads: Heads, x: Array) -> Array:
    t = (x - heads["mean"]) * jnp.exp(-heads["log_scale"])
    return student_t_log_prob(t, _degrees_of_freedom(heads)) - heads["log_scale"]


def _student_t_sample(key: Key, heads: Heads) -> Array:
    """Draws x [D], a Gaussian whose precision is a draw from a gamma distribution."""
    normal_key, gamma_key = jax.random.split(key)
    mean, half_df = heads["mean"], 0.5 * _degrees_of_freedom(heads)
    log_gamma = jax.random.loggamma(gamma_key, half_df, dtype=mean.dtype)
    scale = jnp.exp(heads["log_scale"] + 0.5 * (jnp.log(half_df) - log_gamma))
    return mean + scale * jax.random.normal(normal_key, mean.shape, mean.dtype)


def _degrees_of_freedom(heads: Heads) -> Array:
    """Returns 1 + exp(log_excess_df) for each dimension, [D]."""
    return jnp.broadcast_to(1.0 + jnp.exp(heads["log_excess_df"]), heads["mean"].shape)


def student_t(num_dims: int, *, per_dim: bool = False) -> Likelihood:
    """Returns the Student-t with location mean and scale exp(log_scale), for data with outliers.

    Its degrees of freedom 1 + exp(log_excess_df) are a learned parameter, the same for all z. They
    are above 1, so that the mean exists, and start near 2. As they grow, the density tends to the
    Gaussian with the standard deviation exp(log_scale).

    Args:
        num_dims: D.
        per_dim: whether each dimension has degrees of freedom of its own.
    """
    return Likelihood(
        heads={"mean": 1, "log_scale": 1},
        kinds=("grey", "unit", "real"),
        log_probs=_student_t_log_probs,
        mean=lambda heads: heads["mean"],
        sample=_student_t_sample,
        shared={"log_excess_df": (num_dims if per_dim else 1,)},
        log_var=lambda heads: 2.0 * heads["log_scale"],
        heads_at_mean=lambda mean: {"mean": mean},
    )


def level_of(x: Array) -> Array:
    """Returns the grey level 0..255 of each pixel [D], as a float: k if k/256 <= x < (k + 1)/256.

    This recovers k from k / 256, from k / 255, and from dequantized pixels (k + u) / 256 with u
    uniform on [0, 1).
    """
    return jnp.clip(jnp.floor(x * NUM_LEVELS), 0, NUM_LEVELS - 1)


def discretized_logistic_log_probs(heads: Heads, x: Array) -> Array:
    """Computes log(F((k_d + 1)/256) - F(k_d/256)), with k = `level_of`(x).

    Returns [D] in nats. F is the logistic distribution function of each pixel, as in Kingma et al.
    (2016), with the open ends of Salimans et al. (2017): level 0 includes all mass below it, and
    level 255 all mass above it. The result is a log-probability, and dequantization gives a lower
    bound on it: with p the density of F and u uniform on [0, 1), E_u[log p((k + u)/256)] - log 256
    is never greater (Theis et al., 2016).
    """
    return _log_logistic_cell(level_of(x), heads["location"], heads["log_scale"])


def _log_logistic_cell(level: Array, location: Array, log_scale: Array) -> Array:
    """Returns log(F((level + 1)/256) - F(level/256)), elementwise, with open ends."""
    inverse_scale = jnp.exp(-log_scale)
    low = (level / NUM_LEVELS - location) * inverse_scale
    high = ((level + 1) / NUM_LEVELS - location) * inverse_scale
    # F(high) - F(low) = F(high) (1 - F(low)) (1 - exp(low - high)), without cancellation.
    log_below = jnp.where(level < NUM_LEVELS - 1, -jax.nn.softplus(-high), 0.0)
    log_above = jnp.where(level > 0, -jax.nn.softplus(low), 0.0)
    log_width = jnp.log(-jnp.expm1(-inverse_scale / NUM_LEVELS))
    is_inner = (level > 0) & (level < NUM_LEVELS - 1)
    return log_below + log_above + jnp.where(is_inner, log_width, 0.0)


def _mean_of_levels(cdf: Callable[[Array], Array], location: Array, inverse_scale: Array) -> Array:
    """Returns E[x|z] [D] for x = k/256: the sum over k = 1..255 of P(level >= k) / 256.

    Args:
        cdf: the distribution function of a density symmetric about 0, before location and scale.
    """
    edges = jnp.arange(1, NUM_LEVELS, dtype=location.dtype) / NUM_LEVELS
    distance = location[:, None] - edges[None, :]
    return jnp.sum(cdf(distance * inverse_scale[:, None]), axis=1) / NUM_LEVELS


def discretized_logistic_sample(key: Key, heads: Heads) -> Array:
    """Draws x = k/256 ~ p(x|z) [D]: the level of a logistic sample."""
    location = heads["location"]
    noise = jax.random.logistic(key, location.shape, location.dtype)
    return level_of(location + jnp.exp(heads["log_scale"]) * noise) / NUM_LEVELS


discretized_logistic = Likelihood(
    heads={"location": 1, "log_scale": 1},
    kinds=("grey",),
    log_probs=discretized_logistic_log_probs,
    mean=lambda heads: _mean_of_levels(
        jax.nn.sigmoid, heads["location"], jnp.exp(-heads["log_scale"])
    ),
    sample=discretized_logistic_sample,
    levels=float(NUM_LEVELS),
    log_var=lambda heads: 2.0 * heads["log_scale"] + math.log(math.pi**2 / 3.0),
    heads_at_mean=lambda mean: {"location": mean + HALF_LEVEL},
)


def discretized_logistic_mixture(num_dims: int, *, num_components: int = 5) -> Likelihood:
    """Returns a mixture of K discretized logistics for each dimension, log Sum_k pi_k P_k(x_d).

    This is the likelihood of PixelCNN++ (Salimans et al., 2017) without its coupling of the color
    channels: given z, all dimensions are independent. P_k is that of `discretized_logistic`, and pi
    is the softmax of the head logits. Component k has the location (k + 1/2) / K, k = 0..K-1, plus
    its head: equal heads would stay equal in training.

    Args:
        num_dims: not used.
        num_components: K, at least 1.

    Raises:
        ValueError: num_components is not a whole number of at least 1.
    """
    del num_dims
    if not isinstance(num_components, int) or num_components < 1:
        raise ValueError(f"num_components is {num_components}; it must be a whole number above 0")

    def components(heads: Heads) -> tuple[Array, Array, Array]:
        """Returns the logits, locations and log scales, each [D, K]."""
        logits, location, log_scale = (
            heads[name].reshape(-1, num_components) for name in ("logits", "location", "log_scale")
        )
        offsets = (jnp.arange(num_components, dtype=location.dtype) + 0.5) / num_components
        return logits, location + offsets[None, :], log_scale

    def log_probs(heads: Heads, x: Array) -> Array:
        logits, location, log_scale = components(heads)
        log_mass = _log_logistic_cell(level_of(x)[:, None], location, log_scale)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_mass, axis=1)

    def mean(heads: Heads) -> Array:
        logits, location, log_scale = components(heads)
        means = _mean_of_levels(jax.nn.sigmoid, location.ravel(), jnp.exp(-log_scale).ravel())
        return jnp.sum(jax.nn.softmax(logits) * means.reshape(logits.shape), axis=1)

    def sample(key: Key, heads: Heads) -> Array:
        which_key, key = jax.random.split(key)
        logits, *rest = components(heads)
        which = jax.random.categorical(which_key, logits)[:, None]
        location, log_scale = (jnp.take_along_axis(each, which, axis=1)[:, 0] for each in rest)
        drawn = {"location": location, "log_scale": log_scale}
        return discretized_logistic_sample(key, drawn)

    return Likelihood(
        heads=dict.fromkeys(("logits", "location", "log_scale"), num_components),
        kinds=("grey",),
        log_probs=log_probs,
        mean=mean,
        sample=sample,
        levels=float(NUM_LEVELS),
        # The mean of the components' own locations is 1/2.
        heads_at_mean=lambda mean: {
            "location": jnp.repeat(mean + HALF_LEVEL - 0.5, num_components)
        },
    )


def _log_normal_tail(distance: Array) -> Array:
    """Returns log P(n > distance) of n ~ N(0, 1), elementwise.

    Beyond FAR it is computed from Mills' ratio, which is the tail divided by the density. In
    float32 the gradient of jax.scipy.special.log_ndtr has no correct digits there.
    """
    is_far = distance > FAR
    far, near = jnp.where(is_far, distance, FAR), jnp.where(is_far, 0.0, distance)
    return jnp.where(
        is_far, _log_density(far) + jnp.log(_mills_ratio(far)), jnp.log(_normal_cdf(-near))
    )


def _log_normal_cell(middle: Array, width: Array) -> Array:
    """Returns log P(|n - middle| < width / 2) of n ~ N(0, 1), elementwise.

    A difference of distribution functions loses its digits where the cell is narrow. There the
    density is integrated by Gauss-Legendre quadrature, with a relative error below 1e-12. Beyond
    FAR, Mills' ratios R are subtracted instead: for a cell from a to b, the mass is phi(a) (R(a) -
    exp(-middle width) R(b)), since b^2 - a^2 = 2 middle width.
    """
    middle = jnp.abs(middle)
    low, high = middle - 0.5 * width, middle + 0.5 * width
    is_narrow = width * jnp.maximum(middle, 1.0) < NARROW
    is_far = (low > FAR) & ~is_narrow
    # Each formula gets a safe input where it is not used, because a NaN would reach the gradient.
    half, center = jnp.where(is_narrow, 0.5 * width, 1.0), jnp.where(is_narrow, middle, 0.0)
    density = [weight * jnp.exp(_log_ratio(half * node, center)) for node, weight in QUADRATURE]
    narrow = _log_density(center) + jnp.log(half * sum(density))
    start, end = jnp.where(is_far, low, FAR), jnp.where(is_far, high, FAR)
    decay = jnp.exp(-jnp.where(is_far, middle * width, 1.0))
    far = _log_density(start) + jnp.log(_mills_ratio(start) - decay * _mills_ratio(end))
    is_near = ~is_narrow & ~is_far
    start, end = jnp.where(is_near, low, 0.0), jnp.where(is_near, high, 1.0)
    near = jnp.log(_normal_cdf(-start) - _normal_cdf(-end))
    return jnp.where(is_narrow, narrow, jnp.where(is_far, far, near))


def _log_density(n: Array) -> Array:
    """Returns the log-density of N(0, 1), elementwise."""
    return -0.5 * (jnp.square(n) + LOG_2PI)


def _log_ratio(step: Array, n: Array) -> Array:
    """Returns log phi(n + step) - log phi(n), elementwise."""
    return -step * (n + 0.5 * step)


def _normal_cdf(n: Array) -> Array:
    """Returns P(N(0, 1) < n), elementwise; its relative error is small for n up to FAR."""
    return 0.5 * jax.lax.erfc(-n / math.sqrt(2.0))


def _mills_ratio(distance: Array) -> Array:
    """Returns P(N(0, 1) > distance) / phi(distance), for distances of at least FAR.

    It is Laplace's continued fraction 1 / (t + 1 / (t + 2 / (t + 3 / ...))), here with a relative
    error below 1e-13.
    """
    fraction = distance
    for k in range(10, 0, -1):
        fraction = distance + k / fraction
    return 1.0 / fraction


def discretized_gaussian_log_probs(heads: Heads, x: Array) -> Array:
    """Computes log(Phi(b_d) - Phi(a_d)), with a and b the ends of the cell of `level_of`(x).

    Returns [D] in nats. The cell of level k is from k/256 to (k + 1)/256, standardized by the mean
    and the variance of the pixel. Level 0 includes all mass below it, and level 255 all mass above
    it, as in `discretized_logistic_log_probs`.
    """
    level, inverse_std = level_of(x), jnp.exp(-0.5 * heads["log_var"])
    low, middle, high = (
        ((level + part) / NUM_LEVELS - heads["mean"]) * inverse_std for part in (0.0, 0.5, 1.0)
    )
    outer = _log_normal_tail(jnp.where(level > 0, low, -high))
    inner = _log_normal_cell(middle, inverse_std / NUM_LEVELS)
    is_inner = (level > 0) & (level < NUM_LEVELS - 1)
    return jnp.where(is_inner, inner, outer)


def discretized_gaussian_sample(key: Key, heads: Heads) -> Array:
    """Draws x = k/256 ~ p(x|z) [D]: the level of a Gaussian sample."""
    return level_of(_normal(heads).sample(key)) / NUM_LEVELS


discretized_gaussian = Likelihood(
    heads={"mean": 1, "log_var": 1},
    kinds=("grey",),
    log_probs=discretized_gaussian_log_probs,
    mean=lambda heads: _mean_of_levels(
        _normal_cdf, heads["mean"], jnp.exp(-0.5 * heads["log_var"])
    ),
    sample=discretized_gaussian_sample,
    levels=float(NUM_LEVELS),
    log_var=lambda heads: heads["log_var"],
    heads_at_mean=lambda mean: {"mean": mean + HALF_LEVEL},
)


def categorical_log_probs(heads: Heads, x: Array) -> Array:
    """Computes log softmax(logits_d)[k_d], with logits [256 D] and k = `level_of`(x).

    Returns [D] in nats.
    """
    log_probs = jax.nn.log_softmax(_logits_by_level(heads))
    level = level_of(x).astype(jnp.int32)
    return jnp.take_along_axis(log_probs, level[:, None], axis=1)[:, 0]


def _logits_by_level(heads: Heads) -> Array:
    """Returns the 256 logits of each dimension, [D, 256]."""
    return heads["logits"].reshape(-1, NUM_LEVELS)


def _levels(dtype: DTypeLike) -> Array:
    """Returns the values x = k/256 of the grey levels [256]."""
    return jnp.arange(NUM_LEVELS, dtype=dtype) / NUM_LEVELS


categorical = Likelihood(
    heads={"logits": NUM_LEVELS},
    kinds=("grey",),
    log_probs=categorical_log_probs,
    mean=lambda heads: jax.nn.softmax(_logits_by_level(heads)) @ _levels(heads["logits"].dtype),
    sample=lambda key, heads: _levels(heads["logits"].dtype)[
        jax.random.categorical(key, _logits_by_level(heads))
    ],
    levels=float(NUM_LEVELS),
)


class _Counts(NamedTuple):
    """A distribution of counts, independent in each dimension."""

    log_mean: str  # the name of the statistic [D] that is the log of its mean
    log_probs: Callable[[Heads, Array], Array]  # (statistics, x [D]) -> [D], nats
    sample: Callable[[Key, Heads], Array]  # (key, statistics) -> x [D]
    shared: tuple[str, ...] = ()


def _poisson_sample(key: Key, log_rate: Array) -> Array:
    """Draws counts [D]. A rate above LARGEST_RATE is replaced by it."""
    rate = jnp.minimum(jnp.exp(log_rate), LARGEST_RATE)
    return jax.random.poisson(key, rate, dtype=jnp.int32).astype(log_rate.dtype)


def _negative_binomial_sample(key: Key, heads: Heads) -> Array:
    """Draws counts [D] from Poisson distributions whose rates have gamma distributions.

    The rates are drawn as logs, since a draw of a small total count can be below every float32.
    """
    rate_key, count_key = jax.random.split(key)
    log_mean = heads["log_mean"]
    log_total_count = jnp.broadcast_to(heads["log_total_count"], log_mean.shape)
    log_draw = jax.random.loggamma(rate_key, jnp.exp(log_total_count), dtype=log_mean.dtype)
    return _poisson_sample(count_key, log_mean - log_total_count + log_draw)


_POISSON = _Counts(
    "log_rate",
    log_probs=lambda heads, x: poisson_log_prob(x, heads["log_rate"]),
    sample=lambda key, heads: _poisson_sample(key, heads["log_rate"]),
)
_NEGATIVE_BINOMIAL = _Counts(
    "log_mean",
    log_probs=lambda heads, x: negative_binomial_log_prob(
        x, heads["log_mean"], heads["log_total_count"]
    ),
    sample=_negative_binomial_sample,
    shared=("log_total_count",),
)


def _zero_inflated_sample(counts: _Counts, key: Key, heads: Heads) -> Array:
    zero_key, count_key = jax.random.split(key)
    is_zero = jax.random.bernoulli(zero_key, jax.nn.sigmoid(heads["zero_logit"]))
    return jnp.where(is_zero, 0.0, counts.sample(count_key, heads))


def _likelihood_of_counts(
    counts: _Counts,
    num_dims: int,
    location: Sequence[float] | None,
    *,
    is_zero_inflated: bool = False,
) -> Likelihood:
    """Returns the likelihood of counts with mean exp(head + location), or with added zeros.

    Raises:
        ValueError: location is not [D].
    """
    offset = np.zeros(num_dims) if location is None else np.asarray(location, np.float64)
    if offset.shape != (num_dims,):
        raise ValueError(f"location has the shape {offset.shape}, and must have ({num_dims},)")

    def located(heads: Heads) -> Heads:
        head = heads[counts.log_mean]
        return {**heads, counts.log_mean: head + jnp.asarray(offset, head.dtype)}

    def log_probs(heads: Heads, x: Array) -> Array:
        of_counts = counts.log_probs(located(heads), x)
        if not is_zero_inflated:
            return of_counts
        return zero_inflated_log_prob(x, of_counts, heads["zero_logit"])

    def mean(heads: Heads) -> Array:
        drawn = jnp.exp(located(heads)[counts.log_mean])
        return drawn * jax.nn.sigmoid(-heads["zero_logit"]) if is_zero_inflated else drawn

    sample = partial(_zero_inflated_sample, counts) if is_zero_inflated else counts.sample
    return Likelihood(
        heads=dict.fromkeys((counts.log_mean, *(("zero_logit",) * is_zero_inflated)), 1),
        kinds=("counts",),
        log_probs=log_probs,
        mean=mean,
        sample=lambda key, heads: sample(key, located(heads)),
        shared=dict.fromkeys(counts.shared, (num_dims,)),
    )


def poisson(num_dims: int, *, location: Sequence[float] | None = None) -> Likelihood:
    """Returns the Poisson likelihood: `poisson_log_prob`, summed over dimensions.

    Args:
        num_dims: D.
        location: [D], added to the head log_rate, so that rates start near those of the data; None
            for zeros.

    Raises:
        ValueError: location is not [D].
    """
    return _likelihood_of_counts(_POISSON, num_dims, location)


def negative_binomial(num_dims: int, *, location: Sequence[float] | None = None) -> Likelihood:
    """Returns the negative binomial likelihood: `negative_binomial_log_prob`, summed.

    The total count of each dimension is a learned parameter, the same for all z.

    Args:
        num_dims: D.
        location: [D], added to the head log_mean; None for zeros.

    Raises:
        ValueError: location is not [D].
    """
    return _likelihood_of_counts(_NEGATIVE_BINOMIAL, num_dims, location)


def zero_inflated_poisson(num_dims: int, *, location: Sequence[float] | None = None) -> Likelihood:
    """Returns `poisson` with `zero_inflated_log_prob`, whose zero_logit is a head."""
    return _likelihood_of_counts(_POISSON, num_dims, location, is_zero_inflated=True)


def zero_inflated_negative_binomial(
    num_dims: int, *, location: Sequence[float] | None = None
) -> Likelihood:
    """Returns `negative_binomial` with `zero_inflated_log_prob`, whose zero_logit is a head."""
    return _likelihood_of_counts(_NEGATIVE_BINOMIAL, num_dims, location, is_zero_inflated=True)


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {  # (num_dims, *, options) -> Likelihood
    "bernoulli": lambda num_dims: bernoulli,
    "continuous_bernoulli": lambda num_dims: continuous_bernoulli,
    "gaussian": lambda num_dims: gaussian,
    "gaussian_unit_mean": lambda num_dims: gaussian_unit_mean,
    "gaussian_shared": gaussian_shared,
    "student_t": student_t,
    "discretized_logistic": lambda num_dims: discretized_logistic,
    "discretized_logistic_mixture": discretized_logistic_mixture,
    "discretized_gaussian": lambda num_dims: discretized_gaussian,
    "categorical": lambda num_dims: categorical,
    "poisson": poisson,
    "negative_binomial": negative_binomial,
    "zero_inflated_poisson": zero_inflated_poisson,
    "zero_inflated_negative_binomial": zero_inflated_negative_binomial,
}
"""The likelihoods by name, for `model.likelihood` in a config."""
