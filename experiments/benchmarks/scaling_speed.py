"""Measures a step's time on 1, 2, 4 and 8 devices, with a fixed minibatch and a growing one.

    python experiments/benchmarks/scaling_speed.py --data-dir=DATA

The growing minibatch has a fixed size per device. On a CPU the devices are simulated by threads on
the same cores: this shows the cost of dividing a step, and cannot show its gain. Each number of
devices has its own process. The processes work in turn, one minibatch size at a time, and the
figures are medians over rounds.
"""

import argparse
import datetime
import os
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from contender import Contender, in_turn, load_of_others, write_report

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results"
DEVICES = (1, 2, 4, 8)
STRONG = 800  # the minibatch that all devices share
WEAK = 100  # the minibatch of each device
ALONE = (50, 100, 200, 400, 800, 1600)  # minibatches of one device, for the cost model


def sizes_for(devices: int) -> list[int]:
    """Returns the sizes of minibatches for a process with so many devices."""
    return list(ALONE) if devices == 1 else sorted({STRONG, WEAK * devices})


def worker(devices: int, data_dir: Path) -> Contender:
    simulated = f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, str(BENCHMARKS / "scaling_worker.py"), f"--data-dir={data_dir}"]
    return Contender(f"{devices} devices", ["env", simulated, *command])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--devices", type=lambda text: [int(number) for number in text.split(",")],
        default=list(DEVICES), help="comma-separated",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling_speed.json")
    args = parser.parse_args()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load = load_of_others()
    times: dict[tuple[int, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        workers = {
            number: stack.enter_context(worker(number, args.data_dir.absolute()))
            for number in args.devices
        }
        for number, contender in workers.items():
            ready = contender.read_answer()
            if ready["devices"] != number:
                raise SystemExit(f"{contender.name}: jax has {ready['devices']}")
        tasks = [(number, size) for number in workers for size in sizes_for(number)]
        for number, size in tasks:
            workers[number].ask(str(size))  # compiles, and warms up
        for round_number in range(args.rounds):
            for number, size in in_turn(tasks, round_number):
                times.setdefault((number, size), []).append(workers[number].ask(str(size)))
    rows: list[dict[str, Any]] = [
        {
            "devices": number,
            "batch_size": size,
            "seconds_a_step": statistics.median(each["seconds_a_step"] for each in measured),
            "fastest": min(each["seconds_a_step"] for each in measured),
            "slowest": max(each["seconds_a_step"] for each in measured),
            "cpu_per_wall": statistics.median(each["cpu_per_wall"] for each in measured),
        }
        for (number, size), measured in sorted(times.items())
    ]
    write_report(
        args.output,
        command=(
            f"python experiments/benchmarks/scaling_speed.py --data-dir=DATA "
            f"--rounds={args.rounds} --devices={','.join(map(str, args.devices))}"
        ),
        load=load,
        date=date,
        cores=os.cpu_count(),
        strong=STRONG,
        weak=WEAK,
        not_measured=["gpu"],
        rows=rows,
    )


if __name__ == "__main__":
    main()
