"""Measures the training speed of one run, and of S runs in one program, on jax's device.

    python experiments/benchmarks/members_speed.py --data-dir=DATA --data=mnist --latent-dim=20

The members are the paper's model of a dataset with different seeds, stacked as in a sweep
(`aevb.sweeps.sweep`). The rate for each S is the median over rounds with the same number of steps,
after one warm-up round. There is no peer to compare with, so a figure is valid only for its device.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import harness
import jax
import jax.numpy as jnp
import worker
from aevb_worker import config_of

from aevb.algorithms.base import TrainState
from aevb.config import Values
from aevb.sweeps.grid import Member
from aevb.sweeps.sweep import DeviceTrainer, Machine
from aevb.training import loop

ROUNDS = 5


def members(values: Values, number: int) -> tuple[Member, ...]:
    """Returns members of one config that differ in their seeds."""
    return tuple(Member(str(seed), {}, {**values, "seed": seed}) for seed in range(number))


def seconds_a_step(
    program: loop.Program, keys: loop.LoopKeys, state: TrainState, data: jax.Array, num_steps: int
) -> list[float]:
    """Returns the seconds per step of each round but the first, which draws the permutation."""
    order = loop.no_order(keys, data)
    advance = program.compile(keys, data, state)
    rounds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        state, order, means = advance(keys, data, state, order, state.step + num_steps)
        means["objective"].block_until_ready()
        rounds.append((time.perf_counter() - began) / num_steps)
    return rounds[1:]


def measure(args: argparse.Namespace, size: int) -> dict[str, float]:
    """Returns the speed of `size` members in one program."""
    values = config_of(args)
    trainer = DeviceTrainer(Path(), Machine("stack", num_runs=1))  # writes nothing here
    data = jnp.asarray(trainer.dataset(values).train)
    if size == 1:
        experiment, program, _ = trainer.program(values)
        state = loop.first_state(experiment.algorithm.init, jax.random.key(0))
        keys = loop.run_keys(jax.random.key(0)).loop
    else:
        stack = trainer.as_stack(members(values, size))
        program, keys, state = stack.program, stack.keys, stack.join(stack.init())
    seconds = seconds_a_step(program, keys, state, data, args.steps)
    rates = [size * args.batch_size / each for each in seconds]
    row = {
        "members": size,
        "examples_per_second": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
        "seconds_a_step": statistics.median(seconds),
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = harness.argument_parser(__doc__, needs_data=True)
    worker.add_model(parser)
    parser.add_argument(
        "--members", type=harness.integers, default=[1, 4, 16, 64, 256], help="S, ..."
    )
    parser.add_argument("--steps", type=int, default=50, help="of each member in a round")
    args = parser.parse_args()
    load = harness.load_of_others()
    device = jax.devices()[0]
    harness.write_report(
        args,
        load,
        platform=device.platform,
        device=device.device_kind,
        not_measured=[] if device.platform != "cpu" else ["gpu"],
        rows=[measure(args, size) for size in args.members],
    )


if __name__ == "__main__":
    main()
