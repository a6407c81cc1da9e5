"""The first step at which a run left the finite numbers, found by taking it there again.

Training looks at its state only in pauses. As a step depends on nothing but the state and the
run's keys, the way from a sound state to a pause can be gone again, and halved until one step is
left. So nothing is paid for it while all is well.
"""

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.algorithms.base import Algorithm, TrainState
from aevb.training import loop
from aevb.training.loop import Advance, LoopKeys
from aevb.training.stacked_runs import Stack
from aevb.types import Key, PyTree

PACKAGE = str(Path(__file__).parent)
LIBRARIES = str(Path(jax.__file__).parent.parent)


class BadStep(NamedTuple):
    """One update of one run."""

    step: int  # updates before it
    problem: str  # what of it was not finite first, as "the objective is nan"
    indices: np.ndarray  # [M], its minibatch
    before: TrainState  # finite, unless that is the problem
    after: TrainState


def not_finite(tree: PyTree) -> list[str]:
    """The paths of the leaves that hold a NaN or an infinity."""
    return [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if not np.all(np.isfinite(np.asarray(leaf)))
    ]


@partial(jax.jit, static_argnames="size")
def are_finite(state: TrainState, size: int) -> Array:
    """Whether each member's parameters, optimizer and extra state are -> [size]."""

    def of_leaf(leaf: Array) -> Array:
        each = leaf.reshape(size, -1)  # of a run alone, all of it
        return jnp.all(jnp.isfinite(each), axis=1)

    flags = [of_leaf(leaf) for leaf in jax.tree.leaves(state._replace(step=()))]
    return jnp.all(jnp.stack([jnp.ones(size, bool), *flags]), axis=0)


def find(
    runs: Stack,
    number: int,
    advance: Advance,
    keys: LoopKeys,
    data: Array,
    state: TrainState,
    *,
    stop: int,
    batch_size: int,
) -> BadStep | None:
    """The first bad step of a member; None where all is finite until `stop`, this time.

    Args:
        number: of the member.
        advance: of all members.
        state: of all members, at an earlier step.
    """

    def go(start: TrainState, step: int):
        """-> the state at a step, the order of its epoch, the member's metrics."""
        copied = jax.tree.map(jnp.copy, start)  # its memory is used again
        end, order, means = advance(keys, data, copied, loop.no_order(keys, data), jnp.int32(step))
        return end, order, {name: np.atleast_1d(mean)[number] for name, mean in means.items()}

    def own(state: TrainState) -> TrainState:
        return runs.member(state, number)

    low = int(state.step)
    if bad := not_finite(own(state)):
        problem = f"{bad[0]} is not finite to begin with"
        return BadStep(low, problem, np.zeros(0, np.int32), own(state), own(state))
    high = stop
    while high - low > 1:
        middle = (low + high) // 2
        reached, _, means = go(state, middle)
        if not_finite((own(reached), means)):
            high = middle
        else:
            state, low = reached, middle
    after, order, means = go(state, high)
    if not not_finite((own(after), means)):
        return None
    position = low % (len(data) // batch_size) * batch_size
    indices = np.atleast_2d(order.indices)[number if runs.size > 1 else 0]
    indices = indices[position : position + batch_size]
    return BadStep(
        low,
        _first_of(np.asarray(data[indices]), means, own(after)),
        indices,
        own(state),
        own(after),
    )


def origin(
    algorithm: Algorithm,
    preprocess: Callable[[Key, Array], Array],
    keys: LoopKeys,
    data: Array,
    bad: BadStep,
) -> str:
    """Where in the source the first NaN or infinity of a bad step arose, in words.

    The step is taken once more, one operation at a time, each of which JAX looks at.
    """
    indices, stored = jnp.asarray(bad.indices), jnp.asarray(data[bad.indices])
    for looks_for in (jax.debug_nans, jax.debug_infs):
        try:
            with jax.disable_jit(), looks_for(True):
                loop.train_step(algorithm, preprocess, keys, stored, indices, bad.before)
        except FloatingPointError as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = [frame for frame in frames if _is_ours(frame.filename)][-1]
            problem = str(error).splitlines()[0]
            return f"{problem}, at {Path(line.filename).name}:{line.lineno}: {line.line}"
    return "no operation by itself has such a result, but only the compiled step"


def _is_ours(file: str) -> bool:
    """Whether a source file is of this package or of whoever uses it, and not of a library."""
    return file.startswith(PACKAGE) or not file.startswith(LIBRARIES)


def _first_of(x: np.ndarray, metrics: dict[str, np.ndarray], after: TrainState) -> str:
    """What is not finite, by the order in which a step comes to it."""
    if not_finite(x):
        return "the minibatch is not finite"
    for name, value in metrics.items():
        if not_finite(value):
            return f"the {name} is {value}"
    bad = not_finite(after.params) or not_finite(after.opt_state) or not_finite(after.extra)
    return f"the update of {bad[0]} is not finite"
