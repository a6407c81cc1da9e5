"""Three classical problems of the calculus of variations, discretized and solved numerically.

The known answers are a line for the shortest path, a cycloid for the fastest slide (Bernoulli
1696), and a circle for the largest area within a curve of given length. Each problem is a function
of a few dozen numbers whose gradient vanishes at the answer. Newton's method finds it, with the
Hessian from automatic differentiation.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical.functionals import functional

DAMPINGS = tuple(10.0**power for power in range(-14, 3))  # in units of the Hessian's mean diagonal


def minimize(function: Callable[[Array], Array], start: Array, *, num_steps: int) -> Array:
    """Returns a minimum [n] of a smooth function of [n], never above `start`, by damped Newton.

    Each step solves (H + damping I) step = -gradient for a range of dampings, from almost none to
    one so large that the step follows the gradient, and takes the lowest result (Levenberg 1944,
    with the full Hessian). A direction in which the function is constant, such as the size of a
    shape, therefore does no harm.
    """

    def step(point: Array, _: None) -> tuple[Array, None]:
        gradient, hessian = jax.grad(function)(point), jax.hessian(function)(point)
        unit = jnp.mean(jnp.abs(jnp.diagonal(hessian))) * jnp.eye(len(point), dtype=point.dtype)

        def damped(damping: Array) -> Array:
            return point - jnp.linalg.solve(hessian + damping * unit, gradient)

        tried = jax.vmap(damped)(jnp.array(DAMPINGS, point.dtype))
        values = jax.vmap(function)(tried)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        return jnp.where(values[best] <= function(point), tried[best], point), None

    return jax.lax.scan(step, start, length=num_steps)[0]


# The shortest path


def arc_length(x: Array, y: Array, slope: Array) -> Array:
    """Returns the Lagrangian sqrt(1 + y'^2), whose functional is the length of the curve."""
    del x, y
    return jnp.sqrt(1.0 + jnp.square(slope))


def shortest_path(x: Array, y: Array, *, num_steps: int = 30) -> Array:
    """Returns the shortest curve [n] between the ends of y [n], which stay fixed.

    Args:
        x: an increasing grid [n].
        y: the initial curve on the grid [n].
    """

    def length(inner: Array) -> Array:
        return functional(arc_length, x, y.at[1:-1].set(inner))

    return y.at[1:-1].set(minimize(length, y[1:-1], num_steps=num_steps))


# The fastest slide


class Slide(NamedTuple):
    """A slide from rest at the origin, made of straight pieces."""

    x: Array  # [n], horizontal distance
    y: Array  # [n], depth
    time: Array  # [], total time


def slide_time(x: Array, speed: Array, gravity: float) -> Array:
    """Returns the time [] along straight pieces, from the speeds [n] at their ends; the first is 0.

    Energy is conserved, so speed^2 = 2 gravity y. On a straight piece the acceleration is constant,
    so the time is the piece's length over the mean of its two speeds. This is exact, also at the
    start, where y' is infinite. The time is convex in the speeds, as a norm of convex functions,
    but not in y.
    """
    across = 2.0 * jnp.diff(x) / (speed[1:] + speed[:-1])
    return jnp.sum(jnp.sqrt(jnp.square(across) + jnp.square(jnp.diff(speed) / gravity)))


def brachistochrone(
    across: Array, down: Array, *, gravity: float = 9.81, num_pieces: int = 64, num_steps: int = 30
) -> Slide:
    """Returns the fastest slide to a point `across` [] > 0 and `down` [] > 0, without friction.

    Near the start the curve is y ~ x^(2/3), so the grid points are spaced as cubes. The speed is
    then a smooth function of the point's number, and the time exceeds the exact one by
    O(1 / num_pieces^2).
    """
    x = across * jnp.linspace(0.0, 1.0, num_pieces + 1, dtype=across.dtype) ** 3
    last = jnp.sqrt(2.0 * gravity * down)
    line = last * jnp.sqrt(x / across)

    def time(inner: Array) -> Array:
        return slide_time(x, line.at[1:-1].set(inner), gravity)

    speed = line.at[1:-1].set(minimize(time, line[1:-1], num_steps=num_steps))
    return Slide(x, jnp.square(speed) / (2.0 * gravity), slide_time(x, speed, gravity))


class Cycloid(NamedTuple):
    """The exact slide: x = radius (t - sin t), y = radius (1 - cos t) for t from 0 to `angle`."""

    radius: Array  # []
    angle: Array  # []

    def time(self, gravity: float = 9.81) -> Array:
        """Returns the time [] from rest to the end, sqrt(radius / gravity) times the angle."""
        return jnp.sqrt(self.radius / gravity) * self.angle


def cycloid(across: Array, down: Array) -> Cycloid:
    """Returns the cycloid through a point, by bisection of its angle between 0 and 2 pi."""

    def excess(angle: Array) -> Array:
        return down * (angle - jnp.sin(angle)) - across * (1.0 - jnp.cos(angle))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        above = excess(middle) > 0.0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    # The root sought lies above a double root at 0, and the excess is negative between them.
    ends = jnp.full_like(across, 1e-3), jnp.full_like(across, 2.0 * math.pi)
    angle = jax.lax.fori_loop(0, 60, halve, ends)[0]
    return Cycloid(down / (1.0 - jnp.cos(angle)), angle)


# The largest area


class Enclosure(NamedTuple):
    """A closed polygon, given by the distances of its corners from the origin at even angles."""

    radius: Array  # [n]
    multiplier: Array  # [], d area / d perimeter; for a circle, its radius


def perimeter(radius: Array) -> Array:
    """Returns the perimeter [] of the polygon with corners `radius` [n] at even angles."""
    corners = _corners(radius)
    return jnp.sum(jnp.linalg.norm(jnp.roll(corners, -1, axis=0) - corners, axis=1))


def area(radius: Array) -> Array:
    """Returns the area [] of the polygon with corners `radius` [n] at even angles."""
    turn = 2.0 * math.pi / len(radius)
    return 0.5 * math.sin(turn) * jnp.sum(radius * jnp.roll(radius, -1))


def largest_area(start: Array, length: Array, *, num_steps: int = 30) -> Enclosure:
    """Returns the polygon of perimeter `length` [] with the largest area, from radii `start` [n].

    Perimeter^2 / area does not depend on the size, so it is minimized without a constraint, and the
    result is scaled to the length. Lagrange's condition then holds automatically: the gradients of
    area and perimeter are parallel, and the multiplier is the ratio of the two.
    """

    def log_quotient(log_radius: Array) -> Array:
        radius = jnp.exp(log_radius)
        return 2.0 * jnp.log(perimeter(radius)) - jnp.log(area(radius))

    shape = jnp.exp(minimize(log_quotient, jnp.log(start), num_steps=num_steps))
    radius = shape * length / perimeter(shape)
    of_area, of_perimeter = jax.grad(area)(radius), jax.grad(perimeter)(radius)
    return Enclosure(radius, of_area @ of_perimeter / (of_perimeter @ of_perimeter))


def _corners(radius: Array) -> Array:
    angles = jnp.arange(len(radius), dtype=radius.dtype) * (2.0 * math.pi / len(radius))
    return radius[:, None] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
