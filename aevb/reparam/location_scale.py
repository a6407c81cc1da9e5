"""The second method: z = location + scale * eps, with eps the family's standard member.

Scales are positive, locations real. All have the shape [Z] of z, except in Elliptical. If a family
also has a shape parameter, eps is itself a function of noise without parameters.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.typing import DTypeLike

from aevb.distributions import LOG_2PI, student_t_log_prob
from aevb.reparam.family import (
    Family,
    Noise,
    Params,
    Shape,
    elementwise,
    open_uniform,
    positive,
    where_inside,
)
from aevb.reparam.gamma import GammaNoise, gamma_noise, log_gamma
from aevb.reparam.gamma_functions import log_gamma_ratio
from aevb.reparam.inverse_cdf import logistic
from aevb.types import Key, PyTree

HeavyNoise = tuple[Array, GammaNoise]  # normals [Z], and the noise of a Gamma that sets the tails


def _location_scale(
    noise: Noise,
    log_density: Callable[[Params, Array], Array],
    *,
    shape_params: tuple[str, ...] = (),
    standard: Callable[[Params, PyTree], Array] = lambda _, noise: noise,
) -> Family:
    """Returns the location-scale family with the standard member `standard(params, noise)`.

    `log_density` returns the log-density of the standard member for each dimension [Z].
    """

    def transform(p: Params, noise: PyTree) -> Array:
        return p["location"] + p["scale"] * standard(p, noise)

    def of_z(p: Params, z: Array) -> Array:
        return log_density(p, (z - p["location"]) / p["scale"]) - jnp.log(p["scale"])

    return elementwise(("location", "scale", *shape_params), noise, transform, of_z)


def _uniform_log_density(p: Params, z: Array) -> Array:
    """Computes the density from z, since rounding may put the standard member outside (0, 1)."""
    low, high = p["location"], p["location"] + p["scale"]
    return where_inside((low <= z) & (z <= high), -jnp.log(p["scale"]))


def _triangular_quantile(p: Params, u: Array) -> Array:
    """Returns F^-1(u) of the triangular distribution on (0, 1) with its peak at `mode`."""
    mode = p["mode"]
    return jnp.where(u < mode, jnp.sqrt(u * mode), 1.0 - jnp.sqrt((1.0 - u) * (1.0 - mode)))


def _triangular_log_density(p: Params, t: Array) -> Array:
    mode = p["mode"]
    height = jnp.where(t < mode, t / mode, (1.0 - t) / (1.0 - mode))
    return where_inside(height >= 0.0, jnp.log(2.0 * height))


def _heavy_noise(key: Key, shape: Shape, num_mixed: int, dtype: DTypeLike) -> HeavyNoise:
    """Draws normals, and Gamma noise that is shared along the last `num_mixed` axes."""
    normal_key, gamma_key = jax.random.split(key)
    mixing_shape = shape[: len(shape) - num_mixed]
    return jax.random.normal(normal_key, shape, dtype), gamma_noise(gamma_key, mixing_shape, dtype)


def _heavy_tail(df: Array, noise: GammaNoise) -> Array:
    """Returns the factor sqrt(df / chi^2), chi^2 ~ Chi-squared(df), from a Gaussian to a Student-t.

    The gradient in df is the implicit gradient of a Gamma. Below df = 0.4 the value may be clipped,
    as in `positive`.
    """
    half_df = 0.5 * df
    return positive(0.5 * (jnp.log(half_df) - log_gamma(half_df, noise)))


def _elliptical_transform(p: Params, noise: HeavyNoise) -> Array:
    normal, gamma = noise
    return p["location"] + jnp.tril(p["scale_tril"]) @ normal * _heavy_tail(p["df"], gamma)


def _elliptical_log_prob(p: Params, z: Array) -> Array:
    df, num_dims = p["df"], z.shape[-1]
    t = solve_triangular(p["scale_tril"], z - p["location"], lower=True)
    log_det = jnp.sum(jnp.log(jnp.diagonal(p["scale_tril"])))
    half_df, half_dims = 0.5 * df, 0.5 * num_dims
    log_normalizer = log_gamma_ratio(half_df, half_dims) + log_det
    log_normalizer += half_dims * jnp.log(jnp.pi * df)
    return -0.5 * (df + num_dims) * jnp.log1p(jnp.sum(jnp.square(t)) / df) - log_normalizer


laplace = _location_scale(jax.random.laplace, lambda _, t: -jnp.abs(t) - jnp.log(2.0))

elliptical = Family(
    ("location", "scale_tril", "df"),
    lambda key, shape, dtype: _heavy_noise(key, shape, 1, dtype),
    _elliptical_transform,
    _elliptical_log_prob,
)
"""The Elliptical: location [Z], scale_tril [Z, Z] with a positive diagonal, and df [] > 0.

The entries of scale_tril above the diagonal are ignored. The density of an Elliptical family
depends on z only through the length of scale_tril^-1 (z - location); the paper does not say how.
Here it is the multivariate Student-t, from the Cauchy (df = 1) to the Gaussian of any covariance
(df to infinity)."""

student_t = _location_scale(
    lambda key, shape, dtype: _heavy_noise(key, shape, 0, dtype),
    lambda p, t: student_t_log_prob(t, p["df"]),
    shape_params=("df",),
    standard=lambda p, noise: noise[0] * _heavy_tail(p["df"], noise[1]),
)
"""The Student-t with df > 0 degrees of freedom."""

uniform = elementwise(
    ("location", "scale"),
    open_uniform,
    lambda p, u: p["location"] + p["scale"] * u,
    _uniform_log_density,
)
"""The uniform distribution on [location, location + scale]."""

triangular = _location_scale(
    open_uniform,
    _triangular_log_density,
    shape_params=("mode",),
    standard=_triangular_quantile,
)
"""The triangular distribution on (location, location + scale).

Its peak is at location + scale * mode, with mode in (0, 1). The density is 0 at both ends. If the
scale is tiny relative to the location, rounding may put z on an end."""

gaussian = _location_scale(jax.random.normal, lambda _, t: -0.5 * (jnp.square(t) + LOG_2PI))

LOCATION_SCALE: dict[str, Family] = {
    "laplace": laplace,
    "elliptical": elliptical,
    "student_t": student_t,
    "logistic": logistic,  # its inverse CDF, location + scale * logit(u), also has this form
    "uniform": uniform,
    "triangular": triangular,
    "gaussian": gaussian,
}
