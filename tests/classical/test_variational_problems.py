"""A line, a cycloid and a circle: computed minimizers of three functionals and the exact ones."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from marks import slow_but
from oracles import finite_difference

from aevb.classical import variational_problems
from aevb.classical.functionals import functional

GRAVITY = 9.81


def test_newtons_method_finds_the_minimum_of_rosenbrocks_function():
    """The function is Rosenbrock's, whose Hessian is not positive definite all along the way."""

    def valley(z: jax.Array) -> jax.Array:
        return (1.0 - z[0]) ** 2 + 100.0 * (z[1] - z[0] ** 2) ** 2

    found = variational_problems.minimize(valley, jnp.array([-1.5, 2.0]), num_steps=40)
    np.testing.assert_allclose(found, 1.0, atol=1e-8)


def test_newtons_method_finds_the_nearest_of_a_line_of_minima():
    found = variational_problems.minimize(
        lambda z: (z[0] - z[1] - 3.0) ** 2, jnp.array([5.0, 1.0]), num_steps=20
    )
    np.testing.assert_allclose(found, [4.5, 1.5], atol=1e-6)  # the nearest one of a line of minima


# The shortest path


def test_the_shortest_path_is_a_line():
    x = np.linspace(0.0, 2.0, 33)
    start = 1.5 * x + 2.0 * np.sin(1.5 * np.pi * x)
    start[-1] = 3.0

    @jax.jit
    def shortest(x: jax.Array, start: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the path, its length and the length of the start."""
        path = variational_problems.shortest_path(x, start)
        arc_length = variational_problems.arc_length
        return path, functional(arc_length, x, path), functional(arc_length, x, start)

    path, length, length_of_start = shortest(x, start)
    np.testing.assert_allclose(path, 1.5 * x, atol=1e-10)
    np.testing.assert_allclose(length, np.hypot(2.0, 3.0), rtol=1e-12)
    assert length_of_start > 10.0


# The fastest slide

brachistochrone = jax.jit(
    variational_problems.brachistochrone, static_argnames=("num_pieces", "num_steps")
)

ENDS = [(1.0, 1.0), (3.0, 1.0), (1.0, 3.0)]


def exact_cycloid(across: float, down: float) -> tuple[float, float]:
    """Returns the cycloid's radius and last angle, by SciPy."""

    def off(angle: float) -> float:
        return (angle - np.sin(angle)) / (1.0 - np.cos(angle)) - across / down

    angle = float(scipy.optimize.root_scalar(off, bracket=(1e-2, 6.28), xtol=1e-14).root)
    return down / (1.0 - np.cos(angle)), angle


@pytest.mark.parametrize("end", ENDS)
def test_the_cycloid_and_its_descent_time_are_the_closed_form(end: tuple[float, float]):
    found = variational_problems.cycloid(*map(jnp.float64, end))
    radius, angle = exact_cycloid(*end)
    np.testing.assert_allclose([found.radius, found.angle], [radius, angle], rtol=1e-10)
    np.testing.assert_allclose(found.time(GRAVITY), np.sqrt(radius / GRAVITY) * angle, rtol=1e-10)


@pytest.mark.parametrize("end", slow_but(ENDS[:1], ENDS))
def test_the_descent_time_falls_to_the_cycloids_with_the_square_of_the_spacing(
    end: tuple[float, float],
):
    """The computed time is an upper bound, because a path of straight pieces is a slide too."""
    radius, angle = exact_cycloid(*end)
    exact = np.sqrt(radius / GRAVITY) * angle
    excess = [
        float(brachistochrone(*map(jnp.float64, end), num_pieces=n).time) - exact for n in (32, 64)
    ]
    assert np.all(np.array(excess) > 0.0)
    assert excess[-1] < 1e-4 * exact
    orders = -np.diff(np.log2(excess))
    assert np.all((orders > 1.9) & (orders < 2.1)), orders


def test_the_brachistochrone_found_from_a_straight_line_is_the_cycloid():
    """All its points agree, although the search starts from a straight line."""
    found = brachistochrone(jnp.float64(3.0), jnp.float64(1.0), num_pieces=64)
    radius, _ = exact_cycloid(3.0, 1.0)

    def angle(x: float) -> float:
        off = scipy.optimize.root_scalar(
            lambda t: radius * (t - np.sin(t)) - x, bracket=(0.0, 6.28), xtol=1e-14
        )
        return float(off.root)

    angles = np.array([angle(x) for x in np.asarray(found.x)])
    np.testing.assert_allclose(found.y, radius * (1.0 - np.cos(angles)), atol=2e-3)
    assert float(np.max(found.y)) > 1.1  # it goes below its end point


def test_the_descent_time_along_a_straight_line_is_the_closed_form():
    """The formula sqrt(2 L / a) with a = g down / L is exact for any number of pieces."""
    slide_time = jax.jit(variational_problems.slide_time)
    for num_pieces in (1, 3):
        x = np.linspace(0.0, 3.0, num_pieces + 1)
        speed = np.sqrt(2.0 * GRAVITY * x * 4.0 / 3.0)  # down to (3, 4), a length of 5
        found = slide_time(x, speed, GRAVITY)
        np.testing.assert_allclose(found, np.sqrt(2.0 * 5.0 / (GRAVITY * 0.8)), rtol=1e-12)


# The largest area


area = jax.jit(variational_problems.area)
perimeter = jax.jit(variational_problems.perimeter)
largest_area = jax.jit(variational_problems.largest_area)


def lumpy(size: int) -> np.ndarray:
    angle = np.arange(size) * 2.0 * np.pi / size
    lumps = 0.3 * np.cos(3.0 * angle) + 0.2 * np.sin(2.0 * angle) + 0.1 * np.cos(angle)
    return 1.0 + lumps


LENGTH = 5.0


@cache
def polygon(size: int) -> variational_problems.Enclosure:
    return largest_area(lumpy(size), jnp.float64(LENGTH))


@pytest.mark.parametrize("size", slow_but([12], [12, 24]))
def test_the_largest_area_of_n_corners_is_in_the_regular_polygon(size: int):
    found = polygon(size)
    radius = LENGTH / (2.0 * size * np.sin(np.pi / size))
    np.testing.assert_allclose(found.radius, radius, rtol=1e-8)
    np.testing.assert_allclose(perimeter(found.radius), LENGTH, rtol=1e-12)
    greatest = LENGTH**2 / (4.0 * size * np.tan(np.pi / size))
    np.testing.assert_allclose(area(found.radius), greatest, rtol=1e-12)
    # The multiplier is the value of a little more length: d area / d length.
    np.testing.assert_allclose(found.multiplier, 2.0 * greatest / LENGTH, rtol=1e-10)


def test_lagranges_condition_holds_at_the_largest_area_and_not_before():
    of_area, of_perimeter = jax.jit(jax.grad(area)), jax.jit(jax.grad(perimeter))

    def miss(radius: jax.Array | np.ndarray, multipliers: np.ndarray) -> float:
        """Returns the largest violation of the condition, for the best of the multipliers."""
        slopes = np.asarray(of_area(radius)), np.asarray(of_perimeter(radius))
        apart = slopes[0] - multipliers[:, None] * slopes[1]
        return float(np.min(np.max(np.abs(apart), axis=1)))

    found = polygon(24)
    assert miss(found.radius, np.asarray(found.multiplier)[None]) < 1e-10
    assert miss(lumpy(24), np.linspace(0.0, 3.0, 31)) > 0.05


def test_the_largest_area_tends_to_the_circles_with_the_square_of_the_spacing():
    """The area is L^2 / (4 pi), and the multiplier is the radius L / (2 pi)."""
    polygons = [polygon(size) for size in (12, 24)]
    areas = [float(area(found.radius)) for found in polygons]
    multipliers = [float(found.multiplier) for found in polygons]
    for found, circle in (
        (areas, LENGTH**2 / (4.0 * np.pi)),
        (multipliers, LENGTH / (2.0 * np.pi)),
    ):
        short = circle - np.array(found)
        assert np.all(short > 0.0)
        orders = -np.diff(np.log2(short))
        assert np.all((orders > 1.9) & (orders < 2.1)), orders


def test_area_and_perimeter_are_those_of_the_corners():
    """The oracle is the shoelace formula, and the sum of the edge lengths."""
    radius = lumpy(12)
    angle = np.arange(12) * 2.0 * np.pi / 12
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    shoelace = 0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
    np.testing.assert_allclose(area(radius), shoelace, rtol=1e-12)
    length = sum(np.hypot(x[i] - x[i - 1], y[i] - y[i - 1]) for i in range(12))
    np.testing.assert_allclose(perimeter(radius), length, rtol=1e-12)
    slope = finite_difference(lambda radius: float(perimeter(radius)), radius)
    np.testing.assert_allclose(jax.jit(jax.grad(perimeter))(radius), slope, atol=1e-8)


def test_variational_problems_in_float32_stay_float32_and_near_float64():
    end = jnp.float32(3.0), jnp.float32(1.0)
    found = brachistochrone(*end, num_pieces=32)
    assert all(leaf.dtype == jnp.float32 for leaf in found)
    exact = brachistochrone(jnp.float64(3.0), jnp.float64(1.0), num_pieces=32)
    np.testing.assert_allclose(found.time, exact.time, rtol=1e-5)
    enclosure = largest_area(lumpy(12).astype(np.float32), jnp.float32(5.0))
    assert all(leaf.dtype == jnp.float32 for leaf in enclosure)
    np.testing.assert_allclose(enclosure.multiplier, polygon(12).multiplier, rtol=1e-4)
