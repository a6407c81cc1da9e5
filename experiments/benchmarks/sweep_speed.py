"""Measures a whole sweep, from the command to its last summary, run in several ways.

    python experiments/benchmarks/sweep_speed.py --data-dir=DATA [--num-examples=1000000]
    python experiments/benchmarks/sweep_speed.py --data-dir=DATA --ways=devices,sequence,stack

The sweep has the paper's latent dimensions on binarized MNIST with three seeds each:
    sweep       one `run.py --sweep`
    one_by_one  a `run.py` for each member, one after another
    torch       one PyTorch process that trains the members in turn (torch_sweep.py)
    sequence, devices, stack   `run.py --sweep` with its members mapped in this way

The time of each way includes start, data, compilation and training. For `run.py` it also includes
the evaluation of all data at the end and of some data once per decade of examples, checkpoints and
figures; the PyTorch process computes only the test bound at the end. Every way starts with an empty
compilation cache, which its first members fill for the later ones. The memory of a way is the peak
of its largest process. The mean test bound over the members of a latent dimension shows that the
work was equal.
"""

import argparse
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import harness

from aevb.sweeps.grid import MAPPINGS

RUN = harness.ROOT / "experiments" / "run.py"
LATENTS = (3, 5, 10, 20, 200)  # the values of the paper's figure 2
SEEDS = (0, 1, 2)
STEP_SIZE = 0.02  # fixed; the experiment's own sweep chooses it by short trials


class Finished(NamedTuple):
    """The measurements of a finished process."""

    seconds: float
    peak_mib: float
    output: str


class Member(NamedTuple):
    num_latents: int
    seed: int
    test_bound: float  # nats


class Way(NamedTuple):
    """The measurements of one sweep in one way."""

    seconds: float
    peak_mib: float  # of the largest process
    members: list[Member]


def run(command: list[str], cache: Path) -> Finished:
    """Runs a command to its end; the peak memory is that of its largest process."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=harness.ROOT,
            stdout=output,
            stderr=errors,
            encoding="utf-8",
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            lines = errors.read().splitlines() or ["no message"]
            raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}: {lines[-1]}")
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return Finished(seconds, usage.ru_maxrss / unit, output.read())


def member_of(folder: Path) -> Member:
    """Reads a finished run from the files in its folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    test_bound = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["test_bound"]
    return Member(config["model.num_latents"], config["seed"], test_bound)


def run_py(args: argparse.Namespace, folder: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        str(RUN),
        f"--config={harness.ROOT / 'experiments' / 'binarized_mnist.py'}",
        f"--workdir={folder}",
        f"--config.data.manual_dir={args.data_dir.absolute()}",
        "--config.data.num_valid=0",  # so that the training data are PyTorch's
        f"--config.train.num_examples={args.num_examples}",
        f"--config.optimizer.step_size={STEP_SIZE}",
        "--config.train.evals_per_decade=1",
        *flags,
        *args.extra,
    ]


def total(done: Sequence[Finished], members: Sequence[Member]) -> Way:
    """Adds up the measurements of processes that ran one after another."""
    seconds, peak = sum(each.seconds for each in done), max(each.peak_mib for each in done)
    return Way(seconds, peak, sorted(members))


def joined(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def as_sweep(args: argparse.Namespace, folder: Path, *, mapping: str = "auto") -> Way:
    axes = [f"--axis=model.num_latents={joined(args.latents)}", f"--axis=seed={joined(args.seeds)}"]
    flags = [*axes, "--sweep", f"--mapping={mapping}"]
    done = run(run_py(args, folder / "sweep", *flags), folder / "cache")
    finished = sorted((folder / "sweep").glob("*/summary.json"))
    return total([done], [member_of(file.parent) for file in finished])


def one_by_one(args: argparse.Namespace, folder: Path) -> Way:
    done, members = [], []
    for num_latents, seed in itertools.product(args.latents, args.seeds):
        member = folder / f"{num_latents}-{seed}"
        flags = [f"--config.model.num_latents={num_latents}", f"--config.seed={seed}"]
        done.append(run(run_py(args, member, *flags), folder / "cache"))
        members.append(member_of(member))
    return total(done, members)


def in_torch(args: argparse.Namespace, folder: Path) -> Way:
    flags = [
        f"--data-dir={args.data_dir.absolute()}",
        f"--latents={joined(args.latents)}",
        f"--seeds={joined(args.seeds)}",
        f"--num-examples={args.num_examples}",
        f"--step-size={STEP_SIZE}",
    ]
    command = harness.command_of("torch_sweep.py", *flags, python=args.bench_python)
    done = run(command, folder / "cache")
    lines = map(json.loads, done.output.splitlines())
    return total([done], [Member(*(line[name] for name in Member._fields)) for line in lines])


WAYS = {
    "sweep": as_sweep,
    "one_by_one": one_by_one,
    "torch": in_torch,
    **{mapping: partial(as_sweep, mapping=mapping) for mapping in MAPPINGS},
}


def check_members(name: str, way: Way, args: argparse.Namespace) -> None:
    """Raises SystemExit unless a way has trained the models of the sweep, each once."""
    expected = sorted(itertools.product(args.latents, args.seeds))
    if [member[:2] for member in way.members] != expected:
        raise SystemExit(f"{name} trained {[member[:2] for member in way.members]}")


def mean_bounds(ways: list[Way]) -> dict[str, float]:
    """Returns the mean bounds by latent dimension, over seeds and rounds, in nats."""
    members = [member for way in ways for member in way.members]
    return {
        str(Z): statistics.fmean(m.test_bound for m in members if m.num_latents == Z)
        for Z in sorted({member.num_latents for member in members})
    }


def summarize(rounds: dict[str, list[Way]]) -> dict[str, dict[str, Any]]:
    """Summarizes each way; its ratio is its time over that of the first way, taken per round."""
    seconds = {name: [way.seconds for way in done] for name, done in rounds.items()}
    ours = next(iter(seconds.values()))
    return {
        name: {
            "seconds": harness.summary(seconds[name]),
            "ratio": harness.ratios(seconds[name], ours),
            "peak_mib": max(way.peak_mib for way in done),
            "test_bound": mean_bounds(done),
        }
        for name, done in rounds.items()
    }


def parse_args() -> argparse.Namespace:
    parser = harness.argument_parser(__doc__, rounds=1, needs_data=True)
    parser.add_argument("--num-examples", type=int, default=1_000_000, help="of each member")
    parser.add_argument("--latents", type=harness.integers, default=list(LATENTS))
    parser.add_argument("--seeds", type=harness.integers, default=list(SEEDS))
    harness.add_choices(parser, "--ways", WAYS)
    parser.set_defaults(ways=["sweep", "one_by_one", "torch"])
    harness.add_peers(parser)
    parser.add_argument("extra", nargs="*", metavar="-- FLAGS", help="for every run.py")
    args = parser.parse_args()
    if "torch" in args.ways:
        harness.require_peers(parser, args)
    return args


def main() -> None:
    args = parse_args()
    load = harness.load_of_others()
    rounds: dict[str, list[Way]] = {name: [] for name in args.ways}
    for number in range(args.rounds):
        for name in harness.in_turn(args.ways, number):
            with tempfile.TemporaryDirectory() as folder:
                way = WAYS[name](args, Path(folder))
            check_members(name, way, args)
            rounds[name].append(way)
            print(f"{name}: {way.seconds:.1f} s, {way.peak_mib:.0f} MiB", flush=True)
    harness.write_report(
        args,
        load,
        num_members=len(args.latents) * len(args.seeds),
        num_examples=args.num_examples,
        ways=summarize(rounds),
    )


if __name__ == "__main__":
    main()
