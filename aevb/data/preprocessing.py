"""What a stored datapoint becomes before a model sees it: (key, x [D] stored) -> x [D] float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.types import Key

Preprocess = Callable[[Key, Array], Array]

# RandomState's streams are frozen for good (NEP 19); those of numpy's newer Generator are not.
BINARIZATION_SEED = 20131220


def unchanged(key: Key, x: Array) -> Array:
    """x [D] of 0/1 or of real numbers, as float32. The key is unused."""
    return x.astype(jnp.float32)


def drawn(key: Key, x: Array) -> Array:
    """Each grey level x [D] of 0..255 becomes 1 with probability x / 255, independently, else 0."""
    probability = x.astype(jnp.float32) / jnp.float32(255)
    return jax.random.bernoulli(key, probability).astype(jnp.float32)


def scaled(grey_scale: float) -> Preprocess:
    """x / grey_scale for grey levels x [D] of 0..255. The key is unused."""
    return lambda key, x: x.astype(jnp.float32) / jnp.float32(grey_scale)


def binarized_once(*images: np.ndarray) -> list[np.ndarray]:
    """Each uint8 array of grey levels as 0/1, 1 with probability x / 255, always the same draw."""
    random = np.random.RandomState(BINARIZATION_SEED)
    # u uniform on 0..254 is below x with probability x / 255: 0 is always 0, and 255 always 1.
    return [
        (random.randint(0, 255, size=x.shape, dtype=np.uint8) < x).view(np.uint8) for x in images
    ]
