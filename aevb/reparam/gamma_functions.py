"""Ratios of Gamma functions, accurate where a difference of two log-Gammas would lose its digits.

jax's `betaln` is not used: it has errors of up to 8e-7 if one argument is above 8 and the other
below.
"""

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

LARGE = 10.0  # from here on, the six terms of Stirling's series are accurate to 1e-15
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def log_gamma_ratio(x: Array, shift: Array | float) -> Array:
    """Returns log Gamma(x) - log Gamma(x + shift), elementwise; x and shift are positive.

    Above x = 10 the large terms of the two Stirling formulas are subtracted analytically, so the
    error is that of a few roundings of shift log(x), however large x is.
    """
    large = jnp.where(x < LARGE, LARGE, x)  # a safe input where the formula is not used
    total = large + shift
    by_series = shift - shift * jnp.log(total) - (large - 0.5) * jnp.log1p(shift / large)
    by_series += _remainder(large) - _remainder(total)
    return jnp.where(x < LARGE, gammaln(x) - gammaln(x + shift), by_series)


def log_beta(a: Array, b: Array) -> Array:
    """Returns log B(a, b) = log Gamma(a) + log Gamma(b) - log Gamma(a + b), elementwise."""
    small, large = jnp.minimum(a, b), jnp.maximum(a, b)
    return gammaln(small) + log_gamma_ratio(large, small)


def _remainder(x: Array) -> Array:
    """Returns log Gamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2) for x of at least 10."""
    inverse = 1.0 / x
    inverse_sq = jnp.square(inverse)
    series = jnp.zeros_like(x)
    for coefficient in reversed(STIRLING):
        series = series * inverse_sq + coefficient
    return series * inverse
