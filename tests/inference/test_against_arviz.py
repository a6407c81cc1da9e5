"""Diagnostics of chains and Pareto-smoothed weights are those of ArviZ, on the same draws."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from arviz_stats.base.array import array_stats
from marks import slow_but

from aevb.inference import hmc, importance_weights

THEIRS: dict[str, Callable[[np.ndarray], Any]] = {
    "r_hat": array_stats.rhat,
    "bulk_effective_sample_size": partial(array_stats.ess, method="bulk"),
    "tail_effective_sample_size": partial(array_stats.ess, method="tail", prob=(0.05, 0.95)),
    "effective_sample_size": partial(array_stats.ess, method="mean"),
}
ours = cache(lambda name: jax.jit(getattr(hmc, name)))  # compiled once for each shape


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def autoregression(correlation: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(4, 200))  # [C, L]
    x = noise.copy()
    for step in range(1, noise.shape[1]):
        x[:, step] = correlation * x[:, step - 1] + np.sqrt(1 - correlation**2) * noise[:, step]
    return x


def with_rejections(x: np.ndarray) -> np.ndarray:
    """Returns chains in which a third of the states are repeated, as after a rejected proposal."""
    stays = np.random.default_rng(1).uniform(size=x.shape) < 1 / 3
    x = x.copy()
    for step in range(1, x.shape[1]):
        x[:, step] = np.where(stays[:, step], x[:, step - 1], x[:, step])
    return x


CHAINS = {
    "independent": autoregression(0.0),
    "slow": autoregression(0.95),
    "slower": autoregression(0.99, seed=3),
    "antithetic": autoregression(-0.6),
    "shifted": autoregression(0.2) + np.arange(4.0)[:, None],
    "scaled": autoregression(0.2) * np.array([[1.0], [1.0], [1.0], [4.0]]),
    "heavy tails": np.random.default_rng(2).standard_cauchy(size=(4, 200)),
    "rejections": with_rejections(autoregression(0.3)),
}
SAMPLES = np.stack(list(CHAINS.values()), axis=2)


def found(name: str, num_draws: int = 200) -> dict[str, float]:
    """Returns a diagnostic of every kind of chains."""
    values = ours(name)(jnp.asarray(SAMPLES[:, :num_draws]))
    assert values.dtype == jnp.float64
    return dict(zip(CHAINS, values.tolist(), strict=True))


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("num_draws", slow_but([200, 4], [200, 199, 12, 4]))
def test_a_diagnostic_of_chains_is_that_of_arviz(name: str, num_draws: int):
    expected = {
        kind: pytest.approx(float(THEIRS[name](x[:, :num_draws])), rel=1e-6)
        for kind, x in CHAINS.items()
    }
    assert found(name, num_draws) == expected


def test_r_hat_detects_chains_that_differ_only_in_location_or_only_in_scale():
    reductions = found("r_hat")
    assert reductions["shifted"] > 1.1
    assert reductions["scaled"] > 1.1
    assert reductions["independent"] < 1.02


def test_chains_of_a_target_without_a_mean_have_bulk_and_tail_effective_sample_sizes():
    """The draws are independent, so all 800 count, within the noise of the estimate."""
    for name in ("bulk_effective_sample_size", "tail_effective_sample_size"):
        assert found(name)["heavy tails"] == pytest.approx(800, rel=0.25)


@jax.jit
def smoothed_with_k(log_w: jax.Array) -> tuple[jax.Array, jax.Array]:
    largest = importance_weights.of(log_w).largest
    return importance_weights.pareto_smoothed(log_w), importance_weights.pareto_k(largest)


# ArviZ rounds the size of the tail down and the article rounds it up; these sizes need no rounding.
@pytest.mark.parametrize("num_weights", slow_but([900], [100, 900, 10_000]))
@pytest.mark.parametrize("std", [0.3, 3.0])
def test_pareto_smoothed_weights_are_those_of_arviz(num_weights: int, std: float):
    log_w = np.random.default_rng(num_weights).normal(-500.0, std, size=num_weights)
    expected, k = array_stats.psislw(-log_w)  # its argument is minus the log of the weights
    smoothed, found_k = smoothed_with_k(jnp.asarray(log_w))
    normalized = smoothed - scipy.special.logsumexp(smoothed)
    np.testing.assert_allclose(np.exp(normalized), np.exp(expected), rtol=1e-6)
    assert found_k == pytest.approx(float(k), rel=1e-6)
