"""Priors p(z), fixed or learned; what a prior learns is part of theta.

A prior on parameters covers these too: it draws a learned p(z) towards a simpler one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.distributions import DiagNormal, StandardNormal
from aevb.losses import Guide
from aevb.types import Key, LogDensity, PyTree

PULL = 0.8  # of pixels towards 1/2, before their logits are taken: those of 0 and 1 are infinite


class Prior(NamedTuple):
    """p(z), its parameters closed over."""

    sample: Callable[[Key], Array]  # -> z [Z]; not differentiable in the parameters
    log_prob: LogDensity


class Posterior(NamedTuple):
    """The guide at any x, which a prior may be made of."""

    guide: Guide
    encode: Callable[[Array], PyTree]  # x [D] -> statistics of q(z|x)


class PriorFamily(NamedTuple):
    """A prior as a function of its parameters."""

    prior: Callable[[PyTree, Posterior], Prior]  # (parameters of its own, the guide) -> p(z)
    init: Callable[[Key], PyTree] | None = None  # its own parameters, a nested dict; None: none
    is_standard_normal: bool = False  # then the KL of a guide that knows its own may be used


class Options(NamedTuple):
    """What priors are made from."""

    num_latents: int  # Z
    num_components: int = 1  # K, of a mixture
    examples: Callable[[int], Array] | None = None  # K -> datapoints [K, D], where `vamp` starts
    in_unit_interval: bool = False  # whether data are pixels in [0, 1], for `vamp`


def standard_normal(options: Options) -> PriorFamily:
    """N(0, I), the paper's; it has no parameters."""
    normal = StandardNormal(options.num_latents)
    return PriorFamily(
        lambda own, posterior: Prior(normal.sample, normal.log_prob), is_standard_normal=True
    )


def mixture(options: Options) -> PriorFamily:
    """Sum_k pi_k N(z; mean_k, diag(exp(log_var_k))), pi the softmax of K logits; all is learned.

    It starts at equal weights and unit variances, with means from N(0, I).
    """
    shape = (options.num_components, options.num_latents)

    def init(key: Key) -> PyTree:
        return {
            "logits": jnp.zeros(options.num_components),
            "mean": jax.random.normal(key, shape),
            "log_var": jnp.zeros(shape),
        }

    def prior(own: PyTree, posterior: Posterior) -> Prior:
        components = DiagNormal(own["mean"], own["log_var"])
        return _mixture(
            own["logits"], components, DiagNormal.log_prob, lambda key, stats: stats.sample(key)
        )

    return PriorFamily(prior, init)


def vamp(options: Options) -> PriorFamily:
    """1/K Sum_k q(z|u_k) of K learned pseudo-inputs u_k [D]; Tomczak & Welling (2018), eq. (8).

    They start at examples of the data. Those of pixels are the sigmoids of what is learned, which
    keeps them where the encoder has seen data, and start a little off 0 and 1.

    Raises:
        ValueError: there are no examples.
    """
    examples = options.examples
    if examples is None:
        raise ValueError("the pseudo-inputs of vamp start at examples, and there are none")

    def init(key: Key) -> PyTree:
        start = examples(options.num_components)
        if options.in_unit_interval:
            start = jax.scipy.special.logit(0.5 + PULL * (start - 0.5))
        return {"pseudo_inputs": start}

    def prior(own: PyTree, posterior: Posterior) -> Prior:
        learned = own["pseudo_inputs"]
        pseudo_inputs = jax.nn.sigmoid(learned) if options.in_unit_interval else learned
        components = jax.vmap(posterior.encode)(pseudo_inputs)
        equal = jnp.zeros(options.num_components)
        return _mixture(equal, components, posterior.guide.log_prob, posterior.guide.sample)

    return PriorFamily(prior, init)


def _mixture(
    logits: Array,
    components: PyTree,
    log_prob: Callable[[PyTree, Array], Array],
    sample: Callable[[Key, PyTree], Array],
) -> Prior:
    """Of densities whose statistics are stacked along each leaf's first axis, weights [K]."""
    log_weights = jax.nn.log_softmax(logits)

    def sample_one(key: Key) -> Array:
        which_key, key = jax.random.split(key)
        which = jax.random.categorical(which_key, logits)
        return sample(key, jax.tree.map(lambda leaf: leaf[which], components))

    def log_density(z: Array) -> Array:
        each = jax.vmap(log_prob, in_axes=(0, None))(components, z)
        return jax.nn.logsumexp(log_weights + each)

    return Prior(sample_one, log_density)


PRIORS: dict[str, Callable[[Options], PriorFamily]] = {
    "standard_normal": standard_normal,
    "mixture": mixture,
    "vamp": vamp,
}
