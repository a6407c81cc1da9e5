"""Compares training on data that stay on disk with training on the same data in memory.

    python experiments/benchmarks/streaming_speed.py --data-dir=DATA

Speed: both work in turn, in one process, on the paper's models of Frey faces and MNIST; a ratio
compares the two halves of one round. Memory: a process whose memory is limited to --limit-gib
trains on --gigabytes of generated records of MNIST's size, and reports its memory during the epoch.
"""

import argparse
import datetime
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from contender import in_turn, load_of_others, summary, write_report

RESULTS = Path(__file__).resolve().parent / "results"
ACCESS = ("memory", "stream")
EPOCHS = {"frey": 400, "mnist": 6}  # per round; long enough that read-ahead data hardly count
PIXELS, CHUNK = 784, 50_000  # of the generated records: bytes of each, and records per chunk
LEVELS = 10  # parts of the long stretch; the memory is read after each


class Trainer:
    """One way to read the data, an epoch or more at a time."""

    def __init__(self, data: str, access: str, num_epochs: int, data_dir: Path, prepared: Path):
        import jax
        from aevb_worker import config_of
        from worker import SIZES

        from aevb.experiment import build
        from aevb.training import loop, streaming

        args = argparse.Namespace(
            data=data, data_dir=data_dir, latent_dim=20 if data == "mnist" else 2,
            batch_size=100, step_size=0.02,
        )  # fmt: skip
        values = {**config_of(args), "data.access": access, "data.dir": str(prepared)}
        dataset, _, algorithm = build(values)
        program = streaming.make_program(algorithm, dataset, batch_size=args.batch_size)
        self.access = access
        self.num_steps = num_epochs * (SIZES[data].num_train // args.batch_size)
        self.batch_size = args.batch_size
        self.data = streaming.on_device(dataset.train)
        self.keys = loop.run_keys(jax.random.key(0)).loop
        self.state = algorithm.init(jax.random.key(0))
        self.advance = program.compile(self.keys, self.data, self.state)

    def train(self) -> dict[str, float]:
        from aevb.training import loop

        wall, cpu = time.perf_counter(), time.process_time()
        stop = int(self.state.step) + self.num_steps
        self.state, means = loop.train_to(self.advance, self.keys, self.data, self.state, stop)
        float(means["objective"])  # waits for the device
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        examples = self.num_steps * self.batch_size
        return {"examples_per_second": examples / wall, "cpu_per_wall": cpu / wall}


def speeds(data: str, num_epochs: int, data_dir: Path, rounds: int) -> dict[str, Any]:
    """Returns medians over rounds, and whether both ways end with the same parameters."""
    import jax

    with tempfile.TemporaryDirectory() as prepared:
        trainers = [
            Trainer(data, access, num_epochs, data_dir, Path(prepared)) for access in ACCESS
        ]
        for trainer in trainers:
            trainer.train()  # a warm-up
        measured: dict[str, list[dict[str, float]]] = {access: [] for access in ACCESS}
        for number in range(rounds):
            for trainer in in_turn(trainers, number):
                measured[trainer.access].append(trainer.train())
        memory, stream = (trainer.state.params for trainer in trainers)
        gaps = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), memory, stream)
    rates = {
        access: [each["examples_per_second"] for each in all_rounds]
        for access, all_rounds in measured.items()
    }
    ratios = [there / here for here, there in zip(*rates.values(), strict=True)]
    return {
        "ways": {
            access: {
                "examples_per_second": summary(rates[access]),
                "cpu_per_wall": statistics.median(each["cpu_per_wall"] for each in all_rounds),
            }
            for access, all_rounds in measured.items()
        },
        "ratio": summary(ratios),
        "largest_difference_of_a_parameter": max(jax.tree.leaves(gaps)),
    }


def made(num_records: int) -> Iterator[np.ndarray]:
    """Generates records [n, 784] of pixels that are 0 or 1, in chunks."""
    rng = np.random.default_rng(0)
    for first in range(0, num_records, CHUNK):
        chunk = rng.integers(0, 256, (min(CHUNK, num_records - first), PIXELS), np.uint8)
        yield (chunk < 40).astype(np.uint8)


def memory_in_a_small_process(gigabytes: float, limit_gib: float) -> dict[str, Any]:
    """Returns the memory of a process under a limit at each of `LEVELS` points of one epoch."""
    from aevb.data.io import array_records

    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.2e9 * gigabytes:
            raise SystemExit(f"{folder} has room for {free / 1e9:.1f} GB, not for {gigabytes:g}")
        num_records = int(gigabytes * 1e9 / PIXELS)
        array_records.write(Path(folder) / "records", made(num_records))
        program = [sys.executable, __file__, f"--train-on={folder}/records"]
        program.append(f"--limit-gib={limit_gib:g}")
        done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False)
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
    import jax
    from worker import num_cores

    from aevb.config import default_config, validate, with_values
    from aevb.data import Dataset
    from aevb.data.io.array_records import Records
    from aevb.experiment import build
    from aevb.training import loop, streaming

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
    began = time.perf_counter()
    for number in range(1, LEVELS + 1):
        stop = number * num_steps // LEVELS
        state, _ = loop.train_to(advance, keys, data, state, stop)
        held.append(round(resident_mib(), 1))
    rate = 100 * num_steps / (time.perf_counter() - began)
    return {"resident_mib": held, "examples_per_second": rate, "cores": num_cores()}


def resident_mib() -> float:
    """Returns the memory of this process now; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs-share", type=float, default=1.0, help="of a round, to be short")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--limit-gib", type=float, default=1.86, help="of the small process")
    parser.add_argument("--train-on", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "streaming_speed.json")
    args = parser.parse_args()
    if args.train_on:
        print(json.dumps(train_on(args.train_on, args.limit_gib)))
        return
    if args.data_dir is None:
        parser.error("--data-dir is needed")
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load = load_of_others()
    epochs = {data: max(1, round(args.epochs_share * number)) for data, number in EPOCHS.items()}
    found = {
        data: speeds(data, number, args.data_dir, args.rounds) for data, number in epochs.items()
    }
    print(json.dumps(found, indent=2), flush=True)
    small = memory_in_a_small_process(args.gigabytes, args.limit_gib)
    print(json.dumps(small, indent=2), flush=True)
    write_report(
        args.output,
        command=(
            f"python experiments/benchmarks/streaming_speed.py --data-dir=DATA "
            f"--rounds={args.rounds} --gigabytes={args.gigabytes:g} --limit-gib={args.limit_gib:g}"
        ),
        load=load,
        date=date,
        rounds=args.rounds,
        epochs_per_round=epochs,
        data=found,
        small_process=small,
    )


if __name__ == "__main__":
    main()
