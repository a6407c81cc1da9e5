"""Optimizers by name: the paper's Adagrad, and every optimizer of optax."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.errors import UserError
from aevb.types import PyTree

Optimizer = optax.GradientTransformation


class WithPrior(optax.GradientTransformationExtraArgs):
    """An optimizer whose gradient has two terms, of the data and of the prior.

    `update(updates, state, params, prior_grads=None)` returns the updates and the state.
    """


def with_prior(optimizer: Optimizer) -> WithPrior:
    """Wraps the optimizer so that it takes the two terms and uses their sum.

    Returns a `WithPrior`; one that is already a `WithPrior` is returned unchanged.
    """
    if isinstance(optimizer, WithPrior):
        return optimizer

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, *, prior_grads: PyTree = None, **_
    ) -> tuple[PyTree, PyTree]:
        return optimizer.update(_sum(updates, prior_grads), state, params)

    return WithPrior(optimizer.init, update)


def adagrad(
    learning_rate: float | Array, initial_accumulator_value: float = 0.0, eps: float = 0.0
) -> WithPrior:
    """Returns the optimizer theta -= learning_rate * g / sqrt(sum of all g^2 so far + eps).

    Duchi et al. 2011. It is `optax.adagrad` with fewer passes over memory and the paper's defaults:
    no initial accumulator and no epsilon. A parameter whose gradients have all been zero does not
    change.
    """

    def init(params: PyTree) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(optax.tree.full_like(params, initial_accumulator_value))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, *, prior_grads: PyTree = None, **_
    ) -> tuple[PyTree, optax.ScaleByRssState]:
        del params

        def accumulate(total: Array, g: Array) -> Array:
            return total + jnp.square(g)

        def descend(total: Array, g: Array) -> Array:
            return -learning_rate * (jnp.where(total > 0, jax.lax.rsqrt(total + eps), 0.0) * g)

        totals = jax.tree.map(accumulate, state.sum_of_squares, _sum(updates, prior_grads))
        # On a CPU each of these maps is a loop over memory. The two terms are added in both loops,
        # because adding them once would need a third loop.
        again = _sum(_not_shared_on_cpu(updates), prior_grads)
        return jax.tree.map(descend, totals, again), optax.ScaleByRssState(totals)

    return WithPrior(init, update)


def _sum(grads: PyTree, prior_grads: PyTree) -> PyTree:
    return grads if prior_grads is None else jax.tree.map(jnp.add, grads, prior_grads)


def _not_shared_on_cpu(tree: PyTree) -> PyTree:
    """Returns the same numbers, behind a barrier on a CPU.

    XLA then does not merge computations from the result with those from `tree`.
    """
    return jax.lax.platform_dependent(
        tree, cpu=jax.lax.optimization_barrier, default=lambda tree: tree
    )


NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

OUR_OWN = {
    "adagrad": adagrad,
}


def make(name: str, step_size: float | Array, options: Mapping[str, Any] = NO_OPTIONS) -> Optimizer:
    """Returns the optimizer of this name, from `OUR_OWN` or else from optax.

    Args:
        name: for example "adagrad", "adam", "sgd".
        step_size: the learning rate, a float or an array [].
        options: the optimizer's other arguments, for example {"b1": 0.9, "eps": 1e-4}.

    Raises:
        UserError: optax has no such optimizer, or it does not accept these arguments.
    """
    maker = OUR_OWN.get(name) or getattr(optax, name, None)
    if not inspect.isfunction(maker) or "learning_rate" not in inspect.signature(maker).parameters:
        raise UserError(
            f"optimizer.name is {name!r}; optax has no optimizer of this name with a learning_rate "
            "(adagrad, adam, rmsprop and sgd are some that it has)"
        )
    try:
        optimizer = maker(learning_rate=step_size, **options)
        jax.eval_shape(  # some optimizers reject arguments only at the first step
            lambda weights: optimizer.update(weights, optimizer.init(weights), weights),
            jax.ShapeDtypeStruct((1,), jnp.float32),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        known = ", ".join(p for p in inspect.signature(maker).parameters if p != "learning_rate")
        raise UserError(
            f"optimizer {name!r} with options {dict(options)} cannot be made: "
            f"{str(error).splitlines()[0]}; optimizer.options can be {known}"
        ) from error
    return optimizer
