"""Gradient ascent of an objective plus the prior on the parameters; several algorithms share it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.optimizers import with_prior
from aevb.types import Key, PyTree


class ParamPrior(NamedTuple):
    """The prior N(0, std^2 I) on the parameters, for the maximum a posteriori of section 5."""

    std: float | None = 1.0  # None for a flat prior: maximum likelihood
    on_biases: bool = True  # if False, biases (leaves of one dimension) have a flat prior

    def log_prob(self, params: PyTree) -> Array:
        """Returns the log prior of params [], in nats, up to a constant."""
        if self.std is None:
            return jnp.zeros(())
        squares = [
            jnp.sum(jnp.square(leaf))
            for leaf in jax.tree.leaves(params)
            if self.on_biases or leaf.ndim > 1
        ]
        return -0.5 / self.std**2 * sum(squares, jnp.zeros(()))


PAPERS = ParamPrior()

Objective = Callable[[PyTree, Key, Batch], tuple[Array, dict[str, Array]]]
# (params, key, minibatch) -> the maximized value [], nats per datapoint, and metrics

LogPrior = Callable[[PyTree], Array]  # params -> [], nats, up to a constant


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
    log_prior: LogPrior,
    params: PyTree,
    opt_state: PyTree,
    key: Key,
    batch: Batch,
    *,
    optimizer: optax.GradientTransformation,
    num_data: int,
) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """Takes one gradient step up the objective plus log_prior / N.

    Returns the parameters, the optimizer's state and the metrics. If the objective is a mean bound,
    N times the sum is eq. (8) plus log p(params). The two terms are differentiated separately, so
    that the optimizer can add the prior's gradient where that costs least.
    """

    def of_prior(params: PyTree) -> tuple[Array, None]:
        return log_prior(params) / num_data, None

    grads, metrics = _descent(objective)(params, key, batch)
    prior_grads, _ = _descent(of_prior)(params)
    updates, opt_state = with_prior(optimizer).update(
        grads, opt_state, params, prior_grads=prior_grads
    )
    return optax.apply_updates(params, updates), opt_state, metrics


def algorithm(
    objective: Objective,
    log_prior: LogPrior,
    init_params: Callable[[Key], PyTree],
    optimizer: optax.GradientTransformation,
    *,
    num_data: int,
) -> Algorithm:
    """Returns the algorithm that takes one step up the objective at each minibatch."""

    def init(key: Key) -> TrainState:
        params = init_params(key)
        return TrainState(jnp.int32(0), params, optimizer.init(params), extra=())

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        params, opt_state, metrics = ascend(
            objective, log_prior, state.params, state.opt_state, key, batch,
            optimizer=optimizer, num_data=num_data,
        )  # fmt: skip
        return TrainState(state.step + 1, params, opt_state, state.extra), metrics

    return Algorithm(init, update)


def _descent(term: Callable[..., tuple[Array, Any]]) -> Callable[..., tuple[PyTree, Any]]:
    """Returns a function that computes the gradient of -term, and the other output of `term`.

    `term` is maximized, whereas an optimizer minimizes.
    """

    def loss(*args: Any) -> tuple[Array, Any]:
        value, more = term(*args)
        return -value, more  # the only place where a bound becomes a loss

    return jax.grad(loss, has_aux=True)
