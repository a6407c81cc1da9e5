"""Families of approximate posteriors q_phi(z|x), the paper's recognition model, as `Guide`s.

A guide is a set of functions of its statistics, and an encoder from any library can compute these.
`GUIDES` lists the families; each says how a network's heads become its statistics.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb import discrete
from aevb.discrete import Bernoulli, Categorical, RelaxedBernoulli, RelaxedCategorical
from aevb.distributions import DiagNormal, FullNormal
from aevb.guides.flows import FlowStats, IAFStats, PlanarStats, iaf, init_autoregressive, planar
from aevb.losses import Guide
from aevb.types import Key, PyTree

diag_normal = Guide(
    sample=lambda key, stats: stats.sample(key),
    log_prob=lambda stats, z: stats.log_prob(z),
    kl=lambda stats, prior: stats.kl(prior),
    sample_and_log_prob=lambda key, stats: stats.sample_and_log_prob(key),
    kl_per_unit=lambda stats, prior: stats.kl_per_unit(prior),
)
"""N(mean, diag(exp(log_var))), eq. (9).

Its statistics are a `DiagNormal`. Its closed-form KL is to a `StandardNormal` or a `DiagNormal`. It
is a sum over the latents.
"""

full_normal = Guide(
    sample=lambda key, stats: stats.sample(key),
    log_prob=lambda stats, z: stats.log_prob(z),
    kl=lambda stats, prior: stats.kl(prior),
    sample_and_log_prob=lambda key, stats: stats.sample_and_log_prob(key),
)
"""A Gaussian with any covariance.

Its statistics are a `FullNormal`. Its closed-form KL is to a `StandardNormal`.
"""


def _discrete(support: str) -> Guide:
    """Returns the guide whose statistics are a discrete distribution of z with this support."""
    return Guide(
        sample=lambda key, stats: stats.sample(key),
        log_prob=lambda stats, z: stats.log_prob(z),
        kl=lambda stats, prior: stats.kl(prior),
        support=support,
        is_reparameterized=False,
    )


bernoulli = _discrete(discrete.BINARY)._replace(
    kl_per_unit=lambda stats, prior: stats.kl_per_unit(prior)
)
"""Independent z_j of 0 and 1.

Its statistics are a `Bernoulli`. Its closed-form KL is to another, a sum over the latents.
"""


def categorical(num_classes: int) -> Guide:
    """Returns the guide of independent variables of C classes each, z their one-hot rows, joined.

    Its statistics are a `Categorical`. Its closed-form KL is to another.
    """
    return _discrete(discrete.one_hot(num_classes))


def relaxed_bernoulli(temperature: float) -> Guide:
    """Returns the guide of `RelaxedBernoulli`, of a relaxed model; its statistics are the logits.

    It has no closed-form KL.
    """

    def of(logits: Array) -> RelaxedBernoulli:
        return RelaxedBernoulli(logits, temperature)

    return Guide(
        sample=lambda key, logits: of(logits).sample(key),
        log_prob=lambda logits, z: of(logits).log_prob(z),
        sample_and_log_prob=lambda key, logits: of(logits).sample_and_log_prob(key),
    )


def relaxed_categorical(num_classes: int, temperature: float) -> Guide:
    """Returns the guide of `RelaxedCategorical`, of a relaxed model.

    Its statistics are the logits [V, C] or [C]. It has no closed-form KL.
    """
    return Guide(
        sample=lambda key, logits: RelaxedCategorical(logits, temperature).sample(key),
        log_prob=lambda logits, z: RelaxedCategorical(logits, temperature).log_prob(z),
        support=discrete.log_simplex(num_classes),
    )


Heads = Mapping[str, Array]


class Sizes(NamedTuple):
    """The sizes that determine the shapes of a family's statistics."""

    num_latents: int  # Z
    num_layers: int = 1  # T, layers of a flow
    num_hidden: int = 1  # H, hidden units of the network of each `iaf` layer


class GuideFamily(NamedTuple):
    """A guide, with the encoder outputs and the function that give its statistics."""

    guide: Guide
    heads: Mapping[str, int]  # name -> size of each encoder output at x
    stats: Callable[[PyTree, Heads], PyTree]  # (own parameters, heads) -> statistics
    init: Callable[[Key], PyTree] | None = None  # key -> own parameters, a nested dict, if any
    shares_prior: bool = False  # whether own parameters also have the prior's, by the name "prior"
    nests: bool = False  # whether the first statistics are those of a guide with fewer latents


def diag_normal_family(sizes: Sizes) -> GuideFamily:
    heads = {"mean": sizes.num_latents, "log_var": sizes.num_latents}
    return GuideFamily(diag_normal, heads, lambda own, heads: DiagNormal(**heads), nests=True)


def full_normal_family(sizes: Sizes) -> GuideFamily:
    num_below = sizes.num_latents * (sizes.num_latents - 1) // 2
    heads = {"mean": sizes.num_latents, "log_diag": sizes.num_latents}
    if num_below:  # a network need not support a head of size 0
        heads["below_diag"] = num_below

    def stats(own: PyTree, heads: Heads) -> FullNormal:
        none = jnp.zeros(0, heads["mean"].dtype)
        return FullNormal(heads["mean"], heads["log_diag"], heads.get("below_diag", none))

    return GuideFamily(full_normal, heads, stats, nests=True)


def planar_family(sizes: Sizes) -> GuideFamily:
    num_latents, num_layers, _ = sizes
    each = num_layers * num_latents
    heads = {"mean": num_latents, "log_var": num_latents, "u": each, "w": each, "b": num_layers}

    def stats(own: PyTree, heads: Heads) -> FlowStats:
        shape = (num_layers, num_latents)
        layers = PlanarStats(heads["u"].reshape(shape), heads["w"].reshape(shape), heads["b"])
        return FlowStats(DiagNormal(heads["mean"], heads["log_var"]), layers)

    return GuideFamily(planar, heads, stats)


def iaf_family(sizes: Sizes) -> GuideFamily:
    """Returns the family of `iaf` guides.

    Each layer has its own masked network; the encoder's output is added to its hidden units.
    """
    num_latents, num_layers, num_hidden = sizes
    heads = {"mean": num_latents, "log_var": num_latents, "context": num_layers * num_hidden}
    names = [f"layer_{layer}" for layer in range(num_layers)]

    def init(key: Key) -> PyTree:
        keys = jax.random.split(key, num_layers)
        return {
            name: init_autoregressive(layer_key, num_latents, num_hidden)
            for name, layer_key in zip(names, keys, strict=True)
        }

    def stats(own: PyTree, heads: Heads) -> FlowStats:
        # Stacked by name, because JAX sorts the keys of a dict and puts layer_10 before layer_2.
        networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[own[name] for name in names])
        context = heads["context"].reshape(num_layers, num_hidden)
        return FlowStats(DiagNormal(heads["mean"], heads["log_var"]), IAFStats(context, networks))

    return GuideFamily(iaf, heads, stats, init)


def bernoulli_family(sizes: Sizes) -> GuideFamily:
    heads = {"logits": sizes.num_latents}
    return GuideFamily(bernoulli, heads, lambda own, heads: Bernoulli(heads["logits"]))


def categorical_family(sizes: Sizes, *, num_classes: int = 10) -> GuideFamily:
    """Returns the family of `categorical` guides, of Z / num_classes variables.

    Raises:
        ValueError: num_classes does not divide Z.
    """
    shape = discrete.rows(sizes.num_latents, num_classes)
    return GuideFamily(
        categorical(num_classes),
        {"logits": sizes.num_latents},
        lambda own, heads: Categorical(heads["logits"].reshape(shape)),
    )


def relaxed_bernoulli_family(sizes: Sizes, *, temperature: float = 2 / 3) -> GuideFamily:
    """Returns the family of `relaxed_bernoulli` guides.

    Raises:
        ValueError: the temperature is not a finite number above 0.
    """
    discrete.require_temperature(temperature)
    heads = {"logits": sizes.num_latents}
    return GuideFamily(relaxed_bernoulli(temperature), heads, lambda own, heads: heads["logits"])


def relaxed_categorical_family(
    sizes: Sizes, *, num_classes: int = 10, temperature: float = 2 / 3
) -> GuideFamily:
    """Returns the family of `relaxed_categorical` guides, of Z / num_classes variables.

    Raises:
        ValueError: num_classes does not divide Z, or the temperature is not a finite number above
            0.
    """
    discrete.require_temperature(temperature)
    shape = discrete.rows(sizes.num_latents, num_classes)
    return GuideFamily(
        relaxed_categorical(num_classes, temperature),
        {"logits": sizes.num_latents},
        lambda own, heads: heads["logits"].reshape(shape),
    )


def standard_normal_family(sizes: Sizes) -> GuideFamily:
    """Returns the family q(z|x) = N(0, I), the same for every x.

    It is for models without an encoder.
    """
    zeros = jnp.zeros(sizes.num_latents)
    return GuideFamily(diag_normal, {}, lambda own, heads: DiagNormal(zeros, zeros))


GUIDES: dict[str, Callable[..., GuideFamily]] = {  # (Sizes, *, options) -> GuideFamily
    "diag_normal": diag_normal_family,
    "full_normal": full_normal_family,
    "planar": planar_family,
    "iaf": iaf_family,
    "bernoulli": bernoulli_family,
    "categorical": categorical_family,
    "relaxed_bernoulli": relaxed_bernoulli_family,
    "relaxed_categorical": relaxed_categorical_family,
}
"""The guides by name, for `model.guide` in a config."""
