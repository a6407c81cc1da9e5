"""Gibbs sampling of the normal-gamma model, against the exact posterior and mean field."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from oracles import standard_errors_off

from aevb.classical import gibbs, normal_gamma
from aevb.classical.normal_gamma import NormalGamma

IN_FLOAT32 = True
DATA = np.random.default_rng(0).normal(1.5, 0.7, size=4).astype(np.float32)


def prior() -> NormalGamma:
    return NormalGamma(*map(jnp.float32, (0.3, 0.5, 2.0, 1.5)))


@cache
def exact() -> NormalGamma:
    """Returns the exact posterior of the data in float32, as NumPy arrays."""
    posterior = jax.jit(normal_gamma.posterior)(prior(), jnp.asarray(DATA))
    return jax.tree.map(np.asarray, posterior)


@cache
def chains() -> np.ndarray:
    """Returns samples of mu and tau [4000, 5, 2] from wide starts."""
    mu_key, tau_key, key = jax.random.split(jax.random.key(0), 3)
    mu, tau = 5.0 * jax.random.normal(mu_key, (4000,)), jax.random.exponential(tau_key, (4000,))
    starts = jnp.stack([mu, tau], axis=1)
    transition = gibbs.normal_gamma_transition(prior(), jnp.asarray(DATA))
    sample = partial(gibbs.sample, num_samples=5, num_warmup=20)
    drawn = jax.jit(lambda key, starts: sample(key, starts, transition))(key, starts)
    return np.asarray(drawn, np.float64)


def test_gibbs_has_the_exact_posterior_means_and_variances_and_mean_field_does_not():
    samples = chains()
    by_chain = np.mean(samples, axis=1)
    means = np.array([exact().mean, exact().shape / exact().rate])
    assert standard_errors_off(by_chain, means) < 4
    variances = np.array(exact().variances())
    squares = np.mean(np.square(samples - means), axis=1)
    assert standard_errors_off(squares, variances) < 4
    optimum = normal_gamma.mean_field_optimum(prior(), jnp.asarray(DATA))
    narrow = [1.0 / optimum.precision, optimum.tau.shape / optimum.tau.rate**2]
    assert standard_errors_off(squares[:, :1], np.array(narrow[:1])) > 4


def test_gibbs_draws_tau_from_its_gamma_and_mu_from_its_students_t():
    last = chains()[:, -1]
    scale = float(np.sqrt(exact().rate / (exact().shape * exact().mean_precision)))
    of_mu = scipy.stats.t(2.0 * float(exact().shape), float(exact().mean), scale)
    of_tau = scipy.stats.gamma(float(exact().shape), scale=1.0 / float(exact().rate))
    assert scipy.stats.kstest(last[:, 0], of_mu.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(last[:, 1], of_tau.cdf).pvalue > 1e-3


def test_a_transition_leaves_the_posterior_invariant():
    """One sweep from exact samples gives exact samples, including their dependence."""
    rng = np.random.default_rng(1)
    tau = rng.gamma(float(exact().shape), 1.0 / float(exact().rate), size=20_000)
    mu = float(exact().mean) + rng.normal(size=tau.shape) / np.sqrt(
        float(exact().mean_precision) * tau
    )
    starts = jnp.asarray(np.stack([mu, tau], axis=1), jnp.float32)
    transition = gibbs.normal_gamma_transition(prior(), jnp.asarray(DATA))
    after = jax.jit(jax.vmap(transition))(jax.random.split(jax.random.key(1), len(starts)), starts)
    squared = np.square(np.asarray(after)[:, 0] - float(exact().mean))
    # Under the posterior, tau (mu - mean)^2 has mean 1 / mean_precision at every tau.
    products = squared * np.asarray(after)[:, 1]
    assert standard_errors_off(products, 1.0 / float(exact().mean_precision)) < 4
