"""Discrete distributions and their relaxations: sums, integrals, samples and KLs."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from oracles import standard_errors_off

from aevb import discrete
from aevb.discrete import Bernoulli, Categorical, RelaxedBernoulli, RelaxedCategorical
from aevb.distributions import StandardNormal

NUM_DRAWS = 20_000
EXTREME = jnp.float32([-200.0, -30.0, 30.0, 200.0])
sizes_and_seeds = pytest.mark.parametrize(("size", "seed"), [(1, 0), (3, 1), (5, 2)])
temperatures = pytest.mark.parametrize("temperature", [0.3, 2 / 3, 1.5])


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=1.5, size=shape).astype(np.float32)


def one_hots(num_variables: int, num_classes: int) -> np.ndarray:
    every = itertools.product(np.eye(num_classes, dtype=np.float32), repeat=num_variables)
    return np.array([np.concatenate(rows) for rows in every])


def bits(size: int) -> np.ndarray:
    return np.array(list(itertools.product([0.0, 1.0], repeat=size)), np.float32)


@jax.jit
def values_log_probs(q: Any, values: jax.Array) -> jax.Array:
    return jax.vmap(q.log_prob)(values)


def log_probs(q: Any, values: np.ndarray) -> np.ndarray:
    """Returns the log probabilities of a distribution's values, as float64."""
    return np.asarray(values_log_probs(q, jnp.asarray(values)), np.float64)


def cases(size: int, seed: int) -> list[tuple[Any, Any, np.ndarray]]:
    """Returns distributions, others of their kind, and all of their values."""
    logits, other = normal(seed, 2, size)
    rows, others = normal(seed + 10, 2, 2, size + 1)
    return [
        (Bernoulli(jnp.asarray(logits)), Bernoulli(jnp.asarray(other)), bits(size)),
        (Categorical(jnp.asarray(rows)), Categorical(jnp.asarray(others)), one_hots(2, size + 1)),
        (
            Categorical(jnp.asarray(rows[0])), Categorical(jnp.asarray(others[0])),
            one_hots(1, size + 1),
        ),
    ]  # fmt: skip


@sizes_and_seeds
def test_probabilities_are_those_of_the_definition_and_sum_to_1(size: int, seed: int):
    for q, _, values in cases(size, seed):
        found = np.exp(log_probs(q, values))
        logits = np.asarray(q.logits, np.float64)
        if isinstance(q, Bernoulli):
            p = scipy.special.expit(logits)
            expected = np.prod(np.where(values == 1.0, p, 1.0 - p), axis=1)
        else:
            p = scipy.special.softmax(logits, axis=-1).ravel()
            expected = np.prod(np.where(values == 1.0, p, 1.0), axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert np.sum(found) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(q.mean(), found @ values, rtol=1e-5)
        var = found @ values**2 - (found @ values) ** 2
        np.testing.assert_allclose(q.log_var(), np.log(var), rtol=1e-4, atol=1e-4)


@sizes_and_seeds
def test_the_kl_to_one_of_its_kind_is_the_sum_over_all_values(size: int, seed: int):
    for q, other, values in cases(size, seed):
        log_q, log_other = (log_probs(each, values) for each in (q, other))
        np.testing.assert_allclose(q.kl(other), np.exp(log_q) @ (log_q - log_other), rtol=2e-5)
        np.testing.assert_allclose(q.kl(q), 0.0, atol=1e-6)
        assert q.kl(StandardNormal(size)) is None
    q, other, _ = cases(size, seed)[0]
    np.testing.assert_allclose(jnp.sum(q.kl_per_unit(other)), q.kl(other), rtol=1e-6)
    assert q.kl(cases(size, seed)[1][0]) is None
    assert q.kl_per_unit(StandardNormal(size)) is None


@sizes_and_seeds
def test_samples_are_values_with_their_probabilities_and_carry_no_gradient(size: int, seed: int):
    for q, _, values in cases(size, seed):
        keys = jax.random.split(jax.random.key(seed), NUM_DRAWS)
        draws = np.asarray(jax.jit(jax.vmap(q.sample))(keys))
        which = np.all(draws[:, None] == values[None], axis=2)
        assert np.all(np.sum(which, axis=1) == 1)
        exact = np.exp(log_probs(q, values))
        shown = exact > 1e-3
        assert standard_errors_off(which[:, shown], exact[shown]) < 4

        def total(logits: jax.Array, q: Any = q, key: jax.Array = keys[0]) -> jax.Array:
            return jnp.sum(q._replace(logits=logits).sample(key))

        slope = jax.grad(total)
        np.testing.assert_array_equal(slope(q.logits), 0.0)


def test_extreme_logits_have_finite_log_probabilities_and_gradients():
    for q in (Bernoulli(EXTREME), Categorical(EXTREME)):
        for z in jnp.eye(4):
            value, slope = jax.jit(jax.value_and_grad(lambda q, z: q.log_prob(z)))(q, z)
            assert np.isfinite(value)
            assert np.all(np.isfinite(slope.logits))
        kl = q.kl(type(q)(EXTREME[::-1]))
        assert kl is not None
        assert np.isfinite(kl)
        assert np.all(np.isfinite(q.log_var()))
    np.testing.assert_allclose(Bernoulli(EXTREME).log_prob(jnp.float32([1, 0, 1, 1])), -200.0)
    np.testing.assert_allclose(
        Bernoulli(EXTREME).log_prob(jnp.float32([0, 0, 1, 1])), 0.0, atol=1e-6
    )


# Relaxations


@temperatures
def test_a_relaxed_bernoulli_integrates_to_1_and_has_its_samples(temperature: float):
    logit = 0.7
    q = RelaxedBernoulli(jnp.float32([logit]), temperature)
    z = np.linspace(-80.0, 80.0, 40_001, dtype=np.float32)
    density = np.exp(log_probs(q, z[:, None]))
    assert np.trapezoid(density, z.astype(np.float64)) == pytest.approx(1.0, abs=1e-5)
    exact: Any = scipy.stats.logistic(logit / temperature, 1.0 / temperature)
    np.testing.assert_allclose(density, exact.pdf(z), rtol=1e-3, atol=1e-7)
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    draws, log_q = jax.jit(jax.vmap(q.sample_and_log_prob))(keys)
    np.testing.assert_array_equal(draws, jax.jit(jax.vmap(q.sample))(keys))
    assert scipy.stats.kstest(np.asarray(draws)[:, 0], exact.cdf).pvalue > 1e-3
    np.testing.assert_allclose(log_q, jax.vmap(q.log_prob)(draws), rtol=1e-4, atol=1e-4)


@temperatures
def test_a_relaxation_rounds_to_the_discrete_probabilities(temperature: float):
    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    logits = jnp.asarray(normal(3, 4))
    drawn = jax.jit(jax.vmap(RelaxedBernoulli(logits, temperature).sample))(keys)
    ones = np.asarray(jax.nn.sigmoid(drawn)) > 0.5
    assert standard_errors_off(ones, np.asarray(Bernoulli(logits).mean())) < 4
    rows = jnp.asarray(normal(4, 2, 3))
    drawn = np.asarray(jax.jit(jax.vmap(RelaxedCategorical(rows, temperature).sample))(keys))
    np.testing.assert_allclose(np.exp(drawn).reshape(-1, 2, 3).sum(axis=2), 1.0, rtol=1e-5)
    largest = np.eye(3)[np.argmax(drawn.reshape(-1, 2, 3), axis=2)].reshape(-1, 6)
    assert standard_errors_off(largest, np.asarray(Categorical(rows).mean())) < 4


def test_a_relaxation_tends_to_the_discrete_value():
    logits = jnp.asarray(normal(5, 4))
    for seed in range(3):
        z = RelaxedBernoulli(logits, 1e-4).sample(jax.random.key(seed))
        seen = np.asarray(jax.nn.sigmoid(z))
        np.testing.assert_allclose(seen, np.round(seen), atol=1e-3)


def log_ratio_density(q: RelaxedCategorical, log_ratios: np.ndarray) -> np.ndarray:
    """Returns the density of log(p_c / p_C) [n, C - 1], whose measure is that of the docstring.

    dp_1 ... dp_(C-1) = p_1 ... p_C d(log ratios) on the simplex.
    """
    rows = np.concatenate([log_ratios, np.zeros((len(log_ratios), 1))], axis=1)
    z = jnp.asarray(scipy.special.log_softmax(rows, axis=1), jnp.float32)
    return np.exp(np.asarray(jax.vmap(q.log_prob)(z), np.float64))


@temperatures
def test_a_relaxed_categorical_integrates_to_1_and_has_its_samples(temperature: float):
    pair = RelaxedCategorical(jnp.float32([0.4, -0.5]), temperature)
    axis = np.linspace(-60.0, 60.0, 20_001)
    density = log_ratio_density(pair, axis[:, None])
    assert np.trapezoid(density, axis) == pytest.approx(1.0, abs=1e-5)
    keys = jax.random.split(jax.random.key(2), NUM_DRAWS)
    draws = np.asarray(jax.jit(jax.vmap(pair.sample))(keys), np.float64)
    cdf = scipy.integrate.cumulative_trapezoid(density, axis, initial=0.0)
    test = scipy.stats.kstest(draws[:, 0] - draws[:, 1], lambda t: np.interp(t, axis, cdf))
    assert test.pvalue > 1e-3
    # Three classes
    triple = RelaxedCategorical(jnp.float32([0.4, -0.5, 0.1]), temperature)
    axis = np.linspace(-45.0, 45.0, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    density = log_ratio_density(triple, grid).reshape(301, 301)
    assert np.trapezoid(np.trapezoid(density, axis), axis) == pytest.approx(1.0, abs=2e-3)
    draws = np.asarray(jax.jit(jax.vmap(triple.sample))(keys), np.float64)
    angle = np.cos(0.3 * (grid[:, 0] - 0.5 * grid[:, 1])).reshape(301, 301)
    exact = np.trapezoid(np.trapezoid(density * angle, axis), axis)
    ratios = draws[:, :2] - draws[:, 2:]
    assert standard_errors_off(np.cos(0.3 * (ratios[:, 0] - 0.5 * ratios[:, 1])), exact) < 4


def test_rows_of_a_relaxed_categorical_are_independent():
    rows = jnp.asarray(normal(6, 2, 3))
    q = RelaxedCategorical(rows, 0.5)
    z = q.sample(jax.random.key(0))
    each = [
        RelaxedCategorical(row, 0.5).log_prob(z[3 * n : 3 * n + 3]) for n, row in enumerate(rows)
    ]
    np.testing.assert_allclose(q.log_prob(z), sum(each), rtol=1e-5)


def test_relaxations_have_finite_values_and_gradients_at_extreme_logits():
    for q in (RelaxedBernoulli(EXTREME, 0.1), RelaxedCategorical(EXTREME, 0.1)):

        def value(logits: jax.Array, q: Any = q) -> jax.Array:
            own = q._replace(logits=logits)
            return own.log_prob(own.sample(jax.random.key(0)))

        found, slope = jax.value_and_grad(value)(q.logits)
        assert np.isfinite(found)
        assert np.all(np.isfinite(slope))


@pytest.mark.parametrize(("num_latents", "num_classes"), [(10, 3), (10, 1), (2, 10)])
def test_rows_that_do_not_fit_are_refused(num_latents: int, num_classes: int):
    with pytest.raises(ValueError, match=f"num_classes is {num_classes}; .* is {num_latents}"):
        discrete.rows(num_latents, num_classes)
    assert discrete.rows(6, 3) == (2, 3)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_a_temperature_that_is_not_above_0_is_refused(temperature: float):
    with pytest.raises(ValueError, match=r"temperature is .*finite number above 0"):
        discrete.require_temperature(temperature)
