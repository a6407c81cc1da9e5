"""Coordinate ascent on a problem of two numbers, for which every sweep is known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevb.classical.coordinate_ascent import CoordinateAscent, ascend, maximize

CORRELATION = 0.8
LOG_EVIDENCE = -3.0
TOP = (1.0, -2.0)


class Means(NamedTuple):
    """Means of two factors of variance 1 - CORRELATION^2, which are optimal from the start."""

    first: jax.Array  # []
    second: jax.Array  # []


def correlated() -> CoordinateAscent:
    """Returns the ascent of mean-field means on a Gaussian of unit variances with a known evidence.

    An update of one mean leaves an error of CORRELATION times the other's.
    """

    def bound(q: Means) -> jax.Array:
        x, y = q.first - TOP[0], q.second - TOP[1]
        squares = x**2 - 2.0 * CORRELATION * x * y + y**2
        return LOG_EVIDENCE - 0.5 * squares / (1.0 - CORRELATION**2)

    updates = {
        "first": lambda q: q._replace(first=TOP[0] + CORRELATION * (q.second - TOP[1])),
        "second": lambda q: q._replace(second=TOP[1] + CORRELATION * (q.first - TOP[0])),
    }
    return CoordinateAscent(lambda key: Means(*jax.random.normal(key, (2,))), updates, bound)


START = (4.0, 3.0)


def start() -> Means:
    return Means(*map(jnp.float64, START))


def by_hand(num_sweeps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the errors of both means after every update [T, 2, 2], and the bounds [T, 2]."""
    error = np.subtract(START, TOP)
    errors = []
    for _ in range(num_sweeps):
        for changed in (0, 1):
            error = error.copy()
            error[changed] = CORRELATION * error[1 - changed]
            errors.append(error)
    errors = np.array(errors)
    precision = np.linalg.inv([[1.0, CORRELATION], [CORRELATION, 1.0]])
    bounds = LOG_EVIDENCE - 0.5 * np.einsum("ni,ij,nj->n", errors, precision, errors)
    return errors.reshape(-1, 2, 2), bounds.reshape(-1, 2)


def test_the_bounds_are_those_after_every_update_in_the_order_of_the_factors():
    end, bounds = ascend(correlated(), start(), num_sweeps=5)
    errors, expected = by_hand(5)
    np.testing.assert_allclose(bounds, expected, rtol=1e-12)
    np.testing.assert_allclose(end, TOP + errors[-1, -1], rtol=1e-12)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-4, 1e-9])
def test_sweeps_stop_at_the_first_that_raises_the_bound_by_less_than_the_tolerance(
    tolerance: float,
):
    found = maximize(correlated(), start(), tolerance=tolerance, max_sweeps=100)
    _, bounds = by_hand(100)
    rises = np.diff(bounds[:, -1])  # those of the second sweep, the third, ...
    expected = int(np.argmax(rises < tolerance)) + 2
    assert int(found.num_sweeps) == expected
    assert bool(found.converged)
    np.testing.assert_allclose(found.bound, bounds[expected - 1, -1], rtol=1e-12)
    np.testing.assert_allclose(correlated().bound(found.state), found.bound, rtol=1e-12)


@pytest.mark.parametrize("max_sweeps", [0, 3])
def test_too_few_sweeps_are_reported_as_not_converged_and_0_sweeps_return_the_start(
    max_sweeps: int,
):
    found = maximize(correlated(), start(), tolerance=1e-9, max_sweeps=max_sweeps)
    assert int(found.num_sweeps) == max_sweeps
    assert not found.converged
    if max_sweeps == 0:
        assert found.state == start()
    else:
        np.testing.assert_allclose(found.bound, by_hand(max_sweeps)[1][-1, -1], rtol=1e-12)


def test_coordinate_ascent_does_not_converge_with_a_nan_bound():
    problem = correlated()
    broken = problem._replace(bound=lambda q: problem.bound(q) * jnp.nan)
    found = maximize(broken, start(), tolerance=1e-3, max_sweeps=10)
    assert int(found.num_sweeps) == 10
    assert not found.converged


def test_starts_under_vmap_stop_at_the_same_sweep_as_one_by_one():
    problem = correlated()

    def from_key(key: jax.Array):
        return maximize(problem, problem.init(key), tolerance=1e-6, max_sweeps=100)

    keys = jax.random.split(jax.random.key(0), 5)
    together = jax.jit(jax.vmap(from_key))(keys)
    alone = [from_key(key) for key in keys]
    assert list(np.asarray(together.num_sweeps)) == [int(one.num_sweeps) for one in alone]
    np.testing.assert_allclose(together.bound, [one.bound for one in alone], rtol=1e-12)
    assert len(set(np.asarray(together.num_sweeps).tolist())) > 1


def test_coordinate_ascent_keeps_float32():
    narrow = Means(*map(jnp.float32, START))
    found = maximize(correlated(), narrow, tolerance=1e-4, max_sweeps=100)
    assert found.bound.dtype == jnp.float32
    assert bool(found.converged)
    np.testing.assert_allclose(found.bound, LOG_EVIDENCE, atol=1e-3)
