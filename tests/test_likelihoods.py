"""Likelihoods: each is a normalised density, and its mean and samples are that density's.

The tests run over LIKELIHOODS, so a new entry needs a SciPy counterpart here, and nothing else
where its density lives on {0, 1} (kind "binary") or on the real line.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import standard_errors_off

from aevb.likelihoods import LIKELIHOODS, Heads, Likelihood

NUM_DRAWS = 20_000
NUM_DIMS = 2  # more than one, so that a mean over dimensions in place of the sum shows
SEEDS = (0, 1)

# heads [D] in float64 -> what scipy.stats calls log p(x) of x [D]
SCIPY: dict[str, Callable[[dict[str, np.ndarray], np.ndarray], Any]] = {
    "bernoulli": lambda h, x: scipy.stats.bernoulli.logpmf(x, scipy.special.expit(h["logits"])),
    "gaussian": lambda h, x: scipy.stats.norm.logpdf(x, h["mean"], np.exp(0.5 * h["log_var"])),
    "gaussian_unit_mean": lambda h, x: scipy.stats.norm.logpdf(
        x, scipy.special.expit(h["mean_logits"]), np.exp(0.5 * h["log_var"])
    ),
}

# where a density lives that is neither on {0, 1} nor on the real line
SUPPORTS: dict[str, tuple[float, float]] = {}
REAL_LINE = (-30.0, 30.0)  # as good as all of it for the heads below

EXTREMES = {"logits": 1e4, "mean_logits": 1e4, "mean": 1.0, "log_var": 80.0}

every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def random_heads(likelihood: Likelihood, seed: int) -> Heads:
    rng = np.random.default_rng(seed)
    return {head: jnp.float32(rng.normal(size=NUM_DIMS)) for head in likelihood.heads}


def whole_space(name: str) -> tuple[np.ndarray, float]:
    """Points [n, D] that cover the support of a density, and the volume that each stands for."""
    if "binary" in LIKELIHOODS[name].kinds:
        return np.array(list(itertools.product([0.0, 1.0], repeat=NUM_DIMS))), 1.0
    edges = np.linspace(*SUPPORTS.get(name, REAL_LINE), 1001)
    middles = (edges[1:] + edges[:-1]) / 2.0
    points = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, NUM_DIMS)
    return points, (edges[1] - edges[0]) ** NUM_DIMS


def masses(name: str, heads: Heads) -> tuple[np.ndarray, np.ndarray]:
    """Those points, and the probability [n] of the cell around each."""
    points, volume = whole_space(name)
    log_prob = jax.jit(jax.vmap(lambda x: LIKELIHOODS[name].log_prob(heads, x)))
    return points, np.exp(np.asarray(log_prob(jnp.float32(points)), np.float64)) * volume


@every_likelihood
@every_seed
def test_the_density_integrates_to_1(name: str, seed: int):
    _, probabilities = masses(name, random_heads(LIKELIHOODS[name], seed))
    assert np.sum(probabilities) == pytest.approx(1.0, abs=1e-5)


@every_likelihood
@every_seed
def test_log_prob_is_scipys(name: str, seed: int):
    likelihood = LIKELIHOODS[name]
    heads = random_heads(likelihood, seed)
    x = np.asarray(likelihood.sample(jax.random.key(seed), heads))
    exact_heads = {head: np.asarray(value, np.float64) for head, value in heads.items()}
    expected = SCIPY[name](exact_heads, x.astype(np.float64)).sum()
    assert likelihood.log_prob(heads, jnp.asarray(x)) == pytest.approx(expected, rel=1e-5)


@every_likelihood
@every_seed
def test_the_mean_is_the_densitys(name: str, seed: int):
    heads = random_heads(LIKELIHOODS[name], seed)
    points, probabilities = masses(name, heads)
    np.testing.assert_allclose(LIKELIHOODS[name].mean(heads), probabilities @ points, atol=2e-5)


@every_likelihood
@every_seed
def test_samples_have_the_mean_and_the_variance_of_the_density(name: str, seed: int):
    likelihood = LIKELIHOODS[name]
    heads = random_heads(likelihood, seed)
    keys = jax.random.split(jax.random.key(seed), NUM_DRAWS)
    draws = np.asarray(jax.vmap(lambda key: likelihood.sample(key, heads))(keys), np.float64)
    points, probabilities = masses(name, heads)
    mean = probabilities @ points
    assert standard_errors_off(draws, mean) < 4
    assert standard_errors_off((draws - mean) ** 2, probabilities @ (points - mean) ** 2) < 4
    (_, correlation), _ = np.asarray(np.corrcoef(draws.T))  # dimensions are independent given z
    assert abs(correlation) < 4 / np.sqrt(NUM_DRAWS)


@every_likelihood
def test_samples_lie_in_the_support(name: str):
    likelihood = LIKELIHOODS[name]
    heads = random_heads(likelihood, 0)
    draws = jax.vmap(likelihood.sample, in_axes=(0, None))(
        jax.random.split(jax.random.key(0), 100), heads
    )
    assert draws.dtype == jnp.float32
    if "binary" in likelihood.kinds:
        assert set(np.unique(draws)) == {0.0, 1.0}
    low, high = SUPPORTS.get(name, REAL_LINE)
    assert np.all((low <= draws) & (draws <= high))


@every_likelihood
def test_everything_is_finite_at_extreme_statistics(name: str):
    """Logits of 1e4 in size and variances of exp(80) and exp(-80), in every combination."""
    likelihood = LIKELIHOODS[name]
    log_prob = jax.jit(jax.value_and_grad(likelihood.log_prob))
    for signs in itertools.product([-1.0, 1.0], repeat=len(likelihood.heads)):
        heads = {
            head: jnp.full(NUM_DIMS, sign * EXTREMES[head])
            for head, sign in zip(likelihood.heads, signs, strict=True)
        }
        for x in (jnp.zeros(NUM_DIMS), jnp.ones(NUM_DIMS)):
            numbers = (
                log_prob(heads, x),
                likelihood.mean(heads),
                likelihood.sample(jax.random.key(0), heads),
            )
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(numbers)), heads


@every_likelihood
def test_jit_and_vmap_change_nothing(name: str):
    likelihood = LIKELIHOODS[name]
    each = [random_heads(likelihood, seed) for seed in range(3)]
    x = [likelihood.sample(jax.random.key(seed), heads) for seed, heads in enumerate(each)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    together = jax.jit(jax.vmap(likelihood.log_prob))(stacked, jnp.stack(x))
    one_by_one = [likelihood.log_prob(heads, point) for heads, point in zip(each, x, strict=True)]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5)


@every_likelihood
def test_each_says_for_which_kinds_of_data_it_is_a_density(name: str):
    """Grey pixels under a Bernoulli likelihood are no probability of anything."""
    kinds = set(LIKELIHOODS[name].kinds)
    assert kinds
    assert kinds <= {"binary", "grey", "real"}
    assert kinds == {"binary"} or "binary" not in kinds


def test_the_gradient_of_bernoulli_log_prob_is_x_minus_its_mean():
    likelihood = LIKELIHOODS["bernoulli"]
    logits = jnp.float32([-30.0, -3.0, -0.1, 0.0, 0.2, 4.0, 30.0])
    for x in (jnp.zeros(7), jnp.ones(7)):
        gradient = jax.grad(lambda heads, x=x: likelihood.log_prob(heads, x))({"logits": logits})
        expected = np.asarray(x) - scipy.special.expit(np.asarray(logits, np.float64))
        np.testing.assert_allclose(gradient["logits"], expected, rtol=1e-5, atol=1e-7)


def test_bernoulli_log_prob_of_a_near_certain_pixel_keeps_its_digits():
    """log sigmoid(20) = -2.06e-9, which log(1 / (1 + exp(-20))) rounds to 0 in float32."""
    log_prob = LIKELIHOODS["bernoulli"].log_prob
    for size in (5.0, 20.0, 60.0):
        certain = log_prob({"logits": jnp.full(1, -size)}, jnp.zeros(1))
        assert certain == pytest.approx(scipy.special.log_expit(size), rel=1e-4)
        wrong = log_prob({"logits": jnp.full(1, -size)}, jnp.ones(1))
        assert wrong == pytest.approx(scipy.special.log_expit(-size), rel=1e-5)


def test_the_mean_of_gaussian_unit_mean_stays_in_the_unit_interval():
    likelihood = LIKELIHOODS["gaussian_unit_mean"]
    logits = jnp.float32([-1e4, -5.0, 0.0, 5.0, 1e4])
    mean = np.asarray(likelihood.mean({"mean_logits": logits, "log_var": jnp.zeros(5)}))
    np.testing.assert_allclose(mean, scipy.special.expit(np.asarray(logits, np.float64)), rtol=1e-5)
    assert np.all((mean >= 0.0) & (mean <= 1.0))
