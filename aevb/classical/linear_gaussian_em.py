"""EM, variational EM and variational Bayes for probabilistic PCA: three restrictions on Q.

All three raise the same bound. EM has a point estimate of the parameters and an unrestricted q(z).
Variational EM restricts q(z) to a smaller family. Variational Bayes also has a distribution over
the weights.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical import observations
from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.linear_gaussian import Params, posteriors, require_num_latents
from aevb.classical.matrix_normal import MatrixNormal, expected_square, point_mass, regression
from aevb.distributions import LOG_2PI
from aevb.types import Key

GuideFamily = Literal["full", "diagonal", "spherical"]


class Fit(NamedTuple):
    """A point estimate of the parameters, and q(z_n) for every datapoint."""

    params: Params
    latents: MatrixNormal  # N rows


def em(x: Array, num_latents: int) -> CoordinateAscent:
    """Returns EM on x [N, D] as coordinate ascent; Bishop (2006), eqs. (12.54) to (12.57).

    After the E step the bound equals the log-likelihood of all of x, which therefore never falls.

    Raises:
        ValueError: x is not a matrix of finite values, or num_latents is not from 1 to D - 1.
    """
    return variational_em(x, num_latents, guide="full")


def variational_em(x: Array, num_latents: int, *, guide: GuideFamily) -> CoordinateAscent:
    """Returns EM on x [N, D] whose E step finds the best q(z_n) in a family of normals.

    In each family the means are the posterior's. Let P be the posterior's precision. A diagonal
    covariance has entries 1/P_ii and can become exact, since W may rotate until its columns are
    orthogonal. A spherical one has the variance Z/tr(P) and biases the parameters; see
    `spherical_maximum`.

    Raises:
        ValueError: x is not a matrix of finite values, num_latents is not from 1 to D - 1, or the
            guide is unknown.
    """
    observations.require("x", x, "ND")
    require_num_latents(num_latents, x.shape[1])
    if guide not in ("full", "diagonal", "spherical"):
        raise ValueError(f"guide is {guide!r}; it must be 'full', 'diagonal' or 'spherical'")

    def restricted(covariance: Array) -> Array:
        if guide == "full":
            return covariance
        precisions = jnp.diagonal(jnp.linalg.inv(covariance))
        if guide == "spherical":
            precisions = jnp.full_like(precisions, jnp.mean(precisions))
        return jnp.diag(1.0 / precisions)

    def update_z(fit: Fit) -> Fit:
        exact = posteriors(fit.params, x)
        return fit._replace(latents=MatrixNormal(exact.mean, restricted(exact.covariance)))

    def update_weights(fit: Fit) -> Fit:
        centred = x - fit.params.bias[None, :]
        weights = jnp.linalg.solve(fit.latents.gram(), fit.latents.mean.T @ centred).T
        return fit._replace(params=fit.params._replace(weights=weights))

    def update_noise_var(fit: Fit) -> Fit:
        return fit._replace(params=fit.params._replace(noise_var=_square(fit) / x.size))

    def _square(fit: Fit) -> Array:
        centred = x - fit.params.bias[None, :]
        return expected_square(centred, fit.latents, point_mass(fit.params.weights))

    def bound_of_all(fit: Fit) -> Array:
        noise_precision = 1.0 / fit.params.noise_var
        log_lik = expected_log_lik(x.size, noise_precision, jnp.log(noise_precision), _square(fit))
        return log_lik + less_divergence(fit.latents)

    def init(key: Key) -> Fit:
        weights, noise_var = first_weights(key, x, num_latents)
        params = Params(weights, jnp.mean(x, axis=0), noise_var)
        return update_z(Fit(params, posteriors(params, x)))

    updates = {"z": update_z, "weights": update_weights, "noise_var": update_noise_var}
    return CoordinateAscent(init, updates, bound_of_all)


def first_weights(key: Key, x: Array, num_latents: int) -> tuple[Array, Array]:
    """Returns a random W [D, Z], and the mean variance [] of the dimensions of x [N, D].

    W is scaled such that W z alone would have this mean variance.
    """
    variance = jnp.mean(jnp.var(x, axis=0))
    variance = jnp.where(variance > 0.0, variance, 1.0)  # constant data have no scale
    noise = jax.random.normal(key, (x.shape[1], num_latents), x.dtype)
    return jnp.sqrt(variance / num_latents) * noise, variance


# Variational Bayes: a distribution over the weights as well


class Factors(NamedTuple):
    """The factors of Q(Z, W) = prod_n q(z_n) prod_d q(w_d), with w_d the rows of W."""

    latents: MatrixNormal  # N rows
    weights: MatrixNormal  # D rows


def variational_bayes(
    x: Array,
    num_latents: int,
    *,
    bias: Array,
    noise_var: Array,
    weight_precision: Array,
    num_copies: int = 1,
) -> CoordinateAscent:
    """Returns variational Bayes of x [N, D]: coordinate ascent on Q(Z) Q(W).

    The prior is W_dz ~ N(0, 1/weight_precision); the bias and the noise variance are known. EM is
    the limit in which q(W) is a point mass. Repeating the data approaches this limit: the
    covariance of q(W), the prior's influence, and the difference between the mean of W and EM's
    weights all fall as 1 / num_copies.

    Args:
        bias: [D].
        noise_var: [].
        weight_precision: [].
        num_copies: the number of copies of x. The bound is on log p of all copies, which have the
            same q(z).

    Raises:
        ValueError: x is not a matrix of finite values, or num_latents is not from 1 to D - 1.
    """
    observations.require("x", x, "ND")
    require_num_latents(num_latents, x.shape[1])
    centred = x - bias[None, :]
    noise_precision = 1.0 / noise_var
    ones = jnp.ones(num_latents, x.dtype)
    precision = weight_precision * ones

    def update_z(q: Factors) -> Factors:
        return q._replace(latents=regression(centred, q.weights, noise_precision, ones))

    def update_weights(q: Factors) -> Factors:
        of_all = num_copies * noise_precision
        return q._replace(weights=regression(centred.T, q.latents, of_all, precision))

    def bound_of_all(q: Factors) -> Array:
        square = expected_square(centred, q.latents, q.weights)
        log_lik = expected_log_lik(x.size, noise_precision, jnp.log(noise_precision), square)
        of_weights = q.weights.expected_log_prob(precision, jnp.log(precision))
        of_copies = num_copies * (log_lik + less_divergence(q.latents))
        return of_copies + of_weights + q.weights.entropy()

    def init(key: Key) -> Factors:
        mean, variance = first_weights(key, x, num_latents)
        spread = variance / num_latents * jnp.eye(num_latents, dtype=x.dtype)
        weights = MatrixNormal(mean, spread)
        return Factors(regression(centred, weights, noise_precision, ones), weights)

    return CoordinateAscent(init, {"z": update_z, "weights": update_weights}, bound_of_all)


def expected_log_lik(size: int, precision: Array, log_precision: Array, square: Array) -> Array:
    """Returns E[log prod N(.; 0, 1/precision)] over `size` values, shape [], in nats.

    `square` is the expected sum of the squared values.
    """
    return 0.5 * (size * (log_precision - LOG_2PI) - precision * square)


def less_divergence(latents: MatrixNormal) -> Array:
    """Returns -Sum_n KL(q(z_n) || N(0, I)) [], in nats."""
    ones = jnp.ones_like(latents.mean[0])
    return latents.expected_log_prob(ones, jnp.zeros_like(ones)) + latents.entropy()
