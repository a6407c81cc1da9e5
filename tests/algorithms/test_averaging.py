"""The moving average of parameters against optax, in training, in runs and in their extension."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from configs import changed

import aevb
from aevb import runs
from aevb.algorithms.averaging import Averaged, average_params
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.experiment import build
from aevb.training.loop import first_state, make_advance, run_keys, train_to

DECAY = 0.8
SMALL = {
    "data__name": "synthetic",
    "data__synthetic_num_train": 60,
    "data__synthetic_num_test": 20,
    "data__synthetic_num_dims": 4,
    "model__likelihood": "gaussian",
    "model__hidden": (3,),
    "train__batch_size": 20,
    "train__num_examples": 400,
    "algorithm__average_decay": DECAY,
}


def squares() -> Algorithm:
    """Returns an algorithm whose parameter after step t is t^2."""

    def update(key: jax.Array, state: TrainState, batch: Batch):
        step = state.step + 1
        return TrainState(step, {"weight": jnp.square(jnp.float32(step))}, (), ()), {}

    def init(key: jax.Array) -> TrainState:
        return TrainState(jnp.int32(0), {"weight": jnp.float32(-100.0)}, (), ())

    return Algorithm(init, update, lambda params: {"theta": params["weight"]})


@pytest.mark.usefixtures("standard_promotion")
def test_the_average_is_the_debiased_one_of_optax():
    algorithm, ema = average_params(squares(), DECAY), optax.ema(DECAY, debias=True)
    state = algorithm.init(jax.random.key(0))
    ema_state = ema.init(state.params.trained)
    batch = Batch(jnp.zeros((1, 1)), jnp.zeros(1, jnp.int32))
    for step in range(1, 30):
        state, _ = algorithm.update(jax.random.key(0), state, batch)
        expected, ema_state = ema.update(state.params.trained, ema_state)
        assert state.params.trained["weight"] == step**2
        theta = algorithm.vae_params(state.params)["theta"]
        np.testing.assert_allclose(theta, *jax.tree.leaves(expected), rtol=1e-5)


def test_averaging_does_not_change_training():
    states = []
    for decay in (0.0, DECAY):
        config = changed(**SMALL | {"algorithm__average_decay": decay})
        dataset, _, algorithm = build(config)
        advance = make_advance(algorithm, dataset.preprocess, batch_size=20)
        state = first_state(algorithm.init, jax.random.key(0))
        keys = run_keys(jax.random.key(0)).loop
        states.append(train_to(advance, keys, jnp.asarray(dataset.train), state, 20)[0])
    plain, averaged = states
    assert isinstance(averaged.params, Averaged)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), plain.params,
        averaged.params.trained,
    )  # fmt: skip


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run that was trained in two halves, to read."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    runs.run(changed(**SMALL), folder)
    runs.run(changed(**SMALL | {"train__num_examples": 800}), folder)
    return folder


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_average_of_one_that_was_not_stopped(extended: Path):
    found = aevb.load_run(extended)
    values = {name.replace("__", "."): value for name, value in SMALL.items()}
    values |= {"data.split": "", "train.num_examples": 800}
    whole = aevb.train("figure_4_frey", values)
    jax.tree.map(np.testing.assert_array_equal, found.model.params, whole.model.params)
    assert found.summary["train_bound"] == whole.summary["train_bound"]


@pytest.mark.slow
def test_another_run_starts_from_the_average(extended: Path, tmp_path: Path):
    start = {"train__init_from": str(extended), "optimizer__step_size": 1e-30}
    runs.run(changed(**SMALL | start | {"algorithm__average_decay": 0.0}), tmp_path / "run")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        aevb.load_run(tmp_path / "run").model.params, aevb.load_run(extended).model.params,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["full_vb", "wake_sleep", "mcem"])
def test_other_algorithms_average_their_parameters(name: str):
    config = changed(**SMALL, algorithm__name=name)
    _, vae, algorithm = build(config)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    params = jax.eval_shape(algorithm.vae_params, state.params)
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(vae.init, jax.random.key(0))
    )
