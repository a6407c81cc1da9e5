"""The families against SciPy: densities, expectations, entropies and KLs, in float64."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import kl_gaussians, standard_errors_off

from aevb.classical.families import Beta, Dirichlet, Gamma, Normal, Wishart

NUM_DRAWS = 20_000


class Known(NamedTuple):
    """Parameters, the family that takes them, and the same distribution in SciPy."""

    make: Callable[..., Any]
    params: tuple[Any, ...]
    law: Any  # a frozen distribution of SciPy

    def here(self) -> Any:
        return self.make(*(jnp.asarray(param, jnp.float64) for param in self.params))

    def draws(self, number: int) -> np.ndarray:
        return self.law.rvs(size=number, random_state=np.random.default_rng(0))

    def scipy_log_prob(self, draws: np.ndarray) -> np.ndarray:
        """Returns SciPy's log-density.

        For a Dirichlet and a Wishart, SciPy takes the draws on the last axis.
        """
        last = self.make in (Dirichlet, Wishart)
        return self.law.logpdf(np.moveaxis(draws, 0, -1) if last else draws)

    def scipy_mean(self) -> np.ndarray:
        if self.make is Normal:
            return self.law.mean
        if self.make is Wishart:
            return np.asarray(self.law.df) * self.law.scale
        return self.law.mean()


def gamma(shape: float, rate: float) -> Known:
    return Known(Gamma, (shape, rate), scipy.stats.gamma(shape, scale=1.0 / rate))


def beta(a: float, b: float) -> Known:
    return Known(Beta, (a, b), scipy.stats.beta(a, b))


def dirichlet(*concentration: float) -> Known:
    return Known(Dirichlet, (concentration,), scipy.stats.dirichlet(concentration))


def positive_definite(num_dims: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(num_dims, num_dims))
    return factor @ factor.T + 0.5 * np.eye(num_dims)


def normal(num_dims: int, seed: int) -> Known:
    mean = np.random.default_rng(seed + 100).normal(size=num_dims)
    covariance = positive_definite(num_dims, seed)
    law = scipy.stats.multivariate_normal(mean, covariance)  # pyright: ignore[reportArgumentType]
    return Known(Normal, (mean, covariance), law)


def wishart(df: float, num_dims: int, seed: int) -> Known:
    inverse_scale = positive_definite(num_dims, seed)
    law = scipy.stats.wishart(df, np.linalg.inv(inverse_scale))  # pyright: ignore[reportArgumentType]
    return Known(Wishart, (df, inverse_scale), law)


# Three of each. Neighbors are compared, so their tails must be similar enough for a sample mean.
KNOWN = {
    "gamma": (gamma(2.5, 0.7), gamma(3.0, 1.5), gamma(0.6, 0.2)),
    "beta": (beta(2.0, 5.0), beta(1.0, 3.0), beta(0.5, 0.7)),
    "dirichlet": (dirichlet(2.0, 0.8, 4.0), dirichlet(1.0, 1.0, 1.0), dirichlet(3.0, 2.0, 0.5)),
    "normal": (normal(3, 0), normal(3, 1), normal(3, 2)),
    "wishart": (wishart(5.5, 3, 0), wishart(7.0, 3, 1), wishart(4.0, 3, 2)),
}
EACH = [
    pytest.param(known, id=f"{name} {i}") for name in KNOWN for i, known in enumerate(KNOWN[name])
]


def pairs(name: str) -> list[Any]:
    """Returns every two different ones of a family, in both orders."""
    each = itertools.permutations(KNOWN[name], 2)
    return [pytest.param(*pair, id=f"{name} {i}") for i, pair in enumerate(each)]


# Each family is compiled once.
log_probs = jax.jit(jax.vmap(lambda law, x: law.log_prob(x), in_axes=(None, 0)))
entropy = jax.jit(lambda law: law.entropy())
kl = jax.jit(lambda q, p: q.kl(p))
kl_slopes = jax.jit(jax.grad(lambda p, q: q.kl(p)))


# One distribution


@pytest.mark.parametrize("known", EACH)
def test_the_density_of_each_family_is_scipys(known: Known):
    draws = known.draws(20)
    found = log_probs(known.here(), jnp.asarray(draws))
    np.testing.assert_allclose(found, known.scipy_log_prob(draws), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("known", EACH)
def test_the_entropy_of_each_family_is_scipys(known: Known):
    np.testing.assert_allclose(entropy(known.here()), known.law.entropy(), rtol=1e-10)


@pytest.mark.parametrize("known", EACH)
def test_the_mean_of_each_family_is_scipys(known: Known):
    found: Any = known.here().mean
    np.testing.assert_allclose(
        found if known.make is Normal else found(), known.scipy_mean(), rtol=1e-12
    )


@pytest.mark.parametrize("known", KNOWN["gamma"])
def test_a_gammas_expected_log_is_scipys_integral(known: Known):
    expected = known.law.expect(np.log)
    np.testing.assert_allclose(known.here().expected_log(), expected, rtol=1e-8)


@pytest.mark.parametrize("known", KNOWN["dirichlet"])
def test_a_dirichlets_expected_logs_are_those_by_quadrature_over_its_beta_marginals(known: Known):
    (concentration,) = known.params
    marginals: Any = [scipy.stats.beta(a, sum(concentration) - a) for a in concentration]
    expected = [marginal.expect(np.log) for marginal in marginals]
    np.testing.assert_allclose(known.here().expected_log(), expected, rtol=1e-7)


@pytest.mark.parametrize("known", KNOWN["wishart"])
def test_a_wisharts_expected_log_determinant_is_a_mean_over_draws(known: Known):
    log_dets = np.linalg.slogdet(known.draws(NUM_DRAWS))[1]
    assert standard_errors_off(log_dets, np.asarray(known.here().expected_log_det())) < 4


def test_a_normals_second_moment_is_a_mean_over_draws():
    known = KNOWN["normal"][0]
    draws = known.draws(NUM_DRAWS)
    products = np.einsum("ni,nj->nij", draws, draws)
    assert standard_errors_off(products, known.here().second_moment()) < 4


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 3.0), (2.0, 1.0)])
def test_a_betas_density_is_finite_at_an_end_where_its_exponent_is_zero(a: float, b: float):
    for end in (0.0, 1.0):
        expected = scipy.stats.beta.logpdf(end, a, b)
        found = Beta(jnp.float64(a), jnp.float64(b)).log_prob(jnp.float64(end))
        np.testing.assert_allclose(found, expected, atol=1e-12)


# Two distributions


@pytest.mark.parametrize(("q", "p"), [*pairs("dirichlet"), *pairs("wishart")])
def test_a_dirichlets_and_a_wisharts_kl_are_the_mean_log_ratio(q: Known, p: Known):
    """The draws and densities are SciPy's, and the tolerance is 4 standard errors."""
    draws = q.draws(4_000 if q.make is Wishart else NUM_DRAWS)  # SciPy's Wishart is slow
    log_ratios = q.scipy_log_prob(draws) - p.scipy_log_prob(draws)
    found = float(kl(q.here(), p.here()))
    assert standard_errors_off(log_ratios, found) < 4
    assert np.std(log_ratios) / np.sqrt(len(draws)) < 0.05 * found


@pytest.mark.parametrize(("q", "p"), [*pairs("gamma"), *pairs("beta")])
def test_a_gammas_and_a_betas_kl_are_scipys_integrals(q: Known, p: Known):
    expected = q.law.expect(lambda x: q.law.logpdf(x) - p.law.logpdf(x))
    np.testing.assert_allclose(kl(q.here(), p.here()), expected, rtol=1e-8)


@pytest.mark.parametrize(("q", "p"), pairs("beta"))
def test_a_dirichlets_kl_over_two_is_that_of_betas(q: Known, p: Known):
    of_two = kl(Dirichlet(jnp.array(q.params)), Dirichlet(jnp.array(p.params)))
    np.testing.assert_allclose(of_two, kl(q.here(), p.here()), rtol=1e-12)


@pytest.mark.parametrize(("q", "p"), pairs("normal"))
def test_a_normals_kl_is_the_closed_form(q: Known, p: Known):
    expected = kl_gaussians(*q.params, *p.params)
    np.testing.assert_allclose(kl(q.here(), p.here()), expected, rtol=1e-12)


def test_a_wishart_of_one_dimension_is_a_gamma():
    """The identity is W(df, scale) = Gamma(df / 2, 1 / (2 scale))."""
    ones = [(3.0, 0.8), (6.5, 2.0)]
    wisharts = [Wishart(jnp.float64(df), jnp.array([[inverse]])) for df, inverse in ones]
    gammas = [Gamma(jnp.float64(0.5 * df), jnp.float64(0.5 * inverse)) for df, inverse in ones]
    np.testing.assert_allclose(entropy(wisharts[0]), entropy(gammas[0]), rtol=1e-12)
    np.testing.assert_allclose(wisharts[0].expected_log_det(), gammas[0].expected_log(), rtol=1e-12)
    np.testing.assert_allclose(kl(*wisharts), kl(*gammas), rtol=1e-12)


@pytest.mark.parametrize("known", EACH)
def test_the_kl_of_a_distribution_from_itself_is_zero_and_flat(known: Known):
    """Its slope there is 0 in every parameter, because it grows with the square of a step."""
    np.testing.assert_allclose(kl(known.here(), known.here()), 0.0, atol=1e-12)
    for slope in jax.tree.leaves(kl_slopes(known.here(), known.here())):
        np.testing.assert_allclose(slope, 0.0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_each_family_keeps_float32_with_the_values_of_float64(name: str):
    q, p = (
        known.make(*(jnp.asarray(param, jnp.float32) for param in known.params))
        for known in KNOWN[name][:2]
    )
    x = jnp.asarray(KNOWN[name][0].draws(2)[0], jnp.float32)
    found = (log_probs(q, x[None])[0], entropy(q), kl(q, p))
    exact, other = (known.here() for known in KNOWN[name][:2])
    log_prob = log_probs(exact, x[None].astype(jnp.float64))[0]
    expected = (log_prob, entropy(exact), kl(exact, other))
    assert all(value.dtype == jnp.float32 for value in found)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
