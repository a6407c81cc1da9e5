"""The coordinates in which a mixture is fitted: any data are of order 1 there.

These are NumPy's float64, so that a distant origin costs the data no digits where JAX computes in
float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from aevb.classical.families import Wishart
from aevb.classical.mixture_model import Parameters, Prior
from aevb.classical.normal_wishart import NormalWishart


class Basis(NamedTuple):
    """x = shift + factor y: x are the data as given, y what is computed with."""

    shift: NDArray[Any]  # [D], float64
    factor: NDArray[Any]  # [D, D], float64, lower triangular

    def of(self, x: NDArray[Any]) -> NDArray[Any]:
        """y of x [N, D] -> [N, D]."""
        return (x - self.shift) @ np.linalg.inv(self.factor).T

    def log_det(self) -> float:
        """The log-density of y less that of x, nats."""
        return float(np.sum(np.log(np.diagonal(self.factor))))

    def standardising(self) -> NDArray[Any]:
        """The matrix [D, D] that makes of y each dimension of x over its prior's scale."""
        return self.factor / np.linalg.norm(self.factor, axis=1)[:, None]

    def prior(self, of_x: Prior, dtype: np.dtype) -> Prior:
        """The prior of the parameters of y, from that of those of x."""
        given: Prior = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), of_x)
        inverse = np.linalg.inv(self.factor)
        mean, mean_precision, (df, inverse_scale) = given.component
        moved = make_prior(
            given.concentration,
            inverse @ (mean - self.shift),
            mean_precision,
            df,
            inverse @ inverse_scale @ inverse.T,
        )
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), moved)

    def parameters(self, of_y: Parameters) -> Parameters:
        """q of the parameters of x, from that of those of y."""
        mean, mean_precision, (df, inverse_scale) = of_y.components
        moved = self.shift + np.asarray(mean, np.float64) @ self.factor.T
        scale = self.factor @ np.asarray(inverse_scale, np.float64) @ self.factor.T
        precision = Wishart(df, jnp.asarray(scale, mean.dtype))
        components = NormalWishart(jnp.asarray(moved, mean.dtype), mean_precision, precision)
        return Parameters(of_y.weights, components)


def of_prior(prior: Prior, origin: NDArray[Any]) -> Basis:
    """In which the prior's inverse scale is the identity, and `origin` [D] is 0."""
    inverse_scale = np.asarray(prior.component.precision.inverse_scale, np.float64)
    return Basis(origin, np.linalg.cholesky(inverse_scale))


def make_prior(
    concentration: Any, mean: Any, mean_precision: Any, df: Any, inverse_scale: Any
) -> Prior:
    """Of NumPy's numbers, which are float64 also where JAX's are not."""
    component = NormalWishart(mean, mean_precision, Wishart(df, inverse_scale))
    return Prior(concentration, component)
