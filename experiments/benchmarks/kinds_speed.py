"""Compares the speed of other models, bounds and optimizers with their peers, in paired rounds.

    python experiments/benchmarks/kinds_speed.py --data-dir=DATA [--kinds=conv,iwae_50]

A kind (kinds.py) is a model with its bound and optimizer, or an evaluation of a trained model. For
each kind every contender is a process that waits idle on its stdin (worker.py), and in each round
every contender in turn does the same work, in an order that rotates:

    aevb        the package's own training loop, built from a config
    aevb_plain  the same, with XLA's own gradient of convolutions (conv alone)
    flax        a plain batched program with one jitted step
    torch_*     PyTorch, in all the ways that may be its fastest for the kind
    products    the matrix products of a step alone: the limit

Ratios are taken per round. The one over PyTorch is over the fastest of its ways in each round. The
bounds of the test images after the same number of steps show whether the work was equal. They are
reported with the standard deviation of aevb's bound over seeds. The peers need their own
environment: see requirements.txt beside this file.
"""

import argparse
import contextlib
import statistics
from collections.abc import Sequence
from typing import Any

import harness
import kinds
import train_speed
from kinds import Kind
from train_speed import Epochs

LIMIT = "products"
TORCH = {
    "torch": (),
    "torch_compile": ("--compile",),
    "torch_compile_step": ("--compile", "--compile-optimizer"),
    "torch_channels_last": ("--channels-last",),
    "torch_channels_last_compile": ("--channels-last", "--compile"),
}
OURS = {
    "aevb": ("aevb_kinds_worker.py",),
    "aevb_plain": ("aevb_kinds_worker.py", "--plain-convolutions"),
    "flax": ("flax_kinds_worker.py",),
    LIMIT: ("products_worker.py",),
}
PEERS = {name: ("torch_kinds_worker.py", *flags) for name, flags in TORCH.items()}
WITHOUT_FUSED = ("adamax", "rmsprop")  # optimizers of which PyTorch has no fused one


def contenders_of(kind: Kind, chosen: Sequence[str]) -> list[str]:
    """Returns the contenders of a kind, of those that were chosen, and its limit."""
    unfit = set()
    if kind.network != "conv":
        unfit.add("aevb_plain")  # a minute for a step of the gated network
    if "conv" not in kind.network:
        unfit |= {"torch_channels_last", "torch_channels_last_compile"}
    if kind.optimizer not in WITHOUT_FUSED:
        unfit.add("torch_compile_step")
    if kind.evaluation:
        unfit |= {"aevb_plain", LIMIT}
    return [name for name in (*chosen, LIMIT) if name not in unfit]


def start(name: str, kind_name: str, args: argparse.Namespace, seed: int) -> harness.Contender:
    script, *own = (OURS | PEERS)[name]
    flags = (f"--kind={kind_name}", f"--data-dir={args.data_dir.absolute()}", f"--seed={seed}")
    per_round = f"--per-round={args.steps or kinds.KINDS[kind_name].per_round}"
    python = args.bench_python if name in PEERS else None
    return harness.Contender(
        name, harness.command_of(script, *own, *flags, per_round, python=python)
    )


def summarize(rounds: dict[str, list[Epochs]]) -> dict[str, Any]:
    """Returns the figures of each contender, and those of aevb over the fastest of PyTorch's ways.

    A contender's ratio is the first contender's speed over this one's; its of_limit is its speed
    over that of the matrix products alone, if they took part.
    """
    work = {name: [epochs.examples for epochs in done] for name, done in rounds.items()}
    if len({tuple(examples) for examples in work.values()}) != 1:
        raise SystemExit(f"contenders did different numbers of examples: {work}")
    rates = {name: [epochs.rate for epochs in done] for name, done in rounds.items()}
    ours = next(iter(rates.values()))
    results: dict[str, Any] = {
        name: {
            **train_speed.speed(done),
            "ratio": harness.ratios(ours, rates[name]),
            "of_limit": harness.ratios(rates[name], rates[LIMIT]) if LIMIT in rates else None,
        }
        for name, done in rounds.items()
        if name != LIMIT
    }
    ways = {name: rates[name] for name in rates if name in PEERS}
    if not ways:
        return {"contenders": results}
    fastest = {
        "name": max(ways, key=lambda name: statistics.median(ways[name])),
        "ratio": harness.ratios(ours, map(max, zip(*ways.values(), strict=True))),
    }
    return {"contenders": results, "fastest_torch": fastest}


def bounds_of_seeds(kind_name: str, args: argparse.Namespace) -> list[float]:
    """Returns aevb's test bounds for other seeds, after the same training."""
    bounds = []
    for seed in range(args.seed + 1, args.seed + 1 + args.noise_seeds):
        with start("aevb", kind_name, args, seed) as contender:
            train_speed.train(contender, args.rounds)
            bounds.append(contender.ask("bound")["test_bound"])
    return bounds


def measure(kind_name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Runs the contenders of one kind; returns its figures."""
    kind = kinds.KINDS[kind_name]
    print(f"{kind_name}: {kind.title}", flush=True)
    load = harness.load_of_others()
    with contextlib.ExitStack() as stack:
        contenders = [
            stack.enter_context(start(name, kind_name, args, args.seed))
            for name in contenders_of(kind, args.contenders)
        ]
        rounds = harness.take_turns(
            contenders, args.rounds, lambda contender, _: train_speed.train(contender, 1)
        )
        results = summarize(rounds)
        for contender in contenders:
            if contender.name == LIMIT:
                results["limit"] = {
                    **train_speed.speed(rounds[LIMIT]),
                    **{name: contender.ready[name] for name in ("layout", "flops_per_example")},
                }
                continue
            results["contenders"][contender.name] |= {
                "test_bound": contender.ask("bound")["test_bound"],
                **{name: contender.ready[name] for name in ("versions", "threads", "device")},
            }
    bounds = [results["contenders"]["aevb"]["test_bound"], *bounds_of_seeds(kind_name, args)]
    return {
        "title": kind.title,
        "per_round": args.steps or kind.per_round,
        "load_of_others": load,
        **results,
        "bound_noise": train_speed.over_seeds(bounds),
    }


def parse_args() -> argparse.Namespace:
    parser = harness.argument_parser(__doc__, rounds=7, needs_data=True)
    harness.add_choices(parser, "--kinds", kinds.KINDS)
    names = [name for name in (OURS | PEERS) if name != LIMIT]
    harness.add_choices(parser, "--contenders", names)
    parser.add_argument("--steps", type=int, help="of a round; images of an evaluation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise-seeds", type=int, default=2, help="further seeds of aevb")
    harness.add_peers(parser)
    args = parser.parse_args()
    if args.contenders[0] != "aevb":
        parser.error(f"--contenders begins with {args.contenders[0]}; ratios need aevb first")
    if PEERS.keys() & set(args.contenders):
        harness.require_peers(parser, args)
    args.output = args.output or harness.BENCHMARKS / "results" / "kinds.json"
    return args


def main() -> None:
    args = parse_args()
    results, loads = {}, []
    for name in args.kinds:
        results[name] = found = measure(name, args)
        loads += [load for load in [found["load_of_others"]] if load is not None]
        # After each kind, so that an interrupted run has the results of those before.
        harness.write_report(args, max(loads, default=None), rounds=args.rounds, kinds=results)


if __name__ == "__main__":
    main()
