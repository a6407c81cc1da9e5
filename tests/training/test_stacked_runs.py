"""Runs stacked into one program equal the same runs alone, up to rounding, at different sizes.

The paper's Adagrad cannot be used for this test beyond a few steps. Its first steps have the size
of the step size for any gradient, so that a gradient of 1e-9 instead of 0 moves a weight as far as
any other, and rounding errors grow a hundredfold in ten steps. With plain gradient ascent they do
not.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import changed
from marks import slow_but
from small_sweep import stack_of

from aevb.algorithms.base import TrainState
from aevb.evaluation import elbo
from aevb.experiment import Experiment, build
from aevb.training import loop
from aevb.training.loop import LoopKeys
from aevb.training.stacked_runs import Stack

SMALL = {
    "data__name": "synthetic",
    "data__synthetic_num_train": 60,
    "data__synthetic_num_dims": 7,
    "model__likelihood": "gaussian",
    "model__hidden": (11,),
    "train__batch_size": 10,
    "optimizer__name": "sgd",
    "optimizer__step_size": 0.01,
}


class Members(NamedTuple):
    """Single runs, and the same runs as a stack."""

    built: list[Experiment]
    keys: list[jax.Array]
    stacked: Stack


def make(*differing: dict[str, Any], **common: Any) -> Members:
    values = [changed(**SMALL | common | own) for own in differing]
    keys = [jax.random.key(each["seed"]) for each in values]
    return Members([build(each) for each in values], keys, stack_of(values))


def trained(
    program: loop.Program, keys: LoopKeys, state: TrainState, data: np.ndarray, num_steps: int
) -> tuple[TrainState, np.ndarray]:
    """Returns the state after some steps, and the mean objective of these steps."""
    advance = program.compile(keys, jnp.asarray(data), state)
    state, means = loop.train_to(advance, keys, jnp.asarray(data), state, num_steps)
    return state, np.asarray(means["objective"])


def trained_alone(experiment: Experiment, key: jax.Array, num_steps: int):
    dataset, _, algorithm = experiment
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=10)
    state = loop.first_state(algorithm.init, key)
    keys = loop.run_keys(key).loop
    return trained(loop.AheadOfTime(advance), keys, state, dataset.train, num_steps)


def trained_together(stack: Stack, num_steps: int):
    state = stack.join(stack.init())
    return trained(stack.program, stack.keys, state, stack.dataset.train, num_steps)


def assert_each_is_as_alone(members: Members, num_steps: int, atol: float) -> None:
    stack, data = members.stacked, members.stacked.dataset.train
    state, bounds = trained_together(stack, num_steps)
    scores = stack.score(state.params, data, np.arange(len(data)))
    for number, (experiment, key) in enumerate(zip(members.built, members.keys, strict=True)):
        expected, bound = trained_alone(experiment, key, num_steps)
        member = stack.member(state, number)
        assert jax.tree.structure(member) == jax.tree.structure(expected)
        assert member.step == num_steps
        for ours, theirs in zip(jax.tree.leaves(member), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)
        assert bounds[number] == pytest.approx(float(bound), rel=1e-4)
        score = elbo.make_score(experiment.vae, experiment.dataset.preprocess)
        params = experiment.algorithm.vae_params(expected.params)
        alone = score(params, data, np.arange(len(data)))
        assert scores[number].mean == pytest.approx(alone.mean, rel=1e-4)


# The seeds, step sizes and initial weights that differ in a case need no case of their own.
CASES = {
    "all at once": (
        [
            {"model__num_latents": 1, "seed": 4},
            {"model__num_latents": 6, "optimizer__step_size": 0.003},
        ],
        {},
    ),
    "200 latents between two sizes": (
        [{"model__num_latents": 3}, {"model__num_latents": 200}, {"model__num_latents": 2}],
        {},
    ),
    "full covariances": (
        [{"model__num_latents": 2}, {"model__num_latents": 4}],
        {"model__guide": "full_normal", "model__init": "fan_in"},
    ),
    "another bound": (
        [{"model__num_latents": 2}, {"model__num_latents": 5}],
        {"algorithm__bound": "iwae", "algorithm__num_samples": 3, "model__init": "fan_in"},
    ),
    "wake-sleep": (
        [{"model__num_latents": 2}, {"model__num_latents": 5}],
        {"algorithm__name": "wake_sleep"},
    ),
    "reweighted wake-sleep": (
        [{"model__num_latents": 2}, {"model__num_latents": 5}],
        {"algorithm__name": "reweighted_wake_sleep", "algorithm__num_samples": 3},
    ),
    "layers of latents": ([{"seed": 0}, {"seed": 1}], {"model__num_latents": (3, 2)}),
    "chains of Monte-Carlo EM": ([{"seed": 0}, {"seed": 1}], {"algorithm__name": "mcem"}),
    "posteriors over theta": ([{"seed": 0}, {"seed": 1}], {"algorithm__name": "full_vb"}),
    "momentum": (
        [{"model__num_latents": 2}, {"model__num_latents": 5}],
        {"optimizer__options__momentum": 0.9, "optimizer__step_size": 0.001},
    ),
    "clipped gradients": (
        [{"model__num_latents": 2}, {"model__num_latents": 5, "optimizer__step_size": 0.005}],
        {"optimizer__clip": "global_norm", "optimizer__clip_at": 2.0},
    ),
    "averaged parameters": (
        [{"model__num_latents": 2}, {"model__num_latents": 5}],
        {"algorithm__average_decay": 0.9},
    ),
    "a schedule": (
        [{"model__num_latents": 2}, {"model__num_latents": 5}],
        {
            "optimizer__schedule": "cosine",
            "optimizer__schedule_options__decay_examples": 150,
            "optimizer__clip": "adaptive",
            "optimizer__clip_at": 0.1,
        },
    ),
}


@cache
def members_of(case: str) -> Members:
    differing, common = CASES[case]
    return make(*differing, **common)


@pytest.mark.parametrize("case", slow_but(["all at once"], CASES))
def test_a_stacked_member_has_the_parameters_of_a_single_run(case: str):
    assert_each_is_as_alone(members_of(case), num_steps=20, atol=2e-5)


@cache
def adagrad() -> Members:
    return make(
        {"model__num_latents": 2},
        {"model__num_latents": 5, "seed": 3},
        model__hidden=(),
        optimizer__name="adagrad",
    )


@pytest.mark.slow
def test_the_first_stacked_steps_of_adagrad_are_those_of_a_single_run():
    assert_each_is_as_alone(adagrad(), num_steps=2, atol=1e-4)


@pytest.mark.slow
def test_padded_entries_stay_0():
    """The padding covers parameters and optimizer state; this optimizer changes every entry."""
    members = adagrad()
    state, _ = trained_together(members.stacked, 12)
    expected = jax.eval_shape(members.built[0].algorithm.init, jax.random.key(0))
    for leaf, own in zip(
        jax.tree.leaves(state._replace(step=())),
        jax.tree.leaves(expected._replace(step=())),
        strict=True,
    ):
        rest = np.array(leaf[0])
        if rest.shape:
            rest[tuple(slice(size) for size in own.shape)] = 0.0
            assert not np.any(rest)


def test_joined_states_can_be_separated_again():
    members = members_of("all at once")
    states = members.stacked.init()
    joined = members.stacked.join(states)
    for number, state in enumerate(states):
        apart = members.stacked.member(joined, number)
        for ours, theirs in zip(jax.tree.leaves(apart), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(ours, theirs)
