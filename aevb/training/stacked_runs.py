"""Runs that train as one: a run alone as it is, or several with their arrays stacked.

Members of a stack may differ in their seed, their step size and their number of latents. A smaller
model lives in the corner of a larger one's arrays, with zeros around it. Nothing is lost by that:
of a padded latent the encoder's statistics are those of N(0, 1), so that its KL is 0, and the
decoder's weights are 0; and noise of shape [Z] begins with the noise of any smaller shape. What
must be seen to is that the gradients of what is padded stay 0.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.algorithms.base import Algorithm, TrainState
from aevb.evaluation import elbo
from aevb.evaluation.elbo import Score
from aevb.optimizers import Optimizer, WithPrior, with_prior
from aevb.training import loop
from aevb.training.loop import AheadOfTime, LoopKeys, Program
from aevb.types import Key, PyTree
from aevb.vae import VAE


class Stack(NamedTuple):
    """S runs as one program; of a run alone no array has a leading axis [S]."""

    size: int  # S
    init: Callable[[], list[TrainState]]  # the members' first states, as of runs alone
    join: Callable[[Sequence[TrainState]], TrainState]  # of members at one step
    member: Callable[[TrainState, int], TrainState]  # what `join` has joined, apart again
    keys: LoopKeys
    program: Program
    score: Callable[[PyTree, np.ndarray, np.ndarray], list[Score]]  # as evaluate.Scorer


class Setting(NamedTuple):
    """What the members of a stack differ in, besides their keys."""

    step_size: Array  # []
    sizes: dict[str, Array]  # path of a padded parameter -> its shape in this member [ndim]


Wrap = Callable[[Optimizer], Optimizer]


class RunKeys(NamedTuple):
    """The randomness of a run, all from its seed."""

    init: Key
    loop: LoopKeys


def run_keys(key: Key) -> RunKeys:
    init_key, order_key, step_key = jax.random.split(key, 3)
    return RunKeys(init_key, LoopKeys(order_key, step_key))


def first_state(init: Callable[[Key], TrainState], key: Key) -> TrainState:
    """Where a run begins, by its `Algorithm.init` and the key of its seed."""
    return jax.jit(init)(run_keys(key).init)


def alone(
    algorithm: Algorithm,
    program: Program,
    score: elbo.Scorer,
    key: Key,
) -> Stack:
    """A stack of one run, as it is.

    Args:
        program: of `loop.make_advance`; several runs may share it.
        score: of `elbo.make_score`.
        key: of the run's seed.
    """
    return Stack(
        size=1,
        init=lambda: [first_state(algorithm.init, key)],
        join=lambda states: states[0],
        member=lambda state, number: state,
        keys=run_keys(key).loop,
        program=program,
        score=lambda params, data, index: [score(algorithm.vae_params(params), data, index)],
    )


def stacked(
    inits: Sequence[Callable[[Key], TrainState]],
    step_sizes: Sequence[float],
    keys: Sequence[Key],
    largest: VAE,
    algorithm_of: Callable[[Array, Wrap], Algorithm],
    preprocess: Callable[[Key, Array], Array],
    *,
    batch_size: int,
) -> Stack:
    """A stack of S runs.

    Args:
        inits: each member's `Algorithm.init`, of arrays of its own size.
        step_sizes: of each member.
        keys: of each member's seed.
        largest: a model in whose arrays all of the members' have room.
        algorithm_of: (step size [], what is to become of the optimizer) -> that of `largest`.
        preprocess: as of the data set.
    """
    shapes = [jax.eval_shape(init, key) for init, key in zip(inits, keys, strict=True)]
    params = [state.params for state in shapes]
    settings = Setting(jnp.asarray(step_sizes, jnp.float32), _differing_sizes(params))

    def algorithm(setting: Setting) -> Algorithm:
        return algorithm_of(setting.step_size, lambda it: _within(it, setting.sizes))

    def join(states: Sequence[TrainState]) -> TrainState:
        def pad_and_stack(*leaves: Array) -> Array:
            shape = np.max([leaf.shape for leaf in leaves], axis=0).astype(int)
            return jnp.stack([_padded(leaf, tuple(shape)) for leaf in leaves])

        joined = jax.tree.map(pad_and_stack, *states)
        return joined._replace(step=states[0].step)

    def member(state: TrainState, number: int) -> TrainState:
        def corner(leaf: Array, like: Any) -> Array:
            return leaf[number][tuple(slice(size) for size in like.shape)]

        step, like = state.step, shapes[number]
        rest = jax.tree.map(corner, state._replace(step=()), like._replace(step=()))
        return rest._replace(step=step)

    score = elbo.make_stacked_score(largest, preprocess)
    to_score = jax.vmap(algorithm(jax.tree.map(lambda leaf: leaf[0], settings)).vae_params)
    return Stack(
        size=len(keys),
        init=lambda: [first_state(init, key) for init, key in zip(inits, keys, strict=True)],
        join=join,
        member=member,
        keys=jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run_keys(key).loop for key in keys)),
        program=AheadOfTime(
            loop.make_stacked_advance(algorithm, settings, preprocess, batch_size=batch_size)
        ),
        score=lambda params, data, index: score(to_score(params), data, index),
    )


def _padded(leaf: Array, shape: tuple[int, ...]) -> Array:
    """With zeros at the ends, up to `shape`."""
    return jnp.zeros(shape, leaf.dtype).at[tuple(slice(size) for size in leaf.shape)].set(leaf)


def _differing_sizes(params: Sequence[PyTree]) -> dict[str, Array]:
    """Path -> shapes [S, ndim], of the parameters whose shape is not the same in all members."""
    paths = [path for path, _ in jax.tree.leaves_with_path(params[0])]
    shapes = zip(*([leaf.shape for leaf in jax.tree.leaves(p)] for p in params), strict=True)
    return {
        jax.tree_util.keystr(path): jnp.asarray(each, jnp.int32)
        for path, each in zip(paths, shapes, strict=True)
        if len(set(each)) > 1
    }


def _within(optimizer: Optimizer, sizes: dict[str, Array]) -> Optimizer:
    """The optimizer, to which what lies outside a member's own sizes has no gradient."""

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

    optimizer = with_prior(optimizer)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, *, prior_grads: PyTree = None, **_
    ) -> tuple[PyTree, PyTree]:
        # The prior has no gradient there, where every weight is 0.
        updates, state = optimizer.update(keep(updates), state, params, prior_grads=prior_grads)
        return keep(updates), state

    return WithPrior(optimizer.init, update)
