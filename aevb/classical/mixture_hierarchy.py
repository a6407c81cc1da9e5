"""The default prior of a mixture, whose scale is learned together with the components.

The prior of a component is mean_k | Lambda_k ~ N(m, (beta Lambda_k)^-1) and Lambda_k ~ Wishart with
df nu and inverse scale S. A fixed S states how wide the components are, and decides how many there
are. The covariance of all points, a usual choice, is that of components as wide as the data. With
clusters ten standard deviations apart it is a hundred times too large, and the mixture merges them.
Here S and beta are random variables that all components share,

    S ~ Wishart(D, eta I),   beta ~ Gamma(1/2, 1/2),

in coordinates in which the covariance of the data is I; Richardson & Green (1997) have such a prior
of the rate in one dimension. Both are conjugate: q(S) is a Wishart and q(beta) a Gamma, the
components see E[S] and E[beta], and no update lowers the bound. The reasons for the numbers:

- The bound is also maximized over eta, one number, so the units and the range of the data do not
  matter. A prior that holds eta would price the distance of the clusters, by D^2 nats for each
  factor e in their width.
- D degrees of freedom are the least whole number at which the prior of S is proper, so that its
  shape costs few nats. The prior of beta has the density of a squared N(0, 1), which is infinite at
  0: clusters far apart, or an outlier, cost half a nat for each factor e in beta.
- nu is D times the best of `DFS`: 1 for components of different widths, more for equal ones.
- The weights are uniform (concentration 1), since empty components are not wanted.

Neither eta nor nu depends on K, so that all sizes have the same freedom.

A limit: the means and S have a price in all D dimensions. If components have fewer points than
dimensions and differ in two of twenty, the bound of one wide component can be higher, even if they
are far apart.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma

from aevb.classical import mixture_model
from aevb.classical.families import Gamma, Wishart
from aevb.classical.mixture_model import Parameters, Prior
from aevb.classical.normal_wishart import NormalWishart

DFS = (1.0, 2.0, 4.0)  # the candidates for nu, in units of D
SPREAD = (0.5, 0.5)  # shape and rate of the prior of beta


def learn(parameters: Parameters, prior: Prior, active: Array) -> tuple[Prior, Array]:
    """Updates eta, then nu, q(S) and q(beta) given q(parameters) with leaves [K, ...].

    eta = D^2 / tr E[S] is the best given the q(S) before, which `prior` holds; S has D degrees of
    freedom plus nu for each component, and its inverse scale is eta I + sum_k E[Lambda_k].

    Returns:
        The prior with E[S] and E[beta] in place of S and beta, and the nats [] that the bound with
        that prior lacks.
    """
    mean = prior.component.mean
    dtype, num_dims = mean.dtype, len(mean)
    size = jnp.sum(active).astype(dtype)
    precisions = jax.vmap(Wishart.mean)(parameters.components.precision)
    total = jnp.sum(jnp.where(active[:, None, None], precisions, 0.0), axis=0)
    spread, of_spread = _spread(parameters, mean, precisions, active)
    eta = num_dims**2 / jnp.trace(prior.component.precision.inverse_scale)
    eye = jnp.eye(num_dims, dtype=dtype)
    before = Wishart(jnp.asarray(num_dims, dtype), eta * eye)

    def with_df(df: Array) -> tuple[Prior, Array, Array]:
        scale = Wishart(before.df + size * df, eta * eye + total)
        component = NormalWishart(mean, spread.mean(), Wishart(df, scale.mean()))
        learned = Prior(prior.concentration, component)
        halves = 0.5 * (scale.df - jnp.arange(num_dims, dtype=dtype))
        slack = jnp.sum(digamma(halves) - jnp.log(0.5 * scale.df))  # E log |S| - log |E S|
        lacks = of_spread + 0.5 * size * df * slack - scale.kl(before)
        return learned, lacks, lacks - mixture_model.kl(parameters, learned, active)

    learned, lacks, bounds = jax.vmap(with_df)(num_dims * jnp.asarray(DFS, dtype))
    best = jnp.argmax(bounds)
    return jax.tree.map(lambda leaf: leaf[best], (learned, lacks))


def _spread(
    parameters: Parameters, mean: Array, precisions: Array, active: Array
) -> tuple[Gamma, Array]:
    """Returns q(beta), and the nats [] that the bound with E[beta] lacks."""
    num_dims = len(mean)
    away = parameters.components.mean - mean[None]
    squared = num_dims / parameters.components.mean_precision
    squared += jnp.einsum("ki,kij,kj->k", away, precisions, away)
    halves = 0.5 * num_dims * jnp.sum(active).astype(mean.dtype)
    shape, rate = (jnp.asarray(number, mean.dtype) for number in SPREAD)
    q = Gamma(shape + halves, rate + 0.5 * jnp.sum(jnp.where(active, squared, 0.0)))
    return q, halves * (q.expected_log() - jnp.log(q.mean())) - q.kl(Gamma(shape, rate))
