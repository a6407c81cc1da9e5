"""Stacks of runs that train in one program: a single run as it is, or several with stacked arrays.

Members of a stack can differ in their seed, their step size and their number of latents. The
parameters of a smaller model occupy the corner of the arrays of the largest one, padded with zeros.
The padding does not change the results. For a padded latent the encoder's statistics are those of
N(0, 1), so its KL is 0, and the decoder's weights are 0. Noise of shape [Z] begins with the noise
of any smaller shape. The gradients of the padding must be kept at 0.
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
    """S runs as one program; for a single run no array has a leading axis [S]."""

    size: int  # S
    init: Callable[[], list[TrainState]]  # the members' initial states, each without axis [S]
    join: Callable[[Sequence[TrainState]], TrainState]  # stacks members that are at the same step
    member: Callable[[TrainState, int], TrainState]  # extracts one member from the joined state
    keys: LoopKeys
    program: Program
    score: Callable[[PyTree, np.ndarray, np.ndarray], list[Score]]  # as elbo.Scorer, by member


class Setting(NamedTuple):
    """The settings, besides the keys, in which the members of a stack differ."""

    step_size: Array  # []
    sizes: dict[str, Array]  # path of a padded parameter -> its unpadded shape [ndim]


Wrap = Callable[[Optimizer], Optimizer]


class RunKeys(NamedTuple):
    """The random keys of a run, all derived from its seed."""

    init: Key
    loop: LoopKeys


def run_keys(key: Key) -> RunKeys:
    init_key, order_key, step_key = jax.random.split(key, 3)
    return RunKeys(init_key, LoopKeys(order_key, step_key))


def first_state(init: Callable[[Key], TrainState], key: Key) -> TrainState:
    """Returns the initial state of a run from its `Algorithm.init` and the key of its seed."""
    return jax.jit(init)(run_keys(key).init)


def alone(
    algorithm: Algorithm,
    program: Program,
    score: elbo.Scorer,
    key: Key,
) -> Stack:
    """Returns a stack of a single run, without a leading axis.

    Args:
        program: compiles the `advance` of `loop.make_advance`; several runs can share it.
        score: from `elbo.make_score`.
        key: the key of the run's seed.
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
    """Returns a stack of S runs.

    Args:
        inits: each member's `Algorithm.init`, which returns arrays of the member's own size.
        step_sizes: each member's step size.
        keys: the key of each member's seed.
        largest: a model whose parameter arrays are at least as large as those of every member.
        algorithm_of: (step size [], a function to apply to the optimizer) -> the algorithm of
            `largest`.
        preprocess: the preprocessing of the dataset.
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

    optimizer = with_prior(optimizer)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, *, prior_grads: PyTree = None, **_
    ) -> tuple[PyTree, PyTree]:
        # The gradient of the prior is 0 in the padding, where every weight is 0.
        updates, state = optimizer.update(keep(updates), state, params, prior_grads=prior_grads)
        return keep(updates), state

    return WithPrior(optimizer.init, update)
