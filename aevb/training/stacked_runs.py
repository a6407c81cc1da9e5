"""Stacks of runs, which train in one program with stacked arrays.

Members of a stack can differ in their seed, their step size and their number of latents. The
parameters of a smaller model occupy the corner of the arrays of the largest one, padded with zeros.
The padding does not change the results. For a padded latent the encoder's statistics are those of
N(0, 1), so its KL is 0, and the decoder's weights are 0. Noise of shape [Z] begins with the noise
that the same key gives for any smaller shape. `_within` keeps the gradients of the padding at 0.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import ExitStack
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.algorithms.averaging import trained
from aevb.algorithms.base import Algorithm, TrainState
from aevb.algorithms.skip_nonfinite import is_finite
from aevb.data import Dataset
from aevb.errors import Interrupted
from aevb.evaluation import elbo, measures
from aevb.evaluation.elbo import Score
from aevb.optimizers import Optimizer
from aevb.runtime.signals import Signals
from aevb.storage.metrics_log import Report
from aevb.training import loop, nonfinite
from aevb.training.journal import Journal, copied
from aevb.training.loop import AheadOfTime, LoopKeys, Pause, Program, Steps, run_keys
from aevb.training.nonfinite import Pick
from aevb.training.settings import Settings, evaluation_steps, is_out_of_patience
from aevb.training.trainer import DivergedError, Speed, Trained, diverged, require_finite
from aevb.types import Key, PyTree
from aevb.vae import VAE


class Stack(NamedTuple):
    """S runs as one program, whose arrays have a leading axis [S]."""

    size: int  # S
    dataset: Dataset
    init: Callable[[], list[TrainState]]  # the members' initial states, each without axis [S]
    join: Callable[[Sequence[TrainState]], TrainState]  # stacks members that are at the same step
    member: Callable[[TrainState, int], TrainState]  # extracts one member from the joined state
    keys: LoopKeys
    program: Program
    score: Callable[[PyTree, np.ndarray, np.ndarray], list[Score]]  # like elbo.Scorer, by member
    # (state, minibatch [M, D], its indices [M]) -> the norms [S] of a step; {} if the members'
    #   arrays are padded, since the gradient of the padding is not 0
    norms: Callable[[TrainState, np.ndarray, np.ndarray], dict[str, Array]]


class Setting(NamedTuple):
    """The settings, besides the keys, in which the members of a stack differ."""

    step_size: Array  # []
    sizes: dict[str, Array]  # path of a padded parameter -> its unpadded shape [ndim]


Wrap = Callable[[Optimizer], Optimizer]


def stacked(
    inits: Sequence[Callable[[Key], TrainState]],
    step_sizes: Sequence[float],
    keys: Sequence[Key],
    largest: VAE,
    algorithm_of: Callable[[Array, Wrap], Algorithm],
    dataset: Dataset,
    *,
    num_latents: Sequence[int],
    batch_size: int,
) -> Stack:
    """Returns a stack of runs.

    Args:
        inits: each member's `Algorithm.init`, which returns arrays of the member's own size.
        step_sizes: each member's step size.
        keys: the key of each member's seed.
        largest: a model whose parameter arrays are at least as large as those of every member.
        algorithm_of: (step size [], a function to apply to the optimizer) -> the algorithm of
            `largest`.
        num_latents: Z of each member.
    """
    shapes = [jax.eval_shape(init, key) for init, key in zip(inits, keys, strict=True)]
    sizes = _differing_sizes([trained(state.params) for state in shapes])
    settings = Setting(jnp.asarray(step_sizes, jnp.float32), sizes)

    def algorithm(setting: Setting) -> Algorithm:
        return algorithm_of(setting.step_size, lambda it: _within(it, setting.sizes))

    score = elbo.make_stacked_score(largest, dataset.preprocess, num_latents)
    to_score = jax.vmap(algorithm(jax.tree.map(lambda leaf: leaf[0], settings)).vae_params)
    advance = loop.make_stacked_advance(
        algorithm, settings, dataset.preprocess, batch_size=batch_size
    )
    loop_keys = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(run_keys(key).loop for key in keys)
    )

    def norms_of_member(
        setting: Setting, keys: LoopKeys, state: TrainState, stored: Array, indices: Array
    ) -> dict[str, Array]:
        return loop.norms_of(algorithm(setting), dataset.preprocess, keys, state, stored, indices)

    norms_of = jax.jit(jax.vmap(norms_of_member, (0, 0, loop.MEMBERS, None, None)))
    return Stack(
        size=len(keys),
        dataset=dataset,
        init=lambda: [loop.first_state(init, key) for init, key in zip(inits, keys, strict=True)],
        join=_join,
        member=partial(_member, shapes),
        keys=loop_keys,
        program=AheadOfTime(advance),
        score=lambda params, data, index: score(to_score(params), data, index),
        norms=lambda state, stored, indices: (
            {} if sizes else norms_of(settings, loop_keys, state, stored, indices)
        ),
    )


def train(
    stack: Stack,
    steps: Steps,
    state: TrainState,
    settings: Settings,
    journals: Sequence[Journal],
    *,
    signals: Signals,
    report: Report,
) -> list[Trained | DivergedError]:
    """Trains the members of a stack to the end, each with its own journal.

    A member whose state, objective or bound is not finite has diverged, and one that is out of
    patience has ended. It is no longer recorded or saved, and the other members continue.

    Args:
        steps, state: from `loop.prepare`.
        journals: one for each member; all are at the same step.

    Raises:
        Interrupted: a signal was received; the states are saved first.
    """
    stops, num_steps, speed = evaluation_steps(settings), settings.num_steps, Speed()
    failures: dict[int, DivergedError] = {}
    ended = {  # the last states of members that are out of patience
        number: stack.member(state, number)
        for number, journal in enumerate(journals)
        if is_out_of_patience(journal.records, settings.patience)
    }
    if len(ended) == stack.size:
        num_steps = int(state.step)
    before = copied(state)  # the state at the last pause
    is_done = False
    try:
        for pause in loop.pauses(steps, state, num_steps=num_steps, stops=stops):
            state = pause.state
            bounds = _evaluate(stack, state, settings) if pause.step in stops else None
            going = set(range(stack.size)) - failures.keys() - ended.keys()
            failures |= _new_failures(stack, steps, before, pause, bounds, journals, going)
            going = sorted(going - failures.keys())
            if not going:
                break
            before = copied(state)
            share = pause.seconds / stack.size
            speed.add(pause._replace(seconds=share), settings.batch_size)
            examples = pause.num_steps * settings.batch_size * stack.size
            report(examples, float(np.mean(pause.metrics["objective"][going])))
            received = signals.received
            for number in going:
                journal = journals[number]
                journal.seconds += share
                if bounds or received or journal.is_due():
                    journal.add(
                        _own(stack, pause, number),
                        bounds[number] if bounds else None,
                        is_interrupted=bool(received),
                    )
                if is_out_of_patience(journal.records, settings.patience):
                    ended[number] = copied(stack.member(state, number))
            if received and pause.step < num_steps:
                raise Interrupted(received, pause.step * settings.batch_size)
            if len(failures) + len(ended) == stack.size:
                break
        is_done = True
    finally:
        with ExitStack() as last:  # all are closed, even if one cannot be written
            for number, journal in enumerate(journals):
                last.callback(journal.close, is_done=is_done and number not in failures)
    return [
        failures.get(number)
        or Trained(
            ended.get(number) or stack.member(state, number),
            journal.records,
            journal.seconds,
            speed.steady(),
        )
        for number, journal in enumerate(journals)
    ]


def _evaluate(stack: Stack, state: TrainState, settings: Settings) -> list[dict[str, float]]:
    """Returns what an evaluation records of each member, as in `trainer.train`."""
    dataset = stack.dataset
    splits = {name: dataset.splits[name] for name in ("train", dataset.followed)}
    scores = {
        name: stack.score(state.params, data, elbo.some_of(len(data), settings.eval_examples))
        for name, data in splits.items()
    }
    minibatch = elbo.some_of(len(dataset.train), settings.batch_size).astype(np.int32)
    norms = stack.norms(state, dataset.train[minibatch], minibatch)

    def of_member(number: int) -> dict[str, float]:
        own = {name: each[number] for name, each in scores.items()}
        found = {f"{name}_bound": score.mean for name, score in own.items()}
        for name, score in own.items():
            found |= measures.of_split(name, score.measures)
        return found | {name: float(norm[number]) for name, norm in norms.items()}

    return [of_member(number) for number in range(stack.size)]


_are_finite = jax.jit(jax.vmap(is_finite, in_axes=(loop.MEMBERS,)))


def _new_failures(
    stack: Stack,
    steps: Steps,
    before: TrainState,
    pause: Pause,
    bounds: Sequence[Mapping[str, float]] | None,
    journals: Sequence[Journal],
    going: Set[int],
) -> dict[int, DivergedError]:
    """Returns the members that have diverged since the last pause, with their errors.

    Args:
        going: the members that were trained until now.
    """
    sound = np.isfinite(pause.metrics["objective"]) & np.asarray(_are_finite(pause.state))
    found = {}
    for number in going:
        try:
            if not sound[number]:
                bad = nonfinite.find(steps, before, pause.step, _pick(stack, number))
                raise diverged(bad, steps.batch_size, journals[number])
            require_finite(bounds[number] if bounds else None, pause, steps.batch_size)
        except DivergedError as error:
            found[number] = error
    return found


def _own(stack: Stack, pause: Pause, number: int) -> Pause:
    """Returns the pause of one member, without the axis of the stack."""
    pick = _pick(stack, number)
    metrics = {name: pick.row(each) for name, each in pause.metrics.items()}
    return pause._replace(state=pick.state(pause.state), metrics=metrics)


def _pick(stack: Stack, number: int) -> Pick:
    return Pick(lambda state: stack.member(state, number), itemgetter(number))


def _join(states: Sequence[TrainState]) -> TrainState:
    """Stacks the members' states, padded with zeros to the largest size."""

    def pad_and_stack(*leaves: Array) -> Array:
        shape = np.max([leaf.shape for leaf in leaves], axis=0).astype(int)
        return jnp.stack([_padded(leaf, tuple(shape)) for leaf in leaves])

    return jax.tree.map(pad_and_stack, *states)._replace(step=states[0].step)


def _member(likes: Sequence[TrainState], state: TrainState, number: int) -> TrainState:
    """Returns the state of one member, in its own sizes.

    Args:
        likes: the shapes of each member's state.
    """

    def corner(leaf: Array, like: Any) -> Array:
        return leaf[number][tuple(slice(size) for size in like.shape)]

    like = likes[number]._replace(step=())
    return jax.tree.map(corner, state._replace(step=()), like)._replace(step=state.step)


def _padded(leaf: Array, shape: tuple[int, ...]) -> Array:
    """Returns `leaf` padded with zeros at the end of each axis, up to `shape`."""
    return jnp.zeros(shape, leaf.dtype).at[tuple(slice(size) for size in leaf.shape)].set(leaf)


def _differing_sizes(params: Sequence[PyTree]) -> dict[str, Array]:
    """Returns path -> shapes [S, ndim] of the parameters whose shapes differ between members."""
    paths = [path for path, _ in jax.tree.leaves_with_path(params[0])]
    shapes = zip(*([leaf.shape for leaf in jax.tree.leaves(p)] for p in params), strict=True)
    return {
        jax.tree_util.keystr(path): jnp.asarray(each, jnp.int32)
        for path, each in zip(paths, shapes, strict=True)
        if len(set(each)) > 1
    }


def _within(optimizer: Optimizer, sizes: dict[str, Array]) -> Optimizer:
    """Returns the optimizer with gradients and updates set to 0 outside the member's own sizes."""

    def keep(tree: PyTree) -> PyTree:
        def keep_leaf(path: Any, leaf: Array) -> Array:
            own = sizes.get(jax.tree_util.keystr(path))
            if own is None:
                return leaf
            inside = [
                jax.lax.broadcasted_iota(jnp.int32, leaf.shape, axis) < own[axis]
                for axis in range(leaf.ndim)
            ]
            return jnp.where(jnp.all(jnp.stack(inside), axis=0), leaf, 0.0)

        return jax.tree_util.tree_map_with_path(keep_leaf, tree)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        # Weight decay is 0 in the padding, where every weight is 0.
        updates, state = optimizer.update(keep(updates), state, params)
        return keep(updates), state

    return Optimizer(optimizer.init, update)
