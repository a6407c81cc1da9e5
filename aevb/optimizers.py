"""Optimizers by name: the paper's Adagrad, and every one that optax has."""

import inspect

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.errors import UserError
from aevb.options import parse_options

Optimizer = optax.GradientTransformation

# The paper's Adagrad has neither a starting accumulator nor an epsilon; optax's default has both.
# A parameter whose gradients are all zero stays where it is.
DEFAULTS = {
    "adagrad": {"initial_accumulator_value": 0.0, "eps": 0.0},
}


def make(name: str, step_size: float | Array, options: str = "") -> Optimizer:
    """optax's optimizer of this name.

    Args:
        name: for example "adagrad", "adam", "sgd".
        step_size: its learning rate; [] if it is an array.
        options: its other arguments, as "b1=0.9,eps=1e-4".

    Raises:
        UserError: optax has no such optimizer, or it does not take these arguments.
    """
    maker = getattr(optax, name, None)
    if not inspect.isfunction(maker) or "learning_rate" not in inspect.signature(maker).parameters:
        raise UserError(
            f"optimizer.name is {name!r}; optax has no optimizer of this name with a learning_rate "
            "(adagrad, adam, rmsprop and sgd are some that it has)"
        )
    given = parse_options(options, field="optimizer.options", example="b1=0.9,eps=1e-4")
    arguments = DEFAULTS.get(name, {}) | given
    try:
        optimizer = maker(learning_rate=step_size, **arguments)
        jax.eval_shape(  # some say only at the first step what they do not take
            lambda weights: optimizer.update(weights, optimizer.init(weights), weights),
            jax.ShapeDtypeStruct((1,), jnp.float32),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        known = ", ".join(p for p in inspect.signature(maker).parameters if p != "learning_rate")
        raise UserError(
            f"optimizer {name!r} with options {options!r} cannot be made: "
            f"{str(error).splitlines()[0]}; optimizer.options may set {known}"
        ) from error
    return optimizer
