"""Latents as one vector [Z], for algorithms on vectors: HMC, L-BFGS, Laplace approximations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from aevb.losses import REAL, Guide, Joint
from aevb.types import Key, PyTree


class Vectors(NamedTuple):
    """A guide and a joint of vectors z [Z], and the maps between z and the pytree of latents."""

    guide: Guide
    joint: Joint
    ravel: Callable[[Any], Array]  # latents -> z [Z]
    unravel: Callable[[Array], Any]  # z [Z] -> latents


def as_vectors(stats: PyTree, guide: Guide, joint: Joint) -> Vectors:
    """Returns the guide and the joint as densities of one vector, the leaves of z joined.

    They are the same objects if z is a vector already.

    Args:
        stats: statistics of the guide, which give the shape of z.

    Raises:
        ValueError: z is not of real numbers.
    """
    if guide.support != REAL:
        raise ValueError(
            f"z is of {guide.support}, and HMC, L-BFGS and Laplace approximations need "
            f"{REAL}; use importance sampling from the guide"
        )
    shapes = jax.eval_shape(guide.sample, jax.random.key(0), stats)
    if isinstance(shapes, jax.ShapeDtypeStruct) and len(shapes.shape) == 1:
        return Vectors(guide, joint, lambda z: z, lambda z: z)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    unravel = ravel_pytree(zeros)[1]

    def ravel(z: Any) -> Array:
        return ravel_pytree(z)[0]

    def sample(key: Key, stats: PyTree) -> Array:
        return ravel(guide.sample(key, stats))

    def log_prob(stats: PyTree, z: Array) -> Array:
        return guide.log_prob(stats, unravel(z))

    of_vectors = Joint(lambda z: joint.log_prior(unravel(z)), lambda z: joint.log_lik(unravel(z)))
    return Vectors(Guide(sample, log_prob), of_vectors, ravel, unravel)


def of_structure(guide: Guide, vectors: Vectors) -> Guide:
    """Returns a guide of vectors [Z] as one of the latents that `vectors` was made from."""

    def sample(key: Key, stats: PyTree) -> Any:
        return vectors.unravel(guide.sample(key, stats))

    def log_prob(stats: PyTree, z: Any) -> Array:
        return guide.log_prob(stats, vectors.ravel(z))

    return Guide(sample, log_prob)
