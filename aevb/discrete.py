"""Discrete distributions, Bernoulli and categorical, and their relaxations; in nats.

A value z [Z] is a vector of floats, so that a decoder can take it: 0 and 1, or rows of C numbers,
of which one is 1, joined. Samples of the discrete distributions carry no gradient. Those of the
relaxations do (Maddison et al. 2017; Jang et al. 2017), and their densities are those of ANOTHER
MODEL, whose latents are real: a bound with them is one on its log p(x).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.nn import log_sigmoid, log_softmax, logsumexp, sigmoid, softmax, softplus

from aevb.types import Key

BINARY = "0 and 1"


def one_hot(num_classes: int) -> str:
    """Returns the support of `Categorical` in words."""
    return f"one-hot rows of {num_classes}"


def log_simplex(num_classes: int) -> str:
    """Returns the support of `RelaxedCategorical` in words."""
    return f"logs of rows of {num_classes} that sum to 1"


def rows(num_latents: int, num_classes: int) -> tuple[int, int]:
    """Returns the shape [V, C] of the rows of C numbers that z [Z] joins.

    Raises:
        ValueError: they do not fit.
    """
    if num_classes < 2 or num_latents % num_classes:
        raise ValueError(
            f"num_classes is {num_classes}; it must be at least 2 and divide num_latents, which is "
            f"{num_latents}"
        )
    return num_latents // num_classes, num_classes


def require_temperature(temperature: float) -> None:
    """Raises a ValueError if a temperature is not a finite number above 0."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be a finite number above 0")


class Bernoulli(NamedTuple):
    """Independent z_j of 0 and 1, which are 1 with probability sigmoid(logits_j)."""

    logits: Array  # [Z]

    def mean(self) -> Array:
        """Returns the probabilities of 1, [Z]."""
        return sigmoid(self.logits)

    def log_var(self) -> Array:
        """Returns the logs of the variances, [Z]."""
        return log_sigmoid(self.logits) + log_sigmoid(-self.logits)

    def sample(self, key: Key) -> Array:
        """Draws z [Z], without a gradient."""
        drawn = jax.random.bernoulli(key, sigmoid(self.logits))
        return stop_gradient(drawn.astype(self.logits.dtype))

    def log_prob(self, z: Array) -> Array:
        """Returns the log-probability [] of z [Z], in nats."""
        return -jnp.sum(softplus((1.0 - 2.0 * z) * self.logits))

    def kl(self, other: object) -> Array | None:
        """Returns KL(self || other) [], in nats; None if `other` is not a `Bernoulli`."""
        per_unit = self.kl_per_unit(other)
        return None if per_unit is None else jnp.sum(per_unit)

    def kl_per_unit(self, other: object) -> Array | None:
        """Returns the terms of `kl(other)`, one for each dimension [Z], in nats; None if it is."""
        if type(other) is not Bernoulli:
            return None
        own, others = self.logits, other.logits
        of_1 = sigmoid(own) * (log_sigmoid(own) - log_sigmoid(others))
        return of_1 + sigmoid(-own) * (log_sigmoid(-own) - log_sigmoid(-others))


class Categorical(NamedTuple):
    """Independent variables of C classes each, with probabilities softmax(logits).

    A value is the one-hot rows of the V variables, joined: z [V C], or [C] for a single one.
    """

    logits: Array  # [V, C], or [C]

    def mean(self) -> Array:
        """Returns the probabilities, joined as z is, [V C]."""
        return softmax(self.logits).ravel()

    def log_var(self) -> Array:
        """Returns the logs of the variances of the entries of z, [V C]."""
        log_p = log_softmax(self.logits)
        others = jnp.log1p(-jnp.minimum(jnp.exp(log_p), 1.0 - jnp.finfo(log_p.dtype).epsneg))
        return (log_p + others).ravel()

    def sample(self, key: Key) -> Array:
        """Draws z [V C], without a gradient."""
        drawn = jax.random.categorical(key, self.logits)
        rows = jax.nn.one_hot(drawn, self.logits.shape[-1], dtype=self.logits.dtype)
        return stop_gradient(rows.ravel())

    def log_prob(self, z: Array) -> Array:
        """Returns the log-probability [] of z [V C], in nats."""
        return jnp.sum(z.reshape(self.logits.shape) * log_softmax(self.logits))

    def kl(self, other: object) -> Array | None:
        """Returns KL(self || other) [], in nats; None if `other` is not a `Categorical`."""
        if type(other) is not Categorical:
            return None
        log_ratio = log_softmax(self.logits) - log_softmax(other.logits)
        return jnp.sum(softmax(self.logits) * log_ratio)


class RelaxedBernoulli(NamedTuple):
    """The binary Concrete distribution: z = (logits + noise) / temperature, of logistic noise.

    A decoder takes sigmoid(z), which is above 1/2 with the probability of a 1 under `Bernoulli`,
    and tends to it as the temperature tends to 0. z itself keeps the digits that sigmoid(z) loses
    near 0 and 1 (Maddison et al. 2017, appendix B).
    """

    logits: Array  # [Z]
    temperature: float

    def sample(self, key: Key) -> Array:
        """Draws z [Z], differentiable in the logits."""
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Draws z as `sample` does, and computes its log-density [] from the noise, in nats."""
        noise = jax.random.logistic(key, self.logits.shape, self.logits.dtype)
        return (self.logits + noise) / self.temperature, self._log_prob_of(noise)

    def log_prob(self, z: Array) -> Array:
        """Returns the log-density [] of z [Z], in nats."""
        return self._log_prob_of(self.temperature * z - self.logits)

    def _log_prob_of(self, noise: Array) -> Array:
        return jnp.sum(jnp.log(self.temperature) + log_sigmoid(noise) + log_sigmoid(-noise))


class RelaxedCategorical(NamedTuple):
    """The Concrete or Gumbel-softmax distribution, of the logs of points of a simplex.

    z is log_softmax((logits + noise) / temperature) with Gumbel noise, row by row, and a decoder
    takes exp(z). The largest entry is that of a class with its probability under `Categorical`. The
    density of z is that of ExpConcrete (Maddison et al. 2017, appendix C.3): of p = exp(z) with
    respect to dp_1 ... dp_(C-1) / (p_1 ... p_C).
    """

    logits: Array  # [V, C], or [C]
    temperature: float

    def sample(self, key: Key) -> Array:
        """Draws z [V C], differentiable in the logits."""
        noise = jax.random.gumbel(key, self.logits.shape, self.logits.dtype)
        return log_softmax((self.logits + noise) / self.temperature).ravel()

    def log_prob(self, z: Array) -> Array:
        """Returns the log-density [] of z [V C], in nats."""
        num_classes = self.logits.shape[-1]
        constant = math.lgamma(num_classes) + (num_classes - 1) * jnp.log(self.temperature)
        shifted = self.logits - self.temperature * z.reshape(self.logits.shape)
        of_row = jnp.sum(shifted, axis=-1) - num_classes * logsumexp(shifted, axis=-1)
        return jnp.sum(constant + of_row)
