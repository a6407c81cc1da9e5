"""The decoded plane of two latents, as in the paper's figure 4, and how it compares with data."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtr

from aevb.data import Dataset
from aevb.evaluation.diagnostics import posterior_marginals
from aevb.evaluation.elbo import fixed_inputs, in_blocks
from aevb.losses import REAL
from aevb.runtime import xla
from aevb.types import PyTree
from aevb.vae import VAE

SIDE = 20  # cells of the decoded grid along each latent
QUANTILES = (np.arange(SIDE) + 0.5) / SIDE
CODE_SIDE = 10  # cells along each latent in which encoded data are counted
BLOCK = 1000  # datapoints that are compared at a time
SEED = 0  # of the draws from posteriors whose mean has no closed form


def decode_unit_square(vae: VAE, params: PyTree) -> Array:
    """Returns E[x|z] on a grid of latents, for figure 4 of the paper, [G, G, D].

    The grid is on the unit square, mapped through the inverse Gaussian CDF: both latents are at the
    QUANTILES of N(0, 1). The first latent increases to the right, the second upward.
    """
    values = jax.scipy.special.ndtri(jnp.asarray(QUANTILES, jnp.float32))
    across, up = jnp.meshgrid(values, values[::-1])
    latents = jnp.stack([across, up], axis=-1)
    return jax.vmap(jax.vmap(lambda z: vae.mean(params, z)))(latents)


def has_plane(vae: VAE) -> bool:
    """Returns whether a model's latents are the points of a plane."""
    return vae.num_latents == 2 and vae.guide.support == REAL


def measure(vae: VAE, params: PyTree, dataset: Dataset) -> dict[str, Any] | None:
    """Measures the decoded plane of a model of images with two latents; returns None for others.

    It is None of images with missing values too, to which a distance is not known.

    The result has the grid's `step_ratio`, and for "train" and "all" data the entries of
    `Fidelity` and the `occupancy`, which is None without an encoder. Models are chosen by the
    training data; "all" includes the validation and test data.
    """
    if not has_plane(vae) or dataset.image_shape is None or dataset.has_missing:
        return None

    @xla.jit_brief
    def encode(params: PyTree, x: Array) -> Array:
        keys = jax.random.split(jax.random.key(SEED), len(x))
        return jax.vmap(
            lambda key, x: posterior_marginals(key, vae.encode(params, x), vae.guide)[0]
        )(keys, x)

    grid = np.asarray(xla.jit_brief(partial(decode_unit_square, vae))(params))
    parts, codes = {}, {}
    for split, data in dataset.splits.items():
        parts[split] = _nearest(grid, _inputs(dataset, data))
        if vae.has_encoder:
            each = [
                in_blocks(lambda block, x=x: encode(params, x[block]), np.arange(len(x)))
                for x in _inputs(dataset, data)
            ]
            codes[split] = np.concatenate(each)
    found: dict[str, Any] = {"step_ratio": step_ratio(grid_steps(grid))}
    for name, splits in (("train", ["train"]), ("all", list(parts))):
        found[name] = {
            **_fidelity([parts[split] for split in splits])._asdict(),
            "occupancy": occupancy(np.concatenate([codes[it] for it in splits])) if codes else None,
        }
    return found


def _inputs(dataset: Dataset, data: Any) -> Iterator[np.ndarray]:
    """Yields the datapoints of a split as the model takes them, in blocks [n, D]."""
    numbers = np.arange(len(data))
    for i in range(0, len(data), BLOCK):
        block = numbers[i : i + BLOCK]
        yield np.asarray(fixed_inputs(dataset.preprocess, block, data[i : i + BLOCK]))


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
    return _fidelity([_nearest(means, blocks)])


class _Nearest(NamedTuple):
    """The nearest datapoint of each cell of a grid."""

    squares: np.ndarray  # [G G], mean square difference per dimension
    numbers: np.ndarray  # [G G], of the datapoint


def _nearest(means: np.ndarray, blocks: Iterable[np.ndarray]) -> _Nearest:
    cells = np.reshape(means, (-1, means.shape[-1])).astype(np.float64)
    least, nearest, start = np.full(len(cells), np.inf), np.zeros(len(cells), int), 0
    for block in blocks:
        x = np.asarray(block, np.float64)
        squares = np.mean(cells**2, 1)[:, None] + np.mean(x**2, 1) - 2 * cells @ x.T / x.shape[1]
        here = np.argmin(squares, axis=1)
        smallest = squares[np.arange(len(cells)), here]
        nearest = np.where(smallest < least, start + here, nearest)
        least, start = np.minimum(least, smallest), start + len(x)
    return _Nearest(least, nearest)


def _fidelity(parts: Sequence[_Nearest]) -> Fidelity:
    """Returns the fidelity to the datapoints of several parts together."""
    squares, numbers = (np.stack(each) for each in zip(*parts, strict=True))
    part = np.argmin(squares, axis=0)
    cells = np.arange(squares.shape[1])
    distances = np.sqrt(np.maximum(squares[part, cells], 0.0))
    shown = set(zip(part.tolist(), numbers[part, cells].tolist(), strict=True))
    return Fidelity(float(np.mean(distances)), float(np.quantile(distances, 0.9)), len(shown))


def step_ratio(steps: np.ndarray) -> float:
    """Returns the 95th percentile of step lengths over their median."""
    return float(np.quantile(steps, 0.95) / np.median(steps))


def grid_steps(means: np.ndarray) -> np.ndarray:
    """Returns the root mean square differences between neighboring cells of a grid [G, G, D]."""
    across, up = np.diff(means, axis=1), np.diff(means, axis=0)
    return np.concatenate([_root_mean_square(step).ravel() for step in (across, up)])


def film_steps(frames: np.ndarray) -> np.ndarray:
    """Returns the root mean square differences between successive frames [N, D], [N - 1].

    Frames of uint8 are converted first, because their differences would wrap around.
    """
    return _root_mean_square(np.diff(frames.astype(np.float64), axis=0))


def occupancy(codes: np.ndarray, side: int = CODE_SIDE) -> float:
    """Returns the fraction of the unit square's side x side cells that hold codes [N, 2].

    A code is mapped into the unit square by the Gaussian CDF, so that the cells are equally
    probable under the prior N(0, I).
    """
    place = np.minimum((ndtr(codes) * side).astype(int), side - 1)
    return len(np.unique(place @ np.array([side, 1]))) / side**2


def _root_mean_square(difference: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(np.square(difference, dtype=np.float64), axis=-1))
