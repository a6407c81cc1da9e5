"""Bayesian logistic regression, which has no conjugate prior: the bound is maximized by gradients.

p(y_n = 1 | w) = sigmoid(x_n'w), w ~ N(0, prior_var I). Under a normal q(w) the expected
log-likelihood is a sum of integrals, each over one projection x_n'w, and quadrature computes them
to all digits. The result is the bound that SGVB estimates, without noise. `log_joint` is the
density that HMC needs.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm
from jax.typing import DTypeLike

from aevb.classical import observations
from aevb.distributions import LOG_2PI, FullNormal
from aevb.inference import lbfgs

SPACING = 0.5  # of the nodes of both trapezoid rules; their error is about 1e-15
REACH = 9.0  # standard deviations that the nodes of the normal cover
LOGISTIC_REACH = 37.0  # half-width that the nodes of the logistic cover; the rest has mass 2e-16


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

    This is a lower bound on log p(y). The expectation is computed by quadrature over each
    x_n'w ~ N(x_n'mean, ||L'x_n||^2).
    """
    # In units of sqrt(prior_var) the prior of w is N(0, I).
    log_std = 0.5 * jnp.log(prior_var)
    std = jnp.exp(log_std)
    scaled = FullNormal(q.mean / std, q.log_diag - log_std, q.below_diag / std)
    return _expected_log_lik(data, q) - scaled.kl_to_standard_normal()


def _expected_log_lik(data: Data, q: FullNormal) -> Array:
    mean = data.design @ q.mean
    std = jnp.sqrt(jnp.sum(jnp.square(data.design @ q.factor()), axis=1))
    return -jnp.sum(expected_softplus(jnp.where(data.y == 1.0, -mean, mean), std))


def expected_softplus(mean: Array, std: Array) -> Array:
    """Returns E[log(1 + exp(a))] [N] of a ~ N(mean, std^2), for mean [N] and std [N].

    It uses the trapezoid rule, whose error falls faster than any power of the spacing if the
    integrand is smooth on the scale of the nodes. Up to a std of 1 the integrand is log(1 + exp(a))
    under the normal density of a. For a larger std this would need ever more nodes. There,
    log(1 + exp(a)) is written as E[max(a - u, 0)] over a standard logistic u, and the integrand is
    E[max(a - u, 0)] over a, in closed form, under the logistic density of u.
    """
    nodes, weights = _nodes(REACH, mean.dtype, lambda t: -0.5 * jnp.square(t))
    by_normal = jax.nn.softplus(mean[:, None] + std[:, None] * nodes) @ weights
    nodes, weights = _nodes(LOGISTIC_REACH, mean.dtype, lambda u: -u - 2.0 * jax.nn.softplus(-u))
    wide = jnp.maximum(std, 1.0)[:, None]  # a safe input where the rule is not used
    apart = mean[:, None] - nodes
    ramps = apart * norm.cdf(apart / wide) + wide * norm.pdf(apart / wide)
    return jnp.where(std > 1.0, ramps @ weights, by_normal)


def _nodes(
    reach: float, dtype: DTypeLike, log_density: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Returns evenly spaced nodes from -reach to reach, as [1, n], and their weights [n]."""
    nodes = jnp.linspace(-reach, reach, 1 + round(2.0 * reach / SPACING), dtype=dtype)
    return nodes[None, :], jax.nn.softmax(log_density(nodes))


def fit(data: Data, prior_var: Array, *, num_steps: int = 200) -> FullNormal:
    """Fits the normal q(w) with the greatest bound, of any covariance, by L-BFGS.

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
    """Fits the factorized q(w) with the greatest bound: `fit` with a diagonal L.

    At the maximum each variance is 1 / H_ii, where -H is the Hessian of log p(y, w), averaged over
    q. H is near the posterior's precision, so 1 / H_ii is near the variance of w_i given the
    others.

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
