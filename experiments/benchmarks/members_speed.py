"""Training speed of a run alone and of S runs in one program, on whatever device jax has.

    python experiments/benchmarks/members_speed.py --data-dir=DATA [--members=1,4,16,64,256]

The members are the paper's model of a data set with seeds of their own, as a sweep stacks
them (`aevb.stack`). A size's rate is the median over rounds of equally many steps each, after one
round that warms up; it has nothing to be compared with, so that a figure stands for its device.
"""

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import worker
from aevb_worker import config_of
from contender import load_of_others, write_report

from aevb import evaluate, loop, stack
from aevb.algorithms.base import Algorithm
from aevb.config import Values
from aevb.experiment import Experiment, build, build_algorithm, build_optimizer

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 5


def stack_of(values: Values, experiment: Experiment, size: int) -> stack.Stack:
    """Runs of one config that differ in their seeds; one alone has no axis for it."""
    dataset, vae, algorithm = experiment
    batch_size = values["train.batch_size"]
    keys = [jax.random.key(seed) for seed in range(size)]
    if size == 1:
        advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=batch_size)
        score = evaluate.make_score(vae, dataset.preprocess)
        return stack.alone(algorithm, loop.AheadOfTime(advance), score, keys[0])

    def algorithm_of(step_size: jax.Array, wrap: stack.Wrap) -> Algorithm:
        optimizer = wrap(build_optimizer(values, step_size))
        return build_algorithm(values, vae, len(dataset.train), optimizer)

    return stack.stacked(
        [algorithm.init] * size,
        [values["optimizer.step_size"]] * size,
        keys,
        vae,
        algorithm_of,
        dataset.preprocess,
        batch_size=batch_size,
    )


def seconds_a_step(runs: stack.Stack, data: jax.Array, num_steps: int) -> list[float]:
    """Of each round. The first one, whose epoch has no order yet, is not among them."""
    keys, state = runs.keys, runs.join(runs.init())
    order = loop.no_order(keys, data)
    advance = runs.program.compile(keys, data, state)
    rounds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        state, order, means = advance(keys, data, state, order, state.step + num_steps)
        means["bound"].block_until_ready()
        rounds.append((time.perf_counter() - began) / num_steps)
    return rounds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--data", choices=list(worker.SIZES), default="mnist")
    parser.add_argument("--latent-dim", type=int, default=20)
    parser.add_argument(
        "--members", type=lambda text: [int(size) for size in text.split(",")],
        default=[1, 4, 16, 64, 256], help="S, comma-separated",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=50, help="of each member in a round")
    parser.add_argument("--output", type=Path, default=RESULTS / "members_speed.json")
    args = parser.parse_args()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load = load_of_others()

    args.batch_size, args.step_size = 100, 0.02
    values = config_of(args)
    experiment = build(values)
    data = jnp.asarray(experiment.dataset.train)
    rows: list[dict[str, Any]] = []
    for size in args.members:
        seconds = seconds_a_step(stack_of(values, experiment, size), data, args.steps)
        rates = [size * args.batch_size / each for each in seconds]
        rows.append(
            {
                "members": size,
                "examples_per_second": statistics.median(rates),
                "min": min(rates),
                "max": max(rates),
                "seconds_a_step": statistics.median(seconds),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    device, members = jax.devices()[0], ",".join(map(str, args.members))
    write_report(
        args.output,
        command=(
            f"python experiments/benchmarks/members_speed.py --data-dir=DATA --data={args.data} "
            f"--latent-dim={args.latent_dim} --members={members} --steps={args.steps}"
        ),
        load=load,
        date=date,
        platform=device.platform,
        device=device.device_kind,
        not_measured=[] if device.platform != "cpu" else ["gpu"],
        rows=rows,
    )


if __name__ == "__main__":
    main()
