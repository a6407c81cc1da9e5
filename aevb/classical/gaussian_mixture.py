"""The Bayesian mixture of Gaussians, fitted to data: how many components, and what they are.

    fit = gaussian_mixture.fit(key, x)
    fit.num_components, fit.weights, fit.means
    gaussian_mixture.predict_proba(fit, x_new)

The model is in mixture_model.py. Here are the doors: data as they come, checks, and the choice of
the number of components.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from aevb.classical import mixture_basis, mixture_runs
from aevb.classical.mixture_basis import Basis, make_prior
from aevb.classical.mixture_model import Parameters, Prior
from aevb.classical.mixture_model import coordinate_ascent as coordinate_ascent
from aevb.classical.normal_wishart import NormalWishart
from aevb.types import Key

FEWEST = 1.0  # datapoints that a component must hold in expectation, or it is empty


class Fit(NamedTuple):
    """A mixture fitted to data, with K components. Arrays are in the units of the data."""

    num_components: int
    parameters: Parameters  # q(weights, means, precisions)
    prior: Prior
    bound: float  # on log p(x), nats
    bounds: NDArray[np.floating]  # before the first sweep and after each [T + 1], nats
    converged: bool
    scores: dict[int, float]  # of each K: its best run's bound + log of its modes, nats
    basis: Basis  # of the computation, and of `in_basis`
    in_basis: Parameters

    @property
    def weights(self) -> Array:
        """E[weights] -> [K]."""
        return self.parameters.weights.mean()

    @property
    def means(self) -> Array:
        """E[mean of each component] -> [K, D]."""
        return self.parameters.components.mean

    @property
    def covariances(self) -> Array:
        """E[precision of each component]^-1 -> [K, D, D]."""
        precision = self.parameters.components.precision
        return precision.inverse_scale / precision.df[:, None, None]


def fit(
    key: Key,
    x: ArrayLike,
    *,
    num_components: int | Iterable[int] = range(1, 9),
    prior: Prior | None = None,
    num_restarts: int = 5,
    num_sweeps: int = 200,
    tolerance: float = 1e-3,
) -> Fit:
    """The best of several runs of coordinate ascent on x [N, D], all of them in one program.

    Of several K that with the highest bound + log K! is chosen. The posterior has K! modes that
    differ in the components' names alone; Q is in one of them, and a Q over all would gain log K!
    where they do not overlap (Bishop 2006, section 10.2.4). With E components empty the modes are
    K!/E! and the model is a smaller one: it is chosen only where no other is left.

    It is computed in coordinates in which the prior's expected scatter is the identity, and the
    bound is that of x as given: under the default prior the fit does not depend on units. In
    float32 a bound has about seven digits.

    Args:
        num_components: K, or several to choose from.
        prior: of all components; by default `default_prior` of each K.
        num_restarts: runs for each K, each from k-means on standardised data. On clusters and on
            classical data sets the best run was found more often from there than from random
            responsibilities, or from k-means in the basis of the computation.
        num_sweeps: of a run, at most.
        tolerance: a run ends where a sweep raises the bound by less, nats; at -inf it does not.

    Raises:
        ValueError: an argument is not as above, or the default prior does not exist.
    """
    points, dtype = _points(x)
    sizes = _sizes(num_components)
    _check_counts(num_restarts=num_restarts, num_sweeps=num_sweeps)
    if math.isnan(tolerance):
        raise ValueError("tolerance is nan; it must be a number of nats, such as 1e-3")
    priors = [_default_prior(points, size) if prior is None else prior for size in sizes]
    for given in priors:
        _check_prior(given, points.shape[1])
    basis = mixture_basis.of_prior(priors[0], np.mean(points, axis=0))

    runs_of = np.repeat(np.arange(len(sizes)), num_restarts)
    in_basis = [basis.prior(given, dtype) for given in priors]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves)[runs_of], *in_basis)
    active = np.arange(max(sizes))[None] < np.array(sizes)[runs_of][:, None]
    runs, history = mixture_runs.ascend(
        jax.random.split(key, len(runs_of)),
        jnp.asarray(basis.of(points), dtype),
        jnp.asarray(basis.standardising(), dtype),
        stacked,
        jnp.asarray(active),
        jnp.asarray(tolerance, dtype),
        num_sweeps=num_sweeps,
    )
    counts = np.asarray(runs.statistics.num_points)
    num_empty = np.sum((counts < FEWEST) & active, axis=1)
    jacobian = -len(points) * basis.log_det()
    bounds = np.asarray(runs.bound, np.float64) + jacobian
    best, scores = _choose(sizes, runs_of, bounds, num_empty)
    size = sizes[runs_of[best]]
    parameters = jax.tree.map(lambda leaf: leaf[best, :size], runs.parameters)
    return Fit(
        num_components=size,
        parameters=basis.parameters(parameters),
        prior=jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), priors[runs_of[best]]),
        bound=float(bounds[best]),
        bounds=np.asarray(history[: int(runs.num_sweeps[best]) + 1, best], np.float64) + jacobian,
        converged=bool(runs.converged[best]),
        scores=scores,
        basis=basis,
        in_basis=parameters,
    )


def _choose(
    sizes: list[int], runs_of: NDArray, bounds: NDArray, num_empty: NDArray
) -> tuple[int, dict[int, float]]:
    """The best run, and for each K the score of its best."""
    best_of, scores = {}, {}
    for index, size in enumerate(sizes):
        here = np.flatnonzero(runs_of == index)
        full = here[num_empty[here] == 0]
        # Of a single K it is the bound that decides.
        among = full if len(sizes) > 1 and len(full) else here
        best = int(among[np.argmax(bounds[among])])
        log_modes = math.lgamma(size + 1) - math.lgamma(num_empty[best] + 1)
        best_of[size], scores[size] = best, float(bounds[best]) + log_modes
    eligible = [size for size in sizes if num_empty[best_of[size]] == 0] or sizes
    return best_of[max(eligible, key=scores.__getitem__)], scores


def default_prior(x: ArrayLike, num_components: int) -> Prior:
    """The prior that scikit-learn gives a mixture with a Dirichlet by default, from x [N, D].

    Concentration 1/K, the mean of x with a precision of one datapoint, and a Wishart of D degrees
    of freedom whose inverse scale is the covariance of x, which must be positive definite.

    Raises:
        ValueError: x is not [N, D] of finite numbers, or its covariance has no inverse.
    """
    points, dtype = _points(x)
    (size,) = _sizes(num_components)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), _default_prior(points, size))


def predict_proba(fit: Fit, x: ArrayLike) -> Array:
    """p(z = k | x, data) under Q of new points x [N, D] -> [N, K]."""
    return jnp.exp(_log_joint(fit, x) - _log_predictive(fit, x)[:, None])


def predict(fit: Fit, x: ArrayLike) -> Array:
    """The most probable component of new points x [N, D] -> [N]."""
    return jnp.argmax(_log_joint(fit, x), axis=1)


def score_samples(fit: Fit, x: ArrayLike) -> Array:
    """log p(x | data) under Q of new points x [N, D] -> [N], nats; Bishop (2006), eq. (10.81).

    A mixture of Student's t: the parameters are integrated out.
    """
    return _log_predictive(fit, x) - fit.basis.log_det()


@jax.jit
def _log_joint_of(parameters: Parameters, x: Array) -> Array:
    log_liks = jax.vmap(NormalWishart.log_predictive, in_axes=(0, None))(parameters.components, x)
    return log_liks.T + jnp.log(parameters.weights.mean())[None]


def _log_joint(fit: Fit, x: ArrayLike) -> Array:
    """log p(z = k, y | data) of the new points in the basis -> [N, K], nats."""
    points, _ = _points(x)
    mean = fit.in_basis.components.mean
    if points.shape[1] != mean.shape[1]:
        raise ValueError(
            f"x has {points.shape[1]} dimensions; the mixture was fitted to {mean.shape[1]}"
        )
    return _log_joint_of(fit.in_basis, jnp.asarray(fit.basis.of(points).T, mean.dtype))


def _log_predictive(fit: Fit, x: ArrayLike) -> Array:
    return jax.nn.logsumexp(_log_joint(fit, x), axis=1)


# Data as they come


def _points(x: ArrayLike) -> tuple[NDArray[np.floating], np.dtype]:
    """x [N, D] in float64, and the type to compute in.

    Raises:
        ValueError: it is not that, or not finite.
    """
    points = np.asarray(x)
    if points.ndim != 2:
        raise ValueError(f"x has the shape {points.shape}; it must be [N, D], also where D is 1")
    if points.size == 0:
        raise ValueError(
            f"x has the shape {points.shape}; there must be a datapoint and a dimension"
        )
    if not np.issubdtype(points.dtype, np.number) or np.iscomplexobj(points):
        raise ValueError(f"x holds {points.dtype}; it must hold real numbers")
    if bad := int(np.sum(~np.all(np.isfinite(points), axis=1))):
        raise ValueError(f"{bad} of {len(points)} datapoints hold NaN or infinity; leave them out")
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(points.dtype, np.float32))
    return points.astype(np.float64), dtype


def _default_prior(points: NDArray[np.floating], num_components: int) -> Prior:
    num_points, num_dims = points.shape
    covariance = np.atleast_2d(np.cov(points.T)) if num_points > 1 else np.zeros((num_dims,) * 2)
    if not _is_positive_definite(covariance):
        raise ValueError(
            f"the covariance of {num_points} datapoints in {num_dims} dimensions has no inverse, "
            "which the default prior needs; leave out constant or redundant dimensions, or give "
            "a prior"
        )
    return make_prior(1.0 / num_components, np.mean(points, axis=0), 1.0, num_dims, covariance)


def _is_positive_definite(matrix: NDArray[np.floating]) -> bool:
    """Whatever the units of its dimensions are."""
    stds = np.sqrt(np.abs(np.diagonal(matrix)))
    if not np.all(stds > 0.0):
        return False
    eigenvalues = np.linalg.eigvalsh(matrix / np.outer(stds, stds))
    return bool(eigenvalues[0] > 1e-12 * eigenvalues[-1])


def _check_prior(prior: Prior, num_dims: int) -> None:
    mean, mean_precision, (df, inverse_scale) = prior.component
    shapes = np.shape(mean), np.shape(inverse_scale)
    if shapes != ((num_dims,), (num_dims, num_dims)):
        raise ValueError(
            f"the prior's mean and inverse scale have the shapes {shapes}; x has {num_dims} "
            "dimensions"
        )
    if not (prior.concentration > 0.0 and mean_precision > 0.0):
        raise ValueError(
            f"the prior's concentration is {prior.concentration} and its mean_precision "
            f"{mean_precision}; both must be above 0"
        )
    if not df > num_dims - 1:
        raise ValueError(
            f"the prior's df is {df}; in {num_dims} dimensions it must be above {num_dims - 1}"
        )
    if not _is_positive_definite(np.asarray(inverse_scale, np.float64)):
        raise ValueError("the prior's inverse scale is not positive definite; it must be")


def _sizes(num_components: int | Iterable[int]) -> list[int]:
    """The candidates for K, in rising order."""
    given = num_components if isinstance(num_components, Iterable) else (num_components,)
    sizes = sorted(set(given))
    if not sizes or not all(isinstance(size, int | np.integer) and size >= 1 for size in sizes):
        raise ValueError(
            f"num_components is {num_components!r}; it must be a whole number from 1, or several"
        )
    return [int(size) for size in sizes]


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")
