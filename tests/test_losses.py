"""Bounds of a linear-Gaussian model, against their exact means."""

import functools
import inspect
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
from cases import (
    CASES,
    EXPECTED,
    NUM_DRAWS,
    PHI,
    Case,
    Estimates,
    draws_of,
    estimates_of,
    every_case,
    exact_case,
    exact_gradient,
    expectation_over_pairs,
    iwae_of_two,
    joint_of,
    keys,
    log_weights_at,
    make_case,
)
from oracles import standard_errors_off

from aevb import losses
from aevb.distributions import DiagNormal, FullNormal, StandardNormal
from aevb.guides import diag_normal, full_normal
from aevb.losses import (
    BOUNDS,
    NOT_BOUNDS_ON_LOG_P,
    TAKE_KL_WEIGHT,
    Bound,
    Joint,
    closed_kl,
    evidence_lower_bound,
    free_bits_per_unit,
    log_weights,
    minibatch_objective,
    renyi,
    with_kl_weight,
)

SEED = 10
CASE = make_case(4, 2, seed=1)

every_bound = pytest.mark.parametrize("name", BOUNDS)


@every_case
def test_the_exact_elbo_and_kl_add_up_to_log_p_by_eq_1(sizes: tuple[int, int, int]):
    """log p(x) - ELBO = KL(q || posterior)."""
    model, x, mean, log_var = case = make_case(*sizes)
    gap = oracles.kl_gaussians(mean, np.diag(np.exp(log_var)), *model.posterior(x))
    assert model.log_prob(x) - case.elbo() == pytest.approx(gap, rel=1e-9)


@every_case
def test_the_quadrature_agrees_with_closed_forms_and_with_simulation(sizes: tuple[int, int, int]):
    case, (_, num_latents, seed) = make_case(*sizes), sizes
    elbo = expectation_over_pairs(case, lambda log_w: 0.5 * (log_w[0] + log_w[1]))
    assert elbo == pytest.approx(case.elbo(), rel=1e-9)
    noise = np.random.default_rng(seed).normal(size=(2, 200_000, num_latents))
    simulated = np.logaddexp(*(log_weights_at(case, each) for each in noise)) - np.log(2.0)
    assert standard_errors_off(simulated, iwae_of_two(case)) < 4


@functools.cache
def estimates(sizes: tuple[int, int, int]) -> dict[str, Estimates]:
    bounds = {
        name: partial(BOUNDS[name], num_samples=EXPECTED[name].num_samples) for name in BOUNDS
    }
    return estimates_of(bounds, make_case(*sizes), seed=SEED)


@every_bound
@every_case
def test_the_mean_of_each_bound_is_exact(name: str, sizes: tuple[int, int, int]):
    exact = EXPECTED[name].value(make_case(*sizes))
    assert standard_errors_off(estimates(sizes)[name].value, exact) < 4


@every_bound
@every_case
def test_the_mean_gradient_of_each_bound_is_exact(name: str, sizes: tuple[int, int, int]):
    """The gradient is in the guide's statistics (phi) and the model's weights and bias (theta)."""
    value, of_phi, _ = EXPECTED[name]
    for part, draws in estimates(sizes)[name].gradient.items():
        objective = of_phi if of_phi and part in PHI else value
        assert standard_errors_off(draws, exact_gradient(objective, sizes)[part]) < 4, part


@functools.cache
def draws_of_every_bound(case_seed: int, seed: int) -> dict[str, np.ndarray]:
    """Returns draws of every bound with 10 samples each, from one program."""
    draws = draws_of(every_bound_stacked, make_case(4, 2, case_seed), num_samples=10, seed=seed)
    return dict(zip(BOUNDS, draws.T, strict=True))


def every_bound_stacked(*arguments: Any, num_samples: int) -> jax.Array:
    return jnp.stack([bound(*arguments, num_samples=num_samples) for bound in BOUNDS.values()])


@pytest.mark.parametrize("name", [name for name in BOUNDS if name not in NOT_BOUNDS_ON_LOG_P])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_bound_exceeds_log_p_on_average(name: str, seed: int):
    case, draws = make_case(4, 2, seed), draws_of_every_bound(seed, seed)[name]
    standard_error = np.std(draws) / np.sqrt(NUM_DRAWS)
    assert np.mean(draws) < case.model.log_prob(case.x) + 4 * standard_error


# If the KL has a small weight, the objective is nearly E[log p(x|z)].
BEYOND_LOG_P = {"beta_elbo": {"beta": 0.1}}


@pytest.mark.parametrize("name", NOT_BOUNDS_ON_LOG_P)
def test_entries_listed_as_no_bound_can_exceed_log_p_on_average(name: str):
    case = exact_case(4, 2, seed=0)
    draws = draws_of(partial(BOUNDS[name], **BEYOND_LOG_P[name]), case)
    standard_error = np.std(draws) / np.sqrt(NUM_DRAWS)
    assert np.mean(draws) > case.model.log_prob(case.x) + 4 * standard_error
    assert "NOT A BOUND" in " ".join(str(BOUNDS[name].__doc__).split())


@pytest.mark.parametrize(
    ("num_dims", "num_latents"),
    [(1, 1), (4, 2), pytest.param(6, 3, marks=pytest.mark.slow)],
)
def test_sgvb_a_has_no_variance_at_the_exact_posterior(num_dims: int, num_latents: int):
    """There log p(x, z) - log q(z|x) is log p(x) at every z; sgvb_b keeps log p(x|z)'s spread."""
    case = exact_case(num_dims, num_latents, seed=0)
    log_prob = case.model.log_prob(case.x)
    assert case.elbo() == pytest.approx(log_prob, rel=1e-9)
    np.testing.assert_allclose(draws_of(BOUNDS["sgvb_a"], case), log_prob, atol=1e-4)
    draws = draws_of(BOUNDS["sgvb_b"], case)
    assert np.std(draws) > 0.1
    assert standard_errors_off(draws, log_prob) < 4


def test_sgvbs_variance_falls_as_one_over_num_samples():
    case = make_case(4, 2, seed=1)

    def both(*arguments: Any, num_samples: int) -> jax.Array:
        bounds = (BOUNDS["sgvb_a"], BOUNDS["sgvb_b"])
        return jnp.stack([bound(*arguments, num_samples=num_samples) for bound in bounds])

    few = draws_of(both, case, num_samples=2).T
    many = draws_of(both, case, num_samples=20, seed=1).T
    for single, averaged in zip(few, many, strict=True):
        tolerance = np.hypot(
            oracles.variance_standard_error(single) / 10, oracles.variance_standard_error(averaged)
        )
        assert abs(np.var(single) / 10 - np.var(averaged)) < 4 * tolerance
        assert standard_errors_off(averaged, case.elbo()) < 4


@pytest.mark.parametrize(("num_dims", "num_latents", "seed"), CASES[:2])
def test_importance_weights_are_unbiased_for_p_and_their_logs_for_the_elbo(
    num_dims: int, num_latents: int, seed: int
):
    case = make_case(num_dims, num_latents, seed)
    # A guide wider than the posterior, so that the weights' variance is finite.
    case = case._replace(log_var=np.full(num_latents, 0.2), mean=case.model.posterior(case.x)[0])
    joint = joint_of(case.model, case.x)
    log_w = jax.jit(
        lambda key: log_weights(key, case.stats(), diag_normal, joint, num_samples=NUM_DRAWS)
    )(jax.random.key(seed))
    assert log_w.shape == (NUM_DRAWS,)
    log_w = np.asarray(log_w, np.float64)
    log_prob = case.model.log_prob(case.x)
    assert standard_errors_off(np.exp(log_w - log_prob), 1.0) < 4
    assert standard_errors_off(log_w, case.elbo()) < 4


# The closed-form KL to a prior that need not be N(0, I)


class Shifted(StandardNormal):
    """N(1, 4) in each dimension, as a class that a user might write."""

    def log_prob(self, z: jax.Array) -> jax.Array:
        return jnp.sum(jax.scipy.stats.norm.logpdf(z, 1.0, 2.0))


def kl_to_shifted(stats: DiagNormal, prior: object) -> jax.Array | None:
    """Returns the KL to `Shifted`, as a user might write it for `diag_normal`."""
    if not isinstance(prior, Shifted):
        return None
    var = jnp.exp(stats.log_var)
    return 0.5 * jnp.sum((var + (stats.mean - 1.0) ** 2) / 4.0 - 1.0 - stats.log_var + math.log(4))


SHIFTED = DiagNormal(jnp.float32([1.0, 1.0]), jnp.log(jnp.float32([4.0, 4.0])))
PAIRS = {
    "a prior of a known type": (diag_normal, SHIFTED),
    "a KL of the user's own": (diag_normal._replace(kl=kl_to_shifted), Shifted(2)),
}
UNKNOWN_PAIRS = {
    "a guide without a KL": (diag_normal._replace(kl=None, kl_per_unit=None), StandardNormal(2)),
    "a prior of the user's own": (diag_normal, Shifted(2)),
    "a function": (diag_normal, Shifted(2).log_prob),
    "the density of a known prior": (diag_normal, StandardNormal(2).log_prob),
    "a full covariance": (full_normal, SHIFTED),
}
needs_kl = pytest.mark.parametrize(
    "name", ["sgvb_b", "beta_elbo", "free_bits", "free_bits_per_unit"]
)


@pytest.mark.parametrize("pair", UNKNOWN_PAIRS)
@needs_kl
def test_a_bound_refuses_a_guide_without_a_closed_kl_to_the_prior(name: str, pair: str):
    guide, prior = UNKNOWN_PAIRS[pair]
    stats: Any = DiagNormal(jnp.zeros(2), jnp.zeros(2))
    if guide is full_normal:
        stats = FullNormal(jnp.zeros(2), jnp.zeros(2), jnp.zeros(1))

    @jax.jit
    @jax.vmap
    def bound(key: jax.Array) -> jax.Array:
        return BOUNDS[name](key, stats, guide, Joint(prior, jnp.sum))

    with pytest.raises(
        ValueError, match=f"{name} needs .* prior of type .*; use .*sgvb_a"
    ) as caught:
        bound(keys(2))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("pair", PAIRS)
def test_the_kl_to_a_prior_of_another_mean_and_variance_is_that_by_quadrature(pair: str):
    """log p(x|z) is 0, so that every bound of one sample is the KL times its weight."""
    guide, prior = PAIRS[pair]
    mean, std = np.array([-0.4, 2.5]), np.array([0.3, 1.7])
    stats = DiagNormal(jnp.float32(mean), 2.0 * jnp.log(jnp.float32(std)))
    nodes, masses = np.polynomial.hermite_e.hermegauss(20)
    z = mean + std * nodes[:, None]
    log_ratio = scipy.stats.norm.logpdf(z, mean, std) - scipy.stats.norm.logpdf(z, 1.0, 2.0)
    kl = masses @ np.sum(log_ratio, axis=1) / np.sum(masses)

    @jax.jit
    @jax.vmap
    def bounds(key: jax.Array) -> jax.Array:
        arguments = (key, stats, guide, Joint(prior, lambda z: jnp.float32(0.0)))
        return jnp.stack([BOUNDS[name](*arguments) for name in ("sgvb_a", "sgvb_b", "beta_elbo")])

    by_samples, closed, weighted = np.asarray(bounds(keys()), np.float64).T
    np.testing.assert_allclose(closed, -kl, rtol=1e-6)
    np.testing.assert_allclose(weighted, -4.0 * kl, rtol=1e-6)
    assert standard_errors_off(by_samples, -kl) < 4


def test_the_bound_for_evaluation_is_sgvb_b_only_where_the_kl_has_a_closed_form():
    stats, key = DiagNormal(jnp.zeros(2), jnp.zeros(2)), jax.random.key(0)
    for (guide, prior), expected in (
        *((pair, "sgvb_b") for pair in PAIRS.values()),
        *((pair, "sgvb_a") for pair in list(UNKNOWN_PAIRS.values())[:-1]),
    ):
        arguments = (key, stats, guide, Joint(prior, jnp.sum))
        assert evidence_lower_bound(*arguments) == BOUNDS[expected](*arguments)


# the bound, its arguments, and words of the error message
REFUSED = [
    *(
        (name, {"num_samples": number}, f"num_samples is {number}; .*at least [12]")
        for name in BOUNDS
        for number in (0, -1)
    ),
    ("score_function_loo", {"num_samples": 1}, "num_samples is 1; it must be at least 2"),
    *(
        (name, {"num_samples": 6, "num_groups": groups}, f"num_groups is {groups}; .* which is 6")
        for name in ("miwae", "piwae")
        for groups in (0, -2, 4, 7, 2.0)
    ),
    ("ciwae", {"beta": -0.1}, "beta is -0.1; .* from 0 to 1"),
    ("ciwae", {"beta": 1.1}, "beta is 1.1; .* from 0 to 1"),
    ("ciwae", {"beta": np.nan}, "beta is nan"),
    *(
        (name, {option: value}, f"{option} is {value}; .* finite number of at least 0")
        for name, option in (
            *(("renyi", "alpha"), ("beta_elbo", "beta"), ("free_bits", "free_nats")),
            ("free_bits_per_unit", "free_nats"),
        )
        for value in (-0.5, np.inf, np.nan)
    ),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_arguments_of_a_bound_out_of_range_are_refused_in_one_line(
    name: str, arguments: dict[str, Any], message: str
):
    case = make_case(1, 1, seed=0)
    bound: Callable[..., jax.Array] = partial(BOUNDS[name], **arguments)
    with pytest.raises(ValueError, match=message) as caught:
        jax.eval_shape(
            lambda key: bound(key, case.stats(), diag_normal, joint_of(case.model, case.x)),
            jax.random.key(0),
        )
    assert len(str(caught.value).splitlines()) == 1


@every_bound
def test_every_entry_of_bounds_can_be_called_as_a_bound_and_is_named_as_its_function(name: str):
    """It has Bound's signature; all further arguments are keyword-only and have defaults."""
    assert getattr(BOUNDS[name], "__name__", None) == name
    expected = [p for n, p in inspect.signature(Bound.__call__).parameters.items() if n != "self"]
    parameters = list(inspect.signature(BOUNDS[name]).parameters.values())
    for parameter, other in zip(parameters, expected, strict=False):
        assert parameter.name == other.name
        assert parameter.kind == other.kind
        assert parameter.default == other.default
    for parameter in parameters[len(expected) :]:
        assert parameter.kind == parameter.KEYWORD_ONLY
        assert type(parameter.default) in (int, float)


@every_bound
def test_each_bound_evaluates_the_model_once_for_each_sample(name: str):
    """The decoder is the main cost of a bound, so it is applied once, to all samples."""
    joint = joint_of(CASE.model, CASE.x)
    passes = []

    def log_lik(z: jax.Array) -> jax.Array:
        passes.append(z)
        return joint.log_lik(z)

    def bound(key: jax.Array) -> jax.Array:
        counted = joint._replace(log_lik=log_lik)
        return BOUNDS[name](key, CASE.stats(), diag_normal, counted, num_samples=4)

    jax.eval_shape(bound, jax.random.key(0))
    assert len(passes) == 1


# Bounds on the same samples

Entry = tuple[str, dict[str, float]]  # a bound and its options


@functools.cache
def on_the_same_samples() -> dict[str, np.ndarray]:
    """Returns draws [NUM_DRAWS] of all of COMPARED; one program compiles faster than many."""

    def together(key: jax.Array, *arguments: Any, num_samples: int) -> jax.Array:
        entries = [partial(BOUNDS[name], **options) for name, options in COMPARED.values()]
        return jnp.stack([entry(key, *arguments, num_samples=num_samples) for entry in entries])

    draws = draws_of(together, CASE, num_samples=6)
    return dict(zip(COMPARED, draws.T, strict=True))


def values(name: str, **options: float) -> np.ndarray:
    return on_the_same_samples()[str((name, options))]


# pairs that are equal, sample for sample
SAME: dict[str, tuple[Entry, Entry]] = {
    "the score function's value is the ELBO's": (("score_function", {}), ("sgvb_a", {})),
    "the baseline leaves the value alone": (("score_function_loo", {}), ("sgvb_a", {})),
    "stl's value is the ELBO's": (("stl", {}), ("sgvb_a", {})),
    "dreg's value is IWAE's": (("dreg", {}), ("iwae", {})),
    "piwae's value is IWAE's": (("piwae", {}), ("iwae", {})),
    "miwae of one group is IWAE": (("miwae", {"num_groups": 1}), ("iwae", {})),
    "miwae of groups of one is the ELBO": (("miwae", {"num_groups": 6}), ("sgvb_a", {})),
    "ciwae at beta 1 is the ELBO": (("ciwae", {"beta": 1}), ("sgvb_a", {})),
    "ciwae at beta 0 is IWAE": (("ciwae", {"beta": 0}), ("iwae", {})),
    "renyi at alpha 1 is the ELBO": (("renyi", {"alpha": 1}), ("sgvb_a", {})),
    "renyi at alpha 0 is IWAE": (("renyi", {"alpha": 0}), ("iwae", {})),
    "renyi tends to the ELBO from below 1": (("renyi", {"alpha": 1 - 1e-6}), ("sgvb_a", {})),
    "renyi tends to the ELBO from above 1": (("renyi", {"alpha": 1 + 1e-6}), ("sgvb_a", {})),
    "beta_elbo at beta 1 is sgvb_b": (("beta_elbo", {"beta": 1}), ("sgvb_b", {})),
    "free_bits of 0 nats is sgvb_b": (("free_bits", {"free_nats": 0}), ("sgvb_b", {})),
    "free_bits_per_unit of 0 nats is sgvb_b": (
        ("free_bits_per_unit", {"free_nats": 0}),
        ("sgvb_b", {}),
    ),
}
ALPHAS = (0, 0.3, 0.9, 0.999, 1, 1.001, 1.5, 5)
FREE_BITS = ("free_bits", "free_bits_per_unit")
WEIGHTS_OF_KL = (0.5, 2.0, 7.0)  # CASE's KL of 1.81 nats is between them

ENTRIES: list[Entry] = [
    *itertools.chain.from_iterable(SAME.values()),
    *(("renyi", {"alpha": alpha}) for alpha in ALPHAS),
    *(("beta_elbo", {"beta": beta}) for beta in WEIGHTS_OF_KL),
    *((name, {"free_nats": nats}) for name in FREE_BITS for nats in WEIGHTS_OF_KL),
    ("miwae", {"num_groups": 2}),
]
COMPARED = {str(entry): entry for entry in ENTRIES}


@pytest.mark.parametrize("claim", SAME)
def test_bounds_that_are_equal_by_definition_are_equal_on_the_same_samples(claim: str):
    (name, options), (other, other_options) = SAME[claim]
    np.testing.assert_allclose(
        values(name, **options), values(other, **other_options), rtol=2e-5, atol=1e-4
    )


def test_miwae_averages_the_iwae_bounds_of_consecutive_samples():
    def groups(key: jax.Array) -> jax.Array:
        joint = joint_of(CASE.model, CASE.x)
        return log_weights(key, CASE.stats(), diag_normal, joint, num_samples=6).reshape(2, 3)

    log_w = np.asarray(jax.jit(jax.vmap(groups))(keys()), np.float64)
    expected = np.mean(scipy.special.logsumexp(log_w, axis=2) - np.log(3), axis=1)
    np.testing.assert_allclose(values("miwae", num_groups=2), expected, rtol=2e-5, atol=1e-4)


def test_renyi_falls_as_alpha_rises():
    """It is a power mean of the weights, so this holds for every set of samples."""
    for alpha, larger in itertools.pairwise(ALPHAS):
        difference = values("renyi", alpha=alpha) - values("renyi", alpha=larger)
        assert np.all(difference > -1e-4)
        assert np.mean(difference) > 1e-4


@pytest.mark.parametrize("num_samples", [6, 5000, 100_000])
def test_renyi_in_float32_is_within_4_roundings_of_float64(
    num_samples: int, monkeypatch: pytest.MonkeyPatch
):
    """A rounding is that of the largest log weight: 1e-5 nats at 100 nats."""
    alphas = (0, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0001, 1.001, 1.5, 2, 10)
    noise = np.random.default_rng(0).normal(size=num_samples)
    log_w = np.float32(-100.0 + np.outer([0.01, 1.0, 10.0, 100.0], noise))

    @jax.jit
    @jax.vmap
    def found(log_w: jax.Array) -> jax.Array:
        monkeypatch.setattr(losses, "log_weights", lambda *_, num_samples: log_w)
        arguments = (jax.random.key(0), CASE.stats(), diag_normal, joint_of(CASE.model, CASE.x))
        return jnp.stack([renyi(*arguments, alpha=alpha) for alpha in alphas])

    def exact(alpha: float) -> np.ndarray:
        highest = np.max(log_w, axis=1) if alpha < 1 else np.min(log_w, axis=1)
        powers = (1 - alpha) * (np.float64(log_w) - highest[:, None])
        return highest + np.log1p(np.mean(np.expm1(powers), axis=1)) / (1 - alpha)

    errors = np.abs(np.asarray(found(log_w)) - np.stack([exact(a) for a in alphas], axis=1))
    rounding = np.finfo(np.float32).eps * np.max(np.abs(log_w), axis=1, keepdims=True)
    assert np.all(errors < 4 * rounding)


def test_renyi_is_finite_where_the_weights_are_hundreds_of_nats_apart():
    case = CASE._replace(x=CASE.x + 60.0)
    assert np.ptp(draws_of(BOUNDS["sgvb_a"], case)) > 500.0

    def each(*arguments: Any, num_samples: int) -> jax.Array:
        alphas = (0, 0.5, 3)
        return jnp.stack([renyi(*arguments, alpha=a, num_samples=num_samples) for a in alphas])

    assert np.all(np.isfinite(draws_of(each, case, num_samples=6)))


@pytest.mark.parametrize("alpha", [0, 0.5, 0.9999, 1, 1.5])
def test_renyi_is_minus_infinity_where_the_model_rules_out_every_sample(alpha: float):
    ruled_out = joint_of(CASE.model, CASE.x)._replace(log_lik=lambda z: -jnp.inf)
    arguments = (jax.random.key(0), CASE.stats(), diag_normal, ruled_out)
    assert renyi(*arguments, alpha=alpha, num_samples=3) == -np.inf


def test_iwae_does_not_decrease_in_num_samples_and_stays_below_log_p():
    """On average it rises from the ELBO at K = 1 toward log p(x)."""
    log_prob = CASE.model.log_prob(CASE.x)
    draws = [draws_of(BOUNDS["iwae"], CASE, num_samples=k, seed=k) for k in (1, 2, 5, 30)]
    means = [np.mean(each) for each in draws]
    errors = [np.std(each) / np.sqrt(NUM_DRAWS) for each in draws]
    assert abs(means[0] - CASE.elbo()) < 4 * errors[0]
    for (low, high), (error, other) in zip(
        itertools.pairwise(means), itertools.pairwise(errors), strict=True
    ):
        assert high - low > 4 * np.hypot(error, other)
    assert means[-1] < log_prob + 4 * errors[-1]
    assert log_prob - means[-1] < 0.3 * (log_prob - means[0])


@pytest.mark.parametrize("weight", WEIGHTS_OF_KL)
def test_the_weighted_kl_is_the_exact_one(weight: float):
    kl, sgvb_b = CASE.kl(), values("beta_elbo", beta=1)
    assert min(WEIGHTS_OF_KL) < kl < max(WEIGHTS_OF_KL)
    np.testing.assert_allclose(
        sgvb_b - values("beta_elbo", beta=weight), (weight - 1) * kl, atol=1e-4
    )
    np.testing.assert_allclose(
        sgvb_b - values("free_bits", free_nats=weight), max(0.0, weight - kl), atol=1e-4
    )


def test_the_free_bits_of_each_latent_are_its_own():
    """Of two latents with KLs of 0.125 and 2 nats, 0.5 free nats each change the first alone."""
    stats = DiagNormal(jnp.float32([0.5, 2.0]), jnp.zeros(2))
    joint = Joint(StandardNormal(2), lambda z: jnp.float32(-3.0))
    free_bits = partial(free_bits_per_unit, jax.random.key(0))
    for nats, floored in ((0.1, 2.125), (0.5, 2.5), (3.0, 6.0)):
        found = free_bits(stats, diag_normal, joint, free_nats=nats)
        assert found == pytest.approx(-3.0 - floored)
    weighted = with_kl_weight(diag_normal, joint, 0.5)  # KLs of 0.0625 and 1
    assert free_bits(stats, *weighted, free_nats=0.5) == pytest.approx(-3.0 - 1.5)
    slopes = jax.grad(lambda stats: free_bits(stats, diag_normal, joint, free_nats=0.5))(stats)
    np.testing.assert_allclose(slopes.mean, [0.0, -2.0])


WEIGHT = 0.3  # of the KL
OF_ONE_SAMPLE = ("sgvb_a", "sgvb_b", "stl", "iwae")


@functools.cache
def weighted_estimates(sizes: tuple[int, int, int]) -> dict[str, Estimates]:
    def weighted(name: str) -> Any:
        def bound(key: jax.Array, stats: Any, guide: Any, joint: Joint) -> jax.Array:
            guide, joint = with_kl_weight(guide, joint, WEIGHT)
            return BOUNDS[name](key, stats, guide, joint)

        return bound

    return estimates_of({name: weighted(name) for name in OF_ONE_SAMPLE}, make_case(*sizes))


@pytest.mark.parametrize("name", OF_ONE_SAMPLE)
@every_case
def test_a_weight_of_the_kl_changes_the_mean_and_the_gradient_as_it_should(
    name: str, sizes: tuple[int, int, int]
):
    """With one sample, `iwae` is the ELBO."""
    assert set(OF_ONE_SAMPLE) <= set(TAKE_KL_WEIGHT) <= BOUNDS.keys()

    def exact(case: Case) -> float:
        return case.elbo() + (1.0 - WEIGHT) * case.kl()

    found = weighted_estimates(sizes)[name]
    assert standard_errors_off(found.value, exact(make_case(*sizes))) < 4
    for part, draws in found.gradient.items():
        assert standard_errors_off(draws, exact_gradient(exact, sizes)[part]) < 4, part


def test_a_weight_of_the_kl_tempers_the_weights_of_iwae():
    key, stats, joint = jax.random.key(3), CASE.stats(), joint_of(CASE.model, CASE.x)
    guide, weighted = with_kl_weight(diag_normal, joint, WEIGHT)
    z = jax.vmap(lambda key: diag_normal.sample(key, stats))(jax.random.split(key, 5))
    ratio = jax.vmap(lambda z: joint.log_prior(z) - diag_normal.log_prob(stats, z))(z)
    expected = scipy.special.logsumexp(jax.vmap(joint.log_lik)(z) + WEIGHT * ratio) - np.log(5)
    found = BOUNDS["iwae"](key, stats, guide, weighted, num_samples=5)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_weight_of_the_kl_keeps_whether_there_is_a_closed_form():
    joint = joint_of(CASE.model, CASE.x)
    guide, weighted = with_kl_weight(diag_normal, joint, WEIGHT)
    kl = closed_kl(CASE.stats(), guide, weighted)
    assert kl is not None
    assert float(kl) == pytest.approx(WEIGHT * CASE.kl(), rel=1e-5)
    of_function = joint._replace(prior=joint.log_prior)
    assert closed_kl(CASE.stats(), *with_kl_weight(diag_normal, of_function, WEIGHT)) is None


# The minibatch


def test_minibatch_objective_is_unbiased_for_the_sum_over_the_data():
    """Its mean over all minibatches that can be drawn is that sum, eq. (8)."""
    bounds = np.random.default_rng(0).normal(size=7).astype(np.float32)
    for size in (1, 3, 7):
        objectives = [
            minibatch_objective(jnp.asarray(bounds[list(chosen)]), num_data=7)
            for chosen in itertools.combinations(range(7), size)
        ]
        assert np.mean(objectives) == pytest.approx(bounds.sum(), rel=1e-5)
