"""The cells of accelerator.py: what is measured, in which order, and with how many operations."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gemm_worker
import worker

NUM_LATENTS = 20
SIDE = 28  # rows and columns of an image of MNIST
WINDOW = 9  # elements of a 3 x 3 kernel
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
WAYS = {  # of PyTorch, by precision
    "float32": ("eager", "compile", "graphs"),
    "tensorfloat32": ("graphs",),
    "bfloat16": ("graphs",),
}
GROUPS = ("single", "stacks", "importance", "sweep", "torch")


class Sizes(NamedTuple):
    """The sizes of all cells."""

    hidden: int  # units of the MLP's hidden layers
    channels: tuple[int, ...]  # of the convolutions
    batch_sizes: tuple[int, ...]  # M
    members: tuple[int, ...]  # S
    latents: tuple[int, ...]  # of the sweep
    seeds: int  # of the sweep, for each number of latents
    num_samples: int  # K
    images: int  # whose log p(x) is estimated at once
    round_seconds: float
    rounds: int
    sweep_seconds: float  # that the sweep may use, and after which its worker is ended
    sweep_limit: float


FULL = Sizes(
    hidden=500, channels=(32, 64), batch_sizes=(100, 1000),
    members=(1, 2, 4, 8, 16, 32, 64, 128, 256), latents=(3, 5, 10, 20, 200), seeds=3,
    num_samples=5000, images=50, round_seconds=0.5, rounds=5, sweep_seconds=270.0,
    sweep_limit=300.0,
)  # fmt: skip
QUICK = Sizes(
    hidden=16, channels=(2, 4), batch_sizes=(10, 50), members=(1, 2, 3), latents=(2, 3), seeds=2,
    num_samples=500, images=4, round_seconds=0.02, rounds=3, sweep_seconds=3.0,
    sweep_limit=90.0,
)  # fmt: skip


class Cell(NamedTuple):
    """One measurement."""

    name: str
    group: str  # one of GROUPS
    request: Mapping[str, Any]  # what the worker is asked; see cell_worker.py
    about: Mapping[str, Any]  # what is measured, for the record
    flops: float  # of the products of one example
    seconds: float = 90.0  # the most that it may take; after that its worker is ended
    least: float = 15.0  # it is not begun with less time left

    @property
    def library(self) -> str:
        return "torch" if self.group == "torch" else "aevb"


def cells(sizes: Sizes) -> list[Cell]:
    """Returns all cells, the most important first."""
    return [*_singles(sizes), *_stacks(sizes), _importance(sizes), _sweep(sizes), *_torch(sizes)]


def _rounds(sizes: Sizes) -> dict[str, Any]:
    return {"seconds": sizes.round_seconds, "rounds": sizes.rounds}


def _models(sizes: Sizes) -> list[tuple[dict[str, Any], float]]:
    """Returns the models of single runs, as arguments of a worker, with their FLOP per example."""
    hidden = {"mlp": (sizes.hidden,), "conv": sizes.channels}
    flops = {"mlp": mlp_flops(sizes.hidden, NUM_LATENTS), "conv": conv_flops(sizes.channels)}
    return [
        ({"network": network, "hidden": hidden[network], "batch_size": batch_size}, flops[network])
        for network, batch_size in itertools.product(hidden, sizes.batch_sizes)
    ]


def _singles(sizes: Sizes) -> list[Cell]:
    return [
        Cell(
            f"{model['network']} M={model['batch_size']} {precision}",
            "single",
            {"kind": "single", **model, "precision": precision, **_rounds(sizes)},
            {**model, "precision": precision},
            flops,
        )
        for precision, (model, flops) in itertools.product(PRECISIONS, _models(sizes))
    ]


def _stacks(sizes: Sizes) -> list[Cell]:
    model = {"hidden": (sizes.hidden,), "batch_size": sizes.batch_sizes[0]}
    flops = mlp_flops(sizes.hidden, NUM_LATENTS)
    return [
        Cell(
            f"stack S={size}",
            "stacks",
            {"kind": "stack", **model, "members": size, **_rounds(sizes)},
            {**model, "members": size, "precision": "default"},
            flops,
        )
        for size in sizes.members
    ]


def _importance(sizes: Sizes) -> Cell:
    work = {"hidden": (sizes.hidden,), "num_samples": sizes.num_samples, "images": sizes.images}
    decoder = sizes.hidden * (NUM_LATENTS + SIDE**2)
    return Cell(
        "importance",
        "importance",
        {"kind": "importance", **work, **_rounds(sizes)},
        {**work, "precision": "default"},
        2 * sizes.num_samples * decoder,
    )


def _sweep(sizes: Sizes) -> Cell:
    model = {"hidden": (sizes.hidden,), "batch_size": sizes.batch_sizes[0]}
    work = {**model, "latents": sizes.latents, "seeds": sizes.seeds}
    flops = [mlp_flops(sizes.hidden, num_latents) for num_latents in sizes.latents]
    return Cell(
        "sweep",
        "sweep",
        {"kind": "sweep", **work, "rounds": sizes.rounds, "budget": sizes.sweep_seconds},
        {**work, "precision": "default"},
        sum(flops) / len(flops),
        seconds=sizes.sweep_limit,
        least=60.0,
    )


def _torch(sizes: Sizes) -> list[Cell]:
    return [
        Cell(
            f"torch {model['network']} M={model['batch_size']} {precision} {way}",
            "torch",
            {"kind": "single", **model, "precision": precision, "way": way, **_rounds(sizes)},
            {**model, "precision": precision, "way": way},
            flops,
        )
        for precision, ways in WAYS.items()
        for way, (model, flops) in itertools.product(ways, _models(sizes))
    ]


# Operations


def mlp_flops(hidden: int, num_latents: int) -> int:
    """Counts the operations per example in the products of one training step."""
    return gemm_worker.flops_per_example(worker.Sizes(SIDE**2, hidden, 1, 0), num_latents)


def conv_flops(channels: Sequence[int]) -> int:
    """Counts the operations per example in the products of one training step.

    Every position of a convolution has a whole window, also at the edges. The transposed
    convolutions of the decoder have the products of the encoder's convolutions.
    """
    side, num_in, convolutions = SIDE, 1, []
    for num_out in channels:
        side = -(-side // 2)
        convolutions.append(side**2 * WINDOW * num_in * num_out)
        num_in = num_out
    dense = 3 * side**2 * num_in * NUM_LATENTS  # mean, log variance, and the decoder's first layer
    return 2 * (3 * (2 * sum(convolutions) + dense) - convolutions[0])
