"""The model of a step's cost: counts of the network, and the limiting parts."""

import json
import math
from pathlib import Path

import jax
import pytest
from programs import ROOT, run_python

from aevb.config import default_config, validate, with_values
from aevb.experiment import build
from docs.tools import scaling as tables

BENCHMARKS = ROOT / "experiments" / "benchmarks"


def test_the_number_of_parameters_in_the_scaling_model_is_that_of_the_model():
    values = {
        "model.hidden": (7,), "model.num_latents": 3, "model.likelihood": "gaussian",
        "data.name": "synthetic", "data.synthetic_num_dims": 5,
    }  # fmt: skip
    _, vae, _ = build(validate(with_values(default_config(), values)))
    params = jax.eval_shape(vae.init, jax.random.key(0))
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    head = 7 * 5 + 5  # the second head of a Gaussian, which MNIST's likelihood does not have
    assert tables.Network(5, 7, 3).num_params == found - head


def test_the_predicted_time_of_a_step_is_the_sum_of_the_parts_that_cannot_overlap():
    network = tables.Network(2, 3, 1)
    machine = tables.Machine(
        flops=1e3, memory=1e9, launch=0.5, inner_link=1e2, outer_link=1e1, hop=0.25,
        devices_per_host=2, records=10.0,
    )  # fmt: skip
    alone = tables.step(network, machine, 1, 4, on_disk=False)
    assert alone.all_reduce == 0.0
    weights = 3 * (2 * 2 + 3)
    assert alone.compute == pytest.approx(4 * 2 * (3 * weights - 6) / 1e3)
    assert alone.seconds == pytest.approx(0.5 + alone.compute)
    assert alone.limit == "launch"
    inside = tables.step(network, machine, 2, 4, on_disk=False)
    assert inside.all_reduce == pytest.approx(4 * network.num_params / 1e2 + 2 * 0.25)
    outside = tables.step(network, machine, 4, 4, on_disk=False)
    assert outside.all_reduce == pytest.approx(1.5 * 4 * network.num_params / 1e1 + 4 * 0.25)
    read = tables.step(network, machine, 4, 1000, on_disk=True)
    assert read.seconds == read.input == pytest.approx(4000 / (2 * 10.0))
    assert read.limit == "reading"


def test_the_fit_of_step_times_finds_a_known_line():
    rows = [
        {"devices": devices, "batch_size": size, "seconds_a_step": 3e-4 + devices * 2e-5 * size}
        for devices in (1, 2)
        for size in (50, 100, 800)
    ]
    constant, each = tables.fit(rows)
    assert constant == pytest.approx(3e-4)
    assert each == pytest.approx(2e-5)


def test_no_network_is_faster_on_more_devices_than_their_number_allows():
    for each in (100, 10_000):
        one = tables.step(tables.MNIST, tables.ACCELERATOR, 1, each, on_disk=False)
        many = tables.step(tables.MNIST, tables.ACCELERATOR, 1000, each, on_disk=False)
        assert many.seconds > one.seconds
        assert math.isfinite(many.seconds)


@pytest.mark.slow
def test_the_benchmarks_behind_the_tables_run(tmp_path: Path):
    data = tmp_path / "data" / "binarized_mnist"
    data.mkdir(parents=True)
    output = tmp_path / "scaling.json"
    done = run_python(
        BENCHMARKS / "scaling_speed.py", f"--data-dir={tmp_path / 'data'}", "--rounds=1",
        "--devices=1,2", f"--output={output}", env={"TFDS_DATA_DIR": str(tmp_path / "prepared")},
    )  # fmt: skip
    assert done.returncode != 0  # no data, neither in the package nor prepared
    assert not output.exists()
    small = BENCHMARKS / "streaming_speed.py"
    folder = tmp_path / "records"
    program = (
        "import sys; sys.path.insert(0, 'experiments/benchmarks')\n"
        "from pathlib import Path\n"
        "from aevb.data.io import array_records\n"
        "import streaming_speed\n"
        f"array_records.write(Path({str(folder)!r}), streaming_speed.made(3000))\n"
    )
    assert run_python("-c", program, env={"PYTHONPATH": str(ROOT)}).returncode == 0
    done = run_python(small, f"--train-on={folder}", "--limit-gib=2")
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout.splitlines()[-1])["resident_mib"]
    assert len(held) == 10
    assert 50 < held[-1] < 2048
