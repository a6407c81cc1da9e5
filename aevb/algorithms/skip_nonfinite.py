"""An algorithm that passes over steps which are not finite, for runs that can spare a minibatch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.types import Key, PyTree

SKIPPED = "skipped"  # the metric of such a step: 1 where it was not taken, and all others are 0


class Skipping(NamedTuple):
    """`TrainState.extra` of such an algorithm."""

    extra: PyTree  # the algorithm's own
    num_skipped: Array  # [] int32, so far


def skip_bad_steps(algorithm: Algorithm, most: int) -> Algorithm:
    """The algorithm, but for the first `most` steps that would bring in a NaN or an infinity.

    Such a step changes neither the parameters nor what else the algorithm keeps; it is counted,
    and the next minibatch has its turn. Where `most` were passed over, one more is taken as it is.
    """

    def init(key: Key) -> TrainState:
        state = algorithm.init(key)
        return state._replace(extra=Skipping(state.extra, jnp.int32(0)))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        skipping: Skipping = state.extra
        before = state._replace(extra=skipping.extra)
        after, metrics = algorithm.update(key, before, batch)
        skipped = ~_is_finite((after, metrics)) & (skipping.num_skipped < most)

        def unless_skipped(new: Array, old: Array) -> Array:
            return jnp.where(skipped, old, new)

        after = jax.tree.map(unless_skipped, after, before._replace(step=after.step))
        metrics = {
            name: unless_skipped(each, jnp.zeros_like(each)) for name, each in metrics.items()
        }
        extra = Skipping(after.extra, skipping.num_skipped + skipped.astype(jnp.int32))
        return after._replace(extra=extra), {**metrics, SKIPPED: skipped.astype(jnp.float32)}

    return Algorithm(init, update, algorithm.vae_params)


def num_skipped(state: TrainState) -> int | None:
    """Steps that a run has passed over; None where none may be."""
    return int(state.extra.num_skipped) if isinstance(state.extra, Skipping) else None


def _is_finite(tree: PyTree) -> Array:
    """Whether all numbers of all leaves are -> [] bool."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
