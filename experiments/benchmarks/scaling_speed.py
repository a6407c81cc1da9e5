"""Measures a step's time on 1, 2, 4 and 8 devices, with a fixed minibatch and a growing one.

    python experiments/benchmarks/scaling_speed.py --data-dir=DATA

The growing minibatch has a fixed size per device. On a CPU the devices are simulated by threads on
the same cores: this shows the cost of dividing a step, and cannot show its gain. Each number of
devices has its own process. The processes work in turn, one minibatch size at a time, and the
figures are medians over rounds.
"""

import os
import statistics
from contextlib import ExitStack
from pathlib import Path

import harness

DEVICES = (1, 2, 4, 8)
STRONG = 800  # the minibatch that all devices share
WEAK = 100  # the minibatch of each device
ALONE = (50, 100, 200, 400, 800, 1600)  # minibatches of one device, for the cost model


def sizes_for(devices: int) -> list[int]:
    """Returns the sizes of minibatches for a process with this number of devices."""
    return list(ALONE) if devices == 1 else sorted({STRONG, WEAK * devices})


def worker(devices: int, data_dir: Path) -> harness.Contender:
    simulated = f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}"
    command = harness.command_of("scaling_worker.py", f"--data-dir={data_dir.absolute()}")
    found = harness.Contender(f"{devices} devices", ["env", simulated, *command])
    if found.ready["devices"] != devices:
        raise SystemExit(f"{found.name}: jax has {found.ready['devices']}")
    return found


def main() -> None:
    parser = harness.argument_parser(__doc__, rounds=5, needs_data=True)
    parser.add_argument(
        "--devices", type=harness.integers, default=list(DEVICES), help="comma-separated"
    )
    args = parser.parse_args()
    load = harness.load_of_others()
    times: dict[tuple[int, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        workers = {n: stack.enter_context(worker(n, args.data_dir)) for n in args.devices}
        tasks = [(number, size) for number in workers for size in sizes_for(number)]
        for number, size in tasks:
            workers[number].ask(str(size))  # compiles, and warms up
        for round_number in range(args.rounds):
            for number, size in harness.in_turn(tasks, round_number):
                times.setdefault((number, size), []).append(workers[number].ask(str(size)))
    rows = []
    for (number, size), measured in sorted(times.items()):
        seconds = [each["seconds_a_step"] for each in measured]
        rows.append(
            {
                "devices": number,
                "batch_size": size,
                "seconds_a_step": statistics.median(seconds),
                "fastest": min(seconds),
                "slowest": max(seconds),
                "cpu_per_wall": statistics.median(each["cpu_per_wall"] for each in measured),
            }
        )
    harness.write_report(
        args,
        load,
        cores=os.cpu_count(),
        strong=STRONG,
        weak=WEAK,
        not_measured=["gpu"],
        rows=rows,
    )


if __name__ == "__main__":
    main()
