"""One run on several devices, of one process or of many, alike on all of them but for the data.

Every device has all of the parameters and its part of each minibatch; XLA adds up the gradients.
Nothing else of the package knows how many there are. Of several processes the first alone writes,
decides when to pause and evaluates; the others take the same steps.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aevb.errors import UserError
from aevb.types import PyTree

LOST = 4  # the exit status of a process that has lost another one
AXIS = "data"  # of the mesh, over which minibatches are split
STATUS = re.compile("[A-Z_]+: ")  # with which an error of XLA begins, also where it is a ValueError
HEARTBEAT_SECONDS = 10  # of silence, after which jax aborts the other processes

T = TypeVar("T")
Placement = Any  # a jax.Device, or a Sharding that has a copy on each device


def join(coordinator: str, num_processes: int, process_id: int) -> None:
    """Makes this process one of several; before jax is used.

    Args:
        coordinator: HOST:PORT of the first process; "auto" where SLURM or a TPU says all three.

    Raises:
        UserError: the others cannot be found.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # `signals` is for that
    where = (
        {}
        if coordinator == "auto"
        else {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
    )
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise UserError(
            f"--coordinator={coordinator}: the processes do not come together ({words}); give each "
            "the same HOST:PORT of the first and --num_processes, and its own --process_id"
        ) from error


@contextmanager
def together() -> Iterator[None]:
    """A context in which this process ends at once, with one line, where another one has.

    What they do together cannot go on then, and jax would wait for the other when it shuts down.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not STATUS.match(str(error)):
            raise
        _end(str(error).splitlines()[0])


def _end(words: str) -> None:
    sys.stderr.write(
        f"\nerror: another process of this run has ended ({words}); every checkpoint until now is "
        "kept: give all of them the same commands again\n"
    )
    sys.stderr.flush()
    os._exit(LOST)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def place_for(batch_size: int, most: int = 0) -> Placement:
    """The devices that a minibatch can be split over evenly: as many as there are, or `most`.

    Raises:
        UserError: it cannot be split over all processes' devices.
    """
    devices = jax.devices()
    number = min(len(devices), batch_size, most or len(devices))
    while batch_size % number:
        number -= 1
    if jax.process_count() > 1 and number < len(devices):
        raise UserError(
            f"config.train.batch_size is {batch_size}; {len(devices)} devices of "
            f"{jax.process_count()} processes need a multiple of {len(devices)}"
        )
    if number == 1:
        return jax.local_devices()[0]
    mesh = jax.make_mesh((number,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:number])
    return NamedSharding(mesh, PartitionSpec())


def place(tree: PyTree, placement: Placement) -> PyTree:
    """Arrays of this process, the same in all, as arrays of the placement."""
    if not isinstance(placement, NamedSharding) or placement.is_fully_addressable:
        return jax.device_put(tree, placement)

    def everywhere(leaf: Any) -> Array:
        if isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(everywhere(jax.random.key_data(leaf)))
        local = np.asarray(leaf)
        return jax.make_array_from_callback(local.shape, placement, lambda index: local[index])

    return jax.tree.map(everywhere, tree)


def own_part(size: int, placement: Placement) -> slice:
    """Which of a minibatch's `size` datapoints the devices of this process take."""
    if not isinstance(placement, NamedSharding):
        return slice(0, size)
    indices: Any = _in_parts(placement).addressable_devices_indices_map((1, size)).values()
    taken = [index[1].indices(size) for index in indices]
    return slice(min(first for first, _, _ in taken), max(end for _, end, _ in taken))


def place_parts(own: np.ndarray, size: int, placement: Placement) -> Array:
    """Minibatches [T, size, ...], of which this process has its `own_part` alone.

    Each device gets what it takes of them, and nothing else of them goes anywhere.
    """
    if not isinstance(placement, NamedSharding):
        return jax.device_put(own, placement)
    shape = (own.shape[0], size, *own.shape[2:])
    return jax.make_array_from_process_local_data(_in_parts(placement), own, shape)


def parts_of(shape: tuple[int, ...], dtype: Any, placement: Placement) -> jax.ShapeDtypeStruct:
    """What `place_parts` returns, without its numbers."""
    sharding = _in_parts(placement) if isinstance(placement, NamedSharding) else None
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _in_parts(placement: NamedSharding) -> NamedSharding:
    """Of minibatches [T, M, ...], each split as `split` splits it."""
    return NamedSharding(placement.mesh, PartitionSpec(None, AXIS))


def local(tree: PyTree) -> PyTree:
    """What `place` has placed, on the first device of this process."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def split(placement: Placement) -> Callable[[Array], Array]:
    """-> what splits a minibatch [M, ...] over the placement's devices, within a program."""
    if not isinstance(placement, NamedSharding):
        return lambda minibatch: minibatch
    parts = NamedSharding(placement.mesh, PartitionSpec(AXIS))
    return lambda minibatch: jax.lax.with_sharding_constraint(minibatch, parts)


def as_the_first(number: int) -> int:
    """The first process's number, in all of them."""
    return int(numbers_of_the_first(np.array([number], np.float64))[0])


def numbers_of_the_first(numbers: np.ndarray) -> np.ndarray:
    """The first process's float64 numbers, bit by bit, in all of them; any shape, but the same."""
    if jax.process_count() == 1:
        return numbers
    bits = np.ascontiguousarray(numbers, np.float64).view(np.uint32)
    found = np.asarray(multihost_utils.broadcast_one_to_all(bits))
    return found.view(np.float64).reshape(numbers.shape)


def most_of(number: int) -> int:
    """The greatest number of any process, in all of them."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def by_the_first(action: Callable[[], T]) -> T | None:
    """What an action of the first process returns there, while the others wait; None for them.

    Raises:
        Exception: the action's, in the first process.
        UserError: it has failed there, in the others.
    """
    if jax.process_count() == 1:
        return action()
    result, error = None, None
    if is_first():
        try:
            result = action()
        except Exception as raised:
            error = raised
    failed = most_of(int(error is not None))
    if error is not None:
        raise error
    if failed:
        raise UserError("the first process has stopped, and says why")
    return result
