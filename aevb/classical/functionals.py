"""Functions of functions, their derivatives, and the optimum of a bound in a free density.

A functional J[y] = integral of F(x, y, y') dx becomes a function of the values of y on a grid, and
its functional derivative an ordinary gradient per cell: delta J / delta y_i = (1/h) dJ_h / dy_i.
Where it vanishes the Euler-Lagrange equation holds. A variational bound is such a functional of q.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical.divergences import kl_on_grid

Lagrangian = Callable[[Array, Array, Array], Array]  # F(x, y, y') -> [], of scalars


def functional(lagrangian: Lagrangian, x: Array, y: Array) -> Array:
    """J[y] = integral of F(x, y, y') dx by the midpoint rule -> [].

    Args:
        x: a rising grid [n].
        y: values there [n], joined by straight lines.

    Raises:
        ValueError: x and y are not two vectors of the same length, of at least 3 points.
    """
    _check(x, y)
    dx = jnp.diff(x)
    middle_x, middle_y = 0.5 * (x[1:] + x[:-1]), 0.5 * (y[1:] + y[:-1])
    return jnp.sum(dx * jax.vmap(lagrangian)(middle_x, middle_y, jnp.diff(y) / dx))


def functional_derivative(lagrangian: Lagrangian, x: Array, y: Array) -> Array:
    """delta J / delta y = dF/dy - d/dx dF/dy' at the points between the ends -> [n - 2].

    The gradient of the discrete J in y_i, over the length of that point's cell; Bishop (2006),
    appendix D. On an even grid it errs by O(h^2). At the ends J has a boundary term besides.

    Raises:
        ValueError: as `functional`.
    """
    gradient = jax.grad(lambda y: functional(lagrangian, x, y))(y)
    return gradient[1:-1] / (0.5 * (x[2:] - x[:-2]))


def euler_lagrange_residual(lagrangian: Lagrangian, x: Array, y: Array) -> Array:
    """d/dx dF/dy' - dF/dy at the points between the ends -> [n - 2]; 0 where J is stationary.

    Nothing of F is discretized: its derivatives are automatic, d/dx runs along the curve with
    tangent (1, y', y''), and only y' and y'' are central differences, which err by O(h^2).

    Args:
        x: an evenly spaced grid [n].
        y: the curve there [n].

    Raises:
        ValueError: as `functional`.
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


# The free form of a factor


def free_form_update(log_joint: Array, log_q2: Array) -> Array:
    """log q*(z1) = E_{q(z2)}[log p(z1, z2, D)] + constant -> [A], normalized.

    Bishop (2006), eq. (10.9). Of all q(z1) whatever, it has the greatest bound given q(z2): no
    family was assumed.

    Args:
        log_joint: [A, B], of states; on a grid, the log-density plus that of the cell's volume.
        log_q2: the log-probability of each state or cell of z2 [B], -inf where it is 0.
    """
    # A state that q(z2) excludes has no say, also where the joint excludes it: 0 log 0 is 0.
    held = log_q2 > -jnp.inf
    terms = jnp.where(held[None], log_joint, 0.0) * jnp.exp(log_q2)[None]
    return jax.nn.log_softmax(jnp.sum(terms, axis=1))


def free_form_bound(log_joint: Array, q1: Array, q2: Array) -> Array:
    """L = E[log p(z1, z2, D)] - E[log q(z1) q(z2)] under q(z1) q(z2) -> [], nats.

    A function of the probabilities themselves, so that its gradient is the functional derivative:
    dL/dq1 = E_{q2}[log p(z1, z2, D)] - log q1 - 1 + the entropy of q2, which at the optimum is the
    same number everywhere, the multiplier of the condition that q1 has the sum 1.

    Args:
        log_joint: [A, B], as in `free_form_update`.
        q1: probabilities [A] of sum 1.
        q2: probabilities [B] of sum 1.
    """
    log_q = jnp.log(q1)[:, None] + jnp.log(q2)[None]
    return -kl_on_grid(log_q, log_joint)
