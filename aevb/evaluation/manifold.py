"""The decoded plane of two latents, as in the paper's figure 4, and how it compares with data."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtr

from aevb.types import PyTree
from aevb.vae import VAE

SIDE = 20  # cells of the decoded grid along each latent
QUANTILES = (np.arange(SIDE) + 0.5) / SIDE
CODE_SIDE = 10  # cells along each latent in which encoded data are counted
BLOCK = 1000  # datapoints that are compared at a time


def decode_unit_square(vae: VAE, params: PyTree) -> Array:
    """Returns E[x|z] on a grid of latents, for figure 4 of the paper, [G, G, D].

    The grid is on the unit square, mapped through the inverse Gaussian CDF: both latents are at the
    QUANTILES of N(0, 1). The first latent increases to the right, the second upward.
    """
    values = jax.scipy.special.ndtri(jnp.asarray(QUANTILES, jnp.float32))
    across, up = jnp.meshgrid(values, values[::-1])
    latents = jnp.stack([across, up], axis=-1)
    return jax.vmap(jax.vmap(lambda z: vae.mean(params, z)))(latents)


class Fidelity(NamedTuple):
    """How near the decoded means of a grid are to data, and how much of the data they show.

    A distance is the root mean square difference per dimension, in units of the data.
    """

    distance: float  # from a cell's mean to the nearest datapoint, averaged over the cells
    distance_90: float  # its 90th percentile: a tenth of the cells are farther off
    num_nearest: int  # number of different datapoints that are the nearest of some cell


def fidelity(means: np.ndarray, blocks: Iterable[np.ndarray]) -> Fidelity:
    """Compares decoded means [G, G, D] with datapoints, given in blocks [n, D].

    The mean of a Gaussian likelihood with a large variance is far from every datapoint; a decoder
    that has memorized few of them is near them, but `num_nearest` is low.
    """
    cells = np.reshape(means, (-1, means.shape[-1])).astype(np.float64)
    least, nearest, start = np.full(len(cells), np.inf), np.zeros(len(cells), int), 0
    for block in blocks:
        x = np.asarray(block, np.float64)
        squares = np.mean(cells**2, 1)[:, None] + np.mean(x**2, 1) - 2 * cells @ x.T / x.shape[1]
        here = np.argmin(squares, axis=1)
        smallest = squares[np.arange(len(cells)), here]
        nearest = np.where(smallest < least, start + here, nearest)
        least, start = np.minimum(least, smallest), start + len(x)
    distances = np.sqrt(np.maximum(least, 0.0))
    return Fidelity(
        float(np.mean(distances)), float(np.quantile(distances, 0.9)), len(np.unique(nearest))
    )


def step_ratio(steps: np.ndarray) -> float:
    """Returns the 95th percentile of step lengths over their median."""
    return float(np.quantile(steps, 0.95) / np.median(steps))


def grid_steps(means: np.ndarray) -> np.ndarray:
    """Returns the root mean square differences between neighboring cells of a grid [G, G, D]."""
    across, up = np.diff(means, axis=1), np.diff(means, axis=0)
    return np.concatenate([_root_mean_square(step).ravel() for step in (across, up)])


def film_steps(frames: np.ndarray) -> np.ndarray:
    """Returns the root mean square differences between successive frames [N, D], [N - 1]."""
    return _root_mean_square(np.diff(frames, axis=0))


def occupancy(codes: np.ndarray, side: int = CODE_SIDE) -> float:
    """Returns the fraction of the unit square's side x side cells that hold codes [N, 2].

    A code is mapped into the unit square by the Gaussian CDF, so that the cells are equally
    probable under the prior N(0, I).
    """
    place = np.minimum((ndtr(codes) * side).astype(int), side - 1)
    return len(np.unique(place @ np.array([side, 1]))) / side**2


def _root_mean_square(difference: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(np.square(difference, dtype=np.float64), axis=-1))
