"""A run on several devices or processes equals the run on one, up to rounding of its sums.

The optimizer is plain gradient ascent. Under the paper's Adagrad, the first steps move each weight
by the whole step size for any gradient, so that rounding errors grow until two runs differ.
"""

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from programs import ROOT, Done, ended, run_python, start_python, wait_for

from aevb.errors import UserError
from aevb.runtime import distributed

RUN = (
    "experiments/run.py",
    "--config=experiments/figure_4_frey.py",
    "--config.optimizer.name=sgd",
    "--config.optimizer.step_size=0.0001",
    "--config.model.hidden=(20,)",
    "--config.train.batch_size=96",
    "--config.train.num_examples=9600",
    "--config.train.first_eval=960",
    "--config.train.eval_examples=200",
)
# The rounding error of sums of 560 pixels by 96 datapoints in another order, in a hundred steps.
TOLERANCE = 1e-4


class Layout(NamedTuple):
    """The number of processes, and of devices in each."""

    processes: int
    devices: int


ONE, EIGHT = Layout(1, 1), Layout(1, 8)
TWO_PROCESSES, THREE_PROCESSES = Layout(2, 2), Layout(3, 1)


def devices(number: int) -> dict[str, str]:
    """Returns the environment variables that give jax this number of devices."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={number}"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def begin(folder: Path, layout: Layout, *flags: str) -> list[subprocess.Popen[str]]:
    """Starts all processes of a run."""
    many = (f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={layout.processes}")
    return [
        start_python(
            *RUN, f"--workdir={folder}", *flags,
            *((*many, f"--process_id={process}") if layout.processes > 1 else ()),
            env=devices(layout.devices),
        )
        for process in range(layout.processes)
    ]  # fmt: skip


def run(folder: Path, layout: Layout, *flags: str) -> list[Done]:
    """Runs all processes and checks that they succeed."""
    done = [ended(process) for process in begin(folder, layout, *flags)]
    assert not any(process.returncode for process in done), done
    return done


def wait_for_a_checkpoint(folder: Path, processes: list[subprocess.Popen[str]]) -> None:
    wait_for(lambda: list((folder / "checkpoints").glob("[0-9]*")), *processes)


def bounds(folder: Path) -> np.ndarray:
    """Returns the bounds during training and at its end."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    return np.array([[line["train_bound"], line["valid_bound"]] for line in [*lines, summary]])


class Finished(NamedTuple):
    """A run that was not interrupted."""

    folder: Path
    processes: list[Done]


Of = Callable[[Layout], Finished]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Of:
    """Returns a function that runs each layout once."""

    @cache
    def of(layout: Layout) -> Finished:
        folder = tmp_path_factory.mktemp("finished") / "run"
        return Finished(folder, run(folder, layout))

    return of


@pytest.mark.slow
@pytest.mark.parametrize("layout", [EIGHT, TWO_PROCESSES, THREE_PROCESSES], ids=str)
def test_a_run_has_the_bounds_of_a_run_on_one_device(layout: Layout, finished: Of):
    np.testing.assert_allclose(
        bounds(finished(layout).folder), bounds(finished(ONE).folder), rtol=TOLERANCE
    )


@pytest.mark.slow
def test_only_process_0_prints_the_results_of_a_new_or_finished_run(finished: Of):
    folder, processes = finished(TWO_PROCESSES)
    for first, second in (processes, run(folder, TWO_PROCESSES)):
        assert "train  " in first.stdout
        assert "train  " not in second.stdout
        assert "examples/s" not in second.stderr


@pytest.mark.slow
def test_a_distributed_run_is_bitwise_the_same_with_data_on_disk_or_in_memory(
    finished: Of, tmp_path: Path
):
    stream = ("--config.data.access=stream", f"--config.data.dir={tmp_path / 'data'}")
    run(tmp_path / "run", TWO_PROCESSES, *stream)
    np.testing.assert_array_equal(bounds(tmp_path / "run"), bounds(finished(TWO_PROCESSES).folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [(EIGHT, ONE), (ONE, EIGHT), (THREE_PROCESSES, ONE), (THREE_PROCESSES, EIGHT)],
    ids=str,
)
def test_a_run_resumes_with_another_number_of_devices_or_processes(
    before: Layout, after: Layout, finished: Of, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(finished(before).folder, folder)
    for file in ("summary.json", "metrics.jsonl"):
        (folder / file).unlink()
    checkpoints = (folder / "checkpoints").glob("[0-9]*")
    shutil.rmtree(max(checkpoints, key=lambda path: int(path.name)))
    (done,) = run(folder, after)
    assert "resuming from the checkpoint" in done.stdout
    np.testing.assert_allclose(bounds(folder), bounds(finished(ONE).folder), rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "layout"), [(0, TWO_PROCESSES), (2, THREE_PROCESSES)], ids=str)
def test_the_other_processes_report_a_killed_one_and_the_run_resumes_bitwise(
    victim: int, layout: Layout, finished: Of, tmp_path: Path
):
    folder = tmp_path / "run"
    processes = begin(folder, layout)
    wait_for_a_checkpoint(folder, processes)
    processes[victim].kill()
    done = [ended(process) for process in processes]
    statuses = {process.returncode for process in done} - {-signal.SIGKILL}
    # If process 0 is killed, jax may abort another process before it writes the line below.
    assert statuses <= {distributed.LOST, *([-signal.SIGABRT] if victim == 0 else [])}
    for status, _, err in done:
        if status == distributed.LOST:
            assert err.splitlines()[-1].startswith("error: another process of this run has ended")
    assert not any("Traceback" in process.stderr for process in done)
    run(folder, layout)
    np.testing.assert_array_equal(bounds(folder), bounds(finished(layout).folder))


@pytest.mark.slow
def test_jax_ends_the_processes_of_a_run_if_one_is_frozen(tmp_path: Path):
    """A frozen process closes no connection, so that only the heartbeat can detect it."""
    frozen, other = both = begin(tmp_path / "run", TWO_PROCESSES)
    wait_for_a_checkpoint(tmp_path / "run", both)
    frozen.send_signal(signal.SIGSTOP)
    try:
        assert other.wait(timeout=12 * distributed.HEARTBEAT_SECONDS) != 0
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_gradients_are_added_once_a_step():
    """There is one all-reduce, and each device computes only its part of the minibatch."""
    program = r"""
import re
import jax, jax.numpy as jnp
from aevb.training import loop, streaming
from aevb.runtime import distributed
from aevb.config import default_config, validate, with_values
from aevb.experiment import build
values = {"model.hidden": (20,), "optimizer.name": "sgd", "optimizer.step_size": 1e-4}
dataset, _, algorithm = build(validate(with_values(default_config(), values)))
place = distributed.place_for(100)
program = streaming.make_program(
    algorithm, dataset, batch_size=100, split=distributed.split(place)
)
data = streaming.on_device(dataset.train, place)
state = loop.first_state(algorithm.init, jax.random.key(0))
keys, state = distributed.place((loop.run_keys(jax.random.key(0)).loop, state), place)
text = program.compile(keys, data, state).as_text()
print(len(place.mesh.devices), text.count(" all-reduce("), text.count(" all-gather("))
print(max(int(rows) for rows in re.findall(r"f32\[(\d+),560\]\S* dot", text) if rows != "20"))
"""
    found = run_python("-c", program, env={**devices(4), "PYTHONPATH": str(ROOT)})
    assert found.stdout.split() == ["4", "1", "0", "25"], found.stderr


OWN_PART = """
import os, sys
import jax, numpy as np
from aevb.errors import UserError
from aevb.runtime import distributed
distributed.join(sys.argv[1], 2, int(sys.argv[2]))
place = distributed.place_for(8)
part = distributed.own_part(8, place)
whole = np.arange(24).reshape(3, 8)  # three minibatches
placed = distributed.place_parts(whole[:, part], 8, place)
np.testing.assert_array_equal(jax.jit(lambda x: x.sum(0))(placed).addressable_shards[0].data,
                              whole.sum(0)[placed.addressable_shards[0].index[1]])
for shard in placed.addressable_shards:
    np.testing.assert_array_equal(shard.data, whole[shard.index])
print(part.start, part.stop, placed.shape)
try:
    distributed.place_for(81)
except UserError as error:
    print(error, file=sys.stderr)
"""


@pytest.mark.slow
def test_each_process_has_its_own_part_of_a_minibatch_which_all_devices_must_divide():
    address = f"127.0.0.1:{free_port()}"
    env = {**devices(2), "PYTHONPATH": str(ROOT)}
    both = [start_python("-c", OWN_PART, address, process, env=env) for process in range(2)]
    done = [ended(process) for process in both]
    assert [process.stdout for process in done] == ["0 4 (3, 8)\n", "4 8 (3, 8)\n"], done
    told = "config.train.batch_size is 81; 4 devices of 2 processes"
    assert all(told in process.stderr for process in done)


@pytest.mark.slow
def test_a_refusal_by_process_0_ends_all_processes(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    first, second = map(ended, begin(tmp_path / "run", TWO_PROCESSES))
    assert (first.returncode, second.returncode) == (2, 2)
    assert "holds files but no config.json" in first.stderr
    assert "process 0 has stopped" in second.stderr


def test_a_single_process_is_process_0_with_the_whole_minibatch():
    place: Any = distributed.place_for(100)
    assert place.platform == "cpu"
    assert distributed.broadcast_number(7) == distributed.largest(7) == 7
    with pytest.raises(UserError, match="no"), distributed.stopping_together():
        raise UserError("no")


def test_a_minibatch_is_split_over_the_largest_number_of_devices_that_divides_it():
    program = (
        "from aevb.runtime import distributed\n"
        "for size, most in ((80, 0), (100, 0), (7, 0), (80, 3), (11, 0), (6, 0)):\n"
        "    place = distributed.place_for(size, most)\n"
        "    print(place.num_devices if hasattr(place, 'num_devices') else 1)\n"
    )
    done = run_python("-c", program, env={**devices(8), "PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == ["8", "5", "7", "2", "1", "6"], done.stderr
