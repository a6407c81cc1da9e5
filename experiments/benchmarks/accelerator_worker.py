"""Measures aevb on jax's first device: the worker of accelerator.py.

The protocol is that of cell_worker.py. Every cell compiles its own program, with the precision of
its matrix products: "float32" and "tensorfloat32" are jax's `default_matmul_precision`, "bfloat16"
is `model.compute_dtype`. A cell without a precision has jax's default.
"""

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cell_worker
import jax
import jax.numpy as jnp
import members_speed
import numpy as np
import raw_data

from aevb import marginal
from aevb.algorithms.base import TrainState
from aevb.config import Values, default_config, validate, with_values
from aevb.data import Dataset, preprocessing
from aevb.experiment import Loader
from aevb.runtime import xla
from aevb.sweeps.devices import DeviceTrainer, Machine
from aevb.sweeps.grid import Member
from aevb.training import loop, stacked_runs

MATMUL = {"float32": "highest", "tensorfloat32": "tensorfloat32", "bfloat16": "default"}
PAPER = 10**8  # examples of the paper's figure 2


class Given(Loader):
    """A loader that returns one dataset for every config."""

    def __init__(self, dataset: Dataset):
        super().__init__()
        self._dataset = dataset

    def __call__(self, values: Values) -> Dataset:
        return self._dataset


def load(folder: Path) -> Dataset:
    """Returns binarized MNIST as PyTorch reads it, without validation data."""
    train, test = (images.astype(np.uint8) for images in raw_data.load(folder, "mnist"))
    return Dataset(
        "binarized_mnist", train, test, "binary", preprocessing.unchanged, (28, 28), None,
        valid=test[:0],
    )  # fmt: skip


def values_of(
    hidden: Sequence[int], batch_size: int, *, network: str = "mlp", dtype: str = "float32"
) -> Values:
    """Returns the config of the paper's model of MNIST, or of one with convolutions."""
    fields = {
        "data.name": "binarized_mnist",
        "model.network": network,
        "model.hidden": tuple(hidden),
        "model.num_latents": 20,
        "model.init": "fan_in" if network == "conv" else "normal",
        "model.likelihood": "bernoulli",
        "model.compute_dtype": dtype,
        "optimizer.step_size": 0.02,
        "train.batch_size": batch_size,
    }
    return validate(with_values(default_config(), fields))


class Training:
    """One run, or a stack of runs, in the middle of its training."""

    def __init__(
        self, program: loop.Program, keys: loop.LoopKeys, state: TrainState, data: jax.Array
    ):
        self.keys, self.state, self.data = keys, state, data
        self.order = loop.no_order(keys, data)
        self.advance = program.compile(keys, data, state)

    def take(self, number: int) -> float:
        """Takes some steps; returns their mean objective, the sum over members of a stack."""
        stop = self.state.step + number
        self.state, self.order, means = self.advance(
            self.keys, self.data, self.state, self.order, stop
        )
        return float(np.sum(means["objective"]))  # waits for the device


class Measures:
    """The functions that measure a cell, on one dataset."""

    def __init__(self, folder: Path):
        self.folder = folder

    @functools.cached_property
    def dataset(self) -> Dataset:
        return load(self.folder)

    @functools.cached_property
    def data(self) -> jax.Array:
        return jnp.asarray(self.dataset.train)

    def trainer(self) -> DeviceTrainer:
        """Returns a trainer that has not compiled anything, and that writes nothing here."""
        trainer = DeviceTrainer(Path(), Machine("stack", num_runs=1))
        trainer.dataset = Given(self.dataset)
        return trainer

    def begin(self, values: Values) -> Training:
        experiment, program, _ = self.trainer().program(values)
        key = jax.random.key(0)
        state = loop.first_state(experiment.algorithm.init, key)
        return Training(program, loop.run_keys(key).loop, state, self.data)

    def begin_stack(self, runs: Sequence[Member]) -> tuple[Training, stacked_runs.Stack]:
        stack = self.trainer().as_stack(tuple(runs))
        state = stack.join(stack.init())
        return Training(stack.program, stack.keys, state, self.data), stack

    def single(
        self, *, network: str, hidden: Sequence[int], batch_size: int, precision: str,
        **how: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Measures one run."""
        dtype = "bfloat16" if precision == "bfloat16" else "float32"
        with jax.default_matmul_precision(MATMUL[precision]):
            training = self.begin(values_of(hidden, batch_size, network=network, dtype=dtype))
            return cell_worker.rates(training.take, batch_size, **how)

    def stack(
        self, *, hidden: Sequence[int], batch_size: int, members: int, **how: Any
    ) -> dict[str, Any]:
        """Measures runs that differ in their seeds, in one program; one run without a stack."""
        values = values_of(hidden, batch_size)
        if members == 1:
            training = self.begin(values)
        else:
            training, _ = self.begin_stack(members_speed.members(values, members))
        return cell_worker.rates(training.take, members * batch_size, **how)

    def sweep(
        self, *, hidden: Sequence[int], batch_size: int, latents: Sequence[int], seeds: int,
        budget: float, rounds: int,
    ) -> dict[str, Any]:  # fmt: skip
        """Measures the training of a sweep in one program, for about `budget` seconds in all.

        The rates are of all members together. They do not include the evaluations, checkpoints and
        figures of a sweep.
        """
        began = time.perf_counter()
        values = values_of(hidden, batch_size)
        runs = [
            Member(f"{Z}-{seed}", {}, {**values, "model.num_latents": Z, "seed": seed})
            for Z in latents
            for seed in range(seeds)
        ]
        training, stack = self.begin_stack(runs)
        training.take(1)
        left = max(0.0, budget - (time.perf_counter() - began))
        seconds = left / (rounds + 2)  # two rounds, at most, choose the number of steps
        found = cell_worker.rates(
            training.take, len(runs) * batch_size, seconds=seconds, rounds=rounds
        )
        test = self.dataset.test
        scores = stack.score(training.state.params, test, np.arange(len(test)))
        bounds = [score.mean for score in scores]
        each = float(np.median(found["rates"])) / len(runs)
        return {
            **found,
            "members": len(runs),
            "examples_a_member": int(training.state.step) * batch_size,
            "test_bound": {
                str(Z): float(np.mean(bounds[seeds * number : seeds * (number + 1)]))
                for number, Z in enumerate(latents)
            },
            "extrapolated": {"examples_a_member": PAPER, "hours": PAPER / each / 3600},
        }

    def importance(
        self, *, hidden: Sequence[int], num_samples: int, images: int, **how: Any
    ) -> dict[str, Any]:
        """Measures the estimate of log p(x) of some images with K samples each, untrained."""
        experiment, *_ = self.trainer().program(values_of(hidden, 100))
        vae, params = experiment.vae, experiment.vae.init(jax.random.key(0))

        def log_p(params: Any, key: jax.Array, x: jax.Array) -> jax.Array:
            stats, joint = vae.encode(params, x), vae.joint(params, x)
            return marginal.importance_sampling(
                key, stats, vae.guide, joint, num_samples=num_samples
            ).value

        x = jnp.asarray(self.dataset.test[:images], jnp.float32)
        keys = jax.random.split(jax.random.key(1), images)
        compiled = jax.jit(jax.vmap(log_p, in_axes=(None, 0, 0))).lower(params, keys, x).compile()

        def take(number: int) -> float:
            return [float(jnp.mean(compiled(params, keys, x))) for _ in range(number)][-1]

        return cell_worker.rates(take, images, **how)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the datasets")
    measures = Measures(parser.parse_args().data_dir)
    xla.use_cache()
    device = jax.devices()[0]
    cell_worker.serve(
        ("aevb", "jax", "jaxlib"),
        {name: getattr(measures, name) for name in ("single", "stack", "sweep", "importance")},
        device={
            "platform": device.platform,
            "kind": device.device_kind,
            "number": jax.device_count(),
        },
    )


if __name__ == "__main__":
    main()
