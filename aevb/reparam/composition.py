"""The third method: z is a function of other reparameterized variables.

Concentrations, degrees of freedom, scales and rates are positive. All have the shape [Z] of z.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import logsumexp
from jax.scipy.special import gammaln, xlog1py, xlogy
from jax.typing import DTypeLike

from aevb.reparam.family import Family, Params, Shape, elementwise, positive, where_inside
from aevb.reparam.gamma import GammaNoise, gamma, gamma_noise, log_gamma
from aevb.reparam.gamma_functions import log_beta
from aevb.reparam.location_scale import gaussian
from aevb.types import Key

TwoGammas = tuple[GammaNoise, GammaNoise]


def _two_gammas(key: Key, shape: Shape, dtype: DTypeLike) -> TwoGammas:
    first_key, second_key = jax.random.split(key)
    return gamma_noise(first_key, shape, dtype), gamma_noise(second_key, shape, dtype)


def _log_normal_log_prob(p: Params, z: Array) -> Array:
    log_z = jnp.log(z)
    return where_inside(jnp.all(z > 0.0), gaussian.log_prob(p, log_z) - jnp.sum(log_z))


def _dirichlet_transform(p: Params, noise: GammaNoise) -> Array:
    """Returns Gammas divided by their sum, computed in logarithms."""
    log_g = log_gamma(p["concentration"], noise)
    return positive(log_g - logsumexp(log_g))


def _dirichlet_log_prob(p: Params, z: Array) -> Array:
    concentration = p["concentration"]
    log_normalizer = jnp.sum(gammaln(concentration)) - gammaln(jnp.sum(concentration))
    log_density = jnp.sum(xlogy(concentration - 1.0, z)) - log_normalizer
    return where_inside(jnp.all(z >= 0.0), log_density)


def _beta_transform(p: Params, noise: TwoGammas) -> Array:
    """Returns g1 / (g1 + g0), clipped because rounding could make it 0 or 1."""
    log_g1 = log_gamma(p["concentration1"], noise[0])
    log_g0 = log_gamma(p["concentration0"], noise[1])
    z = positive(log_g1 - jnp.logaddexp(log_g1, log_g0))
    return jnp.minimum(z, 1.0 - float(jnp.finfo(z.dtype).epsneg))


def _beta_log_density(p: Params, z: Array) -> Array:
    one, zero = p["concentration1"], p["concentration0"]
    log_density = xlogy(one - 1.0, z) + xlog1py(zero - 1.0, -z) - log_beta(one, zero)
    return where_inside((z >= 0.0) & (z <= 1.0), log_density)


def _half_df(p: Params) -> Params:
    """Returns the parameters of a Chi-squared as those of a Gamma."""
    return {"concentration": 0.5 * p["df"], "rate": jnp.full_like(p["df"], 0.5)}


def _f_transform(p: Params, noise: TwoGammas) -> Array:
    """Returns (chi^2_1 / df1) / (chi^2_2 / df2)."""
    half_df1, half_df2 = 0.5 * p["df1"], 0.5 * p["df2"]
    log_chi1 = log_gamma(half_df1, noise[0]) - jnp.log(half_df1)
    log_chi2 = log_gamma(half_df2, noise[1]) - jnp.log(half_df2)
    return positive(log_chi1 - log_chi2)


def _f_log_density(p: Params, z: Array) -> Array:
    half_df1, half_df2 = 0.5 * p["df1"], 0.5 * p["df2"]
    ratio = half_df1 / half_df2
    log_density = xlogy(half_df1 - 1.0, z) - (half_df1 + half_df2) * jnp.log1p(ratio * z)
    log_normalizer = log_beta(half_df1, half_df2) - half_df1 * jnp.log(ratio)
    return where_inside(z >= 0.0, log_density - log_normalizer)


log_normal = Family(
    ("location", "scale"),
    jax.random.normal,
    lambda p, noise: positive(gaussian.transform(p, noise)),
    _log_normal_log_prob,
)
"""The exponential of a Gaussian with this location and scale."""

dirichlet = Family(("concentration",), gamma_noise, _dirichlet_transform, _dirichlet_log_prob)
"""The Dirichlet of z [Z] on the simplex; its density is over the first Z - 1 dimensions.

The paper's "weighted sum of Gamma variates" means Gammas divided by their sum. `log_prob` does not
check that z sums to 1."""

beta = elementwise(
    ("concentration1", "concentration0"), _two_gammas, _beta_transform, _beta_log_density
)
"""The Beta, with p(z) proportional to z^(concentration1 - 1) (1 - z)^(concentration0 - 1).

Floats are sparse below 1. With a concentration0 of 0.5, a probability of about 2e-4 lies between 1
and the next smaller float32, where neither z nor its density is accurate. Orient z so that the
smaller concentration belongs to 0: concentration1 <= concentration0."""

chi_squared = Family(
    ("df",),
    gamma_noise,
    lambda p, noise: gamma.transform(_half_df(p), noise),
    lambda p, z: gamma.log_prob(_half_df(p), z),
)
"""The Gamma of concentration df / 2 and rate 1/2; for integer df, a sum of squared Gaussians."""

f = elementwise(("df1", "df2"), _two_gammas, _f_transform, _f_log_density)
"""The ratio of two Chi-squared variables, each divided by its degrees of freedom."""

COMPOSITION: dict[str, Family] = {
    "log_normal": log_normal,
    "gamma": gamma,
    "dirichlet": dirichlet,
    "beta": beta,
    "chi_squared": chi_squared,
    "f": f,
}
