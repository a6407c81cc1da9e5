"""Estimates of log p(x) at ONE datapoint, from below and from above, with standard errors.

The log of an unbiased estimate of p(x) is below log p(x) in expectation, by Jensen's inequality.
Minus the log of an unbiased estimate of 1/p(x) is above log p(x) in expectation. `ESTIMATORS` says
which is which. Either can be on the wrong side by chance, by about its standard error; apart from
that, the two kinds bracket log p(x). All functions can be jitted and vmapped.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from aevb.inference import hmc, importance_weights
from aevb.inference.annealed_importance_sampling import (
    Annealed,
    Path,
    anneal,
    pilot,
    sigmoid_schedule,
)
from aevb.latents import as_vectors
from aevb.losses import Guide, Joint, log_weights
from aevb.types import Key, LogDensity, PyTree

CANDIDATES = 20  # draws of the guide per chain, from which its start is resampled
MAX_R_HAT = 1.05  # the largest r_hat at which `appendix_d` claims an upper bound
MIN_CHAINS = 4  # the fewest chains with which it does so


class Estimate(NamedTuple):
    """An estimate of log p(x) at one datapoint."""

    value: Array  # [], nats
    standard_error: Array  # [], nats, the standard error of `value`
    diagnostics: Mapping[str, Array]  # each []; they show how reliable the two fields above are


class Prior(Protocol):
    """The methods of p(z) that `prior_guide` needs."""

    def sample(self, key: Key, /) -> Array: ...
    def log_prob(self, z: Array, /) -> Array: ...


def prior_guide(prior: Prior) -> Guide:
    """Returns p(z) as a guide, which ignores its statistics."""
    return Guide(
        sample=lambda key, stats: prior.sample(key),
        log_prob=lambda stats, z: prior.log_prob(z),
    )


def importance_sampling(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    num_samples: int,
    chunk_size: int | None = None,
) -> Estimate:
    """Estimates log p(x) by log 1/K Sum_k p(x, z_k) / q(z_k|x): a stochastic LOWER bound.

    The samples are z_k ~ q(z|x); Rezende et al. (2014), appendix E. The mean of the estimate is the
    bound of Burda et al. (2015) with K samples. The memory holds `chunk_size` samples, by default
    50 on a CPU, where more would leave the cache, and 500 elsewhere, and 3 sqrt(K) numbers. Each
    sample has its own key, so the chunk size changes the result only by rounding.

    Diagnostics: effective_sample_size, out of K; pareto_k; pareto_smoothed, the estimate in nats
    from Pareto-smoothed weights (`importance_weights.pareto_smoothed`), which is not a bound. If
    pareto_k is above `importance_weights.pareto_k_threshold(K)`, the guide's tails are too thin for
    K samples, and the value is too low by more than its standard error says. From 0.5 up to the
    threshold, the smoothed estimate usually has the smaller error.

    Raises:
        ValueError: num_samples is below 2, or chunk_size below 1.
    """
    _at_least(2, num_samples=num_samples)
    if chunk_size is None:
        chunk_size = 50 if jax.default_backend() == "cpu" else 500
    _at_least(1, chunk_size=chunk_size)
    indices = jnp.arange(min(chunk_size, num_samples))

    def log_weight(index: Array) -> Array:
        log_w = log_weights(jax.random.fold_in(key, index), stats, guide, joint, num_samples=1)
        return jnp.where(index < num_samples, log_w[0], -jnp.inf)  # padding of the last chunk

    def add_chunk(number: Array, running: importance_weights.Running) -> importance_weights.Running:
        return importance_weights.add(
            running, jax.vmap(log_weight)(number * len(indices) + indices)
        )

    num_chunks = math.ceil(num_samples / len(indices))
    dtype = jax.eval_shape(log_weight, indices[0]).dtype
    nothing = importance_weights.none_of(num_samples, dtype)
    running = jax.lax.fori_loop(0, num_chunks, add_chunk, nothing)
    estimate = _log_mean_of(running, num_samples)
    smoothed = importance_weights.log_mean_smoothed(running, num_samples)
    return estimate._replace(diagnostics={**estimate.diagnostics, "pareto_smoothed": smoothed})


def importance_upper(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    posterior_sample: PyTree,
    num_samples: int,
) -> Estimate:
    """Estimates log p(x) by weights, one of them at z ~ p(z|x): a stochastic UPPER bound.

    It is log 1/K Sum_k p(x, z_k) / q(z_k|x) with z_1 ~ p(z|x) and z_k ~ q(z|x) for k = 2..K;
    Sobolev & Vetrov (2019). Divided by p(x), the mean of the weights is the density of K samples of
    which one at random is from the posterior, relative to K samples of q. The mean of the estimate
    therefore exceeds log p(x) by a KL divergence, which tends to 0 as K grows. No gradient is
    needed, so z may be discrete. Data simulated by z ~ p(z), x ~ p(x|z) come with a sample of the
    posterior; from any other z the estimate is not a bound.

    Diagnostics: as for `importance_sampling`, without pareto_smoothed. The standard error is that
    of the mean of the weights, and does not contain the spread of the one at `posterior_sample`.

    Args:
        posterior_sample: z ~ p(z|x).

    Raises:
        ValueError: num_samples is below 3.
    """
    _at_least(3, num_samples=num_samples)
    log_w = log_weights(key, stats, guide, joint, num_samples=num_samples - 1)
    z = posterior_sample
    first = joint.log_prior(z) + joint.log_lik(z) - guide.log_prob(stats, z)
    own = _log_mean_of(importance_weights.of(log_w), num_samples - 1)
    value = jax.nn.logsumexp(jnp.append(log_w, first)) - math.log(num_samples)
    return own._replace(value=value)


def ais(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    num_temps: int,
    num_chains: int,
    settings: hmc.Settings = hmc.DEFAULTS,
) -> Estimate:
    """Estimates log p(x) by log 1/C Sum_c w_c over annealed chains: a stochastic LOWER bound.

    Annealed importance sampling (Neal 2001) moves C chains from q(z|x) to p(z|x), along
    q^(1 - beta) p(x, z)^beta. beta rises from 0 to 1 in the T steps of `sigmoid_schedule`, with one
    HMC transition at each value in between. With `prior_guide` the path starts at the prior, as in
    Wu et al. (2017). A pilot run with other chains chooses the step sizes beforehand.

    Diagnostics: acceptance, averaged over the path; effective_sample_size, out of C; pareto_k.

    Raises:
        ValueError: num_temps or num_chains is below 2, or num_leapfrog below 1.
    """
    _at_least(2, num_temps=num_temps, num_chains=num_chains)
    _at_least(1, num_leapfrog=settings.num_leapfrog)
    guide, joint, *_ = as_vectors(stats, guide, joint)
    path, betas = _path(stats, guide, joint), sigmoid_schedule(num_temps)
    pilot_key, start_key, anneal_key = jax.random.split(key, 3)
    step_sizes = _pilot(pilot_key, stats, guide, path, betas, num_chains, settings)
    start = _draw(start_key, stats, guide, num_chains)
    annealed = anneal(
        anneal_key, start, path, betas, step_sizes, num_leapfrog=settings.num_leapfrog
    )
    return _log_mean_of_annealed(annealed)


def reverse_ais(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    posterior_sample: PyTree,
    num_temps: int,
    num_chains: int,
    settings: hmc.Settings = hmc.DEFAULTS,
) -> Estimate:
    """Estimates log p(x) by -log 1/C Sum_c 1/w_c over reversed chains: a stochastic UPPER bound.

    This is the reverse half of bidirectional Monte Carlo (Grosse et al. 2015): `ais` run backward,
    from p(z|x) to q(z|x), starting at an exact sample of the posterior. Data simulated by z ~ p(z),
    x ~ p(x|z) come with such a sample; from any other z the estimate is not a bound. `num_warmup`
    transitions at the posterior, which leave it invariant, first separate the chains from the
    sample and from one another. If there are too few transitions, the chains stay alike and the
    standard error is too small.

    Diagnostics: as for `ais`.

    Args:
        posterior_sample: z ~ p(z|x).

    Raises:
        ValueError: as for `ais`, or num_warmup is below 0.
    """
    _at_least(2, num_temps=num_temps, num_chains=num_chains)
    _at_least(1, num_leapfrog=settings.num_leapfrog)
    _at_least(0, num_warmup=settings.num_warmup)
    guide, joint, ravel, _ = as_vectors(stats, guide, joint)
    path, betas = _path(stats, guide, joint), sigmoid_schedule(num_temps)
    pilot_key, part_key, anneal_key = jax.random.split(key, 3)
    step_sizes = _pilot(pilot_key, stats, guide, path, betas, num_chains, settings)
    num_leapfrog = settings.num_leapfrog

    def part(z: Array, key: Key) -> tuple[Array, None]:
        z, *_ = hmc.move(key, z, step_sizes[-1], log_density=path.log_p, num_leapfrog=num_leapfrog)
        return z, None

    alike = jnp.tile(ravel(posterior_sample), (num_chains, 1))
    start, _ = jax.lax.scan(part, alike, jax.random.split(part_key, settings.num_warmup))
    annealed = anneal(
        anneal_key, start, path, betas[::-1], step_sizes[::-1], num_leapfrog=num_leapfrog
    )
    reciprocal = _log_mean_of_annealed(annealed)
    return reciprocal._replace(value=-reciprocal.value)


def appendix_d(
    key: Key,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    num_samples: int,
    num_chains: int,
    settings: hmc.Settings = hmc.DEFAULTS,
) -> Estimate:
    """Estimates log p(x) by -log 1/(C L) Sum_cl q(z_cl) / p(x, z_cl): a stochastic UPPER bound.

    Kingma & Welling (2013), appendix D, for fewer than 5 latent dimensions. HMC draws samples of
    the posterior, and a density q(z) is fitted to them (here a Gaussian with a full covariance).
    Other HMC chains then draw fresh samples z_cl ~ p(z|x), for this reciprocal importance sampling
    (Gelfand & Dey 1994). The chains start at draws of the guide, resampled by their importance
    weights (Rubin 1988), so that each mode gets its share of chains. A region that no chain can
    reach is missing from both sets. The value is then the log of the part of p(x) that the chains
    reached, and not an upper bound.

    Diagnostics, of the fresh chains: acceptance; r_hat, the largest potential scale reduction over
    the dimensions, near 1 if the chains agree; bulk_effective_sample_size and
    tail_effective_sample_size, the smallest over the dimensions, out of C L; num_divergent, the
    number of trajectories that diverged; pareto_k, of the terms of the sum; is_upper_bound, a bool,
    which is False if r_hat is above 1.05 or NaN, a trajectory diverged, or there are fewer than 4
    chains. The value is called an upper bound only where it is True. This is no proof: chains can
    agree on one of two modes. The standard error comes from the spread between the chains, so it
    includes the autocorrelation along each chain.

    Args:
        num_samples: L, the number of samples of each chain in each of the two sets.

    Raises:
        ValueError: num_samples is below 4, num_chains below 2, num_leapfrog or num_warmup below 1,
            or C L is too small to fit a covariance.
    """
    _at_least(4, num_samples=num_samples)
    _at_least(2, num_chains=num_chains)
    _at_least(1, num_leapfrog=settings.num_leapfrog, num_warmup=settings.num_warmup)
    guide, joint, *_ = as_vectors(stats, guide, joint)
    path = _path(stats, guide, joint)
    start_key, fitted_key, fresh_key = jax.random.split(key, 3)
    starts = _resampled(start_key, stats, guide, path, 2 * num_chains).reshape(2, num_chains, -1)
    _at_least(starts.shape[-1] + 1, num_samples_times_num_chains=num_samples * num_chains)

    def chains_from(key: Key, start: Array) -> hmc.Chains:
        return hmc.sample(key, start, path.log_p, num_samples=num_samples, settings=settings)

    both = jax.vmap(chains_from)(jnp.stack([fitted_key, fresh_key]), starts)
    log_q = _fitted_normal(both.samples[0].reshape(num_chains * num_samples, -1))
    fresh = jax.tree.map(lambda leaf: leaf[1], both)
    log_ratios = jax.vmap(jax.vmap(lambda z: log_q(z) - path.log_p(z)))(fresh.samples)  # [C, L]
    chain_means = jax.nn.logsumexp(log_ratios, axis=1) - math.log(num_samples)
    value, error = importance_weights.log_mean(importance_weights.of(chain_means), num_chains)
    terms = importance_weights.of(log_ratios.ravel())
    diagnostics = diagnostics_of(fresh) | {"pareto_k": importance_weights.pareto_k(terms.largest)}
    return Estimate(-value, error, diagnostics)


def diagnostics_of(chains: hmc.Chains) -> dict[str, Array]:
    """Returns the diagnostics of `appendix_d` that depend only on its chains, each []."""
    r_hat = jnp.max(hmc.r_hat(chains.samples))
    return {
        "acceptance": chains.acceptance,
        "r_hat": r_hat,
        "bulk_effective_sample_size": jnp.min(hmc.bulk_effective_sample_size(chains.samples)),
        "tail_effective_sample_size": jnp.min(hmc.tail_effective_sample_size(chains.samples)),
        "num_divergent": chains.num_divergent,
        "is_upper_bound": is_upper_bound(r_hat, len(chains.samples), chains.num_divergent),
    }


def is_upper_bound(r_hat: Array, num_chains: int, num_divergent: Array) -> Array:
    """Returns whether `appendix_d` may be called an upper bound, by the limits that it states."""
    return (r_hat <= MAX_R_HAT) & (num_divergent == 0) & (num_chains >= MIN_CHAINS)


def _path(stats: PyTree, guide: Guide, joint: Joint) -> Path:
    return Path(
        log_q=lambda z: guide.log_prob(stats, z),
        log_p=lambda z: joint.log_prior(z) + joint.log_lik(z),
    )


def _draw(key: Key, stats: PyTree, guide: Guide, number: int) -> Array:
    """Draws z ~ q(z|x), [number, Z]."""
    return jax.vmap(lambda key: guide.sample(key, stats))(jax.random.split(key, number))


def _resampled(key: Key, stats: PyTree, guide: Guide, path: Path, number: int) -> Array:
    """Draws approximate samples of the posterior, [number, Z], by importance resampling.

    The same draw of the guide can appear more than once.
    """
    draw_key, choose_key = jax.random.split(key)
    draws = _draw(draw_key, stats, guide, CANDIDATES * number)
    log_w = jax.vmap(lambda z: path.log_p(z) - path.log_q(z))(draws)
    return draws[jax.random.categorical(choose_key, log_w, shape=(number,))]


def _pilot(
    key: Key,
    stats: PyTree,
    guide: Guide,
    path: Path,
    betas: Array,
    num_chains: int,
    settings: hmc.Settings,
) -> Array:
    start_key, move_key = jax.random.split(key)
    start = _draw(start_key, stats, guide, num_chains)
    return pilot(move_key, start, path, betas, settings)


def _log_mean_of(running: importance_weights.Running, num_weights: int) -> Estimate:
    diagnostics = {
        "effective_sample_size": importance_weights.effective_sample_size(running),
        "pareto_k": importance_weights.pareto_k(running.largest),
    }
    return Estimate(*importance_weights.log_mean(running, num_weights), diagnostics)


def _log_mean_of_annealed(annealed: Annealed) -> Estimate:
    estimate = _log_mean_of(importance_weights.of(annealed.log_weights), len(annealed.log_weights))
    diagnostics = {"acceptance": annealed.acceptance, **estimate.diagnostics}
    return estimate._replace(diagnostics=diagnostics)


def _fitted_normal(samples: Array) -> LogDensity:
    """Returns log N(z; mean, covariance), with mean and full covariance of samples [n, Z]."""
    mean = jnp.mean(samples, axis=0)
    centred = samples - mean[None]
    covariance = centred.T @ centred / (len(samples) - 1)

    def log_prob(z: Array) -> Array:
        return jnp.asarray(jax.scipy.stats.multivariate_normal.logpdf(z, mean, covariance))

    return log_prob


def _at_least(least: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


class Estimator(NamedTuple):
    """An estimator, and the side of log p(x) on which its expectation lies."""

    estimate: Callable[..., Estimate]  # (key, stats, guide, joint, *, own settings)
    kind: str  # "lower" or "upper"; not "upper" where its diagnostic is_upper_bound is False
    needs_posterior_sample: bool = False  # whether it takes one, which only simulated data have
    moves_z: bool = True  # whether it moves z along gradients, so that z must be real
    flags: Mapping[str, str] = MappingProxyType({})
    # argument -> the flag of `aevb evaluate` that sets it, where their names differ


ESTIMATORS: dict[str, Estimator] = {
    "importance": Estimator(importance_sampling, "lower", moves_z=False),
    "importance_upper": Estimator(
        importance_upper, "upper", needs_posterior_sample=True, moves_z=False
    ),
    "ais": Estimator(ais, "lower"),
    "reverse_ais": Estimator(reverse_ais, "upper", needs_posterior_sample=True),
    "appendix_d": Estimator(  # "upper" where its diagnostic is_upper_bound is True
        appendix_d, "upper", flags={"num_samples": "num_draws"}
    ),
}
"""The estimators of log p(x) by name, for `aevb evaluate --estimators`."""
