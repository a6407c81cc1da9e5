"""Training in a folder: when it evaluates, what it keeps, and that it stops at a NaN."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevb import train
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.evaluate import Score
from aevb.train import Settings, evaluation_steps

SETTINGS = Settings(
    num_examples=400,
    batch_size=10,
    first_eval=100,
    evals_per_decade=5,
    eval_examples=1000,
    checkpoint_seconds=3600.0,
    keep_checkpoints=False,
    tensorboard=False,
)

DATASET = Dataset(
    name="zeros",
    train=np.zeros((40, 2), np.uint8),
    test=np.zeros((20, 2), np.uint8),
    kind="binary",
    preprocess=lambda key, x: x.astype(jnp.float32),
    image_shape=None,
    levels=None,
)


def counter(bound_at_step=lambda step: step.astype(jnp.float32)) -> Algorithm:
    """Learns nothing but how many steps it has made; its bound is a function of that."""

    def update(key: jax.Array, state: TrainState, batch: Batch):
        params = state.params + 1.0
        return TrainState(state.step + 1, params, (), ()), {"objective": bound_at_step(state.step)}

    return Algorithm(lambda key: TrainState(jnp.int32(0), jnp.float32(0.0), (), ()), update)


def score(params: jax.Array, data: np.ndarray, index: np.ndarray) -> Score:
    """Best after 16 steps; the size of the data tells the splits apart."""
    return Score(-abs(float(params) - 16.0) - len(index), 0.0)


def fit(folder: Path, algorithm: Algorithm, **changes: float) -> train.Trained:
    settings = SETTINGS._replace(**changes)
    return train.fit(algorithm, DATASET, score, settings, key=jax.random.key(0), folder=folder)


# When


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "first_eval", "per_decade"),
    [(10**7, 100, 10**4, 10), (10**5, 20, 10**3, 3), (5000, 1000, 1, 7), (100, 100, 10**4, 10)],
)
def test_evaluations_are_evenly_spaced_in_the_logarithm_of_the_examples(
    num_examples: int, batch_size: int, first_eval: int, per_decade: int
):
    settings = SETTINGS._replace(
        batch_size=batch_size, first_eval=first_eval, evals_per_decade=per_decade
    )
    num_steps = num_examples // batch_size
    steps = evaluation_steps(num_steps, settings)
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] == num_steps
    ratio = 10 ** (1 / per_decade)
    ideal = [first_eval * ratio**i / batch_size for i in range(200)]
    ideal = {max(1, round(step)) for step in ideal if step < num_steps}
    assert set(steps) == {step for step in ideal if step < num_steps} | {num_steps}


def test_the_log_has_a_line_for_each_evaluation(tmp_path: Path):
    trained = fit(tmp_path, counter())
    steps = evaluation_steps(40, SETTINGS)
    assert len(steps) > 3
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == trained.records
    assert [line["examples"] for line in lines] == [10 * step for step in steps]
    for line, step in zip(lines, steps, strict=True):
        assert line["train_bound"] == -abs(step - 16.0) - 40
        assert line["test_bound"] == -abs(step - 16.0) - 20
        assert math.isfinite(line["recent_objective"])
    assert trained.state.step == 40
    assert trained.seconds == pytest.approx(lines[-1]["seconds"])


def test_at_most_so_many_datapoints_are_evaluated(tmp_path: Path):
    trained = fit(tmp_path, counter(), eval_examples=30)
    assert trained.records[-1]["train_bound"] == -24.0 - 30
    assert trained.records[-1]["test_bound"] == -24.0 - 20


def test_the_latest_two_checkpoints_and_the_best_are_kept(tmp_path: Path):
    fit(tmp_path, counter())
    steps = evaluation_steps(40, SETTINGS)
    best = min(steps, key=lambda step: abs(step - 16))
    assert best not in steps[-2:]
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal()}
    assert kept == {best, *steps[-2:]}


def test_time_without_an_evaluation_makes_a_checkpoint(tmp_path: Path):
    fit(tmp_path, counter(), first_eval=400, checkpoint_seconds=1e-9)
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal()}
    assert len(kept - {40}) > 0


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path: Path):
    fit(tmp_path, counter(), num_examples=200)
    trained = fit(tmp_path, counter())
    assert float(trained.state.params) == 40.0
    examples = [record["examples"] for record in trained.records]
    assert examples == sorted(set(examples))


# What is no number


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_no_number_stops_the_run_and_keeps_the_checkpoint_before_it(
    value: float, tmp_path: Path
):
    algorithm = counter(lambda step: jnp.where(step < 25, 0.0, value))
    with pytest.raises(UserError) as caught:
        fit(tmp_path, algorithm)
    message = str(caught.value)
    assert f"is {value} at" in message
    assert "step_size" in message
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["examples"] <= 250
    assert (tmp_path / "checkpoints" / str(last["examples"] // 10)).exists()


# Speed


def test_the_steady_speed_leaves_out_the_first_two_stretches():
    speed = train.Speed()
    assert math.isnan(speed.steady())
    speed.add(10, 5.0)
    assert speed.steady() == 2.0
    speed.add(10, 5.0)
    speed.add(300, 1.0)
    speed.add(100, 1.0)
    assert speed.steady() == 200.0
