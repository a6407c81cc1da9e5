"""Probabilistic PCA of data with missing values, which are NaN, with exact inference.

The values that were seen are normal too, so that log p(x_seen), p(z | x_seen) and the missing
values given the seen ones are all in closed form. Maximum likelihood has none, and is found by EM.
Values are missing at random: whether one is may depend on what was seen, and not on what was not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from aevb.classical import cholesky
from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.families import Normal
from aevb.classical.linear_gaussian import Params, require_num_latents
from aevb.classical.linear_gaussian_em import first_weights
from aevb.distributions import LOG_2PI
from aevb.types import Key


def posterior(params: Params, x: Array) -> Normal:
    """Returns p(z | x_seen) of x [D], in which NaN was not seen."""
    weights, bias, noise_var = params
    residual = jnp.where(jnp.isnan(x), 0.0, x - bias)
    inverse = _precision(params, x).inverse
    covariance = inverse.T @ inverse
    return Normal(covariance @ (weights.T @ residual) / noise_var, covariance)


def _precision(params: Params, x: Array) -> cholesky.Factors:
    """Returns the factors of the precision of p(z | x_seen)."""
    of_seen = jnp.where(jnp.isnan(x)[:, None], 0.0, params.weights)
    identity = jnp.eye(params.weights.shape[1], dtype=of_seen.dtype)
    return cholesky.factorize(identity + of_seen.T @ of_seen / params.noise_var)


def log_prob(params: Params, x: Array) -> Array:
    """Returns log p(x_seen) [] of x [D], in nats; 0 if nothing was seen.

    It is log p(x_seen, z) - log p(z | x_seen) at the posterior's mean of z.
    """
    mean = posterior(params, x).mean
    residual = jnp.where(jnp.isnan(x), 0.0, x - params.bias - params.weights @ mean)
    squares = jnp.sum(jnp.square(residual)) / params.noise_var + jnp.sum(jnp.square(mean))
    log_norms = jnp.sum(jnp.where(jnp.isnan(x), 0.0, LOG_2PI + jnp.log(params.noise_var)))
    return -0.5 * (log_norms + squares + _precision(params, x).log_det())


class Missing(NamedTuple):
    """The values of x given the seen ones, which are known."""

    mean: Array  # [D]
    variance: Array  # [D], of each value on its own; 0 of a seen one


def conditional(params: Params, x: Array) -> Missing:
    """Returns the mean and the variance of each missing value of x [D] given the seen ones."""
    is_seen = ~jnp.isnan(x)
    mean, covariance = posterior(params, x)
    spread = jnp.sum((params.weights @ covariance) * params.weights, axis=1) + params.noise_var
    return Missing(
        jnp.where(is_seen, x, params.weights @ mean + params.bias),
        jnp.where(is_seen, 0.0, spread),
    )


def em(x: Array, num_latents: int) -> CoordinateAscent:
    """Returns EM on x [N, D], which NaN may be missing from; its state is the `Params`.

    The bound is the log-likelihood of all that was seen, in nats, and never falls. An update has an
    exact E step, and an M step for the weights and biases of each dimension, by its seen values,
    and then for the noise variance. Ilin & Raiko (2010) compare it with other algorithms.

    Raises:
        ValueError: x is not a matrix, or a column has no seen value, or num_latents is not from 1
            to D - 1.
    """
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; it must be [N, D], so reshape it")
    require_num_latents(num_latents, x.shape[1])
    is_seen = ~jnp.isnan(x)
    weight, known = is_seen.astype(x.dtype), jnp.where(is_seen, x, 0.0)
    num_seen = jnp.sum(weight, axis=0)
    if not isinstance(num_seen, Tracer) and not bool(jnp.all(num_seen > 0)):
        column = int(jnp.argmin(num_seen))
        raise ValueError(f"column {column} of x has no seen value; leave the column out")

    def update(params: Params) -> Params:
        mean, covariance = jax.vmap(lambda one: posterior(params, one))(x)
        with_one = jnp.concatenate([mean, jnp.ones_like(mean[:, :1])], axis=1)  # [N, Z + 1]
        padded = jnp.pad(covariance, ((0, 0), (0, 1), (0, 1)))
        seconds = padded + with_one[:, :, None] * with_one[:, None, :]
        gram = jnp.einsum("nd,nij->dij", weight, seconds)
        rows = jnp.linalg.solve(gram, (known.T @ with_one)[..., None])[..., 0]  # [D, Z + 1]
        residual = jnp.square(known - with_one @ rows.T) * weight
        of_z = jnp.einsum("nd,nij->dij", weight, padded)
        spread = jnp.einsum("dij,di,dj->", of_z, rows, rows)
        noise_var = (jnp.sum(residual) + spread) / jnp.sum(num_seen)
        return Params(rows[:, :-1], rows[:, -1], noise_var)

    def init(key: Key) -> Params:
        mean = jnp.sum(known, axis=0) / num_seen
        filled = jnp.where(is_seen, x, mean[None, :])
        weights, noise_var = first_weights(key, filled, num_latents)
        return Params(weights, mean, noise_var)

    def log_likelihood(params: Params) -> Array:
        return jnp.sum(jax.vmap(lambda one: log_prob(params, one))(x))

    return CoordinateAscent(init, {"parameters": update}, log_likelihood)
