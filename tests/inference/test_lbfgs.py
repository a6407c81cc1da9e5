"""L-BFGS reaches known optima, and never ends below its start."""

import jax
import jax.numpy as jnp
import numpy as np

from aevb.inference.lbfgs import maximize


def test_lbfgs_finds_the_maximum_of_a_badly_scaled_quadratic():
    scales, top = jnp.float32([1.0, 1e2, 1e4]), jnp.float32([3.0, -2.0, 0.5])

    def function(z: jax.Array) -> jax.Array:
        return -jnp.sum(scales * jnp.square(z - top))

    found = jax.jit(lambda start: maximize(function, start, num_steps=50))(jnp.zeros(3))
    np.testing.assert_allclose(found, top, atol=1e-3)


def test_lbfgs_maximizes_over_any_pytree():
    found = maximize(
        lambda p: -jnp.square(p["a"] - 1.0) - jnp.sum(jnp.square(p["b"] + 2.0)),
        {"a": jnp.float32(0.0), "b": jnp.zeros(2)},
        num_steps=10,
    )
    np.testing.assert_allclose(found["a"], 1.0, atol=1e-4)
    np.testing.assert_allclose(found["b"], [-2.0, -2.0], atol=1e-4)


def test_lbfgs_returns_its_start_if_the_search_ends_lower_or_in_nan():
    def cliff(z: jax.Array) -> jax.Array:
        """Returns a value that rises toward z = 1 and is NaN beyond it."""
        return jnp.log(1.0 - z) * 1e-3 + 100.0 * z

    start = jnp.float32(0.5)
    found = maximize(cliff, start, num_steps=20)
    assert np.isfinite(found)
    assert cliff(found) >= cliff(start)
