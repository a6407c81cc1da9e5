"""Measures time and memory of training, evaluation and log p(x) as the work grows along one axis.

    python experiments/benchmarks/cost.py

Each axis of `AXES` is swept from `BASE`. Every point has its own process, so that the peak memory
of the process is that of the point. Between the last two points of an axis, a figure grows as
size^slope. `EXPECTED` has the slope of the work itself. If the measured slope is larger by more
than `TOLERANCE`, the report calls it a surprise: a defect, or an effect that `EXPECTED` omits.

The data are random pixels, and the model is the paper's. The cost does not depend on what the model
learns.
"""

import math
import multiprocessing
from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from worker import peak_kib, timed

from aevb import marginal, optimizers, vae
from aevb.algorithms import aevb
from aevb.algorithms.base import Algorithm, TrainState
from aevb.data import Dataset
from aevb.evaluation import elbo
from aevb.likelihoods import bernoulli
from aevb.losses import sgvb_b
from aevb.networks import mlp, normal_init
from aevb.training import loop, stacked_runs
from aevb.types import Key
from aevb.vae import VAE


class Work(NamedTuple):
    """The amount of work."""

    num_data: int = 10_000  # N
    num_dims: int = 784  # D
    num_latents: int = 20  # Z
    hidden: int = 500  # H
    batch_size: int = 100  # M
    num_samples: int = 1  # L
    importance_samples: int = 1000  # K
    num_members: int = 1  # S, the size of a stack; a single member is trained without a stack


BASE = Work()
AXES = {
    "num_data": (1_000, 10_000, 100_000, 1_000_000),
    "num_dims": (100, 1000, 10_000),
    "num_latents": (10, 100, 1000),
    "hidden": (50, 500, 5000),
    "batch_size": (10, 100, 1000, 5000),  # at least two steps per epoch
    "num_samples": (1, 10, 100),
    "importance_samples": (1000, 10_000, 100_000),
    "num_members": (1, 4, 16, 64, 256),
}

# The largest expected slope of each figure. A figure is expected not to depend on an axis that is
# not listed. All data and all parameters are arguments of a call, where their memory is counted.
MODEL: dict[str, float] = dict.fromkeys(("num_dims", "num_latents", "hidden"), 1.0)
MINIBATCH: dict[str, float] = dict.fromkeys(("batch_size", "num_samples"), 1.0)
DATA: dict[str, float] = {"num_data": 1.0, "num_dims": 1.0}
STACK: dict[str, float] = {"num_members": 1.0}
EXPECTED: dict[str, dict[str, float]] = {
    "step_seconds": MODEL | MINIBATCH | STACK,
    "pause_seconds": MODEL | MINIBATCH | STACK,
    "shuffle_seconds": {"num_data": 1.1} | STACK,  # a sort: N log N, one per member
    "evaluation_seconds": MODEL | STACK | {"num_data": 1.0},
    "importance_seconds": MODEL | {"importance_samples": 1.0},
    # the permutation of the data, twice
    "step_temp_bytes": MODEL | MINIBATCH | STACK | {"num_data": 1.0},
    "step_argument_bytes": MODEL | DATA | STACK,
    "step_output_bytes": MODEL | STACK | {"num_data": 1.0},  # the permutation again
    "evaluation_temp_bytes": MODEL | STACK,
    "importance_temp_bytes": MODEL | {"importance_samples": 0.5},  # the tail's 3 sqrt(K) weights
    "peak_mib": MODEL | MINIBATCH | DATA | STACK,
}
TOLERANCE = 0.15  # in the slope: the noise of a shared machine, and logarithms

SECONDS = 0.5  # least duration of a timing; shorter calls are repeated
ROUNDS = 4  # timings of each kind
IMPORTANCE_POINTS = 8  # datapoints whose log p(x) is estimated at once


def seconds_of(call: Callable[[], object]) -> float:
    """Returns the seconds of a call that waits for its result.

    The first call is a warm-up. The fastest round counts, because other load on a shared machine
    can only add time.
    """
    call()

    def seconds(number: int) -> float:
        return timed(lambda: [call() for _ in range(number)])[1]["seconds"] / number

    once = seconds(1)
    if once > SECONDS:  # long enough to be reliable, and too long to repeat
        return once
    number = max(1, round(SECONDS / ROUNDS / once))
    return min(seconds(number) for _ in range(ROUNDS))


def measure(work: Work) -> dict[str, float]:
    """Returns the figures of `EXPECTED` for one amount of work."""
    size: dict[str, Any] = {"hidden": (work.hidden,), "initialization": normal_init(0.01)}
    model = vae.make(
        mlp(work.num_dims, dict.fromkeys(("mean", "log_var"), work.num_latents), **size),
        mlp(work.num_latents, {"logits": work.num_dims}, **size),
        bernoulli,
        num_latents=work.num_latents,
    )
    shape = (work.num_data, work.num_dims)
    pixels = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    trainer, found = training(work, model, pixels)
    found |= evaluation(work, trainer, model, pixels)
    params = trainer.state.params
    if work.num_members > 1:
        params = jax.tree.map(lambda leaf: leaf[0], params)
    found |= importance(work, model, params, pixels)
    found["peak_mib"] = peak_kib() / 1024
    return {name: found[name] for name in EXPECTED}


class Made(NamedTuple):
    """One run, or a stack of several."""

    program: loop.Program
    keys: loop.LoopKeys
    state: TrainState
    score: Callable[..., Any]


def make_run(work: Work, model: VAE, pixels: np.ndarray) -> Made:
    """Returns one run, or a stack of several."""

    def optimizer_of(step_size: float | jax.Array) -> optimizers.Optimizer:
        decay = optimizers.prior_decay(1.0, work.num_data)
        return optimizers.make("adagrad", step_size, weight_decay=decay)

    def algorithm_of(optimizer: optimizers.Optimizer) -> Algorithm:
        return aevb.make(model, optimizer, bound=sgvb_b, num_samples=work.num_samples)

    step_size = 0.01
    algorithm = algorithm_of(optimizer_of(step_size))
    members = [jax.random.key(seed) for seed in range(work.num_members)]
    if work.num_members == 1:
        advance = loop.make_advance(algorithm, as_floats, batch_size=work.batch_size)
        return Made(
            loop.AheadOfTime(advance),
            loop.run_keys(members[0]).loop,
            loop.first_state(algorithm.init, members[0]),
            elbo.make_score(model, as_floats),
        )
    stack = stacked_runs.stacked(
        [algorithm.init] * work.num_members,
        [step_size] * work.num_members,
        members,
        model,
        lambda step_size, wrap: algorithm_of(wrap(optimizer_of(step_size))),
        Dataset("ones", pixels, pixels, "binary", as_floats, None, None),
        num_latents=[model.num_latents] * work.num_members,
        batch_size=work.batch_size,
    )
    return Made(stack.program, stack.keys, stack.join(stack.init()), stack.score)


def as_floats(key: Key, x: Array) -> Array:
    return x.astype(jnp.float32)


class Training:
    """A run in the middle of its training."""

    def __init__(self, run: Made, data: Any):
        self.run, self.data, self.state = run, data, run.state
        self.order = loop.no_order(run.keys, data)
        self.compiled = run.program.compile(run.keys, data, self.state)

    def repeat(self, num_steps: int) -> None:
        """Repeats the first steps of the epoch; only the first call draws the permutation."""

        self.state = self.state._replace(step=jnp.int32(0))
        self.state, self.order, means = self.compiled(
            self.run.keys, self.data, self.state, self.order, self.state.step + num_steps
        )
        means["objective"].block_until_ready()


def training(work: Work, model: VAE, pixels: np.ndarray) -> tuple[Training, dict[str, float]]:
    """Measures a step within an epoch, a pause, and the permutation of a new epoch."""
    trainer = Training(make_run(work, model, pixels), jnp.asarray(pixels))
    found = memory("step", trainer.compiled)
    one_step = seconds_of(lambda: trainer.repeat(1))
    num_steps = min(work.num_data // work.batch_size, max(2, round(SECONDS / one_step)))
    more_steps = seconds_of(lambda: trainer.repeat(num_steps)) - one_step
    step = max(more_steps, 0.0) / (num_steps - 1)  # other load can make the difference negative

    def permutation(key: Key) -> Array:
        return jax.random.permutation(key, work.num_data)

    shuffle = jax.jit(permutation if work.num_members == 1 else jax.vmap(permutation))
    order_key = trainer.run.keys.order
    return trainer, found | {
        "step_seconds": step,
        "pause_seconds": max(one_step - step, 0.0),
        "shuffle_seconds": seconds_of(lambda: shuffle(order_key).block_until_ready()),
    }


def evaluation(work: Work, trainer: Training, model: VAE, pixels: np.ndarray) -> dict[str, float]:
    """Measures the evaluation of all data, and the memory of one block of it."""
    everything, params = np.arange(work.num_data), trainer.state.params
    seconds = seconds_of(lambda: trainer.run.score(params, pixels, everything))
    bounds_of = elbo.make_bounds(model, as_floats)
    if work.num_members > 1:
        bounds_of = jax.vmap(bounds_of, in_axes=(0, None, None))
    block = elbo.EVALUATION_BATCH
    stored, index = jnp.zeros((block, work.num_dims), jnp.uint8), jnp.arange(block)
    compiled = jax.jit(bounds_of).lower(params, stored, index).compile()
    return {"evaluation_seconds": seconds, **memory("evaluation", compiled)}


def importance(work: Work, model: VAE, params: Any, pixels: np.ndarray) -> dict[str, float]:
    """Measures the estimate of log p(x) of `IMPORTANCE_POINTS` datapoints."""

    def log_p(params: Any, key: Key, x: Array) -> Array:
        stats, joint = model.encode(params, x), model.joint(params, x)
        return marginal.importance_sampling(
            key, stats, model.guide, joint, num_samples=work.importance_samples
        ).value

    x = jnp.asarray(pixels[:IMPORTANCE_POINTS], jnp.float32)
    keys = jax.random.split(jax.random.key(0), len(x))
    compiled = jax.jit(jax.vmap(log_p, in_axes=(None, 0, 0))).lower(params, keys, x).compile()
    seconds = seconds_of(lambda: compiled(params, keys, x).block_until_ready())
    return {"importance_seconds": seconds / len(x), **memory("importance", compiled)}


def memory(name: str, compiled: Any) -> dict[str, float]:
    analysis = compiled.memory_analysis()
    return {
        f"{name}_{kind}_bytes": getattr(analysis, f"{kind}_size_in_bytes")
        for kind in ("temp", "argument", "output")
    }


def growth(axis: str, sizes: list[int], points: list[dict[str, float]]) -> dict[str, Any]:
    """Returns each figure's slope between the last two sizes, and whether it is a surprise."""
    found = {}
    for name, expected_of in EXPECTED.items():
        last, before = points[-1][name], points[-2][name]
        grown = last > 0 and before > 0
        slope = math.log(last / before) / math.log(sizes[-1] / sizes[-2]) if grown else 0.0
        expected = expected_of.get(axis, 0.0)
        found[name] = {
            "slope": slope,
            "expected": expected,
            "surprise": slope > expected + TOLERANCE,
        }
    return found


def main() -> None:
    parser = harness.argument_parser(__doc__)
    harness.add_choices(parser, "--axes", AXES)
    parser.add_argument("--sizes", type=int, help="at most so many sizes of each axis")
    args = parser.parse_args()
    load, axes = harness.load_of_others(), {}
    for axis in args.axes:
        sizes, points = list(AXES[axis][: args.sizes]), []
        for size in sizes:
            # Each point has a new process, so that its peak memory is that of this point alone.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                points.append(pool.apply(measure, [BASE._replace(**{axis: size})]))
            shown = ", ".join(f"{name} {value:.3g}" for name, value in points[-1].items())
            print(f"{axis} = {size:,}: {shown}", flush=True)
        found = growth(axis, sizes, points)
        print("surprises:", [name for name, figure in found.items() if figure["surprise"]])
        axes[axis] = {"sizes": sizes, "points": points, "growth": found}
        harness.write_report(args, load, base=BASE._asdict(), axes=axes)


if __name__ == "__main__":
    main()
