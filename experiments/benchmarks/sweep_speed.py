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
figures; the PyTorch process computes only the test bound at the end. Every way
starts with an empty compilation cache, which its first members fill for the later ones. The memory
is the largest that one of its processes used. The mean test bound over the members of a latent
dimension shows that the work was equal.
"""

import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from contender import ROOT, in_turn, load_of_others, summary, write_report

from aevb.sweeps.grid import MAPPINGS

BENCHMARKS = Path(__file__).resolve().parent
RUN = BENCHMARKS.parent / "run.py"
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
    """Runs a command to its end. The system reports the memory of it and of its children."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=errors, text=True
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
    config = json.loads((folder / "config.json").read_text())
    test_bound = json.loads((folder / "summary.json").read_text())["test_bound"]
    return Member(config["model.num_latents"], config["seed"], test_bound)


def run_py(args: argparse.Namespace, folder: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        str(RUN),
        f"--config={RUN.parent / 'binarized_mnist.py'}",
        f"--workdir={folder}",
        f"--config.data.manual_dir={args.data_dir.absolute()}",
        f"--config.train.num_examples={args.num_examples}",
        f"--config.optimizer.step_size={STEP_SIZE}",
        "--config.train.evals_per_decade=1",
        *flags,
        *args.extra,
    ]


def total(done: Iterable[Finished], members: Iterable[Member]) -> Way:
    """Adds up processes that worked one after another."""
    done = list(done)
    seconds, peak = sum(each.seconds for each in done), max(each.peak_mib for each in done)
    return Way(seconds, peak, sorted(members))


def as_sweep(args: argparse.Namespace, folder: Path, *, mapping: str = "auto") -> Way:
    axes = {"model.num_latents": args.latents, "seed": args.seeds}
    flags = [f"--axis={field}={','.join(map(str, values))}" for field, values in axes.items()]
    flags += ["--sweep", f"--mapping={mapping}"]
    done = run(run_py(args, folder / "sweep", *flags), folder / "cache")
    if not (folder / "sweep" / "sweep.json").exists():
        raise SystemExit("run.py --sweep left no sweep.json")
    finished = sorted((folder / "sweep").glob("*/summary.json"))
    return total([done], [member_of(summary.parent) for summary in finished])


def one_by_one(args: argparse.Namespace, folder: Path) -> Way:
    done, members = [], []
    for num_latents in args.latents:
        for seed in args.seeds:
            member = folder / f"{num_latents}-{seed}"
            flags = [f"--config.model.num_latents={num_latents}", f"--config.seed={seed}"]
            done.append(run(run_py(args, member, *flags), folder / "cache"))
            members.append(member_of(member))
            print(f"  {members[-1]} in {done[-1].seconds:.1f} s", flush=True)
    return total(done, members)


def in_torch(args: argparse.Namespace, folder: Path) -> Way:
    command = [
        str(args.bench_python.absolute()),
        str(BENCHMARKS / "torch_sweep.py"),
        f"--data-dir={args.data_dir.absolute()}",
        f"--latents={','.join(map(str, args.latents))}",
        f"--seeds={','.join(map(str, args.seeds))}",
        f"--num-examples={args.num_examples}",
        f"--step-size={STEP_SIZE}",
    ]
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
    """Checks that every way has trained the same models."""
    expected = sorted((Z, seed) for Z in args.latents for seed in args.seeds)
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
    ours = next(iter(rounds.values()))
    return {
        name: {
            "seconds": summary([way.seconds for way in done]),
            "ratio": summary([b.seconds / a.seconds for a, b in zip(ours, done, strict=True)]),
            "peak_mib": max(way.peak_mib for way in done),
            "test_bound": mean_bounds(done),
        }
        for name, done in rounds.items()
    }


def shown_command(args: argparse.Namespace) -> str:
    """Returns the command that repeats the run, without this machine's folders."""
    lists = [
        f"--{name}={','.join(map(str, getattr(args, name)))}"
        for name in ("latents", "seeds", "ways")
    ]
    numbers = [f"--num-examples={args.num_examples}", f"--rounds={args.rounds}"]
    script = "experiments/benchmarks/sweep_speed.py"
    return shlex.join(["python", script, "--data-dir=DATA", *numbers, *lists])


def parse_args() -> argparse.Namespace:
    def integers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--num-examples", type=int, default=1_000_000, help="of each member")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--latents", type=integers, default=list(LATENTS))
    parser.add_argument("--seeds", type=integers, default=list(SEEDS))
    parser.add_argument(
        "--ways",
        type=lambda text: text.split(","),
        default=["sweep", "one_by_one", "torch"],
        help="comma-separated; the ratio is each one's time over the first one's (default: all)",
    )
    parser.add_argument("--bench-python", type=Path, default=ROOT / ".venv-bench/bin/python")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results/sweep_speed.json")
    parser.add_argument("extra", nargs="*", metavar="-- FLAGS", help="for every run.py")
    args = parser.parse_args()
    if unknown := set(args.ways) - set(WAYS):
        parser.error(f"--ways has {sorted(unknown)}; there are {', '.join(WAYS)}")
    if "torch" in args.ways and not args.bench_python.exists():
        parser.error(
            f"no {args.bench_python}: {BENCHMARKS / 'requirements.txt'} says how to make it"
        )
    return args


def main() -> None:
    args = parse_args()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load = load_of_others()
    rounds: dict[str, list[Way]] = {name: [] for name in args.ways}
    for number in range(args.rounds):
        for name in in_turn(args.ways, number):
            with tempfile.TemporaryDirectory() as folder:
                way = WAYS[name](args, Path(folder))
            check_members(name, way, args)
            rounds[name].append(way)
            print(f"{name}: {way.seconds:.1f} s, {way.peak_mib:.0f} MiB", flush=True)
    results = summarize(rounds)
    for name, result in results.items():
        print(f"{name}: {result['ratio']['median']:.2f}, test bounds {result['test_bound']}")
    write_report(
        args.output,
        command=shown_command(args),
        load=load,
        date=date,
        num_members=len(args.latents) * len(args.seeds),
        num_examples=args.num_examples,
        ways=results,
    )


if __name__ == "__main__":
    main()
