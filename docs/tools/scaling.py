"""The tables of docs/scaling.md: measurements, and a model of the cost of a training step.

In the model, a step of M examples on n devices takes

    launch + max(arithmetic, memory traffic) + all-reduce

or the time to read M records, if that is longer, since records are read ahead. `Machine` has the
rates, and `Network` the counts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .documents import benchmark, spread, table

FLOAT = 4  # bytes


class Network(NamedTuple):
    """A network with one hidden layer in the encoder and one in the decoder, as in the paper."""

    num_dims: int
    num_hidden: int
    num_latents: int

    @property
    def num_weights(self) -> int:
        return self.num_hidden * (2 * self.num_dims + 3 * self.num_latents)

    @property
    def num_params(self) -> int:
        biases = 2 * self.num_hidden + 2 * self.num_latents + self.num_dims
        return self.num_weights + biases

    @property
    def flops(self) -> int:
        """Counts the operations per example: one product and one sum per weight and pass.

        The passes are the forward pass, the gradient of the inputs, and the gradient of the
        weights. The gradient of the first layer's inputs is not needed.
        """
        return 2 * (3 * self.num_weights - self.num_hidden * self.num_dims)

    @property
    def state_bytes(self) -> int:
        """Counts the bytes per step for any M: weight, accumulator, gradient, read and written."""
        return 6 * FLOAT * self.num_params

    @property
    def example_bytes(self) -> int:
        """Counts the bytes per example: values and gradients of each layer, written and read."""
        values = 3 * self.num_dims + 2 * self.num_hidden + 5 * self.num_latents
        return 2 * 2 * FLOAT * values


class Machine(NamedTuple):
    """The rates of one device of a machine, and of its links."""

    flops: float  # per second, of float32 products; the achieved rate, not the advertised one
    memory: float  # bytes per second
    launch: float  # seconds per step, a fixed cost
    inner_link: float  # bytes per second, among the devices of a host
    outer_link: float  # bytes per second, of one device, among hosts
    hop: float  # seconds per message among hosts
    devices_per_host: int
    records: float  # per second and host, of 784 bytes each, read at random places


class Step(NamedTuple):
    """The seconds of a step, and of its parts."""

    launch: float
    compute: float
    memory: float
    all_reduce: float
    input: float

    @property
    def seconds(self) -> float:
        return max(self.launch + max(self.compute, self.memory) + self.all_reduce, self.input)

    @property
    def limit(self) -> str:
        """Returns the name of the largest part."""
        if self.input >= self.seconds:
            return "reading"
        parts = {name: getattr(self, name) for name in ("launch", "compute", "memory")}
        parts["all-reduce"] = self.all_reduce
        return max(parts, key=lambda name: parts[name])


def step(network: Network, machine: Machine, devices: int, each: int, *, on_disk: bool) -> Step:
    """Models the time of a step with `each` examples on each of the devices."""
    hosts = math.ceil(devices / machine.devices_per_host)
    volume = 2 * (devices - 1) / devices * FLOAT * network.num_params  # of a ring, per device
    link = machine.inner_link if hosts == 1 else machine.outer_link
    hops = 2 * math.log2(devices) * machine.hop if devices > 1 else 0.0  # of a tree
    return Step(
        launch=machine.launch,
        compute=each * network.flops / machine.flops,
        memory=(network.state_bytes + each * network.example_bytes) / machine.memory,
        all_reduce=volume / link + hops,
        input=devices * each / (hosts * machine.records) if on_disk else 0.0,
    )


MNIST = Network(784, 500, 20)
# Round numbers of an accelerator of 2023, eight per host. None of them was measured here.
ACCELERATOR = Machine(
    flops=1e14,
    memory=2.5e12,
    launch=1e-4,
    inner_link=2e11,
    outer_link=4e10,
    hop=1e-5,
    devices_per_host=8,
    records=5e5,
)
IMAGES = 10**10


def fit(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Fits seconds per step and per example on one device, by least squares of relative errors."""
    alone = [row for row in rows if row["devices"] == 1]
    sizes = np.array([row["batch_size"] for row in alone], float)
    seconds = np.array([row["seconds_a_step"] for row in alone])
    terms = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None]
    (constant, each), *_ = np.linalg.lstsq(terms, np.ones_like(seconds), rcond=None)
    return float(constant), float(each)


def alone_table() -> str:
    """Returns the table of one device: measured times, and the straight line fitted to them."""
    rows = benchmark("scaling_speed")["rows"]
    constant, each = fit(rows)
    line = f"fit: {1e3 * constant:.2f} ms + {1e6 * each:.1f} µs · M"
    return table(
        {
            "minibatch": f"M = {size}",
            "step (ms)": f"{1e3 * row['seconds_a_step']:.2f}",
            line: f"{1e3 * (constant + each * size):.2f}",
            "examples/s": f"{size / row['seconds_a_step']:,.0f}",
            "CPU/wall time": f"{row['cpu_per_wall']:.2f}",
        }
        for row in rows
        if row["devices"] == 1
        for size in [row["batch_size"]]
    )


def devices_table() -> str:
    """Returns the table of simulated devices, with a shared minibatch and with one that grows."""
    report = benchmark("scaling_speed")
    found = {(row["devices"], row["batch_size"]): row for row in report["rows"]}
    strong, weak = report["strong"], report["weak"]

    def times(number: int, size: int, title: str, relative: str) -> dict[str, str]:
        seconds = found[number, size]["seconds_a_step"]
        share = seconds / found[1, size]["seconds_a_step"]
        return {f"{title}: step (ms)": f"{1e3 * seconds:.2f}", relative: f"{share:.2f}"}

    return table(
        {
            "devices": str(number),
            **times(number, strong, f"M = {strong} in all", "relative to one device"),
            **times(
                number,
                weak * number,
                f"M = {weak} each",
                "relative to one device with the same sum",
            ),
            "CPU/wall time": f"{found[number, strong]['cpu_per_wall']:.2f}",
        }
        for number in sorted({devices for devices, _ in found})
    )


def streaming_table() -> str:
    """Returns the table that compares data on disk with data in memory."""
    titles = {"frey": "Frey faces, 560-200-2", "mnist": "MNIST, 784-500-20"}
    return table(
        {
            "": titles[data],
            "in memory (examples/s)": f"{memory['examples_per_second']['median']:,.0f}",
            "on disk (examples/s)": f"{disk['examples_per_second']['median']:,.0f}",
            "disk/memory (range)": spread(found["ratio"], digits=2),
            "CPU/wall time": f"{memory['cpu_per_wall']:.2f} and {disk['cpu_per_wall']:.2f}",
            "largest difference of a parameter": f"{found['largest_difference_of_a_parameter']:g}",
        }
        for data, found in benchmark("streaming_speed")["data"].items()
        for memory, disk in [[found["ways"][way] for way in ("memory", "stream")]]
    )


def held_table() -> str:
    """Returns the memory that the process under a limit held during its epoch."""
    small = benchmark("streaming_speed")["small_process"]
    held = small["resident_mib"]
    title = f"{small['gigabytes']:g} GB, process limited to {small['limit_gib']:g} GiB"
    parts = {
        f"after {100 * (number + 1) // len(held)} %": f"{mib:.0f}"
        for number, mib in enumerate(held)
    }
    return table([{title: "resident memory (MiB)", **parts}])


def accelerators_table() -> str:
    """Returns the model's speed on up to 1,000 accelerators, and the limiting part."""

    def speed(devices: int, each: int, place: str) -> dict[str, str]:
        found = step(MNIST, ACCELERATOR, devices, each, on_disk=place == "on disk")
        rate = devices * each / found.seconds
        return {
            f"{place} (images/s)": f"{rate:.1e}",
            f"{place}: time for 10¹⁰": _duration(IMAGES / rate),
            f"{place}: limit": found.limit,
        }

    return table(
        {
            "devices": f"{devices:,}",
            "M per device": f"{each:,}",
            **speed(devices, each, "in memory"),
            **speed(devices, each, "on disk"),
        }
        for devices in (1, 8, 64, 1000)
        for each in (100, 1000, 10_000)
    )


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


TABLES: Mapping[str, Callable[[], str]] = {
    "streaming": streaming_table,
    "held": held_table,
    "one device": alone_table,
    "devices": devices_table,
    "accelerators": accelerators_table,
}
