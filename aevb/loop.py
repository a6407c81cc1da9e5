"""One compiled program that advances a training state, and the host's pauses in it."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.types import Key

FIRST_STRETCH = 10  # steps before the first pause, when the speed is not known yet
SECONDS_BETWEEN_PAUSES = 0.5


class LoopKeys(NamedTuple):
    """Where the loop's randomness comes from. Keys are folded with the epoch and the step, so a
    state needs no key of its own, and a resumed run is the run."""

    order: Key  # of the datapoints within each epoch
    step: Key  # of each step's binarisation and samples


class Order(NamedTuple):
    """The datapoints of one epoch in turn. To shuffle a million takes as long as some 20,000 of
    them to train on, so that an order outlives the pauses in its epoch."""

    epoch: Array  # [] int32, whose order it is
    indices: Array  # [N] int32


class Advance(NamedTuple):
    """What `make_advance` makes; called, it draws the order of the first epoch anew."""

    # (keys, data [N, D], state, order, stop []) -> state, order, mean metrics
    with_order: jax.stages.Wrapped

    def __call__(
        self, keys: LoopKeys, data: Array, state: TrainState, stop: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        state, _, means = self.with_order(keys, data, state, no_order(data), stop)
        return state, means


def no_order(data: Array) -> Order:
    """For the first step of all."""
    return Order(jnp.int32(-1), jnp.zeros(len(data), jnp.int32))


def make_advance(
    algorithm: Algorithm, preprocess: Callable[[Key, Array], Array], *, batch_size: int
) -> Advance:
    """`advance(keys, data [N, D], state, stop)`: trains from state.step to step `stop`.

    An epoch is a fresh permutation of the data, cut into N // M minibatches; the remainder waits
    for the next permutation. It returns the state and the mean of each metric over these steps.
    How often the host pauses does not change the result: the loop bounds are arguments, so that
    every stretch of training runs the same compiled step.
    """

    def advance(
        keys: LoopKeys, data: Array, state: TrainState, order: Order, stop: Array
    ) -> tuple[TrainState, Order, dict[str, Array]]:
        num_data = len(data)
        steps_per_epoch = num_data // batch_size

        def train_step(indices: Array, position: Array, state: TrainState):
            indices = jax.lax.dynamic_slice_in_dim(indices, position * batch_size, batch_size)
            data_key, update_key = jax.random.split(jax.random.fold_in(keys.step, state.step))
            x = jax.vmap(preprocess)(jax.random.split(data_key, batch_size), data[indices])
            return algorithm.update(update_key, state, Batch(x, indices))

        def shuffled(number: Array) -> Order:
            key = jax.random.fold_in(keys.order, number)
            return Order(number, jax.random.permutation(key, jnp.arange(num_data, dtype=jnp.int32)))

        def epoch(carry):
            state, order, totals = carry
            number = state.step // steps_per_epoch
            is_new = order.epoch != number
            order = jax.lax.cond(is_new, lambda: shuffled(number), lambda: order)

            def body(position, carry):
                state, totals = carry
                state, metrics = train_step(order.indices, position, state)
                return state, jax.tree.map(jnp.add, totals, metrics)

            first = state.step % steps_per_epoch
            last = jnp.minimum(steps_per_epoch, stop - number * steps_per_epoch)
            state, totals = jax.lax.fori_loop(first, last, body, (state, totals))
            return state, order, totals

        shapes = jax.eval_shape(train_step, order.indices, jnp.int32(0), state)[1]
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        num_steps = (stop - state.step).astype(jnp.float32)
        state, order, totals = jax.lax.while_loop(
            lambda carry: carry[0].step < stop, epoch, (state, order, zeros)
        )
        return state, order, jax.tree.map(lambda total: total / num_steps, totals)

    return Advance(jax.jit(advance, donate_argnums=(2, 3)))


class Pause(NamedTuple):
    """What the host sees when the loop stops for a moment."""

    state: TrainState  # valid until the loop goes on: its memory is used again
    step: int
    metrics: dict[str, float]  # means over the stretch since the last pause
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
) -> Iterator[Pause]:
    """Trains until step `num_steps`, with a pause at each of `stops` and about twice a second.

    The caller does in the pause what it likes (evaluate, save, report) and may leave for good.
    """
    order = no_order(data)
    compiled = advance.with_order.lower(keys, data, state, order, jnp.int32(0)).compile()
    step, stretch = int(state.step), FIRST_STRETCH
    while step < num_steps:
        start = step
        step = min([num_steps, start + stretch, *(stop for stop in stops if stop > start)])
        began = time.perf_counter()
        state, order, means = compiled(keys, data, state, order, jnp.int32(step))
        metrics = {name: float(mean) for name, mean in means.items()}  # waits for the device
        seconds = time.perf_counter() - began
        stretch = min(
            10 * stretch, max(1, round((step - start) * SECONDS_BETWEEN_PAUSES / seconds))
        )
        yield Pause(state, step, metrics, step - start, seconds)
