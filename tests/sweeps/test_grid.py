"""The runs that a sweep consists of, and mistakes in its declaration."""

from typing import Any

import pytest
from refusals import refusal

from aevb.config import default_config
from aevb.sweeps.grid import Axes, best_of, difference, make_plan, parse_axis

AXES: Axes = {
    "model.num_latents": (2, 5),
    "optimizer.step_size": best_of(0.01, 0.1, num_examples=5000),
    "seed": (3, 4),
}


def test_the_runs_of_a_sweep_are_the_product_of_its_axes_named_by_their_settings():
    plan = make_plan(default_config(), {"model.num_latents": (2, 5), "seed": (3, 4)})
    assert plan.trials() == []
    members = plan.members()
    assert [member.name for member in members] == [
        f"model.num_latents={latents},seed={seed}" for latents in (2, 5) for seed in (3, 4)
    ]
    for member in members:
        assert member.values["seed"] == member.setting["seed"]
        assert member.values["model.num_latents"] == member.setting["model.num_latents"]
        assert member.values["optimizer.step_size"] == 0.02  # the value of the config


def test_trials_of_a_choice_are_short_runs_of_each_setting_with_the_first_seed():
    trials = make_plan(default_config(), AXES).trials()
    assert [trial.setting for trial in trials] == [
        {"model.num_latents": 2},
        {"model.num_latents": 5},
    ]
    for trial in trials:
        assert [member.setting["optimizer.step_size"] for member in trial.members] == [0.01, 0.1]
        for member in trial.members:
            assert member.values["seed"] == 3
            assert member.values["train.num_examples"] == 5000
            assert member.name.startswith("trials/")
    names = [member.name for trial in trials for member in trial.members]
    assert len(set(names)) == 4


def test_each_run_has_the_choice_of_its_setting_and_its_name_does_not_contain_it():
    plan = make_plan(default_config(), AXES)
    members = plan.members([{"optimizer.step_size": 0.1}, {"optimizer.step_size": 0.01}])
    assert [m.values["optimizer.step_size"] for m in members] == [0.1, 0.1, 0.01, 0.01]
    assert {m.values["train.num_examples"] for m in members} == {3_000_000}
    assert members[0].name == "model.num_latents=2,seed=3"


def test_a_trial_is_no_longer_than_the_run():
    config = default_config()
    config.train.num_examples = 1000
    (first, _) = make_plan(config, AXES).trials()
    assert first.members[0].values["train.num_examples"] == 1000


def test_a_sweep_over_choices_alone_has_one_run():
    plan = make_plan(default_config(), {"optimizer.step_size": best_of(0.01, 0.1)})
    assert len(plan.trials()) == 1
    (member,) = plan.members([{"optimizer.step_size": 0.1}])
    assert member.values["optimizer.step_size"] == 0.1


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("seed=0,1,2", ("seed", (0, 1, 2))),
        ("seed=7", ("seed", (7,))),
        ("optimizer.step_size=1,0.5", ("optimizer.step_size", (1.0, 0.5))),
        ("optimizer.name=adam,sgd", ("optimizer.name", ("adam", "sgd"))),
        ("model.hidden=(200,),(100,50)", ("model.hidden", ((200,), (100, 50)))),
        ("optimizer.options.b1=0.9,0.99", ("optimizer.options.b1", (0.9, 0.99))),
        ("model.network_options.sizes=(1,),(2,3)", ("model.network_options.sizes", ((1,), (2, 3)))),
        (
            "algorithm.options.prior_scale=constant,fan_in",
            ("algorithm.options.prior_scale", ("constant", "fan_in")),
        ),
    ],
)
def test_an_axis_is_parsed(text: str, axis: tuple[str, Any]):
    assert parse_axis(text) == axis


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed", ["seed", "FIELD=VALUE"]),
        ("seed=", ["seed=", "FIELD=VALUE"]),
        ("sead=1", ["sead", "--help"]),
        ("seed=one", ["seed=one", "int"]),
        ("seed=1;2", ["seed=1;2"]),
    ],
)
def test_an_invalid_axis_is_refused(text: str, words: list[str]):
    message = refusal(parse_axis, text)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({}, ["no axis", "get_sweep()"]),
        ({"sead": (1,)}, ["sead"]),
        ({"seed": ()}, ["seed", "()"]),
        ({"seed": [0, 1]}, ["seed", "[0, 1]", "tuple"]),
        ({"seed": (1, 1)}, ["seed", "(1, 1)", "twice"]),
        ({"seed": best_of(0, 1)}, ["seed", "choice"]),
        ({"model.num_latents": (2, 0)}, ["num_latents", "0", "at least 1"]),
        ({"optimizer.step_size": best_of(0.1, -1.0)}, ["step_size", "-1.0"]),
        ({"model.num_latents": (2, "many")}, ["num_latents", "many"]),
    ],
)
def test_a_sweep_with_invalid_axes_is_refused(axes: Any, words: list[str]):
    message = refusal(make_plan, default_config(), axes)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("axis", "other", "words"),
    [
        ((0.1, 0.2), (0.2, 0.3, 0.1), ""),
        ((0.1, 0.2), (0.2,), "optimizer.step_size has the value 0.1 there and not here"),
        (best_of(0.1, 0.2), best_of(0.1, 0.2), ""),
        (best_of(0.1, 0.2), best_of(0.1, 0.2, 0.3), "the choice of optimizer.step_size"),
        (best_of(0.1), (0.1,), "the choice of optimizer.step_size"),
    ],
)
def test_a_plan_holds_an_earlier_one_if_it_has_all_of_its_values(axis: Any, other: Any, words: str):
    then, now = (
        make_plan(default_config(), {"optimizer.step_size": each}).described()
        for each in (axis, other)
    )
    found = difference(then, now)
    assert found.startswith(words) if words else not found
