"""Families of approximate posteriors q_phi(z|x), the paper's recognition model, as `Guide`s.

A guide is functions of statistics; an encoder of any library provides them. The table at the foot
says how a network's heads become the statistics of each family.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.distributions import DiagNormal, FullNormal
from aevb.guides.flows import FlowStats, IAFStats, PlanarStats, iaf, init_autoregressive, planar
from aevb.losses import Guide
from aevb.types import Key, PyTree

diag_normal = Guide(
    sample=lambda key, stats: stats.sample(key),
    log_prob=lambda stats, z: stats.log_prob(z),
    kl=lambda stats: stats.kl_to_standard_normal(),
)
"""N(mean, diag(exp(log_var))), eq. (9); its statistics are a `DiagNormal`, its prior N(0, I)."""

full_normal = Guide(
    sample=lambda key, stats: stats.sample(key),
    log_prob=lambda stats, z: stats.log_prob(z),
    kl=lambda stats: stats.kl_to_standard_normal(),
    sample_and_log_prob=lambda key, stats: stats.sample_and_log_prob(key),
)
"""A Gaussian of any covariance; its statistics are a `FullNormal`, its prior N(0, I)."""

Heads = Mapping[str, Array]


class Sizes(NamedTuple):
    """What the numbers of a family's statistics follow from."""

    num_latents: int  # Z
    num_layers: int = 1  # T, of a flow
    num_hidden: int = 1  # H, of the network of each layer of `iaf`


class GuideFamily(NamedTuple):
    """A guide, and where its statistics come from."""

    guide: Guide  # its kl, where it has one, is to N(0, I)
    heads: Mapping[str, int]  # name -> size of what an encoder gives at x
    stats: Callable[[PyTree, Heads], PyTree]  # (parameters of its own, heads) -> statistics
    init: Callable[[Key], PyTree] | None = None  # its own parameters, a nested dict; None: none


def diag_normal_family(sizes: Sizes) -> GuideFamily:
    heads = {"mean": sizes.num_latents, "log_var": sizes.num_latents}
    return GuideFamily(diag_normal, heads, lambda own, heads: DiagNormal(**heads))


def full_normal_family(sizes: Sizes) -> GuideFamily:
    num_below = sizes.num_latents * (sizes.num_latents - 1) // 2
    heads = {"mean": sizes.num_latents, "log_diag": sizes.num_latents}
    if num_below:  # a network need not know how to make a head of no size
        heads["below_diag"] = num_below

    def stats(own: PyTree, heads: Heads) -> FullNormal:
        return FullNormal(heads["mean"], heads["log_diag"], heads.get("below_diag", jnp.zeros(0)))

    return GuideFamily(full_normal, heads, stats)


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
    """Each layer has a masked network of its own, to whose hidden units the encoder adds."""
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
        # By name, because jax sorts the keys of a dict, and layer_10 comes before layer_2.
        networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[own[name] for name in names])
        context = heads["context"].reshape(num_layers, num_hidden)
        return FlowStats(DiagNormal(heads["mean"], heads["log_var"]), IAFStats(context, networks))

    return GuideFamily(iaf, heads, stats, init)


def standard_normal_family(sizes: Sizes) -> GuideFamily:
    """q(z|x) = N(0, I) whatever x is, which needs no encoder: for models that have none."""
    zeros = jnp.zeros(sizes.num_latents)
    return GuideFamily(diag_normal, {}, lambda own, heads: DiagNormal(zeros, zeros))


GUIDES: dict[str, Callable[[Sizes], GuideFamily]] = {
    "diag_normal": diag_normal_family,
    "full_normal": full_normal_family,
    "planar": planar_family,
    "iaf": iaf_family,
}
