"""Compares the training speed of aevb, its peers and the machine's limit, in paired rounds.

    python experiments/benchmarks/train_speed.py --data-dir=DATA --data=mnist

Every contender is a process that holds its model and waits idle on its stdin (the protocol is in
worker.py). In each round every contender in turn trains for the same number of epochs. The order
rotates from round to round, so that a slow minute of a shared machine affects all of them. A round
gives paired ratios: the examples/s of the first contender over those of another, and those of each
over the limit, which is the rate of the step's matrix products alone (gemm_worker.py). The test
bounds at the end, after equally many epochs, show whether the work was equal. They are reported
with the difference of the first contender's bound between seeds.

The peers need their own environment: see requirements.txt beside this file.
"""

import argparse
import contextlib
import datetime
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from contender import ROOT, Contender, in_turn, load_of_others, summary, write_report

BENCHMARKS = Path(__file__).resolve().parent
LATENT_DIM = {"mnist": 20, "frey": 2}
EPOCHS_PER_ROUND = {"mnist": 1, "frey": 30}  # an epoch of Frey faces takes about 20 to 50 ms

# name -> interpreter ("ours" or "bench"), script and its own flags
CONTENDERS = {
    "aevb": ("ours", "aevb_worker.py"),
    "flax": ("ours", "flax_worker.py"),
    "numpyro": ("bench", "numpyro_worker.py"),
    "torch_compile": ("bench", "torch_worker.py", "--feed=preloaded", "--compile"),
    "torch_preloaded": ("bench", "torch_worker.py", "--feed=preloaded"),
    "torch_dataloader": ("bench", "torch_worker.py", "--feed=dataloader"),
    "pythae": ("bench", "pythae_worker.py"),
}
MNIST_ALONE = ("pythae",)  # has no likelihood for grey data
LIMIT = "gemm"
WORKERS = CONTENDERS | {LIMIT: ("ours", "gemm_worker.py")}


class Epochs(NamedTuple):
    """The measurements of one contender in one round."""

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


def worker_command(name: str, args: argparse.Namespace, seed: int) -> list[str]:
    interpreter, script, *own_flags = WORKERS[name]
    python = sys.executable if interpreter == "ours" else str(args.bench_python.absolute())
    shared_flags = [
        f"--data-dir={args.data_dir.absolute()}",
        f"--data={args.data}",
        f"--latent-dim={args.latent_dim}",
        f"--batch-size={args.batch_size}",
        f"--step-size={args.step_size}",
        f"--seed={seed}",
    ]
    return [python, str(BENCHMARKS / script), *own_flags, *shared_flags]


def run_rounds(
    contenders: list[Contender], num_rounds: int, num_epochs: int
) -> dict[str, list[Epochs]]:
    """Returns each contender's epochs, one entry per round; one contender works at a time."""
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


def bounds_of_seeds(args: argparse.Namespace, num_epochs: int) -> list[float]:
    """Returns the first contender's test bounds from other seeds, after equally many epochs.

    The epochs include the warm-up.
    """
    name, bounds = args.contenders[0], []
    for seed in range(args.seed + 1, args.seed + 1 + args.noise_seeds):
        with Contender(name, worker_command(name, args, seed)) as contender:
            contender.read_answer()
            train(contender, num_epochs)
            bounds.append(contender.ask("bound")["test_bound"])
    return bounds


def over_seeds(bounds: list[float]) -> dict[str, Any]:
    """Summarizes the spread of a bound over seeds, within which two bounds count as equal."""
    deviation = statistics.stdev(bounds) if len(bounds) > 1 else None
    return {
        "bounds": bounds,
        "mean": statistics.fmean(bounds),
        "standard_deviation": deviation,
    }


def ratios(these: list[Epochs], those: list[Epochs]) -> dict[str, float]:
    """Returns the ratios of the speeds of two contenders, round by round."""
    return summary([a.rate / b.rate for a, b in zip(these, those, strict=True)])


def speed(done: list[Epochs]) -> dict[str, Any]:
    """Returns the figures of one contender alone."""
    return {
        "examples_per_second": summary([epochs.rate for epochs in done]),
        "cpu_per_wall": statistics.median(e.cpu_seconds / e.seconds for e in done),
        "rounds": [epochs._asdict() for epochs in done],
    }


def summarize(rounds: dict[str, list[Epochs]]) -> dict[str, dict]:
    """Returns the figures of each contender.

    ratio is the first contender's speed over its own; of_limit is its own speed over that of the
    matrix products alone.
    """
    ours = next(iter(rounds.values()))
    return {
        name: speed(done) | {"ratio": ratios(ours, done), "of_limit": ratios(done, rounds[LIMIT])}
        for name, done in rounds.items()
        if name != LIMIT
    }


def print_table(results: dict[str, dict], limit: dict, noise: dict) -> None:
    first = next(iter(results))
    print(
        f"\n{'contender':<18}{'examples/s (min..max)':>28}{'cpu/wall':>10}"
        f"{f'{first} / it (min..max)':>24}{'of GEMM limit':>22}{'MiB':>7}{'test bound':>12}"
    )

    def span(figures: dict, digits: str) -> str:
        return "{median:{d}} ({min:{d}}..{max:{d}})".format(**figures, d=digits)

    for name, result in results.items():
        print(
            f"{name:<18}{span(result['examples_per_second'], ',.0f'):>28}"
            f"{result['cpu_per_wall']:>10.2f}{span(result['ratio'], '.2f'):>24}"
            f"{span(result['of_limit'], '.2f'):>22}{result['peak_mib']:>7.0f}"
            f"{result['test_bound']:>12.2f}"
        )
    print(
        f"{'GEMM limit':<18}{span(limit['examples_per_second'], ',.0f'):>28}"
        f"{limit['cpu_per_wall']:>10.2f}   {limit['gflop_per_second']:.0f} GFLOP/s: "
        f"{limit['layout']}"
    )
    if noise["standard_deviation"] is not None:
        print(
            f"test bound of {first} over {len(noise['bounds'])} seeds: {noise['mean']:.2f}, "
            f"standard deviation {noise['standard_deviation']:.2f}"
        )


def shown_command(args: argparse.Namespace) -> str:
    """Returns the command that repeats the run, without this machine's folders."""
    names = ("data", "latent_dim", "batch_size", "step_size", "seed")
    names += ("rounds", "epochs_per_round", "noise_seeds")
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
        "--noise-seeds",
        type=int,
        default=4,
        help="of the first contender, trained again to see what the bound's noise is "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--contenders",
        type=lambda text: text.split(","),
        help="comma-separated; the ratio is the first one's speed over each "
        "(default: all that have the model)",
    )
    parser.add_argument(
        "--bench-python",
        type=Path,
        default=ROOT / ".venv-bench/bin/python",
        help="the peers' interpreter",
    )
    parser.add_argument(
        "--output", type=Path, help="default: results/train_DATA_zLATENTS_bBATCH.json"
    )
    args = parser.parse_args()

    fitting = [name for name in CONTENDERS if args.data == "mnist" or name not in MNIST_ALONE]
    args.contenders = args.contenders or fitting
    if unknown := set(args.contenders) - set(fitting):
        parser.error(f"no contenders {sorted(unknown)} on {args.data}: choose from {fitting}")
    needs_bench = any(CONTENDERS[name][0] == "bench" for name in args.contenders)
    if needs_bench and not args.bench_python.exists():
        parser.error(
            f"no {args.bench_python}: {BENCHMARKS / 'requirements.txt'} says how to make it"
        )
    if args.rounds < 1:
        parser.error(f"--rounds={args.rounds}: expected at least 1")
    args.latent_dim = args.latent_dim or LATENT_DIM[args.data]
    name = f"train_{args.data}_z{args.latent_dim}_b{args.batch_size}.json"
    args.output = args.output or BENCHMARKS / "results" / name
    args.epochs_per_round = args.epochs_per_round or EPOCHS_PER_ROUND[args.data]
    return args


def main() -> None:
    args = parse_args()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load = load_of_others()
    num_epochs = 1 + args.rounds * args.epochs_per_round  # plus one warm-up
    with contextlib.ExitStack() as stack:
        contenders, ready = [], {}
        for name in [*args.contenders, LIMIT]:  # in turn, so that warm-ups do not overlap
            command = worker_command(name, args, args.seed)
            contender = stack.enter_context(Contender(name, command))
            ready[name] = contender.read_answer()
            print(f"{name}: {ready[name]}", flush=True)
            contenders.append(contender)
        rounds = run_rounds(contenders, args.rounds, args.epochs_per_round)
        results = summarize(rounds)
        for contender in contenders[:-1]:
            results[contender.name] |= {
                "peak_mib": contender.ask("memory")["peak_kib"] / 1024,  # before the test data
                "test_bound": contender.ask("bound")["test_bound"],
                "versions": ready[contender.name]["versions"],
                "threads": ready[contender.name]["threads"],
                "device": ready[contender.name]["device"],
            }
    flops = ready[LIMIT]["flops_per_example"]
    limit = speed(rounds[LIMIT]) | {"layout": ready[LIMIT]["layout"], "flops_per_example": flops}
    limit["gflop_per_second"] = flops * limit["examples_per_second"]["median"] / 1e9
    first_bound = results[args.contenders[0]]["test_bound"]
    noise = over_seeds([first_bound, *bounds_of_seeds(args, num_epochs - 1)])
    print_table(results, limit, noise)
    write_report(
        args.output,
        command=shown_command(args),
        load=load,
        date=date,
        epochs_trained=num_epochs,
        contenders=results,
        limit=limit,
        bound_noise=noise,
    )


if __name__ == "__main__":
    main()
