"""Chains that are led from one density to another in steps: annealed importance sampling."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.inference import hmc
from aevb.types import Key, LogDensity

SHARPNESS = 4.0  # of the sigmoid: how much slower the schedule is at its ends
WARMUP = 50  # transitions by which a pilot run finds its first step size
SHORTEST_PILOT = 100  # transitions along the path: on a short one it makes several at each beta
GAIN = 0.2  # of the pilot's log step size, for an acceptance that is off by 1


class Path(NamedTuple):
    """The geometric path q^(1 - beta) p^beta between two densities, neither need be normalized."""

    log_q: LogDensity  # z [Z] -> [], nats, at beta = 0
    log_p: LogDensity  # z [Z] -> [], nats, at beta = 1

    def log_density(self, beta: Array, z: Array) -> Array:
        """(1 - beta) log q(z) + beta log p(z) of z [Z] -> [], nats."""
        return (1.0 - beta) * self.log_q(z) + beta * self.log_p(z)

    def log_ratio(self, z: Array) -> Array:
        """log p(z) - log q(z) of z [Z] -> [], nats: the derivative of `log_density` in beta."""
        return self.log_p(z) - self.log_q(z)


class Annealed(NamedTuple):
    """What chains bring back from the path."""

    log_weights: Array  # [C], nats
    acceptance: Array  # [], mean acceptance probability over chains and path


def sigmoid_schedule(num_temps: int) -> Array:
    """beta_0 = 0 < beta_1 < ... < beta_T = 1 -> [T + 1].

    Grosse et al. (2015): T + 1 even points of a sigmoid between -4 and 4, scaled to end at 0 and
    1, so that the steps are small where the densities change fast, at both ends.

    Raises:
        ValueError: num_temps, T, is below 2, which would be importance sampling.
    """
    if num_temps < 2:
        raise ValueError(f"num_temps is {num_temps}; it must be at least 2")
    sigmoids = jax.nn.sigmoid(jnp.linspace(-SHARPNESS, SHARPNESS, num_temps + 1))
    betas = (sigmoids - sigmoids[0]) / (sigmoids[-1] - sigmoids[0])
    return betas.at[-1].set(1.0)


def anneal(
    key: Key, z: Array, path: Path, betas: Array, step_sizes: Array, *, num_leapfrog: int
) -> Annealed:
    """Leads chains z [C, Z] along the betas [T + 1] in the order given, with a weight for each.

    Neal (2001): log w = Sum_t (beta_t - beta_(t-1)) log p(z_(t-1)) / q(z_(t-1)), where z_0 is from
    the density at beta_0 and z_t by an HMC transition that leaves the density at beta_t invariant.
    E[w] is the last density's normalizer over the first's, in either direction.

    Args:
        step_sizes: [T + 1], one for each beta, on which these chains have had no influence.
    """

    def step(carry: tuple[Array, Array], inputs: tuple[Key, Array, Array, Array]):
        z, log_w = carry
        key, beta, change, step_size = inputs
        log_w += change * jax.vmap(path.log_ratio)(z)
        density = partial(path.log_density, beta)
        z, acceptance = hmc.move(key, z, step_size, log_density=density, num_leapfrog=num_leapfrog)
        return (z, log_w), acceptance

    changes = jnp.diff(betas)
    keys = jax.random.split(key, len(changes) - 1)
    # A transition at the last beta would come after the last factor of the weight: there is none.
    inner = (keys, betas[1:-1], changes[:-1], step_sizes[1:-1])
    (z, log_w), acceptance = jax.lax.scan(step, (z, jnp.zeros(len(z))), inner)
    return Annealed(log_w + changes[-1] * jax.vmap(path.log_ratio)(z), jnp.mean(acceptance))


def pilot(key: Key, z: Array, path: Path, betas: Array, settings: hmc.Settings) -> Array:
    """A step size for each beta -> [T + 1], from chains z [C, Z] led along for that alone.

    The log step size follows the chains' mean acceptance with a constant gain: stochastic
    approximation (Robbins & Monro 1951) of a target that moves. Chains whose weights count must be
    others, since a step size that has seen a chain's past breaks the invariance E[w] rests on.
    """

    def follow(carry: tuple[Array, Array], inputs: tuple[Key, Array]):
        z, log_step = carry
        key, beta = inputs
        density = partial(path.log_density, beta)
        z, acceptance = hmc.move(
            key, z, jnp.exp(log_step), log_density=density, num_leapfrog=settings.num_leapfrog
        )
        log_step += GAIN * (acceptance - settings.target_acceptance)
        return (z, log_step), jnp.exp(log_step)

    repeats = math.ceil(SHORTEST_PILOT / len(betas))
    stay_then_go = jnp.concatenate([jnp.repeat(betas[:1], WARMUP), jnp.repeat(betas, repeats)])
    keys = jax.random.split(key, len(stay_then_go))
    start = (z, jnp.log(jnp.float32(hmc.FIRST_STEP)))
    _, step_sizes = jax.lax.scan(follow, start, (keys, stay_then_go))
    return step_sizes[WARMUP:][repeats - 1 :: repeats]
