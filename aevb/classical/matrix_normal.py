"""Matrices of independent rows that share a covariance: latents and weights of linear models.

In x = z W' + noise, the rows of Z given W and the rows of W given Z are two regressions of the same
form. Coordinate ascent alternates between them.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from aevb.classical.families import Normal
from aevb.distributions import LOG_2PI


class MatrixNormal(NamedTuple):
    """The distribution of independent rows v_r ~ N(mean_r, covariance).

    A covariance of 0 makes it a point mass.
    """

    mean: Array  # [R, Z]
    covariance: Array  # [Z, Z], the same for every row

    def gram(self) -> Array:
        """Returns E[V'V] = Sum_r E[v_r v_r'], shape [Z, Z]."""
        return self.mean.T @ self.mean + len(self.mean) * self.covariance

    def entropy(self) -> Array:
        """Returns the entropy -E[log q(V)], shape [], in nats."""
        return len(self.mean) * Normal(self.mean[0], self.covariance).entropy()

    def expected_log_prob(self, precision: Array, log_precision: Array) -> Array:
        """Returns E[log prod_r N(v_r; 0, diag(1/precision))], shape [], in nats.

        The precisions may be random and independent of V. The arguments are then E[precision] [Z]
        and E[log precision] [Z].
        """
        log_dets = len(self.mean) * jnp.sum(log_precision - LOG_2PI)
        return 0.5 * (log_dets - jnp.sum(precision * jnp.diagonal(self.gram())))

    def masked(self, active: Array) -> "MatrixNormal":
        """Returns a copy with 0 in the columns that are not `active` [Z], bool."""
        both = active[:, None] & active[None, :]
        return MatrixNormal(
            jnp.where(active[None, :], self.mean, 0.0), jnp.where(both, self.covariance, 0.0)
        )


def point_mass(mean: Array) -> MatrixNormal:
    """Returns the point mass on one matrix [R, Z]; its entropy is minus infinity."""
    num_columns = mean.shape[1]
    return MatrixNormal(mean, jnp.zeros((num_columns, num_columns), mean.dtype))


def regression(
    y: Array, design: MatrixNormal, noise_precision: Array, precision: Array
) -> MatrixNormal:
    """Returns the optimal q(V), N rows v_n, for y_n = X v_n + noise, given q(X) = `design`.

    It is the exact posterior if q(X) is a point mass. Bishop (2006), eqs. (3.53) and (3.54), with
    the moments of X in place of X.

    Args:
        y: [N, D].
        design: q(X), D rows.
        noise_precision: [].
        precision: [Z], the prior precision of each column of V.
    """
    covariance = jnp.linalg.inv(jnp.diag(precision) + noise_precision * design.gram())
    return MatrixNormal(noise_precision * (y @ design.mean) @ covariance, covariance)


def expected_square(y: Array, left: MatrixNormal, right: MatrixNormal) -> Array:
    """Returns E[||y - L R'||^2] [] of y [N, D] and independent L (N rows) and R (D rows)."""
    num_data, num_dims = y.shape
    residual = y - left.mean @ right.mean.T
    of_left = num_data * jnp.sum(left.covariance * right.gram())
    of_right = num_dims * jnp.sum(right.covariance * (left.mean.T @ left.mean))
    return jnp.sum(jnp.square(residual)) + of_left + of_right
