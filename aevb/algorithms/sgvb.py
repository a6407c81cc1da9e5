"""Auto-Encoding Variational Bayes: algorithm 1 of Kingma & Welling (2013), with any bound."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.losses import Bound, minibatch_objective
from aevb.optimizers import with_prior
from aevb.types import Key, PyTree
from aevb.vae import VAE


def log_param_prior(params: PyTree, *, std: float, on_biases: bool = True) -> Array:
    """log N(params; 0, std^2 I) up to its constant -> [], nats; the MAP term of section 5.

    Biases are the leaves of one dimension; with `on_biases` False their prior is flat.
    """
    squares = [
        jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params) if on_biases or leaf.ndim > 1
    ]
    return -0.5 / std**2 * sum(squares, jnp.zeros(()))


def make(
    vae: VAE,
    optimizer: optax.GradientTransformation,
    *,
    num_data: int,
    bound: Bound,
    num_samples: int = 1,
    param_prior_std: float | None = 1.0,
    prior_on_biases: bool = True,
) -> Algorithm:
    """AEVB: gradient ascent on phi and theta together.

    Args:
        num_data: N, which weighs the minibatch against the prior on the parameters.
        bound: an entry of `aevb.losses.BOUNDS`.
        num_samples: L of each datapoint.
        param_prior_std: of N(0, std^2 I) on the parameters (maximum a posteriori); None for
            maximum likelihood.
        prior_on_biases: whether that prior covers the biases too.
    """

    def init(key: Key) -> TrainState:
        params = vae.init(key)
        return TrainState(jnp.int32(0), params, optimizer.init(params), extra=())

    optimizer = with_prior(optimizer)

    # What is maximised is eq. (8) plus log p(theta, phi), over N. Its two terms are differentiated
    # apart: the optimizer adds the prior's gradient where that costs least.

    def of_data(params: PyTree, key: Key, batch: Batch) -> tuple[Array, Array]:
        """Eq. (8) over N [], and the mean bound []."""

        def bound_of(key: Key, x: Array) -> Array:
            stats = vae.encode(params, x)
            return bound(key, stats, vae.guide, vae.joint(params, x), num_samples=num_samples)

        bounds = jax.vmap(bound_of)(jax.random.split(key, len(batch.x)), batch.x)
        return minibatch_objective(bounds, num_data) / num_data, jnp.mean(bounds)

    def of_prior(params: PyTree) -> tuple[Array, None]:
        """log p(theta, phi) over N [], up to its constant."""
        if param_prior_std is None:
            return jnp.zeros(()), None
        log_prior = log_param_prior(params, std=param_prior_std, on_biases=prior_on_biases)
        return log_prior / num_data, None

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        grads, mean_bound = _descent(of_data)(state.params, key, batch)
        prior_grads, _ = _descent(of_prior)(state.params)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, prior_grads=prior_grads
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.extra), {"bound": mean_bound}

    return Algorithm(init, update)


def _descent(term: Callable[..., tuple[Array, Any]]) -> Callable[..., tuple[PyTree, Any]]:
    """The gradient of a term that is maximised, turned round for an optimizer, and what else the
    term returns."""

    def loss(*args: Any) -> tuple[Array, Any]:
        value, more = term(*args)
        return -value, more  # the one place where a bound becomes a loss

    return jax.grad(loss, has_aux=True)
