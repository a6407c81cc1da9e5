"""Gibbs sampling of the Gaussian mixture: the exact posterior that mean field approximates.

Chains may exchange the labels of the components, so quantities that depend on the labels have no
meaning. Use quantities that do not, such as whether two datapoints share a component.
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
    """A draw of all unobserved variables."""

    z: Array  # [N], int32, the component of each datapoint
    log_weights: Array  # [K]
    means: Array  # [K, D]
    whiteners: Array  # [K, D, D], lower triangular T with T'T the precision


def transition(prior: Prior, x: Array, num_components: int) -> Transition:
    """Returns a transition that draws the parameters | z, x and then z | parameters, x.

    The parameters are the weights, means and precisions; x [N, D] are the points. The state is a
    `Sample`, and the first draw reads only its z.
    """

    def draw_parameters(key: Key, z: Array) -> Sample:
        weights_key, components_key = jax.random.split(key)
        members = jax.nn.one_hot(z, num_components, axis=0, dtype=x.dtype)
        centres = mixture_model.at_prior(prior, num_components).components.mean
        data = mixture_model.statistics(x.T, members, centres)
        given_z = mixture_model.update_parameters(prior, data, centres)
        # Log-gammas, since a weight near 0 would underflow.
        log_gammas = jax.random.loggamma(weights_key, given_z.weights.concentration, dtype=x.dtype)
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
    """Returns log p(x, z = k | weights, means, precisions) [K, N] of points x [N, D], in nats."""

    def of_component(mean: Array, whitener: Array) -> Array:
        return normal_wishart.log_normal(mean, whitener)(x.T)

    return sample.log_weights[:, None] + jax.vmap(of_component)(sample.means, sample.whiteners)


def start(key: Key, x: Array, num_components: int) -> Sample:
    """Returns a state with random components for points x [N, D], and zeros for the parameters.

    `transition` draws the parameters before it reads them.
    """
    num_dims = x.shape[1]
    return Sample(
        jax.random.randint(key, (len(x),), 0, num_components, jnp.int32),
        jnp.zeros(num_components, x.dtype),
        jnp.zeros((num_components, num_dims), x.dtype),
        jnp.zeros((num_components, num_dims, num_dims), x.dtype),
    )
