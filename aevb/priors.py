"""Priors p(z), fixed or learned. The parameters of a learned prior are part of theta.

A prior on the parameters applies to them too: it pulls a learned p(z) toward a simpler one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from aevb import discrete
from aevb.discrete import Bernoulli, Categorical, RelaxedBernoulli, RelaxedCategorical
from aevb.distributions import DiagNormal, StandardNormal
from aevb.losses import REAL, Guide
from aevb.types import Key, LogDensity, PyTree

PULL = 0.8  # scales pixels toward 1/2, because the logits of 0 and 1 are infinite


class Prior(NamedTuple):
    """A prior p(z), with its parameters closed over."""

    sample: Callable[[Key], Array]  # key -> z [Z]; not differentiable in the parameters
    log_prob: LogDensity


class AnyPrior(Protocol):
    """p(z) of a model. Guides know the types to which they have a closed-form KL."""

    def sample(self, key: Key, /) -> Array: ...
    def log_prob(self, z: Array, /) -> Array: ...


class Posterior(NamedTuple):
    """The guide at any x, for priors that are made from it."""

    guide: Guide
    encode: Callable[[Array], PyTree]  # x [D] -> statistics of q(z|x)


class PriorFamily(NamedTuple):
    """A prior as a function of its parameters."""

    prior: Callable[[PyTree, Posterior], Any]  # (own parameters, the guide) -> p(z), an AnyPrior
    init: Callable[[Key], PyTree] | None = None  # key -> own parameters, a nested dict, if any
    uses_encoder: bool = False  # whether `prior` uses the guide
    support: str | None = REAL  # of z, as a guide's; None for that of the guide
    to_decoder: Callable[[Array], Array] | None = None  # z [Z] -> what a decoder takes of it, [Z]


class Options(NamedTuple):
    """The arguments of the functions that make a prior."""

    num_latents: int  # Z
    num_components: int = 1  # K, of a mixture or of `vamp`
    examples: Callable[[int], Array] | None = None  # K -> datapoints [K, D], where `vamp` starts
    in_unit_interval: bool = False  # whether the data are pixels in [0, 1], for `vamp`


def standard_normal(options: Options) -> PriorFamily:
    """Returns N(0, I), the paper's prior; it has no parameters."""
    normal = StandardNormal(options.num_latents)
    return PriorFamily(lambda own, posterior: normal)


def mixture(options: Options) -> PriorFamily:
    """Returns Sum_k pi_k N(z; mean_k, diag(exp(log_var_k))), where pi is the softmax of K logits.

    All parameters are learned. They start at equal weights, unit variances and means from N(0, I).
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
    """Returns the prior 1/K Sum_k q(z|u_k) with K learned pseudo-inputs u_k [D].

    Tomczak & Welling (2018), eq. (8). The pseudo-inputs start at examples of the data. If the data
    are pixels, the pseudo-inputs are the sigmoids of the learned parameters. This keeps them in the
    range that the encoder was trained on; they start slightly away from 0 and 1.

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
        equal = jnp.zeros(options.num_components, learned.dtype)
        return _mixture(equal, components, posterior.guide.log_prob, posterior.guide.sample)

    return PriorFamily(prior, init, uses_encoder=True, support=None)


def bernoulli(options: Options) -> PriorFamily:
    """Returns independent latents of 0 and 1. Their logits are learned and start at 0."""
    return PriorFamily(
        lambda own, posterior: Bernoulli(own["logits"]),
        _zero_logits(options.num_latents),
        support=discrete.BINARY,
    )


def categorical(options: Options, *, num_classes: int = 10) -> PriorFamily:
    """Returns Z / num_classes independent variables, whose one-hot rows z joins.

    Their logits are learned and start at 0.

    Raises:
        ValueError: num_classes does not divide Z.
    """
    return PriorFamily(
        lambda own, posterior: Categorical(own["logits"]),
        _zero_logits(*discrete.rows(options.num_latents, num_classes)),
        support=discrete.one_hot(num_classes),
    )


def relaxed_bernoulli(options: Options, *, temperature: float = 0.5) -> PriorFamily:
    """Returns the prior of the relaxed latents of `bernoulli`; the decoder takes sigmoid(z).

    This is ANOTHER MODEL than the one with 0 and 1, and log p(x) and its bounds are those of it.

    Raises:
        ValueError: the temperature is not a finite number above 0.
    """
    discrete.require_temperature(temperature)
    return PriorFamily(
        lambda own, posterior: RelaxedBernoulli(own["logits"], temperature),
        _zero_logits(options.num_latents),
        to_decoder=jax.nn.sigmoid,
    )


def relaxed_categorical(
    options: Options, *, num_classes: int = 10, temperature: float = 0.5
) -> PriorFamily:
    """Returns the prior of the relaxed latents of `categorical`; the decoder takes exp(z).

    This is ANOTHER MODEL than the one with one-hot rows, and log p(x) and its bounds are those of
    it.

    Raises:
        ValueError: num_classes does not divide Z, or the temperature is not a finite number above
            0.
    """
    discrete.require_temperature(temperature)
    return PriorFamily(
        lambda own, posterior: RelaxedCategorical(own["logits"], temperature),
        _zero_logits(*discrete.rows(options.num_latents, num_classes)),
        support=discrete.log_simplex(num_classes),
        to_decoder=jnp.exp,
    )


def _zero_logits(*shape: int) -> Callable[[Key], PyTree]:
    return lambda key: {"logits": jnp.zeros(shape)}


def _mixture(
    logits: Array,
    components: PyTree,
    log_prob: Callable[[PyTree, Array], Array],
    sample: Callable[[Key, PyTree], Array],
) -> Prior:
    """Returns the mixture of the densities in `components`, with weights softmax(logits) [K].

    The statistics of the K densities are stacked along the first axis of each leaf.
    """
    log_weights = jax.nn.log_softmax(logits)

    def sample_one(key: Key) -> Array:
        which_key, key = jax.random.split(key)
        which = jax.random.categorical(which_key, logits)
        return sample(key, jax.tree.map(lambda leaf: leaf[which], components))

    def log_density(z: Array) -> Array:
        each = jax.vmap(log_prob, in_axes=(0, None))(components, z)
        return jax.nn.logsumexp(log_weights + each)

    return Prior(sample_one, log_density)


PRIORS: dict[str, Callable[..., PriorFamily]] = {  # (Options, *, options) -> PriorFamily
    "standard_normal": standard_normal,
    "mixture": mixture,
    "vamp": vamp,
    "bernoulli": bernoulli,
    "categorical": categorical,
    "relaxed_bernoulli": relaxed_bernoulli,
    "relaxed_categorical": relaxed_categorical,
}
"""The priors by name, for `model.prior` in a config."""
