"""Mean field on a Gaussian with correlated dimensions: exact means, variances too small."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.families import Normal
from aevb.types import Key


class MeanField(NamedTuple):
    """The factorized Q(z) = prod_i N(z_i; mean_i, variance_i)."""

    mean: Array  # [Z]
    variance: Array  # [Z]


def coordinate_ascent(target: Normal) -> CoordinateAscent:
    """Returns mean-field coordinate ascent on a target of Z dimensions, one factor for each.

    Bishop (2006), section 10.1.2. Each update moves a mean to its conditional mean given the means
    of the other dimensions. In two dimensions a sweep multiplies the error by the squared
    correlation. The bound is -KL(Q || target).
    """
    precision = jnp.linalg.inv(target.covariance)

    def update(dim: int, q: MeanField) -> MeanField:
        away = precision[dim] @ (q.mean - target.mean)
        mean = q.mean.at[dim].add(-away / precision[dim, dim])
        return MeanField(mean, q.variance.at[dim].set(1.0 / precision[dim, dim]))

    def bound(q: MeanField) -> Array:
        return -Normal(q.mean, jnp.diag(q.variance)).kl(target)

    def init(key: Key) -> MeanField:
        del key  # no random start is needed: the bound has one maximum
        return MeanField(jnp.zeros_like(target.mean), jnp.ones_like(target.mean))

    factors = {f"z{dim}": lambda q, dim=dim: update(dim, q) for dim in range(len(target.mean))}
    return CoordinateAscent(init, factors, bound)


def mean_field_optimum(target: Normal) -> MeanField:
    """Returns the factorized Q with the least KL(Q || target).

    Its variances are 1/Lambda_ii, with Lambda the target's precision. They are the variances of z_i
    given the other dimensions, and never exceed the marginal variances.
    """
    return MeanField(target.mean, 1.0 / jnp.diagonal(jnp.linalg.inv(target.covariance)))
