"""log p(x) of datapoints that share samples of q(theta): its error and its diagnostics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import logsumexp

from aevb.evaluation.log_likelihood import num_failing, over_data, spread, values_of
from aevb.inference import importance_weights
from aevb.marginal import Estimate


class OverTheta(NamedTuple):
    """log 1/S Sum_s w_ns of each datapoint n, for w_ns = p(x_n; theta_s) and theta_s ~ q(theta)."""

    value: np.ndarray  # [n], nats; a stochastic lower bound on log E_q[p(x_n; theta)]
    influence: np.ndarray  # [S], 1/N Sum_n w_ns / (1/S Sum_s w_ns), of mean 1
    effective_sample_size: np.ndarray  # [n], out of S
    pareto_k: np.ndarray  # [n]

    @property
    def standard_error(self) -> float:
        """Returns the standard error of the mean of `value` over datapoints, in nats.

        All datapoints have the same theta, so their errors are dependent. By the delta method the
        error of the mean is 1/S Sum_s (u_s - 1), with the influences u_s, which are independent
        over s. The noise of each estimate of p(x_n; theta_s) is part of u_s.
        """
        return float(np.std(self.influence, ddof=1) / math.sqrt(len(self.influence)))

    @property
    def bias(self) -> float:
        """Returns the expected error of `value` against log E_q[p(x; theta)], in nats.

        To first order in 1/S, it is -1/2 times the relative variance of the mean over theta,
        averaged over datapoints. The variance is computed from the effective sample size. With
        fewer than about ten effective samples the bias is underestimated.
        """
        num_theta = len(self.influence)
        variance = (1.0 / self.effective_sample_size - 1.0 / num_theta) / (1.0 - 1.0 / num_theta)
        return float(-0.5 * np.mean(variance))


def over_theta(log_probs: np.ndarray) -> OverTheta:
    """Returns the mean over theta of p(x_n; theta_s), from log p(x_n; theta_s) [S, n], S > 1."""
    value = np.asarray(logsumexp(log_probs, axis=0)) - math.log(len(log_probs))
    ratios = log_probs - value
    size, pareto_k = _diagnose(jnp.asarray(ratios.T, jnp.float32))
    return OverTheta(
        value,
        np.mean(np.exp(ratios), axis=1),
        np.asarray(size, np.float64),
        np.asarray(pareto_k, np.float64),
    )


@jax.jit
@jax.vmap
def _diagnose(log_weights: Array) -> tuple[Array, Array]:
    """Returns the effective sample size and Pareto k of log-weights [S]."""
    running = importance_weights.of(log_weights)
    size = importance_weights.effective_sample_size(running)
    return size, importance_weights.pareto_k(running.largest)


def mean_with_fewer(log_probs: np.ndarray, num_theta: int) -> float:
    """Returns the estimate from `num_theta` samples, averaged over datapoints and disjoint sets.

    It is the average of what `over_theta` gives for each set of samples. It does not decrease from
    one num_theta to a multiple of it. If it still rises, there are too few samples.
    """
    number = len(log_probs) // num_theta
    sets = log_probs[: number * num_theta].reshape(number, num_theta, -1)
    return float(np.mean(np.asarray(logsumexp(sets, axis=1))) - math.log(num_theta))


def summarize(parts: Sequence[Estimate]) -> tuple[Estimate, dict[str, Any]]:
    """Returns the estimate at each datapoint [n], and a row of `marginal.json`.

    The estimator's standard error and its degrees of freedom are those over theta. An entry
    `over_theta` has the diagnostics of the weights of theta, the bias, and the mean with a quarter,
    a half and all of the samples. The other diagnostics are means over theta.

    Args:
        parts: the estimates of log p(x_n; theta_s), with fields [n], for each theta; at least 2.
    """
    log_probs = np.stack([np.asarray(part.value, np.float64) for part in parts])
    found, num_theta = over_theta(log_probs), len(parts)
    own = {
        "effective_sample_size": found.effective_sample_size,
        "pareto_k": found.pareto_k,
    }
    inner: Mapping[str, Any] = jax.tree.map(
        lambda *leaves: np.mean(leaves, axis=0), *(part.diagnostics for part in parts)
    )
    # The relative standard deviation of each mean over theta, by the same formula as the bias.
    errors = np.sqrt(np.var(np.exp(log_probs - found.value), axis=0, ddof=1) / num_theta)
    sizes = sorted({max(1, num_theta // 4), max(1, num_theta // 2), num_theta})
    row = {
        **over_data(found.value),
        "num_theta": num_theta,
        "estimator_standard_error": found.standard_error,
        "estimator_df": num_theta - 1,
        "over_theta": {
            **spread(own),
            "num_failing": num_failing(own, {"num_samples": num_theta}),
            "bias": found.bias,
            "means": {str(size): mean_with_fewer(log_probs, size) for size in sizes},
        },
        **spread(inner),
        "values": values_of(found.value),
    }
    return Estimate(jnp.asarray(found.value), jnp.asarray(errors), inner), row
