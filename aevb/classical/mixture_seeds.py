"""Where to begin a mixture: k-means++ and a few steps of k-means.

Coordinate ascent ends in the optimum that is uphill from where it began, and a mixture has many.
"""

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key


def responsibilities(
    key: Key, x: Array, num_components: int, active: Array, *, num_steps: int = 10
) -> Array:
    """Each point of x [D, N] to the cluster of k-means that it is in -> [K, N], 0 and 1."""
    centres = k_means_plus_plus(key, x, num_components)

    def step(centres: Array, _: None) -> tuple[Array, None]:
        members = _nearest(x, centres, active)
        counts = jnp.sum(members, axis=1)[:, None]
        means = (members @ x.T) / jnp.maximum(counts, 1.0)
        return jnp.where(counts > 0.0, means, centres), None

    centres, _ = jax.lax.scan(step, centres, length=num_steps)
    return _nearest(x, centres, active)


def k_means_plus_plus(key: Key, x: Array, num_components: int) -> Array:
    """K of the points x [D, N], apart from one another -> [K, D]; Arthur & Vassilvitskii (2007).

    Each is drawn by its squared distance from the nearest of those before. Where all points are
    taken already, the first is taken again.
    """

    def draw(nearest: Array, key: Key) -> tuple[Array, Array]:
        point = x[:, jax.random.categorical(key, jnp.log(nearest))]
        squared = jnp.sum(jnp.square(x - point[:, None]), axis=0)
        return jnp.minimum(nearest, squared), point

    # Before the first, all are equally far.
    start = jnp.full_like(x[0], jnp.finfo(x.dtype).max)
    return jax.lax.scan(draw, start, jax.random.split(key, num_components))[1]


def _nearest(x: Array, centres: Array, active: Array) -> Array:
    """Which of the active centres [K, D] each point of x [D, N] is nearest to -> [K, N]."""
    squared = jnp.sum(jnp.square(centres), axis=1)[:, None] - 2.0 * (centres @ x)
    nearest = jnp.argmin(jnp.where(active[:, None], squared, jnp.inf), axis=0)
    return jax.nn.one_hot(nearest, len(centres), axis=0, dtype=x.dtype)
