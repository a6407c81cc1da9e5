"""Training on data that stay on disk, with blocks of minibatches that are read ahead.

The order of an epoch, the keys and the step are those of `loop`. The minibatches are therefore the
same, and resuming a run and finding a non-finite step work in the same way.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.algorithms.base import Algorithm, TrainState
from aevb.data import Dataset
from aevb.data.io.array_records import Records
from aevb.runtime import xla
from aevb.runtime.distributed import Placement, own_part, parts_of, place, place_parts
from aevb.training import loop
from aevb.training.loop import Advance, LoopKeys, Order, Split
from aevb.types import Key

BLOCK_BYTES = 2**22  # size of a block: the minibatches that are read at once
BLOCKS_AHEAD = 2  # blocks that are read ahead during training on the current one
ENDLESS = 2**62


Data = Any  # training data [N, D]: an Array on a device, or `OnDisk`


class OnDisk:
    """The training split of a dataset, read from disk as needed, for one placement."""

    def __init__(self, records: Records, device: Placement):
        self.records, self.device = records, device

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self.records[index]


def on_device(train: np.ndarray | Records, device: Placement = None) -> Data:
    """Returns the training split on the device, or `OnDisk` if it is read from disk.

    Args:
        device: from `distributed.place_for`; None for the first local device.
    """
    device = device or jax.local_devices()[0]
    return OnDisk(train, device) if isinstance(train, Records) else place(train, device)


def make_program(
    algorithm: Algorithm,
    dataset: Dataset,
    *,
    batch_size: int,
    split: Split = loop.whole,
    compiler_options: Mapping[str, Any] | None = None,
) -> "loop.AheadOfTime | Streamed":
    """Returns the program that trains on the dataset, in memory or on disk."""
    if isinstance(dataset.train, Records):
        return Streamed(
            algorithm,
            dataset.preprocess,
            batch_size=batch_size,
            split=split,
            compiler_options=compiler_options,
        )
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=batch_size, split=split)
    return loop.AheadOfTime(advance, compiler_options)


class Streamed:
    """The counterpart of `loop.AheadOfTime` for data `OnDisk`."""

    def __init__(
        self,
        algorithm: Algorithm,
        preprocess: Callable[[Key, Array], Array],
        *,
        batch_size: int,
        split: Split = loop.whole,
        compiler_options: Mapping[str, Any] | None = None,
    ):
        self.batch_size = batch_size
        self._train_block = _jit_train_block(algorithm, preprocess, split)
        self._draw = jax.jit(loop.draw_order, static_argnums=2)
        self._options = dict(compiler_options or {})
        self._programs: dict[Any, Advance] = {}

    def compile(self, keys: LoopKeys, data: OnDisk, state: TrainState) -> Advance:
        """Returns an `advance` compiled for the device of the data and a state of these shapes.

        Raises:
            UserError: the program needs more memory than is available.
        """
        if data.device not in self._programs:
            sizes = _Sizes(data, self.batch_size)
            steps = (sizes.block_steps, self.batch_size)
            num_pixels, dtype = data.records.shape[1], data.records.dtype
            block = parts_of((*steps, num_pixels), dtype, data.device)
            indices = parts_of(steps, jnp.int32, data.device)
            lowered = self._train_block.lower(
                keys, block, indices, state, jnp.int32(0), jnp.int32(0)
            )
            program = lowered.compile(self._options)
            loop.require_room(program)
            self._programs[data.device] = _Advance(program, self._draw, sizes)
        return self._programs[data.device]


class _Sizes:
    """The numbers of steps and blocks of an epoch; the last block of an epoch can be shorter."""

    def __init__(self, data: OnDisk, batch_size: int):
        self.batch_size = batch_size
        self.epoch_steps = len(data) // batch_size
        step_bytes = batch_size * data.records.shape[1] * data.records.dtype.itemsize
        self.block_steps = min(self.epoch_steps, max(1, BLOCK_BYTES // step_bytes))
        self.epoch_blocks = -(-self.epoch_steps // self.block_steps)


class _Advance:
    """An `advance` as from `loop.make_advance`, for data on disk.

    (keys, data, state, order, stop) -> state, order, mean metrics.
    """

    def __init__(self, program: Callable[..., Any], draw: Callable[..., Array], sizes: _Sizes):
        self._program, self._draw, self._sizes = program, draw, sizes
        self._blocks: _Blocks | None = None
        self._seed: bytes | None = None  # identifies the run to which `_blocks` belongs

    def __call__(
        self, keys: LoopKeys, data: OnDisk, state: TrainState, order: Order, stop: Array
    ) -> tuple[TrainState, Order, dict[str, Array]]:
        sizes, first, last = self._sizes, int(state.step), int(stop)
        seed = np.asarray(jax.random.key_data(keys.order)).tobytes()
        if self._blocks is None or self._seed != seed:
            self._seed = seed
            self._blocks = _Blocks(data, lambda epoch: self._draw(keys, epoch, len(data)), sizes)
        step, totals = first, None
        while step < last:
            epoch, within = divmod(step, sizes.epoch_steps)
            number, begin = divmod(within, sizes.block_steps)
            x, indices = self._blocks.get(epoch * sizes.epoch_blocks + number)
            left = min(sizes.epoch_steps - within, last - step)  # in this epoch and until `stop`
            end = min(sizes.block_steps, begin + left)
            state, sums = self._program(keys, x, indices, state, jnp.int32(begin), jnp.int32(end))
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
            step += end - begin
        assert totals is not None
        epoch = (last - 1) // sizes.epoch_steps
        indices: Any = self._blocks.order(epoch)  # stays on the host
        return (
            state,
            Order(jnp.int32(epoch), indices),
            loop.means(totals, jnp.float32(last - first)),
        )


def _jit_train_block(
    algorithm: Algorithm, preprocess: Callable[[Key, Array], Array], split: Split
) -> jax.stages.Wrapped:
    """Returns the jitted function that trains on steps first, ..., end - 1 of a block.

    (keys, x [T, M, D], indices [T, M], state, first, end) -> state, sums of the metrics.
    """

    def train_block(
        keys: LoopKeys, x: Array, indices: Array, state: TrainState, first: Array, end: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        def step(position: Array, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
            stored, which = split(x[position]), split(indices[position])
            return loop.train_step(algorithm, preprocess, keys, stored, which, state)

        return loop.take_steps(step, first, end, state, loop.no_metrics(step, state))

    options = xla.training_options()
    return jax.jit(train_block, donate_argnums=3, compiler_options=options)


class _Blocks:
    """The blocks of all epochs in order, from any starting point, read ahead in the background.

    Each process reads only the part of each minibatch that its own devices train on.
    """

    def __init__(self, data: OnDisk, draw: Callable[[int], Array], sizes: _Sizes):
        self._data, self._draw, self._sizes = data, draw, sizes
        self._own = own_part(sizes.batch_size, data.device)
        self._orders: dict[int, np.ndarray] = {}
        self._drawing = threading.Lock()
        self._ahead: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
        self._number, self._block = -2, None  # the block that was returned last

    def get(self, number: int) -> tuple[Array, Array]:
        """Returns block `number`, counted over all epochs: x [T, M, D] and indices [T, M]."""
        if number != self._number:
            if number != self._number + 1:
                self._ahead = self._read_from(number)
            x, indices = next(self._ahead)
            size, device = self._sizes.batch_size, self._data.device
            self._block = place_parts(x, size, device), place_parts(indices, size, device)
            self._number = number
        assert self._block is not None
        return self._block

    def order(self, epoch: int) -> np.ndarray:
        """Returns the permutation of the datapoints for an epoch, [N]."""
        with self._drawing:
            if epoch not in self._orders:
                recent = {e: o for e, o in self._orders.items() if e == epoch - 1}
                self._orders = {**recent, epoch: np.asarray(self._draw(epoch))}
            return self._orders[epoch]

    def _read_from(self, first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import grain

        blocks = grain.MapDataset.range(first, ENDLESS).map(self._read)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BLOCKS_AHEAD)
        return iter(blocks.to_iter_dataset(options))

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads this process's part of each minibatch of a block; returns it with its indices."""
        sizes = self._sizes
        epoch, within = divmod(int(number), sizes.epoch_blocks)
        first = within * sizes.block_steps
        end = min(first + sizes.block_steps, sizes.epoch_steps)
        indices = self.order(epoch)[first * sizes.batch_size : end * sizes.batch_size]
        own = indices.reshape(end - first, sizes.batch_size)[:, self._own]
        x = self._data[own.ravel()].reshape(*own.shape, -1)
        missing = (0, sizes.block_steps - len(own))  # unused padding of the epoch's last block
        return np.pad(x, (missing, (0, 0), (0, 0))), np.pad(own, (missing, (0, 0)))
