"""Gibbs sampling of the Gaussian mixture: the exact posterior, where mean field has a bound on it.

What depends on the components' names is of no use, for chains may exchange them: ask for what does
not, such as whether two datapoints are of one component.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.classical import mixture_model, normal_wishart
from aevb.classical.gibbs import Transition
from aevb.classical.mixture_model import Prior
from aevb.classical.normal_wishart import NormalWishart
from aevb.types import Key


class Sample(NamedTuple):
    """A draw of everything that is not observed."""

    z: Array  # [N], int32, the component of each datapoint
    log_weights: Array  # [K]
    means: Array  # [K, D]
    whiteners: Array  # [K, D, D], lower triangular T with T'T the precision


def transition(prior: Prior, x: Array, num_components: int) -> Transition:
    """weights, means and precisions | z, x and then z | weights, means, precisions, x.

    Of points x [N, D]; the state is a `Sample`, of which the first draw needs z alone.
    """

    def draw_parameters(key: Key, z: Array) -> Sample:
        weights_key, components_key = jax.random.split(key)
        members = jax.nn.one_hot(z, num_components, axis=0, dtype=x.dtype)
        centres = mixture_model.at_prior(prior, num_components).components.mean
        data = mixture_model.statistics(x.T, members, centres)
        given_z = mixture_model.update_parameters(prior, data, centres)
        # The log of a weight near 0, which would itself underflow.
        log_gammas = jax.random.loggamma(weights_key, given_z.weights.concentration)
        keys = jax.random.split(components_key, num_components)
        means, whiteners = jax.vmap(NormalWishart.sample)(given_z.components, keys)
        return Sample(z, jax.nn.log_softmax(log_gammas), means, whiteners)

    def draw(key: Key, state: Sample) -> Sample:
        parameters_key, z_key = jax.random.split(key)
        state = draw_parameters(parameters_key, state.z)
        z = jax.random.categorical(z_key, log_joint(state, x), axis=0)
        return state._replace(z=z.astype(jnp.int32))

    return draw


def log_joint(sample: Sample, x: Array) -> Array:
    """log p(x, z = k | weights, means, precisions) of points x [N, D] -> [K, N], nats."""

    def of_component(mean: Array, whitener: Array) -> Array:
        return normal_wishart.log_normal(mean, whitener)(x.T)

    return sample.log_weights[:, None] + jax.vmap(of_component)(sample.means, sample.whiteners)


def start(key: Key, x: Array, num_components: int) -> Sample:
    """Components of points x [N, D] at random; the rest is drawn before it is read."""
    num_dims = x.shape[1]
    return Sample(
        jax.random.randint(key, (len(x),), 0, num_components, jnp.int32),
        jnp.zeros(num_components, x.dtype),
        jnp.zeros((num_components, num_dims), x.dtype),
        jnp.zeros((num_components, num_dims, num_dims), x.dtype),
    )
