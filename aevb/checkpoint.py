"""Checkpoints by orbax, with the digest of their arrays that orbax does not keep.

A checkpoint is one `TrainState` and the seconds it took. The latest two and the best are kept, or
all of them.
"""

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from aevb.algorithms.base import TrainState

if TYPE_CHECKING:
    import orbax.checkpoint as ocp


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    seconds: float  # of training until then


def digest(state: TrainState) -> str:
    """SHA-256 over every leaf's path, shape, type and bytes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(state):
        array = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def open_manager(folder: Path, *, keep_all: bool = False) -> "ocp.CheckpointManager":
    """The checkpoints of a folder, made if need be; leftovers of a killed save are removed.

    Args:
        keep_all: rather than the latest two and the best.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    # With `max_to_keep` and `best_fn` orbax deletes the latest step where it is not the best.
    keep = policies.AnyPreservationPolicy(
        [
            policies.LatestN(None if keep_all else 2),
            policies.BestN(
                get_metric_fn=lambda metrics: metrics["test_bound"],
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def open_reader(folder: Path) -> "ocp.CheckpointManager":
    """The checkpoints of a folder that is there, from which nothing is removed."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(
    manager: "ocp.CheckpointManager",
    state: TrainState,
    *,
    seconds: float,
    test_bound: float | None = None,
) -> None:
    """Saves a state under its step; it is complete on the disk when this returns.

    Args:
        seconds: of training until now.
        test_bound: nats per datapoint, by which the best is chosen; None where it is not known.
    """
    import orbax.checkpoint as ocp

    step = int(state.step)
    if step in manager.all_steps():
        return
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            notes=ocp.args.JsonSave({"seconds": seconds, "digest": digest(state)}),
        ),
        metrics=None if test_bound is None else {"test_bound": test_bound},
    )
    manager.wait_until_finished()


def restore(
    manager: "ocp.CheckpointManager", like: TrainState, *, step: int | None = None
) -> Restored | None:
    """The newest checkpoint that holds what was saved; None where there is none.

    Each damaged one is named on stderr and deleted, unless the manager is a reader, and the one
    before it is taken.

    Args:
        like: a state of the same structure, shapes and types, whose devices will have it; of
            `jax.eval_shape`, for the first device. Where it was saved does not matter.
        step: of the only one that will do; None for any.
    """
    import orbax.checkpoint as ocp

    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def described(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or first)

    abstract = jax.tree.map(described, like)
    steps = manager.all_steps() if step is None else {step} & set(manager.all_steps())
    for number in sorted(steps, reverse=True):
        try:
            restored: Any = manager.restore(
                number,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), notes=ocp.args.JsonRestore()
                ),
            )
            if digest(restored.state) == restored.notes["digest"]:
                return Restored(restored.state, restored.notes["seconds"])
            problem = "its arrays are not those that were saved"
        except Exception as error:  # orbax fails on damage in as many ways as there are files
            problem = f"{type(error).__name__} on reading it"
        print(f"checkpoint of step {number} is damaged ({problem}); skipped", file=sys.stderr)
        manager.delete(number)
    return None
