"""A learned baseline b(x) beside an encoder, for the bound `nvil` (Mnih & Gregor 2014)."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.guides import GuideFamily, Heads
from aevb.networks import Network, fan_in_init, mlp
from aevb.types import Key, PyTree

NAME = "baseline"  # of the network's parameters among the encoder's, and of its output
HIDDEN = (100,)  # units of tanh, as in the paper


class WithBaseline(NamedTuple):
    """Statistics of a guide, and the baseline at the same x."""

    stats: PyTree
    baseline: Array  # [], nats


def of_family(family: GuideFamily) -> GuideFamily:
    """Returns the family whose guide has a `baseline`, from a head of size 1 of that name.

    The encoder makes that head of parameters of its own: see `of_encoder`.
    """
    guide = family.guide
    kl, per_unit, both, kls = (
        guide.kl, guide.kl_per_unit, guide.sample_and_log_prob, guide.sample_and_kls
    )  # fmt: skip
    with_baseline = guide._replace(
        sample=lambda key, own: guide.sample(key, own.stats),
        log_prob=lambda own, z: guide.log_prob(own.stats, z),
        kl=kl and (lambda own, prior: kl(own.stats, prior)),
        kl_per_unit=per_unit and (lambda own, prior: per_unit(own.stats, prior)),
        sample_and_log_prob=both and (lambda key, own: both(key, own.stats)),
        sample_and_kls=kls and (lambda key, own, prior: kls(key, own.stats, prior)),
        baseline=lambda own: own.baseline,
    )

    def stats(own: PyTree, heads: Heads) -> WithBaseline:
        others = {name: head for name, head in heads.items() if name != NAME}
        return WithBaseline(family.stats(own, others), heads[NAME][0])

    heads = {**family.heads, NAME: 1}
    return family._replace(guide=with_baseline, heads=heads, stats=stats, nests=False)


def of_encoder(encoder: Network, num_dims: int) -> Network:
    """Returns the encoder with a head `baseline` [1], of a network of its own.

    The network has one hidden layer. Its output is multiplied by D, since a log p(x) of D
    dimensions is of that size, and a step of an optimizer is not.

    Args:
        num_dims: D.
    """
    network = mlp(num_dims, {NAME: 1}, hidden=HIDDEN, initialization=fan_in_init(1.0))

    def init(key: Key) -> PyTree:
        # The encoder starts as it does without a baseline.
        return {**encoder.init(key), NAME: network.init(jax.random.fold_in(key, 1))}

    def apply(params: PyTree, x: Array) -> Mapping[str, Array]:
        own = {name: leaf for name, leaf in params.items() if name != NAME}
        seen = jnp.where(jnp.isnan(x), 0.0, x)  # the encoder has its own way with missing values
        baseline = network.apply(params[NAME], seen)[NAME]
        return {**encoder.apply(own, x), NAME: num_dims * baseline}

    return encoder._replace(init=init, apply=apply)
