"""The bound of a trained model on a whole data set, with fixed noise."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.losses import evidence_lower_bound, iwae
from aevb.types import Key, PyTree
from aevb.vae import VAE

EVALUATION_SEED = 20131220  # of binarizations: the day that the paper appeared
NOISE_SEED = EVALUATION_SEED + 1  # of z: the same noise in every evaluation of every model
EVALUATION_BATCH = 500
PRIOR_SAMPLES = 100  # of a model without an encoder


class Score(NamedTuple):
    """The evidence lower bound over a set of datapoints."""

    mean: float  # nats per datapoint
    standard_error: float  # of that mean over datapoints


BoundsOf = Callable[[PyTree, Array, Array], Array]
Scorer = Callable[[PyTree, np.ndarray, np.ndarray], Score]


def fixed_input(preprocess: Callable[[Key, Array], Array], index: Array, stored: Array) -> Array:
    """Datapoint number `index`, stored [D] -> x [D] as every evaluation sees it.

    A dynamic binarization is drawn with a key of that number alone, hence fixed for good.
    """
    return preprocess(jax.random.fold_in(jax.random.key(EVALUATION_SEED), index), stored)


def fixed_inputs(
    preprocess: Callable[[Key, Array], Array], index: np.ndarray, stored: np.ndarray
) -> Array:
    """`fixed_input` of the datapoints numbered `index` [n], stored [n, D] -> x [n, D]."""
    see = partial(fixed_input, preprocess)
    return jax.vmap(see)(jnp.asarray(index, jnp.int32), jnp.asarray(stored))


def make_bounds(vae: VAE, preprocess: Callable[[Key, Array], Array]) -> BoundsOf:
    """`bounds_of(params, stored [n, D], index [n])`: the evidence lower bound of each datapoint.

    It is eq. (7), or eq. (6) for a guide without a closed KL, with one sample of z a datapoint,
    whichever bound is trained on, so that the curves of different bounds can be compared. Of a
    model without an encoder it is the bound of Burda et al. (2015) with 100 samples of the prior.
    """
    if not vae.has_encoder:
        bound = partial(iwae, num_samples=PRIOR_SAMPLES)
    else:
        bound = evidence_lower_bound(vae.guide)

    def bounds_of(params: PyTree, stored: Array, numbers: Array) -> Array:
        def bound_of(stored: Array, number: Array) -> Array:
            x = fixed_input(preprocess, number, stored)
            noise_key = jax.random.fold_in(jax.random.key(NOISE_SEED), number)
            return bound(noise_key, vae.encode(params, x), vae.guide, vae.joint(params, x))

        return jax.vmap(bound_of)(stored, numbers)

    return bounds_of


def make_score(vae: VAE, preprocess: Callable[[Key, Array], Array]) -> Scorer:
    """`score(params, data [N, D], index)`: the mean bound of the datapoints `index`."""
    bounds_of = jax.jit(make_bounds(vae, preprocess))

    def score(params: PyTree, data: np.ndarray, index: np.ndarray) -> Score:
        return _score(_in_blocks(bounds_of, params, data, index))

    return score


def make_stacked_score(
    vae: VAE, preprocess: Callable[[Key, Array], Array]
) -> Callable[[PyTree, np.ndarray, np.ndarray], list[Score]]:
    """`make_score` of S members at once, whose parameters have a leading axis [S]."""
    bounds_of = jax.jit(jax.vmap(make_bounds(vae, preprocess), in_axes=(0, None, None)))

    def score(params: PyTree, data: np.ndarray, index: np.ndarray) -> list[Score]:
        return [_score(bounds) for bounds in _in_blocks(bounds_of, params, data, index)]

    return score


def _in_blocks(
    bounds_of: Callable[[PyTree, np.ndarray, np.ndarray], Array],
    params: PyTree,
    data: np.ndarray,
    index: np.ndarray,
) -> np.ndarray:
    """The bounds of the datapoints `index` -> [..., len(index)], float64.

    Every block has the same size, the last one filled up, so that one program serves all.
    """
    padding = -len(index) % EVALUATION_BATCH
    blocks = np.pad(index, (0, padding), mode="edge").reshape(-1, EVALUATION_BATCH)
    bounds = [bounds_of(params, data[block], block.astype(np.int32)) for block in blocks]
    each = np.concatenate([np.asarray(b, np.float64) for b in bounds], axis=-1)
    return each[..., : len(index)]


def _score(bounds: np.ndarray) -> Score:
    return Score(float(np.mean(bounds)), float(np.std(bounds) / math.sqrt(len(bounds))))


def some_of(num_data: int, limit: int) -> np.ndarray:
    """At most `limit` datapoints of N, the same ones every time, in rising order."""
    if num_data <= limit:
        return np.arange(num_data)
    return np.sort(np.random.default_rng(EVALUATION_SEED).permutation(num_data)[:limit])


def bits_per_dim(nats: float, *, num_dims: int, levels: float | None) -> float:
    """-log2 P of one grey level: log2(levels) - nats / (D ln 2), for pixels scaled by 1/levels.

    A density of pixels k / levels, times the 1 / levels that each level spans, is a probability.
    With levels None, `nats` are of probabilities already.
    """
    density_bits = 0.0 if levels is None else math.log2(levels)
    return density_bits - nats / (num_dims * math.log(2.0))
