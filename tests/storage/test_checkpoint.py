"""Checkpoints: a restored state equals the saved one, or the damage is reported."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import python

from aevb.algorithms.base import TrainState
from aevb.errors import UserError
from aevb.runtime import checksums
from aevb.storage import checkpoint


def state_at(step: int, shift: float = 0.0) -> TrainState:
    """Returns a state with every kind of leaf that an algorithm keeps."""
    normal = jax.random.normal(jax.random.key(step), (300, 20)) + shift
    return TrainState(
        step=jnp.int32(step),
        params={"encoder": {"kernel": normal}, "decoder": {"bias": normal[0]}},
        opt_state=(jnp.int32(step), {"sum_of_squares": normal**2}),
        extra=(),
    )


def assert_same(state: Any, other: Any) -> None:
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for leaf, same in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        assert leaf.dtype == same.dtype
        np.testing.assert_array_equal(leaf, same)


def save_all(folder: Path, bounds: dict[int, float | None]) -> None:
    manager = checkpoint.open_manager(folder)
    for step, bound in bounds.items():
        checkpoint.save(manager, step, state_at(step), seconds=float(step), valid_bound=bound)
    manager.close()


def restored_from(folder: Path) -> checkpoint.Restored | None:
    manager = checkpoint.open_manager(folder)
    restored = checkpoint.restore(manager, like=state_at(0))
    manager.close()
    return restored


def kept(folder: Path) -> set[int]:
    return {int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()}


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def flip_a_bit(folder: Path) -> None:
    """Flips a bit in the largest file below a folder, which holds arrays."""
    largest = max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_an_empty_folder_has_no_checkpoint_to_restore(tmp_path: Path):
    assert restored_from(tmp_path / "new") is None


@pytest.mark.parametrize("best", [1, 3, 5])
def test_a_folder_keeps_the_latest_two_checkpoints_and_the_best(best: int, tmp_path: Path):
    save_all(tmp_path, {step: -1.0 if step == best else -2.0 for step in range(1, 6)})
    assert kept(tmp_path) == {best, 4, 5}


def test_a_run_that_resumes_keeps_the_best_checkpoint_of_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bounds = {1: -1.0, 2: None, 3: -3.0, 4: -2.0, 5: None}
    for step, bound in bounds.items():  # each by a manager of its own
        save_all(tmp_path, {step: bound})
    assert kept(tmp_path) == {1, 4, 5}
    assert not caplog.records


def test_a_checkpoint_without_a_bound_is_not_taken_for_the_best(tmp_path: Path):
    save_all(tmp_path, {1: -5.0, 2: None, 3: -6.0, 4: None, 5: None})
    assert kept(tmp_path) == {1, 4, 5}


def test_a_damaged_checkpoint_is_named_skipped_and_set_aside(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    folder = tmp_path / "checkpoints"
    save_all(folder, {1: -1.0, 2: -2.0})
    flip_a_bit(folder / "2" / "state")
    restored = restored_from(folder)
    assert restored is not None
    assert_same(restored.state, state_at(1))
    assert kept(folder) == {1}
    assert kept(tmp_path / "damaged") == {2}
    told = capfd.readouterr().err
    assert "checkpoint of step 2 is damaged" in told
    assert f"set aside in {tmp_path / 'damaged' / '2'}" in told
    save_all(folder, {2: -2.0})  # the resumed run reaches this step again
    assert kept(folder) == {1, 2}


RECORDS = [{"examples": 100, "test_bound": -1.25}, {"examples": 200, "test_bound": 1e-17}]


def notes_of(folder: Path, step: int) -> Path:
    return folder / str(step) / "notes" / "metadata"


def test_a_checkpoint_restores_the_state_and_the_log(tmp_path: Path):
    manager = checkpoint.open_manager(tmp_path)
    about = {"config": {"model.hidden": (200,)}}
    checkpoint.save(manager, 1, state_at(1), seconds=0.1, records=RECORDS, about=about)
    restored = checkpoint.restore(manager, state_at(0))
    assert restored is not None
    assert_same(restored.state, state_at(1))
    assert restored.records == RECORDS
    assert restored.seconds == 0.1
    assert json.loads(notes_of(tmp_path, 1).read_text())["about"] == {
        "config": {"model.hidden": [200]}
    }


@pytest.mark.parametrize(
    ("old", "new"), [("-1.25", "-1.75"), ("0.1", "0.7"), ('"format": 4, ', "")]
)
def test_a_damaged_log_is_a_damaged_checkpoint(old: str, new: str, tmp_path: Path):
    manager = checkpoint.open_manager(tmp_path / "checkpoints")
    checkpoint.save(manager, 1, state_at(1), seconds=0.1, records=RECORDS)
    text = notes_of(tmp_path / "checkpoints", 1).read_text()
    assert text.count(old) == 1
    notes_of(tmp_path / "checkpoints", 1).write_text(text.replace(old, new))
    assert checkpoint.restore(manager, state_at(0)) is None


def test_a_checkpoint_of_another_version_is_refused_and_left_as_it_is(tmp_path: Path):
    save_all(tmp_path, {3: None})
    notes = json.loads(notes_of(tmp_path, 3).read_text())
    del notes["digest"]
    notes_of(tmp_path, 3).write_text(json.dumps(checksums.with_digest(notes | {"format": 9})))
    with pytest.raises(UserError, match="of format 9, and this version of aevb reads 4"):
        restored_from(tmp_path)
    assert kept(tmp_path) == {3}


def other_states() -> dict[str, TrainState]:
    """Returns states that a checkpoint of `state_at` does not fit."""
    state = state_at(3)
    kernel = state.params["encoder"]["kernel"]
    return {
        "fewer columns": state._replace(
            params={**state.params, "encoder": {"kernel": kernel[:200]}}
        ),
        "another dtype": state._replace(
            params={**state.params, "encoder": {"kernel": kernel.astype(jnp.bfloat16)}}
        ),
        "another optimizer": state._replace(opt_state=(jnp.int32(3), {"momentum": kernel})),
        "another layer": state._replace(
            params={**state.params, "decoder": {"bias": kernel[0], "scale": kernel[0]}}
        ),
    }


@pytest.mark.parametrize("only_read", [False, True])
@pytest.mark.parametrize("name", other_states())
def test_a_checkpoint_of_another_model_is_refused_in_one_line_and_left_as_it_is(
    name: str, only_read: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    folder = tmp_path / "checkpoints"
    save_all(folder, {1: -1.0, 2: -2.0})
    before = contents_of(tmp_path)
    manager = checkpoint.open_reader(folder)
    with pytest.raises(UserError, match="holds checkpoints of another model") as refusal:
        checkpoint.restore(manager, other_states()[name], only_read=only_read)
    manager.close()
    assert "\n" not in str(refusal.value)
    assert "there" in str(refusal.value)
    assert "here" in str(refusal.value)
    assert capfd.readouterr().err == ""
    assert contents_of(tmp_path) == before


def test_a_checkpoint_in_the_folder_of_another_step_is_not_restored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    folder = tmp_path / "checkpoints"
    save_all(folder, {1: None, 2: None})
    shutil.rmtree(folder / "2")
    shutil.copytree(folder / "1", folder / "2")
    restored = restored_from(folder)
    assert restored is not None
    assert_same(restored.state, state_at(1))
    assert "step 2 is damaged (it is the one of step 1)" in capfd.readouterr().err


def test_nothing_is_restored_if_all_checkpoints_are_damaged(tmp_path: Path):
    save_all(tmp_path, {1: -1.0, 2: -2.0})
    for step in (1, 2):
        flip_a_bit(tmp_path / str(step) / "state")
    assert restored_from(tmp_path) is None


def test_a_reader_restores_a_step_by_number_and_removes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    manager = checkpoint.open_manager(tmp_path, keep_all=True)
    for step in (1, 2, 3):
        checkpoint.save(manager, step, state_at(step), seconds=0.0)
    manager.close()
    assert kept(tmp_path) == {1, 2, 3}
    flip_a_bit(tmp_path / "2" / "state")
    reader = checkpoint.open_reader(tmp_path)
    like = jax.eval_shape(lambda: state_at(0))
    first = checkpoint.restore(reader, like, step=1, only_read=True)
    assert first is not None
    assert_same(first.state, state_at(1))
    assert checkpoint.restore(reader, like, step=2, only_read=True) is None
    assert "checkpoint of step 2 is damaged" in capfd.readouterr().err
    assert checkpoint.restore(reader, like, step=4, only_read=True) is None
    assert kept(tmp_path) == {1, 2, 3}


SAVE_ON_THE_SECOND_DEVICE = """
import sys
from pathlib import Path
import jax
sys.path += ["tests/storage", "tests/support"]
jax.config.update("jax_num_cpu_devices", 2)
from test_checkpoint import save_all
with jax.default_device(jax.devices()[1]):
    save_all(Path(sys.argv[1]), {7: -3.0})
"""


@pytest.mark.slow
def test_a_checkpoint_of_a_second_device_is_restored_on_a_machine_with_one(tmp_path: Path):
    """A sweep gives each run a device that the evaluating program may not have."""
    python("-c", SAVE_ON_THE_SECOND_DEVICE, tmp_path)
    reader = checkpoint.open_reader(tmp_path)
    restored = checkpoint.restore(reader, jax.eval_shape(lambda: state_at(0)), only_read=True)
    assert restored is not None  # its digest is that of the saved state
    assert restored.state.step == 7


def test_saving_the_same_step_twice_keeps_the_first_checkpoint(tmp_path: Path):
    manager = checkpoint.open_manager(tmp_path)
    checkpoint.save(manager, 1, state_at(1), seconds=1.0)
    checkpoint.save(manager, 1, state_at(1, shift=1.0), seconds=2.0)
    restored = checkpoint.restore(manager, like=state_at(0))
    assert restored is not None
    assert_same(restored.state, state_at(1))


def test_the_digest_depends_on_the_path_type_and_bits_of_every_leaf():
    state = state_at(1)
    kernel = state.params["encoder"]["kernel"]
    last_bit = kernel.at[2, 1].set(np.nextafter(kernel[2, 1], np.float32(9.0)))
    others = [
        state._replace(step=jnp.int32(2)),
        state._replace(step=jnp.uint32(1)),
        state._replace(params=state.params | {"encoder": {"kernel": last_bit}}),
        state._replace(params=state.params | {"encoder": {"kernel": kernel.reshape(20, 300)}}),
        state._replace(params=state.params | {"encoder": {"weights": kernel}}),
        state._replace(params={}, extra=state.params),
    ]
    digests = {checkpoint.digest(other) for other in [state, *others]}
    assert len(digests) == 1 + len(others)
    assert checkpoint.digest(state_at(1)) == checkpoint.digest(state)
