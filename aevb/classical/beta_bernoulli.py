"""The coin: a Bernoulli probability under a Beta prior, in closed form and by gradient ascent.

This is the smallest model whose posterior, evidence and bound are all known. A Beta guide contains
the posterior, so its bound can equal log p(x). A logit-normal guide does not contain the posterior,
and its bound stays below log p(x) by the KL.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import xlog1py, xlogy

from aevb import reparam
from aevb.classical.families import Beta
from aevb.distributions import DiagNormal
from aevb.losses import Bound, Guide, Joint, sgvb_a
from aevb.reparam.gamma_functions import log_beta
from aevb.types import Key, PyTree

REACH = 10.0  # quadrature covers this many standard deviations on either side
NUM_NODES = 401


class Flips(NamedTuple):
    """The sufficient statistics of a sequence of flips: the numbers of heads and tails."""

    heads: Array  # []
    tails: Array  # []


def count(x: Array) -> Flips:
    """Returns the numbers of heads and tails in a sequence x [N] of ones and zeros; N may be 0.

    Raises:
        ValueError: x is not one sequence, or holds a value other than 0 and 1. x must be concrete,
            not traced.
    """
    if x.ndim != 1:
        raise ValueError(f"the flips have shape {x.shape}; they must be one sequence, [N]")
    strange = x[(x != 0) & (x != 1)]
    if len(strange):
        raise ValueError(f"the flips hold {strange[0]}; heads must be 1 and tails 0")
    return Flips(jnp.sum(x), jnp.sum(1 - x))


def posterior(prior: Beta, flips: Flips) -> Beta:
    """Returns the exact posterior p(z | x); Bishop (2006), section 2.1.1.

    The prior's parameters act as counts of flips seen before.
    """
    return Beta(prior.a + flips.heads, prior.b + flips.tails)


def predictive(family: Beta) -> Array:
    """Returns the probability [] that the next flip is heads, with z integrated out."""
    return family.mean()


def log_evidence(prior: Beta, flips: Flips) -> Array:
    """Returns log p(x) [] of one sequence with these counts, in nats, with z integrated out.

    It is the log of a ratio of Beta functions, the same for every order of the flips. The
    log-probability of the counts in any order is greater by log C(heads + tails, heads), which
    depends on neither the prior nor z.
    """
    exact = posterior(prior, flips)
    return log_beta(exact.a, exact.b) - log_beta(prior.a, prior.b)


# Fitting by gradients: the coin as a Joint, and two guides for z [1]


class HeadsPrior(NamedTuple):
    """The Beta prior of z [1], the probability of heads."""

    beta: Beta

    def log_prob(self, z: Array) -> Array:
        """Returns log p(z) [] of z [1], in nats."""
        return self.beta.log_prob(z[0])


def make_joint(prior: Beta, flips: Flips) -> Joint:
    """Returns the Joint p(x, z) of one sequence, where z [1] is the probability of heads."""

    def log_lik(z: Array) -> Array:
        return xlogy(flips.heads, z[0]) + xlog1py(flips.tails, -z[0])

    return Joint(HeadsPrior(prior), log_lik)


def beta_guide() -> Guide:
    """Returns the guide q(z) = Beta(exp(stats[0]), exp(stats[1])), with statistics [2].

    This family contains the posterior. Its KL is to a `HeadsPrior`.
    """

    def params(stats: Array) -> dict[str, Array]:
        return {"concentration1": jnp.exp(stats[:1]), "concentration0": jnp.exp(stats[1:])}

    def family(stats: Array) -> Beta:
        return Beta(*jnp.exp(stats))

    def kl(stats: Array, prior: object) -> Array | None:
        return family(stats).kl(prior.beta) if isinstance(prior, HeadsPrior) else None

    return Guide(
        sample=lambda key, stats: reparam.FAMILIES["beta"].sample(key, params(stats)),
        log_prob=lambda stats, z: family(stats).log_prob(z[0]),
        kl=kl,
    )


def logit_normal_guide() -> Guide:
    """Returns the guide q(z) under which logit z is normal.

    Its statistics are a `DiagNormal` of one dimension. Its density is N(logit z) / (z (1 - z)),
    which is never a Beta.
    """

    def sample(key: Key, logit: DiagNormal) -> Array:
        z = jax.nn.sigmoid(logit.sample(key))
        info = jnp.finfo(z.dtype)  # the clip keeps z from being rounded to 0 or 1
        return jnp.clip(z, float(info.tiny), 1.0 - float(info.epsneg))

    def log_prob(logit: DiagNormal, z: Array) -> Array:
        log_z, log_rest = jnp.log(z), jnp.log1p(-z)
        return logit.log_prob(log_z - log_rest) - jnp.sum(log_z + log_rest)

    return Guide(sample, log_prob)


def fit(
    key: Key,
    start: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    bound: Bound = sgvb_a,
    num_steps: int,
    num_samples: int = 1,
    step_size: float = 0.1,
    power: float = 0.6,
) -> PyTree:
    """Fits the guide by stochastic gradient ascent of the bound on log p(x).

    Step t has the size step_size (1 + t)^-power (Robbins & Monro 1951), which converges for
    1/2 < power <= 1. With `losses.stl`, whose noise vanishes at the exact posterior, power 0 is
    enough.

    Returns:
        The mean of the guide's statistics over the second half of the steps (Polyak & Juditsky
        1992).

    Raises:
        ValueError: num_steps is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1")

    def step(stats: PyTree, at: tuple[Array, Key]) -> tuple[PyTree, PyTree]:
        number, key = at
        grad = jax.grad(lambda stats: bound(key, stats, guide, joint, num_samples=num_samples))
        size = step_size * (1.0 + number) ** -power
        stats = jax.tree.map(lambda leaf, slope: leaf + size * slope, stats, grad(stats))
        return stats, stats

    dtype = jax.tree.leaves(start)[0].dtype
    steps = jnp.arange(num_steps, dtype=dtype), jax.random.split(key, num_steps)
    _, path = jax.lax.scan(step, start, steps)
    return jax.tree.map(lambda leaf: jnp.mean(leaf[num_steps // 2 :], axis=0), path)


def logit_normal_bound(prior: Beta, flips: Flips, logit: DiagNormal) -> Array:
    """Returns log p(x) - KL(q || p(z|x)) [] of a logit-normal q, in nats, without sampling noise.

    The statistics are those of `logit_normal_guide`. The mean over logit z is computed by the
    trapezoid rule, whose error, for a smooth integrand under a normal, falls faster than any power
    of the spacing.
    """
    nodes = jnp.linspace(-REACH, REACH, NUM_NODES, dtype=logit.mean.dtype)
    weights = jax.nn.softmax(-0.5 * jnp.square(nodes))
    u = logit.mean + jnp.exp(0.5 * logit.log_var) * nodes
    log_z, log_rest = jax.nn.log_sigmoid(u), jax.nn.log_sigmoid(-u)
    exact = posterior(prior, flips)
    # The joint density of x and logit z: dz/du = z (1 - z) raises the exponents to a and b.
    log_joint = exact.a * log_z + exact.b * log_rest - log_beta(prior.a, prior.b)
    return jnp.sum(weights * log_joint) + logit.entropy()
