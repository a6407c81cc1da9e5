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

from aevb.classical import mixture_hierarchy, mixture_model
from aevb.classical.mixture_model import Parameters, Prior
from aevb.classical.normal_wishart import Moments

BLOCK_SIZE = 2**18  # elements in the largest temporary of a block


class Blocks(NamedTuple):
    """N points in B blocks of M points; the last block has padding, which does not count."""

    x: Array  # [B, D, M]
    counts: Array  # [B, M], 1 for a point and 0 for padding


class Starts(NamedTuple):
    """Statistics of clusters about centers, from which S runs start; leaves [S, ...]."""

    statistics: Moments  # leaves [S, K, ...]
    centres: Array  # [S, K, D]
    prior: Prior


class Runs(NamedTuple):
    """The states of S runs. The statistics are under the optimal q(z) given the parameters."""

    parameters: Parameters  # leaves [S, K, ...]
    prior: Prior  # leaves [S, ...]
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
    parameters: Parameters,
    prior: Prior,
    active: Array,
    blocks: Blocks,
    rounding: Array | None = None,
) -> tuple[Moments, Array]:
    """Computes the optimal q(z) given parameters with leaves [S, ...].

    With a covariance `rounding` [D, D] of errors u, the bound is the expectation over u of that of
    the points x + u, each with the q(z) of its x. It is a bound on log E_u[p(x + u)].

    Returns:
        The statistics under q(z), leaves [S, K, ...], and the bound [S] in nats.
    """
    log_joints = jax.vmap(mixture_model.log_joint)(parameters, active)
    centres = parameters.components.mean
    if rounding is not None:
        halves = 0.5 * jnp.einsum(
            "skij,skil,jl->sk", log_joints.whitener, log_joints.whitener, rounding
        )
        log_joints = log_joints._replace(constant=log_joints.constant - halves)

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
    if rounding is not None:
        errors = data.num_points[:, :, None, None] * rounding[None, None]
        data = data._replace(scatter=data.scatter + errors)
    return data, log_normalizer - jax.vmap(mixture_model.kl)(parameters, prior, active)


@partial(jax.jit, static_argnames="num_sweeps")
def ascend(
    starts: Starts,
    x: Array,
    active: Array,
    tolerance: Array,
    *,
    num_sweeps: int,
    rounding: Array | None = None,
) -> tuple[Runs, Array]:
    """Runs coordinate ascent S times on points x [N, D].

    Each run ends when a sweep raises its bound by less than `tolerance`, or after `num_sweeps`.

    Args:
        active: [S, K], bool, the components of each run.
        tolerance: [], nats.
        rounding: [D, D], the covariance of the points' errors. If it is given, the prior is learned
            (`mixture_hierarchy`), and otherwise it is that of `starts`.

    Returns:
        The runs, and their bounds before the first sweep and after each [T + 1, S], in nats.
    """
    parameters = jax.vmap(mixture_model.update_parameters)(
        starts.prior, starts.statistics, starts.centres
    )
    return continue_from(
        parameters, x, starts.prior, active, tolerance, num_sweeps=num_sweeps, rounding=rounding
    )


@partial(jax.jit, static_argnames="num_sweeps")
def continue_from(
    starts: Parameters,
    x: Array,
    prior: Prior,
    active: Array,
    tolerance: Array,
    *,
    num_sweeps: int,
    rounding: Array | None = None,
) -> tuple[Runs, Array]:
    """Runs `ascend` from given parameters, leaves [S, K, ...], and priors, leaves [S, ...]."""
    blocks = split(x, num_clusters=active.size)
    size = len(active)

    def of_parameters(parameters: Parameters, runs: Runs) -> Runs:
        prior, lacks = runs.prior, jnp.zeros(size, x.dtype)
        if rounding is not None:
            prior, lacks = jax.vmap(mixture_hierarchy.learn)(parameters, prior, active)
        data, bound = evaluate(parameters, prior, active, blocks, rounding)
        bound += lacks
        converged = bound - runs.bound < tolerance
        return Runs(parameters, prior, data, bound, runs.num_sweeps + 1, converged)

    def goes_on(carry: tuple[Array, Runs, Array]) -> Array:
        number, runs, _ = carry
        return (number <= num_sweeps) & ~jnp.all(runs.converged)

    def sweep(carry: tuple[Array, Runs, Array]) -> tuple[Array, Runs, Array]:
        number, runs, history = carry
        centres = runs.parameters.components.mean
        update = jax.vmap(mixture_model.update_parameters)
        updated = update(runs.prior, runs.statistics, centres)
        # Sweep 0 evaluates the start; in the same loop, since compiling it twice would take longer.
        parameters = jax.tree.map(partial(jnp.where, number == 0), runs.parameters, updated)
        after = of_parameters(parameters, runs)
        after = jax.vmap(_choose)(runs.converged, runs, after)
        return number + 1, after, history.at[number].set(after.bound)

    mean, _, (_, scatter) = jax.tree.map(jnp.zeros_like, starts.components)
    nothing = Moments(mean[..., 0], mean, scatter)
    lowest = jnp.full(size, -jnp.inf, x.dtype)
    before = jnp.full(size, -1, jnp.int32)
    begun = Runs(starts, prior, nothing, lowest, before, jnp.zeros(size, bool))
    history = jnp.zeros((num_sweeps + 1, size), x.dtype)
    _, runs, history = jax.lax.while_loop(goes_on, sweep, (jnp.int32(0), begun, history))
    return runs, history


def _choose(condition: Array, if_true: Runs, if_false: Runs) -> Runs:
    return jax.tree.map(lambda *leaves: jnp.where(condition, *leaves), if_true, if_false)
