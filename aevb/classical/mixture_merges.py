"""Starts for mixtures of every size: many small clusters, merged one pair at a time.

k-means with as many clusters as groups often takes two groups for one; with more it seldom does.
The evidence of a hard cluster has a closed form, and so has the gain of a merger. The pair that
gains most is merged until one cluster is left. This gives a start for each size and, by the
evidence, a guess of the number of components. k-means divides a long cluster, and the evidence
reunites it.

The arrays are NumPy's, in float64: the decisions are few, small and one after the other.
"""

import math
from typing import NamedTuple

import numpy as np

from aevb.classical.mixture_hierarchy import SPREAD

NUM_ROUNDS = 2  # the mergers are repeated with the prior that the first have led to
NUM_UPDATES = 10  # of the prior before the mergers


class Clusters(NamedTuple):
    """Hard clusters of points, leaves [J, ...]."""

    counts: np.ndarray  # [J]
    means: np.ndarray  # [J, D]
    scatters: np.ndarray  # [J, D, D], about the means


class SharedPrior(NamedTuple):
    """The prior of every component, as `mixture_model.Prior` in float64."""

    concentration: float
    mean: np.ndarray  # [D]
    mean_precision: float
    df: float
    inverse_scale: np.ndarray  # [D, D]


class Level(NamedTuple):
    """The K clusters that are left at some level of the mergers, with their best prior."""

    clusters: Clusters
    prior: SharedPrior
    score: float  # log p(x, clusters) + log K!, nats


def clusters_of(x: np.ndarray, names: np.ndarray, rounding: np.ndarray) -> Clusters:
    """Returns the clusters of points x [N, D] by their names [N], without the empty ones.

    `rounding` [D, D] is the covariance of the points' errors, which adds to the scatter.
    """
    found = [x[names == name] for name in np.unique(names)]
    counts = np.array([float(len(members)) for members in found])
    means = np.stack([np.mean(members, axis=0) for members in found])
    away = [members - mean for members, mean in zip(found, means, strict=True)]
    scatters = np.stack([its.T @ its + len(its) * rounding for its in away])
    return Clusters(counts, means, scatters)


def union(one: Clusters, other: Clusters) -> Clusters:
    """Returns the union of each cluster of `one` with that of `other`; either may hold only one."""
    counts = one.counts + other.counts
    fraction = other.counts / counts
    away = other.means - one.means
    between = _outer(away, one.counts * fraction)
    means = one.means + fraction[:, None] * away
    return Clusters(counts, means, one.scatters + other.scatters + between)


def log_evidence(clusters: Clusters, prior: SharedPrior, log_gammas: np.ndarray) -> np.ndarray:
    """Returns each cluster's factor of p(x, clusters) [J], in nats.

    It is that of a normal-Wishart, times Gamma(count + concentration) / Gamma(concentration) of the
    Dirichlet. `log_gammas` are those of `log_gammas_of`.
    """
    counts, beta = clusters.counts, prior.mean_precision
    _, before = np.linalg.slogdet(prior.inverse_scale)
    _, after = np.linalg.slogdet(_posterior_scatters(clusters, prior))
    log_evidences = 0.5 * prior.df * before - 0.5 * (prior.df + counts) * after
    log_evidences += 0.5 * len(prior.mean) * np.log(beta / (beta + counts))
    return log_evidences + log_gammas[np.rint(counts).astype(int)]


def log_gammas_of(num_points: int, prior: SharedPrior) -> np.ndarray:
    """Returns the terms of `log_evidence` for the counts 0 to `num_points`, [N + 1]."""
    counts = range(num_points + 1)
    halves = 0.5 * (prior.df - np.arange(len(prior.mean)))
    log_gammas = np.array(
        [
            sum(math.lgamma(half + 0.5 * count) for half in halves)
            + math.lgamma(prior.concentration + count)
            - 0.5 * len(halves) * count * math.log(math.pi)
            for count in counts
        ]
    )
    return log_gammas - log_gammas[0]


def learn(clusters: Clusters, prior: SharedPrior, num_updates: int) -> SharedPrior:
    """Updates E[S] and E[beta] of hard clusters as `mixture_hierarchy.learn` does, for one nu."""
    size, num_dims = clusters.means.shape
    for _ in range(num_updates):
        beta = prior.mean_precision + clusters.counts
        inverses = np.linalg.inv(_posterior_scatters(clusters, prior))
        precisions = (prior.df + clusters.counts)[:, None, None] * inverses
        away = (clusters.counts / beta)[:, None] * (clusters.means - prior.mean)
        squared = num_dims / beta + np.einsum("ki,kij,kj->k", away, precisions, away)
        eta = num_dims**2 / np.trace(prior.inverse_scale)
        rate = eta * np.eye(num_dims) + np.sum(precisions, axis=0)
        shape_of_spread = SPREAD[0] + 0.5 * size * num_dims
        prior = prior._replace(
            mean_precision=shape_of_spread / (SPREAD[1] + 0.5 * float(np.sum(squared))),
            inverse_scale=(num_dims + size * prior.df) * np.linalg.inv(rate),
        )
    return prior


def merge(clusters: Clusters, prior: SharedPrior, *, learned: bool) -> dict[int, Level]:
    """Merges J clusters to one, and returns the levels by their number of clusters.

    Args:
        prior: the given prior, or if `learned` the first guess of it.
    """
    log_gammas = log_gammas_of(round(float(np.sum(clusters.counts))), prior)
    if not learned:
        return _levels(clusters, prior, log_gammas, learned=False)
    prior = learn(clusters, prior, NUM_UPDATES)
    levels = {}
    for _ in range(NUM_ROUNDS):
        levels = _levels(clusters, prior, log_gammas, learned=True)
        best = max(levels.values(), key=lambda level: level.score)
        prior = learn(best.clusters, prior, NUM_UPDATES)
    return levels


def _levels(
    clusters: Clusters, prior: SharedPrior, log_gammas: np.ndarray, *, learned: bool
) -> dict[int, Level]:
    """Merges under one prior. A level's score and prior are of the best prior for its clusters."""

    def gains_of(one: Clusters, others: Clusters) -> np.ndarray:
        of_parts = log_evidence(others, prior, log_gammas) + log_evidence(one, prior, log_gammas)
        return log_evidence(union(one, others), prior, log_gammas) - of_parts

    size = len(clusters.counts)
    gains = np.full((size, size), -np.inf)
    for index in range(size - 1):
        gains[index, index + 1 :] = gains_of(
            _at(clusters, [index]), _at(clusters, np.arange(index + 1, size))
        )
    gains = np.maximum(gains, gains.T)
    levels, best_prior = {}, prior
    while True:
        if learned:
            best_prior = learn(clusters, best_prior, 2)
        levels[size] = Level(clusters, best_prior, _score(clusters, best_prior, log_gammas))
        if size == 1:
            return levels
        pair = np.array(np.unravel_index(np.argmax(gains), gains.shape))
        merged = union(_at(clusters, pair[:1]), _at(clusters, pair[1:]))
        rest = np.setdiff1d(np.arange(size), pair)
        others = _at(clusters, rest)
        clusters = Clusters(
            *(np.concatenate(leaves) for leaves in zip(others, merged, strict=True))
        )
        size -= 1
        gains = np.pad(gains[np.ix_(rest, rest)], (0, 1), constant_values=-np.inf)
        if len(rest):
            gains[-1, :-1] = gains[:-1, -1] = gains_of(merged, others)


def _score(clusters: Clusters, prior: SharedPrior, log_gammas: np.ndarray) -> float:
    size, total = len(clusters.counts), float(np.sum(clusters.counts))
    concentration = size * prior.concentration
    of_weights = math.lgamma(concentration) - math.lgamma(concentration + total)
    of_clusters = float(np.sum(log_evidence(clusters, prior, log_gammas)))
    return of_clusters + of_weights + math.lgamma(size + 1)


def _posterior_scatters(clusters: Clusters, prior: SharedPrior) -> np.ndarray:
    """Returns the inverse scales of the posteriors [J, D, D]."""
    beta, counts = prior.mean_precision, clusters.counts
    between = _outer(clusters.means - prior.mean, beta * counts / (beta + counts))
    return prior.inverse_scale + clusters.scatters + between


def _outer(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights[:, None, None] * vectors[:, :, None] * vectors[:, None, :]


def _at(clusters: Clusters, indices: np.ndarray | list[int]) -> Clusters:
    return Clusters(*(leaf[indices] for leaf in clusters))
