"""Compares training on data that stay on disk with training on the same data in memory.

    python experiments/benchmarks/streaming_speed.py --data-dir=DATA

Speed: both ways take turns in one process, on the paper's models of Frey faces and MNIST; a ratio
compares the two halves of one round. Memory: a process whose memory is limited to --limit-gib
trains on --gigabytes of generated records of MNIST's size, and reports its memory during the epoch.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import jax
import numpy as np
from aevb_worker import config_of
from worker import SIZES, memory_kib, num_cores, timed

from aevb.config import default_config, validate, with_values
from aevb.data import Dataset
from aevb.data.io import array_records
from aevb.data.io.array_records import Records
from aevb.experiment import build
from aevb.training import loop, streaming

ACCESS = ("memory", "stream")
EPOCHS = {"frey": 400, "mnist": 6}  # per round; long enough that read-ahead data hardly count
PIXELS, CHUNK = 784, 50_000  # of the generated records: bytes of each, and records per chunk
LEVELS = 10  # parts of the epoch; the memory is read after each


class Trainer:
    """Training with one way to read the data, one or more epochs at a time."""

    def __init__(self, data: str, access: str, num_epochs: int, data_dir: Path, prepared: Path):
        args = argparse.Namespace(
            data=data, data_dir=data_dir, latent_dim=20 if data == "mnist" else 2,
            batch_size=100, step_size=0.02,
        )  # fmt: skip
        values = {**config_of(args), "data.access": access, "data.dir": str(prepared)}
        dataset, _, algorithm = build(values)
        program = streaming.make_program(algorithm, dataset, batch_size=args.batch_size)
        self.name = access
        self.num_steps = num_epochs * (SIZES[data].num_train // args.batch_size)
        self.batch_size = args.batch_size
        self.data = streaming.on_device(dataset.train)
        self.keys = loop.run_keys(jax.random.key(0)).loop
        self.state = algorithm.init(jax.random.key(0))
        self.advance = program.compile(self.keys, self.data, self.state)

    def train(self) -> dict[str, float]:
        def steps() -> None:
            stop = int(self.state.step) + self.num_steps
            self.state, means = loop.train_to(self.advance, self.keys, self.data, self.state, stop)
            float(means["objective"])  # waits for the device

        _, times = timed(steps)
        return {
            "examples_per_second": self.num_steps * self.batch_size / times["seconds"],
            "cpu_per_wall": times["cpu_seconds"] / times["seconds"],
        }


def speeds(data: str, num_epochs: int, data_dir: Path, rounds: int) -> dict[str, Any]:
    """Returns medians over rounds, and the largest difference between the final parameters."""
    with tempfile.TemporaryDirectory() as prepared:
        trainers = [
            Trainer(data, access, num_epochs, data_dir, Path(prepared)) for access in ACCESS
        ]
        for trainer in trainers:
            trainer.train()  # a warm-up
        measured = harness.take_turns(trainers, rounds, lambda trainer, _: trainer.train())
        memory, stream = (trainer.state.params for trainer in trainers)
        gaps = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), memory, stream)
    rates = {
        access: [each["examples_per_second"] for each in all_rounds]
        for access, all_rounds in measured.items()
    }
    return {
        "ways": {
            access: {
                "examples_per_second": harness.summary(rates[access]),
                "cpu_per_wall": statistics.median(each["cpu_per_wall"] for each in all_rounds),
            }
            for access, all_rounds in measured.items()
        },
        "ratio": harness.ratios(rates["stream"], rates["memory"]),
        "largest_difference_of_a_parameter": max(jax.tree.leaves(gaps)),
    }


def made(num_records: int) -> Iterator[np.ndarray]:
    """Generates records [n, 784] of pixels that are 0 or 1, in chunks."""
    rng = np.random.default_rng(0)
    for first in range(0, num_records, CHUNK):
        chunk = rng.integers(0, 256, (min(CHUNK, num_records - first), PIXELS), np.uint8)
        yield (chunk < 40).astype(np.uint8)


def memory_in_a_small_process(gigabytes: float, limit_gib: float) -> dict[str, Any]:
    """Returns the memory of a process under a limit, at `LEVELS` points of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.2e9 * gigabytes:
            raise SystemExit(f"{folder} has room for {free / 1e9:.1f} GB, not for {gigabytes:g}")
        num_records = int(gigabytes * 1e9 / PIXELS)
        array_records.write(Path(folder) / "records", made(num_records))
        flags = [f"--train-on={folder}/records", f"--limit-gib={limit_gib:g}"]
        program = harness.command_of("streaming_speed.py", *flags)
        done = subprocess.run(program, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise SystemExit(f"the process of {limit_gib:g} GiB ended with {done.returncode}")
    return {
        "gigabytes": gigabytes,
        "records": num_records,
        "limit_gib": limit_gib,
        **json.loads(done.stdout.splitlines()[-1]),
    }


def train_on(folder: Path, limit_gib: float) -> dict[str, Any]:
    """Trains one epoch in this process, whose memory is limited from now on."""
    limit = int(limit_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    train = Records(folder)
    test = train[:100]
    dataset = Dataset(
        "made", train, test, "binary", lambda key, x: x.astype(np.float32), (28, 28), None
    )
    values = {"model.hidden": (500,), "model.num_latents": 20, "model.likelihood": "bernoulli"}
    _, _, algorithm = build(validate(with_values(default_config(), values)), dataset)
    program = streaming.make_program(algorithm, dataset, batch_size=100)
    data = streaming.on_device(train)
    keys = loop.run_keys(jax.random.key(0)).loop
    state = algorithm.init(jax.random.key(0))
    advance = program.compile(keys, data, state)
    num_steps, held = len(train) // 100, []

    def train_in_parts() -> None:
        nonlocal state
        for number in range(1, LEVELS + 1):
            state, _ = loop.train_to(advance, keys, data, state, number * num_steps // LEVELS)
            held.append(round(memory_kib("VmRSS") / 1024, 1))

    _, times = timed(train_in_parts)
    rate = 100 * num_steps / times["seconds"]
    return {"resident_mib": held, "examples_per_second": rate, "cores": num_cores()}


def main() -> None:
    parser = harness.argument_parser(__doc__, rounds=9, needs_data=False)
    parser.add_argument("--epochs-share", type=float, default=1.0, help="of a round, to be short")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--limit-gib", type=float, default=1.86, help="of the small process")
    parser.add_argument("--train-on", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train_on:
        print(json.dumps(train_on(args.train_on, args.limit_gib)))
        return
    if args.data_dir is None:
        parser.error("--data-dir is needed")
    load = harness.load_of_others()
    epochs = {data: max(1, round(args.epochs_share * number)) for data, number in EPOCHS.items()}
    found = {
        data: speeds(data, number, args.data_dir, args.rounds) for data, number in epochs.items()
    }
    small = memory_in_a_small_process(args.gigabytes, args.limit_gib)
    harness.write_report(
        args,
        load,
        rounds=args.rounds,
        epochs_per_round=epochs,
        data=found,
        small_process=small,
    )


if __name__ == "__main__":
    main()
