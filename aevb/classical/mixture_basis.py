"""The coordinates for fitting a mixture, in which any data are of order 1.

The basis is in float64, even where JAX computes in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical import mixture_data
from aevb.classical.families import Wishart
from aevb.classical.mixture_model import Parameters, Prior
from aevb.classical.normal_wishart import NormalWishart


class Basis(NamedTuple):
    """The map x = shift + factor y, from the computation's coordinates y to the given data x."""

    shift: Array  # [D], float64
    factor: Array  # [D, D], float64, lower triangular

    def of(self, x: Array, dtype: jnp.dtype) -> Array:
        """Returns y [N, D], in `dtype`, of x [N, D] in float64."""
        with jax.enable_x64(True):
            y = (x - self.shift[None]) @ jnp.linalg.inv(self.factor).T
            return y.astype(dtype)

    def log_det(self) -> float:
        """Returns the log-density of y minus that of x, in nats."""
        with jax.enable_x64(True):
            return float(jnp.sum(jnp.log(jnp.diagonal(self.factor))))

    def prior(self, of_x: Prior, dtype: jnp.dtype) -> Prior:
        """Converts a prior of x's parameters, in float64, to one of y's parameters, in `dtype`."""
        mean, mean_precision, (df, inverse_scale) = of_x.component
        with jax.enable_x64(True):
            inverse = jnp.linalg.inv(self.factor)
            moved = NormalWishart(
                inverse @ (mean - self.shift),
                mean_precision,
                Wishart(df, inverse @ inverse_scale @ inverse.T),
            )
            return mixture_data.cast(Prior(of_x.concentration, moved), dtype)

    def parameters(self, of_y: Parameters) -> Parameters:
        """Converts q of y's parameters to q of x's parameters, in the same dtype."""
        return Parameters(of_y.weights, jax.vmap(self._component)(of_y.components))

    def prior_of_x(self, of_y: Prior) -> Prior:
        """Converts a prior of y's parameters to one of x's parameters, in the same dtype."""
        return Prior(of_y.concentration, self._component(of_y.component))

    def _component(self, of_y: NormalWishart) -> NormalWishart:
        """Converts a distribution of y's parameters to one of x's parameters, in the same dtype."""
        mean, mean_precision, (df, inverse_scale) = of_y
        with jax.enable_x64(True):
            moved = self.shift + self.factor @ mean.astype(jnp.float64)
            scale = self.factor @ inverse_scale.astype(jnp.float64) @ self.factor.T
            precision = Wishart(df, scale.astype(mean.dtype))
            return NormalWishart(moved.astype(mean.dtype), mean_precision, precision)


def of_prior(prior: Prior, origin: Array) -> Basis:
    """Returns the basis in which the prior's inverse scale is the identity and `origin` [D] is 0.

    Both arguments are in float64.
    """
    with jax.enable_x64(True):
        return Basis(origin, jnp.linalg.cholesky(prior.component.precision.inverse_scale))
