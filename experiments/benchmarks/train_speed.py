"""Compares the training speed of aevb, its peers and the machine's limit, in paired rounds.

    python experiments/benchmarks/train_speed.py --data-dir=DATA --data=mnist

Every contender is a process that holds its model and waits idle on its stdin (the protocol is in
worker.py). In each round every contender in turn trains for the same number of epochs. The order
rotates from round to round, so that a slow minute of a shared machine affects all of them. A round
gives paired ratios: the examples/s of the first contender over those of each other, and those of
each contender over the limit, the rate of the step's matrix products alone (gemm_worker.py). The
test bounds after the same number of epochs show whether the work was equal. They are reported with
the standard deviation of the first contender's bound over seeds.

The peers need their own environment: see requirements.txt beside this file.
"""

import argparse
import contextlib
import statistics
from typing import Any, NamedTuple

import harness

LATENT_DIM = {"mnist": 20, "frey": 2}
EPOCHS_PER_ROUND = {"mnist": 1, "frey": 30}  # an epoch of Frey faces takes about 20 to 50 ms

# name -> a script, and flags of its own
OURS = {"aevb": ("aevb_worker.py",), "flax": ("flax_worker.py",), "gemm": ("gemm_worker.py",)}
PEERS = {
    "numpyro": ("numpyro_worker.py",),
    "torch_compile": ("torch_worker.py", "--feed=preloaded", "--compile"),
    "torch_preloaded": ("torch_worker.py", "--feed=preloaded"),
    "torch_dataloader": ("torch_worker.py", "--feed=dataloader"),
    "pythae": ("pythae_worker.py",),
}
LIMIT = "gemm"
MNIST_ALONE = "pythae"  # has no likelihood for grey data


class Epochs(NamedTuple):
    """The measurements of one contender in one round."""

    seconds: float
    cpu_seconds: float
    examples: int

    @property
    def rate(self) -> float:
        return self.examples / self.seconds  # examples/s


def train(contender: harness.Contender, num_epochs: int) -> Epochs:
    epochs = [contender.ask("epoch") for _ in range(num_epochs)]
    return Epochs(*(sum(epoch[name] for epoch in epochs) for name in Epochs._fields))


def start(name: str, args: argparse.Namespace, seed: int) -> harness.Contender:
    script, *own_flags = (OURS | PEERS)[name]
    names = ("data", "latent_dim", "batch_size", "step_size")
    flags = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    flags += [f"--data-dir={args.data_dir.absolute()}", f"--seed={seed}"]
    python = args.bench_python if name in PEERS else None
    return harness.Contender(name, harness.command_of(script, *own_flags, *flags, python=python))


def bounds_of_seeds(args: argparse.Namespace, num_epochs: int) -> list[float]:
    """Returns the first contender's test bounds for other seeds, after the same training."""
    bounds = []
    for seed in range(args.seed + 1, args.seed + 1 + args.noise_seeds):
        with start(args.contenders[0], args, seed) as contender:
            train(contender, num_epochs)
            bounds.append(contender.ask("bound")["test_bound"])
    return bounds


def over_seeds(bounds: list[float]) -> dict[str, Any]:
    """Summarizes the spread of a bound over seeds, within which two bounds count as equal."""
    deviation = statistics.stdev(bounds) if len(bounds) > 1 else None
    return {"bounds": bounds, "mean": statistics.fmean(bounds), "standard_deviation": deviation}


def speed(done: list[Epochs]) -> dict[str, Any]:
    """Returns the figures of one contender that need no other contender."""
    return {
        "examples_per_second": harness.summary([epochs.rate for epochs in done]),
        "cpu_per_wall": statistics.median(e.cpu_seconds / e.seconds for e in done),
        "rounds": [epochs._asdict() for epochs in done],
    }


def summarize(rounds: dict[str, list[Epochs]]) -> dict[str, dict]:
    """Returns the figures of each contender.

    A contender's ratio is the first contender's speed over this one's; its of_limit is its speed
    over that of the matrix products alone.
    """
    work = {name: [epochs.examples for epochs in done] for name, done in rounds.items()}
    if len({tuple(examples) for examples in work.values()}) != 1:
        raise SystemExit(f"contenders trained on different numbers of examples: {work}")
    rates = {name: [epochs.rate for epochs in done] for name, done in rounds.items()}
    ours = next(iter(rates.values()))
    return {
        name: {
            **speed(done),
            "ratio": harness.ratios(ours, rates[name]),
            "of_limit": harness.ratios(rates[name], rates[LIMIT]),
        }
        for name, done in rounds.items()
        if name != LIMIT
    }


def parse_args() -> argparse.Namespace:
    parser = harness.argument_parser(__doc__, rounds=7, needs_data=True)
    parser.add_argument("--data", choices=list(LATENT_DIM), default="mnist")
    parser.add_argument("--latent-dim", type=int, help=f"default: {LATENT_DIM}")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--step-size", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs-per-round", type=int, help=f"default: {EPOCHS_PER_ROUND}")
    parser.add_argument(
        "--noise-seeds", type=int, default=4, help="further seeds of the first contender"
    )
    names = [name for name in (OURS | PEERS) if name != LIMIT]
    harness.add_choices(parser, "--contenders", names)
    parser.set_defaults(contenders=None)
    harness.add_peers(parser)
    args = parser.parse_args()
    fitting = [name for name in names if args.data == "mnist" or name != MNIST_ALONE]
    args.contenders = args.contenders or fitting
    if unfit := set(args.contenders) - set(fitting):
        parser.error(f"{', '.join(unfit)} has no likelihood for {args.data}")
    if PEERS.keys() & set(args.contenders):
        harness.require_peers(parser, args)
    args.latent_dim = args.latent_dim or LATENT_DIM[args.data]
    args.epochs_per_round = args.epochs_per_round or EPOCHS_PER_ROUND[args.data]
    name = f"train_{args.data}_z{args.latent_dim}_b{args.batch_size}.json"
    args.output = args.output or harness.BENCHMARKS / "results" / name
    return args


def main() -> None:
    args = parse_args()
    load = harness.load_of_others()
    with contextlib.ExitStack() as stack:
        contenders = [
            stack.enter_context(start(name, args, args.seed)) for name in [*args.contenders, LIMIT]
        ]
        rounds = harness.take_turns(
            contenders, args.rounds, lambda contender, _: train(contender, args.epochs_per_round)
        )
        results = summarize(rounds)
        for contender in contenders[:-1]:
            results[contender.name] |= {
                "peak_mib": contender.ask("memory")["peak_kib"] / 1024,  # before the test data
                "test_bound": contender.ask("bound")["test_bound"],
                **{name: contender.ready[name] for name in ("versions", "threads", "device")},
            }
        ready = contenders[-1].ready
    limit = {**speed(rounds[LIMIT])} | {k: ready[k] for k in ("layout", "flops_per_example")}
    rate = limit["examples_per_second"]["median"]
    limit["gflop_per_second"] = ready["flops_per_example"] * rate / 1e9
    num_epochs = 1 + args.rounds * args.epochs_per_round  # 1 is the warm-up
    first = results[args.contenders[0]]["test_bound"]
    harness.write_report(
        args,
        load,
        epochs_trained=num_epochs,
        contenders=results,
        limit=limit,
        bound_noise=over_seeds([first, *bounds_of_seeds(args, num_epochs - 1)]),
    )


if __name__ == "__main__":
    main()
