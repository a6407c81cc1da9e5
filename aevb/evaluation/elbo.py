"""The bound of a trained model on a whole dataset, with fixed noise."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.evaluation import bits, measures
from aevb.evaluation.diagnostics import Aggregate, aggregate_posterior
from aevb.evaluation.intervals import standard_error
from aevb.evaluation.measures import Terms
from aevb.losses import evidence_lower_bound, iwae
from aevb.types import Key, PyTree
from aevb.vae import VAE

EVALUATION_SEED = 20131220  # seed of binarizations: the day that the paper appeared
NOISE_SEED = EVALUATION_SEED + 1  # seed of z, the same in every evaluation of every model
EVALUATION_BATCH = 500  # datapoints per compiled call
PRIOR_SAMPLES = 100  # samples of the prior for a model without an encoder


class Score(NamedTuple):
    """The evidence lower bound over a set of datapoints, with the other measures of the model."""

    mean: float  # nats per datapoint
    standard_error: float | None  # of the mean, over datapoints; None for a single one
    measures: Mapping[str, float] = MappingProxyType({})  # from `measures.summarize`


ValuesOf = Callable[[PyTree, Array, Array], PyTree]
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


def make_bounds(vae: VAE, preprocess: Callable[[Key, Array], Array]) -> ValuesOf:
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
    value_of: Callable[[Key, PyTree, Array], PyTree], preprocess: Callable[[Key, Array], Array]
) -> ValuesOf:
    """Returns `values_of(params, stored [n, D], index [n])`, leaves [n, ...], from one datapoint's.

    The noise and the binarization of a datapoint depend on its number alone.

    Args:
        value_of: (key, params, x [D]) -> the values of one datapoint.
    """

    def values_of(params: PyTree, stored: Array, numbers: Array) -> PyTree:
        def one(stored: Array, number: Array) -> PyTree:
            x = fixed_input(preprocess, number, stored)
            return value_of(jax.random.fold_in(jax.random.key(NOISE_SEED), number), params, x)

        return jax.vmap(one)(stored, numbers)

    return values_of


def scorer(bounds_of: ValuesOf) -> Scorer:
    """Returns `score(params, data [N, D], index)`, the mean of `bounds_of` at these datapoints."""
    compiled = jax.jit(bounds_of)

    def score(params: PyTree, data: np.ndarray, index: np.ndarray) -> Score:
        bounds = in_blocks(lambda block: compiled(params, data[block], block), index)
        return _score(bounds.astype(np.float64))

    return score


def make_score(vae: VAE, preprocess: Callable[[Key, Array], Array]) -> Scorer:
    """Returns `score(params, data [N, D], index)`, the mean bound of the datapoints `index`.

    The bound is that of `make_bounds`. For a model with an encoder there are all other measures.
    """
    if not vae.has_encoder:
        return scorer(make_bounds(vae, preprocess))
    terms_of, aggregate_of = map(jax.jit, _measuring(vae, preprocess))

    def score(params: PyTree, data: np.ndarray, index: np.ndarray) -> Score:
        found = in_blocks(lambda block: terms_of(params, data[block], block), index)
        aggregate = None
        if len(index) > 1:  # an aggregate posterior needs two datapoints
            some = _aggregated(index)
            aggregate = aggregate_of(params, data[some], some, float(len(index)))
        return _measured(found, aggregate, vae, data.shape[1])

    return score


def make_stacked_score(
    vae: VAE, preprocess: Callable[[Key, Array], Array], num_latents: Sequence[int]
) -> Callable[[PyTree, np.ndarray, np.ndarray], list[Score]]:
    """Returns `make_score` for S members at once, whose parameters have a leading axis [S].

    Args:
        num_latents: the latents of each member; those after them are padding.
    """
    axes = (0, None, None)
    if not vae.has_encoder:
        bounds_of = jax.jit(jax.vmap(make_bounds(vae, preprocess), axes, out_axes=1))

        def score_bounds(params: PyTree, data: np.ndarray, index: np.ndarray) -> list[Score]:
            bounds = in_blocks(lambda block: bounds_of(params, data[block], block), index)
            return [_score(each) for each in bounds.astype(np.float64).T]

        return score_bounds
    one_terms, one_aggregate = _measuring(vae, preprocess)
    terms_of = jax.jit(jax.vmap(one_terms, axes, out_axes=1))
    aggregate_of = jax.jit(jax.vmap(one_aggregate, (*axes, None)))

    def score(params: PyTree, data: np.ndarray, index: np.ndarray) -> list[Score]:
        found = in_blocks(lambda block: terms_of(params, data[block], block), index)
        some = _aggregated(index)
        several = len(index) > 1
        aggregates = aggregate_of(params, data[some], some, float(len(index))) if several else None

        def member(number: int, size: int) -> Score:
            own = jax.tree.map(lambda leaf: leaf[:, number], found)
            aggregate = jax.tree.map(lambda leaf: leaf[number], aggregates)
            return _measured(measures.of_latents(own, size), aggregate, vae, data.shape[1])

        return [member(number, size) for number, size in enumerate(num_latents)]

    return score


def _measuring(
    vae: VAE, preprocess: Callable[[Key, Array], Array]
) -> tuple[ValuesOf, Callable[..., Aggregate]]:
    """Returns functions of (params, stored [n, D], index [n]): the terms and the aggregate's terms.

    The second takes the size of the whole set too.
    """

    def terms_of_one(key: Key, params: PyTree, x: Array) -> Terms:
        log_var = vae.log_var and partial(vae.log_var, params)
        stats = vae.encode(params, x)
        return measures.terms(key, stats, vae.guide, vae.joint(params, x), log_var)

    def aggregate_of(params: PyTree, stored: Array, numbers: Array, num_data: Array) -> Aggregate:
        x = jax.vmap(partial(fixed_input, preprocess))(numbers, stored)
        stats = jax.vmap(partial(vae.encode, params))(x)
        log_prior = vae.joint(params, x[0]).log_prior
        key = jax.random.key(NOISE_SEED)
        return aggregate_posterior(key, stats, vae.guide, log_prior, num_data=num_data)

    return with_fixed_noise(terms_of_one, preprocess), aggregate_of


def _aggregated(index: np.ndarray) -> np.ndarray:
    """Returns the datapoints of a set whose pairs estimate the aggregate posterior."""
    return index[some_of(len(index), measures.NUM_AGGREGATED)].astype(np.int32)


def in_blocks(of_block: Callable[[np.ndarray], PyTree], index: np.ndarray) -> Any:
    """Returns the values of a function of datapoints, leaves [n, ...], computed in blocks.

    The last block is padded to the size of the others, so that one compiled program serves all
    blocks.

    Args:
        of_block: maps indices [EVALUATION_BATCH] to leaves [EVALUATION_BATCH, ...].
        index: the indices, [n], at least one.
    """
    padding = -len(index) % EVALUATION_BATCH
    blocks = np.pad(index.astype(np.int32), (0, padding), mode="edge").reshape(-1, EVALUATION_BATCH)
    values = [of_block(block) for block in blocks]  # all are dispatched before the first is read

    def joined(*leaves: Array) -> np.ndarray:
        return np.concatenate([np.asarray(leaf) for leaf in leaves])[: len(index)]

    return jax.tree.map(joined, *values)


def _measured(found: Terms, aggregate: Aggregate | None, vae: VAE, num_dims: int) -> Score:
    rate, distortion = (np.asarray(leaf, np.float64) for leaf in (found.rate, found.distortion))
    score = _score(-(rate + distortion))
    summary = measures.summarize(found, aggregate, vae.layer_sizes)
    if vae.levels is not None:
        summary |= bits.of_parts(summary["rate"], summary["distortion"], num_dims)
    return score._replace(measures=summary)


def _score(bounds: np.ndarray) -> Score:
    return Score(float(np.mean(bounds)), standard_error(bounds) if len(bounds) > 1 else None)


def some_of(num_data: int, limit: int) -> np.ndarray:
    """Returns at most `limit` indices of N datapoints, sorted, and the same in every call."""
    if num_data <= limit:
        return np.arange(num_data)
    return np.sort(np.random.default_rng(EVALUATION_SEED).permutation(num_data)[:limit])
