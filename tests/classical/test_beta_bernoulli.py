"""The coin: exact answers, and two guides fitted by gradients of the bound."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import integrate, standard_errors_off

from aevb import losses
from aevb.classical import beta_bernoulli
from aevb.classical.beta_bernoulli import Flips
from aevb.classical.families import Beta
from aevb.distributions import DiagNormal
from aevb.inference import lbfgs

A, B = 1.5, 2.5
HEADS, TAILS = 7, 3
LOG_EVIDENCE = float(scipy.special.betaln(A + HEADS, B + TAILS) - scipy.special.betaln(A, B))


def prior() -> Beta:
    return Beta(jnp.float64(A), jnp.float64(B))


def flips(heads: float = HEADS, tails: float = TAILS) -> Flips:
    return Flips(jnp.float64(heads), jnp.float64(tails))


def logit_normal(mean: float, log_var: float) -> DiagNormal:
    return DiagNormal(jnp.full(1, mean), jnp.full(1, log_var))


def logit_normal_kl(logit: DiagNormal) -> float:
    """Returns KL(q || the posterior), by the trapezoid rule over logit z in float64."""
    mean, std = float(logit.mean[0]), math.exp(0.5 * float(logit.log_var[0]))

    def integrand(u: np.ndarray) -> np.ndarray:
        log_q = scipy.stats.norm.logpdf(u, mean, std)
        a, b = A + HEADS, B + TAILS
        log_p = a * scipy.special.log_expit(u) + b * scipy.special.log_expit(-u)
        return np.exp(log_q) * (log_q - log_p + scipy.special.betaln(a, b))

    return integrate(integrand, mean - 12.0 * std, mean + 12.0 * std)


# Exact inference


def test_the_evidence_times_the_binomial_coefficient_is_scipys_beta_binomial():
    for heads in range(11):
        found = beta_bernoulli.log_evidence(prior(), flips(heads, 10 - heads))
        expected = scipy.stats.betabinom.logpmf(heads, 10, A, B)
        np.testing.assert_allclose(found + np.log(math.comb(10, heads)), expected, rtol=1e-10)


def test_the_evidence_is_the_product_of_the_predictives():
    """The flips that are counted together give the same posterior as one after the other."""
    sequence = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    total, family = 0.0, prior()
    for heads in sequence:
        of_heads = float(beta_bernoulli.predictive(family))
        total += math.log(of_heads if heads else 1.0 - of_heads)
        family = beta_bernoulli.posterior(family, flips(heads, 1 - heads))
    np.testing.assert_allclose(total, LOG_EVIDENCE, rtol=1e-12)
    counted = beta_bernoulli.count(jnp.array(sequence))
    np.testing.assert_allclose(family, beta_bernoulli.posterior(prior(), counted), rtol=1e-12)


def test_without_flips_the_posterior_is_the_prior_and_log_evidence_is_0():
    none = beta_bernoulli.count(jnp.zeros(0))
    assert beta_bernoulli.posterior(prior(), none) == prior()
    assert beta_bernoulli.log_evidence(prior(), none) == 0.0


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[1.0, 0.0]], r"shape \(1, 2\); they must be one sequence"),
        ([1.0, 0.5], "hold 0.5; heads must be 1 and tails 0"),
        ([1.0, float("nan")], "hold nan; heads must be 1"),
    ],
)
def test_an_array_that_is_not_a_sequence_of_flips_is_refused(x: list, words: str):
    with pytest.raises(ValueError, match=words):
        beta_bernoulli.count(jnp.array(x))


# The Beta guide


def fit_beta(bound: losses.Bound, *, num_steps: int, power: float) -> jax.Array:
    return beta_bernoulli.fit(
        jax.random.key(0),
        jnp.zeros(2),
        beta_bernoulli.beta_guide(),
        beta_bernoulli.make_joint(prior(), flips()),
        bound=bound,
        num_steps=num_steps,
        num_samples=2,
        step_size=0.2,
        power=power,
    )


@pytest.mark.slow
def test_a_fitted_beta_guide_is_the_posterior_and_its_bound_the_evidence():
    """The fit uses `stl`, whose gradient is 0 there at every z, to the digits of float64."""
    found = fit_beta(losses.stl, num_steps=700, power=0.0)
    exact = beta_bernoulli.posterior(prior(), flips())
    np.testing.assert_allclose(jnp.exp(found), jnp.stack(exact), rtol=1e-8)
    guide = beta_bernoulli.beta_guide()
    joint = beta_bernoulli.make_joint(prior(), flips())
    bounds = jax.jit(lambda key: losses.log_weights(key, found, guide, joint, num_samples=100))(
        jax.random.key(1)
    )
    np.testing.assert_allclose(bounds, LOG_EVIDENCE, atol=1e-9)  # every one, not only on average


@pytest.mark.parametrize(
    "bound",
    [pytest.param(losses.sgvb_a, marks=pytest.mark.slow), losses.sgvb_b],
    ids=["sgvb_a", "sgvb_b"],
)
def test_decreasing_step_sizes_reach_the_posterior_with_noisy_gradients(bound: losses.Bound):
    found = fit_beta(bound, num_steps=3000, power=0.6)
    exact = beta_bernoulli.posterior(prior(), flips())
    gap = Beta(*jnp.exp(found)).kl(exact)
    assert float(gap) < 2e-3
    assert float(Beta(*jnp.exp(jnp.zeros(2))).kl(exact)) > 1.0  # at the start


def test_the_beta_guides_kl_is_to_a_beta_prior_and_no_other():
    guide, stats = beta_bernoulli.beta_guide(), jnp.log(jnp.array([3.0, 4.0]))
    joint = beta_bernoulli.make_joint(prior(), flips())
    found = losses.closed_kl(stats, guide, joint)
    assert found is not None
    np.testing.assert_allclose(found, Beta(*jnp.array([3.0, 4.0])).kl(prior()), rtol=1e-12)
    assert losses.closed_kl(stats, guide, joint._replace(prior=joint.log_prior)) is None


# The logit-normal guide


def test_a_logit_normal_density_integrates_to_one():
    guide = beta_bernoulli.logit_normal_guide()
    z = np.linspace(0.0, 1.0, 20_003)[1:-1]
    log_q = jax.vmap(lambda z: guide.log_prob(logit_normal(0.4, -1.0), z[None]))(jnp.asarray(z))
    np.testing.assert_allclose(np.trapezoid(np.exp(log_q), z), 1.0, atol=1e-8)


@pytest.mark.parametrize(("mean", "log_var"), [(0.0, 0.0), (1.0, -2.0), (-2.0, 1.5)])
def test_the_gap_of_a_logit_normal_is_the_kl_and_sampled_within_its_error(
    mean: float, log_var: float
):
    q = logit_normal(mean, log_var)
    kl = logit_normal_kl(q)
    gap = LOG_EVIDENCE - beta_bernoulli.logit_normal_bound(prior(), flips(), q)
    np.testing.assert_allclose(gap, kl, atol=1e-10)
    guide = beta_bernoulli.logit_normal_guide()
    joint = beta_bernoulli.make_joint(prior(), flips())
    log_w = jax.jit(lambda key: losses.log_weights(key, q, guide, joint, num_samples=50_000))(
        jax.random.key(2)
    )
    assert standard_errors_off(LOG_EVIDENCE - np.asarray(log_w), kl) < 4


@cache
def best_logit_normal() -> DiagNormal:
    """Returns the optimum of the noiseless bound, found by L-BFGS."""

    def bound(q: DiagNormal) -> jax.Array:
        return beta_bernoulli.logit_normal_bound(prior(), flips(), q)

    with jax.numpy_rank_promotion("allow"):  # optax's
        found = jax.jit(lambda q: lbfgs.maximize(bound, q, num_steps=30))(logit_normal(0.0, 0.0))
    for slope in jax.tree.leaves(jax.jit(jax.grad(bound))(found)):
        np.testing.assert_allclose(slope, 0.0, atol=1e-6)
    return found


@pytest.mark.slow
def test_the_best_logit_normal_keeps_a_gap_that_is_the_kl():
    best = best_logit_normal()
    gap = LOG_EVIDENCE - beta_bernoulli.logit_normal_bound(prior(), flips(), best)
    np.testing.assert_allclose(gap, logit_normal_kl(best), atol=1e-10)
    assert 1e-4 < float(gap) < 0.02  # no logit-normal closes this gap


@pytest.mark.slow
def test_noisy_steps_find_the_best_logit_normal():
    best = best_logit_normal()
    found = beta_bernoulli.fit(
        jax.random.key(3),
        logit_normal(0.0, 0.0),
        beta_bernoulli.logit_normal_guide(),
        beta_bernoulli.make_joint(prior(), flips()),
        num_steps=4000,
        num_samples=4,
    )
    std = np.exp(0.5 * best.log_var)
    np.testing.assert_allclose(found.mean, best.mean, atol=0.05 * float(std[0]))
    np.testing.assert_allclose(found.log_var, best.log_var, atol=0.05)


# Extremes


@pytest.mark.parametrize("heads", [0, 1000])
def test_one_sided_flips_have_a_finite_posterior_and_bound(heads: int):
    seen = flips(heads, 1000 - heads)
    expected = scipy.stats.beta(A + heads, B + 1000 - heads).mean()
    found = beta_bernoulli.predictive(beta_bernoulli.posterior(prior(), seen))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    bound = beta_bernoulli.logit_normal_bound(prior(), seen, logit_normal(0.0, 0.0))
    assert np.isfinite(bound)
    assert float(bound) < float(beta_bernoulli.log_evidence(prior(), seen))


def test_float32_samples_of_a_logit_normal_are_never_0_or_1():
    guide = beta_bernoulli.logit_normal_guide()
    for mean in (-200.0, 200.0):
        q = DiagNormal(jnp.full(1, mean, jnp.float32), jnp.zeros(1, jnp.float32))
        z = guide.sample(jax.random.key(0), q)
        assert z.dtype == jnp.float32
        assert 0.0 < float(z[0]) < 1.0
        assert np.isfinite(guide.log_prob(q, z))


def test_a_fit_of_0_steps_is_refused():
    with pytest.raises(ValueError, match="num_steps is 0; it must be at least 1"):
        fit_beta(losses.stl, num_steps=0, power=0.0)
