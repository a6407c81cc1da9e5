"""Training on data on disk has the same minibatches and parameters as training in memory."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from recorder import recorder

from aevb import data, experiment, runs
from aevb.algorithms.base import TrainState
from aevb.config import default_config, validate, with_values
from aevb.data import Dataset, Options
from aevb.data.io import array_records
from aevb.data.io.array_records import Records
from aevb.training import loop, streaming

N, M, D = 47, 5, 3  # 9 minibatches per epoch; 2 datapoints are left over
NUM_STEPS = 40
DATA = np.arange(N * D, dtype=np.uint8).reshape(N, D)


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    """Writes shards of 20 datapoints, which are read 4 minibatches at a time."""
    monkeypatch.setattr(array_records, "SHARD_BYTES", 20 * D)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 4 * M * D)
    return array_records.write(tmp_path / "records", [DATA])


def dataset(train: Any) -> Dataset:
    """Returns a dataset whose preprocessing records its key."""

    def preprocess(key: jax.Array, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32) + jax.random.uniform(key)

    return Dataset("numbers", train, DATA, "real", preprocess, None, None)


def trained(train: Any, stops: tuple[int, ...], *, seed: int = 0, program: Any = None):
    """Returns the recorded data, the last order, and the metrics of each stretch."""
    algorithm, data = recorder(NUM_STEPS, M, D), streaming.on_device(train)
    program = program or streaming.make_program(algorithm, dataset(train), batch_size=M)
    keys = loop.run_keys(jax.random.key(seed)).loop
    state = algorithm.init(jax.random.key(0))
    advance = program.compile(keys, data, state)
    order, noises = loop.no_order(keys, data), []
    for stop in stops:
        state, order, means = advance(keys, data, state, order, jnp.int32(stop))
        noises.append(float(means["noise"]))
    return jax.tree.map(np.asarray, state.extra), np.asarray(order.indices), noises


@pytest.mark.parametrize(
    "stops",
    slow_but([(3, 8, 10, 31, 40)], [(3, 8, 10, 31, 40), (4, 9, 18, 40)]),
)
def test_every_step_from_disk_has_the_minibatch_of_training_in_memory(
    on_disk: Records, stops: tuple[int, ...]
):
    expected, order, noises = trained(DATA, stops)
    found, its_order, its_noises = trained(on_disk, stops)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(its_order, order)
    np.testing.assert_allclose(its_noises, noises, rtol=1e-6)


def test_streamed_runs_that_share_a_program_have_their_own_orders(on_disk: Records):
    program = streaming.make_program(recorder(NUM_STEPS, M, D), dataset(on_disk), batch_size=M)
    for seed in (0, 1, 0):
        found, _, _ = trained(on_disk, (40,), seed=seed, program=program)
        expected, _, _ = trained(DATA, (40,), seed=seed)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("stop", slow_but([9], [9, 17]))
def test_a_streamed_run_resumes_from_any_step(on_disk: Records, stop: int):
    algorithm, data = recorder(NUM_STEPS, M, D), streaming.on_device(on_disk)
    keys = loop.run_keys(jax.random.key(0)).loop

    def go(state: TrainState, stop: int) -> TrainState:
        program = streaming.make_program(algorithm, dataset(on_disk), batch_size=M)
        advance = program.compile(keys, data, state)
        return loop.train_to(advance, keys, data, state, stop)[0]

    begun = go(algorithm.init(jax.random.key(0)), stop)
    resumed = go(begun, NUM_STEPS)
    whole = go(algorithm.init(jax.random.key(0)), NUM_STEPS)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_pauses_do_not_read_a_block_from_disk_again(
    on_disk: Records, monkeypatch: pytest.MonkeyPatch
):
    """An epoch of 45 datapoints has three blocks, for any number of pauses within it."""
    read: list[int] = []
    get = Records.__getitem__

    def counting(self: Records, index: Any) -> np.ndarray:
        if self is on_disk:  # ignores read-ahead by an earlier test
            read.extend(np.asarray(index).tolist())
        return get(self, index)

    monkeypatch.setattr(Records, "__getitem__", counting)
    trained(on_disk, tuple(range(1, 10)))
    first_epoch = read[:45]
    assert len(set(first_epoch)) == 45


# Whole runs


def config(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "model.hidden": (8,), "train.num_examples": 5000, "train.first_eval": 1000,
        "train.eval_examples": 100, "data.dir": str(tmp_path / "data"), **changes,
    }  # fmt: skip
    return dict(validate(with_values(default_config(), values)))


@pytest.mark.slow
def test_a_run_from_disk_has_the_results_of_a_run_from_memory(tmp_path: Path):
    summaries = [
        runs.run(config(tmp_path, **{"data.access": access}), tmp_path / access)
        for access in ("memory", "stream")
    ]
    in_memory, streamed = (
        {name: value for name, value in summary.items() if "bound" in name} for summary in summaries
    )
    assert in_memory == pytest.approx(streamed, rel=1e-6)
    assert list((tmp_path / "data" / "aevb_records").iterdir())
    logs = [
        [
            json.loads(line)
            for line in (tmp_path / access / "metrics.jsonl").read_text().splitlines()
        ]
        for access in ("memory", "stream")
    ]
    assert [line["examples"] for line in logs[0]] == [line["examples"] for line in logs[1]]


def test_the_data_are_streamed_once_they_exceed_the_share_of_memory(tmp_path: Path):
    for share, kind in ((0.25, np.ndarray), (0.0, Records)):
        loaded = experiment.load(config(tmp_path, **{"data.memory_share": share}))
        assert isinstance(loaded.train, kind)
    by_hand = data.on_disk(data.load("frey_faces"), Options(dir=str(tmp_path / "data")))
    np.testing.assert_array_equal(by_hand.train[:], data.load("frey_faces").train)


@pytest.mark.slow
def test_a_nonfinite_step_is_detected_in_data_on_disk(tmp_path: Path):
    from aevb.errors import UserError

    values = config(tmp_path, **{"data.access": "stream", "optimizer.step_size": 1e20})
    with pytest.raises(UserError, match=r"at step 2 .* on the minibatch of datapoints"):
        runs.run(values, tmp_path / "run")
