"""Datapoints in the user's shape and units, and as a model takes them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.data import Description
from aevb.data.preprocessing import Preprocessing
from aevb.errors import UserError
from aevb.types import Key


def is_random(data: Description) -> bool:
    """Returns whether a datapoint's preprocessing draws random numbers.

    A preprocessing that is not of this package is taken to do so.
    """
    return not isinstance(data.preprocess, Preprocessing) or data.preprocess.is_random


def to_model(data: Description, x: Any, key: Key | None = None) -> Array:
    """Returns the model's x [D] of a datapoint in the user's units.

    Args:
        x: of the shape of the user's data, or flat, [D].
        key: for a random preprocessing, such as a binarization; otherwise not used.

    Raises:
        UserError: the shape is wrong, or a key is missing.
    """
    stored = _as_stored(data, x)
    if key is None and is_random(data):
        raise UserError(
            f"the preprocessing of {data.name} is random, as a binarization is; give a key, "
            "key=jax.random.key(0)"
        )
    return data.preprocess(jax.random.key(0) if key is None else key, stored)


def with_noise(data: Description, x: Any, noise: Array | None) -> Array:
    """Returns the model's x [D] of a datapoint in the user's units and its noise.

    Args:
        data: of a preprocessing of this package.
        x: of the shape of the user's data, or flat, [D].
        noise: u of `Preprocessing.with_noise`, of the shape of x; None if nothing is random.

    Raises:
        UserError: the shape is wrong.
    """
    assert isinstance(data.preprocess, Preprocessing)
    flat = None if noise is None else noise.reshape(-1)
    return data.preprocess.with_noise(flat, _as_stored(data, x))


def _as_stored(data: Description, x: Any) -> Array:
    shape = np.shape(x)
    if shape not in (data.shape, (data.num_dims,)):
        raise UserError(
            f"x has the shape {shape}; a datapoint of {data.name} has the shape {data.shape}, or "
            f"({data.num_dims},) if it is flat (jax.vmap maps over several)"
        )
    flat = x.reshape(-1) if hasattr(x, "reshape") else np.reshape(x, -1)
    if data.of_x is not None:
        flat = data.of_x.apply(flat)
    return jnp.asarray(flat)


def from_model(data: Description, x: Array) -> Array:
    """Returns a model's x [D], or its mean, in the user's shape and units.

    Grey levels are in 0..255, whatever their scale or binarization. A preprocessing that is not of
    this package cannot be inverted; its x keeps its units.
    """
    if data.of_x is not None:
        x = data.of_x.invert(x)
    if isinstance(data.preprocess, Preprocessing):
        x = data.preprocess.invert(x)
    return x.reshape(data.shape)
