"""Log-likelihoods of models without an encoder, which a trained model must exceed.

They are in nats per datapoint and on the scale of the run's bound: of the same inputs, with the
same likelihood or another one that scores the same x, and in the units of the user's data. The
models are fitted to a sample of the training data in closed form, or by moments where the maximum
has none. Test data are not read.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aevb.data import Dataset
from aevb.distributions import LOG_2PI
from aevb.doctor import sample
from aevb.doctor.sample import moments
from aevb.evaluation.elbo import Score, in_blocks
from aevb.evaluation.intervals import standard_error
from aevb.likelihoods import HALF_LEVEL, LIKELIHOODS, NUM_LEVELS, Likelihood, level_of
from aevb.missing import of_seen

MOST_DATAPOINTS = 2000  # of each split
LEAST_VARIANCE = 1e-30  # whose log is one that the likelihoods allow
LEAST_INFLATION = 1e-3  # probability of an added zero, where the counts show none
LARGEST_TOTAL_COUNT = 1e6  # of a negative binomial, which is then a Poisson distribution
LARGE_LOG_DF = 10.0  # degrees of freedom of a Student-t that is almost Gaussian, as their log
ALIKE = {  # likelihoods without z that are as good as independent columns
    "gaussian_unit_mean": "gaussian",
    "zero_inflated_negative_binomial": "negative_binomial",
}

Statistics = Mapping[str, np.ndarray]


class Baseline(NamedTuple):
    """The mean log-likelihood of a simple model, in nats per datapoint."""

    name: str  # "gaussian without z"
    train: Score  # of the datapoints that it was fitted to
    valid: Score | None  # None without validation data


def baselines(
    dataset: Dataset, name: str, likelihood: Likelihood, *, num_latents: int
) -> list[Baseline]:
    """Returns the baselines that fit the data and the likelihood.

    - The likelihood itself "without z": its best statistics that are the same for all datapoints. A
      decoder that ignores z, as after a posterior collapse, cannot exceed it.
    - Independent columns: Bernoulli for binary data, categorical for likelihoods of grey levels,
      negative binomial for counts, Gaussian for densities with a variance.
    - For densities with a variance, and data without missing values, probabilistic PCA with as
      many latents.

    Of data with missing values the seen ones are scored.

    Args:
        name: of the likelihood in the config. One that is not of this package has no baseline of
            the first sort.
        likelihood: that entry, with log-densities of x as it is stored, standardized or not.
        num_latents: Z.
    """
    seen = sample.draw(dataset, MOST_DATAPOINTS)
    by = dataset.standardization if dataset.kind == "real" else None
    log_jacobian = 0.0 if by is None else by.log_jacobian(seen.train.shape[1])
    independent = _independent(dataset.kind, likelihood)
    family = {name: likelihood} if name in STATISTICS else {}
    if independent is not None and independent not in (name, ALIKE.get(name)):
        family[independent] = LIKELIHOODS[independent](seen.train.shape[1])
    found = []
    for each, scored in family.items():
        statistics = STATISTICS[each](seen.train.astype(np.float64), scored)
        scored = of_seen(scored) if dataset.has_missing else scored
        log_probs = [_log_probs(scored, statistics, x) for x in seen if len(x)]
        found.append(_baseline(f"{each} without z", log_probs, log_jacobian))
    has_pca = independent == "gaussian" and not dataset.has_missing
    if has_pca and (pca := fit_pca(seen.train, num_latents)) is not None:
        log_probs = [pca.log_probs(x) for x in seen if len(x)]
        found.append(_baseline(f"probabilistic PCA, Z = {num_latents}", log_probs, log_jacobian))
    return found


def _independent(kind: str, likelihood: Likelihood) -> str | None:
    """Returns the likelihood whose statistics can describe any column best, without z.

    It is None for a density of pixels without a variance, such as the continuous Bernoulli. A
    Gaussian can be so narrow that no such density reaches its values.
    """
    if kind == "grey" and likelihood.levels is not None:
        return "categorical"
    if kind in ("grey", "unit") and likelihood.log_var is None:
        return None
    return {"binary": "bernoulli", "counts": "negative_binomial"}.get(kind, "gaussian")


def _log_probs(likelihood: Likelihood, statistics: Statistics, x: np.ndarray) -> np.ndarray:
    """Returns log p(x) [n] of datapoints [n, D] that have the same statistics."""
    heads = {name: jnp.asarray(value, x.dtype) for name, value in statistics.items()}
    compiled = jax.jit(jax.vmap(lambda one: likelihood.log_prob(heads, one)))
    return in_blocks(lambda block: compiled(x[block]), np.arange(len(x))).astype(np.float64)


def _baseline(name: str, log_probs: list[np.ndarray], log_jacobian: float) -> Baseline:
    train, *valid = (
        Score(float(np.mean(each)) + log_jacobian, standard_error(each) if len(each) > 1 else None)
        for each in log_probs
    )
    return Baseline(name, train, valid[0] if valid else None)


# Statistics of x [n, D] for each likelihood. Probabilities and rates count half an event more in
# one more datapoint, and variances one more datapoint that deviates as the average column does. So
# values that the sample lacks cost a finite number of nats, and constant columns gain one.


def _smoothed_mean(x: np.ndarray) -> np.ndarray:
    number, mean, _ = moments(x)
    return (number * mean + 0.5) / (number + 1)


def _log_variance(x: np.ndarray) -> np.ndarray:
    number, _, variance = moments(x)
    added = max(float(np.mean(variance)), LEAST_VARIANCE)
    return np.log((number * variance + added) / (number + 1))


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability) - np.log1p(-probability)


def _continuous_bernoulli(x: np.ndarray, likelihood: Likelihood) -> Statistics:
    """Returns the logits with the mean of each column, found by bisection.

    The mean of the logit -t is 1/t - 1/(exp(t) - 1), which is between 0 and 1/t.
    """
    mean = _smoothed_mean(x)
    nearer = np.minimum(mean, 1.0 - mean)
    low, high = np.zeros_like(nearer), 1.0 / nearer
    for _ in range(60):
        t = 0.5 * (low + high)
        is_above = 1.0 / t + np.exp(-t) / np.expm1(-t) > nearer
        low, high = np.where(is_above, t, low), np.where(is_above, high, t)
    return {"logits": np.where(mean < 0.5, -low, low)}


def _gaussian_shared(x: np.ndarray, likelihood: Likelihood) -> Statistics:
    log_variance = _log_variance(x)
    if likelihood.shared["log_std"] == (1,):
        log_variance = np.log(np.mean(np.exp(log_variance), keepdims=True))
    return {"mean": moments(x).mean, "log_std": 0.5 * log_variance}


def _discretized_logistic(x: np.ndarray, likelihood: Likelihood) -> Statistics:
    log_scale = 0.5 * _log_variance(x) + math.log(math.sqrt(3.0) / math.pi)
    return {"location": moments(x).mean + HALF_LEVEL, "log_scale": log_scale}


def _discretized_logistic_mixture(x: np.ndarray, likelihood: Likelihood) -> Statistics:
    """Returns the statistics of equal components, which are one discretized logistic."""
    one, number = _discretized_logistic(x, likelihood), likelihood.heads["logits"]
    offsets = (np.arange(number) + 0.5) / number
    return {
        "logits": np.zeros(x.shape[1] * number),
        "location": (one["location"][:, None] - offsets).ravel(),
        "log_scale": np.repeat(one["log_scale"], number),
    }


def _student_t(x: np.ndarray, likelihood: Likelihood) -> Statistics:
    """Returns the statistics of a Student-t that is almost Gaussian."""
    log_excess_df = np.full(likelihood.shared["log_excess_df"], LARGE_LOG_DF)
    mean, log_variance = moments(x).mean, _log_variance(x)
    return {"mean": mean, "log_scale": 0.5 * log_variance, "log_excess_df": log_excess_df}


def _categorical(x: np.ndarray, likelihood: Likelihood) -> Statistics:
    """Returns the log frequencies of the levels of each column, [256 D].

    The datapoint more has the frequencies of all columns together and one value more of each level.
    """
    num_dims = x.shape[1]
    known = jnp.asarray(np.nan_to_num(x), jnp.float32)
    levels = np.asarray(level_of(known)).astype(np.int64)
    places = levels + NUM_LEVELS * np.arange(num_dims)
    counts = np.bincount(places[~np.isnan(x)], minlength=NUM_LEVELS * num_dims)
    counts = counts.reshape(num_dims, NUM_LEVELS)
    together = (np.sum(counts, axis=0) + 1.0) / (np.sum(counts) + NUM_LEVELS)
    return {"logits": np.log(counts + together).ravel()}


def _negative_binomial(x: np.ndarray, likelihood: Likelihood) -> Statistics:
    """Returns the statistics with the mean m and the variance m + m^2 / r of each column."""
    mean = _smoothed_mean(x)
    excess = np.maximum(moments(x).variance - mean, np.square(mean) / LARGEST_TOTAL_COUNT)
    statistics = {"log_mean": np.log(mean), "log_total_count": np.log(np.square(mean) / excess)}
    none = np.full_like(mean, math.log(LEAST_INFLATION))
    return statistics | ({"zero_logit": none} if "zero_logit" in likelihood.heads else {})


def _zero_inflated_poisson(x: np.ndarray, likelihood: Likelihood) -> Statistics:
    """Returns the statistics with the mean m and the variance m (1 + rate - m) of each column."""
    mean = _smoothed_mean(x)
    rate = np.maximum(moments(x).variance / mean - 1.0 + mean, mean / (1.0 - LEAST_INFLATION))
    return {"log_rate": np.log(rate), "zero_logit": _logit(1.0 - mean / rate)}


STATISTICS: dict[str, Callable[[np.ndarray, Likelihood], Statistics]] = {
    "bernoulli": lambda x, likelihood: {"logits": _logit(_smoothed_mean(x))},
    "continuous_bernoulli": _continuous_bernoulli,
    "gaussian": lambda x, likelihood: {"mean": moments(x).mean, "log_var": _log_variance(x)},
    "gaussian_unit_mean": lambda x, likelihood: {
        "mean_logits": _logit(_smoothed_mean(x)),
        "log_var": _log_variance(x),
    },
    "gaussian_shared": _gaussian_shared,
    "discretized_logistic": _discretized_logistic,
    "discretized_logistic_mixture": _discretized_logistic_mixture,
    "student_t": _student_t,
    "discretized_gaussian": lambda x, likelihood: {
        "mean": moments(x).mean + HALF_LEVEL,
        "log_var": _log_variance(x),
    },
    "categorical": _categorical,
    "poisson": lambda x, likelihood: {"log_rate": np.log(_smoothed_mean(x))},
    "negative_binomial": _negative_binomial,
    "zero_inflated_poisson": _zero_inflated_poisson,
    "zero_inflated_negative_binomial": _negative_binomial,
}
"""Each likelihood -> its statistics without z, from the training data [n, D] and the likelihood."""


# Probabilistic PCA


class PCA(NamedTuple):
    """Probabilistic PCA by its spectrum, in float64."""

    mean: np.ndarray  # [D]
    eigenvalues: np.ndarray  # [Z], the largest ones of the covariance
    eigenvectors: np.ndarray  # [D, Z]
    noise_var: float

    def log_probs(self, x: np.ndarray) -> np.ndarray:
        """Returns log p(x) [n] of datapoints [n, D], in nats."""
        num_dims, num_latents = self.eigenvectors.shape
        centred = x - self.mean
        along = np.square(centred @ self.eigenvectors)
        across = np.maximum(np.sum(np.square(centred), axis=1) - np.sum(along, axis=1), 0.0)
        squares = along @ (1.0 / self.eigenvalues) + across / self.noise_var
        log_det = np.sum(np.log(self.eigenvalues))
        log_det += (num_dims - num_latents) * math.log(self.noise_var)
        return -0.5 * (num_dims * LOG_2PI + log_det + squares)


def fit_pca(x: np.ndarray, num_latents: int) -> PCA | None:
    """Returns the maximum-likelihood probabilistic PCA of x [n, D]; Tipping & Bishop (1999).

    It equals `classical.linear_gaussian.maximum_likelihood`, but the matrix whose spectrum is
    computed has the smaller of the sizes n and D. It is None where there is no maximum: unless
    0 < Z < min(n - 1, D), and if no variance is left for the noise.
    """
    number, num_dims = x.shape
    if not 0 < num_latents < min(number - 1, num_dims):
        return None
    mean = np.asarray(np.mean(x, axis=0, dtype=np.float64))
    centred = x - mean
    is_wide = number < num_dims
    products = centred @ centred.T if is_wide else centred.T @ centred
    eigenvalues, vectors = np.linalg.eigh(products / number)
    eigenvalues, vectors = eigenvalues[-num_latents:], vectors[:, -num_latents:]
    total = float(np.trace(products)) / number
    noise_var = (total - float(np.sum(eigenvalues))) / (num_dims - num_latents)
    if noise_var <= total * np.finfo(np.float32).eps:
        return None
    if is_wide:
        vectors = centred.T @ vectors / np.sqrt(number * eigenvalues)
    return PCA(mean, eigenvalues, vectors, noise_var)
