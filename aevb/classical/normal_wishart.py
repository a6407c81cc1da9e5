"""A Gaussian of unknown mean and precision matrix: a component of a mixture, or the case K = 1.

x_n ~ N(mu, Lambda^-1), mu | Lambda ~ N(mean, (mean_precision Lambda)^-1), Lambda ~ Wishart. The
posterior is of the same family, even if each datapoint has a weight between 0 and 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln

from aevb.classical.cholesky import factorize, solve_lower
from aevb.classical.families import LOG_2, Wishart
from aevb.distributions import LOG_2PI
from aevb.reparam.gamma_functions import log_gamma_ratio
from aevb.types import Key


class NormalWishart(NamedTuple):
    """The distribution p(mu, Lambda) = N(mu; mean, (mean_precision Lambda)^-1) Wishart(Lambda)."""

    mean: Array  # [D]
    mean_precision: Array  # [], in units of Lambda: the number of observations the prior is worth
    precision: Wishart

    def whitener(self) -> Array:
        """Returns a lower triangular T [D, D] with T'T = E[Lambda]."""
        return jnp.sqrt(self.precision.df) * factorize(self.precision.inverse_scale).inverse

    def expected_log_lik(self) -> "LogGaussian":
        """Returns E[log N(x; mu, Lambda^-1)] as a function of x.

        Bishop (2006), eqs. (10.64) and (10.65). It is the log-density of a Gaussian up to a
        constant.
        """
        num_dims = len(self.mean)
        expected_log_det = jnp.sum(digamma(self._halves())) + num_dims * LOG_2
        expected_log_det -= factorize(self.precision.inverse_scale).log_det()
        constant = expected_log_det - num_dims / self.mean_precision - num_dims * LOG_2PI
        return LogGaussian(0.5 * constant, self.mean, self.whitener())

    def log_predictive(self, x: Array) -> Array:
        """Returns log p(x) [N] of points x [D, N], in nats, with mu and Lambda integrated out.

        It is a Student's t with df - D + 1 degrees of freedom; Bishop (2006), eqs. (10.81) and
        (10.82).
        """
        num_dims, df = len(self.mean), self.precision.df
        freedom = df - num_dims + 1.0
        spread = (1.0 + self.mean_precision) / self.mean_precision  # spread of x plus that of mu
        whitener = self.whitener() / jnp.sqrt(df * spread)
        constant = log_det(whitener) - 0.5 * num_dims * math.log(math.pi)
        constant -= log_gamma_ratio(0.5 * freedom, 0.5 * num_dims)
        squared = squared_distances(x, self.mean, whitener)
        return constant - 0.5 * (freedom + num_dims) * jnp.log1p(squared)

    def kl(self, other: "NormalWishart") -> Array:
        """Returns KL(self || other) [], in nats.

        The closed form is accurate in float32 with many data. A difference of log-normalizers would
        not be, because they are far greater than their difference.
        """
        num_dims, df = len(self.mean), self.precision.df
        whitener = self.whitener()
        ratio = other.mean_precision / self.mean_precision
        apart = jnp.sum(jnp.square(whitener @ (self.mean - other.mean)))
        of_mean = num_dims * (ratio - 1.0 - jnp.log(ratio)) + other.mean_precision * apart
        before = factorize(other.precision.inverse_scale)
        log_dets = factorize(self.precision.inverse_scale).log_det() - before.log_det()
        trace = jnp.sum(jnp.square(whitener @ before.lower)) - num_dims * df
        of_precision = other.precision.df * log_dets + trace
        of_precision += (df - other.precision.df) * jnp.sum(digamma(self._halves()))
        gammas = jnp.sum(gammaln(other._halves()) - gammaln(self._halves()))
        return 0.5 * (of_mean + of_precision) + gammas

    def sample(self, key: Key) -> tuple[Array, Array]:
        """Draws mu [D], and a lower triangular T [D, D] with Lambda = T'T.

        This is Bartlett's decomposition: the squares on the diagonal of Bartlett's factor are
        chi-squared, and the entries below it are N(0, 1).
        """
        diagonal_key, below_key, mean_key = jax.random.split(key, 3)
        # For T'T the order of the rows is reversed: the last row has all degrees of freedom.
        halves = self._halves()[::-1]
        chi_squared = 2.0 * jax.random.gamma(diagonal_key, halves, dtype=halves.dtype)
        below = jax.random.normal(below_key, self.precision.inverse_scale.shape, halves.dtype)
        bartlett = jnp.diag(jnp.sqrt(chi_squared)) + jnp.tril(below, -1)
        scatter = factorize(self.precision.inverse_scale)
        noise = jax.random.normal(mean_key, self.mean.shape, halves.dtype)
        shift = scatter.lower @ solve_lower(bartlett, noise) / jnp.sqrt(self.mean_precision)
        return self.mean + shift, bartlett @ scatter.inverse

    def _halves(self) -> Array:
        """Returns half the degrees of freedom of each dimension given the previous ones, [D]."""
        return 0.5 * (self.precision.df - jnp.arange(len(self.mean), dtype=self.mean.dtype))


class LogGaussian(NamedTuple):
    """The function constant - |whitener (x - mean)|^2 / 2 of x."""

    constant: Array  # []
    mean: Array  # [D]
    whitener: Array  # [D, D]

    def __call__(self, x: Array) -> Array:
        """Returns the values [N] at points x [D, N] (columns), in nats."""
        return self.constant - 0.5 * squared_distances(x, self.mean, self.whitener)


def log_normal(mean: Array, whitener: Array) -> LogGaussian:
    """Returns log N(x; mean, (T'T)^-1) as a function of x, for mean [D] and triangular T [D, D]."""
    return LogGaussian(log_det(whitener) - 0.5 * len(mean) * LOG_2PI, mean, whitener)


def squared_distances(x: Array, mean: Array, whitener: Array) -> Array:
    """Returns |T (x - mean)|^2 [N] of points x [D, N] (columns)."""
    # The mean is subtracted first: expanding the square would lose the digits of tight clusters.
    return jnp.sum(jnp.square(whitener @ (x - mean[:, None])), axis=0)


def log_det(triangular: Array) -> Array:
    """Returns log |T| [] of a triangular T [D, D] with a positive diagonal."""
    return jnp.sum(jnp.log(jnp.diagonal(triangular)))


class Moments(NamedTuple):
    """Sufficient statistics of weighted data for a Gaussian. Those of parts of the data add up."""

    num_points: Array  # [], sum of the weights
    shift: Array  # [D], sum of weight (x - centre)
    scatter: Array  # [D, D], sum of weight (x - centre) (x - centre)'


def moments(x: Array, weights: Array, centre: Array) -> Moments:
    """Returns the moments of points x [D, N] (columns), with weights [N], about `centre` [D].

    Bishop (2006), eqs. (10.51) to (10.53). The nearer `centre` is to the weighted mean, the fewer
    digits of the scatter are lost.
    """
    away = x - centre[:, None]
    weighted = weights[None] * away
    return Moments(jnp.sum(weights), jnp.sum(weighted, axis=1), weighted @ away.T)


def posterior(prior: NormalWishart, data: Moments, centre: Array) -> NormalWishart:
    """Returns the exact posterior p(mu, Lambda | x), from the moments about `centre` [D].

    Bishop (2006), eqs. (10.60) to (10.63), where the last must read nu = nu_0 + N. No term is
    divided by the count, so without data the posterior is the prior.
    """
    mean_precision = prior.mean_precision + data.num_points
    from_prior = prior.mean_precision * (centre - prior.mean)
    shift = (data.shift - from_prior) / mean_precision
    mean = centre + shift
    cross = jnp.outer(data.shift, shift)
    scatter = data.scatter - cross - cross.T + data.num_points * jnp.outer(shift, shift)
    apart = mean - prior.mean
    inverse_scale = prior.precision.inverse_scale + scatter
    inverse_scale += prior.mean_precision * jnp.outer(apart, apart)
    return NormalWishart(
        mean, mean_precision, Wishart(prior.precision.df + data.num_points, inverse_scale)
    )


def log_evidence(prior: NormalWishart, x: Array) -> Array:
    """Returns the exact log p(x) [] of points x [D, N] (columns), in nats.

    It is computed as the bound at the exact posterior.
    """
    exact = posterior(prior, moments(x, jnp.ones_like(x[0]), prior.mean), prior.mean)
    return jnp.sum(exact.expected_log_lik()(x)) - exact.kl(prior)
