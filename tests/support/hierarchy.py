"""Two layers of Gaussian latents with linear means, whose evidence, posterior and bounds are exact.

z2 ~ N(0, I), z1 ~ N(W2 z2, s1^2 I), x ~ N(W1 z1, s0^2 I). The guide draws one layer from x and the
other from that one, in either order. All expectations are of quadratic forms, in float64.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from aevb import factors
from aevb.distributions import DiagNormal, FullNormal, StandardNormal
from aevb.guides import diag_normal, full_normal
from aevb.losses import Guide, Joint

ORDERS = {"bottom_up": ("z1", "z2"), "top_down": ("z2", "z1")}  # in which the guide draws them
LOG_VARS = {"z1": np.log(0.6), "x": np.log(0.3)}  # of p(z1|z2) and p(x|z1)
Params = dict[str, np.ndarray]


class Hierarchy(NamedTuple):
    """A model, a datapoint and the parameters of a guide that is not the posterior."""

    order: tuple[str, str]
    x: np.ndarray  # [D]
    params: Params  # W2 [Z1, Z2], W1 [D, Z1] of p; mean, log_var, slope, level, log_var_given of q


def make(order: str, num_dims: int, sizes: tuple[int, int], seed: int) -> Hierarchy:
    """Returns a model with sizes (Z1, Z2) of the layers."""
    rng = np.random.default_rng(seed)
    of: dict[str, int] = dict(zip(("z1", "z2"), sizes, strict=True))
    first, second = (of[name] for name in ORDERS[order])

    def draw(*shape: int) -> np.ndarray:
        return np.asarray(0.6 * rng.normal(size=shape), np.float32).astype(np.float64)

    params = {
        "W2": draw(*sizes), "W1": draw(num_dims, sizes[0]),
        "mean": draw(first), "log_var": draw(first) - 1.0,
        "slope": draw(second, first), "level": draw(second), "log_var_given": draw(second) - 1.0,
    }  # fmt: skip
    return Hierarchy(ORDERS[order], draw(num_dims) * 2.0, params)


def exact_log_prob(case: Hierarchy) -> float:
    covariance = case.params["W1"] @ _prior_cov(case.params) @ case.params["W1"].T
    covariance += np.exp(LOG_VARS["x"]) * np.eye(len(case.x))
    return float(scipy.stats.multivariate_normal.logpdf(case.x, np.zeros(len(case.x)), covariance))


def _prior_cov(params: Params) -> np.ndarray:
    """Returns the covariance of z1 under p."""
    w2 = params["W2"]
    return w2 @ w2.T + np.exp(LOG_VARS["z1"]) * np.eye(len(w2))


def exact_elbo(case: Hierarchy) -> float:
    """Returns the evidence lower bound of the case's guide."""
    p = case.params
    var, given = np.exp(p["log_var"]), np.exp(p["log_var_given"])
    cross = p["slope"] * var  # covariance of the second latents with the first
    means = dict(zip(case.order, (p["mean"], p["slope"] @ p["mean"] + p["level"]), strict=True))
    covs = dict(zip(case.order, (np.diag(var), cross @ p["slope"].T + np.diag(given)), strict=True))
    mixed = cross if case.order == ("z2", "z1") else cross.T  # of z1 with z2
    w1, w2 = p["W1"], p["W2"]
    var_of_z1 = np.diag(covs["z1"] - w2 @ mixed.T - mixed @ w2.T + w2 @ covs["z2"] @ w2.T)
    entropy = 0.5 * np.sum(np.log(2 * np.pi * np.e * np.concatenate([var, given])))
    return float(
        entropy
        + _expected(means["z2"], np.diag(covs["z2"]), 0.0)
        + _expected(means["z1"] - w2 @ means["z2"], var_of_z1, LOG_VARS["z1"])
        + _expected(case.x - w1 @ means["z1"], np.diag(w1 @ covs["z1"] @ w1.T), LOG_VARS["x"])
    )


def _expected(mean: np.ndarray, var: np.ndarray, log_var: float) -> float:
    """Returns E[log N(u; 0, exp(log_var) I)] of u with these moments."""
    return float(-0.5 * np.sum(np.log(2 * np.pi) + log_var + (mean**2 + var) / np.exp(log_var)))


def joint_of(params: Any, x: Any) -> Joint:
    """Returns the model as a `Joint`, differentiable in W1 and W2."""

    def below(z2: jax.Array) -> DiagNormal:
        mean = params["W2"] @ z2
        return DiagNormal(mean, jnp.full_like(mean, LOG_VARS["z1"]))

    def log_lik(z: Any) -> jax.Array:
        mean = params["W1"] @ z["z1"]
        return DiagNormal(mean, jnp.full_like(mean, LOG_VARS["x"])).log_prob(x)

    top = StandardNormal(params["W2"].shape[1], params["W2"].dtype)
    return Joint(factors.prior({"z2": top, "z1": factors.Given(("z2",), below)}), log_lik)


def guide_of(order: tuple[str, str], params: Any) -> tuple[Guide, Any]:
    """Returns the guide that draws the layers in this order, and its statistics."""
    first, second = order

    def stats(own: Any, earlier: jax.Array) -> DiagNormal:
        return DiagNormal(own["slope"] @ earlier + own["level"], own["log_var_given"])

    guide = factors.guide(
        {first: diag_normal, second: factors.Conditional(diag_normal, (first,), stats)}
    )
    own = {name: params[name] for name in ("slope", "level", "log_var_given")}
    return guide, {first: DiagNormal(params["mean"], params["log_var"]), second: own}


def exact_guide(case: Hierarchy) -> tuple[Guide, Any]:
    """Returns p(z|x) as a guide in the case's order, and its statistics."""
    first, second = case.order
    w1, w2 = case.params["W1"], case.params["W2"]
    noise = np.exp(LOG_VARS["x"])
    prior = {"z1": _prior_cov(case.params), "z2": np.eye(w2.shape[1])}
    mixed = w2 if first == "z1" else w2.T  # covariance of the first with the second under p
    to_x = {"z1": prior["z1"] @ w1.T, "z2": w2.T @ w1.T}  # covariances with x
    of_x = w1 @ prior["z1"] @ w1.T + noise * np.eye(len(case.x))
    mean, cov = _conditional(prior[first], to_x[first], of_x, case.x)
    # The second given the first and x
    both = np.block([[prior[first], to_x[first]], [to_x[first].T, of_x]])
    with_both = np.concatenate([mixed.T, to_x[second]], axis=1)
    gain = np.linalg.solve(both, with_both.T).T
    split = len(prior[first])
    slope, level = gain[:, :split], gain[:, split:] @ case.x
    given = prior[second] - gain @ with_both.T

    def stats(own: Any, earlier: jax.Array) -> FullNormal:
        return own["spread"]._replace(mean=own["slope"] @ earlier + own["level"])

    guide = factors.guide(
        {first: full_normal, second: factors.Conditional(full_normal, (first,), stats)}
    )
    own = {"slope": slope, "level": level, "spread": _normal(level, given)}
    return guide, jax.tree.map(jnp.float32, {first: _normal(mean, cov), second: own})


def _conditional(
    cov: np.ndarray, to_x: np.ndarray, of_x: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    gain = np.linalg.solve(of_x, to_x.T).T
    return gain @ x, cov - gain @ to_x.T


def _normal(mean: np.ndarray, cov: np.ndarray) -> FullNormal:
    factor = np.linalg.cholesky(cov)
    below = factor[np.tril_indices(len(factor), -1)]
    parts: Any = (mean, np.log(np.diag(factor)), below)
    return FullNormal(*parts)
