"""Ratios of Gamma functions, and the Student-t densities built on them, to float64's digits."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from aevb.reparam import FAMILIES
from aevb.reparam.gamma_functions import LARGE, log_beta, log_gamma_ratio


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("x", [1e-3, 0.7, 9.99, 10.0, 123.4, 1e6, 1e12])
@pytest.mark.parametrize("shift", [1, 2, 50])
def test_a_ratio_of_gammas_with_an_integer_shift_is_a_finite_product(x: float, shift: int):
    expected = -np.sum(np.log(x + np.arange(shift)))
    found = log_gamma_ratio(jnp.array(x), float(shift))
    np.testing.assert_allclose(found, expected, rtol=2e-14, atol=2e-14)


@pytest.mark.parametrize("n", [1, 12, 100, 3000])
def test_a_ratio_of_gammas_with_a_shift_of_one_half_is_exact_at_integers(n: int):
    """Gamma(n + 1/2) = (2n)! sqrt(pi) / (4^n n!), in exact arithmetic."""
    ratio = Fraction(math.factorial(2 * n), 4**n * math.factorial(n) * math.factorial(n - 1))
    expected = -math.log(float(ratio)) - 0.5 * math.log(math.pi)
    found = log_gamma_ratio(jnp.array(float(n)), 0.5)
    np.testing.assert_allclose(found, expected, rtol=2e-14, atol=2e-14)


def test_two_ratios_of_gammas_with_shifts_of_one_half_make_one_with_a_shift_of_1():
    x = jnp.geomspace(0.1, 1e9, 200)
    found = log_gamma_ratio(x, 0.5) + log_gamma_ratio(x + 0.5, 0.5)
    np.testing.assert_allclose(found, -np.log(x), rtol=0.0, atol=1e-13)


def test_a_ratio_of_gammas_in_float32_agrees_with_float64():
    x = np.geomspace(0.1, 1e6, 100)
    wide = log_gamma_ratio(jnp.asarray(x), 0.5)
    narrow = log_gamma_ratio(jnp.asarray(x, jnp.float32), 0.5)
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_ratio_of_gammas_is_a_difference_of_digammas():
    x = jnp.array([0.01, 3.0, LARGE - 0.01, LARGE, LARGE + 0.01, 1e5])
    found = jax.jit(jax.vmap(jax.grad(lambda x: log_gamma_ratio(x, 2.5))))(x)
    expected = scipy.special.digamma(x) - scipy.special.digamma(np.asarray(x) + 2.5)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("a", [1e-3, 0.5, 3.0, 8.5, 60.0])
@pytest.mark.parametrize("b", [0.5, 5.5, 50.0])
def test_log_beta_is_scipys(a: float, b: float):
    """The betaln of jax is off in the seventh digit for one argument above 8 and one below.

    For greater arguments SciPy's own has fewer digits.
    """
    expected = scipy.special.betaln(a, b)
    found = log_beta(jnp.array(a), jnp.array(b))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
    assert log_beta(jnp.array(b), jnp.array(a)) == found


@pytest.mark.parametrize("df", [0.3, 1.0, 4.5, 19.0, 21.0, 300.0])
def test_student_t_and_elliptical_densities_are_scipys_to_float64s_digits(df: float):
    z = np.array([-2.0, 0.1, 30.0])
    location, scale = np.array([0.5, -1.0, 2.0]), np.array([0.1, 1.0, 7.0])
    expected = np.sum(scipy.stats.t.logpdf(z, df, location, scale))
    found = FAMILIES["student_t"].log_prob(
        {"location": jnp.asarray(location), "scale": jnp.asarray(scale), "df": jnp.full(3, df)},
        jnp.asarray(z),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    tril = np.tril(np.random.default_rng(0).uniform(0.5, 2.0, size=(3, 3)))
    exact: Any = scipy.stats.multivariate_t
    expected = exact.logpdf(z, location, tril @ tril.T, df)
    found = FAMILIES["elliptical"].log_prob(
        {"location": jnp.asarray(location), "scale_tril": jnp.asarray(tril), "df": jnp.array(df)},
        jnp.asarray(z),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)
