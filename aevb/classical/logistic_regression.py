"""Bayesian logistic regression: it has no conjugate prior, so gradients maximize the bound.

p(y_n = 1 | w) = sigmoid(x_n'w), w ~ N(0, prior_var I). Under a normal q(w) the expected
log-likelihood is a sum of integrals over one projection x_n'w each, which quadrature computes
accurately. The result is the bound that SGVB estimates, without noise. `log_joint` is the density
that HMC needs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical import observations
from aevb.distributions import LOG_2PI, FullNormal
from aevb.inference import lbfgs

NUM_NODES = 40  # Gauss-Hermite; the error is 1e-9 nats a datapoint for projections of std up to 1


class Data(NamedTuple):
    """N datapoints with binary targets."""

    design: Array  # [N, D]
    y: Array  # [N], 0.0 or 1.0


def log_joint(data: Data, prior_var: Array, w: Array) -> Array:
    """Returns log p(y, w) [] of w [D], in nats."""
    log_prior = -0.5 * jnp.sum(LOG_2PI + jnp.log(prior_var) + jnp.square(w) / prior_var)
    return log_prior + jnp.sum(_log_lik(data.y, data.design @ w))


def _log_lik(y: Array, logits: Array) -> Array:
    return -jax.nn.softplus(jnp.where(y == 1.0, -logits, logits))


def bound(data: Data, prior_var: Array, q: FullNormal) -> Array:
    """Returns E_q[log p(y | w)] - KL(q || p(w)) [] of any normal q(w), in nats.

    This is a lower bound on log p(y). The expectation is computed by Gauss-Hermite quadrature over
    each x_n'w ~ N(x_n'mean, ||L'x_n||^2).
    """
    # In units of sqrt(prior_var) the prior of w is N(0, I).
    log_std = 0.5 * jnp.log(prior_var)
    std = jnp.exp(log_std)
    scaled = FullNormal(q.mean / std, q.log_diag - log_std, q.below_diag / std)
    return _expected_log_lik(data, q) - scaled.kl_to_standard_normal()


def _expected_log_lik(data: Data, q: FullNormal) -> Array:
    nodes, weights = _gauss_hermite(q.mean.dtype)
    mean = data.design @ q.mean
    std = jnp.sqrt(jnp.sum(jnp.square(data.design @ q.factor()), axis=1))
    logits = mean[:, None] + std[:, None] * nodes[None, :]
    return jnp.sum(_log_lik(data.y[:, None], logits) @ weights)


def _gauss_hermite(dtype: jnp.dtype) -> tuple[Array, Array]:
    """Returns the nodes and weights [NUM_NODES] of E[f(a)], a ~ N(0, 1); Golub & Welsch (1969).

    The nodes are the eigenvalues of the polynomials' recurrence matrix. The weights are the squares
    of the first entries of its eigenvectors.
    """
    with jax.ensure_compile_time_eval():
        beside = jnp.sqrt(jnp.arange(1, NUM_NODES, dtype=dtype))
        nodes, vectors = jnp.linalg.eigh(jnp.diag(beside, 1) + jnp.diag(beside, -1))
        return nodes, jnp.square(vectors[0])


def fit(data: Data, prior_var: Array, *, num_steps: int = 200) -> FullNormal:
    """Fits the normal q(w) of the greatest bound, with any covariance, by L-BFGS.

    The bound is concave in the mean and the factor L, so there is no other maximum; Challis &
    Barber (2013).

    Raises:
        ValueError: the design or y is empty, not finite or of another rank, their lengths differ,
            or y holds a value other than 0 and 1.
    """
    _require(data)

    def objective(q: FullNormal) -> Array:
        return bound(data, prior_var, q)

    return lbfgs.maximize(objective, _prior_as_guide(data, prior_var), num_steps=num_steps)


def fit_mean_field(data: Data, prior_var: Array, *, num_steps: int = 200) -> FullNormal:
    """Fits the factorized q(w) of the greatest bound: `fit` with a diagonal L.

    At the maximum each variance is 1 / H_ii, with H minus the Hessian of log p(y, w), averaged over
    q. H is near the posterior's precision, so this is near the variance of w_i given the others.

    Raises:
        ValueError: as in `fit`.
    """
    _require(data)
    start = _prior_as_guide(data, prior_var)

    def objective(point: tuple[Array, Array]) -> Array:
        return bound(data, prior_var, FullNormal(*point, start.below_diag))

    begin = (start.mean, start.log_diag)
    mean, log_diag = lbfgs.maximize(objective, begin, num_steps=num_steps)
    return FullNormal(mean, log_diag, start.below_diag)


def _prior_as_guide(data: Data, prior_var: Array) -> FullNormal:
    num_dims, dtype = data.design.shape[1], data.design.dtype
    log_std = jnp.full(num_dims, 0.5 * jnp.log(prior_var), dtype)
    below = jnp.zeros(num_dims * (num_dims - 1) // 2, dtype)
    return FullNormal(jnp.zeros(num_dims, dtype), log_std, below)


def _require(data: Data) -> None:
    observations.require("design", data.design, "ND")
    observations.require("y", data.y, "N")
    observations.require_binary("y", data.y)
    observations.require_equal_lengths(design=data.design, y=data.y)
