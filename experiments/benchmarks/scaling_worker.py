"""Times training steps on several devices on request: a contender of scaling_speed.py.

XLA_FLAGS sets the number of devices, and the worker's first line states it. Each line of stdin is
the size of a minibatch, and the answer is {"seconds_a_step", "cpu_per_wall"}.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
from aevb_worker import config_of
from worker import serve, timed

from aevb.experiment import build
from aevb.runtime import distributed
from aevb.training import loop, streaming

SECONDS = 0.5  # an answer is the time of a stretch of steps that takes longer than this


class Steps:
    """Training with minibatches of one size, for as many steps as requested."""

    def __init__(self, data_dir: Path, batch_size: int):
        values = config_of(
            argparse.Namespace(
                data="mnist", data_dir=data_dir, latent_dim=20, batch_size=batch_size,
                step_size=0.02,
            )
        )  # fmt: skip
        dataset, _, algorithm = build(values)
        placement = distributed.place_for(batch_size)
        program = streaming.make_program(
            algorithm, dataset, batch_size=batch_size, split=distributed.split(placement)
        )
        self.data = streaming.on_device(dataset.train, placement)
        state: Any = algorithm.init(jax.random.key(0))
        keys = loop.run_keys(jax.random.key(0)).loop
        self.keys, self.state = distributed.place((keys, state), placement)
        self.advance = program.compile(self.keys, self.data, self.state)
        self.order = loop.no_order(self.keys, self.data)
        self.take(1)  # the first step draws the permutation of the epoch

    def take(self, number: int) -> None:
        stop = self.state.step + number
        self.state, self.order, means = self.advance(
            self.keys, self.data, self.state, self.order, stop
        )
        float(distributed.local(means["objective"]))  # waits for the device

    def time(self) -> dict[str, float]:
        number = 1
        while True:
            times = timed(lambda number=number: self.take(number))[1]
            wall, cpu = times["seconds"], times["cpu_seconds"]
            if wall > SECONDS:
                return {"seconds_a_step": wall / number, "cpu_per_wall": cpu / wall}
            number = max(2 * number, int(1.2 * number * SECONDS / wall))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the datasets")
    data_dir = parser.parse_args().data_dir
    known: dict[int, Steps] = {}

    def answer_to(request: str) -> dict[str, float]:
        size = int(request)
        if size not in known:
            known[size] = Steps(data_dir, size)
        return known[size].time()

    serve(("jax",), answer_to, devices=jax.device_count())


if __name__ == "__main__":
    main()
