"""Distributions as tuples of arrays, with densities in nats, sums over their dimensions."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.types import Key

LOG_2PI = math.log(2.0 * math.pi)


class DiagNormal(NamedTuple):
    """N(mean, diag(exp(log_var))): the paper's q_phi(z|x), eq. (9)."""

    mean: Array  # [Z]
    log_var: Array  # [Z], log sigma^2

    def sample(self, key: Key) -> Array:
        """z = mean + sigma * eps with eps ~ N(0, I), section 2.4 -> [Z]; differentiable in self."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.log_var) * noise

    def log_prob(self, z: Array) -> Array:
        """log N(z; mean, sigma^2 I) of z [Z] -> [], nats."""
        standardised_sq = jnp.square(z - self.mean) * jnp.exp(-self.log_var)
        return -0.5 * jnp.sum(LOG_2PI + self.log_var + standardised_sq)

    def entropy(self) -> Array:
        """-E_q[log q(z)] -> [], nats."""
        return 0.5 * jnp.sum(LOG_2PI + 1.0 + self.log_var)

    def kl_to_standard_normal(self) -> Array:
        """KL(self || N(0, I)) -> [], nats; appendix B."""
        # expm1 keeps the digits that exp(t) - 1 loses where the posterior collapses on the prior.
        return 0.5 * jnp.sum(jnp.square(self.mean) + jnp.expm1(self.log_var) - self.log_var)


class StandardNormal(NamedTuple):
    """N(0, I): the prior p(z) of the paper, and its prior on the parameters."""

    num_dims: int

    def sample(self, key: Key) -> Array:
        """eps ~ N(0, I) -> [num_dims]."""
        return jax.random.normal(key, (self.num_dims,))

    def log_prob(self, z: Array) -> Array:
        """log N(z; 0, I) of z [num_dims] -> [], nats."""
        return -0.5 * jnp.sum(LOG_2PI + jnp.square(z))
