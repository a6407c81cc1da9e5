"""Bayesian linear regression: weights, their precision and the noise's, and Occam's razor.

y_n ~ N(x_n'w, 1/beta), w ~ N(0, I/alpha), alpha and beta Gamma; Bishop (2006), section 10.3, with
the noise unknown as well. At fixed alpha and beta everything is closed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical import observations
from aevb.classical.coordinate_ascent import CoordinateAscent, ascend
from aevb.classical.families import Gamma, Normal
from aevb.distributions import LOG_2PI
from aevb.types import Key


class Prior(NamedTuple):
    """The priors of both precisions."""

    weight_precision: Gamma  # of alpha
    noise_precision: Gamma  # of beta


# At known precisions


def posterior(design: Array, y: Array, weight_precision: Array, noise_precision: Array) -> Normal:
    """p(w | y, alpha, beta) of a design [N, D] and y [N]; Bishop (2006), eqs. (3.53), (3.54).

    Args:
        weight_precision: alpha, [], or [D] for one of each weight.
    """
    diagonal = jnp.broadcast_to(weight_precision, design.shape[1:])
    covariance = jnp.linalg.inv(jnp.diag(diagonal) + noise_precision * design.T @ design)
    return Normal(noise_precision * covariance @ (design.T @ y), covariance)


def log_evidence(design: Array, y: Array, weight_precision: Array, noise_precision: Array) -> Array:
    """log p(y | alpha, beta) of a design [N, D] and y [N], exactly -> [], nats.

    y ~ N(0, I/beta + X X'/alpha). A column of zeros changes nothing.
    """
    noise = jnp.eye(len(y), dtype=y.dtype) / noise_precision
    return Normal(jnp.zeros_like(y), noise + design @ design.T / weight_precision).log_prob(y)


def greatest_log_lik(design: Array, y: Array) -> Array:
    """The greatest log p(y | w, beta) over w and beta -> [], nats. It never falls with columns."""
    weights = jnp.linalg.lstsq(design, y)[0]
    mean_square = jnp.mean(jnp.square(y - design @ weights))
    return -0.5 * len(y) * (LOG_2PI + 1.0 + jnp.log(mean_square))


# Mean field


class MeanField(NamedTuple):
    """Q(w, alpha, beta) = q(w) q(alpha) q(beta)."""

    weights: Normal  # of D dimensions
    weight_precision: Gamma
    noise_precision: Gamma


def coordinate_ascent(
    design: Array, y: Array, prior: Prior, active: Array | None = None
) -> CoordinateAscent:
    """Mean field on a design [N, D] and y [N]; Bishop (2006), section 10.3.

    The means of alpha and beta come to rest where those of evidence maximization (MacKay 1992) do
    under the same Gammas.

    Args:
        active: [D], of bools: the columns that take part, by default all. The bound is that of
            the design without the others, so that `jax.vmap` compares models of many sizes.

    Raises:
        ValueError: design or y is empty, not finite or of another rank, or their lengths differ.
    """
    observations.require("design", design, "ND")
    observations.require("y", y, "N")
    observations.require_equal_lengths(design=design, y=y)
    num_data, num_columns = design.shape
    in_use = jnp.ones(num_columns, bool) if active is None else active
    design = jnp.where(in_use[None, :], design, 0.0)
    num_active = jnp.sum(in_use, dtype=design.dtype)

    def update_weights(q: MeanField) -> MeanField:
        # A weight that takes no part has a prior and a factor of N(0, 1), whose KL is 0.
        precisions = jnp.where(in_use, q.weight_precision.mean(), 1.0)
        return q._replace(weights=posterior(design, y, precisions, q.noise_precision.mean()))

    def update_weight_precision(q: MeanField) -> MeanField:
        shape = prior.weight_precision.shape + 0.5 * num_active
        rate = prior.weight_precision.rate + 0.5 * _squared_length(q.weights)
        return q._replace(weight_precision=Gamma(shape, rate))

    def update_noise_precision(q: MeanField) -> MeanField:
        shape = prior.noise_precision.shape + 0.5 * num_data
        rate = prior.noise_precision.rate + 0.5 * _squared_error(q.weights)
        return q._replace(noise_precision=Gamma(shape, rate))

    def _squared_length(weights: Normal) -> Array:
        """E[w'w] of those in use."""
        return jnp.sum(jnp.where(in_use, jnp.diagonal(weights.second_moment()), 0.0))

    def _squared_error(weights: Normal) -> Array:
        """E||y - X w||^2."""
        spread = jnp.sum((design @ weights.covariance) * design)
        return jnp.sum(jnp.square(y - design @ weights.mean)) + spread

    def bound(q: MeanField) -> Array:
        """E[log p(y, w | alpha, beta)] + the entropy of q(w) - the KLs of q(alpha) and q(beta)."""
        alpha, beta = q.weight_precision, q.noise_precision
        log_lik = num_data * (beta.expected_log() - LOG_2PI)
        log_lik -= beta.mean() * _squared_error(q.weights)
        of_weights = num_active * (alpha.expected_log() - LOG_2PI)
        of_weights -= alpha.mean() * _squared_length(q.weights)
        of_others = (num_columns - num_active) * (LOG_2PI + 1.0)
        joint = 0.5 * (log_lik + of_weights - of_others)
        kl = alpha.kl(prior.weight_precision) + beta.kl(prior.noise_precision)
        return joint + q.weights.entropy() - kl

    def init(key: Key) -> MeanField:
        """Both precisions at their priors, and what the weights then are."""
        del key  # a start is not needed to break a symmetry
        weights = Normal(jnp.zeros_like(design[0]), jnp.eye(num_columns, dtype=design.dtype))
        return update_weights(MeanField(weights, *prior))

    updates = {
        "noise_precision": update_noise_precision,
        "weight_precision": update_weight_precision,
        "weights": update_weights,
    }
    return CoordinateAscent(init, updates, bound)


# Which degree


def polynomial(x: Array, degree: int) -> Array:
    """Legendre's polynomials of degree 0 to `degree` at x [N], from -1 to 1 -> [N, degree + 1].

    They span what the powers do. Being orthogonal on [-1, 1] they keep float32's digits, and one
    prior of all weights treats degrees alike.

    Raises:
        ValueError: degree is below 0, or x is empty, not finite or no vector.
    """
    observations.require("x", x, "N")
    if degree < 0:
        raise ValueError(f"degree is {degree}; it must be at least 0")
    columns = [jnp.ones_like(x), x]
    for n in range(1, degree):
        columns.append(((2 * n + 1) * x * columns[n] - n * columns[n - 1]) / (n + 1))
    return jnp.stack(columns[: degree + 1], axis=1)


class Occam(NamedTuple):
    """How good polynomials of degree 0, 1, ... are; nats."""

    bound: Array  # [degrees]; it has a top
    greatest_log_lik: Array  # [degrees]; it only rises


def occams_razor(x: Array, y: Array, prior: Prior, *, max_degree: int, num_sweeps: int) -> Occam:
    """The bound and the greatest log-likelihood of y [N] at x [N], of each degree to the last.

    Raises:
        ValueError: as in `polynomial` and `coordinate_ascent`.
    """
    design = polynomial(x, max_degree)

    def of_degree(active: Array) -> Occam:
        problem = coordinate_ascent(design, y, prior, active)
        _, bounds = ascend(problem, problem.init(jax.random.key(0)), num_sweeps=num_sweeps)
        best = greatest_log_lik(jnp.where(active[None, :], design, 0.0), y)
        return Occam(bounds[-1, -1], best)

    return jax.vmap(of_degree)(jnp.tri(max_degree + 1, dtype=bool))
