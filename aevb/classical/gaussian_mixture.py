"""The Bayesian mixture of Gaussians, fitted to data, with a choice of the number of components.

    fit = gaussian_mixture.fit(key, x)
    fit.num_components, fit.weights, fit.means
    gaussian_mixture.predict_proba(fit, x_new)

The model is in mixture_model.py, its default prior in mixture_hierarchy.py, and the search in
mixture_search.py. This file chooses the number of components, and predicts.
"""

import math
import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from aevb.classical import mixture_data, mixture_search
from aevb.classical.mixture_basis import Basis
from aevb.classical.mixture_data import make_prior as make_prior
from aevb.classical.mixture_merges import Level
from aevb.classical.mixture_model import Parameters, Prior
from aevb.classical.mixture_model import coordinate_ascent as coordinate_ascent
from aevb.classical.mixture_search import Candidate
from aevb.classical.normal_wishart import NormalWishart
from aevb.types import Key

MOST = 32  # the greatest K that is tried unless the caller gives the candidates
NEAR = 2  # the sizes tried around a guess


class Fit(NamedTuple):
    """A mixture of K components fitted to data. Arrays are in the units of the data."""

    num_components: int
    parameters: Parameters  # q(weights, means, precisions)
    prior: Prior  # given, or learned: with the expectation of its scale and of its mean_precision
    bound: float  # the bound on log p(x), nats
    bounds: tuple[float, ...]  # the bound before the first sweep and after each, nats
    converged: bool
    scores: dict[
        int, float
    ]  # for each K tried, its best run's bound + log of its number of modes, nats
    basis: Basis  # the coordinates of the computation
    in_basis: Parameters  # `parameters` in those coordinates

    @property
    def weights(self) -> Array:
        """Returns E[weights], shape [K]."""
        return self.parameters.weights.mean()

    @property
    def means(self) -> Array:
        """Returns E[mean] of each component, shape [K, D]."""
        return self.parameters.components.mean

    @property
    def covariances(self) -> Array:
        """Returns E[precision]^-1 of each component, shape [K, D, D]."""
        precision = self.parameters.components.precision
        return precision.inverse_scale / precision.df[:, None, None]


def fit(
    key: Key,
    x: ArrayLike,
    *,
    num_components: int | Iterable[int] | None = None,
    prior: Prior | None = None,
    num_restarts: int = 3,
    num_sweeps: int = 200,
    tolerance: float = 1e-3,
) -> Fit:
    """Fits a mixture to x [N, D]: the best of several runs of coordinate ascent.

    The K with the highest bound + log K! is chosen. The posterior has K! modes that differ only in
    the labels of the components. Q covers one of them; a Q over all modes would have a bound higher
    by log K! if they do not overlap (Bishop 2006, section 10.2.4). With E empty components there
    are K!/E! modes, and the model is in effect a smaller one; such a fit is chosen only if there is
    no other.

    By default the scale of the prior is learned with the components, by the same bound. A fixed
    scale decides the number of components: one as wide as the data merges clear clusters.
    `mixture_hierarchy` states the prior and its reasons. Then the fit does not depend on the units
    or the origin of x, and an outlier does not move the other components. If values of a dimension
    repeat, the smallest difference is taken for the unit to which it is recorded, and the bound is
    one on the log-density of x + u, with u uniform within the units; otherwise a component of equal
    values would have an infinite density. For real numbers the unit is too small to matter.

    Each run starts from clusters of k-means that were merged to K by their evidence
    (`mixture_merges`). The computation uses coordinates in which the prior's scatter is of order 1.
    The bound is that of x as given. In float32 a bound has about seven digits.

    Args:
        num_components: K, or several values to choose from; by default up to 32, of which those
            near the number of clusters at which the mergers stop gaining are tried.
        prior: the prior of every component, which is kept as given; by default it is learned.
        num_restarts: the number of runs for each K.
        num_sweeps: the greatest number of sweeps in a run.
        tolerance: a run ends when a sweep raises the bound by less than this, in nats; with -inf it
            does not end early.

    Raises:
        ValueError: an argument is not as above, or without a prior the covariance of x has no
            inverse.
    """
    points, dtype = mixture_data.points(x)
    given = None if num_components is None else _sizes(num_components)
    _check_counts(num_restarts=num_restarts, num_sweeps=num_sweeps)
    if math.isnan(tolerance):
        raise ValueError("tolerance is nan; it must be a number of nats, such as 1e-3")
    known = None if prior is None else _checked(prior, points)
    problem = mixture_search.problem_of(points, dtype, known)
    most = given[-1] if given else min(MOST, len(points))
    num_seeds = max(most, min(2 * max(most, MOST), len(points) // 2))
    paths = mixture_search.merged(key, problem, num_seeds=num_seeds, num_restarts=num_restarts)
    ascend = partial(
        mixture_search.ascend, problem, paths, num_sweeps=num_sweeps, tolerance=tolerance
    )
    if given:
        best, scores = _choose(ascend(given))
    else:
        guesses = [max(levels, key=partial(_score_of, levels)) for levels in paths]
        best, scores = _search(ascend, guesses, most)
    return Fit(
        num_components=best.size,
        parameters=problem.basis.parameters(best.parameters),
        prior=problem.basis.prior_of_x(best.prior),
        bound=best.bounds[-1],
        bounds=best.bounds,
        converged=best.converged,
        scores=scores,
        basis=problem.basis,
        in_basis=best.parameters,
    )


def _search(
    ascend: Callable[[list[int]], list[Candidate]], guesses: list[int], most: int
) -> tuple[Candidate, dict[int, float]]:
    """Returns `_choose` of the runs of all sizes near the guesses and near the best size."""
    candidates = ascend(_near(guesses, most))
    best, scores = _choose(candidates)
    while missing := sorted(set(_near([best.size], most)) - set(scores)):
        candidates += ascend(missing)
        best, scores = _choose(candidates)
    return best, scores


def _score_of(levels: dict[int, Level], size: int) -> float:
    return levels[size].score


def _near(guesses: list[int], most: int) -> list[int]:
    return list(range(max(1, min(guesses) - NEAR), min(most, max(guesses) + NEAR) + 1))


def _checked(prior: Prior, points: Array) -> Prior:
    """Returns the given prior after checks, in float64."""
    mean, mean_precision, (df, inverse_scale) = prior.component
    checked = mixture_data.make_prior(prior.concentration, mean, mean_precision, df, inverse_scale)
    if len(checked.component.mean) != points.shape[1]:
        raise ValueError(
            f"the prior is one of {len(checked.component.mean)} dimensions; x has "
            f"{points.shape[1]} dimensions"
        )
    return checked


def _choose(candidates: list[Candidate]) -> tuple[Candidate, dict[int, float]]:
    """Chooses the best run.

    Returns:
        The best run, and the best score of each size.
    """
    best_of, scores = {}, {}
    sizes = sorted({candidate.size for candidate in candidates})
    for size in sizes:
        here = [candidate for candidate in candidates if candidate.size == size]
        full = [candidate for candidate in here if candidate.num_empty == 0]
        # With a single K the bound alone decides.
        among = full if len(sizes) > 1 and full else here
        best = max(among, key=lambda candidate: candidate.bounds[-1])
        log_modes = math.lgamma(size + 1) - math.lgamma(best.num_empty + 1)
        best_of[size], scores[size] = best, best.bounds[-1] + log_modes
    eligible = [size for size in sizes if best_of[size].num_empty == 0] or sizes
    return best_of[max(eligible, key=scores.__getitem__)], scores


def scikit_learn_prior(x: ArrayLike, num_components: int) -> Prior:
    """Returns scikit-learn's default prior for a mixture with Dirichlet weights, from x [N, D].

    The concentration is 1/K. The mean is that of x, with a precision of one datapoint. The Wishart
    has D degrees of freedom. Its inverse scale is the covariance of x, which must be positive
    definite. Under this prior clusters that are tight for their distances are merged.

    Raises:
        ValueError: x is not [N, D] of finite numbers, or its covariance has no inverse.
    """
    points, dtype = mixture_data.points(x)
    (size,) = _sizes(num_components)
    return mixture_data.cast(mixture_data.of_points(points, size), dtype)


def predict_proba(fit: Fit, x: ArrayLike) -> Array:
    """Returns p(z = k | x, data) [N, K] under Q, for new points x [N, D]."""
    return jnp.exp(_log_joint(fit, x) - _log_predictive(fit, x)[:, None])


def predict(fit: Fit, x: ArrayLike) -> Array:
    """Returns the index [N] of the most probable component, for new points x [N, D]."""
    return jnp.argmax(_log_joint(fit, x), axis=1)


def score_samples(fit: Fit, x: ArrayLike) -> Array:
    """Returns log p(x | data) [N] under Q, for new points x [N, D], in nats.

    Bishop (2006), eq. (10.81). The parameters are integrated out, which gives a mixture of
    Student's t distributions.
    """
    return _log_predictive(fit, x) - fit.basis.log_det()


@jax.jit
def _log_joint_of(parameters: Parameters, x: Array) -> Array:
    log_liks = jax.vmap(NormalWishart.log_predictive, in_axes=(0, None))(parameters.components, x)
    return log_liks.T + jnp.log(parameters.weights.mean())[None]


def _log_joint(fit: Fit, x: ArrayLike) -> Array:
    """Returns log p(z = k, y | data) [N, K] of new points, with y = x in the basis, in nats."""
    points, _ = mixture_data.points(x)
    mean = fit.in_basis.components.mean
    if points.shape[1] != mean.shape[1]:
        raise ValueError(
            f"x has {points.shape[1]} dimensions; the mixture was fitted to {mean.shape[1]}"
        )
    return _log_joint_of(fit.in_basis, fit.basis.of(points, mean.dtype).T)


def _log_predictive(fit: Fit, x: ArrayLike) -> Array:
    return jax.nn.logsumexp(_log_joint(fit, x), axis=1)


def _sizes(num_components: int | Iterable[int]) -> list[int]:
    """Returns the candidates for K in increasing order."""
    given = num_components if isinstance(num_components, Iterable) else (num_components,)
    try:
        sizes = sorted({operator.index(size) for size in given})
    except TypeError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise ValueError(
            f"num_components is {num_components!r}; it must be a whole number from 1, or several"
        )
    return sizes


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")
