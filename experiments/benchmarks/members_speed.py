"""Measures the training speed of one run, and of S runs in one program, on jax's device.

    python experiments/benchmarks/members_speed.py --data-dir=DATA --data=mnist --latent-dim=20

The members are the paper's model of a dataset with different seeds, stacked as in a sweep
(`aevb.sweeps.sweep`). The rate of a size is the median over rounds of equally many steps each,
after one warm-up round. There is no contender, so a figure is valid only for its device.
"""

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

from aevb.algorithms.base import TrainState
from aevb.config import Values
from aevb.sweeps.grid import Member
from aevb.sweeps.sweep import DeviceTrainer, Machine
from aevb.training import loop

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 5


def members(values: Values, number: int) -> tuple[Member, ...]:
    """Returns members of one config that differ in their seeds."""
    return tuple(Member(str(seed), {}, {**values, "seed": seed}) for seed in range(number))


def seconds_a_step(
    program: loop.Program, keys: loop.LoopKeys, state: TrainState, data: jax.Array, num_steps: int
) -> list[float]:
    """Returns the seconds per step of each round, without the first, whose epoch needs an order."""
    order = loop.no_order(keys, data)
    advance = program.compile(keys, data, state)
    rounds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        state, order, means = advance(keys, data, state, order, state.step + num_steps)
        means["objective"].block_until_ready()
        rounds.append((time.perf_counter() - began) / num_steps)
    return rounds[1:]


def main() -> None:
    parser = worker.argument_parser(__doc__)
    parser.add_argument(
        "--members", type=lambda text: [int(size) for size in text.split(",")],
        default=[1, 4, 16, 64, 256], help="S, comma-separated",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=50, help="of each member in a round")
    parser.add_argument("--output", type=Path, default=RESULTS / "members_speed.json")
    args = parser.parse_args()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load = load_of_others()

    values = config_of(args)
    trainer = DeviceTrainer(RESULTS, Machine("stack", num_runs=1))  # writes nothing here
    data = jnp.asarray(trainer.dataset(values).train)
    rows: list[dict[str, Any]] = []
    for size in args.members:
        if size == 1:
            experiment, program, _ = trainer.program(values)
            state = loop.first_state(experiment.algorithm.init, jax.random.key(0))
            keys = loop.run_keys(jax.random.key(0)).loop
        else:
            stack = trainer.as_stack(members(values, size))
            program, keys, state = stack.program, stack.keys, stack.join(stack.init())
        seconds = seconds_a_step(program, keys, state, data, args.steps)
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
    device, sizes = jax.devices()[0], ",".join(map(str, args.members))
    write_report(
        args.output,
        command=(
            f"python experiments/benchmarks/members_speed.py --data-dir=DATA --data={args.data} "
            f"--latent-dim={args.latent_dim} --batch-size={args.batch_size} "
            f"--members={sizes} --steps={args.steps}"
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
