"""Gibbs sampling: each variable in turn is drawn given the others; mean field takes averages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical import normal_gamma
from aevb.classical.families import Gamma
from aevb.classical.normal_gamma import NormalGamma
from aevb.types import Key, PyTree

Transition = Callable[[Key, PyTree], PyTree]  # (key, state) -> the state after one sweep


def sample(
    key: Key, starts: PyTree, transition: Transition, *, num_samples: int, num_warmup: int
) -> PyTree:
    """Draws L states from each of C chains, after a warm-up that is discarded.

    Args:
        starts: C initial states, stacked: leaves [C, ...].

    Returns:
        The states, leaves [C, L, ...].
    """

    def chain(key: Key, start: PyTree) -> PyTree:
        def step(state: PyTree, key: Key) -> tuple[PyTree, PyTree]:
            state = transition(key, state)
            return state, state

        keys = jax.random.split(key, num_warmup + num_samples)
        warm, _ = jax.lax.scan(step, start, keys[:num_warmup])
        return jax.lax.scan(step, warm, keys[num_warmup:])[1]

    num_chains = len(jax.tree.leaves(starts)[0])
    return jax.vmap(chain)(jax.random.split(key, num_chains), starts)


def normal_gamma_transition(prior: NormalGamma, x: Array) -> Transition:
    """Returns a transition that draws mu | tau, x and then tau | mu, x; its state is [mu, tau]."""
    exact = normal_gamma.posterior(prior, x)

    def transition(key: Key, state: Array) -> Array:
        mu_key, tau_key = jax.random.split(key)
        _, tau = state
        std = 1.0 / jnp.sqrt(exact.mean_precision * tau)
        mu = exact.mean + std * jax.random.normal(mu_key, (), state.dtype)
        squared = exact.mean_precision * jnp.square(mu - exact.mean)
        given_mu = Gamma(exact.shape + 0.5, exact.rate + 0.5 * squared)
        tau = jax.random.gamma(tau_key, given_mu.shape, dtype=state.dtype) / given_mu.rate
        return jnp.stack([mu, tau])

    return transition
