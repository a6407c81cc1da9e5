"""Bayesian linear regression with unknown weight and noise precisions, and Occam's razor.

y_n ~ N(x_n'w, 1/beta), w ~ N(0, I/alpha), alpha and beta Gamma; Bishop (2006), section 10.3, here
with the noise unknown as well. At fixed alpha and beta everything is in closed form.
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
    """The priors of the two precisions."""

    weight_precision: Gamma  # prior of alpha
    noise_precision: Gamma  # prior of beta


# At known precisions


def posterior(design: Array, y: Array, weight_precision: Array, noise_precision: Array) -> Normal:
    """Returns p(w | y, alpha, beta) of a design [N, D] and y [N].

    Bishop (2006), eqs. (3.53) and (3.54).

    Args:
        weight_precision: alpha, [], or [D] with one value for each weight.
        noise_precision: beta, [].
    """
    diagonal = jnp.broadcast_to(weight_precision, design.shape[1:])
    covariance = jnp.linalg.inv(jnp.diag(diagonal) + noise_precision * design.T @ design)
    return Normal(noise_precision * covariance @ (design.T @ y), covariance)


def log_evidence(design: Array, y: Array, weight_precision: Array, noise_precision: Array) -> Array:
    """Returns the exact log p(y | alpha, beta) [] of a design [N, D] and y [N], in nats.

    y ~ N(0, I/beta + X X'/alpha). A column of zeros changes nothing.
    """
    noise = jnp.eye(len(y), dtype=y.dtype) / noise_precision
    return Normal(jnp.zeros_like(y), noise + design @ design.T / weight_precision).log_prob(y)


def greatest_log_lik(design: Array, y: Array) -> Array:
    """Returns the maximum of log p(y | w, beta) over w and beta [], in nats.

    An additional column never lowers it.
    """
    weights = jnp.linalg.lstsq(design, y)[0]
    mean_square = jnp.mean(jnp.square(y - design @ weights))
    return -0.5 * len(y) * (LOG_2PI + 1.0 + jnp.log(mean_square))


# Mean field


class MeanField(NamedTuple):
    """The factors of Q(w, alpha, beta) = q(w) q(alpha) q(beta)."""

    weights: Normal  # D dimensions
    weight_precision: Gamma
    noise_precision: Gamma


def coordinate_ascent(
    design: Array, y: Array, prior: Prior, active: Array | None = None
) -> CoordinateAscent:
    """Returns mean-field coordinate ascent on a design [N, D] and y [N].

    Bishop (2006), section 10.3. The means of alpha and beta converge to those of evidence
    maximization (MacKay 1992) under the same Gamma priors.

    Args:
        active: [D], bool: the columns that take part, by default all. The bound is that of the
            design without the other columns, so `jax.vmap` can compare models of many sizes.

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
        # An inactive weight has a prior and a factor of N(0, 1), whose KL is 0.
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
        """Returns E[w'w] over the active columns."""
        return jnp.sum(jnp.where(in_use, jnp.diagonal(weights.second_moment()), 0.0))

    def _squared_error(weights: Normal) -> Array:
        """Returns E||y - X w||^2."""
        spread = jnp.sum((design @ weights.covariance) * design)
        return jnp.sum(jnp.square(y - design @ weights.mean)) + spread

    def bound(q: MeanField) -> Array:
        """Returns E[log p(y, w | alpha, beta)] + entropy of q(w) - KLs of q(alpha) and q(beta)."""
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
        """Returns both precisions at their priors, and the weights updated given these."""
        del key  # no random start is needed: there is no symmetry to break
        weights = Normal(jnp.zeros_like(design[0]), jnp.eye(num_columns, dtype=design.dtype))
        return update_weights(MeanField(weights, *prior))

    updates = {
        "noise_precision": update_noise_precision,
        "weight_precision": update_weight_precision,
        "weights": update_weights,
    }
    return CoordinateAscent(init, updates, bound)


# The choice of the degree


def polynomial(x: Array, degree: int) -> Array:
    """Returns Legendre polynomials of degree 0 to `degree` [N, degree + 1] at x [N] in [-1, 1].

    They span the same functions as the powers of x. They are orthogonal on [-1, 1], which preserves
    float32's digits and lets one prior on all weights treat all degrees alike.

    Raises:
        ValueError: degree is below 0, or x is empty, not finite or not a vector.
    """
    observations.require("x", x, "N")
    if degree < 0:
        raise ValueError(f"degree is {degree}; it must be at least 0")
    columns = [jnp.ones_like(x), x]
    for n in range(1, degree):
        columns.append(((2 * n + 1) * x * columns[n] - n * columns[n - 1]) / (n + 1))
    return jnp.stack(columns[: degree + 1], axis=1)


class Occam(NamedTuple):
    """Two scores of polynomials of degree 0, 1, ..., in nats."""

    bound: Array  # [degrees], has a maximum
    greatest_log_lik: Array  # [degrees], never falls


def occams_razor(x: Array, y: Array, prior: Prior, *, max_degree: int, num_sweeps: int) -> Occam:
    """Returns the bound and the greatest log-likelihood of y [N] at x [N] for each degree.

    The degrees are 0 to `max_degree`.

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
