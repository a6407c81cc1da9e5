"""Annealed importance sampling: chains that move from one density to another in steps."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.inference import hmc
from aevb.types import Key, LogDensity

SHARPNESS = 4.0  # largest argument of the sigmoid; a larger value makes smaller steps at both ends
WARMUP = 50  # transitions in which a pilot run finds its first step size
SHORTEST_PILOT = 100  # least number of transitions along the path; several per beta if it is short
GAIN = 0.2  # change of the pilot's log step size per unit of acceptance error


class Path(NamedTuple):
    """The geometric path q^(1 - beta) p^beta between two densities, normalized or not."""

    log_q: LogDensity  # z [Z] -> [], nats, at beta = 0
    log_p: LogDensity  # z [Z] -> [], nats, at beta = 1

    def log_density(self, beta: Array, z: Array) -> Array:
        """Returns (1 - beta) log q(z) + beta log p(z) [] of z [Z], in nats."""
        return (1.0 - beta) * self.log_q(z) + beta * self.log_p(z)

    def log_ratio(self, z: Array) -> Array:
        """Returns log p(z) - log q(z) [] of z [Z], in nats.

        This is the derivative of `log_density` in beta.
        """
        return self.log_p(z) - self.log_q(z)


class Annealed(NamedTuple):
    """The result of annealing C chains along a path."""

    log_weights: Array  # [C], nats
    acceptance: Array  # [], mean acceptance probability over chains and path


def sigmoid_schedule(num_temps: int) -> Array:
    """Returns the inverse temperatures beta_0 = 0 < beta_1 < ... < beta_T = 1, as [T + 1].

    Grosse et al. (2015): a sigmoid at T + 1 evenly spaced points between -4 and 4, rescaled to end
    at 0 and 1. The steps are small at both ends, where the densities change fast. The dtype is
    JAX's default; `anneal` and `pilot` convert it to that of the chains.

    Raises:
        ValueError: num_temps, T, is below 2. T = 1 would be importance sampling.
    """
    if num_temps < 2:
        raise ValueError(f"num_temps is {num_temps}; it must be at least 2")
    sigmoids = jax.nn.sigmoid(jnp.linspace(-SHARPNESS, SHARPNESS, num_temps + 1))
    betas = (sigmoids - sigmoids[0]) / (sigmoids[-1] - sigmoids[0])
    return betas.at[-1].set(1.0)


def anneal(
    key: Key, z: Array, path: Path, betas: Array, step_sizes: Array, *, num_leapfrog: int
) -> Annealed:
    """Moves chains z [C, Z] along the betas [T + 1] in the given order, and weights each chain.

    Neal (2001): log w = Sum_t (beta_t - beta_(t-1)) log p(z_(t-1)) / q(z_(t-1)), where z_0 is from
    the density at beta_0 and z_t from an HMC transition that leaves the density at beta_t
    invariant. In either direction, E[w] is the last density's normalizer divided by the first's.

    Args:
        step_sizes: [T + 1], one for each beta; they must not depend on these chains.
    """

    def step(carry: tuple[Array, Array], inputs: tuple[Key, Array, Array, Array]):
        z, log_w = carry
        key, beta, change, step_size = inputs
        log_w += change * jax.vmap(path.log_ratio)(z)
        density = partial(path.log_density, beta)
        z, acceptance, _ = hmc.move(
            key, z, step_size, log_density=density, num_leapfrog=num_leapfrog
        )
        return (z, log_w), acceptance

    betas, step_sizes = betas.astype(z.dtype), step_sizes.astype(z.dtype)
    changes = jnp.diff(betas)
    keys = jax.random.split(key, len(changes) - 1)
    # The last beta has no transition, because it would come after the last factor of the weight.
    inner = (keys, betas[1:-1], changes[:-1], step_sizes[1:-1])
    (z, log_w), acceptance = jax.lax.scan(step, (z, jnp.zeros(len(z), z.dtype)), inner)
    return Annealed(log_w + changes[-1] * jax.vmap(path.log_ratio)(z), jnp.mean(acceptance))


def pilot(key: Key, z: Array, path: Path, betas: Array, settings: hmc.Settings) -> Array:
    """Estimates a step size for each beta, [T + 1], from chains z [C, Z] that are used only here.

    The log step size follows the chains' mean acceptance with a constant gain: stochastic
    approximation (Robbins & Monro 1951) with a moving target. The chains that are weighted must be
    others: a step size that depends on a chain's past breaks the invariance that E[w] relies on.
    """

    def follow(carry: tuple[Array, Array], inputs: tuple[Key, Array]):
        z, log_step = carry
        key, beta = inputs
        density = partial(path.log_density, beta)
        z, acceptance, _ = hmc.move(
            key, z, jnp.exp(log_step), log_density=density, num_leapfrog=settings.num_leapfrog
        )
        log_step += GAIN * (acceptance - settings.target_acceptance)
        return (z, log_step), jnp.exp(log_step)

    betas = betas.astype(z.dtype)
    repeats = math.ceil(SHORTEST_PILOT / len(betas))
    stay_then_go = jnp.concatenate([jnp.repeat(betas[:1], WARMUP), jnp.repeat(betas, repeats)])
    keys = jax.random.split(key, len(stay_then_go))
    start = (z, jnp.full((), math.log(hmc.FIRST_STEP), z.dtype))
    _, step_sizes = jax.lax.scan(follow, start, (keys, stay_then_go))
    return step_sizes[WARMUP:][repeats - 1 :: repeats]
