"""Guides and priors that are products of smaller ones, written as their factorization.

Latents are a dict, name -> z_i. Each factor may depend on latents drawn before it:

    q(z|x) = prod_i q(z_i | earlier z, x)        p(z) = prod_i p(z_i | earlier z)

The two may have other orders: for two layers of latents, Burda et al. (2015) draw z1 from x and z2
from z1, and the prior goes from z2 to z1. All bounds and estimators take such a guide and prior.
Datapoints that share global parameters are a `plate`.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.losses import Density, Guide, log_prior, sample_and_log_prob
from aevb.types import Key, PyTree

Latents = Mapping[str, PyTree]


class Conditional(NamedTuple):
    """A factor q(z_i | parents, x) of a guide."""

    guide: Guide
    parents: tuple[str, ...]  # names of latents that are drawn before
    stats: Callable[..., PyTree]  # (statistics of the factor, *parents) -> those of `guide`


class Given(NamedTuple):
    """A factor p(z_i | parents) of a prior."""

    parents: tuple[str, ...]  # names of latents that are drawn before
    density: Callable[..., Any]  # (*parents) -> a `Density` of z_i


class Prior(NamedTuple):
    """The prior p(z) = prod_i p(z_i | parents), from `prior`."""

    factors: Mapping[str, Any]  # name -> a `Density`, or a `Given`

    def factor(self, name: str, z: Latents) -> Any:
        """Returns the density of z_i at its parents in z."""
        factor = self.factors[name]
        if isinstance(factor, Given):
            return factor.density(*(z[parent] for parent in factor.parents))
        return factor

    def sample(self, key: Key) -> dict[str, PyTree]:
        """Draws z ~ p(z), each factor after its parents."""
        z: dict[str, PyTree] = {}
        for number, name in enumerate(self.factors):
            z[name] = self.factor(name, z).sample(jax.random.fold_in(key, number))
        return z

    def log_prob(self, z: Latents) -> Array:
        """Returns log p(z) [], in nats."""
        return sum_of(self.factor(name, z).log_prob(z[name]) for name in self.factors)


def prior(factors: Mapping[str, Density | Given]) -> Prior:
    """Returns the prior with these factors, in the order in which they are drawn.

    Raises:
        ValueError: a factor depends on one that is not before it.
    """
    _require_order(factors)
    return Prior(factors)


def guide(factors: Mapping[str, Guide | Conditional]) -> Guide:
    """Returns the guide with these factors, in the order in which they are drawn.

    Its statistics are a dict, name -> the statistics of the factor. For a `Conditional` they are
    what its `stats` takes first, such as features of x and the parameters of a network.

    It has a closed-form KL to a `Prior` if no factor of the two has parents, and each has a
    closed-form KL. Else `sample_and_kls` uses that of each factor which has one.

    Raises:
        ValueError: a factor depends on one that is not before it.
    """
    _require_order(factors)
    product = _Product(factors)
    parts = [own.guide if isinstance(own, Conditional) else own for own in factors.values()]
    supports = dict.fromkeys(part.support for part in parts)
    return Guide(
        product.sample,
        product.log_prob,
        product.kl,
        product.sample_and_log_prob,
        sample_and_kls=product.sample_and_kls,
        support=", ".join(supports),
        is_reparameterized=all(part.is_reparameterized for part in parts),
    )


class _Product(NamedTuple):
    """The functions of a guide with these factors."""

    factors: Mapping[str, Guide | Conditional]

    def part(self, name: str, stats: PyTree, z: Latents) -> tuple[Guide, PyTree]:
        """Returns the guide of a factor and its statistics, at its parents in z."""
        factor = self.factors[name]
        if isinstance(factor, Conditional):
            parents = (z[parent] for parent in factor.parents)
            return factor.guide, factor.stats(stats[name], *parents)
        return factor, stats[name]

    def sample(self, key: Key, stats: PyTree) -> dict[str, PyTree]:
        z: dict[str, PyTree] = {}
        for number, name in enumerate(self.factors):
            own, own_stats = self.part(name, stats, z)
            z[name] = own.sample(jax.random.fold_in(key, number), own_stats)
        return z

    def log_prob(self, stats: PyTree, z: Latents) -> Array:
        parts = {name: self.part(name, stats, z) for name in self.factors}
        return sum_of(own.log_prob(each, z[name]) for name, (own, each) in parts.items())

    def with_log_probs(self, key: Key, stats: PyTree) -> tuple[dict[str, PyTree], dict[str, Array]]:
        """Draws z ~ q(z|x), and computes the log-density [] of each factor."""
        z: dict[str, PyTree] = {}
        log_probs: dict[str, Array] = {}
        for number, name in enumerate(self.factors):
            own, own_stats = self.part(name, stats, z)
            own_key = jax.random.fold_in(key, number)
            z[name], log_probs[name] = sample_and_log_prob(own_key, own_stats, own)
        return z, log_probs

    def sample_and_log_prob(self, key: Key, stats: PyTree) -> tuple[dict[str, PyTree], Array]:
        z, log_probs = self.with_log_probs(key, stats)
        return z, sum_of(log_probs.values())

    def kl(self, stats: PyTree, prior: object) -> Array | None:
        if (
            not isinstance(prior, Prior)
            or _has_parents(self.factors)
            or _has_parents(prior.factors)
        ):
            return None
        kls = [self.kl_of(name, stats, {}, prior) for name in self.factors]
        return None if any(kl is None for kl in kls) else sum_of(kls)

    def kl_of(self, name: str, stats: PyTree, z: Latents, prior: Prior) -> Array | None:
        """Returns KL(q(z_i | parents, x) || p(z_i | parents)) [], or None without a closed form.

        A parent in p that is drawn after z_i in q is not fixed, so that there is none either.
        """
        parents, earlier = _parents_of(prior.factors[name]), list(self.factors)
        if not set(parents) <= set(earlier[: earlier.index(name)]):
            return None
        own, own_stats = self.part(name, stats, z)
        return None if own.kl is None else own.kl(own_stats, prior.factor(name, z))

    def sample_and_kls(
        self, key: Key, stats: PyTree, prior: Any
    ) -> tuple[PyTree, dict[str, Array]]:
        z, log_probs = self.with_log_probs(key, stats)
        if not isinstance(prior, Prior):
            return z, {"all": sum_of(log_probs.values()) - log_prior(prior, z)}

        def of(name: str) -> Array:
            closed = self.kl_of(name, stats, z, prior)
            if closed is not None:
                return closed
            return log_probs[name] - prior.factor(name, z).log_prob(z[name])

        return z, {name: of(name) for name in self.factors}


def plate(
    key: Key, local: Callable[[Key, Any, Any], Array], x: PyTree, *, num_data: int
) -> Callable[[Any], Array]:
    """Returns the function theta -> N/M Sum_m local(theta, x_m), the log-likelihood of a plate.

    The datapoints of a plate share theta: p(theta) prod_n p(x_n|theta). With the returned function
    for log_lik, `Joint(p(theta), plate(...))`, the bounds of `aevb.losses` are on
    log p(x_1, ..., x_N), with q(theta) for the guide; appendix F of Kingma & Welling (2014).

    `sgvb_a`, `sgvb_b` and `stl` are unbiased if x is a minibatch of M random datapoints. Bounds
    that are not means over samples (`losses.NOT_MEANS`) are bounds only if x is all data and
    `local` is exact.

    Args:
        key: for `local`; each datapoint has its own part.
        local: (key, theta, x_m) -> log p(x_m|theta) [], or an estimate of a bound on it, such as
            one of `aevb.losses` over latents z_m, in nats.
        x: the datapoints; each leaf has the leading axis M.
        num_data: N.
    """
    number = len(jax.tree.leaves(x)[0])
    keys = jax.random.split(key, number)

    def log_lik(theta: Any) -> Array:
        each = jax.vmap(lambda key, x: local(key, theta, x))(keys, x)
        return num_data / number * jnp.sum(each)

    return log_lik


def sum_of(terms: Iterable[Any]) -> Array:
    """Returns the sum [] of one or more scalars."""
    return reduce(operator.add, terms)


def _parents_of(factor: object) -> tuple[str, ...]:
    return factor.parents if isinstance(factor, Conditional | Given) else ()


def _has_parents(factors: Mapping[str, object]) -> bool:
    return any(_parents_of(factor) for factor in factors.values())


def _require_order(factors: Mapping[str, object]) -> None:
    earlier: list[str] = []
    if not factors:
        raise ValueError("there are no factors; there must be at least 1")
    for name, factor in factors.items():
        for parent in _parents_of(factor):
            if parent not in earlier:
                raise ValueError(
                    f"the factor of {name!r} depends on {parent!r}, which is not before it; the "
                    f"factors before it are {earlier}"
                )
        earlier.append(name)
