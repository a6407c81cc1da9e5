"""Finds the first step at which a run became non-finite, by bisection over repeated steps.

Training checks its state only at pauses. A step depends only on the state and the run's keys, so
the steps between the last finite state and a pause can be repeated and bisected until one step is
left. While a run is finite, this adds no cost to the steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.algorithms.base import Algorithm, TrainState
from aevb.doctor.origin import origin_of
from aevb.training import loop
from aevb.training.loop import Steps
from aevb.types import Key, PyTree


class BadStep(NamedTuple):
    """The update of one run whose result is not finite."""

    step: int  # number of updates before it
    problem: str  # what became non-finite first, such as "the objective is nan"
    indices: np.ndarray  # [M], the datapoints of its minibatch
    before: TrainState  # finite, unless the search started at a non-finite state
    after: TrainState


def not_finite(tree: PyTree) -> list[str]:
    """Returns the paths of the leaves that hold a NaN or an infinity."""
    return [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if not np.all(np.isfinite(np.asarray(leaf)))
    ]


class Pick(NamedTuple):
    """The functions that extract one run from a stack of runs; by default there is no stack."""

    state: Callable[[TrainState], TrainState] = lambda state: state
    row: Callable[[Any], Any] = lambda array: array  # [S, ...] -> [...]


ALONE = Pick()


def find(steps: Steps, state: TrainState, stop: int, pick: Pick = ALONE) -> BadStep | None:
    """Returns the first non-finite step of a run, found by repeating the steps up to `stop`.

    It returns None if all repeated steps are finite.

    Args:
        state: the state at an earlier step; of all runs, if they are stacked.
    """
    _, keys, data, batch_size = steps

    def go(start: TrainState, step: int):
        """Returns the state at a step, the order of its epoch and the run's metrics."""
        copied = jax.tree.map(jnp.copy, start)  # because `advance` donates its argument
        order = loop.no_order(keys, data)
        end, order, means = steps.advance(keys, data, copied, order, jnp.int32(step))
        return end, order, {name: np.asarray(pick.row(mean)) for name, mean in means.items()}

    low, high = int(state.step), stop
    if bad := not_finite(own := pick.state(state)):
        problem = f"{bad[0]} is not finite to begin with"
        return BadStep(low, problem, np.zeros(0, np.int32), own, own)
    while high - low > 1:
        middle = (low + high) // 2
        reached, _, means = go(state, middle)
        if not_finite((pick.state(reached), means)):
            high = middle
        else:
            state, low = reached, middle
    end, order, means = go(state, high)
    before, after = pick.state(state), pick.state(end)
    if not not_finite((after, means)):
        return None
    position = low % (len(data) // batch_size) * batch_size
    indices = np.asarray(pick.row(order.indices))[position : position + batch_size]
    problem = _first_of(np.asarray(data[indices]), means, after)
    return BadStep(low, problem, indices, before, after)


def origin(
    algorithm: Algorithm,
    preprocess: Callable[[Key, Array], Array],
    steps: Steps,
    bad: BadStep,
) -> str:
    """Returns a description of the source line where the first NaN or infinity of a bad step arose.

    The step is repeated without jit, so that JAX checks the result of every operation.
    """
    indices, stored = jnp.asarray(bad.indices), jnp.asarray(steps.data[bad.indices])
    return origin_of(
        loop.train_step, algorithm, preprocess, steps.keys, stored, indices, bad.before
    )


def _first_of(x: np.ndarray, metrics: dict[str, np.ndarray], after: TrainState) -> str:
    """Returns a description of the first non-finite quantity, in the order of computation."""
    if not_finite(x):
        return "the minibatch is not finite"
    for name, value in metrics.items():
        if not_finite(value):
            return f"the {name} is {value}"
    bad = not_finite(after.params) or not_finite(after.opt_state) or not_finite(after.extra)
    return f"the update of {bad[0]} is not finite"
