"""Preprocessing of stored datapoints for the model: (key, x [D] as stored) -> x [D] float32."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.types import Key

Preprocess = Callable[[Key, Array], Array]

# The streams of RandomState never change (NEP 19); those of numpy's newer Generator may.
BINARIZATION_SEED = 20131220


@dataclass(frozen=True)
class Preprocessing:
    """A preprocessing as data, which a run can store."""

    name: str  # unchanged, drawn or scaled
    grey_scale: float | None = None  # of scaled
    is_dequantized: bool = False

    def __call__(self, key: Key, x: Array) -> Array:
        """Returns the model's input x [D], float32, from a datapoint as stored [D]."""
        return self.with_noise(self.draw_noise(key, x.shape), x)

    def draw_noise(self, key: Key, shape: tuple[int, ...]) -> Array | None:
        """Draws the u of `with_noise`, uniform on [0, 1), float32; None if nothing is random."""
        if self.is_dequantized:
            return _noise_of_cells(jax.random.split(key)[1], shape)
        return jax.random.uniform(key, shape, jnp.float32) if self.name == "drawn" else None

    def with_noise(self, noise: Array | None, x: Array) -> Array:
        """Returns the model's input x [D], float32, from a datapoint as stored [D] and its noise.

        "unchanged" is for 0/1 and real numbers. "drawn" makes an independent 0/1 draw for each grey
        level in 0..255: 1 where u < x / 255, so that P(1) = x / 255. "scaled" divides levels by
        `grey_scale`. A dequantized level becomes (k + u) / 256. A missing value stays NaN.

        Args:
            noise: u [D], in [0, 1); None if nothing is random.

        Raises:
            ValueError: noise is missing, or is given where nothing is random.
        """
        if (noise is not None) != self.is_random:
            raise ValueError(f"the preprocessing {self.name!r} takes noise only if it is random")
        may_have_gaps = jnp.issubdtype(x.dtype, jnp.floating)
        x = x.astype(jnp.float32)
        if self.name == "drawn" and noise is not None:
            drawn = (noise < x / jnp.float32(255)).astype(jnp.float32)
            return jnp.where(jnp.isnan(x), x, drawn) if may_have_gaps else drawn
        x = x if self.grey_scale is None else x / jnp.float32(self.grey_scale)
        return x if noise is None else x + noise / 256

    @property
    def is_random(self) -> bool:
        """Whether x depends on the key."""
        return self.name == "drawn" or self.is_dequantized

    def invert(self, x: Array) -> Array:
        """Returns the stored datapoint [D] of a model's x [D], in floating point.

        Grey levels are recovered from their scaled values or from P(1), and a dequantized level
        from the center of its cell.
        """
        scale = 255.0 if self.name == "drawn" else self.grey_scale
        levels = x if scale is None else x * jnp.asarray(scale, x.dtype)
        return levels - 0.5 if self.is_dequantized else levels


unchanged, drawn = Preprocessing("unchanged"), Preprocessing("drawn")


def scaled(grey_scale: float) -> Preprocessing:
    """Returns the preprocessing that divides grey levels in 0..255 by `grey_scale`."""
    return Preprocessing("scaled", grey_scale)


def dequantized(preprocess: Preprocess) -> Preprocess:
    """Returns a preprocessing that gives (k + u) / 256 [D] where `preprocess` gives k / 256.

    u is uniform on the multiples of 2^-16 in [0, 1), so that float32 holds k + u exactly and no
    pixel leaves the cell of its level. A density of such data bounds the probability of the levels
    (Theis et al., 2016), which a density of k / 256 does not.
    """
    if isinstance(preprocess, Preprocessing):
        return replace(preprocess, is_dequantized=True)
    return lambda key, x: _with_noise(preprocess, key, x)


def _with_noise(preprocess: Preprocess, key: Key, x: Array) -> Array:
    key, noise_key = jax.random.split(key)
    return preprocess(key, x) + _noise_of_cells(noise_key, x.shape) / 256


def _noise_of_cells(key: Key, shape: tuple[int, ...]) -> Array:
    return jax.random.bits(key, shape, jnp.uint16).astype(jnp.float32) / 2**16


def binarized_once(*images: np.ndarray) -> list[np.ndarray]:
    """Returns a 0/1 draw for each uint8 array of grey levels, 1 with probability x / 255.

    The draw is always the same, with a fixed seed.
    """
    random = np.random.RandomState(BINARIZATION_SEED)
    # A u uniform on 0..254 is below x with probability x / 255, so 0 gives 0 and 255 gives 1.
    return [
        (random.randint(0, 255, size=x.shape, dtype=np.uint8) < x).view(np.uint8) for x in images
    ]
