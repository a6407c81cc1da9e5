"""A wrapper of an algorithm that skips its non-finite steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.types import Key, PyTree

SKIPPED = "skipped"  # the metric that is 1 if the step was skipped; all others are 0 then


class Skipping(NamedTuple):
    """The `TrainState.extra` of an algorithm that skips steps."""

    extra: PyTree  # `TrainState.extra` of the wrapped algorithm
    num_skipped: Array  # [] int32, steps skipped so far


def skip_bad_steps(algorithm: Algorithm, most: int) -> Algorithm:
    """Wraps the algorithm so that it skips the first `most` steps that give a NaN or an infinity.

    A skipped step changes neither the parameters nor the algorithm's other state. It is counted,
    and the next minibatch follows. After `most` skipped steps, another non-finite step is not
    skipped. `optax.apply_if_finite` does not suffice: it checks the gradients, but neither the
    algorithm's other state nor its metrics, and it limits consecutive skipped steps, not their
    total.
    """

    def init(key: Key) -> TrainState:
        state = algorithm.init(key)
        return state._replace(extra=Skipping(state.extra, jnp.int32(0)))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        skipping: Skipping = state.extra
        before = state._replace(extra=skipping.extra)
        after, metrics = algorithm.update(key, before, batch)
        skipped = ~is_finite((after, metrics)) & (skipping.num_skipped < most)

        def unless_skipped(new: Array, old: Array) -> Array:
            return jnp.where(skipped, old, new)

        after = jax.tree.map(unless_skipped, after, before._replace(step=after.step))
        metrics = {
            name: unless_skipped(each, jnp.zeros_like(each)) for name, each in metrics.items()
        }
        extra = Skipping(after.extra, skipping.num_skipped + skipped.astype(jnp.int32))
        return after._replace(extra=extra), {**metrics, SKIPPED: skipped.astype(jnp.float32)}

    return algorithm._replace(init=init, update=update)


def num_skipped(state: TrainState) -> int | None:
    """Returns the number of steps that a run has skipped; None if it never skips."""
    return int(state.extra.num_skipped) if isinstance(state.extra, Skipping) else None


def is_finite(tree: PyTree) -> Array:
    """Checks whether all numbers of all leaves are finite; returns bool []."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
