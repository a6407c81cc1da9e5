"""Functionals and their derivatives, and the density that maximizes a bound in free form.

On a grid a functional J[y] = integral of F(x, y, y') dx becomes a function of the values of y. Its
functional derivative becomes an ordinary gradient divided by the cell length h:
delta J / delta y_i = (1/h) dJ_h / dy_i. The Euler-Lagrange equation holds where the derivative
vanishes. A variational bound is such a functional of q.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical.divergences import kl_on_grid

Lagrangian = Callable[[Array, Array, Array], Array]  # (x, y, y') -> F [], all scalars


def functional(lagrangian: Lagrangian, x: Array, y: Array) -> Array:
    """Returns J[y] = integral of F(x, y, y') dx, shape [], by the midpoint rule.

    Args:
        x: an increasing grid [n].
        y: the values on the grid [n], interpolated linearly.

    Raises:
        ValueError: x and y are not two vectors of the same length, of at least 3 points.
    """
    _check(x, y)
    dx = jnp.diff(x)
    middle_x, middle_y = 0.5 * (x[1:] + x[:-1]), 0.5 * (y[1:] + y[:-1])
    return jnp.sum(dx * jax.vmap(lagrangian)(middle_x, middle_y, jnp.diff(y) / dx))


def functional_derivative(lagrangian: Lagrangian, x: Array, y: Array) -> Array:
    """Returns delta J / delta y = dF/dy - d/dx dF/dy' at the interior points [n - 2].

    It is the gradient of the discrete J in y_i, divided by the length of that point's cell; Bishop
    (2006), appendix D. On an even grid the error is O(h^2). At the ends J has a boundary term too.

    Raises:
        ValueError: as in `functional`.
    """
    gradient = jax.grad(lambda y: functional(lagrangian, x, y))(y)
    return gradient[1:-1] / (0.5 * (x[2:] - x[:-2]))


def euler_lagrange_residual(lagrangian: Lagrangian, x: Array, y: Array) -> Array:
    """Returns d/dx dF/dy' - dF/dy at the interior points [n - 2]; 0 where J is stationary.

    F is not discretized: its derivatives are automatic, and d/dx is the derivative along the curve,
    with tangent (1, y', y''). Only y' and y'' are central differences, with an error of O(h^2).

    Args:
        x: an evenly spaced grid [n].
        y: the values of the curve on the grid [n].

    Raises:
        ValueError: as in `functional`.
    """
    _check(x, y)
    h = x[1] - x[0]
    slope = (y[2:] - y[:-2]) / (2.0 * h)
    curvature = (y[2:] - 2.0 * y[1:-1] + y[:-2]) / jnp.square(h)

    def residual(x: Array, y: Array, slope: Array, curvature: Array) -> Array:
        momentum = jax.grad(lagrangian, argnums=2)
        tangent = jnp.ones_like(x), slope, curvature
        _, change = jax.jvp(momentum, (x, y, slope), tangent)
        return change - jax.grad(lagrangian, argnums=1)(x, y, slope)

    return jax.vmap(residual)(x[1:-1], y[1:-1], slope, curvature)


def _check(x: Array, y: Array) -> None:
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}; they must be one [n], of at least 3 points"
        )


# Free-form factors


def free_form_update(log_joint: Array, log_q2: Array) -> Array:
    """Returns log q*(z1) = E_{q(z2)}[log p(z1, z2, D)] + constant [A], normalized.

    Bishop (2006), eq. (10.9). Among all densities q(z1), q* gives the greatest bound for this
    q(z2); no family is assumed.

    Args:
        log_joint: the log-joint [A, B] of the states; on a grid, the log-density plus the
            log-volume of the cell.
        log_q2: the log-probability of each state or cell of z2 [B], -inf where it is 0.
    """
    # A state with q(z2) = 0 adds nothing, even where the joint is 0 as well: 0 log 0 = 0.
    held = log_q2 > -jnp.inf
    terms = jnp.where(held[None], log_joint, 0.0) * jnp.exp(log_q2)[None]
    return jax.nn.log_softmax(jnp.sum(terms, axis=1))


def free_form_bound(log_joint: Array, q1: Array, q2: Array) -> Array:
    """Returns L = E[log p(z1, z2, D)] - E[log q(z1) q(z2)] under q(z1) q(z2), shape [], in nats.

    L is a function of the probabilities themselves, so its gradient is the functional derivative:
    dL/dq1 = E_{q2}[log p(z1, z2, D)] - log q1 - 1 + the entropy of q2. At the optimum it has the
    same value for every state: the Lagrange multiplier of the constraint that q1 sums to 1.

    Args:
        log_joint: [A, B], as in `free_form_update`.
        q1: probabilities [A] with sum 1.
        q2: probabilities [B] with sum 1.
    """
    log_q = jnp.log(q1)[:, None] + jnp.log(q2)[None]
    return -kl_on_grid(log_q, log_joint)
