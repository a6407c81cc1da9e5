"""Non-finite steps that are skipped: their effect on the state, and that no other is skipped."""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.algorithms.skip_nonfinite import num_skipped, skip_bad_steps
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.evaluation.elbo import Score
from aevb.training import trainer
from aevb.training.journal import Journal
from aevb.training.loop import Advance, make_advance, no_order, run_keys, train_to
from aevb.training.settings import Settings

NUM_STEPS = 40
DATA = np.zeros((NUM_STEPS, 2), np.float32)
KEYS = run_keys(jax.random.key(0)).loop
PLACES = ("objective", "params", "opt_state", "extra")


def counter(bad: tuple[int, ...], place: str | None = "objective") -> Algorithm:
    """Adds 1 to its whole state at each step, and NaN to one part of it at the steps `bad`.

    Args:
        place: the part; None if the datapoints choose it, each by a number of PLACES and the
            value to add.
    """

    def update(key: jax.Array, state: TrainState, batch: Batch):
        is_bad = jnp.any(state.step == jnp.array(bad, jnp.int32))
        at, value = batch.x[0] if place is None else (PLACES.index(place), jnp.nan)
        add = {
            name: jnp.where(is_bad & (number == at), value, 1.0)
            for number, name in enumerate(PLACES)
        }
        return TrainState(
            state.step + 1,
            state.params + add["params"],
            state.opt_state + add["opt_state"],
            state.extra + add["extra"],
        ), {"objective": state.step.astype(jnp.float32) * add["objective"]}

    def init(key: jax.Array) -> TrainState:
        return TrainState(jnp.int32(0), *(jnp.zeros(()) for _ in range(3)))

    return Algorithm(init, update)


def run(algorithm: Algorithm, stop: int = NUM_STEPS):
    """Trains to a step and returns the state and the mean metrics."""
    advance = make_advance(algorithm, lambda key, x: x, batch_size=1)
    return train_to(advance, KEYS, jnp.asarray(DATA), algorithm.init(jax.random.key(0)), stop)


@cache
def advance_where_the_data_say() -> tuple[Algorithm, Advance]:
    """Returns one compiled program for all places and values."""
    algorithm = skip_bad_steps(counter((3, 17, 39), place=None), most=5)
    return algorithm, make_advance(algorithm, lambda key, x: x, batch_size=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", PLACES)
def test_a_nonfinite_step_changes_only_the_counts(place: str, value: float):
    algorithm, advance = advance_where_the_data_say()
    data = jnp.asarray(DATA + np.array([PLACES.index(place), value], np.float32))
    state, metrics = train_to(advance, KEYS, data, algorithm.init(jax.random.key(0)), NUM_STEPS)
    assert int(state.step) == NUM_STEPS
    kept = (state.params, state.opt_state, state.extra.extra)
    assert [float(each) for each in kept] == [NUM_STEPS - 3] * 3
    assert num_skipped(state) == 3
    assert float(metrics["skipped"]) == 3


def test_metrics_are_means_over_the_steps_that_were_not_skipped():
    bad = (3, 17, 39)
    taken = [step for step in range(NUM_STEPS) if step not in bad]
    _, metrics = run(skip_bad_steps(counter(bad), most=5))
    assert float(metrics["objective"]) == pytest.approx(np.mean(taken), rel=1e-6)


@pytest.mark.usefixtures("optimized")
def test_skipping_changes_no_bit_of_a_run_without_nonfinite_steps():
    """Not one bit changes, for an algorithm whose result is sensitive to every bit."""
    optimizer = optax.sgd(0.1, momentum=0.9)

    def update(key: jax.Array, state: TrainState, batch: Batch):
        def loss(params: jax.Array) -> jax.Array:
            return jnp.sum(jnp.cos(params) * jax.random.normal(key, params.shape))

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, ()), {"objective": -value}

    def init(key: jax.Array) -> TrainState:
        params = jax.random.normal(key, (5,))
        return TrainState(jnp.int32(0), params, optimizer.init(params), ())

    plain, of_plain = run(Algorithm(init, update))
    skipping, of_skipping = run(skip_bad_steps(Algorithm(init, update), most=1))
    np.testing.assert_array_equal(plain.params, skipping.params)
    jax.tree.map(np.testing.assert_array_equal, plain.opt_state, skipping.opt_state)
    assert float(of_plain["objective"]) == float(of_skipping["objective"])


def test_an_algorithm_that_skips_keeps_its_parameters_and_its_objective():
    inner = counter(())._replace(vae_params=lambda params: params, objective=lambda *args: args)
    outer = skip_bad_steps(inner, 3)
    assert (outer.vae_params, outer.objective) == (inner.vae_params, inner.objective)


def test_after_the_allowed_number_of_skipped_steps_the_next_nonfinite_step_is_taken():
    algorithm = skip_bad_steps(counter((3, 17, 25), "params"), most=2)
    advance = make_advance(algorithm, lambda key, x: x, batch_size=1)
    data = jnp.asarray(DATA)
    state, order = algorithm.init(jax.random.key(0)), no_order(KEYS, data)
    for stop in (10, 20):
        state, order, _ = advance(KEYS, data, state, order, jnp.int32(stop))
    assert num_skipped(state) == 2
    state, *_ = advance(KEYS, data, state, order, jnp.int32(30))
    assert np.isnan(float(state.params))


# In a run


SETTINGS = Settings(
    num_examples=40, batch_size=1, first_eval=10, evals_per_decade=5, eval_examples=10,
    checkpoint_seconds=3600.0, keep_checkpoints=False, tensorboard=False,
)  # fmt: skip
DATASET = Dataset("zeros", np.zeros((40, 1), np.uint8), np.zeros((9, 1), np.uint8), "binary",
                  lambda key, x: x.astype(jnp.float32), None, None)  # fmt: skip


def fit(folder: Path, algorithm: Algorithm) -> trainer.Trained:
    def score(params: jax.Array, data: np.ndarray, index: np.ndarray) -> Score:
        return Score(0.0, 0.0)

    run = trainer.Run(algorithm, DATASET, score, jax.random.key(0))
    return trainer.fit(run, SETTINGS, lambda first: Journal(folder, first, SETTINGS))


def test_the_log_has_the_number_of_skipped_steps_at_each_evaluation(tmp_path: Path):
    trained = fit(tmp_path, skip_bad_steps(counter((3, 17, 39)), most=5))
    assert float(trained.state.params) == 37
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = [sum(step < line["examples"] for step in (3, 17, 39)) for line in lines]
    assert [line["skipped"] for line in lines] == expected


def test_an_interval_with_only_skipped_steps_has_no_mean_metrics(tmp_path: Path):
    """The stretch is the one before the first evaluation, at step 10."""
    fit(tmp_path, skip_bad_steps(counter(tuple(range(10))), most=10))
    first, *others = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert "recent_objective" not in json.loads(first)
    assert all("recent_objective" in json.loads(line) for line in others)


def test_a_nonfinite_step_after_the_allowed_number_stops_the_run_and_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"the objective is nan at step 26 .*after 2 bad steps"):
        fit(tmp_path, skip_bad_steps(counter((3, 17, 25)), most=2))
