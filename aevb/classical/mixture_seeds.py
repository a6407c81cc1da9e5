"""Initialization of a mixture: k-means++ and a few steps of k-means.

Coordinate ascent converges to a local optimum that depends on the start; a mixture has many.
"""

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key


def responsibilities(
    key: Key, x: Array, num_components: int, active: Array, *, num_steps: int = 10
) -> Array:
    """Returns the k-means cluster of each point of x [D, N], one-hot [K, N]."""
    centres = k_means_plus_plus(key, x, num_components)

    def step(centres: Array, _: None) -> tuple[Array, None]:
        members = _nearest(x, centres, active)
        counts = jnp.sum(members, axis=1)[:, None]
        means = (members @ x.T) / jnp.maximum(counts, 1.0)
        return jnp.where(counts > 0.0, means, centres), None

    centres, _ = jax.lax.scan(step, centres, length=num_steps)
    return _nearest(x, centres, active)


def k_means_plus_plus(key: Key, x: Array, num_components: int) -> Array:
    """Draws K points of x [D, N] that lie apart, as [K, D]; Arthur & Vassilvitskii (2007).

    The probability of a point is proportional to its squared distance from the nearest point drawn
    before. If every point has been drawn already, the first point of x is drawn again.
    """

    def draw(nearest: Array, key: Key) -> tuple[Array, Array]:
        point = x[:, jax.random.categorical(key, jnp.log(nearest))]
        squared = jnp.sum(jnp.square(x - point[:, None]), axis=0)
        return jnp.minimum(nearest, squared), point

    # Before the first draw all distances are equal.
    start = jnp.full_like(x[0], jnp.finfo(x.dtype).max)
    return jax.lax.scan(draw, start, jax.random.split(key, num_components))[1]


def _nearest(x: Array, centres: Array, active: Array) -> Array:
    """Returns the nearest active center of each point, one-hot [K, N]; x is [D, N]."""
    # Expanding the square would lose the digits of clusters that are tight for their distances.
    squared = jax.vmap(lambda centre: jnp.sum(jnp.square(x - centre[:, None]), axis=0))(centres)
    nearest = jnp.argmin(jnp.where(active[:, None], squared, jnp.inf), axis=0)
    return jax.nn.one_hot(nearest, len(centres), axis=0, dtype=x.dtype)
