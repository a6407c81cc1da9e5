"""The norms of the gradient and of the update, and the number of clipped steps, in a log."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from aevb import optimizers, runs
from aevb.algorithms import gradient_ascent
from aevb.algorithms.averaging import average_params
from aevb.algorithms.base import Batch
from aevb.algorithms.gradient_ascent import norms_of_step
from aevb.config import default_config, validate, with_values
from aevb.experiment import build
from aevb.training import trainer

KEY = jax.random.key(0)
BATCH = Batch(jnp.array([[1.0], [3.0]]), jnp.arange(2))


def objective(params: Any, key: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Has the gradient (2 - a, -b) at the minibatch."""
    value = -0.5 * jnp.mean(jnp.square(params["a"] - batch.x[:, 0])) - 0.5 * params["b"] ** 2
    return value, {"objective": value}


def test_the_norms_are_those_of_the_gradient_and_of_the_update():
    params = {"a": jnp.float32(5.0), "b": jnp.float32(4.0)}
    optimizer = optax.sgd(0.1)
    found = norms_of_step(objective, optimizer, params, optimizer.init(params), KEY, BATCH)
    assert float(found["gradient_norm"]) == pytest.approx(5.0)
    assert float(found["update_norm"]) == pytest.approx(0.5)


def test_the_update_norm_is_the_length_of_the_next_step():
    params = {"a": jnp.float32(5.0), "b": jnp.float32(4.0)}
    optimizer = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, momentum=0.9))
    algorithm = gradient_ascent.algorithm(objective, lambda key: params, optimizer)
    state = algorithm.init(KEY)
    for _ in range(2):
        state, _ = algorithm.update(KEY, state, BATCH)
    after, _ = algorithm.update(KEY, state, BATCH)
    moved = jax.tree.map(jnp.subtract, after.params, state.params)
    assert algorithm.norms is not None
    found = algorithm.norms(KEY, state, BATCH)
    assert float(found["update_norm"]) == pytest.approx(
        float(jnp.hypot(moved["a"], moved["b"])), rel=1e-5
    )


def test_the_norms_of_an_averaged_run_are_those_of_the_trained_parameters():
    params = {"a": jnp.float32(5.0), "b": jnp.float32(4.0)}
    plain = gradient_ascent.algorithm(objective, lambda key: params, optax.sgd(0.1))
    averaged = average_params(plain, 0.9)
    assert plain.norms is not None
    assert averaged.norms is not None
    expected = plain.norms(KEY, plain.init(KEY), BATCH)
    assert averaged.norms(KEY, averaged.init(KEY), BATCH) == expected


def test_the_norm_of_a_huge_gradient_is_finite():
    def steep(params: Array, key: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        return jnp.sum(jnp.array([3e30, 4e30]) * params), {}

    params = jnp.zeros(2)
    optimizer = optax.sgd(1e-3)
    found = norms_of_step(steep, optimizer, params, optimizer.init(params), KEY, BATCH)
    assert float(found["gradient_norm"]) == pytest.approx(5e30, rel=1e-5)
    assert float(found["update_norm"]) == pytest.approx(5e27, rel=1e-5)


@pytest.mark.parametrize("name", ["aevb", "mcem"])
def test_the_log_of_a_run_has_norms_if_it_takes_gradient_steps(name: str):
    values = validate(with_values(default_config(), {
        "data.name": "synthetic", "model.likelihood": "gaussian", "model.hidden": (4,),
        "algorithm.name": name, "train.num_examples": 400, "train.first_eval": 200,
    }))  # fmt: skip
    experiment = build(values)
    run, settings = runs.training_of(experiment, values), runs.settings_of(values)
    state = experiment.algorithm.init(KEY)
    first, again = (trainer._evaluation(run, settings)(state) for _ in range(2))
    assert first == again
    assert ("gradient_norm" in first) is (name == "aevb")
    assert all(np.isfinite(value) for value in first.values())


@pytest.mark.parametrize("clip", ["global_norm", "adaptive"])
def test_the_steps_whose_gradient_is_clipped_are_counted(clip: str):
    made = optimizers.CLIPS[clip]
    assert made is not None
    counted = optimizers.counted(made(0.5))
    params = {"a": jnp.full((2, 2), 1.0)}
    state = counted.init(params)
    for size in (0.001, 10.0, 0.001, 20.0, 30.0):
        updates, state = counted.update({"a": jnp.full((2, 2), size)}, state, params)
        plain, _ = made(0.5).update({"a": jnp.full((2, 2), size)}, made(0.5).init(params), params)
        np.testing.assert_array_equal(jax.tree.leaves(updates)[0], jax.tree.leaves(plain)[0])
    assert optimizers.num_clipped((optax.EmptyState(), state)) == 3


def test_an_optimizer_without_a_clip_has_no_number_of_clipped_steps():
    assert optimizers.num_clipped(optax.adam(0.1).init(jnp.zeros(2))) is None
