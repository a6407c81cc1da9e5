"""The Bayesian mixture of Gaussians, with its factorized posterior and bound; Bishop, section 10.2.

weights ~ Dirichlet, a `NormalWishart` of mean and precision for each component, z_n ~ weights and
x_n ~ N(mean_z, precision_z^-1). The only assumption is Q(z, parameters) = q(z) q(parameters). It
follows that q(z) factorizes over datapoints and q(parameters) over components.

The mask `active` [K] removes components as if they did not exist, so models of different sizes fit
into arrays of one shape.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln, xlogy

from aevb.classical import mixture_seeds, normal_wishart
from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.families import Dirichlet
from aevb.classical.normal_wishart import LogGaussian, Moments, NormalWishart
from aevb.types import Key


class Prior(NamedTuple):
    """The prior, the same for all components."""

    concentration: Array  # [], the Dirichlet's concentration for each component
    component: NormalWishart  # in D dimensions


class Parameters(NamedTuple):
    """The factor q(weights, means, precisions)."""

    weights: Dirichlet  # over K components
    components: NormalWishart  # leaves [K, ...]


class MeanField(NamedTuple):
    """The factors of Q(z, parameters) = q(z) q(parameters)."""

    responsibilities: Array  # [N, K], q(z_n = k)
    parameters: Parameters


def coordinate_ascent(
    x: Array, prior: Prior, num_components: int, active: Array | None = None
) -> CoordinateAscent:
    """Returns mean-field coordinate ascent on x [N, D]; Bishop (2006), section 10.2.1.

    It starts from the clusters of k-means. The updates call `statistics` and `update_parameters`,
    as the faster `mixture_runs` does.
    """
    here = jnp.ones(num_components, bool) if active is None else active

    def init(key: Key) -> MeanField:
        clusters = mixture_seeds.responsibilities(key, x.T, num_components, here)
        return update_theta(MeanField(clusters.T, at_prior(prior, num_components)))

    def update_theta(q: MeanField) -> MeanField:
        centres = q.parameters.components.mean
        data = statistics(x.T, q.responsibilities.T, centres)
        return q._replace(parameters=update_parameters(prior, data, centres))

    def update_z(q: MeanField) -> MeanField:
        responsibilities, _ = assign(log_joint(q.parameters, here), x.T)
        return q._replace(responsibilities=responsibilities.T)

    return CoordinateAscent(
        init, {"z": update_z, "parameters": update_theta}, lambda q: bound(q, x, prior, here)
    )


def log_joint(parameters: Parameters, active: Array) -> LogGaussian:
    """Returns E[log p(x, z = k | parameters)] as functions of x, leaves [K, ...]; eq. (10.46).

    It is -inf for components that are not active.
    """
    total = jnp.sum(jnp.where(active, parameters.weights.concentration, 0.0))
    log_weights = digamma(parameters.weights.concentration) - digamma(total)
    log_liks = jax.vmap(NormalWishart.expected_log_lik)(parameters.components)
    constants = jnp.where(active, log_weights + log_liks.constant, -jnp.inf)
    return log_liks._replace(constant=constants)


def assign(log_joints: LogGaussian, x: Array) -> tuple[Array, Array]:
    """Computes q(z) of points x [D, N] from `log_joint`; eqs. (10.48) and (10.49).

    The sum of the log-normalizers minus the KL of the parameters is the bound at this q(z).

    Returns:
        The responsibilities [K, N], and the log-normalizers [N] in nats.
    """
    values = _at(log_joints, x)
    log_normalizers = jax.nn.logsumexp(values, axis=0)
    return jnp.exp(values - log_normalizers[None]), log_normalizers


def statistics(x: Array, responsibilities: Array, centres: Array) -> Moments:
    """Returns the sufficient statistics of points x [D, N], leaves [K, ...].

    Eqs. (10.51) to (10.53), with responsibilities [K, N], about `centres` [K, D]. The statistics of
    separate blocks of points add up.
    """
    of_component = jax.vmap(normal_wishart.moments, in_axes=(None, 0, 0))
    return of_component(x, responsibilities, centres)


def update_parameters(prior: Prior, data: Moments, centres: Array) -> Parameters:
    """Returns q(parameters) from the statistics about `centres` [K, D]; eqs. (10.58) to (10.63)."""
    of_component = jax.vmap(normal_wishart.posterior, in_axes=(None, 0, 0))
    weights = Dirichlet(prior.concentration + data.num_points)
    return Parameters(weights, of_component(prior.component, data, centres))


def kl(parameters: Parameters, prior: Prior, active: Array) -> Array:
    """Returns KL(q(parameters) || prior) [], in nats; inactive components contribute 0."""

    def total(of_each: Array) -> Array:
        return jnp.sum(jnp.where(active, of_each, 0.0))

    concentration = parameters.weights.concentration
    before = jnp.full_like(concentration, prior.concentration)
    log_weights = digamma(concentration) - digamma(total(concentration))
    of_weights = gammaln(total(concentration)) - gammaln(total(before))
    of_weights += total(gammaln(before) - gammaln(concentration))
    of_weights += total((concentration - before) * log_weights)
    of_component = jax.vmap(NormalWishart.kl, in_axes=(0, None))
    return of_weights + total(of_component(parameters.components, prior.component))


def bound(q: MeanField, x: Array, prior: Prior, active: Array) -> Array:
    """Returns the bound on log p(x) [] of points x [N, D] at any state, in nats; eq. (10.70)."""
    values = _at(log_joint(q.parameters, active), x.T).T
    expected = jnp.sum(q.responsibilities * jnp.where(active[None], values, 0.0))
    entropy = -jnp.sum(xlogy(q.responsibilities, q.responsibilities))
    return expected + entropy - kl(q.parameters, prior, active)


def at_prior(prior: Prior, num_components: int) -> Parameters:
    """Returns the prior of K components as q(parameters)."""

    def repeat(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (num_components, *leaf.shape))

    return Parameters(Dirichlet(repeat(prior.concentration)), jax.tree.map(repeat, prior.component))


def _at(functions: LogGaussian, x: Array) -> Array:
    """Returns the values [K, N] of K functions, leaves [K, ...], at points x [D, N]."""
    return jax.vmap(lambda function: function(x))(functions)
