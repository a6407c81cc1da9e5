"""Gaussian distributions, the Student-t, and log-probabilities of counts; in nats.

Gaussians are NamedTuples of arrays, whose densities are summed over dimensions. The other functions
are elementwise, for arrays of any shapes that broadcast.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.typing import DTypeLike

from aevb.types import Key

LOG_2PI = math.log(2.0 * math.pi)
LN2_HIGH = 355 / 512  # log 2 in two parts: a multiple of the first by an exponent is exact
LN2_LOW = math.log(2.0) - LN2_HIGH
NEAR_0 = 0.5  # |t| below which exp(t) - 1 - t is computed from its series
STIRLING_FROM = 8.0  # n from which Stirling's series has an error below 1e-16
# of n^-1, n^-3, ...: B_2k / (2k (2k - 1)), with the Bernoulli numbers B_2k
STIRLING_SERIES = (
    1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400,
)  # fmt: skip


class DiagNormal(NamedTuple):
    """The Gaussian N(mean, diag(exp(log_var))): the paper's q_phi(z|x), eq. (9)."""

    mean: Array  # [Z]
    log_var: Array  # [Z], log sigma^2

    def sample(self, key: Key) -> Array:
        """Draws z = mean + sigma * eps with eps ~ N(0, I); section 2.4.

        Returns z [Z], differentiable in self.
        """
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draws z as `sample` does, and computes its log-density from eps.

        Returns z [Z] and its log-density [] in nats. Because z is rounded, `log_prob` at z is less
        accurate where sigma is small: it is wrong by 0.05 nats at a log_var of -24 in float32.
        """
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        z = self.mean + jnp.exp(0.5 * self.log_var) * noise
        return z, -0.5 * jnp.sum(LOG_2PI + self.log_var + jnp.square(noise))

    def log_prob(self, z: Array) -> Array:
        """Returns log N(z; mean, diag(sigma^2)) [] of z [Z], in nats."""
        return jnp.sum(self.log_probs(z))

    def log_probs(self, z: Array) -> Array:
        """Returns the log-density of each dimension of z, [Z], in nats."""
        standardized_sq = jnp.square(z - self.mean) * jnp.exp(-self.log_var)
        return -0.5 * (LOG_2PI + self.log_var + standardized_sq)

    def entropy(self) -> Array:
        """Returns the entropy -E_q[log q(z)] [], in nats."""
        return 0.5 * jnp.sum(LOG_2PI + 1.0 + self.log_var)

    def kl_to_standard_normal(self) -> Array:
        """Returns KL(self || N(0, I)) [], in nats; appendix B."""
        return jnp.sum(self.kl_per_unit_to_standard_normal())

    def kl_per_unit_to_standard_normal(self) -> Array:
        """Returns the KL of each dimension to N(0, 1), [Z], in nats."""
        # expm1 keeps the digits that exp(t) - 1 loses where the posterior is close to the prior.
        return 0.5 * (jnp.square(self.mean) + jnp.expm1(self.log_var) - self.log_var)

    def kl(self, other: object) -> Array | None:
        """Returns KL(self || other) [], in nats.

        It is None if `other` is neither a `StandardNormal` nor a `DiagNormal`.
        """
        per_unit = self.kl_per_unit(other)
        return None if per_unit is None else jnp.sum(per_unit)

    def kl_per_unit(self, other: object) -> Array | None:
        """Returns the terms of `kl(other)`, one for each dimension [Z], in nats; None if it is."""
        if type(other) is StandardNormal:  # not isinstance: a subclass may have another density
            return self.kl_per_unit_to_standard_normal()
        if type(other) is not DiagNormal:
            return None
        # Standardizing `other` by an affine map leaves the KL unchanged.
        mean = (self.mean - other.mean) * jnp.exp(-0.5 * other.log_var)
        standardized = DiagNormal(mean, self.log_var - other.log_var)
        return standardized.kl_per_unit_to_standard_normal()


class FullNormal(NamedTuple):
    """The Gaussian N(mean, L L'), where L is lower triangular with diagonal exp(log_diag).

    Every Gaussian can be written in this form, in exactly one way.
    """

    mean: Array  # [Z]
    log_diag: Array  # [Z], log L_ii
    below_diag: Array  # [Z (Z - 1) / 2], entries of L below its diagonal, row by row

    def factor(self) -> Array:
        """Returns L [Z, Z], the Cholesky factor of the covariance."""
        below = jnp.tril_indices(len(self.mean), -1)
        return jnp.diag(jnp.exp(self.log_diag)).at[below].set(self.below_diag)

    def sample(self, key: Key) -> Array:
        """Draws z = mean + L eps with eps ~ N(0, I); section 2.4.

        Returns z [Z], differentiable in self.
        """
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draws z as `sample` does, and computes its log-density from eps.

        Returns z [Z] and its log-density [] in nats.
        """
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.factor() @ noise, self._log_prob_of(noise)

    def log_prob(self, z: Array) -> Array:
        """Returns log N(z; mean, L L') [] of z [Z], in nats."""
        noise = solve_triangular(self.factor(), z - self.mean, lower=True)
        return self._log_prob_of(noise)

    def _log_prob_of(self, noise: Array) -> Array:
        return -0.5 * jnp.sum(LOG_2PI + 2.0 * self.log_diag + jnp.square(noise))

    def kl_to_standard_normal(self) -> Array:
        """Returns KL(self || N(0, I)) [], in nats.

        This is the KL of appendix B for the diagonal of L, plus a term for its entries below the
        diagonal.
        """
        diagonal = DiagNormal(self.mean, 2.0 * self.log_diag).kl_to_standard_normal()
        return diagonal + 0.5 * jnp.sum(jnp.square(self.below_diag))

    def kl(self, other: object) -> Array | None:
        """Returns KL(self || other) [] in nats, or None if other is not a `StandardNormal`."""
        return self.kl_to_standard_normal() if type(other) is StandardNormal else None


class StandardNormal(NamedTuple):
    """The Gaussian N(0, I): the paper's prior p(z), and its prior on the parameters."""

    num_dims: int
    dtype: DTypeLike = float  # of samples; `float` is JAX's default

    def sample(self, key: Key) -> Array:
        """Draws eps ~ N(0, I) [num_dims]."""
        return jax.random.normal(key, (self.num_dims,), self.dtype)

    def log_prob(self, z: Array) -> Array:
        """Returns log N(z; 0, I) [] of z [num_dims], in nats."""
        return -0.5 * jnp.sum(LOG_2PI + jnp.square(z))


class PreciseNormal(NamedTuple):
    """The Gaussian with precision C C' and mean C'^-1 shift, where C is lower triangular."""

    shift: Array  # [Z]
    factor: Array  # C [Z, Z], with a positive diagonal

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draws z [Z] = C'^-1 (shift + eps), eps ~ N(0, I), with its log-density [] in nats."""
        noise = jax.random.normal(key, self.shift.shape, self.shift.dtype)
        return self._solve(self.shift + noise), self._log_prob_of(noise)

    def log_prob(self, z: Array) -> Array:
        """Returns the log-density [] of z [Z], in nats."""
        return self._log_prob_of(self.factor.T @ z - self.shift)

    def kl(self, other: object) -> Array | None:
        """Returns KL(self || other) [] in nats.

        It is None if `other` is neither a `StandardNormal` nor a `DiagNormal`.
        """
        mean = self._solve(self.shift)
        if type(other) is StandardNormal:
            other = DiagNormal(jnp.zeros_like(mean), jnp.zeros_like(mean))
        if type(other) is not DiagNormal:
            return None
        root = solve_triangular(self.factor, jnp.eye(len(mean), dtype=mean.dtype), lower=True)
        var = jnp.sum(jnp.square(root), axis=0)  # the diagonal of the covariance
        squares = (jnp.square(mean - other.mean) + var) * jnp.exp(-other.log_var)
        return 0.5 * jnp.sum(squares + other.log_var - 1.0) + self._half_log_det()

    def _solve(self, shift: Array) -> Array:
        return solve_triangular(self.factor, shift, lower=True, trans="T")

    def _log_prob_of(self, noise: Array) -> Array:
        return self._half_log_det() - 0.5 * jnp.sum(LOG_2PI + jnp.square(noise))

    def _half_log_det(self) -> Array:
        return jnp.sum(jnp.log(jnp.diagonal(self.factor)))


# Heavy tails


def student_t_log_prob(t: Array, df: Array) -> Array:
    """Computes log Gamma((df + 1)/2) / (Gamma(df/2) sqrt(pi df)) - (df + 1)/2 log(1 + t^2/df).

    The log-density of the standard Student-t with df > 0 degrees of freedom, in nats. The ratio of
    Gammas is computed from `stirling_error`, since for a large df the difference of two log-Gammas
    would have no correct digits. The result is finite in float32 for |t| and df up to 1e35.
    """
    half_df = 0.5 * df
    log_normalizer = 0.5 * LOG_2PI + 0.5 - half_df * jnp.log1p(0.5 / half_df)
    log_normalizer += stirling_error(half_df) - stirling_error(half_df + 0.5)
    ratio = jnp.abs(t) / jnp.sqrt(df)
    is_far = ratio > 1.0  # there log(1 + r^2) is 2 log r + log(1 + r^-2), since r^2 may overflow
    far = jnp.where(is_far, ratio, 1.0)
    log_sum = jnp.log1p(jnp.square(jnp.where(is_far, 1.0 / far, ratio))) + 2.0 * jnp.log(far)
    return -0.5 * (df + 1.0) * log_sum - log_normalizer


# Counts


def poisson_log_prob(x: Array, log_rate: Array) -> Array:
    """Computes x log_rate - exp(log_rate) - log x!, in nats, of counts x = 0, 1, 2, ...

    Its three terms are of the size x log x, and their sum is of the size log x. This is the
    saddle-point form of Loader (2000), whose terms have the size of the sum: with
    d = log_rate - log x, it is -x (exp(d) - 1 - d) - 1/2 log(2 pi x) - `stirling_error`(x).
    """
    is_0 = x == 0
    positive = jnp.where(is_0, 1.0, x)  # log 0 would give the gradient a NaN
    deviance = positive * _exp_remainder(_log_ratio(log_rate, positive))
    log_prob = -deviance - 0.5 * (LOG_2PI + jnp.log(positive)) - stirling_error(positive)
    return jnp.where(is_0, -jnp.exp(log_rate), log_prob)


def negative_binomial_log_prob(x: Array, log_mean: Array, log_total_count: Array) -> Array:
    """Computes log Gamma(x + r) / (Gamma(r) x!) + r log(r / (r + m)) + x log(m / (r + m)), in nats.

    This is the probability of a count x = 0, 1, 2, ... with mean m = exp(log_mean) and variance
    m + m^2 / r, where r = exp(log_total_count) is the total count, or inverse dispersion. It is a
    Poisson distribution whose rate has a gamma distribution of shape r and mean m.

    The form is that of Loader (2000), for a total count that need not be whole. The deviance
    compares the two parts x and r of x + r with their expectations, in the proportion m : r. With
    w = x / (x + r) and d = log(m / x), the logs of expectation over part are
    log(m (x + r) / (x (m + r))) = -log(w + (1 - w) exp(-d)) and -log(1 - w + w exp(d)).

    The result is finite in float32 for logs from -70 to 80 and counts up to 2^24.
    """
    is_0 = x == 0
    positive, total_count = jnp.where(is_0, 1.0, x), jnp.exp(log_total_count)
    of_mean, of_count = _log_ratio(log_mean, positive), _log_ratio(log_total_count, positive)
    deviance = positive * _exp_remainder(-_log_mixture(of_count, -of_mean))
    deviance += total_count * _exp_remainder(-_log_mixture(-of_count, of_mean))
    errors = stirling_error(positive) + stirling_error(total_count)
    errors -= stirling_error(positive + total_count)
    log_scale = LOG_2PI + jnp.log(positive) + jax.nn.softplus(-of_count)
    log_prob_0 = -total_count * jax.nn.softplus(log_mean - log_total_count)
    return jnp.where(is_0, log_prob_0, -deviance - 0.5 * log_scale - errors)


def zero_inflated_log_prob(x: Array, log_prob: Array, zero_logit: Array) -> Array:
    """Computes log(pi [x = 0] + (1 - pi) p(x)) with pi = sigmoid(zero_logit), in nats.

    A count is 0 with probability pi, and otherwise is drawn from p.

    Args:
        log_prob: log p(x).
    """
    drawn = jax.nn.log_sigmoid(-zero_logit) + log_prob
    return jnp.where(x == 0, jnp.logaddexp(jax.nn.log_sigmoid(zero_logit), drawn), drawn)


def stirling_error(n: Array) -> Array:
    """Returns log Gamma(n + 1) - (n + 1/2) log n + n - 1/2 log(2 pi), elementwise, of n > 0.

    This is what Stirling's formula lacks. It is 1 / (12 n) for a large n.
    """
    is_large = n >= STIRLING_FROM
    # Each formula gets a safe input where it is not used, because a NaN would reach the gradient.
    inverse, series = 1.0 / jnp.where(is_large, n, STIRLING_FROM), jnp.zeros_like(n)
    for coefficient in reversed(STIRLING_SERIES):
        series = coefficient + jnp.square(inverse) * series
    small = jnp.where(is_large, 1.0, n)
    direct = jax.lax.lgamma(small + 1.0) - (small + 0.5) * jnp.log(small) + small - 0.5 * LOG_2PI
    return jnp.where(is_large, inverse * series, direct)


def _exp_remainder(t: Array) -> Array:
    """Returns exp(t) - 1 - t, elementwise, with a small relative error also near 0."""
    is_near = jnp.abs(t) < NEAR_0
    near, series = jnp.where(is_near, t, 0.0), jnp.ones_like(t)
    for k in range(15, 2, -1):
        series = 1.0 + near / k * series
    return jnp.where(is_near, 0.5 * jnp.square(near) * series, jnp.expm1(t) - t)


def _log_ratio(log_numerator: Array, n: Array) -> Array:
    """Returns log_numerator - log n, elementwise, of n > 0.

    The rounding of log n, of up to 5e-7 in float32, would cost a count of 10^7 thousandths of a
    nat. With n = f 2^k, the error is that of log f instead.
    """
    fraction, exponent = jnp.frexp(n)
    exponent = exponent.astype(n.dtype)
    return (log_numerator - exponent * LN2_HIGH) - (exponent * LN2_LOW + jnp.log(fraction))


def _log_mixture(log_odds: Array, t: Array) -> Array:
    """Returns log(1 - w + w exp(t)) with w = sigmoid(log_odds), elementwise."""
    is_near = jnp.abs(t) < NEAR_0
    near = jnp.log1p(jax.nn.sigmoid(log_odds) * jnp.expm1(jnp.where(is_near, t, 0.0)))
    log_rest, log_part = jax.nn.log_sigmoid(-log_odds), jax.nn.log_sigmoid(log_odds)
    return jnp.where(is_near, near, jnp.logaddexp(log_rest, log_part + t))
