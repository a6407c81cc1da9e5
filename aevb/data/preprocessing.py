"""Preprocessing of stored datapoints for the model: (key, x [D] as stored) -> x [D] float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.types import Key

Preprocess = Callable[[Key, Array], Array]

# The streams of RandomState never change (NEP 19); those of numpy's newer Generator may.
BINARIZATION_SEED = 20131220


def unchanged(key: Key, x: Array) -> Array:
    """Returns x [D], of 0/1 or of real numbers, as float32. The key is unused."""
    return x.astype(jnp.float32)


def drawn(key: Key, x: Array) -> Array:
    """Returns independent 0/1 draws for grey levels x [D] in 0..255, with P(1) = x / 255."""
    probability = x.astype(jnp.float32) / jnp.float32(255)
    return jax.random.bernoulli(key, probability).astype(jnp.float32)


def scaled(grey_scale: float) -> Preprocess:
    """Returns a function that divides grey levels x [D] in 0..255 by `grey_scale`.

    The function does not use its key.
    """
    return lambda key, x: x.astype(jnp.float32) / jnp.float32(grey_scale)


def dequantized(preprocess: Preprocess) -> Preprocess:
    """Returns a function that gives (k + u) / 256 [D] where `preprocess` gives k / 256.

    u is uniform on the multiples of 2^-16 in [0, 1), so that float32 holds k + u exactly and no
    pixel leaves the cell of its level. A density of such data bounds the probability of the levels
    (Theis et al., 2016), which a density of k / 256 does not.
    """

    def with_noise(key: Key, x: Array) -> Array:
        key, noise_key = jax.random.split(key)
        noise = jax.random.bits(noise_key, x.shape, jnp.uint16).astype(jnp.float32)
        return preprocess(key, x) + noise / 2**24

    return with_noise


def binarized_once(*images: np.ndarray) -> list[np.ndarray]:
    """Returns a 0/1 draw for each uint8 array of grey levels, 1 with probability x / 255.

    The draw is always the same, with a fixed seed.
    """
    random = np.random.RandomState(BINARIZATION_SEED)
    # A u uniform on 0..254 is below x with probability x / 255, so 0 gives 0 and 255 gives 1.
    return [
        (random.randint(0, 255, size=x.shape, dtype=np.uint8) < x).view(np.uint8) for x in images
    ]
