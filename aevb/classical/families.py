"""The distributions of conjugate models, with the expectations that coordinate ascent uses.

Each class is one distribution with scalar or matrix parameters, in nats; `jax.vmap` handles many.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln, multigammaln, xlog1py, xlogy

from aevb.classical import cholesky
from aevb.distributions import LOG_2PI
from aevb.reparam.gamma_functions import log_beta

LOG_2 = math.log(2.0)


class Gamma(NamedTuple):
    """The distribution Gamma(shape, rate), density proportional to x^(shape - 1) exp(-rate x)."""

    shape: Array  # []
    rate: Array  # []

    def mean(self) -> Array:
        """Returns E[x], shape []."""
        return self.shape / self.rate

    def expected_log(self) -> Array:
        """Returns E[log x], shape []."""
        return digamma(self.shape) - jnp.log(self.rate)

    def log_prob(self, x: Array) -> Array:
        """Returns the log-density [] of x [] > 0, in nats."""
        return xlogy(self.shape - 1.0, x) - self.rate * x - self._log_normalizer()

    def entropy(self) -> Array:
        """Returns the entropy -E[log q(x)], shape [], in nats."""
        return self._log_normalizer() - (self.shape - 1.0) * self.expected_log() + self.shape

    def kl(self, other: "Gamma") -> Array:
        """Returns KL(self || other) [], in nats."""
        cross = other._log_normalizer() - (other.shape - 1.0) * self.expected_log()
        return cross + other.rate * self.mean() - self.entropy()

    def _log_normalizer(self) -> Array:
        return gammaln(self.shape) - self.shape * jnp.log(self.rate)


class Beta(NamedTuple):
    """The distribution Beta(a, b), density proportional to x^(a - 1) (1 - x)^(b - 1) on [0, 1]."""

    a: Array  # []
    b: Array  # []

    def mean(self) -> Array:
        """Returns E[x], shape []."""
        return self.a / (self.a + self.b)

    def log_prob(self, x: Array) -> Array:
        """Returns the log-density [] of x [], in nats."""
        return xlogy(self.a - 1.0, x) + xlog1py(self.b - 1.0, -x) - log_beta(self.a, self.b)

    def entropy(self) -> Array:
        """Returns the entropy -E[log q(x)], shape [], in nats."""
        return -self._expected_log_prob(self)

    def kl(self, other: "Beta") -> Array:
        """Returns KL(self || other) [], in nats."""
        return self._expected_log_prob(self) - self._expected_log_prob(other)

    def _expected_log_prob(self, other: "Beta") -> Array:
        of_x = digamma(self.a) - digamma(self.a + self.b)
        of_rest = digamma(self.b) - digamma(self.a + self.b)
        return (other.a - 1.0) * of_x + (other.b - 1.0) * of_rest - log_beta(other.a, other.b)


class Dirichlet(NamedTuple):
    """The distribution Dirichlet(concentration) over K probabilities."""

    concentration: Array  # [K]

    def mean(self) -> Array:
        """Returns E[p], shape [K]."""
        return self.concentration / jnp.sum(self.concentration)

    def expected_log(self) -> Array:
        """Returns E[log p], shape [K]."""
        return digamma(self.concentration) - digamma(jnp.sum(self.concentration))

    def log_prob(self, p: Array) -> Array:
        """Returns the log-density [] of p [K], a point on the simplex, in nats."""
        return jnp.sum(xlogy(self.concentration - 1.0, p)) - self._log_normalizer()

    def entropy(self) -> Array:
        """Returns the entropy -E[log q(p)], shape [], in nats."""
        return -self._expected_log_prob(self)

    def kl(self, other: "Dirichlet") -> Array:
        """Returns KL(self || other) [], in nats."""
        return self._expected_log_prob(self) - self._expected_log_prob(other)

    def _expected_log_prob(self, other: "Dirichlet") -> Array:
        exponent = jnp.sum((other.concentration - 1.0) * self.expected_log())
        return exponent - other._log_normalizer()

    def _log_normalizer(self) -> Array:
        return jnp.sum(gammaln(self.concentration)) - gammaln(jnp.sum(self.concentration))


class Normal(NamedTuple):
    """The distribution N(mean, covariance) in Z dimensions."""

    mean: Array  # [Z]
    covariance: Array  # [Z, Z], symmetric and positive definite

    def log_prob(self, z: Array) -> Array:
        """Returns the log-density [] of z [Z], in nats."""
        factors = cholesky.factorize(self.covariance)
        whitened = factors.inverse @ (z - self.mean)
        return -0.5 * (jnp.sum(LOG_2PI + jnp.square(whitened)) + factors.log_det())

    def entropy(self) -> Array:
        """Returns the entropy -E[log q(z)], shape [], in nats."""
        return 0.5 * (len(self.mean) * (LOG_2PI + 1.0) + _log_det(self.covariance))

    def second_moment(self) -> Array:
        """Returns E[z z'], shape [Z, Z]."""
        return self.covariance + jnp.outer(self.mean, self.mean)

    def kl(self, other: "Normal") -> Array:
        """Returns KL(self || other) [], in nats."""
        shift = self.mean - other.mean
        moved = self.covariance + jnp.outer(shift, shift)
        factors = cholesky.factorize(other.covariance)
        trace = jnp.sum((factors.inverse @ moved) * factors.inverse)
        log_dets = factors.log_det() - _log_det(self.covariance)
        return 0.5 * (trace - len(self.mean) + log_dets)


class Wishart(NamedTuple):
    """The Wishart distribution W(df, scale) over precision matrices, stored by its inverse scale.

    Data add to the inverse scale. The mean is df times the scale. The density is proportional to
    |x|^((df - D - 1) / 2) exp(-tr(inverse_scale x) / 2).
    """

    df: Array  # [], above D - 1
    inverse_scale: Array  # [D, D], symmetric and positive definite

    def mean(self) -> Array:
        """Returns E[x], shape [D, D]."""
        inverse = cholesky.factorize(self.inverse_scale).inverse
        return self.df * inverse.T @ inverse

    def expected_log_det(self) -> Array:
        """Returns E[log |x|], shape []; Bishop (2006), eq. (B.81)."""
        num_dims = len(self.inverse_scale)
        halves = 0.5 * (self.df - jnp.arange(num_dims, dtype=self.df.dtype))
        return jnp.sum(digamma(halves)) + num_dims * LOG_2 - _log_det(self.inverse_scale)

    def log_prob(self, x: Array) -> Array:
        """Returns the log-density [] of x [D, D], symmetric and positive definite, in nats."""
        exponent = 0.5 * (self.df - len(x) - 1.0) * _log_det(x)
        return exponent - 0.5 * jnp.trace(self.inverse_scale @ x) - self._log_normalizer()

    def entropy(self) -> Array:
        """Returns the entropy -E[log q(x)], shape [], in nats; Bishop (2006), eq. (B.82)."""
        return -self._expected_log_prob(self)

    def kl(self, other: "Wishart") -> Array:
        """Returns KL(self || other) [], in nats."""
        return self._expected_log_prob(self) - self._expected_log_prob(other)

    def _expected_log_prob(self, other: "Wishart") -> Array:
        exponent = 0.5 * (other.df - len(self.inverse_scale) - 1.0) * self.expected_log_det()
        inverse = cholesky.factorize(self.inverse_scale).inverse
        trace = self.df * jnp.sum((inverse @ other.inverse_scale) * inverse)
        return exponent - 0.5 * trace - other._log_normalizer()

    def _log_normalizer(self) -> Array:
        num_dims = len(self.inverse_scale)
        powers = 0.5 * self.df * (num_dims * LOG_2 - _log_det(self.inverse_scale))
        return powers + multigammaln(0.5 * self.df, num_dims)


def _log_det(positive_definite: Array) -> Array:
    return cholesky.factorize(positive_definite).log_det()
