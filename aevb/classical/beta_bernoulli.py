"""The coin: a Bernoulli probability under a Beta prior, in closed form and by gradients.

The smallest model whose posterior, evidence and bound are all known. A Beta guide holds the
posterior, so that nothing is left between its bound and log p(x); a logit-normal guide cannot, and
what is left is the KL.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import xlog1py, xlogy

from aevb import reparam
from aevb.classical.families import Beta, log_beta
from aevb.distributions import DiagNormal
from aevb.losses import Bound, Guide, Joint, sgvb_a
from aevb.types import Key, PyTree

REACH = 10.0  # standard deviations on either side that quadrature looks at
NUM_NODES = 401


class Flips(NamedTuple):
    """What a sequence of flips has to say about the coin."""

    heads: Array  # []
    tails: Array  # []


def count(x: Array) -> Flips:
    """The heads and tails of a sequence x [N] of ones and zeros; N = 0 is no data.

    Raises:
        ValueError: x is no sequence, or holds something else. It has to be concrete.
    """
    if x.ndim != 1:
        raise ValueError(f"the flips have shape {x.shape}; they must be one sequence, [N]")
    strange = x[(x != 0) & (x != 1)]
    if len(strange):
        raise ValueError(f"the flips hold {strange[0]}; heads must be 1 and tails 0")
    return Flips(jnp.sum(x), jnp.sum(1 - x))


def posterior(prior: Beta, flips: Flips) -> Beta:
    """p(z | x), exactly; Bishop (2006), section 2.1.1: the prior counts as flips seen before."""
    return Beta(prior.a + flips.heads, prior.b + flips.tails)


def predictive(family: Beta) -> Array:
    """p(the next flip is heads), z integrated out of it -> []."""
    return family.mean()


def log_evidence(prior: Beta, flips: Flips) -> Array:
    """log p(x) of ONE sequence of these counts, z integrated out -> [], nats: a ratio of Betas.

    All sequences of the same counts are alike. That the counts came about in whatever order has
    log C(heads + tails, heads) more, which is not a matter of the prior or of z.
    """
    exact = posterior(prior, flips)
    return log_beta(exact.a, exact.b) - log_beta(prior.a, prior.b)


# By gradients: the coin as a Joint, and two guides of its z [1]


def make_joint(prior: Beta, flips: Flips) -> Joint:
    """p(x, z) of one sequence, z [1] the probability of heads."""

    def log_lik(z: Array) -> Array:
        return xlogy(flips.heads, z[0]) + xlog1py(flips.tails, -z[0])

    return Joint(lambda z: prior.log_prob(z[0]), log_lik)


def beta_guide(prior: Beta) -> Guide:
    """q(z) = Beta(exp(stats[0]), exp(stats[1])), statistics [2]: it can be the posterior."""

    def params(stats: Array) -> dict[str, Array]:
        return {"concentration1": jnp.exp(stats[:1]), "concentration0": jnp.exp(stats[1:])}

    def family(stats: Array) -> Beta:
        return Beta(*jnp.exp(stats))

    return Guide(
        sample=lambda key, stats: reparam.FAMILIES["beta"].sample(key, params(stats)),
        log_prob=lambda stats, z: family(stats).log_prob(z[0]),
        kl=lambda stats: family(stats).kl(prior),
    )


def logit_normal_guide() -> Guide:
    """q(z) in which logit z is normal, statistics a `DiagNormal` of one dimension.

    Its density is N(logit z) / (z (1 - z)). It is never a Beta.
    """

    def sample(key: Key, logit: DiagNormal) -> Array:
        z = jax.nn.sigmoid(logit.sample(key))
        info = jnp.finfo(z.dtype)  # kept off 0 and 1, onto which a float would round it
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
    """The guide's statistics after stochastic gradient ascent of the bound on log p(x).

    Robbins & Monro (1951): step t is step_size (1 + t)^-power, which converges for a power above
    1/2 and up to 1. The result is the mean of the second half of the steps (Polyak & Juditsky
    1992). With `losses.stl`, whose noise dies out at the exact posterior, power 0 will do.

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
    """log p(x) - KL(q || p(z|x)) of a logit-normal q -> [], nats, without noise.

    The mean over logit z by the trapezoid rule, which on a normal's smooth integrand errs by less
    than any power of the spacing. The statistics are those of `logit_normal_guide`.
    """
    nodes = jnp.linspace(-REACH, REACH, NUM_NODES, dtype=logit.mean.dtype)
    weights = jax.nn.softmax(-0.5 * jnp.square(nodes))
    u = logit.mean + jnp.exp(0.5 * logit.log_var) * nodes
    log_z, log_rest = jax.nn.log_sigmoid(u), jax.nn.log_sigmoid(-u)
    exact = posterior(prior, flips)
    # The density of z times dz/du = z (1 - z), which makes the exponents a and b.
    log_joint = exact.a * log_z + exact.b * log_rest - log_beta(prior.a, prior.b)
    return jnp.sum(weights * log_joint) + logit.entropy()
