"""A compiled program that advances a training state, and the pauses at which the host acts."""

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
from aevb.runtime.distributed import place
from aevb.types import Key, PyTree

FIRST_STRETCH = 10  # steps before the first pause, while the speed is not known
SECONDS_BETWEEN_PAUSES = 0.5


class LoopKeys(NamedTuple):
    """The random keys of the training loop.

    They are folded with the epoch and the step. The training state therefore holds no key, and a
    resumed run gives the same result as an uninterrupted one.
    """

    order: Key  # for the permutation of the datapoints in each epoch
    step: Key  # for the binarization and the samples of each step


class RunKeys(NamedTuple):
    """The random keys of a run, all derived from its seed."""

    init: Key
    loop: LoopKeys


def run_keys(key: Key) -> RunKeys:
    """Returns the keys of a run from the key of its seed."""
    init_key, order_key, step_key = jax.random.split(key, 3)
    return RunKeys(init_key, LoopKeys(order_key, step_key))


def first_state(init: Callable[[Key], TrainState], key: Key) -> TrainState:
    """Returns the initial state of a run from its `Algorithm.init` and the key of its seed."""
    return xla.jit_brief(lambda key: init(run_keys(key).init))(key)


class Order(NamedTuple):
    """The permutation of the datapoints in one epoch.

    It is kept across the pauses in the epoch, because it is costly: shuffling a million datapoints
    takes about as long as training on 20,000.
    """

    epoch: Array  # [] int32, the epoch of this permutation
    indices: Array  # [N] int32, or [S, N] for the S members of a stack


def no_order(keys: LoopKeys, data: Array) -> Order:
    """Returns the placeholder order that is passed before the first step."""
    shape = (*keys.order.shape, len(data))
    return Order(jnp.asarray(np.int32(-1)), jnp.asarray(np.zeros(shape, np.int32)))


Split = Callable[[Array], Array]  # splits a minibatch [M, ...] over the devices

Advance = Callable[..., tuple[TrainState, Order, dict[str, Array]]]
# (keys, data [N, D], state, order, stop []) -> state, order, mean metrics

# The vmap axes of a stacked state: a leading axis [S] on every leaf except the shared step.
MEMBERS = TrainState(step=None, params=0, opt_state=0, extra=0)  # pyright: ignore[reportArgumentType]


def whole(minibatch: Array) -> Array:
    """Returns the minibatch unchanged, for training on a single device."""
    return minibatch


def make_advance(
    algorithm: Algorithm,
    preprocess: Callable[[Key, Array], Array],
    *,
    batch_size: int,
    split: Split = whole,
) -> jax.stages.Wrapped:
    """Returns the jitted `advance(keys, data [N, D], state, order, stop)`.

    `advance` trains from state.step to step `stop`. It returns the new state, the order of the
    current epoch (an argument of the next call) and the mean of each metric over these steps. An
    epoch is a fresh permutation of the data, cut into N // M minibatches; the remainder is left out
    of that epoch. The number of pauses does not change the result: the loop bounds are arguments,
    so every call runs the same compiled step.

    Args:
        split: from `distributed.split`, if several devices share the work.
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
    """Returns the `advance` of `make_advance` for S members at once.

    It takes keys [S] and a state [S] with one shared step, and returns metrics [S]. Each member has
    its own order, noise and setting, and sees the same data and noise as if it were trained alone.

    Args:
        algorithm_of: returns the algorithm for a member's setting.
        settings: the settings in which the members differ, every leaf [S, ...].
    """

    def train_member(setting: PyTree, keys: LoopKeys, data: Array, indices: Array, state):
        return train_step(algorithm_of(setting), preprocess, keys, data[indices], indices, state)

    train_members = jax.vmap(train_member, in_axes=(0, 0, None, 0, MEMBERS), out_axes=(MEMBERS, 0))
    return _jit_advance(
        jax.vmap(draw_order, in_axes=(0, None, None)), partial(train_members, settings), batch_size
    )


def draw_order(keys: LoopKeys, epoch: Array, num_data: int) -> Array:
    """Draws the permutation of the datapoints for an epoch, [N]."""
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
    """Preprocesses a minibatch and takes one update on it; returns the state and the metrics.

    Args:
        stored: the minibatch before preprocessing, [M, D].
        indices: the positions of these datapoints in the dataset, [M].
    """
    return algorithm.update(*_arguments(preprocess, keys, stored, indices, state))


def norms_of(
    algorithm: Algorithm,
    preprocess: Callable[[Key, Array], Array],
    keys: LoopKeys,
    state: TrainState,
    stored: Array,
    indices: Array,
) -> dict[str, Array]:
    """Returns `Algorithm.norms` of a state on a minibatch, {} if the algorithm has none.

    Args:
        stored: the minibatch before preprocessing, [M, D].
        indices: the positions of these datapoints in the dataset, [M].
    """
    if algorithm.norms is None:
        return {}
    return algorithm.norms(*_arguments(preprocess, keys, stored, indices, state))


def _arguments(
    preprocess: Callable[[Key, Array], Array],
    keys: LoopKeys,
    stored: Array,
    indices: Array,
    state: TrainState,
) -> tuple[Key, TrainState, Batch]:
    """Returns the key, the state and the preprocessed minibatch of a step."""
    data_key, update_key = jax.random.split(jax.random.fold_in(keys.step, state.step))
    x = jax.vmap(preprocess)(jax.random.split(data_key, len(indices)), stored)
    return update_key, state, Batch(x, indices)


def _jit_advance(
    draw: Callable[[LoopKeys, Array, int], Array],
    take_step: Callable[..., tuple[TrainState, dict[str, Array]]],
    batch_size: int,
) -> jax.stages.Wrapped:
    """Returns the jitted loop over epochs and steps, as `make_advance` describes it.

    Args:
        draw: (keys, epoch, N) -> the permutation of the epoch.
        take_step: (keys, data, indices, state) -> the next state, its metrics.
    """

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
    """Returns zeros in the shapes of a step's metrics, the totals before the first step."""
    shapes = jax.eval_shape(step, jnp.int32(0), state)[1]
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


def take_steps(
    step: Step, first: Array, end: Array, state: TrainState, totals: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """Takes the steps at positions first, ..., end - 1; returns the state and the new totals."""

    def body(position, carry):
        state, totals = carry
        state, metrics = step(position, state)
        return state, jax.tree.map(jnp.add, totals, metrics)

    return jax.lax.fori_loop(first, end, body, (state, totals))


def means(totals: dict[str, Array], num_steps: Array) -> dict[str, Array]:
    """Returns the mean of each metric over the steps that were taken.

    The number of skipped steps is returned as a total, not as a mean.
    """
    if SKIPPED not in totals:
        return {name: total / num_steps for name, total in totals.items()}
    taken = jnp.maximum(num_steps - totals[SKIPPED], 1.0)
    return {name: total if name == SKIPPED else total / taken for name, total in totals.items()}


def train_to(
    advance: Advance, keys: LoopKeys, data: Array, state: TrainState, stop: int | Array
) -> tuple[TrainState, dict[str, Array]]:
    """Advances to step `stop` without pauses; returns the state and the mean metrics."""
    state, _, means = advance(keys, data, state, no_order(keys, data), jnp.int32(stop))
    return state, means


class Program(Protocol):
    """An object that compiles an `advance` for a device before it runs there."""

    def compile(self, keys: LoopKeys, data: Any, state: TrainState) -> Advance: ...


class AheadOfTime:
    """An `advance` that is compiled ahead of time, once for each device."""

    def __init__(
        self, advance: jax.stages.Wrapped, compiler_options: Mapping[str, Any] | None = None
    ):
        self.advance = advance
        self._options = dict(compiler_options or {})
        self._programs: dict[Any, Advance] = {}

    def compile(self, keys: LoopKeys, data: Array, state: TrainState) -> Advance:
        """Returns `advance` compiled for the device of the data and for arrays of these shapes.

        Raises:
            UserError: the program needs more memory than is available.
        """
        if data.device not in self._programs:
            lowered = self.advance.lower(keys, data, state, no_order(keys, data), jnp.int32(0))
            program = lowered.compile(self._options)
            require_room(program)
            self._programs[data.device] = program
        return self._programs[data.device]


def require_room(program: jax.stages.Compiled) -> None:
    """Checks before a program runs that it has enough memory.

    Raises:
        UserError: the program needs more memory than is available.
    """
    sizes = program.memory_analysis()
    if sizes is not None:  # None if this backend has no memory analysis
        xla.require_memory(
            sizes.temp_size_in_bytes + sizes.argument_size_in_bytes,
            "a step of training",
            "config.train.batch_size, config.algorithm.num_samples or config.model.hidden",
        )


class Steps(NamedTuple):
    """A compiled `advance`, with those of its arguments that are the same in every call."""

    advance: Advance
    keys: LoopKeys
    data: Any  # [N, D] on a device, or `streaming.OnDisk`
    batch_size: int


def prepare(
    program: Program, keys: LoopKeys, data: Any, state: TrainState, batch_size: int
) -> tuple[Steps, TrainState]:
    """Places the keys and the state where the data are, and compiles the program there.

    The state can be on another device, for example because it was restored from a checkpoint.

    Raises:
        UserError: the program needs more memory than is available.
    """
    keys, state = place((keys, state), data.device)
    return Steps(program.compile(keys, data, state), keys, data, batch_size), state


class Pause(NamedTuple):
    """The state and the metrics that the host gets at a pause of the loop."""

    state: TrainState  # valid until the loop continues, which reuses its memory
    step: int
    metrics: dict[str, np.ndarray]  # means since the last pause, [] or [S] for a stack
    num_steps: int  # since the last pause
    seconds: float  # of training since the last pause


def pauses(
    steps: Steps,
    state: TrainState,
    *,
    num_steps: int,
    stops: Sequence[int],
    agree: Callable[[int], int] = lambda steps: steps,
) -> Iterator[Pause]:
    """Trains until step `num_steps`, and yields at each of `stops` and about twice a second.

    At a pause the caller can evaluate, save or report, and can end the iteration. The seconds do
    not include compilation.

    Args:
        agree: makes the number of steps until the next pause the same in all processes; each
            process derives a number from its own timing.
    """
    advance, keys, data, _ = steps
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
