"""L-BFGS: the top of a smooth function of few variables, without a step size to tune.

The optimizer is optax's, which is imported only where it is used.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import PyTree


def maximise(function: Callable[[PyTree], Array], start: PyTree, *, num_steps: int) -> PyTree:
    """The best point that L-BFGS with a line search climbs to, never below `start`.

    Args:
        function: point -> [], differentiable.
        start: any pytree of floats that may take any real value.
    """
    import optax

    def loss(point: PyTree) -> Array:
        return -function(point)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[PyTree, PyTree], _: None):
        point, state = carry
        value, grad = value_and_grad(point, state=state)
        updates, state = optimizer.update(grad, state, point, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(point, updates), state), None

    (found, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=num_steps)
    # A line search that has left the finite numbers has found nothing.
    better = loss(found) <= loss(start)
    return jax.tree.map(partial(jnp.where, better), found, start)
