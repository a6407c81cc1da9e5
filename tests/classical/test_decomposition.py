"""log p(D) = L(Q) + KL(Q || p(z|D)): the three terms computed and tested separately."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import LinearGaussian

from aevb.classical import linear_gaussian
from aevb.classical.decomposition import decompose, decompose_gaussian
from aevb.classical.families import Normal
from aevb.classical.linear_gaussian import Params

SEEDS = range(20)


def random_table(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(3.0 * np.random.default_rng(seed).normal(size=shape))


# Discrete states


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_plus_the_kl_is_the_evidence_for_any_q_over_states(seed: int):
    """Each term comes from NumPy or SciPy: log of a sum, mean of log p - log q, and entropy."""
    log_joint, log_q = random_table(seed, 4, 3), random_table(100 + seed, 4, 3)
    found = decompose(log_joint, log_q)
    np.testing.assert_allclose(found.residual(), 0.0, atol=1e-10)
    joint = np.exp(log_joint).ravel()
    q = np.exp(log_q).ravel() / np.sum(np.exp(log_q))
    np.testing.assert_allclose(found.log_evidence, np.log(np.sum(joint)), rtol=1e-12)
    np.testing.assert_allclose(found.bound, np.sum(q * np.log(joint / q)), rtol=1e-10)
    np.testing.assert_allclose(found.kl, scipy.stats.entropy(q, joint), rtol=1e-10)
    assert float(found.kl) > 0.0


def test_at_the_posterior_the_kl_is_0_and_the_bound_is_the_evidence():
    log_joint = random_table(0, 12)
    found = decompose(log_joint, log_joint - 7.0)  # equal up to a constant
    np.testing.assert_allclose(found.kl, 0.0, atol=1e-14)
    np.testing.assert_allclose(found.bound, found.log_evidence, rtol=1e-14)


def test_the_gradient_of_the_bound_in_q_is_minus_that_of_the_kl():
    log_joint = random_table(0, 12)

    def terms(log_q: jax.Array):
        return decompose(log_joint, log_q)

    slopes = jax.jacobian(terms)(random_table(1, 12))
    np.testing.assert_array_equal(slopes.log_evidence, 0.0)
    np.testing.assert_allclose(slopes.bound, -slopes.kl, atol=1e-12)
    assert np.max(np.abs(slopes.kl)) > 1e-2


def test_states_of_probability_0_under_q_add_nothing_to_the_bound():
    """The convention 0 log 0 = 0 holds also where p(D, z) is 0, and the gradient is not NaN."""
    log_joint = jnp.array([-1.0, -2.0, -3.0, -jnp.inf])
    log_q = jnp.array([0.3, 0.1, -jnp.inf, -jnp.inf])
    found = decompose(log_joint, log_q)
    fewer = decompose(log_joint[:2], log_q[:2])
    np.testing.assert_allclose(found.bound, fewer.bound, rtol=1e-12)
    expected = np.log(np.sum(np.exp(log_joint)))
    np.testing.assert_allclose(found.log_evidence, expected, rtol=1e-12)
    np.testing.assert_allclose(found.residual(), 0.0, atol=1e-12)
    slope = jax.grad(lambda log_joint: decompose(log_joint, log_q).bound)(log_joint)
    expected = np.append(scipy.special.softmax(log_q[:2]), [0.0, 0.0])
    np.testing.assert_allclose(slope, expected, atol=1e-12)


def test_the_kl_is_infinite_if_q_has_mass_where_p_has_none():
    found = decompose(jnp.array([-1.0, -jnp.inf]), jnp.array([0.0, -5.0]))
    assert found.kl == jnp.inf
    assert found.bound == -jnp.inf
    np.testing.assert_allclose(found.log_evidence, -1.0, rtol=1e-12)


# Grids


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_plus_the_kl_is_the_evidence_on_an_uneven_grid(seed: int):
    """The cells have unequal volumes, and Q is known up to a constant."""
    log_measure = random_table(200 + seed, 30)
    found = decompose(random_table(seed, 30), random_table(100 + seed, 30), log_measure)
    np.testing.assert_allclose(found.residual(), 0.0, atol=1e-10)


@pytest.mark.parametrize("step", ["even", "logarithmic"])
def test_terms_of_the_decomposition_on_a_grid_are_those_of_the_densities(step: str):
    """With z ~ Gamma(3, 1), x ~ Poisson(z) and a Gamma Q, SciPy and closed forms give all terms."""
    x, shape, rate = 4, 5.0, 2.5
    if step == "even":
        z = np.linspace(1e-6, 40.0, 20_001)
        log_measure = np.log(z[1] - z[0])
    else:
        log_z = np.linspace(-12.0, 4.5, 4001)
        z = np.exp(log_z)
        log_measure = jnp.asarray(np.log(log_z[1] - log_z[0]) + log_z)
    log_prior = scipy.stats.gamma.logpdf(z, 3.0)
    log_joint = log_prior + x * np.log(z) - z - scipy.special.gammaln(x + 1)
    log_q = scipy.stats.gamma.logpdf(z, shape, scale=1.0 / rate)
    found = decompose(jnp.asarray(log_joint), jnp.asarray(log_q), log_measure)
    # With z integrated out, x is negative binomial; the posterior is Gamma(3 + x, 2).
    log_evidence = scipy.stats.nbinom.logpmf(x, 3, 0.5)
    a, b = 3.0 + x, 2.0
    kl = (shape - a) * scipy.special.digamma(shape) - scipy.special.gammaln(shape)
    kl += scipy.special.gammaln(a) + a * np.log(rate / b) + shape * (b - rate) / rate
    np.testing.assert_allclose(found.log_evidence, log_evidence, atol=1e-7)
    np.testing.assert_allclose(found.kl, kl, atol=1e-7)
    np.testing.assert_allclose(found.bound, log_evidence - kl, atol=1e-7)


# A linear-Gaussian model


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_the_bound_plus_the_kl_is_the_evidence_for_any_gaussian_q_of_a_linear_gaussian_model(
    seed: int,
):
    rng = np.random.default_rng(seed)
    params = Params(*map(jnp.asarray, (rng.normal(size=(5, 3)), rng.normal(size=5), 0.4)))
    model = LinearGaussian(*map(np.asarray, (*params[:2], np.full(5, 0.4))))
    x, factor = rng.normal(size=5), rng.normal(size=(3, 3))
    q = Normal(jnp.asarray(rng.normal(size=3)), jnp.asarray(factor @ factor.T + 0.1 * np.eye(3)))
    posterior = Normal(*map(jnp.asarray, model.posterior(x)))
    log_evidence = jnp.float64(model.log_prob(x))
    bound = jax.jit(partial(linear_gaussian.bound, params, jnp.asarray(x)))
    found = decompose_gaussian(log_evidence, posterior, bound, q)
    np.testing.assert_allclose(found.residual(), 0.0, atol=1e-10)
    assert float(found.kl) > 0.1
    exact = decompose_gaussian(log_evidence, posterior, bound, posterior)
    np.testing.assert_allclose(exact.kl, 0.0, atol=1e-12)
    np.testing.assert_allclose(exact.bound, log_evidence, rtol=1e-12)


def test_the_decomposition_keeps_float32():
    tables = (random_table(seed, 6).astype(jnp.float32) for seed in (0, 1))
    found = decompose(*tables)
    assert all(term.dtype == jnp.float32 for term in found)
    np.testing.assert_allclose(found.residual(), 0.0, atol=1e-5)
