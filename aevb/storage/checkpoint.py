"""Checkpoints by orbax, with a digest of their contents, which orbax does not store.

A checkpoint holds the state of a run at some step, a PyTree, with the seconds of training and the
log until then, so that state and log are always consistent. A run keeps all checkpoints, or only
the latest two and the one with the highest validation bound.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from aevb.errors import UserError
from aevb.runtime.checksums import is_sound, with_digest
from aevb.runtime.paths import require_utf8
from aevb.types import PyTree

if TYPE_CHECKING:
    import orbax.checkpoint as ocp


FORMAT = 4  # version of the notes beside the state
NO_SPACE = os.strerror(errno.ENOSPC)
DAMAGED = "damaged"  # folder for damaged checkpoints, beside the folder of the others


class Restored(NamedTuple):
    """The contents of a checkpoint."""

    step: int
    state: PyTree
    seconds: float  # of training until then
    records: list[dict[str, Any]]  # the log until then


def digest(state: PyTree) -> str:
    """Returns the SHA-256 over every leaf's path, shape, type and bytes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(state):
        array = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def structure(state: PyTree) -> dict[str, str]:
    """Returns the shape and type of every leaf by its path, such as "float32[560, 200]"."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(state)
    }


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Returns a clause for each leaf in which two structures differ."""
    return [
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


class _LatestAndBest:
    """The policy of orbax by which a manager keeps the latest two checkpoints, and the best.

    The bounds are read from the checkpoints' notes, so that a run that resumes knows those of
    before. Orbax's own policy needs a file of metrics in each checkpoint, and if one of these files
    is damaged, it cannot open any checkpoint of the folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns whether each checkpoint is kept, in the order of the steps."""
        del context
        bounds = {one.step: _bound_of(self._folder / str(one.step)) for one in checkpoints}
        scored = [(bound, step) for step, bound in bounds.items() if bound is not None]
        best = max(scored)[1] if scored else None
        latest = [one.step for one in checkpoints[-2:]]
        return [one.step in (*latest, best) for one in checkpoints]


def _bound_of(checkpoint: Path) -> float | None:
    """Returns the validation bound of a checkpoint; None if it has none, or is damaged."""
    try:
        notes = json.loads((checkpoint / "notes" / "metadata").read_text(encoding="utf-8"))
        return None if notes["valid_bound"] is None else float(notes["valid_bound"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_manager(folder: Path, *, keep_all: bool = False) -> "ocp.CheckpointManager":
    """Opens the checkpoints of a folder, which is created if necessary.

    Leftovers of a killed save are removed.

    Args:
        keep_all: keep all checkpoints, instead of the latest two and the one with the highest
            validation bound.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.LatestN(None) if keep_all else _LatestAndBest(folder),
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
        create=False,
        multiprocessing_options=_alone(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def open_reader(folder: Path) -> "ocp.CheckpointManager":
    """Opens the checkpoints of an existing folder read-only; nothing is removed.

    Raises:
        UserError: the folder's path cannot be expressed in the locale.
    """
    import orbax.checkpoint as ocp

    require_utf8(folder)

    options = ocp.CheckpointManagerOptions(
        read_only=True, save_interval_steps=0, create=False, multiprocessing_options=_alone()
    )
    with _without_warning("Given directory is read only"):  # which is meant
        return ocp.CheckpointManager(folder.absolute(), options=options)


@contextmanager
def _without_warning(words: str) -> Iterator[None]:
    """Returns a context in which orbax does not log messages that begin with these words."""

    def is_kept(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(words)

    logger = logging.getLogger("absl")
    logger.addFilter(is_kept)
    try:
        yield
    finally:
        logger.removeFilter(is_kept)


def _alone() -> Any:
    """Returns options with which orbax does not wait for other processes, which have no manager."""
    import orbax.checkpoint as ocp

    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
    )


def save(
    manager: "ocp.CheckpointManager",
    step: int,
    state: PyTree,
    *,
    seconds: float,
    records: Sequence[Mapping[str, Any]] = (),
    about: Mapping[str, Any] | None = None,
    valid_bound: float | None = None,
) -> None:
    """Saves a state under a step; the checkpoint is complete on disk when this returns.

    Does nothing if the step has a checkpoint.

    Args:
        seconds: of training until now.
        records: the log until now.
        about: additional information for people, such as the config and versions.
        valid_bound: nats per datapoint, chooses the best checkpoint; None if it is not known.

    Raises:
        OSError: the checkpoint cannot be written; the earlier ones are unchanged.
    """
    import orbax.checkpoint as ocp

    if step in manager.all_steps():
        return
    notes = {
        "format": FORMAT,
        "step": step,
        "seconds": seconds,
        "records": list(map(dict, records)),
        "valid_bound": valid_bound,
        "about": dict(about or {}),
        "state": digest(state),
        "structure": structure(state),
    }
    if jax.process_count() > 1:  # orbax rejects arrays of one process then
        state = jax.tree.map(np.asarray, state)
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        notes=ocp.args.JsonSave(with_digest(notes)),
    )
    try:
        manager.save(step, args=items)
        manager.wait_until_finished()
    except Exception as error:  # tensorstore has its own exceptions
        if isinstance(error, OSError) or NO_SPACE not in str(error):
            raise
        raise OSError(errno.ENOSPC, NO_SPACE, str(manager.directory)) from error


def restore(
    manager: "ocp.CheckpointManager",
    like: PyTree,
    *,
    step: int | None = None,
    only_read: bool = False,
) -> Restored | None:
    """Restores the newest sound checkpoint; returns None if there is none.

    A damaged checkpoint is reported on stderr and moved to another folder. Then the next older one
    is tried. A sound checkpoint of another format or of another model is no damaged one: it is
    refused and left as it is.

    Args:
        like: a state of the same structure, shapes and types. The restored state is on the devices
            of `like`, or on the first device if `like` comes from `jax.eval_shape`. The devices on
            which it was saved do not matter.
        step: restore only the checkpoint of this step; None for any.
        only_read: the manager is a reader, and nothing is moved.

    Raises:
        UserError: the checkpoint was written by another version, or its state has another structure
            than `like`.
    """
    steps = manager.all_steps() if step is None else {step} & set(manager.all_steps())
    for number in sorted(steps, reverse=True):
        try:
            return _read(manager, number, like)
        except UserError:
            raise
        except Exception as error:  # many types of error, if a file is damaged
            known = error if isinstance(error, _DamagedError) else type(error).__name__
            problem = f"checkpoint of step {number} is damaged ({known}); skipped"
        if not only_read:
            problem += f", and set aside in {_set_aside(manager, number)}"
        print(problem, file=sys.stderr)
    return None


class _DamagedError(Exception):
    """The exception for a checkpoint that can be read but differs from what was saved."""


def _read(manager: "ocp.CheckpointManager", number: int, like: PyTree) -> Restored:
    import orbax.checkpoint as ocp

    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def described(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or first)

    def read(**items: Any) -> Any:
        return manager.restore(number, args=ocp.args.Composite(**items))

    notes = read(notes=ocp.args.JsonRestore()).notes
    if is_sound(notes):
        _refuse_another(notes, like, Path(manager.directory))
    state = read(state=ocp.args.StandardRestore(jax.tree.map(described, like))).state
    if not is_sound(notes) or digest(state) != notes["state"]:
        raise _DamagedError("it does not hold what was saved")
    if notes["step"] != number:
        raise _DamagedError(f"it is the one of step {notes['step']}")
    return Restored(number, state, notes["seconds"], notes["records"])


def _refuse_another(notes: Mapping[str, Any], like: PyTree, folder: Path) -> None:
    """Raises a UserError if a sound checkpoint is of another format or has another structure."""
    if notes["format"] != FORMAT:
        raise UserError(
            f"{folder} holds checkpoints of format {notes['format']}, and this version of aevb "
            f"reads {FORMAT}; use the version that wrote them, or train in a new folder"
        )
    if differing := differences(notes["structure"], structure(like)):
        raise UserError(
            f"{folder} holds checkpoints of another model or optimizer: {differing[0]} (1 of "
            f"{len(differing)} arrays that differ); give the data and the config that the run was "
            "begun with, or train in a new folder"
        )


def _set_aside(manager: "ocp.CheckpointManager", number: int) -> Path:
    """Moves a damaged checkpoint to another folder, for inspection, and returns its new path."""
    folder = Path(manager.directory)
    aside = folder.parent / DAMAGED / str(number)
    aside.parent.mkdir(exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    (folder / str(number)).replace(aside)
    manager.reload()
    return aside
