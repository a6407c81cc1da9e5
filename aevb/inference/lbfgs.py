"""L-BFGS: maximization of a smooth function of few variables, without a step size to tune.

The optimizer is from optax, which is imported only when it is used.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import PyTree


def maximize(function: Callable[[PyTree], Array], start: PyTree, *, num_steps: int) -> PyTree:
    """Returns the point that L-BFGS with a line search finds, which is never lower than `start`.

    It stops after num_steps, or when a step no longer increases the function. Near the maximum,
    this happens at floating-point precision.

    Args:
        function: point -> [], differentiable.
        start: any pytree of floats that may take any real value, all of one dtype.
    """
    dtype = jnp.result_type(*jax.tree.leaves(start))
    # optax keeps numbers of JAX's default dtype in its state, and mixes them with the point's.
    with jax.enable_x64(dtype == jnp.float64), jax.numpy_dtype_promotion("standard"):
        return _maximize(function, start, num_steps)


def _maximize(function: Callable[[PyTree], Array], start: PyTree, num_steps: int) -> PyTree:
    import optax

    def loss(point: PyTree) -> Array:
        return -function(point)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def climbs(carry: tuple[PyTree, PyTree, Array, Array]) -> Array:
        _, _, number, has_risen = carry
        return has_risen & (number < num_steps)

    def step(carry: tuple[PyTree, PyTree, Array, Array]):
        point, state, number, _ = carry
        value, grad = value_and_grad(point, state=state)
        updates, state = optimizer.update(grad, state, point, value=value, grad=grad, value_fn=loss)
        has_risen = optax.tree.get(state, "value") < value
        return optax.apply_updates(point, updates), state, number + 1, has_risen

    begin = (start, optimizer.init(start), jnp.int32(0), jnp.bool_(True))
    found, *_ = jax.lax.while_loop(climbs, step, begin)
    # A non-finite result of the line search is discarded.
    better = loss(found) <= loss(start)
    return jax.tree.map(partial(jnp.where, better), found, start)
