"""A run on several devices or processes equals the run on one, up to rounding of its sums.

The optimizer is plain gradient ascent. Under the paper's Adagrad, the first steps move each weight
by the whole step size for any gradient, so that rounding errors grow until two runs differ.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import ON_THE_CPU, ROOT, run_python

from aevb.errors import UserError
from aevb.runtime import distributed

FLAGS = (
    "--config=experiments/frey_faces.py",
    "--config.optimizer.name=sgd",
    "--config.optimizer.step_size=0.0001",
    "--config.model.hidden=(20,)",
    "--config.train.batch_size=80",
    "--config.train.num_examples=8000",
    "--config.train.first_eval=1000",
    "--config.train.eval_examples=200",
)
# The rounding error of sums of 560 pixels by 80 datapoints in another order, in a hundred steps.
TOLERANCE = 1e-4


def devices(number: int) -> dict[str, str]:
    """Returns the environment variables that give jax this number of devices."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={number}"}


def start(*flags: str, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "experiments/run.py", *FLAGS, *flags],
        cwd=ROOT,
        env={**os.environ, **ON_THE_CPU, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def begin(folder: Path, number: int, *flags: str, each: int = 1) -> list[subprocess.Popen[str]]:
    """Starts a run with this number of processes, each with `each` devices."""
    port = free_port()
    return [
        start(
            f"--workdir={folder}", f"--coordinator=127.0.0.1:{port}",
            f"--num_processes={number}", f"--process_id={process}", *flags, env=devices(each),
        )
        for process in range(number)
    ]  # fmt: skip


def together(folder: Path, number: int, *flags: str, each: int = 1) -> list[tuple[int, str, str]]:
    """Runs `begin` to the end; returns each process's status, stdout and stderr."""
    processes = begin(folder, number, *flags, each=each)
    said = [process.communicate(timeout=280) for process in processes]
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]


def alone(folder: Path, number: int, *flags: str) -> str:
    """Runs one process with this number of devices, and returns its output."""
    process = start(f"--workdir={folder}", *flags, env=devices(number))
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return out


def bounds(folder: Path) -> np.ndarray:
    """Returns the bounds during training and at its end."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    return np.array([[line["train_bound"], line["test_bound"]] for line in [*lines, summary]])


@pytest.fixture(scope="module")
def on_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    alone(folder, 1)
    return folder


@pytest.mark.slow
def test_on_8_devices_the_bounds_are_those_of_one(on_one: Path, tmp_path: Path):
    alone(tmp_path / "run", 8)
    np.testing.assert_allclose(bounds(tmp_path / "run"), bounds(on_one), rtol=TOLERANCE)


@pytest.mark.slow
def test_two_processes_do_it_together_and_the_first_alone_speaks(on_one: Path, tmp_path: Path):
    first, second = together(tmp_path / "run", 2)
    assert (first[0], second[0]) == (0, 0), (first, second)
    np.testing.assert_allclose(bounds(tmp_path / "run"), bounds(on_one), rtol=TOLERANCE)
    assert "train  " in first[1]
    assert "train  " not in second[1]
    assert "examples/s" not in second[2]
    (again, said, _), (_, nothing, _) = together(tmp_path / "run", 2)  # already finished
    assert again == 0
    assert "train  " in said
    assert "train  " not in nothing


@pytest.mark.slow
def test_a_layout_repeats_itself_bitwise(tmp_path: Path):
    for name in ("once", "twice"):
        together(tmp_path / name, 2, each=2)
    np.testing.assert_array_equal(bounds(tmp_path / "once"), bounds(tmp_path / "twice"))


@pytest.mark.slow
def test_four_processes_have_the_bounds_of_one(on_one: Path, tmp_path: Path):
    for status, _, err in together(tmp_path / "run", 4):
        assert status == 0, err
    np.testing.assert_allclose(bounds(tmp_path / "run"), bounds(on_one), rtol=TOLERANCE)


STOPPED = """
import sys
from aevb.training import loop, trainer
from aevb.runtime.signals import Signals

class Impatient(Signals):
    def __enter__(self):
        super().__enter__()
        self.stop()  # at the first pause
        return self

trainer.Signals = Impatient
sys.argv[0] = "experiments/run.py"
sys.path.insert(0, "experiments")
import run
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8), (8, 2)])
def test_a_checkpoint_goes_on_with_another_number_of_devices(
    before: int, after: int, on_one: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    env = {**devices(before), "PYTHONPATH": str(ROOT)}
    stopped = run_python("-c", STOPPED, *FLAGS, f"--workdir={folder}", env=env)
    assert "and saved at" in stopped.stderr
    assert "resuming from the checkpoint" in alone(folder, after)
    np.testing.assert_allclose(bounds(folder), bounds(on_one), rtol=TOLERANCE)


@pytest.mark.slow
def test_a_checkpoint_of_four_processes_goes_on_with_one_and_with_eight_devices(
    on_one: Path, tmp_path: Path
):
    for number in (1, 8):
        folder = tmp_path / f"{number}"
        together(folder, 4)
        for file in ("summary.json", "metrics.jsonl"):
            (folder / file).unlink()
        newest, *_ = sorted((folder / "checkpoints").glob("[0-9]*"), key=lambda p: -int(p.name))
        for file in sorted(newest.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        newest.rmdir()
        assert "resuming from the checkpoint" in alone(folder, number)
        np.testing.assert_allclose(bounds(folder), bounds(on_one), rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_where_one_of_four_is_killed_the_others_say_so_and_the_run_goes_on_bitwise(
    victim: int, tmp_path: Path
):
    together(tmp_path / "whole", 4)
    folder = tmp_path / "killed"
    processes = begin(folder, 4)
    while not list((folder / "checkpoints").glob("[0-9]*")):
        time.sleep(0.05)
        assert all(process.poll() is None for process in processes)
    processes[victim].kill()
    ended = [process.communicate(timeout=60) for process in processes]
    statuses = {process.returncode for process in processes} - {-signal.SIGKILL}
    # If process 0 is killed, jax may abort another process before it writes the line below.
    assert statuses <= {distributed.LOST, *([-signal.SIGABRT] if victim == 0 else [])}
    said = [err.splitlines()[-1] for _, err in ended if "error: another process of this run" in err]
    assert said
    assert all(line.startswith("error: another process of this run has ended") for line in said)
    assert not any("Traceback" in err for _, err in ended)
    for status, _, err in together(folder, 4):
        assert status == 0, err
    np.testing.assert_array_equal(bounds(folder), bounds(tmp_path / "whole"))


@pytest.mark.slow
def test_where_one_of_two_is_frozen_jax_ends_the_other(tmp_path: Path):
    """A frozen process closes no connection, so that only the heartbeat can detect it."""
    folder = tmp_path / "frozen"
    frozen, other = begin(folder, 2)
    while not list((folder / "checkpoints").glob("[0-9]*")):
        time.sleep(0.05)
    frozen.send_signal(signal.SIGSTOP)
    try:
        assert other.wait(timeout=12 * distributed.HEARTBEAT_SECONDS) != 0
    finally:
        frozen.kill()
        other.kill()
        frozen.communicate()
        other.communicate()


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


@pytest.mark.slow
def test_data_on_disk_are_read_by_each_process_for_itself(tmp_path: Path):
    """The bounds equal those of data in memory, bitwise, if the devices are arranged equally."""
    stream = ("--config.data.access=stream", f"--config.data.dir={tmp_path / 'data'}")
    together(tmp_path / "in memory", 2, each=2)
    for status, _, err in together(tmp_path / "on disk", 2, *stream, each=2):
        assert status == 0, err
    np.testing.assert_array_equal(bounds(tmp_path / "on disk"), bounds(tmp_path / "in memory"))


OWN_PART = """
import os, sys
import jax, numpy as np
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
"""


@pytest.mark.slow
def test_each_process_has_its_own_part_of_every_minibatch():
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OWN_PART, address, str(number)],
            cwd=ROOT,
            env={**os.environ, **ON_THE_CPU, **devices(2), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [out for out, _ in said] == ["0 4 (3, 8)\n", "4 8 (3, 8)\n"], said


# Error messages


@pytest.mark.slow
def test_a_minibatch_that_the_devices_of_all_processes_cannot_share_is_refused(tmp_path: Path):
    found = together(tmp_path / "run", 2, "--config.train.batch_size=81")
    assert [status for status, _, _ in found] == [2, 2]
    for _, _, err in found:
        assert "config.train.batch_size is 81; 2 devices of 2 processes" in err
        assert "Traceback" not in err


@pytest.mark.slow
def test_a_refusal_of_the_first_process_is_everyones(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    (first, _, says), (second, _, also) = together(tmp_path / "run", 2)
    assert (first, second) == (2, 2)
    assert "holds files but no config.json" in says
    assert "process 0 has stopped" in also


def test_a_process_alone_is_the_first_and_its_device_has_all():
    place: Any = distributed.place_for(100)
    assert place.platform == "cpu"
    assert distributed.broadcast_number(7) == distributed.largest(7) == 7
    with pytest.raises(UserError, match="no"), distributed.stopping_together():
        raise UserError("no")


def test_as_many_devices_share_a_minibatch_as_divide_it():
    program = (
        "from aevb.runtime import distributed\n"
        "for size, most in ((80, 0), (100, 0), (7, 0), (80, 3), (11, 0), (6, 0)):\n"
        "    place = distributed.place_for(size, most)\n"
        "    print(place.num_devices if hasattr(place, 'num_devices') else 1)\n"
    )
    done = run_python("-c", program, env={**devices(8), "PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == ["8", "5", "7", "2", "1", "6"], done.stderr
