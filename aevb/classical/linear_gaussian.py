"""Probabilistic PCA: the VAE with a linear encoder and decoder, in closed form.

x = W z + b + noise, z ~ N(0, I), noise ~ N(0, noise_var I); Tipping & Bishop (1999). p(x) and
p(z|x) are normal, and maximum likelihood is an eigenvalue problem.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from aevb.classical import observations
from aevb.classical.families import Normal
from aevb.classical.matrix_normal import MatrixNormal, point_mass, regression
from aevb.distributions import LOG_2PI


class Params(NamedTuple):
    """Parameters of p(x, z) = N(z; 0, I) N(x; W z + b, noise_var I)."""

    weights: Array  # W, [D, Z]
    bias: Array  # b, [D]
    noise_var: Array  # []


# Exact inference


def marginal(params: Params) -> Normal:
    """Returns p(x) = N(b, W W' + noise_var I); Bishop (2006), eqs. (12.35) and (12.36)."""
    weights, bias, noise_var = params
    noise = noise_var * jnp.eye(len(bias), dtype=bias.dtype)
    return Normal(bias, weights @ weights.T + noise)


def log_prob(params: Params, x: Array) -> Array:
    """Returns the exact log p(x) [] of x [D], in nats."""
    return marginal(params).log_prob(x)


def posterior(params: Params, x: Array) -> Normal:
    """Returns the exact posterior p(z|x) of x [D]; Bishop (2006), eq. (12.42).

    Its covariance is the same for all x.
    """
    latents = posteriors(params, x[None, :])
    return Normal(latents.mean[0], latents.covariance)


def bound(params: Params, x: Array, q: Normal) -> Array:
    """Returns E_q[log p(x|z)] - KL(q || p(z)) [] of x [D] and any normal q, in nats.

    This is the evidence lower bound in closed form: log p(x) minus KL(q || p(z|x)).
    """
    weights, bias, noise_var = params
    residual = x - bias - weights @ q.mean
    spread = jnp.sum((weights @ q.covariance) * weights)  # trace of W S W', S the covariance of q
    squares = (jnp.sum(jnp.square(residual)) + spread) / noise_var
    expected_log_lik = -0.5 * (len(x) * (LOG_2PI + jnp.log(noise_var)) + squares)
    return expected_log_lik - q.kl(_standard_normal(q.mean))


def _standard_normal(like: Array) -> Normal:
    return Normal(jnp.zeros_like(like), jnp.eye(len(like), dtype=like.dtype))


def posteriors(params: Params, x: Array) -> MatrixNormal:
    """Returns `posterior` for all of x [N, D], as one distribution of N rows."""
    weights, bias, noise_var = params
    ones = jnp.ones_like(weights[0])
    return regression(x - bias[None, :], point_mass(weights), 1.0 / noise_var, ones)


# Maximum likelihood in closed form


def maximum_likelihood(x: Array, num_latents: int) -> Params:
    """Returns the maximum-likelihood parameters of x [N, D], with Z = num_latents.

    Bishop (2006), eqs. (12.45) and (12.46), with R = I. The columns of W are orthogonal. Rotating
    W does not change p(x).

    Raises:
        ValueError: x is not a matrix of finite values, num_latents is not from 1 to D - 1, or
            there are at most num_latents + 1 datapoints, for which the likelihood has no maximum.
    """
    eigenvalues, eigenvectors, noise_var = _spectrum(x, num_latents)
    return _from_spectrum(x, eigenvalues, eigenvectors, noise_var)


def spherical_maximum(x: Array, num_latents: int) -> Params:
    """Returns the parameters with the greatest bound on x [N, D] if q(z|x) = N(mean, variance I).

    The effect of this guide is known exactly. Each fitted eigenvalue lambda_i of the sample
    covariance is replaced by sqrt(lambda_i) times the mean of the square roots, so a guide with one
    variance for all latents draws the eigenvalues together. The noise variance is that of maximum
    likelihood. Unless the eigenvalues are equal, the bound per datapoint stays below the greatest
    log-likelihood by Z times the log of the ratio of the roots' arithmetic mean to their geometric
    mean.

    Raises:
        ValueError: as in `maximum_likelihood`.
    """
    eigenvalues, eigenvectors, noise_var = _spectrum(x, num_latents)
    roots = jnp.sqrt(eigenvalues)
    return _from_spectrum(x, roots * jnp.mean(roots), eigenvectors, noise_var)


def _spectrum(x: Array, num_latents: int) -> tuple[Array, Array, Array]:
    """Returns the leading part of the spectrum of the covariance of x [N, D].

    Returns:
        The Z largest eigenvalues in decreasing order [Z], their eigenvectors [D, Z], and the mean
        of the other eigenvalues [].
    """
    observations.require("x", x, "ND")
    require_num_latents(num_latents, x.shape[1])
    if len(x) <= num_latents + 1:
        raise ValueError(
            f"x holds {len(x)} datapoints; {num_latents} latents need at least {num_latents + 2},"
            " so add data or take fewer latents"
        )
    centred = x - jnp.mean(x, axis=0, keepdims=True)
    eigenvalues, eigenvectors = jnp.linalg.eigh(centred.T @ centred / len(x))
    noise_var = jnp.mean(eigenvalues[:-num_latents])
    return eigenvalues[-num_latents:][::-1], eigenvectors[:, -num_latents:][:, ::-1], noise_var


def _from_spectrum(x: Array, eigenvalues: Array, eigenvectors: Array, noise_var: Array) -> Params:
    # Rounding can put an eigenvalue below the mean of the smaller ones.
    lengths = jnp.sqrt(jnp.maximum(eigenvalues - noise_var, 0.0))
    return Params(eigenvectors * lengths[None, :], jnp.mean(x, axis=0), noise_var)


def require_num_latents(num_latents: int, num_dims: int) -> None:
    """Raises a ValueError unless num_latents is from 1 to D - 1."""
    if not 1 <= num_latents < num_dims:
        raise ValueError(
            f"num_latents is {num_latents}; it must be from 1 to {num_dims - 1}, below the"
            f" {num_dims} dimensions of x"
        )
