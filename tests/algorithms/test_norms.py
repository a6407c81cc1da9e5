"""The norms of the gradient and of the update, and the number of clipped steps, in a log."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from aevb import optimizers
from aevb.algorithms import gradient_ascent
from aevb.algorithms.base import NUM_MEASURED, Batch
from aevb.algorithms.gradient_ascent import STEPS_BETWEEN_NORMS, norms
from aevb.training import loop

KEY = jax.random.key(0)
DATA = jnp.arange(12.0, dtype=jnp.float32)[:, None] / 10.0


def objective(params: Array, key: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    value = -0.5 * jnp.mean(jnp.square(params - batch.x[:, 0]))
    return value, {"objective": value}


def trained(optimizer: optax.GradientTransformation, num_steps: int):
    """Returns the state and the mean metrics of minibatches of 4 that start at 3."""
    algorithm = gradient_ascent.algorithm(objective, lambda key: jnp.float32(3.0), optimizer)
    advance = loop.make_advance(algorithm, lambda key, x: x, batch_size=4)
    keys = loop.run_keys(KEY).loop
    return loop.train_to(advance, keys, DATA, algorithm.init(KEY), num_steps)


def gradients(num_steps: int, step_size: float) -> list[float]:
    """Returns the gradients of minus the objective at each step of gradient descent, by hand."""
    params, found = 3.0, []
    keys = loop.run_keys(KEY).loop
    for step in range(num_steps):
        order = np.asarray(loop.draw_order(keys, jnp.int32(step // 3), 12))
        batch = np.asarray(DATA)[order[4 * (step % 3) : 4 * (step % 3) + 4], 0]
        found.append(params - float(np.mean(batch)))
        params -= step_size * found[-1]
    return found


def test_the_norms_are_means_over_the_measured_steps():
    num_steps = 2 * STEPS_BETWEEN_NORMS + 3
    _, metrics = trained(optax.sgd(0.1), num_steps)
    expected = np.mean(np.abs(gradients(num_steps, 0.1)[::STEPS_BETWEEN_NORMS]))
    assert float(metrics["gradient_norm"]) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["update_norm"]) == pytest.approx(0.1 * expected, rel=1e-5)
    assert int(metrics[NUM_MEASURED]) == 3


def test_a_run_is_the_same_with_and_without_norms():
    state, _ = trained(optax.sgd(0.1, momentum=0.9), 25)
    params, opt_state = jnp.float32(3.0), optax.sgd(0.1, momentum=0.9).init(jnp.float32(3.0))
    keys = loop.run_keys(KEY).loop
    for step in range(25):
        order = loop.draw_order(keys, jnp.int32(step // 3), 12)
        indices = order[4 * (step % 3) : 4 * (step % 3) + 4]
        params, opt_state, metrics = gradient_ascent.ascend(
            objective,
            optax.sgd(0.1, momentum=0.9),
            params,
            opt_state,
            KEY,
            Batch(DATA[indices], indices),
        )
        assert "gradient_norm" not in metrics
    assert float(state.params) == pytest.approx(float(params), rel=1e-6)


def test_the_norm_of_a_huge_gradient_is_finite():
    grads = {"a": jnp.array([3e30, 0.0]), "b": jnp.array([[4e30]])}
    found = norms(optax.sgd(1e-3), grads, optax.sgd(1e-3).init(grads), grads)
    assert float(found["gradient_norm"]) == pytest.approx(5e30, rel=1e-5)
    assert float(found["update_norm"]) == pytest.approx(5e27, rel=1e-5)


def test_the_norm_of_a_zero_gradient_is_zero():
    grads = jnp.zeros(3)
    assert (
        float(norms(optax.sgd(1.0), grads, optax.sgd(1.0).init(grads), grads)["gradient_norm"])
        == 0.0
    )


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
    state = optax.adam(0.1).init(jnp.zeros(2))
    assert optimizers.num_clipped(state) is None
