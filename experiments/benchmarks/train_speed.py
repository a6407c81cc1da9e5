"""Training speed of aevb beside PyTorch, in paired rounds on one machine.

    python experiments/benchmarks/train_speed.py --data-dir=DATA --data=mnist

Every contender is a process that holds its model and waits idle on its stdin (the protocol is in
torch_worker.py). In each round every contender in turn trains for the same number of epochs, and
the order rotates from round to round, so that a slow minute of a shared machine falls on all. A
round gives the paired ratio: examples/s of the first contender over those of another. The test
bounds at the end, after equally many epochs, show that the work was equal.

The PyTorch contenders need their own environment: see requirements.txt beside this file.
"""

import argparse
import contextlib
import datetime
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from contender import ROOT, Contender, in_turn, summary

from aevb import provenance

BENCHMARKS = Path(__file__).resolve().parent
LATENT_DIM = {"mnist": 20, "frey": 2}
EPOCHS_PER_ROUND = {"mnist": 1, "frey": 30}  # an epoch of Frey faces takes some 20 to 50 ms

# name -> interpreter ("ours" or "bench"), script and its own flags
CONTENDERS = {
    "aevb": ("ours", "aevb_worker.py"),
    "torch_preloaded": ("bench", "torch_worker.py", "--feed=preloaded"),
    "torch_compile": ("bench", "torch_worker.py", "--feed=preloaded", "--compile"),
    "torch_dataloader": ("bench", "torch_worker.py", "--feed=dataloader"),
}


class Epochs(NamedTuple):
    """What one contender did in one round."""

    seconds: float
    cpu_seconds: float
    examples: int

    @property
    def rate(self) -> float:
        return self.examples / self.seconds  # examples/s


def train(contender: Contender, num_epochs: int) -> Epochs:
    epochs = [contender.ask("epoch") for _ in range(num_epochs)]
    return Epochs(
        sum(epoch["seconds"] for epoch in epochs),
        sum(epoch["cpu_seconds"] for epoch in epochs),
        sum(epoch["examples"] for epoch in epochs),
    )


def worker_command(name: str, args: argparse.Namespace) -> list[str]:
    interpreter, script, *own_flags = CONTENDERS[name]
    python = sys.executable if interpreter == "ours" else str(args.bench_python.absolute())
    shared_flags = [
        f"--data-dir={args.data_dir.absolute()}",
        f"--data={args.data}",
        f"--latent-dim={args.latent_dim}",
        f"--batch-size={args.batch_size}",
        f"--step-size={args.step_size}",
        f"--seed={args.seed}",
    ]
    return [python, str(BENCHMARKS / script), *own_flags, *shared_flags]


def run_rounds(
    contenders: list[Contender], num_rounds: int, num_epochs: int
) -> dict[str, list[Epochs]]:
    """Each contender's epochs, one entry a round; one contender works at a time."""
    rounds: dict[str, list[Epochs]] = {contender.name: [] for contender in contenders}
    for i in range(num_rounds):
        for contender in in_turn(contenders, i):
            rounds[contender.name].append(train(contender, num_epochs))
        rates = "  ".join(f"{name} {epochs[-1].rate:,.0f}" for name, epochs in rounds.items())
        print(f"round {i + 1}/{num_rounds}, examples/s: {rates}", flush=True)
    work = {name: [epochs.examples for epochs in done] for name, done in rounds.items()}
    if len({tuple(examples) for examples in work.values()}) != 1:
        raise SystemExit(f"contenders trained on different numbers of examples: {work}")
    return rounds


def summarise(rounds: dict[str, list[Epochs]], bounds: dict[str, float]) -> dict[str, dict]:
    """The figures of each contender; ratio is the first contender's speed over its own."""
    ours = next(iter(rounds.values()))
    return {
        name: {
            "examples_per_second": summary([epochs.rate for epochs in done]),
            "cpu_per_wall": statistics.median(e.cpu_seconds / e.seconds for e in done),
            "ratio": summary([a.rate / b.rate for a, b in zip(ours, done, strict=True)]),
            "test_bound": bounds[name],
            "rounds": [epochs._asdict() for epochs in done],
        }
        for name, done in rounds.items()
    }


def print_table(results: dict[str, dict]) -> None:
    ratio_title = f"{next(iter(results))} / it (min..max)"
    print(
        f"\n{'contender':<18}{'examples/s (min..max)':>28}{'cpu/wall':>10}"
        f"{ratio_title:>34}{'test bound':>12}"
    )
    for name, result in results.items():
        rate, ratio = result["examples_per_second"], result["ratio"]
        rate_text = f"{rate['median']:,.0f} ({rate['min']:,.0f}..{rate['max']:,.0f})"
        ratio_text = f"{ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})"
        print(
            f"{name:<18}{rate_text:>28}{result['cpu_per_wall']:>10.2f}"
            f"{ratio_text:>34}{result['test_bound']:>12.2f}"
        )


def shown_command(args: argparse.Namespace) -> str:
    """The command that repeats the run, without this machine's folders."""
    names = ("data", "latent_dim", "batch_size", "step_size", "seed", "rounds", "epochs_per_round")
    flags = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    script = "experiments/benchmarks/train_speed.py"
    contenders = f"--contenders={','.join(args.contenders)}"
    return shlex.join(["python", script, "--data-dir=DATA", *flags, contenders])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--data", choices=list(LATENT_DIM), default="mnist")
    parser.add_argument("--latent-dim", type=int, help=f"default: {LATENT_DIM}")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--step-size", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs-per-round", type=int, help=f"default: {EPOCHS_PER_ROUND}")
    parser.add_argument(
        "--contenders",
        type=lambda text: text.split(","),
        default=list(CONTENDERS),
        help="comma-separated; the ratio is the first one's speed over each (default: all)",
    )
    parser.add_argument(
        "--bench-python",
        type=Path,
        default=ROOT / ".venv-bench/bin/python",
        help="the interpreter that has PyTorch",
    )
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results/train_speed.json")
    args = parser.parse_args()

    if unknown := set(args.contenders) - set(CONTENDERS):
        parser.error(f"unknown contenders {sorted(unknown)}: choose from {list(CONTENDERS)}")
    needs_bench = any(CONTENDERS[name][0] == "bench" for name in args.contenders)
    if needs_bench and not args.bench_python.exists():
        parser.error(
            f"no {args.bench_python}: {BENCHMARKS / 'requirements.txt'} says how to make it"
        )
    if args.rounds < 1:
        parser.error(f"--rounds={args.rounds}: expected at least 1")
    args.latent_dim = args.latent_dim or LATENT_DIM[args.data]
    args.epochs_per_round = args.epochs_per_round or EPOCHS_PER_ROUND[args.data]
    return args


def main() -> None:
    args = parse_args()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.ExitStack() as stack:
        contenders, ready = [], {}
        for name in args.contenders:  # one after another, so that warm-ups do not overlap
            contender = stack.enter_context(Contender(name, worker_command(name, args)))
            ready[name] = contender.read_answer()
            print(f"{name}: {ready[name]}", flush=True)
            contenders.append(contender)
        rounds = run_rounds(contenders, args.rounds, args.epochs_per_round)
        bounds = {contender.name: contender.ask("bound")["test_bound"] for contender in contenders}

    results = summarise(rounds, bounds)
    for name, message in ready.items():
        results[name] |= {"versions": message["versions"], "threads": message.get("threads")}
    print_table(results)
    report = {
        "command": shown_command(args),
        "date": date,
        "machine": provenance.machine(),
        "epochs_trained": 1 + args.rounds * args.epochs_per_round,  # the warm-up is one
        "contenders": results,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
