"""A reparameterized family: noise without parameters, a map from noise to z, and a density."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aevb.types import Key, PyTree

Params = Mapping[str, Array]
Shape = tuple[int, ...]
Noise = Callable[[Key, Shape, DTypeLike], PyTree]


class Family(NamedTuple):
    """The distribution q(z) of z = transform(params, eps), eps ~ noise; section 2.4.

    `sample` and `log_prob` make a `losses.Guide` whose statistics are the parameters. Parameters
    outside their domain give NaN or infinity. A z outside the support has log-density -inf.
    """

    params: tuple[str, ...]  # the parameters' names; the first parameter has the shape of z
    noise: Noise  # (key, shape of z, dtype) -> eps, free of parameters
    transform: Callable[[Params, PyTree], Array]  # (params, eps) -> z [Z], differentiable in params
    log_prob: Callable[[Params, Array], Array]  # (params, z [Z]) -> [], nats

    def sample(self, key: Key, params: Params) -> Array:
        """Draws z = transform(params, eps) [Z] with eps ~ noise; differentiable in params."""
        like = params[self.params[0]]
        return self.transform(params, self.noise(key, like.shape, like.dtype))


def elementwise(
    params: tuple[str, ...],
    noise: Noise,
    transform: Callable[[Params, PyTree], Array],
    log_density: Callable[[Params, Array], Array],
) -> Family:
    """Returns a family of Z independent dimensions, with parameters [Z].

    `log_density` returns nats for each dimension [Z].
    """
    return Family(params, noise, transform, lambda p, z: jnp.sum(log_density(p, z)))


def open_uniform(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Draws eps ~ U(0, 1), excluding 0 and 1: a midpoint of one of 2^23 equal cells in float32.

    Both u and 1 - u are exact and at least 2^-24, so their logarithms are above -16.7. Values
    farther out in a tail than probability 6e-8 are never drawn.
    """
    return jax.random.uniform(key, shape, dtype) + 0.5 * float(jnp.finfo(dtype).eps)


def positive(log_z: Array) -> Array:
    """Returns z = exp(log z), clipped so that it does not become 0, nor its square infinite.

    In float32 z stays within [3.2e-38, 2.2e17]. The gradient of a clipped z is 0.
    """
    info = jnp.finfo(log_z.dtype)
    low, high = math.log(float(info.tiny)) + 1.0, 0.45 * math.log(float(info.max))
    return jnp.exp(jnp.clip(log_z, low, high))


def where_inside(inside: Array, log_density: Array) -> Array:
    """Returns the log-density inside the support, and -inf outside it."""
    return jnp.where(inside, log_density, -jnp.inf)
