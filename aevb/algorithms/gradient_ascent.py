"""Gradient ascent of an objective, which several algorithms share.

A prior on the parameters is not part of the objective: it is weight decay in the optimizer.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.types import Key, PyTree

Objective = Callable[[PyTree, Key, Batch], tuple[Array, dict[str, Array]]]
# (params, key, minibatch) -> the maximized value [], nats per datapoint, and metrics


def over_datapoints(function: Callable[..., PyTree], *args: Array, num_parts: int = 1) -> PyTree:
    """Returns `jax.vmap(function)(*args)` over M datapoints, in num_parts sequential parts.

    The gradients of the parts are accumulated, and each part recomputes its intermediate results
    for the gradient. The memory is that of one part (gradient accumulation). The result is the same
    up to rounding.
    """
    if num_parts == 1:
        return jax.vmap(function)(*args)
    again = jax.checkpoint(lambda arguments: function(*arguments))
    return jax.lax.map(again, args, batch_size=len(args[0]) // num_parts)


def ascend(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    params: PyTree,
    opt_state: PyTree,
    key: Key,
    batch: Batch,
) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """Takes one gradient step up the objective.

    Returns the parameters, the optimizer's state and the metrics. If the objective is a mean bound
    and the optimizer has the weight decay `aevb.optimizers.prior_decay`, the step ascends eq. (8)
    plus log p(params), both divided by N.
    """

    grads, metrics = _descent(objective, params, key, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, metrics


def _descent(
    objective: Objective, params: PyTree, key: Key, batch: Batch
) -> tuple[PyTree, dict[str, Array]]:
    """Returns the gradient of the loss, which is minus the objective, and the metrics."""

    def loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
        value, metrics = objective(params, key, batch)
        return -value, metrics  # the only place where a bound becomes a loss

    return jax.grad(loss, has_aux=True)(params)


def norms_of_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    params: PyTree,
    opt_state: PyTree,
    key: Key,
    batch: Batch,
) -> dict[str, Array]:
    """Returns the Euclidean norms [] of the gradient and of the update that a step would have.

    The gradient is in nats per datapoint, before clipping and without the prior on the parameters.
    """
    grads, _ = _descent(objective, params, key, batch)
    updates, _ = optimizer.update(grads, opt_state, params)
    return {"gradient_norm": _norm(grads), "update_norm": _norm(updates)}


def _norm(tree: PyTree) -> Array:
    """Returns the Euclidean norm [] of all numbers of a tree; their squares do not overflow."""
    leaves = jax.tree.leaves(tree)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    scale = jnp.where(largest > 0, largest, 1.0)
    total = sum(jnp.sum(jnp.square(leaf / scale)) for leaf in leaves)
    return scale * jnp.sqrt(total)


def algorithm(
    objective: Objective,
    init_params: Callable[[Key], PyTree],
    optimizer: optax.GradientTransformation,
) -> Algorithm:
    """Returns the algorithm that takes one step up the objective at each minibatch."""
    return algorithm_at(lambda step: objective, init_params, optimizer)


def algorithm_at(
    objective_at: Callable[[Array], Objective],
    init_params: Callable[[Key], PyTree],
    optimizer: optax.GradientTransformation,
) -> Algorithm:
    """Returns the algorithm that takes one step up an objective which changes during training.

    Args:
        objective_at: steps taken [] -> the objective of the next step.
    """

    def init(key: Key) -> TrainState:
        params = init_params(key)
        return TrainState(jnp.int32(0), params, optimizer.init(params), extra=())

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        params, opt_state, metrics = ascend(
            objective_at(state.step), optimizer, state.params, state.opt_state, key, batch
        )
        return TrainState(state.step + 1, params, opt_state, state.extra), metrics

    def norms(key: Key, state: TrainState, batch: Batch) -> dict[str, Array]:
        return norms_of_step(
            objective_at(state.step), optimizer, state.params, state.opt_state, key, batch
        )

    return Algorithm(init, update, norms=norms)
