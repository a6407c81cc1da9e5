"""Bits per dimension of grey levels from a bound in nats. This module does not import jax."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aevb.data import Dataset
    from aevb.vae import VAE

BITS, DEQUANTIZED_BITS = "bits_per_dim", "dequantized_bits_per_dim"
UNITS = {BITS: "bits/dim", DEQUANTIZED_BITS: "bits/dim, dequantized (at most)"}
"""The entries of a summary, without the split in their names, and the units shown for them."""


def bits_per_dim(nats: float, *, num_dims: int, levels: float | None = None) -> float:
    """Returns the bits per dimension of grey levels: -log2 of their probability, over D.

    If `levels` is None, `nats` is the log-probability of the levels, from a likelihood with
    `levels`. Otherwise it is the mean log-density of dequantized pixels (k + u) / levels. That
    log-density minus log(levels) for each pixel is a lower bound on log P, where P is the integral
    of the density over the cell of each level, so the bits are an upper bound (Theis et al., 2016).

    A density at the points k / levels has no bits: it can exceed 1 / (the width of a cell), and
    multiplied by that width it does not sum to 1 over the levels.
    """
    width_bits = 0.0 if levels is None else math.log2(levels)
    return width_bits - nats / (num_dims * math.log(2.0))


def of_parts(rate: float, distortion: float, num_dims: int) -> dict[str, float]:
    """Returns the bits per dimension of rate and distortion, in nats, of levels with probabilities.

    They add up to those of the bound.
    """
    parts = {"rate": rate, "distortion": distortion}
    return {
        f"{name}_{BITS}": bits_per_dim(-nats, num_dims=num_dims) for name, nats in parts.items()
    }


def bits_of(nats: float, dataset: "Dataset", vae: "VAE") -> dict[str, float]:
    """Returns {name: bits per dimension} of a bound on a dataset.

    The name is BITS if p(x|z) is a probability of grey levels, and DEQUANTIZED_BITS if it is a
    density of dequantized ones. Otherwise, and for data with missing values, the result is {}.
    """
    num_dims = dataset.train.shape[1]
    if vae.levels is not None:
        return {BITS: bits_per_dim(nats, num_dims=num_dims)}
    if dataset.is_dequantized and not dataset.has_missing:
        return {DEQUANTIZED_BITS: bits_per_dim(nats, num_dims=num_dims, levels=dataset.levels)}
    return {}
