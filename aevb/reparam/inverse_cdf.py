"""The first method: a tractable inverse CDF, z = F^-1(u) with u ~ U(0, 1).

Scales, rates and concentrations are positive, locations real. All have the shape [Z] of z.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import xlogy

from aevb.reparam.family import (
    Family,
    Params,
    elementwise,
    open_uniform,
    positive,
    where_inside,
)
from aevb.reparam.gamma import gamma


def _inverse_cdf(
    params: tuple[str, ...],
    quantile: Callable[[Params, Array], Array],
    log_density: Callable[[Params, Array], Array],
) -> Family:
    return elementwise(params, open_uniform, quantile, log_density)


def _standardized(p: Params, z: Array) -> Array:
    return (z - p["location"]) / p["scale"]


def _exponential_quantile(u: Array) -> Array:
    """Returns -log(1 - u), the quantile of an Exponential of rate 1; it is from 6e-8 to 16.7."""
    return -jnp.log1p(-u)


def _cauchy_quantile(u: Array) -> Array:
    """Returns tan(pi (u - 1/2)), computed from the nearer end of (0, 1).

    Near pi/2 the tangent itself would lose its digits.
    """
    return jnp.sign(u - 0.5) / jnp.tan(jnp.pi * jnp.minimum(u, 1.0 - u))


def _pareto_quantile(p: Params, u: Array) -> Array:
    """Returns scale (1 - u)^(-1 / concentration), which rounding cannot put below the scale."""
    log_z = jnp.log(p["scale"]) + _exponential_quantile(u) / p["concentration"]
    return jnp.maximum(positive(log_z), p["scale"])


def _reciprocal_quantile(p: Params, u: Array) -> Array:
    """Returns low^(1 - u) high^u, which rounding cannot put outside [low, high]."""
    z = jnp.exp((1.0 - u) * jnp.log(p["low"]) + u * jnp.log(p["high"]))
    return jnp.clip(z, p["low"], p["high"])


def _weibull_log_density(p: Params, z: Array) -> Array:
    """Computes the log-density from log z - log scale, since z / scale may underflow."""
    concentration, log_scale = p["concentration"], jnp.log(p["scale"])
    log_density = xlogy(concentration - 1.0, z) - concentration * log_scale
    log_hazard = concentration * (jnp.log(z) - log_scale)
    return where_inside(z >= 0.0, log_density + jnp.log(concentration) - jnp.exp(log_hazard))


def _gompertz_log_density(p: Params, z: Array) -> Array:
    concentration, t = p["concentration"], z / p["scale"]
    log_density = t - concentration * jnp.expm1(t)
    return where_inside(z >= 0.0, log_density + jnp.log(concentration / p["scale"]))


def _logistic_log_density(p: Params, z: Array) -> Array:
    t = _standardized(p, z)
    return -t - 2.0 * jax.nn.softplus(-t) - jnp.log(p["scale"])


def _gumbel_log_density(p: Params, z: Array) -> Array:
    t = _standardized(p, z)
    return -t - jnp.exp(-t) - jnp.log(p["scale"])


exponential = _inverse_cdf(
    ("rate",),
    lambda p, u: _exponential_quantile(u) / p["rate"],
    lambda p, z: where_inside(z >= 0.0, jnp.log(p["rate"]) - p["rate"] * z),
)

cauchy = _inverse_cdf(
    ("location", "scale"),
    lambda p, u: p["location"] + p["scale"] * _cauchy_quantile(u),
    lambda p, z: -jnp.log1p(jnp.square(_standardized(p, z))) - jnp.log(jnp.pi * p["scale"]),
)

logistic = _inverse_cdf(
    ("location", "scale"),
    lambda p, u: p["location"] + p["scale"] * (jnp.log(u) - jnp.log1p(-u)),
    _logistic_log_density,
)

rayleigh = _inverse_cdf(
    ("scale",),
    lambda p, u: p["scale"] * jnp.sqrt(2.0 * _exponential_quantile(u)),
    lambda p, z: where_inside(
        z >= 0.0, jnp.log(z / p["scale"]) - 0.5 * jnp.square(z / p["scale"]) - jnp.log(p["scale"])
    ),
)

pareto = _inverse_cdf(
    ("scale", "concentration"),
    _pareto_quantile,
    lambda p, z: where_inside(
        z >= p["scale"],
        jnp.log(p["concentration"] / p["scale"])
        - (p["concentration"] + 1.0) * jnp.log(z / p["scale"]),
    ),
)
"""The Pareto on z >= scale. Below a concentration of 0.4 its tail is clipped, as in `positive`."""

weibull = _inverse_cdf(
    ("scale", "concentration"),
    lambda p, u: positive(
        jnp.log(p["scale"]) + jnp.log(_exponential_quantile(u)) / p["concentration"]
    ),
    _weibull_log_density,
)

reciprocal = _inverse_cdf(
    ("low", "high"),
    _reciprocal_quantile,
    lambda p, z: where_inside(
        (p["low"] <= z) & (z <= p["high"]), -jnp.log(z) - jnp.log(jnp.log(p["high"] / p["low"]))
    ),
)
"""The Reciprocal, p(z) proportional to 1/z on [low, high], 0 < low < high; log z is uniform."""

gompertz = _inverse_cdf(
    ("scale", "concentration"),
    lambda p, u: p["scale"] * jnp.log1p(_exponential_quantile(u) / p["concentration"]),
    _gompertz_log_density,
)
"""The Gompertz distribution, F(z) = 1 - exp(-concentration (exp(z / scale) - 1))."""

gumbel = _inverse_cdf(
    ("location", "scale"),
    lambda p, u: p["location"] - p["scale"] * jnp.log(-jnp.log(u)),
    _gumbel_log_density,
)
"""The Gumbel distribution of maxima, F(z) = exp(-exp(-(z - location) / scale))."""

erlang = gamma
"""The Gamma of an integer concentration, the number of stages.

Above one stage its inverse CDF has no closed form, contrary to the paper's list. The value is drawn
by rejection. Its derivative is that of the inverse CDF, computed implicitly."""

INVERSE_CDF: dict[str, Family] = {
    "exponential": exponential,
    "cauchy": cauchy,
    "logistic": logistic,
    "rayleigh": rayleigh,
    "pareto": pareto,
    "weibull": weibull,
    "reciprocal": reciprocal,
    "gompertz": gompertz,
    "gumbel": gumbel,
    "erlang": erlang,
}
