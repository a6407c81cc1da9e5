"""A normal of unknown mean and precision: the smallest model in which mean field is not exact.

x_n ~ N(mu, 1/tau), mu | tau ~ N(mean, 1/(mean_precision tau)), tau ~ Gamma(shape, rate). The exact
posterior is of the same family. The factorized Q(mu, tau) = q(mu) q(tau) cannot represent how the
spread of mu depends on tau. The exact posterior and the optimal Q are both in closed form.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from aevb.classical import observations
from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.families import Gamma
from aevb.distributions import LOG_2PI
from aevb.reparam.location_scale import student_t
from aevb.types import Key


class NormalGamma(NamedTuple):
    """The distribution p(mu, tau) = N(mu; mean, 1/(mean_precision tau)) Gamma(tau; shape, rate)."""

    mean: Array  # []
    mean_precision: Array  # [], in units of tau: the number of observations the prior is worth
    shape: Array  # []
    rate: Array  # []

    def log_prob(self, mu: Array, tau: Array) -> Array:
        """Returns the log-density [] of mu [] and tau [] > 0, in nats."""
        log_precision = jnp.log(self.mean_precision * tau)
        squared = self.mean_precision * tau * jnp.square(mu - self.mean)
        log_normal = 0.5 * (log_precision - LOG_2PI - squared)
        return log_normal + Gamma(self.shape, self.rate).log_prob(tau)

    def variances(self) -> tuple[Array, Array]:
        """Returns Var[mu] [], of a Student's t (infinite up to shape 1), and Var[tau] []."""
        of_mu = self.rate / (self.mean_precision * jnp.maximum(self.shape - 1.0, 0.0))
        return of_mu, self.shape / jnp.square(self.rate)


def log_joint(prior: NormalGamma, x: Array, mu: Array, tau: Array) -> Array:
    """Returns log p(x, mu, tau) [] of x [N], in nats."""
    squared = tau * jnp.sum(jnp.square(x - mu))
    log_lik = 0.5 * (len(x) * (jnp.log(tau) - LOG_2PI) - squared)
    return prior.log_prob(mu, tau) + log_lik


def posterior(prior: NormalGamma, x: Array) -> NormalGamma:
    """Returns the exact posterior p(mu, tau | x) of x [N]; Murphy (2007), section 3.

    If x is empty, the posterior is the prior.

    Raises:
        ValueError: x is not a vector, or holds a non-finite value.
    """
    observations.require("x", x, "N", may_be_empty=True)
    mean_precision = prior.mean_precision + len(x)
    mean = (prior.mean_precision * prior.mean + jnp.sum(x)) / mean_precision
    squares = jnp.sum(jnp.square(x - mean))
    squares += prior.mean_precision * jnp.square(mean - prior.mean)
    return NormalGamma(mean, mean_precision, prior.shape + 0.5 * len(x), prior.rate + 0.5 * squares)


def log_evidence(prior: NormalGamma, x: Array) -> Array:
    """Returns the exact log p(x) [] of x [N], in nats: the posterior's normalizer over the prior's.

    Raises:
        ValueError: as in `posterior`.
    """

    def log_normalizer(family: NormalGamma) -> Array:
        of_tau = gammaln(family.shape) - family.shape * jnp.log(family.rate)
        return of_tau - 0.5 * jnp.log(family.mean_precision)

    known = log_normalizer(posterior(prior, x)) - log_normalizer(prior)
    return known - 0.5 * len(x) * LOG_2PI


def log_predictive(family: NormalGamma, new: Array) -> Array:
    """Returns log p(x' | family) [] of a new x' [], in nats.

    With mu and tau integrated out, x' follows a Student's t distribution.
    """
    spread = (family.mean_precision + 1.0) / family.mean_precision
    scale = jnp.sqrt(family.rate * spread / family.shape)
    params = {"location": family.mean, "scale": scale, "df": 2.0 * family.shape}
    return student_t.log_prob(params, new)


class MeanField(NamedTuple):
    """The factors of Q(mu, tau) = N(mu; mean, 1/precision) q(tau)."""

    mean: Array  # []
    precision: Array  # []
    tau: Gamma


def coordinate_ascent(prior: NormalGamma, x: Array) -> CoordinateAscent:
    """Returns mean-field coordinate ascent on x [N], under a prior that need not be flat.

    Bishop (2006), section 10.1.3. It starts at the prior. Each update depends on the other factor:
    q(mu) on the mean of tau, and q(tau) on the variance of mu.

    Raises:
        ValueError: as in `posterior`.
    """
    exact = posterior(prior, x)

    def update_mu(q: MeanField) -> MeanField:
        return q._replace(mean=exact.mean, precision=exact.mean_precision * q.tau.mean())

    def update_tau(q: MeanField) -> MeanField:
        # Its shape exceeds the exact posterior's by 1/2: mu counts as one more observation.
        return q._replace(tau=Gamma(exact.shape + 0.5, _expected_rate(q)))

    def _expected_rate(q: MeanField) -> Array:
        away = jnp.square(q.mean - exact.mean) + 1.0 / q.precision
        return exact.rate + 0.5 * exact.mean_precision * away

    def bound(q: MeanField) -> Array:
        """Returns E[log p(x, mu, tau)] + the entropies of both factors."""
        log_tau = q.tau.expected_log()
        powers = (exact.shape - 0.5) * log_tau - _expected_rate(q) * q.tau.mean()
        constants = prior.shape * jnp.log(prior.rate) - gammaln(prior.shape)
        constants += 0.5 * (jnp.log(prior.mean_precision) - (len(x) + 1) * LOG_2PI)
        entropy_of_mu = 0.5 * (LOG_2PI + 1.0 - jnp.log(q.precision))
        return powers + constants + entropy_of_mu + q.tau.entropy()

    def init(key: Key) -> MeanField:
        del key  # no random start is needed: the bound has one maximum
        tau = Gamma(prior.shape, prior.rate)
        return MeanField(prior.mean, prior.mean_precision * tau.mean(), tau)

    return CoordinateAscent(init, {"mu": update_mu, "tau": update_tau}, bound)


def mean_field_optimum(prior: NormalGamma, x: Array) -> MeanField:
    """Returns the fixed point of coordinate ascent on x [N], in closed form.

    Both updates are stationary if E[tau] is that of the exact posterior. The variance of mu is then
    (shape - 1) / shape times the exact one, and that of tau shape / (shape + 1/2) times the exact
    one, with the shape of the exact posterior.

    Raises:
        ValueError: as in `posterior`.
    """
    exact = posterior(prior, x)
    expected_tau = exact.shape / exact.rate
    shape = exact.shape + 0.5
    return MeanField(
        exact.mean, exact.mean_precision * expected_tau, Gamma(shape, shape / expected_tau)
    )
