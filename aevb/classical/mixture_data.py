"""Checks of the data and priors given for a mixture, in float64 for any default dtype of JAX.

In float64, data far from the origin keep their digits until they are shifted and scaled to order 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from aevb.classical.families import Wishart
from aevb.classical.mixture_model import Prior
from aevb.classical.normal_wishart import NormalWishart

SINGULAR = 1e-12  # a correlation matrix is singular up to this ratio of its extreme eigenvalues


def points(x: ArrayLike) -> tuple[Array, jnp.dtype]:
    """Returns x [N, D] in float64, and the dtype to compute in: that of x, or JAX's default.

    Raises:
        ValueError: x is not [N, D], is empty, or holds something other than finite real numbers.
    """
    try:
        given = jnp.asarray(x)
    except (TypeError, ValueError):
        raise ValueError("x cannot be read as an array of numbers; it must be [N, D]") from None
    if given.ndim != 2:
        raise ValueError(f"x has the shape {given.shape}; it must be [N, D], also where D is 1")
    if given.size == 0:
        raise ValueError(
            f"x has the shape {given.shape}; there must be a datapoint and a dimension"
        )
    if jnp.iscomplexobj(given):
        raise ValueError(f"x holds {given.dtype}; it must hold real numbers")
    is_float = jnp.issubdtype(given.dtype, jnp.floating) and given.dtype.itemsize >= 4
    dtype = given.dtype if is_float else jnp.zeros(()).dtype
    with jax.enable_x64(True):
        exact = jnp.asarray(x, jnp.float64)
        bad = int(jnp.sum(~jnp.all(jnp.isfinite(exact), axis=1)))
    if bad:
        raise ValueError(f"{bad} of {len(exact)} datapoints hold NaN or infinity; leave them out")
    return exact, dtype


def make_prior(
    concentration: ArrayLike,
    mean: ArrayLike,
    mean_precision: ArrayLike,
    df: ArrayLike,
    inverse_scale: ArrayLike,
) -> Prior:
    """Returns a prior in float64, for x [N, D]; the mean is [D] and the inverse scale [D, D].

    Raises:
        ValueError: the shapes do not fit, or no such distribution exists.
    """
    with jax.enable_x64(True):
        given = (concentration, mean, mean_precision, df, inverse_scale)
        alpha, centre, beta, nu, scatter = (jnp.asarray(leaf, jnp.float64) for leaf in given)
        if centre.ndim != 1 or scatter.shape != (len(centre), len(centre)):
            raise ValueError(
                f"the prior's mean and inverse scale have the shapes {centre.shape} and "
                f"{scatter.shape}; they must be [D] and [D, D]"
            )
        if not (alpha > 0.0 and beta > 0.0):
            raise ValueError(
                f"the prior's concentration is {alpha} and its mean_precision {beta}; "
                "both must be above 0"
            )
        if not nu > len(centre) - 1:
            raise ValueError(
                f"the prior's df is {nu}; in {len(centre)} dimensions it must be above "
                f"{len(centre) - 1}"
            )
        if not _is_positive_definite(scatter):
            raise ValueError("the prior's inverse scale is not positive definite; it must be")
        return Prior(alpha, NormalWishart(centre, beta, Wishart(nu, scatter)))


def of_points(x: Array, num_components: int) -> Prior:
    """Returns `gaussian_mixture.scikit_learn_prior` in float64, of points x [N, D] in float64.

    Raises:
        ValueError: the covariance of x has no inverse.
    """
    with jax.enable_x64(True):
        mean = jnp.mean(x, axis=0)
        return make_prior(1.0 / num_components, mean, 1.0, x.shape[1], covariance(x))


def first_guess(x: Array, origin: ArrayLike) -> Prior:
    """Returns the prior from which `mixture_hierarchy` starts, in float64, for points x in float64.

    Its inverse scale is the covariance of x, which also is the shape of the prior of that scale.
    Its mean is `origin` [D].

    Raises:
        ValueError: the covariance of x has no inverse.
    """
    return make_prior(1.0, origin, 1.0, x.shape[1], covariance(x))


def covariance(x: Array) -> Array:
    """Returns the covariance [D, D] of points x [N, D] in float64.

    Raises:
        ValueError: it has no inverse.
    """
    num_points, num_dims = x.shape
    with jax.enable_x64(True):
        away = x - jnp.mean(x, axis=0)[None]
        found = away.T @ away / max(1, num_points - 1)
        if not _is_positive_definite(found):
            raise ValueError(
                f"the covariance of {num_points} datapoints in {num_dims} dimensions has no "
                "inverse, which the default prior needs; leave out constant or redundant "
                "dimensions, or give a prior"
            )
        return found


def resolution(x: np.ndarray) -> np.ndarray:
    """Returns the unit to which each dimension of x [N, D], in float64, is recorded, [D].

    It is the smallest difference of two values that differ by more than the rounding of float32, if
    float32 holds all of x, or else of float64. For real numbers it is tiny, about the range over N
    squared.
    """
    with np.errstate(over="ignore"):
        is_single = np.array_equal(x, x.astype(np.float32))
    noise = 2.0 * np.finfo(np.float32 if is_single else np.float64).eps * np.max(np.abs(x), axis=0)
    gaps = np.diff(np.sort(x, axis=0), axis=0)
    smallest = np.min(np.where(gaps > noise, gaps, np.inf), axis=0, initial=np.inf)
    return np.where(np.isfinite(smallest), smallest, 0.0)


def cast(prior: Prior, dtype: jnp.dtype) -> Prior:
    """Returns the prior in another dtype."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), prior)


def _is_positive_definite(matrix: Array) -> bool:
    """Checks positive definiteness, independently of the units of the dimensions."""
    stds = jnp.sqrt(jnp.abs(jnp.diagonal(matrix)))
    if not jnp.all(stds > 0.0):
        return False
    eigenvalues = jnp.linalg.eigvalsh(matrix / jnp.outer(stds, stds))
    return bool(eigenvalues[0] > SINGULAR * eigenvalues[-1])
