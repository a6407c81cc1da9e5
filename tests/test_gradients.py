"""Comparisons of the bounds' gradients: which are equal, and which vary less.

The tests of the bounds' values also show that the mean of each gradient is exact.
"""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    NUM_DRAWS,
    PHI,
    THETA,
    Case,
    Estimates,
    estimates_of,
    every_case,
    exact_case,
    make_case,
)
from marks import slow_but
from oracles import standard_errors_off

from aevb.losses import BOUNDS, Guide, Joint, beta_elbo, free_bits, sgvb_b

NUM_SAMPLES = 6
SIZES = slow_but([(4, 2)], [(1, 1), (4, 2), (6, 3)], unpack=True)  # D, Z


@functools.cache
def estimates(sizes: tuple[int, int, int]) -> dict[str, Estimates]:
    """Returns estimates of all bounds, on the same samples."""
    bounds = {name: partial(bound, num_samples=NUM_SAMPLES) for name, bound in BOUNDS.items()}
    return estimates_of(bounds, make_case(*sizes))


def variance(gradient: np.ndarray) -> tuple[float, float]:
    """Returns the variance of draws [n, ...], summed over the entries, and its standard error."""
    squares = np.square(gradient - np.mean(gradient, axis=0)).reshape(len(gradient), -1).sum(axis=1)
    return float(np.mean(squares)), float(np.std(squares) / np.sqrt(len(squares)))


def assert_varies_less(gradient: np.ndarray, other: np.ndarray) -> None:
    (small, error), (large, other_error) = variance(gradient), variance(other)
    assert large - small > 4 * np.hypot(error, other_error)


@pytest.mark.parametrize(
    ("name", "other", "parts"),
    [
        ("score_function", "sgvb_a", THETA),
        ("score_function_loo", "sgvb_a", THETA),
        ("stl", "sgvb_a", THETA),
        ("dreg", "iwae", THETA),
        ("piwae", "iwae", THETA),
        ("piwae", "miwae", PHI),
    ],
)
@every_case
def test_a_modified_gradient_of_phi_or_theta_does_not_change_that_of_the_other(
    name: str, other: str, parts: tuple[str, ...], sizes: tuple[int, int, int]
):
    """Draw by draw, it is that of the bound that was changed."""
    one, two = (estimates(sizes)[each].gradient for each in (name, other))
    for part in parts:
        size = np.max(np.abs(two[part]))
        np.testing.assert_allclose(one[part], two[part], rtol=1e-3, atol=1e-4 * size)


# The score function


@pytest.mark.slow
@every_case
def test_the_score_function_varies_more_than_the_paths_gradient(sizes: tuple[int, int, int]):
    """Section 2.2 calls the naive estimator impractical for its variance."""
    found = estimates(sizes)
    for part in PHI:
        for other in ("sgvb_a", "sgvb_b"):
            assert_varies_less(found[other].gradient[part], found["score_function"].gradient[part])


@every_case
def test_a_leave_one_out_baseline_makes_the_score_function_vary_less(sizes: tuple[int, int, int]):
    found = estimates(sizes)
    for part in PHI:
        baseline = found["score_function_loo"].gradient[part]
        assert_varies_less(baseline, found["score_function"].gradient[part])


@pytest.mark.parametrize("name", ["score_function", "score_function_loo"])
def test_the_score_function_takes_a_guide_whose_samples_have_no_gradient(name: str):
    """The guide is on {0, 1}, where nothing can be reparameterized; the oracle sums over both."""
    guide = Guide(
        sample=lambda key, logit: jax.random.bernoulli(key, jax.nn.sigmoid(logit), (1,)).astype(
            jnp.float32
        ),
        log_prob=lambda logit, z: jnp.sum(z * logit - jax.nn.softplus(logit)),
    )
    joint = Joint(lambda z: jnp.sum(-0.7 * z), lambda z: jnp.sum(2.5 * z - 1.0))

    def elbo(logit: jax.Array) -> jax.Array:
        points = jnp.float32([[0.0], [1.0]])
        log_q = jax.vmap(guide.log_prob, in_axes=(None, 0))(logit, points)
        log_joint = jax.vmap(lambda z: joint.log_prior(z) + joint.log_lik(z))(points)
        return jnp.sum(jnp.exp(log_q) * (log_joint - log_q))

    def estimate(logit: jax.Array, key: jax.Array) -> jax.Array:
        return BOUNDS[name](key, logit, guide, joint, num_samples=3)

    logit = jnp.float32(0.4)
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    draws = jax.jit(jax.vmap(jax.value_and_grad(estimate), in_axes=(None, 0)))(logit, keys)
    for draw, exact in zip(draws, jax.value_and_grad(elbo)(logit), strict=True):
        assert standard_errors_off(draw, float(exact)) < 4


# Sticking the landing


@functools.cache
def at_the_posterior(num_dims: int, num_latents: int) -> tuple[Case, dict[str, Estimates]]:
    case = exact_case(num_dims, num_latents, seed=0)
    names = ("sgvb_a", "sgvb_b", "stl", "iwae", "dreg")
    bounds = {name: partial(BOUNDS[name], num_samples=NUM_SAMPLES) for name in names}
    return case, estimates_of(bounds, case)


@pytest.mark.parametrize(("num_dims", "num_latents"), SIZES)
@pytest.mark.parametrize("name", ["stl", "dreg"])
def test_phis_gradient_vanishes_at_the_exact_posterior(name: str, num_dims: int, num_latents: int):
    """The gradient is 0 for every sample; other estimators have this only on average."""
    _, found = at_the_posterior(num_dims, num_latents)
    for part in PHI:
        np.testing.assert_allclose(found[name].gradient[part], 0.0, atol=1e-4)
        for other in ("sgvb_a", "sgvb_b", "iwae"):
            draws = found[other].gradient[part]
            assert np.all(np.std(draws, axis=0) > 0.05)
            assert standard_errors_off(draws, 0.0) < 4


# Doubly reparameterized


@every_case
def test_dregs_phi_gradient_varies_less_than_iwaes(sizes: tuple[int, int, int]):
    """The guide is near the posterior; far from it, the claim need not hold."""
    case = make_case(*sizes)
    mean, cov = case.model.posterior(case.x)
    near = case._replace(mean=mean + 0.1, log_var=np.log(np.diag(cov)) + 0.1)
    bounds = {name: partial(BOUNDS[name], num_samples=NUM_SAMPLES) for name in ("iwae", "dreg")}
    found = estimates_of(bounds, near)
    for part in PHI:
        assert_varies_less(found["dreg"].gradient[part], found["iwae"].gradient[part])


@every_case
def test_dreg_of_many_samples_has_the_mean_of_iwaes_gradient(sizes: tuple[int, int, int]):
    """Each draw's difference has mean 0; with 2 samples both means are known exactly."""
    found = estimates(sizes)
    for part in PHI:
        difference = found["dreg"].gradient[part] - found["iwae"].gradient[part]
        assert standard_errors_off(difference, 0.0) < 4


# Weights on the KL


def test_a_kl_below_the_free_nats_has_no_gradient():
    """Phi therefore follows only log p(x|z), as with a weight of 0."""
    case = make_case(4, 2, seed=1)
    assert 1.0 < case.kl() < 2.0
    bounds = {
        "below": partial(free_bits, free_nats=2.0),
        "no KL": partial(beta_elbo, beta=0.0),
        "above": partial(free_bits, free_nats=1.0),
        "whole KL": sgvb_b,
    }
    found = estimates_of(bounds, case)
    for part in (*PHI, *THETA):
        below, no_kl, above, whole_kl = (found[name].gradient[part] for name in bounds)
        np.testing.assert_allclose(below, no_kl, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(above, whole_kl, rtol=1e-5, atol=1e-5)
        assert part in THETA or np.all(np.abs(below - above) > 0.01)
