"""State-space models: guides and priors of latents z [T, Z] that follow one another in time.

    p(z) = p(z_1) prod_t p(z_t | z_{t-1})        p(x|z) = prod_t p(x_t | z_t)
    q(z|x) = q(z_1 | x) prod_t q(z_t | z_{t-1}, x)

A datapoint is a sequence x [T, D] of T frames. All bounds and estimators take such a guide and
prior. A frame of NaN was not seen: shorter sequences end in such frames, and the posterior of their
latents predicts what follows.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from aevb.distributions import DiagNormal, PreciseNormal
from aevb.losses import Guide, Joint, log_prior, sample_and_log_prob
from aevb.types import Key, PyTree

FrameLogLik = Callable[[Array, Array], Array]
"""(z_t [Z], x_t [D]) -> log p(x_t|z_t) [], in nats."""


# The model


class Markov(NamedTuple):
    """The prior p(z_1) prod_t p(z_t | z_{t-1}) of z [T, Z]."""

    first: Any  # p(z_1), a `Density` of [Z] with `sample`
    transition: Callable[[Array], Any]  # z_{t-1} [Z] -> p(z_t | z_{t-1}), such a `Density`
    num_steps: int  # T

    def sample(self, key: Key) -> Array:
        """Draws z [T, Z] ~ p(z), each z_t after the one before it."""
        first_key, key = jax.random.split(key)
        first = self.first.sample(first_key)
        return jnp.concatenate([first[None], self.after(key, first, self.num_steps - 1)])

    def after(self, key: Key, z: Array, num_steps: int) -> Array:
        """Draws the latents [num_steps, Z] that follow z [Z]."""

        def step(before: Array, key: Key) -> tuple[Array, Array]:
            now = self.transition(before).sample(key)
            return now, now

        return jax.lax.scan(step, z, jax.random.split(key, num_steps))[1]

    def log_prob(self, z: Array) -> Array:
        """Returns log p(z) [] of z [T, Z], in nats."""
        later = jax.vmap(lambda before, now: self.transition(before).log_prob(now))(z[:-1], z[1:])
        return self.first.log_prob(z[0]) + jnp.sum(later)


def joint(prior: Any, log_lik: FrameLogLik, x: Array) -> Joint:
    """Returns p(z) prod_t p(x_t|z_t) over the frames of x [T, D] that were seen.

    A frame of NaN alone has no factor. Of frames that were seen in part, `missing.of_seen` scores
    that part.

    Args:
        prior: p(z) of z [T, Z], such as a `Markov`.
    """
    of_frame = _of_seen_frame(log_lik)
    return Joint(prior, lambda z: jnp.sum(jax.vmap(of_frame)(z, x)))


def _of_seen_frame(log_lik: FrameLogLik) -> FrameLogLik:
    """Returns log p(x_t|z_t), which is 0 for a frame of NaN."""

    def of_frame(z: Array, x: Array) -> Array:
        is_missing = jnp.all(jnp.isnan(x))
        # A NaN would reach the gradient, and 0 is a value that every likelihood scores.
        found = log_lik(z, jnp.where(is_missing, 0.0, x))
        return jnp.where(is_missing, 0.0, found)

    return of_frame


# Guides


class Steps(NamedTuple):
    """The statistics of an `Autoregressive` guide."""

    shared: PyTree  # the same at each time, such as the parameters of a network
    each: PyTree  # leaves [T, ...], at each time, such as features of x
    start: Array  # [Z], what stands for z_0


class Filtered(NamedTuple):
    """The result of a particle filter."""

    log_probs: Array  # [T], estimates of log p(x_t | x_1..x_{t-1}), nats
    particles: Array  # [T, K, Z], draws of p(z_t | x_1..x_t), all of the same weight


class Autoregressive(NamedTuple):
    """The guide prod_t q(z_t | z_{t-1}, x) of z [T, Z], whose statistics are `Steps`.

    If the statistics of its factors do not depend on z_{t-1}, it is mean field over time. If those
    at t depend on x_t..x_T alone, it can be the exact posterior (smoothing); if on x_1..x_t, it is
    for filtering.
    """

    factor: Guide  # q(z_t | z_{t-1}, x) of [Z]
    stats: Callable[[PyTree, PyTree, Array], PyTree]  # (shared, each_t, z_{t-1}) -> those of factor

    @property
    def guide(self) -> Guide:
        """The guide for bounds.

        The terms of its `sample_and_kls` are those of z_1, `first`, and of the others,
        `transitions`. They are closed forms given z_{t-1} if the factor has one to p(z_t|z_{t-1}).
        """
        return Guide(
            lambda key, stats: self.sample_and_log_prob(key, stats)[0],
            self.log_prob,
            sample_and_log_prob=self.sample_and_log_prob,
            sample_and_kls=self.sample_and_kls,
        )

    def sample_and_log_prob(self, key: Key, stats: Steps) -> tuple[Array, Array]:
        """Draws z [T, Z] ~ q(z|x), and computes its log-density [] in nats."""

        def step(before: Array, given: tuple[Key, PyTree]) -> tuple[Array, tuple[Array, Array]]:
            key, each = given
            own = self.stats(stats.shared, each, before)
            now, log_q = sample_and_log_prob(key, own, self.factor)
            return now, (now, log_q)

        keys = jax.random.split(key, len(jax.tree.leaves(stats.each)[0]))
        _, (z, log_q) = jax.lax.scan(step, stats.start, (keys, stats.each))
        return z, jnp.sum(log_q)

    def stats_at(self, stats: Steps, z: Array) -> PyTree:
        """Returns the statistics of the factors at z [T, Z], leaves [T, ...]."""
        before = jnp.concatenate([stats.start[None], z[:-1]])
        return jax.vmap(partial(self.stats, stats.shared))(stats.each, before)

    def log_prob(self, stats: Steps, z: Array) -> Array:
        """Returns log q(z|x) [] of z [T, Z], in nats."""
        return jnp.sum(jax.vmap(self.factor.log_prob)(self.stats_at(stats, z), z))

    def sample_and_kls(
        self, key: Key, stats: Steps, prior: Any
    ) -> tuple[Array, Mapping[str, Array]]:
        """Draws z [T, Z], and returns unbiased estimates [] of the terms of KL(q || prior)."""
        z, log_q = self.sample_and_log_prob(key, stats)
        if not isinstance(prior, Markov):
            return z, {"all": log_q - log_prior(prior, z)}

        def kl(own: PyTree, p: Any, now: Array) -> Array:
            closed = None if self.factor.kl is None else self.factor.kl(own, p)
            return self.factor.log_prob(own, now) - p.log_prob(now) if closed is None else closed

        own = self.stats_at(stats, z)
        later = jax.vmap(lambda own, before, now: kl(own, prior.transition(before), now))(
            jax.tree.map(lambda leaf: leaf[1:], own), z[:-1], z[1:]
        )
        first = kl(jax.tree.map(lambda leaf: leaf[0], own), prior.first, z[0])
        return z, {"first": first, "transitions": jnp.sum(later)}

    def filter(
        self, key: Key, stats: Steps, prior: Markov, log_lik: FrameLogLik, x: Array,
        *, num_particles: int,
    ) -> Filtered:  # fmt: skip
        """Estimates log p(x_t | x_1..x_{t-1}) of x [T, D] by a particle filter.

        The factors of the guide propose, and the particles are resampled after each frame (Doucet &
        Johansen 2009). The exponential of the sum over t has the mean p(x): the sum is a stochastic
        LOWER bound on log p(x). A single term is a bound on neither side.

        Args:
            stats: those at t may depend on x_1..x_t alone if frames are to be predicted.
            num_particles: K.

        Raises:
            ValueError: num_particles is below 1.
        """
        if num_particles < 1:
            raise ValueError(f"num_particles is {num_particles}; it must be at least 1")
        of_frame = _of_seen_frame(log_lik)

        def move(
            density: Callable[[Array], Any], before: Array, given: tuple[Key, PyTree, Array]
        ) -> tuple[Array, tuple[Array, Array]]:
            key, each, frame = given

            def one(key: Key, before: Array) -> tuple[Array, Array]:
                own = self.stats(stats.shared, each, before)
                now, log_q = sample_and_log_prob(key, own, self.factor)
                return now, density(before).log_prob(now) + of_frame(now, frame) - log_q

            draw_key, choose_key = jax.random.split(key)
            now, log_w = jax.vmap(one)(jax.random.split(draw_key, num_particles), before)
            chosen = now[_resampled(choose_key, log_w)]
            return chosen, (jax.nn.logsumexp(log_w) - math.log(num_particles), chosen)

        given = (jax.random.split(key, len(x)), stats.each, x)
        start = jnp.tile(stats.start, (num_particles, 1))
        now, first = move(lambda before: prior.first, start, jax.tree.map(lambda a: a[0], given))
        rest = jax.tree.map(lambda a: a[1:], given)
        _, later = jax.lax.scan(partial(move, prior.transition), now, rest)
        return Filtered(*(jnp.concatenate([a[None], b]) for a, b in zip(first, later, strict=True)))


def _resampled(key: Key, log_w: Array) -> Array:
    """Returns the numbers [K] of particles drawn by their weights: systematic resampling."""
    sums = jnp.cumsum(jax.nn.softmax(log_w))
    number = jnp.arange(len(log_w), dtype=log_w.dtype)
    at = (number + jax.random.uniform(key, (), log_w.dtype)) / len(log_w)
    return jnp.searchsorted(sums / sums[-1], at)


# Gaussians with a block-tridiagonal precision


class Chain(NamedTuple):
    """A Gaussian of z [T, Z], exp(Sum_t linear_t' z_t - z' J z / 2) up to a constant.

    The precision J is block tridiagonal: so is that of the posterior of linear-Gaussian models.
    """

    linear: Array  # [T, Z]
    diagonal: Array  # [T, Z, Z], the blocks J_tt
    below: Array  # [T - 1, Z, Z], the blocks J_{t+1,t}

    def observed(self, linear: Array, precision: Array) -> "Chain":
        """Returns the product with exp(Sum_t linear_t' z_t - z_t' precision_t z_t / 2).

        Such is a linear-Gaussian likelihood N(x_t; W z_t + b, S), with linear_t = W' S^-1 (x_t - b)
        and precision_t = W' S^-1 W. The arguments are [T, Z] and [T, Z, Z].
        """
        return self._replace(linear=self.linear + linear, diagonal=self.diagonal + precision)

    def steps(self) -> Steps:
        """Returns the statistics of `structured`, in O(T): q(z_t | z_{t-1}) from J and linear.

        This is the block Cholesky factorization of J from its last block to its first, which is the
        information filter backward in time. With E the block J_{t,t-1} and z_{t+1}..z_T integrated
        out, the exponent of z_t is (l - E z_{t-1})' z_t - z_t' P z_t / 2.
        """
        zeros, square = jnp.zeros_like(self.linear[0]), jnp.zeros_like(self.diagonal[0])

        def step(message: tuple[Array, Array], given: PyTree) -> tuple[PyTree, PyTree]:
            linear, diagonal, below = given
            of_linear, of_precision = message
            factor = jnp.linalg.cholesky(diagonal - of_precision)
            shift = solve_triangular(factor, linear - of_linear, lower=True)
            slope = solve_triangular(factor, below, lower=True)
            each = {"factor": factor, "shift": shift, "slope": slope}
            return (slope.T @ shift, slope.T @ slope), each

        given = (self.linear, self.diagonal, jnp.concatenate([square[None], self.below]))
        return Steps((), jax.lax.scan(step, (zeros, square), given, reverse=True)[1], zeros)


def linear_chain(
    first: DiagNormal, slope: Array, level: Array, log_var: Array, num_steps: int
) -> Chain:
    """Returns p(z_1) prod_t N(z_t; slope z_{t-1} + level, diag(exp(log_var))) as a `Chain`.

    The slope is [Z, Z], the level and log_var are [Z], and there are num_steps = T latents.
    """
    number = jnp.arange(num_steps)[:, None]
    means = jnp.where(number == 0, first.mean[None], level[None])  # [T, Z]
    precisions = jnp.exp(-jnp.where(number == 0, first.log_var[None], log_var[None]))
    weighted = slope.T * jnp.exp(-log_var)[None]
    to_next = jnp.where(number[..., None] < num_steps - 1, weighted[None], 0.0)  # [T, Z, Z]
    return Chain(
        precisions * means - to_next @ level,
        jax.vmap(jnp.diag)(precisions) + to_next @ slope,
        -jnp.swapaxes(to_next[:-1], 1, 2),
    )


_precise_normal = Guide(
    sample=lambda key, stats: stats.sample_and_log_prob(key)[0],
    log_prob=lambda stats, z: stats.log_prob(z),
    kl=lambda stats, prior: stats.kl(prior),
    sample_and_log_prob=lambda key, stats: stats.sample_and_log_prob(key),
)

structured = Autoregressive(
    _precise_normal,
    lambda shared, each, before: PreciseNormal(
        each["shift"] - each["slope"] @ before, each["factor"]
    ),
)
"""A Gaussian of z [T, Z] with a block-tridiagonal precision. Its statistics are `Chain.steps`.

With those of the posterior of a linear-Gaussian model, every bound is log p(x).
"""
