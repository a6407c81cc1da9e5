"""Schedules of the step size against their formulas, in optimizers, runs and refusals."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from configs import changed
from refusals import refusal

from aevb import runs, schedules
from aevb.experiment import build, build_optimizer
from aevb.optimizers import CLIPS
from aevb.schedules import SCHEDULES, Length
from aevb.storage.metrics_log import read_records

LENGTH = Length(num_examples=2000, batch_size=20, num_data=60)  # 100 steps, 3 of each pass
SMALL = {
    "data__name": "synthetic",
    "data__synthetic_num_train": 60,
    "data__synthetic_num_test": 20,
    "data__synthetic_num_dims": 4,
    "model__likelihood": "gaussian",
    "model__hidden": (3,),
    "train__batch_size": 20,
    "train__num_examples": 400,
}


def cosine_of(step: int) -> float:
    """Returns the factor after 10 steps of rise and 40 of descent to 0.1."""
    if step < 10:
        return step / 10
    return 0.1 + 0.9 * (1 + math.cos(math.pi * min(1.0, (step - 10) / 40))) / 2


def burda_of(step: int) -> float:
    """Returns the factor of stages of 1, 3 and 9 passes, each of 3 steps."""
    return 10 ** (-sum(step >= end for end in (3, 12)) / 7)


def cyclic_of(step: int) -> float:
    """Returns the factor of cycles of 20 steps, of which the first 5 rise."""
    return min(1.0, step % 20 / 5)


CASES = {
    "constant": ({}, lambda step: 1.0),
    "linear": ({"warmup_examples": 400}, lambda step: min(1.0, step / 20)),
    "cyclic": ({"period_examples": 400, "rising": 0.25}, cyclic_of),
    "cosine": ({"warmup_examples": 200, "decay_examples": 1000, "final": 0.1}, cosine_of),
    "exponential": ({"rate": 0.5, "decay_examples": 400}, lambda step: 0.5 ** (step / 20)),
    "piecewise": (
        {"boundaries": (100, 500), "factors": (0.5, 2.0)},
        lambda step: 1.0 if step < 5 else 0.5 if step < 25 else 2.0,
    ),
    "burda": ({"num_stages": 3}, burda_of),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_its_formula(name: str):
    options, formula = CASES[name]
    found = jax.vmap(SCHEDULES[name](LENGTH, **options))(jnp.arange(120))
    np.testing.assert_allclose(found, [formula(step) for step in range(120)], atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "exponential"])
def test_a_schedule_ends_with_the_run_by_default(name: str):
    last = SCHEDULES[name](LENGTH)(jnp.int32(100))
    assert last == pytest.approx({"cosine": 0.0, "exponential": 0.1}[name], abs=1e-6)


def test_burdas_schedule_lasts_3280_passes_in_8_stages():
    factor = schedules.burda(LENGTH)
    before, after = (factor(jnp.int32(3 * passes)) for passes in (1092, 1093))
    assert float(before) == pytest.approx(10 ** (-6 / 7))
    assert float(after) == pytest.approx(0.1)  # of the last stage, of 3^7 passes
    assert 1093 + 3**7 == 3280


@pytest.mark.parametrize("name", ["adagrad", "adam"])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.usefixtures("standard_promotion")
def test_an_optimizer_is_the_composition_of_optax(name: str, clip: str):
    """The prior's gradient is added, the sum is clipped, and the schedule scales the step."""
    decay, size = 0.01, 0.1
    config = changed(
        **SMALL, optimizer__name=name, optimizer__step_size=size, optimizer__clip=clip,
        optimizer__clip_at=0.5, optimizer__schedule="piecewise", algorithm__param_prior_std=10.0,
        optimizer__schedule_options={"boundaries": (40,), "factors": (0.25,)},
    )  # fmt: skip
    factor = optax.piecewise_constant_schedule(1.0, {2: 0.25})
    base = {
        "adagrad": optax.adagrad(
            lambda step: size * factor(step), initial_accumulator_value=0.0, eps=0.0
        ),
        "adam": optax.adam(lambda step: size * factor(step)),
    }[name]
    clips = {
        "none": optax.identity(),
        "global_norm": optax.clip_by_global_norm(0.5),
        "adaptive": optax.adaptive_grad_clip(0.5),
    }
    expected = optax.chain(optax.add_decayed_weights(decay / 60), clips[clip], base)
    found = build_optimizer(config, num_data=60)
    start = {"kernel": jnp.linspace(-1.0, 2.0, 6).reshape(2, 3), "bias": jnp.ones(3)}

    def path(optimizer: optax.GradientTransformation) -> list[dict[str, jax.Array]]:
        params, state, visited = start, optimizer.init(start), []

        @jax.jit
        def advance(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        for step in range(5):
            grads = jax.tree.map(lambda leaf: jnp.cos(7.0 * leaf + step), start)  # noqa: B023
            params, state = advance(grads, state, params)
            visited.append(params)
        return visited

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), path(found), path(expected)
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schedule": "cosin"}, "must be one of constant, linear"),
        ({"schedule": "cosine", "schedule_options": {"peak": 1}}, "peak is unknown; cosine has"),
        ({"schedule": "cosine", "schedule_options": {"final": 2.0}}, "final is 2.0; it must be"),
        ({"schedule": "constant", "schedule_options": {"rate": 2.0}}, "rate is unknown; constant"),
        ({"schedule": "piecewise"}, "boundaries has 0 numbers and factors 0"),
        (
            {
                "schedule": "piecewise",
                "schedule_options": {"boundaries": (9, 5), "factors": (1, 1)},
            },
            "boundaries is (9, 5); it must rise",
        ),
        ({"schedule": "burda", "schedule_options": {"num_stages": 0}}, "num_stages is 0; it must"),
        ({"schedule": "linear_schedule"}, "its options are init_value, end_value"),
        ({"schedule": "no_schedule"}, "optax has no schedule of this name"),
        ({"clip": "norm"}, "must be one of none, global_norm, adaptive"),
        ({"clip": "global_norm", "clip_at": 0.0}, "must be a finite number above 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(fields: dict[str, object], words: str):
    given = {f"optimizer__{name}": value for name, value in fields.items()}
    line = refusal(lambda: build_optimizer(changed(**SMALL, **given), num_data=60))
    assert words in line
    assert "config.optimizer" in line


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "wake_sleep"}, "algorithm.name=wake_sleep has no weight of the KL; use aevb"),
        ({"bound": "dreg"}, "the gradient of config.algorithm.bound=dreg needs the weight 1"),
        ({"kl_schedule_options": {"warmup": 3}}, "warmup is unknown; linear has the options"),
    ],
)
def test_a_weight_of_the_kl_that_nothing_takes_is_refused(fields: dict[str, object], words: str):
    given = {f"algorithm__{name}": value for name, value in fields.items()}
    line = refusal(lambda: build(changed(**SMALL, algorithm__kl_schedule="linear", **given)))
    assert words in line


@pytest.mark.slow
def test_the_logged_bounds_have_a_whole_kl_from_the_start(tmp_path: Path):
    """With a step size of 0, only the objective of training depends on the schedule."""
    fields = {"optimizer__step_size": 1e-30, "train__num_examples": 200}
    logs = []
    for number, schedule in enumerate(("constant", "linear")):
        folder = tmp_path / str(number)
        runs.run(changed(**SMALL | fields, algorithm__kl_schedule=schedule), folder)
        logs.append(read_records(folder / "metrics.jsonl")[-1])
    plain, warm = logs
    assert warm["train_bound"] == pytest.approx(plain["train_bound"], rel=1e-5)
    assert warm["recent_objective"] > plain["recent_objective"]


def test_a_schedule_of_optax_has_the_steps_of_training():
    options = {"init_value": 1.0, "end_value": 0.0, "transition_steps": 4}
    config = changed(
        **SMALL, optimizer__name="sgd", optimizer__step_size=0.5, algorithm__param_prior_std=0.0,
        optimizer__schedule="linear_schedule", optimizer__schedule_options=options,
    )  # fmt: skip
    optimizer = build_optimizer(config, num_data=60)
    one, sizes = {"weight": jnp.ones(())}, []
    state = optimizer.init(one)
    for _ in range(5):
        updates, state = optimizer.update(one, state)
        sizes += [-float(leaf) for leaf in jax.tree.leaves(updates)]
    assert sizes == [0.5, 0.375, 0.25, 0.125, 0.0]


@pytest.mark.slow
def test_a_run_whose_schedule_ends_with_it_cannot_go_on(tmp_path: Path):
    given = SMALL | {"optimizer__schedule": "cosine", "optimizer__clip": "global_norm"}
    runs.run(changed(**given), tmp_path / "run")
    longer = changed(**given | {"train__num_examples": 800})
    line = refusal(runs.run, longer, tmp_path / "run")
    assert "config.optimizer.schedule is 'cosine', which depends on the run's length" in line


@pytest.mark.slow
def test_a_run_whose_schedule_has_its_own_end_goes_on(tmp_path: Path):
    given = SMALL | {
        "optimizer__schedule": "cosine", "optimizer__schedule_options": {"decay_examples": 600},
    }  # fmt: skip
    runs.run(changed(**given), tmp_path / "run")
    longer = runs.run(changed(**given | {"train__num_examples": 800}), tmp_path / "run")
    whole = runs.run(changed(**given | {"train__num_examples": 800}), tmp_path / "whole")
    assert longer["train_bound"] == whole["train_bound"]
