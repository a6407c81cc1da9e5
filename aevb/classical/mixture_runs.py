"""Many runs of coordinate ascent for the mixture in one program, over blocks of points.

The equations are those of `mixture_model`. The temporaries of a block fit into the cache. No array
of size [N, K] is stored, only the statistics of each block. The runs are restarts and models of
different sizes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical import mixture_model, mixture_seeds
from aevb.classical.mixture_model import Parameters, Prior
from aevb.classical.normal_wishart import Moments
from aevb.types import Key

NUM_SEEDING = 5_000  # k-means uses at most this many points
BLOCK_SIZE = 2**18  # elements in the largest temporary of a block


class Blocks(NamedTuple):
    """N points in B blocks of M points; the last block has padding, which does not count."""

    x: Array  # [B, D, M]
    counts: Array  # [B, M], 1 for a point and 0 for padding


class Runs(NamedTuple):
    """The states of S runs. The statistics are under the optimal q(z) given the parameters."""

    parameters: Parameters  # leaves [S, K, ...]
    statistics: Moments  # leaves [S, K, ...], about the components' means
    bound: Array  # [S], nats
    num_sweeps: Array  # [S], int32
    converged: Array  # [S], bool


def split(x: Array, *, num_clusters: int) -> Blocks:
    """Splits points x [N, D] into blocks; `num_clusters` counts the components of all runs."""
    num_points, num_dims = x.shape
    size = min(4096, num_points, BLOCK_SIZE // (num_clusters * num_dims))
    size = max(64, size // 64 * 64)  # a multiple of the processor's vector length
    num_blocks = -(-num_points // size)
    missing = num_blocks * size - num_points
    counts = jnp.pad(jnp.ones(num_points, x.dtype), (0, missing))
    padded = jnp.pad(x, ((0, missing), (0, 0)))
    blocks = jnp.reshape(padded, (num_blocks, size, num_dims))
    return Blocks(jnp.swapaxes(blocks, 1, 2), jnp.reshape(counts, (num_blocks, size)))


def evaluate(
    parameters: Parameters, prior: Prior, active: Array, blocks: Blocks
) -> tuple[Moments, Array]:
    """Computes the optimal q(z) given parameters with leaves [S, ...].

    Returns:
        The statistics under q(z), leaves [S, K, ...], and the bound [S] in nats.
    """
    log_joints = jax.vmap(mixture_model.log_joint)(parameters, active)
    centres = parameters.components.mean

    def of_block(block: Blocks) -> tuple[Moments, Array]:
        def of_run(log_joint: mixture_model.LogGaussian, centres: Array) -> tuple[Moments, Array]:
            q, log_normalizers = mixture_model.assign(log_joint, block.x)
            data = mixture_model.statistics(block.x, q * block.counts[None], centres)
            return data, jnp.sum(log_normalizers * block.counts)

        return jax.vmap(of_run)(log_joints, centres)

    def add(total: tuple[Moments, Array], block: Blocks) -> tuple[tuple[Moments, Array], None]:
        return jax.tree.map(jnp.add, total, of_block(block)), None

    first, rest = jax.tree.map(lambda leaf: leaf[0], blocks), jax.tree.map(lambda a: a[1:], blocks)
    (data, log_normalizer), _ = jax.lax.scan(add, of_block(first), rest)
    return data, log_normalizer - jax.vmap(mixture_model.kl)(parameters, prior, active)


def start(key: Key, x: Array, view: Array, prior: Prior, active: Array) -> Parameters:
    """Returns parameters for the k-means clusters of points x [N, D], or of a sample of them.

    k-means measures distances between the points `view @ x`, with `view` [D, D].
    """
    sample_key, key = jax.random.split(key)
    seen = x
    if len(x) > NUM_SEEDING:
        seen = jax.random.choice(sample_key, x, (NUM_SEEDING,), replace=False)
    clusters = mixture_seeds.responsibilities(key, view @ seen.T, len(active), active)
    centres = mixture_model.at_prior(prior, len(active)).components.mean
    data = mixture_model.statistics(seen.T, clusters, centres)
    for_all = jax.tree.map(lambda leaf: leaf * (len(x) / len(seen)), data)
    return mixture_model.update_parameters(prior, for_all, centres)


@partial(jax.jit, static_argnames="num_sweeps")
def ascend(
    keys: Array,
    x: Array,
    view: Array,
    prior: Prior,
    active: Array,
    tolerance: Array,
    *,
    num_sweeps: int,
) -> tuple[Runs, Array]:
    """Runs coordinate ascent S times on points x [N, D].

    Each run ends when a sweep raises its bound by less than `tolerance`, or after `num_sweeps`.

    Args:
        view: the matrix [D, D] of `start`.
        prior: leaves [S, ...].
        active: [S, K], bool, the components of each run.
        tolerance: [], nats.

    Returns:
        The runs, and their bounds before the first sweep and after each [T + 1, S], in nats.
    """
    starts = jax.vmap(start, in_axes=(0, None, None, 0, 0))(keys, x, view, prior, active)
    return continue_from(starts, x, prior, active, tolerance, num_sweeps=num_sweeps)


@partial(jax.jit, static_argnames="num_sweeps")
def continue_from(
    starts: Parameters,
    x: Array,
    prior: Prior,
    active: Array,
    tolerance: Array,
    *,
    num_sweeps: int,
) -> tuple[Runs, Array]:
    """Runs `ascend` from given parameters, leaves [S, K, ...]."""
    blocks = split(x, num_clusters=active.size)
    none, not_yet = jnp.zeros(len(active), jnp.int32), jnp.zeros(len(active), bool)
    runs = Runs(starts, *evaluate(starts, prior, active, blocks), none, not_yet)

    def goes_on(carry: tuple[Array, Runs, Array]) -> Array:
        number, runs, _ = carry
        return (number < num_sweeps) & ~jnp.all(runs.converged)

    def sweep(carry: tuple[Array, Runs, Array]) -> tuple[Array, Runs, Array]:
        number, runs, history = carry
        centres = runs.parameters.components.mean
        parameters = jax.vmap(mixture_model.update_parameters)(prior, runs.statistics, centres)
        data, bound = evaluate(parameters, prior, active, blocks)
        small = bound - runs.bound < tolerance
        after = Runs(parameters, data, bound, runs.num_sweeps + 1, small)
        after = jax.vmap(_choose)(runs.converged, runs, after)
        return number + 1, after, history.at[number + 1].set(after.bound)

    history = jnp.zeros((num_sweeps + 1, len(active)), x.dtype).at[0].set(runs.bound)
    _, runs, history = jax.lax.while_loop(goes_on, sweep, (jnp.int32(0), runs, history))
    return runs, history


def _choose(condition: Array, if_true: Runs, if_false: Runs) -> Runs:
    return jax.tree.map(lambda *leaves: jnp.where(condition, *leaves), if_true, if_false)
