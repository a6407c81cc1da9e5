"""Bayesian PCA: the number of latent dimensions is learned along with the parameters.

x_n = W z_n + mu + noise, z_n ~ N(0, I), noise ~ N(0, I/tau); column z of W ~ N(0, I/alpha_z), and
mu ~ N(0, I/mean_precision); alpha_z and tau Gamma. Bishop (1999), "Variational principal
components". If the data do not support a column, its alpha_z grows and the column vanishes.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from aevb.classical import observations
from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.families import Gamma
from aevb.classical.linear_gaussian import Params
from aevb.classical.linear_gaussian_em import expected_log_lik, first_weights, less_divergence
from aevb.classical.matrix_normal import MatrixNormal, expected_square, regression
from aevb.types import Key


class Prior(NamedTuple):
    """The priors of all parameters, the same for every dimension and every column."""

    mean_precision: Array  # [], precision of mu
    weight_precision: Gamma  # prior of each alpha_z
    noise_precision: Gamma  # prior of tau


class Location(NamedTuple):
    """The factor q(mu) = N(mean, I/precision)."""

    mean: Array  # [D]
    precision: Array  # []


class MeanField(NamedTuple):
    """The factors of Q = prod_n q(z_n) q(mu) prod_d q(w_d) prod_z q(alpha_z) q(tau).

    w_d are the rows of W.
    """

    latents: MatrixNormal  # N rows
    location: Location
    weights: MatrixNormal  # D rows
    weight_precision: Gamma  # its parameters are [Z]
    noise_precision: Gamma


def coordinate_ascent(
    x: Array, num_latents: int, prior: Prior, active: Array | None = None
) -> CoordinateAscent:
    """Returns mean-field coordinate ascent on x [N, D] with up to Z latents.

    Bishop (1999), section 3. The start is random, since equal columns would stay equal. Convergence
    is slow at the end: the last nats come from rotating W among columns that already fit the data,
    which needs steps of many factors at once.

    Args:
        active: [Z], bool: the latents that take part, by default all. The bound is that of a model
            without the others, so `jax.vmap` can compare models of many sizes.

    Raises:
        ValueError: x is not a matrix of finite values, or num_latents is below 1.
    """
    observations.require("x", x, "ND")
    if num_latents < 1:
        raise ValueError(f"num_latents is {num_latents}; it must be at least 1")
    num_data, num_dims = x.shape
    in_use = jnp.ones(num_latents, bool) if active is None else active
    ones = jnp.ones(num_latents, x.dtype)

    # An inactive part keeps its prior, with a KL of 0: N(0, 1) for a latent and its weights.

    def centred(q: MeanField) -> Array:
        return x - q.location.mean[None, :]

    def expected_precisions(alpha: Gamma) -> tuple[Array, Array]:
        """Returns E[alpha_z] [Z] and E[log alpha_z] [Z]."""
        return jnp.where(in_use, alpha.mean(), 1.0), jnp.where(in_use, alpha.expected_log(), 0.0)

    def update_latents(q: MeanField) -> MeanField:
        weights = q.weights.masked(in_use)
        return q._replace(latents=regression(centred(q), weights, q.noise_precision.mean(), ones))

    def update_location(q: MeanField) -> MeanField:
        tau = q.noise_precision.mean()
        residual = x - q.latents.mean @ q.weights.masked(in_use).mean.T
        precision = prior.mean_precision + num_data * tau
        return q._replace(location=Location(tau * jnp.sum(residual, axis=0) / precision, precision))

    def update_weights(q: MeanField) -> MeanField:
        precisions, _ = expected_precisions(q.weight_precision)
        latents = q.latents.masked(in_use)
        tau = q.noise_precision.mean()
        return q._replace(weights=regression(centred(q).T, latents, tau, precisions))

    def update_weight_precision(q: MeanField) -> MeanField:
        squares = jnp.diagonal(q.weights.gram())
        shape = prior.weight_precision.shape + jnp.where(in_use, 0.5 * num_dims, 0.0)
        rate = prior.weight_precision.rate + jnp.where(in_use, 0.5 * squares, 0.0)
        return q._replace(weight_precision=Gamma(shape, rate))

    def update_noise_precision(q: MeanField) -> MeanField:
        shape = prior.noise_precision.shape + 0.5 * x.size
        rate = prior.noise_precision.rate + 0.5 * _squared_error(q)
        return q._replace(noise_precision=Gamma(shape, rate))

    def _squared_error(q: MeanField) -> Array:
        """Returns E||X - Z W' - 1 mu'||^2."""
        of_rest = expected_square(centred(q), q.latents, q.weights.masked(in_use))
        return of_rest + x.size / q.location.precision

    def bound(q: MeanField) -> Array:
        """Returns E[log p(x | latents, parameters)] minus the KL of every factor to its prior."""
        alpha, tau = q.weight_precision, q.noise_precision
        log_lik = expected_log_lik(x.size, tau.mean(), tau.expected_log(), _squared_error(q))
        of_weights = q.weights.expected_log_prob(*expected_precisions(alpha)) + q.weights.entropy()
        kl = tau.kl(prior.noise_precision) + jnp.sum(alpha.kl(prior.weight_precision))
        return log_lik + less_divergence(q.latents) + of_weights - _location_kl(q.location) - kl

    def _location_kl(location: Location) -> Array:
        ratio = prior.mean_precision / location.precision
        squares = prior.mean_precision * jnp.sum(jnp.square(location.mean))
        return 0.5 * (num_dims * (ratio - 1.0 - jnp.log(ratio)) + squares)

    def init(key: Key) -> MeanField:
        """Returns random weights of the scale of the data, and all variance as noise."""
        mean, variance = first_weights(key, x, num_latents)
        scale = variance / num_latents
        weights = MatrixNormal(mean, scale * jnp.diag(ones))
        alpha_shape = (prior.weight_precision.shape + 0.5 * num_dims) * ones
        tau_shape = prior.noise_precision.shape + 0.5 * x.size
        location = Location(jnp.mean(x, axis=0), prior.mean_precision + num_data / variance)
        alpha = Gamma(alpha_shape, alpha_shape * scale)
        tau = Gamma(tau_shape, tau_shape * variance)
        latents = MatrixNormal(jnp.zeros((num_data, num_latents), x.dtype), jnp.diag(ones))
        q = update_latents(MeanField(latents, location, weights, alpha, tau))
        return update_weight_precision(update_weights(q))

    updates = {
        "latents": update_latents,
        "location": update_location,
        "weights": update_weights,
        "weight_precision": update_weight_precision,
        "noise_precision": update_noise_precision,
    }
    return CoordinateAscent(init, updates, bound)


def params_at_mean(q: MeanField) -> Params:
    """Returns probabilistic PCA at the means of W, mu and tau; all latents must be active."""
    return Params(q.weights.mean, q.location.mean, 1.0 / q.noise_precision.mean())


def relevance(q: MeanField) -> Array:
    """Returns ||E[w_z]||^2 over the noise variance, for each latent [Z].

    It is the variance that the latent adds along its direction, in units of the noise variance. It
    is near 0 if automatic relevance determination (ARD) removed the latent.
    """
    return q.noise_precision.mean() * jnp.sum(jnp.square(q.weights.mean), axis=0)
