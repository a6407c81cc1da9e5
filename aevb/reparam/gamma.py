"""The Gamma, on which Erlang, Student-t, Elliptical, Dirichlet, Beta, Chi-squared and F are built.

The paper composes it from Exponentials, which needs an integer concentration. Other concentrations
have neither a closed inverse CDF nor a finite composition, so the gradient is implicit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln, xlogy
from jax.typing import DTypeLike

from aevb.reparam.family import Params, Shape, elementwise, open_uniform, positive, where_inside
from aevb.types import Key


class GammaNoise(NamedTuple):
    """The noise from which a Gamma of any concentration is computed."""

    key: Key  # [], the random bits of a rejection sampler
    uniform: Array  # the shape of z, in (0, 1)


def gamma_noise(key: Key, shape: Shape, dtype: DTypeLike) -> GammaNoise:
    """Draws eps of a Gamma, or of a family that is built on Gammas."""
    rejection_key, uniform_key = jax.random.split(key)
    return GammaNoise(rejection_key, open_uniform(uniform_key, shape, dtype))


def log_gamma(concentration: Array, noise: GammaNoise) -> Array:
    """Returns log g, g ~ Gamma(concentration, rate 1), with the shape of the concentration.

    g = g' u^(1 / concentration), with g' ~ Gamma(concentration + 1) by rejection sampling. The map
    from random bits to g' is discontinuous where a proposal is rejected. jax therefore
    differentiates the inverse CDF at the level of g', dg'/da = -(dF/da) / p(g'): implicit
    reparameterization (Figurnov et al. 2018). The gradient of the second factor is pathwise.
    Nothing underflows for any small concentration, since the result is a logarithm and the
    sampler's concentration is above 1. The price is variance. The variance of the gradient of E[g]
    is 1.41 times that of the implicit gradient of g itself at a concentration of 0.1, 1.37 times at
    0.5, 1.31 at 1 and 1.20 at 3 (200,000 draws, standard errors of 0.02 or less). In float32 jax's
    dg'/da has a relative error of 4e-5 at a concentration of 1,000, and of 6e-2 at 10^6.
    """
    log_boosted = jax.random.loggamma(noise.key, concentration + 1.0, dtype=concentration.dtype)
    return log_boosted + jnp.log(noise.uniform) / concentration


def _log_density(p: Params, z: Array) -> Array:
    concentration, rate = p["concentration"], p["rate"]
    log_density = xlogy(concentration - 1.0, z) - rate * z
    log_normalizer = gammaln(concentration) - concentration * jnp.log(rate)
    return where_inside(z >= 0.0, log_density - log_normalizer)


gamma = elementwise(
    ("concentration", "rate"),
    gamma_noise,
    lambda p, noise: positive(log_gamma(p["concentration"], noise) - jnp.log(p["rate"])),
    _log_density,
)
"""The Gamma of concentration > 0 and rate > 0.

Below a concentration of 0.2 a float32 z may be clipped at its least value: P(z < 3e-38) is 4e-8 at
0.2 and 2e-4 at 0.1."""
