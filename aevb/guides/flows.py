"""Normalizing flows: a Gaussian z_0 mapped through invertible layers to z ~ q(z|x).

log q(z) = log q(z_0) - Sum_t log |det dz_t / dz_{t-1}|. A statistic may be any real number.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.nn import log_sigmoid, sigmoid, softplus

from aevb.distributions import DiagNormal
from aevb.losses import Guide
from aevb.types import Key, PyTree

BISECTIONS = 30  # halvings of a known bracket; a Newton step then doubles the number of digits
GATE_LOGIT = 2.0  # added to an IAF's gate logits; the IAF paper also starts near the identity


class FlowStats(NamedTuple):
    """The statistics of a flow."""

    base: DiagNormal  # distribution of z_0
    layers: PyTree  # statistics of T layers, stacked along each leaf's first axis


class Layer(NamedTuple):
    """An invertible map y of z, with its log |det dy / dz| [].

    Both directions return the same log determinant for the same pair of z and y.
    """

    forward: Callable[[PyTree, Array], tuple[Array, Array]]  # (stats of the layer, z) -> y, log det
    inverse: Callable[[PyTree, Array], tuple[Array, Array]]  # (stats of the layer, y) -> z, log det


def flow_guide(layer: Layer) -> Guide:
    """Returns the guide q(z|x) of a flow with T such layers.

    Its statistics are `FlowStats`. It has no closed-form KL.
    """

    def sample_and_log_prob(key: Key, stats: FlowStats) -> tuple[Array, Array]:
        start, log_q = stats.base.sample_and_log_prob(key)

        def step(z: Array, layer_stats: PyTree) -> tuple[Array, Array]:
            return layer.forward(layer_stats, z)

        z, log_dets = jax.lax.scan(step, start, stats.layers)
        return z, log_q - jnp.sum(log_dets)

    def log_prob(stats: FlowStats, z: Array) -> Array:
        def step(y: Array, layer_stats: PyTree) -> tuple[Array, Array]:
            return layer.inverse(layer_stats, y)

        start, log_dets = jax.lax.scan(step, z, stats.layers, reverse=True)
        return stats.base.log_prob(start) - jnp.sum(log_dets)

    return Guide(
        sample=lambda key, stats: sample_and_log_prob(key, stats)[0],
        log_prob=log_prob,
        sample_and_log_prob=sample_and_log_prob,
    )


# Planar flows


class PlanarStats(NamedTuple):
    """The statistics of a layer y = z + u tanh(w'z + b) with u adjusted to be invertible."""

    u: Array  # [Z]
    w: Array  # [Z]
    b: Array  # []


def _invertible(stats: PlanarStats) -> tuple[Array, Array, Array]:
    """Returns the layer's u [Z], w'u [] and 1 + w'u []; it is invertible because w'u > -1.

    Rezende & Mohamed (2015), appendix A.1, move u along w until w'u equals m(w'u). Their function
    m(a) = log(1 + e^a) - 1 is not 0 at a = 0, so that u would become infinite as w -> 0. Here
    m(a) = log(1 + (e - 1) e^a) - 1. It also increases from -1 to infinity, but it is 0 at a = 0, so
    that u = 0 still gives the identity.
    """
    a = stats.w @ stats.u
    # m(a) - a = log(1 + (e^-a - 1) / e), without overflow, and with all digits near a = 0, where
    # the division is by a small |w|^2.
    positive, negative = jnp.where(a > 0.0, a, 0.0), jnp.where(a > 0.0, 0.0, a)
    excess = jnp.where(
        a > 0.0,
        jnp.log1p(jnp.expm1(-positive) / math.e),
        jnp.log1p(jnp.expm1(negative) * (1.0 - 1.0 / math.e)) - negative,
    )
    w_sq = stats.w @ stats.w
    u = stats.u + excess / jnp.where(w_sq > 0.0, w_sq, 1.0) * stats.w
    # 1 + m(a), computed directly so that it keeps its digits as a -> -inf, where m(a) -> -1.
    slack = softplus(a + math.log(math.e - 1.0))
    return u, a + excess, slack


def _planar_log_det(slack: Array, t: Array) -> Array:
    """Returns log(1 + w'u (1 - t^2)) [], with t = tanh(w'z + b).

    It is computed as the log of a sum of non-negative terms.
    """
    t_sq = jnp.square(t)
    return jnp.log(t_sq + (1.0 - t_sq) * slack)


def _planar_forward(stats: PlanarStats, z: Array) -> tuple[Array, Array]:
    u, _, slack = _invertible(stats)
    t = jnp.tanh(stats.w @ z + stats.b)
    return z + u * t, _planar_log_det(slack, t)


def _planar_inverse(stats: PlanarStats, y: Array) -> tuple[Array, Array]:
    """Returns z and the log determinant at y, by solving s + w'u tanh(s) = w'y + b for s = w'z + b.

    The left side increases with s, so there is exactly one root.
    """
    u, wu, slack = _invertible(stats)
    target = stats.w @ y + stats.b
    fixed_wu, fixed_target = stop_gradient((wu, target))

    def bisect(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        below = middle + fixed_wu * jnp.tanh(middle) < fixed_target
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    reach = jnp.abs(fixed_wu)  # tanh is between -1 and 1
    start = (fixed_target - reach, fixed_target + reach)
    low, high = jax.lax.fori_loop(0, BISECTIONS, bisect, start)
    root = 0.5 * (low + high)
    # One Newton step from a root without a gradient gives the gradient of the implicit function.
    t = jnp.tanh(root)
    slope = jnp.exp(_planar_log_det(slack, t))
    s = root - (root + wu * t - target) / slope
    t = jnp.tanh(s)
    return y - u * t, _planar_log_det(slack, t)


planar = flow_guide(Layer(_planar_forward, _planar_inverse))
"""Planar flows, Rezende & Mohamed (2015), eq. (10): each layer bends z along one direction.

The statistics of its layers are a `PlanarStats` with a leading axis [T]. `log_prob` solves one
scalar equation per layer.
"""


# Inverse autoregressive flows


class IAFStats(NamedTuple):
    """The statistics of a layer: a network from z [Z] to gate logits [Z] and shifts [Z]."""

    context: Array  # [H], added to the hidden units; depends on x
    network: PyTree  # {"hidden": {kernel [Z, H]}, "gate", "shift": {kernel [H, Z], bias [Z]}}


def init_autoregressive(key: Key, num_latents: int, num_hidden: int) -> PyTree:
    """Draws the network of one layer: weights of variance 1/fan-in, biases of 0."""
    hidden_key, gate_key, shift_key = jax.random.split(key, 3)

    def kernel(key: Key, fan_in: int, fan_out: int) -> Array:
        return jax.random.normal(key, (fan_in, fan_out)) / math.sqrt(fan_in)

    return {
        "hidden": {"kernel": kernel(hidden_key, num_latents, num_hidden)},
        **{
            name: {
                "kernel": kernel(key, num_hidden, num_latents),
                "bias": jnp.zeros(num_latents),
            }
            for name, key in (("gate", gate_key), ("shift", shift_key))
        },
    }


def _autoregressive(stats: IAFStats, z: Array) -> tuple[Array, Array]:
    """Returns gate logits [Z] and shifts [Z]; entry i depends only on z_j for j < i.

    A masked autoencoder (Germain et al. 2015): hidden unit h sees the first d_h entries of z, and
    only the outputs after them see h. The d_h are spread evenly over 0, ..., Z - 1; a hidden unit
    with d_h = 0 sees x only.
    """
    (num_latents,), (num_hidden,) = z.shape, stats.context.shape
    seen = jnp.arange(num_hidden) * num_latents // num_hidden  # d_h
    sees = jnp.arange(num_latents)[:, None] < seen[None]  # [Z, H]
    is_seen = jnp.arange(num_latents)[None] >= seen[:, None]  # [H, Z]
    hidden = jnp.tanh(z @ jnp.where(sees, stats.network["hidden"]["kernel"], 0.0) + stats.context)

    def out(name: str) -> Array:
        layer = stats.network[name]
        return hidden @ jnp.where(is_seen, layer["kernel"], 0.0) + layer["bias"]

    return out("gate") + GATE_LOGIT, out("shift")


def _iaf_forward(stats: IAFStats, z: Array) -> tuple[Array, Array]:
    """Returns y = g z + (1 - g) m in reverse order, and the log determinant.

    g is the sigmoid of the gate logits and m is the shift. The reversal puts the last entry first
    in the next layer.
    """
    gate_logits, shift = _autoregressive(stats, z)
    y = shift + sigmoid(gate_logits) * (z - shift)
    return y[::-1], jnp.sum(log_sigmoid(gate_logits))


def _iaf_inverse(stats: IAFStats, y: Array) -> tuple[Array, Array]:
    """Returns z and the log determinant at y, one entry at a time.

    z_i depends only on the z_j before it, so Z passes give the exact inverse.
    """
    y = y[::-1]

    def find(z: Array, i: Array) -> tuple[Array, None]:
        gate_logits, shift = _autoregressive(stats, z)
        z_i = y[i] + jnp.exp(-gate_logits[i]) * (y[i] - shift[i])  # 1 / g = 1 + exp(-logit)
        return z.at[i].set(z_i), None

    z, _ = jax.lax.scan(find, jnp.zeros_like(y), jnp.arange(len(y)))
    gate_logits, _ = _autoregressive(stats, z)
    return z, jnp.sum(log_sigmoid(gate_logits))


iaf = flow_guide(Layer(_iaf_forward, _iaf_inverse))
"""Inverse autoregressive flows, Kingma et al. (2016), algorithm 1: gates and shifts.

The statistics of its layers are an `IAFStats` with a leading axis [T]. They include the networks'
weights, so that a bound can stop the gradient of everything that log q depends on. Sampling takes
one pass per layer; `log_prob` at another z takes Z passes per layer.
"""
