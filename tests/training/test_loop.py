"""The training loop: the order of the datapoints, and pauses and resumptions without effect."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow_but
from recorder import recorder

from aevb import likelihoods, vae
from aevb.algorithms import aevb
from aevb.algorithms.base import Algorithm, TrainState
from aevb.losses import BOUNDS
from aevb.networks import mlp, normal_init
from aevb.training.loop import (
    Advance,
    LoopKeys,
    Order,
    Pause,
    Steps,
    make_advance,
    pauses,
    train_to,
)

pytestmark = pytest.mark.usefixtures("optimized")

N, M = 11, 3  # 3 minibatches per epoch; 2 datapoints are left over
STEPS_PER_EPOCH = N // M
NUM_STEPS = 4 * STEPS_PER_EPOCH

DATA = jnp.arange(2 * N, dtype=jnp.uint8).reshape(N, 2)  # the first pixel of row i is 2 i


def keys(seed: int = 0) -> LoopKeys:
    return LoopKeys(*jax.random.split(jax.random.key(seed)))


def noisy(key: jax.Array, x: jax.Array) -> jax.Array:
    """Replaces the second pixel by uniform noise, which identifies the key of the preprocessing."""
    return jnp.stack([x[0].astype(jnp.float32), jax.random.uniform(key)])


RECORDER = recorder(NUM_STEPS, M, num_dims=2)
RECORD = make_advance(RECORDER, noisy, batch_size=M)


def record(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the data of NUM_STEPS steps, each entry [NUM_STEPS, ...]."""
    state, _ = train_to(
        RECORD, keys(seed), DATA, RECORDER.init(jax.random.key(0)), jnp.int32(NUM_STEPS)
    )
    assert state.step == NUM_STEPS
    return jax.tree.map(np.asarray, state.extra)


def learner() -> Algorithm:
    """Returns AEVB with momentum, for a small VAE."""
    init = normal_init(0.5)
    model = vae.make(
        mlp(2, {"mean": 2, "log_var": 2}, hidden=(4,), initialization=init),
        mlp(2, {"mean": 2, "log_var": 2}, hidden=(4,), initialization=init),
        likelihoods.gaussian,
        num_latents=2,
    )
    optimizer = optax.sgd(0.01, momentum=0.9)
    return aevb.make(model, optimizer, bound=BOUNDS["sgvb_b"])


LEARNER = learner()
LEARN = make_advance(LEARNER, noisy, batch_size=M)


def learned(*stops: int, start: TrainState | None = None) -> tuple[TrainState, list[Any]]:
    """Advances to each stop in turn; returns the final state, on the host, and the metrics."""
    state = LEARNER.init(jax.random.key(0)) if start is None else jax.tree.map(jnp.asarray, start)
    metrics = []
    for stop in stops:
        state, means = train_to(LEARN, keys(), DATA, state, jnp.int32(stop))
        metrics.append(jax.tree.map(float, means))
    return jax.tree.map(np.array, state), metrics


def assert_bitwise_equal(state: Any, other: Any) -> None:
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def assert_differ(state: TrainState, other: TrainState) -> None:
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True)
    assert any(np.any(a != b) for a, b in pairs)


# The data of each step


def test_each_epoch_shows_datapoints_once_in_another_order_and_leaves_out_another_remainder():
    epochs = record()["indices"].reshape(-1, STEPS_PER_EPOCH * M)
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert set(epochs.ravel()) == set(range(N))


def test_the_order_of_datapoints_depends_on_its_key():
    np.testing.assert_array_equal(record(seed=0)["indices"], record(seed=0)["indices"])
    assert np.any(record(seed=0)["indices"] != record(seed=1)["indices"])


def test_the_datapoints_of_a_minibatch_are_those_of_its_indices():
    shown = record()
    np.testing.assert_array_equal(shown["x"][..., 0], 2 * shown["indices"])


def test_preprocessing_and_steps_have_fresh_keys():
    """Each binarization is a new draw, with a key that differs from that of the step's samples."""
    shown = record()
    noise = np.concatenate([shown["x"][..., 1].ravel(), shown["noise"]])
    assert len(np.unique(noise)) == NUM_STEPS * (M + 1)


def test_every_datapoint_is_shown_equally_often():
    """Unequal counts would make the minibatch a biased estimate of the sum over the data."""
    start, num_runs = jax.tree.map(np.asarray, RECORDER.init(jax.random.key(0))), 400
    counts = np.zeros(N)
    for seed in range(num_runs):
        state = jax.tree.map(jnp.asarray, start)
        state, _ = train_to(RECORD, keys(seed), DATA, state, jnp.int32(STEPS_PER_EPOCH))
        counts[np.asarray(state.extra["indices"][:STEPS_PER_EPOCH])] += 1
    share = STEPS_PER_EPOCH * M / N
    standard_error = np.sqrt(share * (1 - share) / num_runs)
    assert np.max(np.abs(counts / num_runs - share)) < 4 * standard_error


def test_the_order_of_an_epoch_is_drawn_once_and_that_of_another_epoch_is_not_used():
    """Shuffling takes time that grows with N, which another shuffle in each pause would add."""
    state, drawn = RECORDER.init(jax.random.key(0)), record()["indices"]
    order = Order(jnp.int32(0), jnp.arange(N))
    state, order, _ = RECORD(keys(), DATA, state, order, jnp.int32(1))
    kept = STEPS_PER_EPOCH
    state, order, _ = RECORD(keys(), DATA, state, order, jnp.int32(kept + 1))
    assert order.epoch == 1
    shown = np.asarray(state.extra["indices"])
    np.testing.assert_array_equal(shown[:kept].ravel(), np.arange(kept * M))
    np.testing.assert_array_equal(shown[kept], drawn[kept])


# Metrics


def test_metrics_are_means_over_the_steps_since_the_last_stop():
    state, noises, done = RECORDER.init(jax.random.key(0)), record()["noise"], 0
    for stop in (1, 4, 5, NUM_STEPS):
        state, means = train_to(RECORD, keys(), DATA, state, jnp.int32(stop))
        assert means["objective"] == pytest.approx(np.mean(np.arange(done, stop)))
        assert means["noise"] == pytest.approx(np.mean(noises[done:stop]), rel=1e-6)
        done = stop


# Pauses


@pytest.mark.parametrize(
    "stops", slow_but([(1, 2, 3, 7)], [(1, 2, 3, 7), (5,), tuple(range(1, 20))])
)
def test_pauses_do_not_change_the_state_bitwise(stops: tuple[int, ...]):
    at_once, (means,) = learned(20)
    in_pieces, metrics = learned(*stops, 20)
    assert_bitwise_equal(at_once, in_pieces)
    lengths = np.diff([0, *stops, 20])
    bounds = [piece["objective"] for piece in metrics]
    assert np.average(bounds, weights=lengths) == pytest.approx(means["objective"], rel=1e-5)


@cache
def another_advance() -> Advance:
    return make_advance(learner(), noisy, batch_size=M)


@pytest.mark.parametrize("stop", slow_but([2], [2, 3, 7]))
def test_a_run_resumed_within_or_between_epochs_is_bitwise_the_same(stop: int):
    """The run is resumed by another `advance`, from a state on the host, as from a checkpoint."""
    undisturbed, _ = learned(10)
    saved, _ = learned(stop)
    assert_differ(saved, undisturbed)
    resumed, _ = train_to(
        another_advance(), keys(), DATA, jax.tree.map(jnp.asarray, saved), jnp.int32(10)
    )
    assert_bitwise_equal(resumed, undisturbed)


def paused(start: TrainState, *, num_steps: int, stops: tuple[int, ...]) -> list[Pause]:
    """Returns the pauses; their states are copied to the host before their memory is reused."""
    return [
        pause._replace(state=jax.tree.map(np.array, pause.state))
        for pause in pauses(
            Steps(RECORD, keys(), DATA, batch_size=1), start, num_steps=num_steps, stops=stops
        )
    ]


@pytest.mark.parametrize("stops", [(), (1, 2, 11), (NUM_STEPS,), (4, 50)])
def test_the_host_pauses_at_every_stop_and_at_the_end(stops: tuple[int, ...]):
    seen = paused(RECORDER.init(jax.random.key(0)), num_steps=NUM_STEPS, stops=stops)
    steps = [pause.step for pause in seen]
    assert steps[-1] == NUM_STEPS
    assert steps == sorted(set(steps))
    assert {stop for stop in stops if stop <= NUM_STEPS} <= set(steps)
    assert [pause.num_steps for pause in seen] == list(np.diff([0, *steps]))
    shown = record()
    for pause in seen:
        assert pause.state.step == pause.step
        assert pause.seconds > 0
        stretch = np.arange(pause.step - pause.num_steps, pause.step)
        assert pause.metrics["objective"] == pytest.approx(np.mean(stretch))
    assert_bitwise_equal(seen[-1].state.extra, shown)


def test_training_continues_from_the_step_of_a_given_state():
    shown = record()
    half = paused(RECORDER.init(jax.random.key(0)), num_steps=5, stops=())[-1].state
    assert half.step == 5
    rest = paused(jax.tree.map(jnp.asarray, half), num_steps=NUM_STEPS, stops=(2, 7))
    assert rest[0].step == 7  # 2 is past
    assert_bitwise_equal(rest[-1].state.extra, shown)


def test_a_finished_state_is_not_trained_further():
    done = paused(RECORDER.init(jax.random.key(0)), num_steps=5, stops=())[-1].state
    assert paused(jax.tree.map(jnp.asarray, done), num_steps=5, stops=(3, 5)) == []
