"""Probabilistic PCA: the VAE whose encoder and decoder are linear, with every answer known.

x = W z + b + noise, z ~ N(0, I), noise ~ N(0, noise_var I); Tipping & Bishop (1999). p(x) and
p(z|x) are normal, and the greatest likelihood is an eigenvalue problem.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from aevb.classical import observations
from aevb.classical.families import Normal
from aevb.classical.matrix_normal import MatrixNormal, point_mass, regression
from aevb.distributions import LOG_2PI


class Params(NamedTuple):
    """p(x, z) = N(z; 0, I) N(x; W z + b, noise_var I)."""

    weights: Array  # W, [D, Z]
    bias: Array  # b, [D]
    noise_var: Array  # []


# Exact inference


def marginal(params: Params) -> Normal:
    """p(x) = N(b, W W' + noise_var I); Bishop (2006), eqs. (12.35) and (12.36)."""
    weights, bias, noise_var = params
    noise = noise_var * jnp.eye(len(bias), dtype=bias.dtype)
    return Normal(bias, weights @ weights.T + noise)


def log_prob(params: Params, x: Array) -> Array:
    """log p(x) of x [D], exactly -> [], nats."""
    return marginal(params).log_prob(x)


def posterior(params: Params, x: Array) -> Normal:
    """p(z|x) of x [D], exactly; its covariance is the same for all x; Bishop (2006), (12.42)."""
    latents = posteriors(params, x[None, :])
    return Normal(latents.mean[0], latents.covariance)


def bound(params: Params, x: Array, q: Normal) -> Array:
    """E_q[log p(x|z)] - KL(q || p(z)) of x [D] and any normal q -> [], nats.

    The evidence lower bound in closed form: log p(x) less KL(q || p(z|x)).
    """
    weights, bias, noise_var = params
    residual = x - bias - weights @ q.mean
    spread = jnp.sum((weights @ q.covariance) * weights)  # the trace of W S W'
    squares = (jnp.sum(jnp.square(residual)) + spread) / noise_var
    expected_log_lik = -0.5 * (len(x) * (LOG_2PI + jnp.log(noise_var)) + squares)
    return expected_log_lik - q.kl(_standard_normal(q.mean))


def _standard_normal(like: Array) -> Normal:
    return Normal(jnp.zeros_like(like), jnp.eye(len(like), dtype=like.dtype))


def posteriors(params: Params, x: Array) -> MatrixNormal:
    """`posterior` of all of x [N, D] -> of N rows."""
    weights, bias, noise_var = params
    ones = jnp.ones_like(weights[0])
    return regression(x - bias[None, :], point_mass(weights), 1.0 / noise_var, ones)


# The greatest likelihood in closed form


def maximum_likelihood(x: Array, num_latents: int) -> Params:
    """The greatest likelihood of x [N, D]; Bishop (2006), eqs. (12.45) and (12.46), with R = I.

    The columns of W are orthogonal. No rotation of them changes p(x).

    Raises:
        ValueError: x is not a matrix of finite values, num_latents is not from 1 to D - 1, or
            there are at most num_latents + 1 datapoints, on which the likelihood has no maximum.
    """
    eigenvalues, eigenvectors, noise_var = _spectrum(x, num_latents)
    return _from_spectrum(x, eigenvalues, eigenvectors, noise_var)


def spherical_maximum(x: Array, num_latents: int) -> Params:
    """The greatest bound on x [N, D] where q(z|x) = N(mean, variance I): its bias is known.

    In place of each fitted eigenvalue lambda_i of the sample covariance stands sqrt(lambda_i)
    times the mean of their roots: a guide that cannot tell the latents apart draws them together.
    The noise variance is the likelihood's. Without equal eigenvalues the bound stays below the
    greatest log-likelihood per datapoint by Z times the log of the roots' arithmetic mean over
    their geometric one.

    Raises:
        ValueError: as in `maximum_likelihood`.
    """
    eigenvalues, eigenvectors, noise_var = _spectrum(x, num_latents)
    roots = jnp.sqrt(eigenvalues)
    return _from_spectrum(x, roots * jnp.mean(roots), eigenvectors, noise_var)


def _spectrum(x: Array, num_latents: int) -> tuple[Array, Array, Array]:
    """The first Z eigenvalues [Z] and vectors [D, Z] of the covariance, the mean of the others."""
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
    # Rounding can bring an eigenvalue below the mean of those that are smaller.
    lengths = jnp.sqrt(jnp.maximum(eigenvalues - noise_var, 0.0))
    return Params(eigenvectors * lengths[None, :], jnp.mean(x, axis=0), noise_var)


def require_num_latents(num_latents: int, num_dims: int) -> None:
    """Raises a ValueError unless there are from 1 to D - 1 latents."""
    if not 1 <= num_latents < num_dims:
        raise ValueError(
            f"num_latents is {num_latents}; it must be from 1 to {num_dims - 1}, below the"
            f" {num_dims} dimensions of x"
        )
