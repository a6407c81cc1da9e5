"""Data-parallel training of one run on several devices, in one process or in several.

Every device holds all parameters and its part of each minibatch; XLA sums the gradients. The rest
of the package does not depend on the number of devices. If there are several processes, only
process 0 writes files, decides when to pause, and evaluates. The others take the same steps.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aevb.errors import UserError
from aevb.types import PyTree

LOST = 4  # exit status of a process after another one has ended
AXIS = "data"  # the mesh axis over which minibatches are split
STATUS = re.compile("[A-Z_]+: ")  # the beginning of XLA's error messages, ValueErrors included
HEARTBEAT_SECONDS = 10  # time without a heartbeat, after which jax aborts the other processes

Placement = Any  # a jax.Device, or a Sharding with a copy on each device


def join(coordinator: str, num_processes: int, process_id: int) -> None:
    """Connects this process with the others of its run. Call it before jax is used.

    Args:
        coordinator: HOST:PORT of process 0; "auto" takes all three arguments from SLURM or the TPU.

    Raises:
        UserError: the other processes cannot be reached.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # `signals` does this
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
    """Returns a context in which this process exits, with one line, if another one has ended.

    Collective operations would fail from then on, and jax would wait for the other process when it
    shuts down.
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


def is_process_0() -> bool:
    """Returns whether this is process 0, the only one that writes files."""
    return jax.process_index() == 0


def place_for(batch_size: int, most: int = 0) -> Placement:
    """Returns a placement on as many devices as divide the minibatch evenly.

    Args:
        most: the largest number of devices; 0 for all.

    Raises:
        UserError: there are several processes, and their devices do not divide the minibatch
            evenly.
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
    """Copies arrays, which are equal in all processes, to every device of the placement."""
    if not isinstance(placement, NamedSharding) or placement.is_fully_addressable:
        return jax.device_put(tree, placement)

    def everywhere(leaf: Any) -> Array:
        if isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(everywhere(jax.random.key_data(leaf)))
        local = np.asarray(leaf)
        return jax.make_array_from_callback(local.shape, placement, lambda index: local[index])

    return jax.tree.map(everywhere, tree)


def own_part(size: int, placement: Placement) -> slice:
    """Returns the slice of a minibatch's `size` datapoints that this process's devices take."""
    if not isinstance(placement, NamedSharding):
        return slice(0, size)
    indices: Any = _in_parts(placement).addressable_devices_indices_map((1, size)).values()
    taken = [index[1].indices(size) for index in indices]
    return slice(min(first for first, _, _ in taken), max(end for _, end, _ in taken))


def place_parts(own: np.ndarray, size: int, placement: Placement) -> Array:
    """Returns minibatches [T, size, ...], split over the placement's devices.

    Each device receives only its own part.

    Args:
        own: the `own_part` of this process, [T, own size, ...].
    """
    if not isinstance(placement, NamedSharding):
        return jax.device_put(own, placement)
    shape = (own.shape[0], size, *own.shape[2:])
    return jax.make_array_from_process_local_data(_in_parts(placement), own, shape)


def parts_of(shape: tuple[int, ...], dtype: Any, placement: Placement) -> jax.ShapeDtypeStruct:
    """Returns the shape, type and sharding of the result of `place_parts`."""
    sharding = _in_parts(placement) if isinstance(placement, NamedSharding) else None
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _in_parts(placement: NamedSharding) -> NamedSharding:
    """Returns the sharding of minibatches [T, M, ...], each of them split as by `split`."""
    return NamedSharding(placement.mesh, PartitionSpec(None, AXIS))


def local(tree: PyTree) -> PyTree:
    """Returns the copy of arrays from `place` that is on the first device of this process."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def split(placement: Placement) -> Callable[[Array], Array]:
    """Returns a function that splits a minibatch [M, ...] over the devices, inside a program."""
    if not isinstance(placement, NamedSharding):
        return lambda minibatch: minibatch
    parts = NamedSharding(placement.mesh, PartitionSpec(AXIS))
    return lambda minibatch: jax.lax.with_sharding_constraint(minibatch, parts)


def broadcast(tree: PyTree) -> PyTree:
    """Returns the arrays of process 0, bit for bit, in all processes.

    Args:
        tree: arrays of the same shapes and types in all processes.
    """
    if jax.process_count() == 1:
        return tree

    def as_words(leaf: Any) -> np.ndarray:
        content = np.asarray(leaf).tobytes()
        return np.frombuffer(content + bytes(-len(content) % 4), np.uint32)

    def as_before(leaf: Any, words: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        content = np.asarray(words).tobytes()[: leaf.nbytes]
        return np.frombuffer(content, leaf.dtype).reshape(leaf.shape)

    # JAX broadcasts by summing over the processes; with floats, -0.0 would become 0.0.
    words = multihost_utils.broadcast_one_to_all(jax.tree.map(as_words, tree))
    return jax.tree.map(as_before, tree, words)


def broadcast_number(number: int) -> int:
    """Returns the number of process 0, in all processes."""
    return int(broadcast(np.int64(number)))


def largest(number: int) -> int:
    """Returns the largest number of any process, in all processes."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


@contextmanager
def stopping_together() -> Iterator[None]:
    """Returns a context for the work of process 0: if it fails there, every process stops.

    The other processes wait at the end of the context.

    Raises:
        UserError: in the other processes, if process 0 has failed.
    """
    failed = True
    try:
        yield
        failed = False
    finally:
        anyone_failed = largest(int(failed))
    if anyone_failed:
        raise UserError("process 0 has stopped, and says why")
