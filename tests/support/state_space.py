"""Linear-Gaussian state-space models in float64: Kalman filter, smoother, and exact bounds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from aevb import sequences
from aevb.distributions import DiagNormal
from aevb.guides import diag_normal
from aevb.losses import Joint
from aevb.sequences import Autoregressive, Chain, Markov, Steps

LOG_VARS = {"first": np.log(0.8), "z": np.log(0.4), "x": np.log(0.3)}
Params = dict[str, np.ndarray]


class Case(NamedTuple):
    """A model, a sequence with missing frames and the parameters of a guide."""

    x: np.ndarray  # [T, D], NaN where a frame was not seen
    params: Params  # start, slope, level, weights, bias of p; own, memory, log_var of q


class Moments(NamedTuple):
    """The result of the Kalman filter or of the smoother."""

    log_probs: np.ndarray  # [T], log p(x_t | x_1..x_{t-1}); 0 for a missing frame
    means: np.ndarray  # [T, Z]
    covs: np.ndarray  # [T, Z, Z]


def make(num_steps: int, num_latents: int, num_dims: int, seed: int, missing: Any = (1,)) -> Case:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return np.asarray(0.6 * rng.normal(size=shape), np.float32).astype(np.float64)

    params = {
        "start": draw(num_latents), "slope": draw(num_latents, num_latents),
        "level": draw(num_latents), "weights": draw(num_dims, num_latents), "bias": draw(num_dims),
        "own": draw(num_steps, num_latents), "memory": 0.5 * draw(num_latents, num_latents),
        "log_var": draw(num_steps, num_latents) - 1.0,
    }  # fmt: skip
    x = 2.0 * draw(num_steps, num_dims)
    x[list(missing)] = np.nan
    return Case(x, params)


# Oracles


def kalman(case: Case) -> Moments:
    """Returns log p(x_t | x_1..x_{t-1}) and the moments of p(z_t | x_1..x_t)."""
    p = case.params
    noise, found = np.exp(LOG_VARS["x"]), []
    for t, frame in enumerate(case.x):
        if t == 0:
            mean, cov = p["start"], np.exp(LOG_VARS["first"]) * np.eye(len(p["start"]))
        else:
            mean, cov = _predicted(p, *found[-1][1:])
        log_prob = 0.0
        if not np.isnan(frame).all():
            of_x = p["weights"] @ cov @ p["weights"].T + noise * np.eye(len(frame))
            residual = frame - p["bias"] - p["weights"] @ mean
            log_prob = _log_normal(residual, of_x)
            gain = np.linalg.solve(of_x, p["weights"] @ cov).T
            mean, cov = mean + gain @ residual, cov - gain @ p["weights"] @ cov
        found.append((log_prob, mean, cov))
    return Moments(*(np.array(part) for part in zip(*found, strict=True)))


def smoothed(case: Case) -> Moments:
    """Returns the moments of p(z_t | x_1..x_T) by the Rauch-Tung-Striebel smoother."""
    filtered, slope = kalman(case), case.params["slope"]
    means, covs = filtered.means.copy(), filtered.covs.copy()
    for t in reversed(range(len(means) - 1)):
        mean, cov = _predicted(case.params, filtered.means[t], filtered.covs[t])
        gain = np.linalg.solve(cov, slope @ filtered.covs[t]).T
        means[t] = filtered.means[t] + gain @ (means[t + 1] - mean)
        covs[t] = filtered.covs[t] + gain @ (covs[t + 1] - cov) @ gain.T
    return Moments(filtered.log_probs, means, covs)


def _predicted(p: Params, mean: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    noise = np.exp(LOG_VARS["z"]) * np.eye(len(mean))
    return p["slope"] @ mean + p["level"], p["slope"] @ cov @ p["slope"].T + noise


def _log_normal(residual: np.ndarray, cov: np.ndarray) -> float:
    normal: Any = scipy.stats.multivariate_normal
    return float(normal.logpdf(residual, np.zeros(len(residual)), cov))


def exact_log_prob(case: Case) -> float:
    return float(np.sum(kalman(case).log_probs))


def chain_moments(
    start: np.ndarray, slope: np.ndarray, levels: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean [T Z] and covariance of z_t = slope z_{t-1} + level_t + noise, z_0 = start.

    The variances [T, Z] are those of the noise.
    """
    num_steps, size = levels.shape
    mean, cov, before = np.zeros((num_steps, size)), np.zeros((num_steps, size) * 2), start
    for t in range(num_steps):
        mean[t] = before = slope @ before + levels[t]
        if t:
            cov[t] = np.einsum("ij,jsk->isk", slope, cov[t - 1])
            cov[:, :, t] = np.moveaxis(cov[t], 0, -1)
            cov[t, :, t] = slope @ cov[t - 1, :, t - 1] @ slope.T
        cov[t, :, t] += np.diag(variances[t])
    return mean.ravel(), cov.reshape(num_steps * size, -1)


def prior_moments(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and covariance of z [T Z] under p."""
    p = case.params
    num_steps, size = len(case.x), len(p["start"])
    levels = np.tile(p["level"], (num_steps, 1))
    variances = np.full((num_steps, size), np.exp(LOG_VARS["z"]))
    levels[0], variances[0] = p["start"], np.exp(LOG_VARS["first"])
    return chain_moments(np.zeros(size), p["slope"], levels, variances)


def exact_elbo(case: Case, memory: float = 1.0) -> float:
    """Returns the evidence lower bound of the guide q(z_t|z_{t-1}) of `guide_of`."""
    p = case.params
    num_steps, size = len(case.x), len(p["start"])
    var = np.exp(p["log_var"])
    mean, cov = chain_moments(np.zeros(size), memory * p["memory"], p["own"], var)
    at = np.eye(num_steps * size).reshape(num_steps, size, -1)  # z_t = at[t] z

    def expected(of_z: np.ndarray, shift: np.ndarray, log_var: float) -> float:
        """Returns E[log N(of_z z + shift; 0, exp(log_var) I)]."""
        squares = (of_z @ mean + shift) ** 2 + np.diag(of_z @ cov @ of_z.T)
        return float(-0.5 * np.sum(np.log(2 * np.pi) + log_var + squares / np.exp(log_var)))

    total = 0.5 * np.sum(np.log(2 * np.pi * np.e) + p["log_var"])
    total += expected(at[0], -p["start"], LOG_VARS["first"])
    for t, frame in enumerate(case.x):
        if t:
            total += expected(at[t] - p["slope"] @ at[t - 1], -p["level"], LOG_VARS["z"])
        if not np.isnan(frame).all():
            total += expected(-p["weights"] @ at[t], frame - p["bias"], LOG_VARS["x"])
    return float(total)


# The same in the package


def prior_of(params: Any, num_steps: int) -> Markov:
    def of(mean: jax.Array, name: str) -> DiagNormal:
        return DiagNormal(mean, jnp.full_like(mean, LOG_VARS[name]))

    return Markov(
        of(params["start"], "first"),
        lambda before: of(params["slope"] @ before + params["level"], "z"),
        num_steps,
    )


def log_lik_of(params: Any) -> sequences.FrameLogLik:
    def log_lik(z: jax.Array, x: jax.Array) -> jax.Array:
        mean = params["weights"] @ z + params["bias"]
        return DiagNormal(mean, jnp.full_like(mean, LOG_VARS["x"])).log_prob(x)

    return log_lik


def joint_of(params: Any, x: Any) -> Joint:
    return sequences.joint(prior_of(params, len(x)), log_lik_of(params), x)


def guide_of(params: Any, memory: float = 1.0) -> tuple[Autoregressive, Steps]:
    """Returns the guide N(z_t; memory_matrix z_{t-1} + own_t, exp(log_var_t)), and its statistics.

    Args:
        memory: factor of the matrix; with 0 it is mean field over time.
    """

    def stats(shared: jax.Array, each: Any, before: jax.Array) -> DiagNormal:
        return DiagNormal(shared @ before + each["own"], each["log_var"])

    each = {"own": params["own"], "log_var": params["log_var"]}
    start = jnp.zeros_like(params["start"])
    return Autoregressive(diag_normal, stats), Steps(memory * params["memory"], each, start)


def proposal_of(case: Case, memory: float = 1.0) -> tuple[Autoregressive, Steps]:
    """Returns the guide of `guide_of` with the means of the smoother, but wider than it."""
    exact, matrix = smoothed(case), memory * case.params["memory"]
    before = np.concatenate([np.zeros_like(exact.means[:1]), exact.means[:-1]])
    variances = np.diagonal(exact.covs, axis1=1, axis2=2)
    given = {"own": exact.means - before @ matrix.T, "log_var": np.log(variances) + 0.7}
    return guide_of(jax.tree.map(jnp.float32, case.params | given), memory)


def posterior_of(params: Any, x: Any) -> Chain:
    """Returns p(z|x) as a `Chain`."""
    first = DiagNormal(params["start"], jnp.full_like(params["start"], LOG_VARS["first"]))
    noise = jnp.full_like(params["level"], LOG_VARS["z"])
    prior = sequences.linear_chain(first, params["slope"], params["level"], noise, len(x))
    scaled = params["weights"].T / np.exp(LOG_VARS["x"]).item()
    is_seen = ~jnp.isnan(x[:, 0])
    residual = jnp.where(is_seen[:, None], x - params["bias"][None], 0.0)
    precision = jnp.where(is_seen[:, None, None], (scaled @ params["weights"])[None], 0.0)
    return prior.observed(residual @ scaled.T, precision)
