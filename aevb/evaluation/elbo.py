"""The bound of a trained model on a whole dataset, with fixed noise."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.evaluation.intervals import standard_error
from aevb.losses import evidence_lower_bound, iwae
from aevb.types import Key, PyTree
from aevb.vae import VAE

EVALUATION_SEED = 20131220  # seed of binarizations: the day that the paper appeared
NOISE_SEED = EVALUATION_SEED + 1  # seed of z, the same in every evaluation of every model
EVALUATION_BATCH = 500  # datapoints per compiled call
PRIOR_SAMPLES = 100  # samples of the prior for a model without an encoder


class Score(NamedTuple):
    """The evidence lower bound over a set of datapoints."""

    mean: float  # nats per datapoint
    standard_error: float | None  # of the mean, over datapoints; None for a single one


BoundsOf = Callable[[PyTree, Array, Array], Array]
Scorer = Callable[[PyTree, np.ndarray, np.ndarray], Score]


def fixed_input(preprocess: Callable[[Key, Array], Array], index: Array, stored: Array) -> Array:
    """Returns x [D] of datapoint number `index`, stored as `stored` [D], for every evaluation.

    The key of a dynamic binarization or a dequantization depends only on the number, so x is always
    the same.
    """
    return preprocess(jax.random.fold_in(jax.random.key(EVALUATION_SEED), index), stored)


def fixed_inputs(
    preprocess: Callable[[Key, Array], Array], index: np.ndarray, stored: np.ndarray
) -> Array:
    """Returns x [n, D] by `fixed_input`, for datapoints numbered `index` [n], stored [n, D]."""

    def of_block(block: np.ndarray) -> Array:
        return _block_of_inputs(preprocess, index[block].astype(np.int32), stored[block])

    return jnp.asarray(in_blocks(of_block, np.arange(len(index))))


@partial(jax.jit, static_argnums=0)
def _block_of_inputs(
    preprocess: Callable[[Key, Array], Array], index: Array, stored: Array
) -> Array:
    return jax.vmap(partial(fixed_input, preprocess))(index, stored)


def make_bounds(vae: VAE, preprocess: Callable[[Key, Array], Array]) -> BoundsOf:
    """Returns `bounds_of(params, stored [n, D], index [n])`, the ELBO of each datapoint [n].

    It is eq. (7), or eq. (6) if the KL has no closed form, in nats, with one sample of z per
    datapoint. It does not depend on the bound used for training, so that the curves of different
    bounds can be compared. For a model without an encoder it is the bound of Burda et al. (2015)
    with 100 samples of the prior.
    """
    bound = evidence_lower_bound if vae.has_encoder else partial(iwae, num_samples=PRIOR_SAMPLES)

    def bound_of(key: Key, params: PyTree, x: Array) -> Array:
        return bound(key, vae.encode(params, x), vae.guide, vae.joint(params, x))

    return with_fixed_noise(bound_of, preprocess)


def with_fixed_noise(
    value_of: Callable[[Key, PyTree, Array], Array], preprocess: Callable[[Key, Array], Array]
) -> BoundsOf:
    """Returns `values_of(params, stored [n, D], index [n])`, [n], from (key, params, x [D]) -> [].

    The noise and the binarization of a datapoint depend on its number alone.
    """

    def values_of(params: PyTree, stored: Array, numbers: Array) -> Array:
        def one(stored: Array, number: Array) -> Array:
            x = fixed_input(preprocess, number, stored)
            return value_of(jax.random.fold_in(jax.random.key(NOISE_SEED), number), params, x)

        return jax.vmap(one)(stored, numbers)

    return values_of


def make_score(vae: VAE, preprocess: Callable[[Key, Array], Array]) -> Scorer:
    """Returns `score(params, data [N, D], index)`, the mean bound of the datapoints `index`."""
    return scorer(make_bounds(vae, preprocess))


def scorer(bounds_of: BoundsOf) -> Scorer:
    """Returns `score(params, data [N, D], index)`, the mean of `bounds_of` at these datapoints."""
    compiled = jax.jit(bounds_of)

    def score(params: PyTree, data: np.ndarray, index: np.ndarray) -> Score:
        return _score(_in_float64(compiled, params, data, index))

    return score


def make_stacked_score(
    vae: VAE, preprocess: Callable[[Key, Array], Array]
) -> Callable[[PyTree, np.ndarray, np.ndarray], list[Score]]:
    """Returns `make_score` for S members at once, whose parameters have a leading axis [S]."""
    bounds_of = jax.jit(jax.vmap(make_bounds(vae, preprocess), in_axes=(0, None, None)))

    def score(params: PyTree, data: np.ndarray, index: np.ndarray) -> list[Score]:
        return [_score(bounds) for bounds in _in_float64(bounds_of, params, data, index)]

    return score


def _in_float64(
    bounds_of: Callable[[PyTree, np.ndarray, np.ndarray], Array],
    params: PyTree,
    data: np.ndarray,
    index: np.ndarray,
) -> np.ndarray:
    """Computes the bounds of the datapoints `index`, [..., len(index)], in float64."""

    def of_block(block: np.ndarray) -> Array:
        return bounds_of(params, data[block], block.astype(np.int32)).T

    return in_blocks(of_block, index).T.astype(np.float64)


def in_blocks(of_block: Callable[[np.ndarray], Array], index: np.ndarray) -> np.ndarray:
    """Returns the values [n, ...] of a function of datapoints, computed in blocks.

    The last block is padded to the size of the others, so that one compiled program serves all
    blocks.

    Args:
        of_block: maps indices [EVALUATION_BATCH] to values [EVALUATION_BATCH, ...].
        index: the indices, [n], at least one.
    """
    padding = -len(index) % EVALUATION_BATCH
    blocks = np.pad(index, (0, padding), mode="edge").reshape(-1, EVALUATION_BATCH)
    values = [of_block(block) for block in blocks]  # all are dispatched before the first is read
    return np.concatenate([np.asarray(value) for value in values])[: len(index)]


def _score(bounds: np.ndarray) -> Score:
    return Score(float(np.mean(bounds)), standard_error(bounds) if len(bounds) > 1 else None)


def some_of(num_data: int, limit: int) -> np.ndarray:
    """Returns at most `limit` indices of N datapoints, sorted, and the same in every call."""
    if num_data <= limit:
        return np.arange(num_data)
    return np.sort(np.random.default_rng(EVALUATION_SEED).permutation(num_data)[:limit])
