"""Measures time and memory of training, evaluation and log p(x) as the work grows along one axis.

    python experiments/benchmarks/cost.py

Each axis of `AXES` is swept from `BASE`. Every point has its own process, so that the peak memory
of the process is that of the point. Between the last two points of an axis, a figure grows as
size^slope. `EXPECTED` has the slope of the work itself. Where the measured slope is steeper by
`TOLERANCE`, the report says so: such a surprise is a defect, or an effect that is missing here.

The data are random pixels, and the model is the paper's. The cost does not depend on what the model
learns.
"""

import argparse
import datetime
import json
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aevb.runtime import provenance

RESULTS = Path(__file__).resolve().parent / "results"


class Work(NamedTuple):
    """The amount of work."""

    num_data: int = 10_000  # N
    num_dims: int = 784  # D
    num_latents: int = 20  # Z
    hidden: int = 500  # H
    batch_size: int = 100  # M
    num_samples: int = 1  # L
    importance_samples: int = 1000  # K
    num_members: int = 1  # S, the size of a stack; a single one is trained alone


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

# The largest expected slope of each figure; an axis that is not listed is expected not to change
# it. Memory of all the data or all the parameters is counted with the arrays, as arguments.
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
    # the order of the data, twice
    "step_temp_bytes": MODEL | MINIBATCH | STACK | {"num_data": 1.0},
    "step_argument_bytes": MODEL | DATA | STACK,
    "step_output_bytes": MODEL | STACK | {"num_data": 1.0},  # the order again
    "evaluation_temp_bytes": MODEL | STACK,
    "importance_temp_bytes": MODEL | {"importance_samples": 0.5},  # the tail's 3 sqrt(K) weights
    "peak_mib": MODEL | MINIBATCH | DATA | STACK,
}
TOLERANCE = 0.15  # in the slope: the noise of a shared machine, and logarithms

SECONDS = 0.5  # least duration of a timing; shorter calls are repeated
ROUNDS = 4  # timings of each kind
IMPORTANCE_POINTS = 8  # datapoints whose log p(x) is estimated at once


def timed(call: Callable[[], object]) -> float:
    """Returns the seconds of a call that waits for its result.

    The first call is a warm-up. The fastest round counts, because other load on a shared machine
    can only add time.
    """
    call()

    def seconds(number: int) -> float:
        began = time.perf_counter()
        for _ in range(number):
            call()
        return (time.perf_counter() - began) / number

    once = seconds(1)
    if once > SECONDS:  # long enough to be reliable, and too long to repeat
        return once
    number = max(1, round(SECONDS / ROUNDS / once))
    return min(seconds(number) for _ in range(ROUNDS))


def peak_mib() -> float:
    """Returns the peak memory of this process; Linux only, 0 elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def measure(work: Work) -> dict[str, float]:
    """Returns the figures of `EXPECTED` for one amount of work."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from aevb import marginal, optimizers, vae
    from aevb.algorithms import aevb
    from aevb.algorithms.base import Algorithm
    from aevb.data import Dataset
    from aevb.evaluation import elbo
    from aevb.likelihoods import bernoulli
    from aevb.losses import sgvb_b
    from aevb.networks import mlp, normal_init
    from aevb.training import loop, stacked_runs

    size: dict[str, Any] = {"hidden": (work.hidden,), "initialization": normal_init(0.01)}
    heads = {"mean": work.num_latents, "log_var": work.num_latents}
    model = vae.make(
        mlp(work.num_dims, heads, **size),
        mlp(work.num_latents, {"logits": work.num_dims}, **size),
        bernoulli,
        num_latents=work.num_latents,
    )

    def algorithm_of(optimizer: optimizers.Optimizer) -> Algorithm:
        return aevb.make(
            model,
            optimizer,
            num_data=work.num_data,
            bound=sgvb_b,
            num_samples=work.num_samples,
        )

    def preprocess(key: jax.Array, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32)

    def permutation(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, work.num_data)

    shape = (work.num_data, work.num_dims)
    pixels = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    data = jnp.asarray(pixels)
    step_size = 0.01
    algorithm = algorithm_of(optimizers.make("adagrad", step_size))
    members = [jax.random.key(seed) for seed in range(work.num_members)]
    bounds_of = elbo.make_bounds(model, preprocess)
    if work.num_members == 1:
        advance = loop.make_advance(algorithm, preprocess, batch_size=work.batch_size)
        program, keys = loop.AheadOfTime(advance), loop.run_keys(members[0]).loop
        state = loop.first_state(algorithm.init, members[0])
        score, permute = elbo.make_score(model, preprocess), permutation
    else:
        stack = stacked_runs.stacked(
            [algorithm.init] * work.num_members,
            [step_size] * work.num_members,
            members,
            model,
            lambda step_size, wrap: algorithm_of(wrap(optimizers.make("adagrad", step_size))),
            Dataset("ones", pixels, pixels, "binary", preprocess, None, None),
            batch_size=work.batch_size,
        )
        program, keys, state = stack.program, stack.keys, stack.join(stack.init())
        score = stack.score
        bounds_of = jax.vmap(bounds_of, in_axes=(0, None, None))
        permute = jax.vmap(permutation)
    order = loop.no_order(keys, data)

    # Training: steps within an epoch, the cost of a pause, and the order of a new epoch
    compiled: Any = program.compile(keys, data, state)
    memory: dict[str, float] = _memory("step", compiled)

    def train(num_steps: int) -> None:
        nonlocal state, order
        state, order, means = compiled(keys, data, state, order, state.step + num_steps)
        means["objective"].block_until_ready()

    def train_one_step() -> None:  # with an existing order; repeats the same step
        nonlocal state
        state = state._replace(step=jnp.int32(0))
        train(1)

    one_step = timed(train_one_step)
    num_steps = min(work.num_data // work.batch_size, max(2, round(SECONDS / one_step)))

    def train_steps() -> None:
        nonlocal state
        state = state._replace(step=jnp.int32(0))
        train(num_steps)

    many_steps = timed(train_steps)
    step = (many_steps - one_step) / (num_steps - 1)

    shuffle = jax.jit(permute)
    shuffle_seconds = timed(lambda: shuffle(keys.order).block_until_ready())

    # Evaluation of all data
    everything = np.arange(work.num_data)
    evaluation_seconds = timed(lambda: score(state.params, pixels, everything))
    block = elbo.EVALUATION_BATCH
    stored, index = jnp.zeros((block, work.num_dims), jnp.uint8), jnp.arange(block)
    memory |= _memory("evaluation", jax.jit(bounds_of).lower(state.params, stored, index).compile())

    # log p(x) of the first member
    params = state.params
    if work.num_members > 1:
        params = jax.tree.map(lambda leaf: leaf[0], params)

    def log_p(params: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        stats, joint = model.encode(params, x), model.joint(params, x)
        estimate = marginal.importance_sampling(
            key, stats, model.guide, joint, num_samples=work.importance_samples
        )
        return estimate.value

    x = jnp.asarray(pixels[:IMPORTANCE_POINTS], jnp.float32)
    point_keys = jax.random.split(jax.random.key(0), len(x))
    estimate = jax.jit(jax.vmap(log_p, in_axes=(None, 0, 0)))
    estimate_compiled = estimate.lower(params, point_keys, x).compile()
    memory |= _memory("importance", estimate_compiled)
    importance_seconds = timed(lambda: estimate_compiled(params, point_keys, x).block_until_ready())
    return {
        "step_seconds": step,
        "pause_seconds": max(one_step - step, 0.0),
        "shuffle_seconds": shuffle_seconds,
        "evaluation_seconds": evaluation_seconds,
        "importance_seconds": importance_seconds / len(x),
        "peak_mib": peak_mib(),
        **{name: value for name, value in memory.items() if name in EXPECTED},
    }


def _memory(name: str, compiled: Any) -> dict[str, float]:
    analysis = compiled.memory_analysis()
    return {
        f"{name}_{kind}_bytes": getattr(analysis, f"{kind}_size_in_bytes")
        for kind in ("temp", "argument", "output")
    }


def growth(axis: str, sizes: list[int], points: list[dict[str, float]]) -> dict[str, Any]:
    """Returns each figure's slope between the last two sizes, the expected one, and a surprise."""
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", type=lambda text: text.split(","), default=list(AXES))
    parser.add_argument(
        "--sizes", type=int, default=None, help="at most so many sizes of each axis (default: all)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "cost.json")
    args = parser.parse_args()
    if unknown := set(args.axes) - set(AXES):
        parser.error(f"unknown axes {sorted(unknown)}: choose from {list(AXES)}")

    report: dict[str, Any] = {
        "command": "python experiments/benchmarks/cost.py",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "base": BASE._asdict(),
        "axes": {},
    }
    for axis in args.axes:
        sizes, points = list(AXES[axis][: args.sizes]), []
        for size in sizes:
            # Each point has a new process, so that its peak memory is that of this point alone.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                points.append(pool.apply(measure, [BASE._replace(**{axis: size})]))
            shown = ", ".join(f"{name} {value:.3g}" for name, value in points[-1].items())
            print(f"{axis} = {size:,}: {shown}", flush=True)
        found = growth(axis, sizes, points)
        for name, figure in found.items():
            if figure["surprise"]:
                print(
                    f"SURPRISE: {name} grows as {axis}^{figure['slope']:.2f}, "
                    f"and should as {axis}^{figure['expected']:g}"
                )
        report["axes"][axis] = {"sizes": sizes, "points": points, "growth": found}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
