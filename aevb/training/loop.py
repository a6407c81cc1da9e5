"""One compiled program that advances a training state, and the host's pauses in it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.algorithms.skip_nonfinite import SKIPPED
from aevb.runtime import xla
from aevb.types import Key, PyTree

FIRST_STRETCH = 10  # steps before the first pause, when the speed is not known yet
SECONDS_BETWEEN_PAUSES = 0.5


class LoopKeys(NamedTuple):
    """Where the loop's randomness comes from. Keys are folded with the epoch and the step, so a
    state needs no key of its own, and a resumed run is the run."""

    order: Key  # of the datapoints within each epoch
    step: Key  # of each step's binarization and samples


class Order(NamedTuple):
    """The datapoints of one epoch in turn. To shuffle a million takes as long as some 20,000 of
    them to train on, so that an order outlives the pauses in its epoch."""

    epoch: Array  # [] int32, whose order it is
    indices: Array  # [N] int32, or [S, N] of members


def no_order(keys: LoopKeys, data: Array) -> Order:
    """For the first step of all."""
    return Order(jnp.int32(-1), jnp.zeros((*keys.order.shape, len(data)), jnp.int32))


Split = Callable[[Array], Array]  # a minibatch [M, ...], of which each device gets a part

Advance = Callable[..., tuple[TrainState, Order, dict[str, Array]]]
# (keys, data [N, D], state, order, stop []) -> state, order, mean metrics

# What becomes of a state with a leading axis [S] everywhere but in its step, which is common.
MEMBERS = TrainState(step=None, params=0, opt_state=0, extra=0)  # pyright: ignore[reportArgumentType]


def whole(minibatch: Array) -> Array:
    """A minibatch that no devices share."""
    return minibatch


def make_advance(
    algorithm: Algorithm,
    preprocess: Callable[[Key, Array], Array],
    *,
    batch_size: int,
    split: Split = whole,
) -> jax.stages.Wrapped:
    """`advance(keys, data [N, D], state, order, stop)`: trains from state.step to step `stop`.

    An epoch is a fresh permutation of the data, cut into N // M minibatches; the remainder waits
    for the next permutation. It returns the state, the order of the epoch that it is in, which
    the next call takes, and the mean of each metric over these steps.
    How often the host pauses does not change the result: the loop bounds are arguments, so that
    every stretch of training runs the same compiled step.

    Args:
        split: of `distributed.split`, where several devices share the work.
    """

    def take_step(keys: LoopKeys, data: Array, indices: Array, state: TrainState):
        return train_step(algorithm, preprocess, keys, split(data[indices]), split(indices), state)

    return _jit_advance(draw_order, take_step, batch_size)


def make_stacked_advance(
    algorithm_of: Callable[[PyTree], Algorithm],
    settings: PyTree,
    preprocess: Callable[[Key, Array], Array],
    *,
    batch_size: int,
) -> jax.stages.Wrapped:
    """`make_advance` of S members at once: of keys [S], a state [S] of one step, metrics [S].

    Each member has its own order, noise and setting, and sees the same as it does alone.

    Args:
        algorithm_of: a member's setting -> its algorithm.
        settings: what the members differ in, every leaf [S, ...].
    """

    def train_member(setting: PyTree, keys: LoopKeys, data: Array, indices: Array, state):
        return train_step(algorithm_of(setting), preprocess, keys, data[indices], indices, state)

    train_members = jax.vmap(train_member, in_axes=(0, 0, None, 0, MEMBERS), out_axes=(MEMBERS, 0))
    return _jit_advance(
        jax.vmap(draw_order, in_axes=(0, None, None)), partial(train_members, settings), batch_size
    )


def draw_order(keys: LoopKeys, epoch: Array, num_data: int) -> Array:
    """In which order an epoch shows the datapoints -> [N]."""
    key = jax.random.fold_in(keys.order, epoch)
    return jax.random.permutation(key, jnp.arange(num_data, dtype=jnp.int32))


def train_step(
    algorithm: Algorithm,
    preprocess: Callable[[Key, Array], Array],
    keys: LoopKeys,
    stored: Array,
    indices: Array,
    state: TrainState,
) -> tuple[TrainState, dict[str, Array]]:
    """One update on a minibatch as it is stored, [M, D] -> state, metrics.

    Args:
        indices: which datapoints these are, [M].
    """
    data_key, update_key = jax.random.split(jax.random.fold_in(keys.step, state.step))
    x = jax.vmap(preprocess)(jax.random.split(data_key, len(indices)), stored)
    return algorithm.update(update_key, state, Batch(x, indices))


def _jit_advance(
    draw: Callable[[LoopKeys, Array, int], Array],
    take_step: Callable[..., tuple[TrainState, dict[str, Array]]],
    batch_size: int,
) -> jax.stages.Wrapped:
    """The loop around a step: (keys, epoch, N) -> order, (keys, data, indices, state) -> state."""

    def advance(
        keys: LoopKeys, data: Array, state: TrainState, order: Order, stop: Array
    ) -> tuple[TrainState, Order, dict[str, Array]]:
        num_data = len(data)
        steps_per_epoch = num_data // batch_size

        def step(indices: Array, position: Array, state: TrainState):
            some = jax.lax.dynamic_slice_in_dim(indices, position * batch_size, batch_size, -1)
            return take_step(keys, data, some, state)

        def epoch(carry):
            state, order, totals = carry
            number = state.step // steps_per_epoch
            order = jax.lax.cond(
                order.epoch == number,
                lambda: order,
                lambda: Order(number, draw(keys, number, num_data)),
            )

            first = state.step % steps_per_epoch
            last = jnp.minimum(steps_per_epoch, stop - number * steps_per_epoch)
            state, totals = take_steps(partial(step, order.indices), first, last, state, totals)
            return state, order, totals

        zeros = no_metrics(partial(step, order.indices), state)
        num_steps = (stop - state.step).astype(jnp.float32)
        state, order, totals = jax.lax.while_loop(
            lambda carry: carry[0].step < stop, epoch, (state, order, zeros)
        )
        return state, order, means(totals, num_steps)

    options = xla.training_options()
    return jax.jit(advance, donate_argnums=(2, 3), compiler_options=options)


Step = Callable[[Array, TrainState], tuple[TrainState, dict[str, Array]]]
# (position in an epoch or a block [], state) -> the next state, its metrics


def no_metrics(step: Step, state: TrainState) -> dict[str, Array]:
    """The sums of a step's metrics before the first."""
    shapes = jax.eval_shape(step, jnp.int32(0), state)[1]
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


def take_steps(
    step: Step, first: Array, end: Array, state: TrainState, totals: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """The steps at positions from `first` until `end` -> the state, totals with their metrics."""

    def body(position, carry):
        state, totals = carry
        state, metrics = step(position, state)
        return state, jax.tree.map(jnp.add, totals, metrics)

    return jax.lax.fori_loop(first, end, body, (state, totals))


def means(totals: dict[str, Array], num_steps: Array) -> dict[str, Array]:
    """Metrics' means over the steps that were taken; of those that were not, the number."""
    if SKIPPED not in totals:
        return {name: total / num_steps for name, total in totals.items()}
    taken = jnp.maximum(num_steps - totals[SKIPPED], 1.0)
    return {name: total if name == SKIPPED else total / taken for name, total in totals.items()}


def train_to(
    advance: Advance, keys: LoopKeys, data: Array, state: TrainState, stop: int | Array
) -> tuple[TrainState, dict[str, Array]]:
    """`advance` to step `stop` in one go -> state, metrics; for callers that do not pause."""
    state, _, means = advance(keys, data, state, no_order(keys, data), jnp.int32(stop))
    return state, means


class Program(Protocol):
    """What compiles an `advance` for a device before it runs there."""

    def compile(self, keys: LoopKeys, data: Any, state: TrainState) -> Advance: ...


class AheadOfTime:
    """An `advance` that is compiled for a device before it runs there, once for each."""

    def __init__(
        self, advance: jax.stages.Wrapped, compiler_options: Mapping[str, Any] | None = None
    ):
        self.advance = advance
        self._options = dict(compiler_options or {})
        self._programs: dict[Any, Advance] = {}

    def compile(self, keys: LoopKeys, data: Array, state: TrainState) -> Advance:
        """For the device of the data, and for arrays like these.

        Raises:
            UserError: it needs more memory than there is.
        """
        if data.device not in self._programs:
            lowered = self.advance.lower(keys, data, state, no_order(keys, data), jnp.int32(0))
            program = lowered.compile(self._options)
            require_room(program)
            self._programs[data.device] = program
        return self._programs[data.device]


def require_room(program: jax.stages.Compiled) -> None:
    """Refuses a program that would run out of memory, before it does.

    Raises:
        UserError: it needs more than there is.
    """
    sizes = program.memory_analysis()
    if sizes is not None:  # where XLA can tell
        xla.require_memory(
            sizes.temp_size_in_bytes + sizes.argument_size_in_bytes,
            "a step of training",
            "config.train.batch_size, config.algorithm.num_samples or config.model.hidden",
        )


class Pause(NamedTuple):
    """What the host sees when the loop stops for a moment."""

    state: TrainState  # valid until the loop goes on: its memory is used again
    step: int
    metrics: dict[str, np.ndarray]  # [], or [S] of members: means since the last pause
    num_steps: int  # of that stretch
    seconds: float  # that it took


def pauses(
    advance: Advance,
    keys: LoopKeys,
    data: Array,
    state: TrainState,
    *,
    num_steps: int,
    stops: Sequence[int],
    agree: Callable[[int], int] = lambda steps: steps,
) -> Iterator[Pause]:
    """Trains until step `num_steps`, with a pause at each of `stops` and about twice a second.

    An `advance` that is compiled already keeps compilation out of the seconds. The caller does in
    the pause what it likes (evaluate, save, report) and may leave for good.

    Args:
        agree: on the length of a stretch, which follows from the time, among processes.
    """
    order = no_order(keys, data)
    step, stretch = int(state.step), FIRST_STRETCH
    while step < num_steps:
        start = step
        step = min([num_steps, start + stretch, *(stop for stop in stops if stop > start)])
        began = time.perf_counter()
        state, order, means = advance(keys, data, state, order, jnp.int32(step))
        metrics = {name: np.asarray(mean) for name, mean in means.items()}  # waits for the device
        seconds = time.perf_counter() - began
        stretch = agree(
            min(10 * stretch, max(1, round((step - start) * SECONDS_BETWEEN_PAUSES / seconds)))
        )
        yield Pause(state, step, metrics, step - start, seconds)
