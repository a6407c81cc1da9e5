"""Independent rows that share a covariance: latents and weights of linear models alike.

In x = z W' + noise the rows of Z given W, and the rows of W given Z, are two regressions of one
form. Coordinate ascent goes from one to the other.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from aevb.classical.families import Normal
from aevb.distributions import LOG_2PI


class MatrixNormal(NamedTuple):
    """Rows v_r ~ N(mean_r, covariance), independent. A covariance of 0 makes it one point."""

    mean: Array  # [R, Z]
    covariance: Array  # [Z, Z], of every row

    def gram(self) -> Array:
        """E[V'V] = Sum_r E[v_r v_r'] -> [Z, Z]."""
        return self.mean.T @ self.mean + len(self.mean) * self.covariance

    def entropy(self) -> Array:
        """-E[log q(V)] -> [], nats."""
        return len(self.mean) * Normal(self.mean[0], self.covariance).entropy()

    def expected_log_prob(self, precision: Array, log_precision: Array) -> Array:
        """E[log prod_r N(v_r; 0, diag(1/precision))] -> [], nats.

        The precisions may be random and independent of V: then these are E[precision] [Z] and
        E[log precision] [Z].
        """
        log_dets = len(self.mean) * jnp.sum(log_precision - LOG_2PI)
        return 0.5 * (log_dets - jnp.sum(precision * jnp.diagonal(self.gram())))

    def masked(self, active: Array) -> "MatrixNormal":
        """With 0 in the columns that are not `active` [Z], of bools."""
        both = active[:, None] & active[None, :]
        return MatrixNormal(
            jnp.where(active[None, :], self.mean, 0.0), jnp.where(both, self.covariance, 0.0)
        )


def point_mass(mean: Array) -> MatrixNormal:
    """All mass on one matrix [R, Z]. Its entropy is minus infinity."""
    num_columns = mean.shape[1]
    return MatrixNormal(mean, jnp.zeros((num_columns, num_columns), mean.dtype))


def regression(
    y: Array, design: MatrixNormal, noise_precision: Array, precision: Array
) -> MatrixNormal:
    """The rows v_n of y_n = X v_n + noise, where q(X) is `design` -> of N rows.

    The best factor given that of X; exact where X is one point. Bishop (2006), eqs. (3.53) and
    (3.54), with the moments of X in place of X.

    Args:
        y: [N, D].
        design: of D rows.
        noise_precision: [].
        precision: [Z], the prior's, of each column of V.
    """
    covariance = jnp.linalg.inv(jnp.diag(precision) + noise_precision * design.gram())
    return MatrixNormal(noise_precision * (y @ design.mean) @ covariance, covariance)


def expected_square(y: Array, left: MatrixNormal, right: MatrixNormal) -> Array:
    """E[||y - L R'||^2] of y [N, D], L of N rows and R of D rows, independent -> []."""
    num_data, num_dims = y.shape
    residual = y - left.mean @ right.mean.T
    of_left = num_data * jnp.sum(left.covariance * right.gram())
    of_right = num_dims * jnp.sum(right.covariance * (left.mean.T @ left.mean))
    return jnp.sum(jnp.square(residual)) + of_left + of_right
