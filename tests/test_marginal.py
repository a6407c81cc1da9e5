"""Estimates of log p(x) against its exact value, and the side of it on which each one lies."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
from cases import joint_of
from marks import slow_but
from oracles import LinearGaussian, standard_errors_off

from aevb import marginal
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.inference import hmc
from aevb.inference.importance_weights import pareto_k_threshold
from aevb.losses import Guide, Joint, log_weights
from aevb.marginal import (
    ESTIMATORS,
    MAX_R_HAT,
    Estimate,
    ais,
    appendix_d,
    importance_sampling,
    prior_guide,
    reverse_ais,
)

every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
# One lower bound without transitions and one upper bound with them; the others compile slowly.
every_crude = pytest.mark.parametrize("name", slow_but(["importance", "reverse_ais"], ESTIMATORS))

FEW = hmc.Settings(num_leapfrog=4, num_warmup=60)
# Settings at which one estimate is within one or two hundredths of a nat in 3 dimensions.
FINE: dict[str, dict[str, Any]] = {
    "importance": {"num_samples": 20_000, "chunk_size": 1000},
    "importance_upper": {"num_samples": 20_000},
    "ais": {"num_temps": 300, "num_chains": 300, "settings": FEW},
    "reverse_ais": {"num_temps": 300, "num_chains": 300, "settings": FEW},
    "appendix_d": {"num_samples": 100, "num_chains": 50, "settings": FEW},
}
# Settings at which the bias is visible, except that of appendix D: with fewer samples, its fit is
# sometimes so bad that its terms have an infinite variance.
CRUDE: dict[str, dict[str, Any]] = {
    "importance": {"num_samples": 3},
    "importance_upper": {"num_samples": 3},
    "ais": {"num_temps": 10, "num_chains": 2, "settings": FEW},
    "reverse_ais": {"num_temps": 20, "num_chains": 3, "settings": FEW},
    "appendix_d": {"num_samples": 10, "num_chains": 5, "settings": FEW},
}


class Case(NamedTuple):
    """A model, a datapoint with its latent, and a guide that is not the posterior."""

    model: LinearGaussian
    x: np.ndarray
    z: Any  # [Z], an exact sample of p(z|x)
    stats: DiagNormal

    def log_prob(self) -> float:
        return float(self.model.log_prob(self.x))


def make_case(num_dims: int, num_latents: int, seed: int) -> Case:
    """Returns a case whose guide is twice as wide as the posterior.

    The guide's mean is off by half a standard deviation.
    """
    model = oracles.linear_gaussian(seed, num_dims, num_latents)
    model = jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(np.float64), model)
    rng = np.random.default_rng(seed + 1000)
    z = rng.normal(size=num_latents)
    x = model.weights @ z + model.bias + rng.normal(size=num_dims) * np.sqrt(model.noise_var)
    x = x.astype(np.float32).astype(np.float64)
    mean, cov = model.posterior(x)
    std = np.sqrt(np.diag(cov))
    stats = DiagNormal(jnp.float32(mean + 0.5 * std), jnp.float32(2.0 * np.log(2.0 * std)))
    return Case(model, x, z, stats)


def estimate(
    name: str, key: jax.Array, stats: Any, joint: Joint, z: Any, **settings: Any
) -> Estimate:
    """Estimates log p(x) by the estimator of this name, with the exact sample if it needs one."""
    if ESTIMATORS[name].needs_posterior_sample:
        settings = settings | {"posterior_sample": z}
    return ESTIMATORS[name].estimate(key, stats, diag_normal, joint, **settings)


def estimator(name: str, **settings: Any) -> Callable[[jax.Array, Case], Estimate]:
    """Returns a function of a key and one case that estimates log p(x), to be jitted."""

    def run(key: jax.Array, case: Case) -> Estimate:
        return estimate(name, key, case.stats, joint_of(case.model, case.x), case.z, **settings)

    return run


def estimates(name: str, cases: list[Case], seed: int = 0, **settings: Any) -> Estimate:
    """Returns one estimate of each case, with its own key: each field [len(cases)] in float64."""
    keys = jax.random.split(jax.random.key(seed), len(cases))
    found = jax.jit(jax.vmap(estimator(name, **settings)))(keys, stack(cases))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


def stack(cases: list[Case]) -> Case:
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), jnp.float32), *cases)


def repeated(case: Case, number: int) -> list[Case]:
    """Returns copies of a case, each with another exact sample of its posterior."""
    mean, cov = case.model.posterior(case.x)
    draws = np.random.default_rng(0).multivariate_normal(mean, cov, size=number)
    return [case._replace(z=draw) for draw in draws]


# Exactness


@pytest.mark.parametrize(
    ("num_dims", "num_latents"),
    [
        pytest.param(10, 3, marks=pytest.mark.slow),
        pytest.param(4, 1, marks=pytest.mark.slow),
    ],
)
def test_every_estimate_of_log_p_is_within_a_twentieth_of_a_nat_and_bounds_differ_by_less(
    num_dims: int, num_latents: int
):
    """The settings take about a second for each of three models."""
    cases = [make_case(num_dims, num_latents, seed) for seed in range(3)]
    exact = np.array([case.log_prob() for case in cases])
    found = {}
    for name, settings in FINE.items():
        value, error, _ = estimates(name, cases, **settings)
        assert np.all(error < 0.025), name
        assert np.all(abs(value - exact) < 0.05), name
        assert np.all(abs(value - exact) < 4 * error + 1e-4), name
        found[name] = value
    assert np.all(abs(found["appendix_d"] - found["importance"]) < 0.05)
    assert np.all(abs(found["reverse_ais"] - found["ais"]) < 0.05)


@every_crude
def test_each_estimator_is_unbiased_for_p_or_1_over_p_and_bounds_log_p_on_its_side(name: str):
    """The side follows from Jensen's inequality; the table says which one it is."""
    case, number = make_case(5, 2, seed=5), 500
    value = estimates(name, repeated(case, number), **CRUDE[name]).value - case.log_prob()
    sign = {"lower": 1.0, "upper": -1.0}[ESTIMATORS[name].kind]
    assert standard_errors_off(np.exp(sign * value), 1.0) < 4
    if name != "appendix_d":
        assert sign * np.mean(value) < -4 * np.std(value) / math.sqrt(number)


@pytest.mark.slow
def test_the_estimate_of_appendix_d_is_above_log_p_if_its_fit_is_bad():
    settings = {"num_samples": 4, "num_chains": 3, "settings": FEW}
    case, number = make_case(5, 3, seed=5), 2000
    value = estimates("appendix_d", repeated(case, number), **settings).value - case.log_prob()
    assert np.mean(value) > 4 * np.std(value) / math.sqrt(number)


@every_estimator
@pytest.mark.slow
def test_the_standard_error_is_the_spread_over_seeds(name: str):
    case, number = make_case(6, 2, seed=7), 100
    settings = {
        "importance": {"num_samples": 300},
        "importance_upper": {"num_samples": 300},
        "ais": {"num_temps": 100, "num_chains": 100, "settings": FEW},
        "reverse_ais": {"num_temps": 100, "num_chains": 100, "settings": FEW},
        "appendix_d": {"num_samples": 20, "num_chains": 80, "settings": FEW},
    }[name]
    value, error, _ = estimates(name, repeated(case, number), seed=1, **settings)
    scores = (value - case.log_prob()) / error
    assert abs(np.mean(scores)) < 4 / math.sqrt(number) + 0.1  # 0.1 allows for the bias of the log
    assert abs(np.std(scores) - 1.0) < 4 / math.sqrt(2 * number)


@pytest.mark.slow
def test_annealing_from_the_prior_estimates_log_p_in_both_directions():
    """The path of Wu et al. (2017) is checked in both directions, within 4 standard errors."""
    cases = [make_case(6, 3, seed) for seed in range(3)]
    guide = prior_guide(StandardNormal(3))
    settings: dict[str, Any] = {"num_temps": 200, "num_chains": 100, "settings": FEW}

    @jax.jit
    @jax.vmap
    def both(key: jax.Array, case: Case) -> tuple[Estimate, Estimate]:
        joint = joint_of(case.model, case.x)
        lower = ais(key, (), guide, joint, **settings)
        return lower, reverse_ais(key, (), guide, joint, posterior_sample=case.z, **settings)

    exact = np.array([case.log_prob() for case in cases])
    for value, error, diagnostics in both(jax.random.split(jax.random.key(0), 3), stack(cases)):
        assert np.all(error < 0.1)
        assert np.all(abs(value - exact) < 4 * error)
        assert diagnostics["acceptance"] == pytest.approx(0.8, abs=0.1)


# A nonlinear decoder, against quadrature


class Decoder(NamedTuple):
    """The model Bernoulli(sigmoid(V tanh(W z) + b)), whose posterior is not Gaussian."""

    hidden: np.ndarray  # [H, Z]
    output: np.ndarray  # [D, H]
    bias: np.ndarray  # [D]

    def log_joint(self, z: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Returns log p(x, z) for z [n, Z], in float64."""
        logits = np.tanh(z @ self.hidden.T) @ self.output.T + self.bias
        log_lik = np.sum(x * logits - np.logaddexp(0.0, logits), axis=1)
        return log_lik - 0.5 * np.sum(oracles.LOG_2PI + z**2, axis=1)

    def joint(self, x: np.ndarray) -> Joint:
        hidden, output, bias, x = jax.tree.map(jnp.float32, (*self, x))

        def log_lik(z: jax.Array) -> jax.Array:
            logits = output @ jnp.tanh(hidden @ z) + bias
            return jnp.sum(x * logits - jax.nn.softplus(logits))

        return Joint(StandardNormal(hidden.shape[1]).log_prob, log_lik)


def make_decoder(num_latents: int, seed: int) -> tuple[Decoder, np.ndarray, np.ndarray]:
    """Returns a decoder, and a datapoint with its latent."""
    rng = np.random.default_rng(seed)
    shapes = [(6, num_latents), (8, 6), (8,)]
    decoder = Decoder(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))
    z = rng.normal(size=num_latents)
    logits = decoder.output @ np.tanh(decoder.hidden @ z) + decoder.bias
    return decoder, rng.binomial(1, scipy.special.expit(logits)).astype(np.float64), z


@pytest.mark.parametrize(
    ("num_latents", "seed"),
    [pytest.param(1, 0, marks=pytest.mark.slow), pytest.param(2, 1, marks=pytest.mark.slow)],
)
def test_every_estimate_agrees_with_quadrature_on_a_posterior_that_is_not_gaussian(
    num_latents: int, seed: int
):
    decoder, x, z = make_decoder(num_latents, seed)
    exact = oracles.quadrature_log_prob(lambda points: decoder.log_joint(points, x), num_latents)
    stats = DiagNormal(jnp.zeros(num_latents), jnp.zeros(num_latents))
    for name, settings in FINE.items():
        run = partial(estimate, name, joint=decoder.joint(x), z=jnp.float32(z), **settings)
        value, error, _ = jax.jit(run)(jax.random.key(seed), stats)
        assert error < 0.03, name
        assert abs(value - exact) < 4 * error + 1e-4, name


@pytest.mark.parametrize("num_latents", [1, 2])
def test_the_quadrature_agrees_with_the_closed_form_of_a_linear_model(num_latents: int):
    model = oracles.linear_gaussian(0, 4, num_latents)
    x = np.random.default_rng(0).normal(size=4)

    def log_joint(z: np.ndarray) -> np.ndarray:
        means, normal = z @ model.weights.T + model.bias, scipy.stats.norm.logpdf
        return normal(x, means, model.noise_var**0.5).sum(axis=1) + normal(z).sum(axis=1)

    found = oracles.quadrature_log_prob(log_joint, num_latents, points=401)
    assert found == pytest.approx(model.log_prob(x), rel=1e-9)


# Importance sampling


def test_importance_sampling_is_the_log_mean_of_its_weights_however_they_are_chunked():
    case, key, num_samples = make_case(4, 2, seed=8), jax.random.key(3), 100
    joint = joint_of(case.model, case.x)

    def log_weight(index: jax.Array) -> jax.Array:
        sample_key = jax.random.fold_in(key, index)
        return log_weights(sample_key, case.stats, diag_normal, joint, num_samples=1)[0]

    @jax.jit
    def run() -> tuple[jax.Array, dict[int, Estimate]]:
        found = {
            chunk_size: importance_sampling(
                key, case.stats, diag_normal, joint, num_samples=num_samples, chunk_size=chunk_size
            )
            for chunk_size in (7, 99, 500)
        }
        return jax.vmap(log_weight)(jnp.arange(num_samples)), found

    log_w, found = run()
    log_w = np.asarray(log_w, np.float64)
    expected = np.logaddexp.reduce(log_w) - math.log(num_samples)
    ess = np.exp(2 * np.logaddexp.reduce(log_w) - np.logaddexp.reduce(2 * log_w))
    for chunk_size, (value, _, diagnostics) in found.items():
        assert value == pytest.approx(expected, abs=1e-4), chunk_size
        assert diagnostics["effective_sample_size"] == pytest.approx(ess, rel=1e-3), chunk_size


def test_importance_sampling_accepts_the_prior_as_its_guide():
    case, prior = make_case(4, 2, seed=8), StandardNormal(2)
    joint = joint_of(case.model, case.x)
    run = partial(importance_sampling, stats=(), joint=joint, num_samples=5000)
    value, error, _ = jax.jit(partial(run, guide=prior_guide(prior)))(jax.random.key(0))
    assert error < 0.1
    assert abs(value - case.log_prob()) < 4 * error


def test_the_memory_of_importance_sampling_does_not_grow_with_its_samples():
    """Beyond a chunk of 500, 50,000 need only the tail for Pareto k: 604 numbers, sorted."""
    keys = jax.random.split(jax.random.key(0))
    hidden, output = jax.random.normal(keys[0], (3, 200)), jax.random.normal(keys[1], (200, 400))

    def log_lik(z: jax.Array) -> jax.Array:
        return -jnp.sum(jax.nn.softplus(jnp.tanh(z @ hidden) @ output))

    joint = Joint(StandardNormal(3).log_prob, log_lik)

    def bytes_for(num_samples: int) -> int:
        run = partial(
            importance_sampling, guide=diag_normal, joint=joint, num_samples=num_samples,
            chunk_size=500,
        )  # fmt: skip
        stats = DiagNormal(jnp.zeros(3), jnp.zeros(3))
        analysis = jax.jit(run).lower(jax.random.key(0), stats).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    few, many = bytes_for(500), bytes_for(50_000)
    assert few > 500 * 400 * 4  # the chunk's activations are counted
    assert many - few < 16 * 604 * 4
    assert many < 1.05 * few


@cache
def at_three_guides() -> tuple[float, Estimate]:
    """Returns log p(x) of one datapoint, and importance sampling by three guides.

    The first guide is too wide, the second is too narrow, and the third is the posterior.
    """
    model = oracles.orthogonal_linear_gaussian(0, 6, 3)
    x = np.random.default_rng(0).normal(size=6)
    mean, cov = model.posterior(x)
    cases = [
        Case(model, x, mean, DiagNormal(jnp.float32(mean + shift), jnp.float32(log_var)))
        for shift, log_var in (
            (0.5 * np.sqrt(np.diag(cov)), np.log(4.0 * np.diag(cov))),
            (0.5 * np.sqrt(np.diag(cov)), np.log(0.1 * np.diag(cov))),
            (0.0, np.log(np.diag(cov))),
        )
    ]
    return float(model.log_prob(x)), estimates("importance", cases, num_samples=5000)


def test_every_importance_weight_at_the_exact_posterior_is_p():
    log_prob, (value, error, diagnostics) = at_three_guides()
    assert value[2] == pytest.approx(log_prob, abs=1e-4)
    assert error[2] < 1e-4
    assert diagnostics["effective_sample_size"][2] == pytest.approx(5000, rel=1e-3)


def test_pareto_k_detects_a_guide_with_thin_tails():
    diagnostics = at_three_guides()[1].diagnostics
    trusted, warned, _ = diagnostics["pareto_k"]
    assert trusted < 0.5
    assert warned > pareto_k_threshold(5000)
    trusted, warned, _ = diagnostics["effective_sample_size"]
    assert warned < 0.1 * trusted


def test_the_smoothed_estimate_is_near_the_plain_one_where_pareto_k_is_small():
    log_prob, (value, error, diagnostics) = at_three_guides()
    smoothed = diagnostics["pareto_smoothed"]
    assert abs(smoothed[0] - value[0]) < error[0]
    assert abs(smoothed[0] - log_prob) < 4 * error[0]
    assert smoothed[2] == pytest.approx(value[2], abs=1e-4)  # all weights are equal


# Diagnostics of chains


@cache
def at_two_peaks() -> Estimate:
    """Returns appendix D of N(z; peaks, 0.1^2) with log_weights, for three pairs of peaks.

    The guide gives both peaks the same weight. The three cases are two equal peaks that HMC cannot
    leave, one peak, and two peaks of which one has 1e-5 of the other's weight.
    """
    settings: dict[str, Any] = {"num_samples": 50, "num_chains": 10, "settings": FEW}

    def mixture(log_weights: jax.Array, peaks: jax.Array, z: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(log_weights + jax.scipy.stats.norm.logpdf(z[0], peaks, 0.1))

    def sample(key: jax.Array, peaks: jax.Array) -> jax.Array:
        side_key, key = jax.random.split(key)
        which = jax.random.bernoulli(side_key).astype(jnp.int32)
        return peaks[which][None] + 0.1 * jax.random.normal(key, (1,))

    guide = Guide(sample, lambda peaks, z: mixture(jnp.log(jnp.full(2, 0.5)), peaks, z))

    @jax.jit
    @jax.vmap
    def run(weights: jax.Array, peaks: jax.Array) -> Estimate:
        joint = Joint(lambda z: mixture(jnp.log(weights), peaks, z), lambda z: jnp.float32(0))
        return appendix_d(jax.random.key(0), peaks, guide, joint, **settings)

    weights = jnp.float32([[0.5, 0.5], [0.5, 0.5], [1.0, 1e-5]])
    return run(weights, jnp.float32([[-3.0, 3.0], [0.0, 0.0], [-3.0, 3.0]]))


@pytest.mark.slow
def test_r_hat_of_appendix_d_detects_chains_that_disagree():
    diagnostics = at_two_peaks().diagnostics
    parted, together, _ = diagnostics["r_hat"]
    assert parted > 1.3
    assert together < MAX_R_HAT
    # The events of the tails have chains of one peak only, so that these disagree less.
    for name, most in (("bulk_effective_sample_size", 0.1), ("tail_effective_sample_size", 0.25)):
        parted, together, _ = diagnostics[name]
        assert parted < most * together, name
        assert 50 < together < 1500, name
    np.testing.assert_array_equal(diagnostics["num_divergent"], 0)


@pytest.mark.slow
def test_appendix_d_claims_an_upper_bound_only_where_its_chains_agree():
    """Where they do not, the value is the log of less than p(x): here it can be below log p(x)."""
    claims = at_two_peaks().diagnostics["is_upper_bound"]
    assert claims.dtype == bool
    assert not claims[0]
    assert claims[1]


@pytest.mark.parametrize(
    ("r_hat", "num_chains", "num_divergent", "claims"),
    [
        (1.05, 4, 0, True), (1.06, 4, 0, False), (math.nan, 4, 0, False), (1.0, 3, 0, False),
        (1.0, 4, 1, False),
    ],
)  # fmt: skip
def test_an_upper_bound_is_claimed_for_four_chains_that_agree_without_a_divergence(
    r_hat: float, num_chains: int, num_divergent: int, claims: bool
):
    found = marginal.is_upper_bound(jnp.float32(r_hat), num_chains, jnp.int32(num_divergent))
    assert found == claims


@pytest.mark.slow
def test_chains_of_appendix_d_start_where_the_posterior_is_and_not_where_only_the_guide_is():
    """The log of the smaller peak's share would be 11 nats below log p(x) = 0."""
    found = jax.tree.map(lambda leaf: float(leaf[2]), at_two_peaks())
    assert abs(found.value) < max(0.05, 4 * found.standard_error)
    assert found.diagnostics["r_hat"] < 1.1


@pytest.mark.slow
def test_warm_up_makes_reverse_chains_independent_of_their_common_start():
    """The shared z is far from the posterior, so the part of it that remains can be measured."""
    case = make_case(6, 3, seed=2)
    cases = [case._replace(z=case.z + 5.0)] * 20
    stuck, free = (
        estimates(
            "reverse_ais",
            cases,
            num_temps=20,
            num_chains=50,
            settings=FEW._replace(num_warmup=num_warmup),
        )
        for num_warmup in (0, 100)
    )
    assert standard_errors_off(stuck.value, case.log_prob()) > 4
    assert abs(np.mean(free.value) - case.log_prob()) < 0.1


# Properties that all of them share

CHAINS = ("ais", "reverse_ais", "appendix_d")


@every_estimator
def test_the_docstring_of_every_estimator_names_its_side_in_the_first_line(name: str):
    function, kind, *_ = ESTIMATORS[name]
    first_line = (function.__doc__ or "").splitlines()[0]
    assert f"a stochastic {kind.upper()} bound" in first_line


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        *((name, {"num_chains": 1}, "num_chains is 1; it must be at least 2") for name in CHAINS),
        *((name, {"num_temps": 1}, "num_temps is 1; it must be at least 2") for name in CHAINS[:2]),
        ("appendix_d", {"num_samples": 3}, "num_samples is 3; it must be at least 4"),
        ("importance", {"num_samples": 1}, "num_samples is 1; it must be at least 2"),
        ("importance_upper", {"num_samples": 2}, "num_samples is 2; it must be at least 3"),
        ("importance", {"chunk_size": 0}, "chunk_size is 0"),
        *((name, {"settings": FEW._replace(num_leapfrog=0)}, "leapfrog is 0") for name in CHAINS),
        ("reverse_ais", {"settings": FEW._replace(num_warmup=-1)}, "num_warmup is -1"),
        ("appendix_d", {"settings": FEW._replace(num_warmup=0)}, "num_warmup is 0"),
        ("appendix_d", {"num_samples": 4, "num_chains": 2}, "is 8; it must be at least 9"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, changes: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        estimates(name, [make_case(10, 8, seed=0)], **CRUDE[name] | changes)
