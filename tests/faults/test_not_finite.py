"""A NaN or an infinity in data, a gradient or a parameter, which must be caught at that step."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from test_damage import small, what_came_of_it

from aevb import experiment, runs
from aevb.algorithms.base import Batch, TrainState
from aevb.data.identity import identity
from aevb.errors import UserError
from aevb.experiment import Experiment
from aevb.optimizers import Optimizer
from aevb.storage import checkpoint
from aevb.training import loop
from aevb.training.trainer import SHOWN
from aevb.types import Key, PyTree

VALUES = (np.nan, np.inf, -np.inf)
NUM_TRIED = 24

# A poisoned experiment, the bad step, and the possible beginnings of its message
Poisoned = tuple[Experiment, int, tuple[str, ...]]


def replaced(tree: PyTree, number: int, is_bad: Array, value: float) -> PyTree:
    """Replaces one number of one leaf at the bad step."""
    leaves, structure = jax.tree.flatten(tree)
    leaf = leaves[number]
    leaves[number] = jnp.where(is_bad, leaf.at[leaf.ndim * (0,)].set(value), leaf)
    return jax.tree.unflatten(structure, leaves)


def in_data(
    sound: Experiment, rng: random.Random, value: float, patch: pytest.MonkeyPatch
) -> Poisoned:
    train = np.array(sound.dataset.train)
    point = rng.randrange(len(train))
    train[point, rng.randrange(train.shape[1])] = value
    order = loop_order(len(train))
    bad = int(np.flatnonzero(order == point)[0]) // small()["train.batch_size"]
    # A number that went bad in memory: the data on disk are those of the run.
    patch.setattr(runs, "identity", lambda poisoned: identity(sound.dataset))
    return sound._replace(dataset=sound.dataset._replace(train=train)), bad, ("the minibatch is",)


def in_a_gradient(
    sound: Experiment, rng: random.Random, value: float, patch: pytest.MonkeyPatch
) -> Poisoned:
    """Poisons the gradient of the objective, before the optimizer receives it."""
    bad, (number, name) = rng.randrange(num_steps()), a_parameter(sound, rng)
    is_bad: list[Array] = []
    num_data = len(sound.dataset.train)
    optimizer = experiment.build_optimizer(small(), num_data)

    def poisoned(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        (now,) = is_bad
        return optimizer.update(replaced(updates, number, now, value), state, params)

    algorithm = experiment.build_algorithm(
        small(), sound.vae, num_data, Optimizer(optimizer.init, poisoned)
    )

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        is_bad[:] = [state.step == bad]
        return algorithm.update(key, state, batch)

    poisoned_algorithm = algorithm._replace(update=update, norms=sound.algorithm.norms)
    return sound._replace(algorithm=poisoned_algorithm), bad, (f"the update of {name} is",)


def in_a_parameter(
    sound: Experiment, rng: random.Random, value: float, patch: pytest.MonkeyPatch
) -> Poisoned:
    """Poisons a parameter.

    An infinity there may leave the objective finite, and then the gradient is non-finite.
    """
    bad, (number, _) = rng.randrange(num_steps()), a_parameter(sound, rng)

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        params = replaced(state.params, number, state.step == bad, value)
        return sound.algorithm.update(key, state._replace(params=params), batch)

    algorithm = sound.algorithm._replace(update=update)
    return sound._replace(algorithm=algorithm), bad, ("the objective is", "the update of")


def num_steps() -> int:
    config = small()
    return config["train.num_examples"] // config["train.batch_size"]


def a_parameter(sound: Experiment, rng: random.Random) -> tuple[int, str]:
    """Chooses a parameter, and returns its number among the leaves and its path."""
    like = jax.eval_shape(sound.algorithm.init, jax.random.key(0)).params
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(like)]
    number = rng.randrange(len(names))
    return number, names[number]


def keys() -> loop.RunKeys:
    return loop.run_keys(jax.random.key(small()["seed"]))


def loop_order(num_data: int) -> np.ndarray:
    """Returns the datapoints in the order of the first epoch."""
    key = jax.random.fold_in(keys().loop.order, 0)
    return np.asarray(jax.random.permutation(key, jnp.arange(num_data)))


def state_at(step: int) -> TrainState:
    """Returns the state of an undisturbed run at a step."""
    sound = experiment.build(small())
    start = loop.first_state(sound.algorithm.init, jax.random.key(small()["seed"]))
    size = small()["train.batch_size"]
    advance = loop.make_advance(sound.algorithm, sound.dataset.preprocess, batch_size=size)
    data = jnp.asarray(sound.dataset.train)
    return loop.train_to(advance, keys().loop, data, start, step)[0] if step else start


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(n, marks=pytest.mark.faults if n else pytest.mark.slow)
        for n in range(NUM_TRIED)
    ],
)
def test_a_nonfinite_number_is_detected_at_its_step(
    number: int,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
):
    """The last good state is kept; without the poison, the run ends as if there had been none."""
    rng = random.Random(number)
    poison = (in_a_gradient, in_data, in_a_parameter)[number % 3]
    value = rng.choice(VALUES)
    record_property("fault", f"{value} {poison.__name__.replace('_', ' ')}")
    sound, folder = experiment.build(small()), tmp_path / "run"
    with monkeypatch.context() as patch:
        poisoned, bad, problems = poison(sound, rng, value, patch)
        patch.setattr(runs, "build", lambda config, dataset: poisoned)
        with pytest.raises(UserError) as caught:
            runs.run(small(), folder)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(problems)
    assert f" at step {bad + 1:,} " in line
    (points,) = re.findall(r"on the minibatch of datapoints ([\d, ]+), \.\.\.;", line)
    if bad < len(sound.dataset.train) // small()["train.batch_size"]:
        position = bad * small()["train.batch_size"]
        expected = loop_order(len(sound.dataset.train))[position : position + SHOWN]
        assert [int(point) for point in points.split(",")] == expected.tolist()
    like = jax.eval_shape(sound.algorithm.init, jax.random.key(0))
    kept = checkpoint.open_reader(folder / "diverged")
    before = checkpoint.restore(kept, like, step=bad, only_read=True)
    assert before is not None
    assert checkpoint.digest(before.state) == checkpoint.digest(state_at(bad))
    assert set(kept.all_steps()) == {bad, bad + 1}
    kept.close()
    assert all(int(step.name) <= bad for step in (folder / "checkpoints").glob("[0-9]*"))
    runs.run(small(), folder)
    assert what_came_of_it(folder) == what_came_of_it(undisturbed)
    record_property("outcome", "caught at its step, and the same end without it")
