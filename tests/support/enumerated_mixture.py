"""The Gaussian mixture by brute force in NumPy: all K^N assignments of N datapoints."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import NDArray
from oracles import LOG_2PI
from scipy.special import digamma, gammaln

Array = NDArray[Any]


class Prior(NamedTuple):
    """Bishop's alpha_0, m_0, beta_0, nu_0 and the inverse of his W_0."""

    alpha: float
    mean: Array
    beta: float
    nu: float
    scatter: Array


TINY_PRIOR = Prior(0.8, np.array([0.2, -0.1]), 0.5, 3.5, np.array([[1.0, 0.3], [0.3, 0.7]]))


def tiny_data() -> Array:
    """Returns x [7, 2], of which all assignments to 2 or 3 components can be enumerated."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-1.0, 0.6, size=(3, 2)), rng.normal(1.5, 0.6, size=(4, 2))])


class NormalWishart(NamedTuple):
    """The posterior of one component's parameters given its datapoints."""

    mean: Array
    beta: float
    nu: float
    scatter: Array


def multigammaln(a: float, num_dims: int) -> float:
    """Returns the log of the multivariate gamma function."""
    gammas = np.sum(gammaln(a - 0.5 * np.arange(num_dims)))
    return float(0.25 * num_dims * (num_dims - 1) * math.log(math.pi) + gammas)


def posterior(prior: Prior, x: Array) -> NormalWishart:
    """Returns the posterior, computed from the sums of x and x x' without centering."""
    beta = prior.beta + len(x)
    mean = (prior.beta * prior.mean + np.sum(x, axis=0)) / beta
    second = prior.beta * np.outer(prior.mean, prior.mean) + x.T @ x
    scatter = prior.scatter + second - beta * np.outer(mean, mean)
    return NormalWishart(mean, beta, prior.nu + len(x), scatter)


def log_normalizer(family: NormalWishart) -> float:
    """Returns the log-normalizer without powers of 2 pi.

    An evidence has as many of those as its datapoints require.
    """
    num_dims = len(family.mean)
    log_det = np.linalg.slogdet(family.scatter)[1]
    of_wishart = 0.5 * family.nu * (num_dims * math.log(2.0) - log_det)
    of_wishart += multigammaln(0.5 * family.nu, num_dims)
    return float(of_wishart - 0.5 * num_dims * math.log(family.beta))


def log_evidence_of_one(prior: Prior, x: Array) -> float:
    """Returns log p(x) of datapoints that all belong to one component."""
    before = NormalWishart(prior.mean, prior.beta, prior.nu, prior.scatter)
    ratio = log_normalizer(posterior(prior, x)) - log_normalizer(before)
    return ratio - 0.5 * x.size * LOG_2PI


class Enumeration(NamedTuple):
    """All z [K^N, N], p(z | x) [K^N] and log p(x)."""

    z: NDArray[np.int64]
    posterior: Array
    log_evidence: float


def subsets_of(x: Array) -> list[Array]:
    """Returns the 2^N subsets [n, D] of datapoints [N, D], in the order of `subset_numbers`."""
    return [x[(number >> np.arange(len(x))) & 1 == 1] for number in range(2 ** len(x))]


def subset_numbers(z: Array, num_components: int) -> NDArray[np.int64]:
    """Returns the number [K^N, K] of the subset of datapoints that each component has in each z."""
    members = z[:, None, :] == np.arange(num_components)[:, None]
    return members @ 2 ** np.arange(z.shape[1])


def counts_of(z: Array, num_components: int) -> NDArray[np.int64]:
    """Returns how many datapoints each component has in each z, [K^N, K]."""
    return np.sum(z[:, None, :] == np.arange(num_components)[:, None], axis=2)


def enumerate_all(prior: Prior, x: Array, num_components: int) -> Enumeration:
    """Enumerates all z: p(x, z) is a Dirichlet-multinomial times the evidence of each component."""
    z = np.array(list(itertools.product(range(num_components), repeat=len(x))))
    total = num_components * prior.alpha
    with_counts = gammaln(prior.alpha + counts_of(z, num_components)) - gammaln(prior.alpha)
    log_p_z = gammaln(total) - gammaln(total + len(x)) + np.sum(with_counts, axis=1)
    evidences = np.array([log_evidence_of_one(prior, subset) for subset in subsets_of(x)])
    joints = log_p_z + np.sum(evidences[subset_numbers(z, num_components)], axis=1)
    log_evidence = float(np.asarray(scipy.special.logsumexp(joints)))
    return Enumeration(z, np.exp(joints - log_evidence), log_evidence)


def together(found: Enumeration) -> Array:
    """Returns p(z_i = z_j | x), [N, N]."""
    same = found.z[:, :, None] == found.z[:, None, :]
    return np.einsum("z,zij->ij", found.posterior, same)


def kl_dirichlet(p: Array, q: Array) -> Array:
    """Returns KL(Dirichlet(p) || Dirichlet(q)), [...], for p [K] and q [..., K]."""
    logs = digamma(p) - digamma(np.sum(p))
    of_p = gammaln(np.sum(p)) - np.sum(gammaln(p))
    of_q = gammaln(np.sum(q, axis=-1)) - np.sum(gammaln(q), axis=-1)
    return of_p - of_q + (p - q) @ logs


def kl_normal_wishart(p: NormalWishart, q: NormalWishart) -> float:
    """Returns KL(p || q).

    It is the KL of the Wisharts plus the expected KL of the normals given the precision.
    """
    num_dims = len(p.mean)
    shift = p.mean - q.mean
    precision = p.nu * np.linalg.inv(p.scatter)
    of_mean = num_dims * (q.beta / p.beta - 1.0 - math.log(q.beta / p.beta))
    of_mean += q.beta * shift @ precision @ shift
    log_det = np.sum(digamma(0.5 * (p.nu - np.arange(num_dims)))) + num_dims * math.log(2.0)
    log_det -= np.linalg.slogdet(p.scatter)[1]

    def expected_log(of: NormalWishart) -> float:
        norm = 0.5 * of.nu * (num_dims * math.log(2.0) - np.linalg.slogdet(of.scatter)[1])
        norm += multigammaln(0.5 * of.nu, num_dims)
        exponent = 0.5 * (of.nu - num_dims - 1.0) * log_det
        return float(exponent - 0.5 * np.trace(of.scatter @ precision) - norm)

    return float(0.5 * of_mean + expected_log(p) - expected_log(q))
