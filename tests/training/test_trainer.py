"""Training in a folder: times of evaluation, kept checkpoints, and the stop at a NaN."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.evaluation.elbo import Score, Scorer
from aevb.storage import checkpoint
from aevb.training import journal, loop, trainer
from aevb.training.journal import Journal
from aevb.training.loop import Pause
from aevb.training.settings import Settings, evaluation_steps
from aevb.training.trainer import Run

NO_SPACE = "No space left on device"
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
    valid=np.zeros((25, 2), np.uint8),
    test=np.zeros((20, 2), np.uint8),
    kind="binary",
    preprocess=lambda key, x: x.astype(jnp.float32),
    image_shape=None,
    levels=None,
)


def counter(
    objective: Callable[[TrainState, Batch], Any] = lambda state, batch: state.step,
    added: Callable[[jax.Array], Any] = lambda step: 1.0,
) -> Algorithm:
    """Returns an algorithm whose only parameter counts the steps, with any objective."""

    def update(key: jax.Array, state: TrainState, batch: Batch):
        params = state.params + added(state.step)
        metrics = {"objective": jnp.float32(objective(state, batch))}
        return TrainState(state.step + 1, params, (), ()), metrics

    return Algorithm(lambda key: TrainState(jnp.int32(0), jnp.float32(0.0), (), ()), update)


def score(params: jax.Array, data: np.ndarray, index: np.ndarray) -> Score:
    """Scores best after 16 steps; the size of the data distinguishes the splits."""
    return Score(-abs(float(params) - 16.0) - len(index), 0.0)


def fit(
    folder: Path,
    algorithm: Algorithm,
    dataset: Dataset = DATASET,
    score: Scorer = score,
    **changes: float,
) -> trainer.Trained:
    run = Run(algorithm, dataset, score, jax.random.key(0))
    settings = SETTINGS._replace(**changes)
    return trainer.fit(run, settings, lambda first: Journal(folder, first, settings))


# Times of evaluations and checkpoints


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "first_eval", "per_decade"),
    [(10**7, 100, 10**4, 10), (10**5, 20, 10**3, 3), (5000, 1000, 1, 7), (100, 100, 10**4, 10)],
)
def test_evaluations_are_evenly_spaced_in_the_logarithm_of_the_examples(
    num_examples: int, batch_size: int, first_eval: int, per_decade: int
):
    settings = SETTINGS._replace(
        num_examples=num_examples,
        batch_size=batch_size,
        first_eval=first_eval,
        evals_per_decade=per_decade,
    )
    num_steps = settings.num_steps
    steps = evaluation_steps(settings)
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] == num_steps
    ratio = 10 ** (1 / per_decade)
    ideal = [first_eval * ratio**i / batch_size for i in range(200)]
    ideal = {max(1, round(step)) for step in ideal if step < num_steps}
    assert set(steps) == {step for step in ideal if step < num_steps} | {num_steps}


def test_the_log_has_a_line_for_each_evaluation(tmp_path: Path):
    trained = fit(tmp_path, counter())
    steps = evaluation_steps(SETTINGS)
    assert len(steps) > 3
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == trained.records
    assert [line["examples"] for line in lines] == [10 * step for step in steps]
    for line, step in zip(lines, steps, strict=True):
        assert line["train_bound"] == -abs(step - 16.0) - 40
        assert line["valid_bound"] == -abs(step - 16.0) - 25
        assert "test_bound" not in line
        assert math.isfinite(line["recent_objective"])
    assert trained.state.step == 40
    assert trained.seconds == pytest.approx(lines[-1]["seconds"])


def test_at_most_eval_examples_datapoints_are_evaluated(tmp_path: Path):
    trained = fit(tmp_path, counter(), eval_examples=30)
    assert trained.records[-1]["train_bound"] == -24.0 - 30
    assert trained.records[-1]["valid_bound"] == -24.0 - 25


def test_the_latest_two_checkpoints_and_the_best_are_kept(tmp_path: Path):
    fit(tmp_path, counter())
    steps = evaluation_steps(SETTINGS)
    best = min(steps, key=lambda step: abs(step - 16))
    assert best not in steps[-2:]
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal()}
    assert kept == {best, *steps[-2:]}


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_states_of_evaluations_wait_for_a_checkpoint_that_is_due(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each waiting state is saved with its own log, and only if it is to be kept."""
    monkeypatch.setattr(journal, "SECONDS_BETWEEN_SAVES", seconds)
    saved = {}

    def save(manager: Any, step: int, state: TrainState, **others: Any) -> None:
        saved[step] = float(state.params), len(others["records"])

    monkeypatch.setattr(checkpoint, "save", save)
    fit(tmp_path, counter())
    steps = evaluation_steps(SETTINGS)
    best = min(steps, key=lambda step: abs(step - 16))
    kept = [best, *steps[-2:]] if seconds else steps
    assert saved == {step: (float(step), steps.index(step) + 1) for step in kept}


def test_states_that_cannot_be_saved_are_not_tried_again_when_the_journal_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried = []

    def save(manager: Any, step: int, state: TrainState, **others: Any) -> None:
        tried.append(step)
        raise OSError(NO_SPACE)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(OSError, match=NO_SPACE):
        fit(tmp_path, counter())
    assert len(tried) == 1


def test_a_checkpoint_is_saved_after_checkpoint_seconds_without_an_evaluation(tmp_path: Path):
    fit(tmp_path, counter(), first_eval=400, checkpoint_seconds=1e-9)
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal()}
    assert len(kept - {40}) > 0


def test_a_longer_run_resumes_from_a_shorter_one(tmp_path: Path):
    fit(tmp_path, counter(), num_examples=200)
    trained = fit(tmp_path, counter())
    assert float(trained.state.params) == 40.0
    examples = [record["examples"] for record in trained.records]
    assert examples == sorted(set(examples))


# Non-finite objectives


@pytest.mark.parametrize(("value", "bad"), [("nan", 0), ("inf", 9), ("-inf", 10), ("nan", 39)])
def test_a_nonfinite_objective_stops_the_run_at_its_step_and_keeps_the_previous_checkpoint(
    value: str, bad: int, tmp_path: Path
):
    """An evaluation and a checkpoint precede step 39, and none precedes step 10."""
    algorithm = counter(lambda state, batch: jnp.where(state.step == bad, float(value), 0.0))
    with pytest.raises(UserError) as caught:
        fit(tmp_path, algorithm)
    message = str(caught.value)
    assert message.startswith(f"the objective is {value} at step {bad + 1} ")
    assert "step_size" in message
    kept = [int(step.name) for step in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert all(step <= bad for step in kept)
    assert bool(kept) == (bad > 9)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["examples"] // 10 for record in logged[-1:]] == sorted(kept)[-1:]


def test_the_states_around_a_nonfinite_step_are_kept(tmp_path: Path):
    with pytest.raises(UserError, match="before and after that step are in"):
        fit(tmp_path, counter(lambda state, batch: jnp.where(state.step == 25, jnp.nan, 0.0)))
    kept = checkpoint.open_reader(tmp_path / "diverged")
    like = counter().init(jax.random.key(0))
    for step in (25, 26):
        restored = checkpoint.restore(kept, like, step=step, only_read=True)
        assert restored is not None
        assert float(restored.state.params) == step


def test_the_minibatch_of_a_nonfinite_step_is_named(tmp_path: Path):
    """Each epoch has 4 steps. One of them has datapoint 7, whose value makes the objective NaN."""
    data = DATASET._replace(train=np.arange(80, dtype=np.uint8).reshape(40, 2))
    algorithm = counter(lambda state, batch: jnp.where(jnp.any(batch.indices == 7), jnp.nan, 0.0))
    with pytest.raises(UserError) as caught:
        fit(tmp_path, algorithm, data)
    step, points = re.search(
        r"at step (\d+) .* of datapoints ([\d, ]+),", str(caught.value)
    ).groups()  # pyright: ignore[reportOptionalMemberAccess]
    keys = loop.run_keys(jax.random.key(0)).loop
    order = jax.random.permutation(jax.random.fold_in(keys.order, 0), jnp.arange(40))
    position = (int(step) - 1) * 10
    assert list(order[position : position + 8]) == [int(point) for point in points.split(",")]
    assert 7 in order[position : position + 10]


def test_nonfinite_data_are_reported_as_such(tmp_path: Path):
    train_data = np.ones((40, 2), np.float32)
    train_data[3, 1] = np.nan
    data = DATASET._replace(train=train_data, test=np.ones((20, 2), np.float32))
    with pytest.raises(UserError, match=r"the minibatch is not finite at step [1-4] "):
        fit(tmp_path, counter(lambda state, batch: jnp.sum(batch.x)), data)


@pytest.mark.parametrize("bad", slow_but([17], [0, 17, 39]))
def test_a_nonfinite_gradient_with_a_finite_objective_is_detected_at_its_step(
    bad: int, tmp_path: Path
):
    algorithm = counter(added=lambda step: jnp.where(step == bad, jnp.nan, 1.0))
    with pytest.raises(UserError, match=rf"the update of .* is not finite at step {bad + 1} "):
        fit(tmp_path, algorithm, score=lambda params, data, index: Score(0.0, 0.0))


def test_nonfinite_first_parameters_are_named(tmp_path: Path):
    algorithm = counter()
    start = algorithm._replace(init=lambda key: algorithm.init(key)._replace(params=jnp.inf))
    with pytest.raises(UserError, match="params is not finite to begin with at step 1 "):
        fit(tmp_path, start)


@pytest.mark.parametrize(("split", "words"), [("train", "training"), ("valid", "validation")])
def test_a_training_or_validation_bound_that_is_not_finite_stops_the_run(
    split: str, words: str, tmp_path: Path
):
    with pytest.raises(UserError, match=rf"the {words} bound is nan at 250 training examples, and"):
        fit(tmp_path, counter(), score=nan_on(split))


def nan_on(split: str) -> Scorer:
    """Returns a scorer whose bound of a split is NaN after 20 steps."""

    def score(params: jax.Array, data: np.ndarray, index: np.ndarray) -> Score:
        is_bad = float(params) > 20 and data is DATASET.splits[split]
        return Score(math.nan if is_bad else -abs(float(params) - 16.0), 0.0)

    return score


# The test data


def test_a_run_with_validation_data_never_scores_the_test_data(tmp_path: Path):
    scored = []

    def recorded(params: jax.Array, data: np.ndarray, index: np.ndarray) -> Score:
        scored.append(data)
        return score(params, data, index)

    fit(tmp_path, counter(), score=recorded)
    assert {id(data) for data in scored} == {id(DATASET.train), id(DATASET.valid)}


def test_without_validation_data_the_test_bound_is_logged_and_affects_no_decision(tmp_path: Path):
    """A NaN of the test bound does not stop the run, and no checkpoint is the best."""
    dataset = DATASET._replace(valid=None)
    trained = fit(tmp_path, counter(), dataset, score=nan_on("test"))
    assert math.isnan(trained.records[-1]["test_bound"])
    assert "valid_bound" not in trained.records[-1]
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal()}
    assert kept == set(evaluation_steps(SETTINGS)[-2:])


# Speed


def test_the_steady_speed_excludes_the_first_two_intervals():
    speed = trainer.Speed()

    def add(num_steps: int, seconds: float) -> None:
        state = counter().init(jax.random.key(0))
        speed.add(Pause(state, num_steps, {}, num_steps, seconds), batch_size=10)

    assert speed.steady() is None
    add(1, 5.0)
    assert speed.steady() == 2.0
    add(1, 5.0)
    add(30, 1.0)
    add(10, 1.0)
    assert speed.steady() == 200.0
