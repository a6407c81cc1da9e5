"""p_theta(x|z) given the statistics that a decoder puts out: normalised densities, in nats.

A statistic is an array [D] a name (`heads`), one number for each data dimension. Constants are
never dropped, so that training, evaluation and log p(x) are on one scale.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.distributions import DiagNormal
from aevb.types import Key

Heads = Mapping[str, Array]


class Likelihood(NamedTuple):
    """One family of p(x|z), as pure functions of the decoder's statistics."""

    heads: tuple[str, ...]  # the statistics it needs, each [D]
    kinds: tuple[str, ...]  # the kinds of data that it is a density for: binary, grey, real
    log_prob: Callable[[Heads, Array], Array]  # (statistics, x [D]) -> [], nats
    mean: Callable[[Heads], Array]  # E[x|z] -> [D]
    sample: Callable[[Key, Heads], Array]  # x ~ p(x|z) -> [D]


def bernoulli_log_prob(heads: Heads, x: Array) -> Array:
    """Sum_d x_d log y_d + (1 - x_d) log(1 - y_d), y = sigmoid(logits), x in {0, 1} -> [], nats.

    Appendix C.1, eq. (11), written in the logits: finite for every finite logit.
    """
    logits = heads["logits"]
    return jnp.sum(x * logits - jax.nn.softplus(logits))


bernoulli = Likelihood(
    heads=("logits",),
    kinds=("binary",),
    log_prob=bernoulli_log_prob,
    mean=lambda heads: jax.nn.sigmoid(heads["logits"]),
    sample=lambda key, heads: jax.random.bernoulli(key, jax.nn.sigmoid(heads["logits"])).astype(
        heads["logits"].dtype
    ),
)


def _normal(heads: Heads) -> DiagNormal:
    """Appendix C.2, eq. (12): mean and variance of every dimension from the decoder."""
    return DiagNormal(heads["mean"], heads["log_var"])


def _normal_unit_mean(heads: Heads) -> DiagNormal:
    """As `_normal`, the mean constrained to (0, 1) by a sigmoid: the paper's Frey-face decoder."""
    return DiagNormal(jax.nn.sigmoid(heads["mean_logits"]), heads["log_var"])


def _normal_likelihood(
    heads: tuple[str, ...], kinds: tuple[str, ...], normal: Callable[[Heads], DiagNormal]
) -> Likelihood:
    return Likelihood(
        heads=heads,
        kinds=kinds,
        log_prob=lambda statistics, x: normal(statistics).log_prob(x),
        mean=lambda statistics: normal(statistics).mean,
        sample=lambda key, statistics: normal(statistics).sample(key),
    )


gaussian = _normal_likelihood(("mean", "log_var"), ("grey", "real"), _normal)
gaussian_unit_mean = _normal_likelihood(("mean_logits", "log_var"), ("grey",), _normal_unit_mean)

LIKELIHOODS = {
    "bernoulli": bernoulli,
    "gaussian": gaussian,
    "gaussian_unit_mean": gaussian_unit_mean,
}
