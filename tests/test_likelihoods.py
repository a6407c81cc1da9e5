"""Likelihoods: each is a normalized density, and its mean and samples are that density's.

The tests run over LIKELIHOODS, so a new entry needs a SciPy counterpart here. It needs nothing else
if its density is on {0, 1} (kind "binary"), on counts, on grey levels or on the real line.
"""

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from marks import slow_but
from oracles import standard_errors_off

from aevb import likelihoods
from aevb.data.kinds import KINDS
from aevb.likelihoods import HALF_LEVEL, LIKELIHOODS, SERIES_BELOW, Heads, Likelihood, level_of

NUM_DRAWS = 5_000
NUM_DIMS = 2  # more than one, so that a mean over dimensions instead of the sum is found
SEEDS = (0, 1)

# heads [D] in float64, mapped to the scipy.stats law of x [D]
SCIPY: dict[str, Callable[[dict[str, np.ndarray], np.ndarray], Any]] = {
    "bernoulli": lambda h, x: scipy.stats.bernoulli.logpmf(x, scipy.special.expit(h["logits"])),
    "gaussian": lambda h, x: scipy.stats.norm.logpdf(x, h["mean"], np.exp(0.5 * h["log_var"])),
    "gaussian_unit_mean": lambda h, x: scipy.stats.norm.logpdf(
        x, scipy.special.expit(h["mean_logits"]), np.exp(0.5 * h["log_var"])
    ),
    "gaussian_shared": lambda h, x: scipy.stats.norm.logpdf(x, h["mean"], np.exp(h["log_std"])),
    "student_t": lambda h, x: scipy.stats.t.logpdf(
        x, 1.0 + np.exp(h["log_excess_df"]), h["mean"], np.exp(h["log_scale"])
    ),
    "continuous_bernoulli": lambda h, x: continuous_bernoulli(h["logits"]).logpdf(
        np.where(h["logits"] > 0, 1.0 - x, x)
    ),
    "discretized_logistic": lambda h, x: np.log(level_probabilities(h)[[0, 1], as_levels(x)]),
    "discretized_logistic_mixture": lambda h, x: np.log(mixture(h)[[0, 1], as_levels(x)]),
    "discretized_gaussian": lambda h, x: gaussian_masses(h)[[0, 1], as_levels(x)],
    "categorical": lambda h, x: scipy.special.log_softmax(h["logits"].reshape(-1, 256), axis=1)[
        [0, 1], as_levels(x)
    ],
    "poisson": lambda h, x: scipy.stats.poisson.logpmf(x, np.exp(h["log_rate"])),
    "negative_binomial": lambda h, x: negative_binomial(h).logpmf(x),
    "zero_inflated_poisson": lambda h, x: zero_inflated(
        h, x, scipy.stats.poisson.pmf(x, np.exp(h["log_rate"]))
    ),
    "zero_inflated_negative_binomial": lambda h, x: zero_inflated(
        h, x, negative_binomial(h).pmf(x)
    ),
}


def negative_binomial(heads: dict[str, np.ndarray]) -> Any:
    mean, total_count = np.exp(heads["log_mean"]), np.exp(heads["log_total_count"])
    return scipy.stats.nbinom(total_count, total_count / (total_count + mean))


def zero_inflated(heads: dict[str, np.ndarray], x: np.ndarray, pmf: np.ndarray) -> np.ndarray:
    share = scipy.special.expit(heads["zero_logit"])
    return np.log(share * (x == 0.0) + (1.0 - share) * pmf)


def continuous_bernoulli(logits: np.ndarray) -> Any:
    """Returns SciPy's law of the distance of x from the end that the logit favors, in float64."""
    rate = np.abs(logits)
    return scipy.stats.truncexpon(b=rate, scale=1.0 / rate)


def as_levels(x: np.ndarray) -> np.ndarray:
    return np.rint(x * 256).astype(int)


def level_probabilities(heads: dict[str, np.ndarray]) -> np.ndarray:
    """Returns P(level), [D, 256], as differences of the logistic distribution function."""
    location, scale = heads["location"][:, None], np.exp(heads["log_scale"])[:, None]
    edges = np.concatenate([[-np.inf], np.arange(1, 256) / 256, [np.inf]])
    return np.diff(scipy.stats.logistic.cdf(edges, location, scale), axis=1)


def mixture(heads: dict[str, np.ndarray]) -> np.ndarray:
    """Returns P(level), [D, 256], of five logistics that start at 0.1, 0.3, ..., 0.9."""
    logits, location, log_scale = (
        heads[name].reshape(-1, 5) for name in ("logits", "location", "log_scale")
    )
    location = location + np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    weights = scipy.special.softmax(logits, axis=1)
    components = [
        level_probabilities({"location": location[:, k], "log_scale": log_scale[:, k]})
        for k in range(5)
    ]
    return np.einsum("dk,kdl->dl", weights, components)


def gaussian_masses(heads: dict[str, np.ndarray]) -> np.ndarray:
    """Returns log P(level), [D, 256], from the tail of the normal that is nearer to each cell."""
    mean, std = heads["mean"][:, None], np.exp(0.5 * heads["log_var"])[:, None]
    edges = (np.concatenate([[-np.inf], np.arange(1, 256) / 256, [np.inf]]) - mean) / std
    low, high = edges[:, :-1], edges[:, 1:]
    is_above = low + high > 0
    low, high = np.where(is_above, -high, low), np.where(is_above, -low, high)
    log_below: Any = scipy.stats.norm.logcdf
    return log_below(high) + np.log(-np.expm1(log_below(low) - log_below(high)))


# the supports of densities that are neither on {0, 1} nor on the real line
SUPPORTS = {"continuous_bernoulli": (0.0, 1.0)}
COUNTS = np.arange(400.0)  # practically all of them, for the heads below
REAL_LINE = (-30.0, 30.0)  # practically all of it, for the heads below

EXTREMES = {
    **{"logits": 1e4, "mean_logits": 1e4, "mean": 1.0, "location": 1.0},
    **{"log_var": 80.0, "log_std": 40.0, "log_scale": 80.0, "zero_logit": 1e4},
    "log_excess_df": 80.0,
    **dict.fromkeys(("log_rate", "log_mean", "log_total_count"), 70.0),
}

LIKELIHOODS_OF_COUNTS = [name for name in LIKELIHOODS if LIKELIHOODS[name](1).kinds == ("counts",)]
every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def random_heads(likelihood: Likelihood, seed: int) -> Heads:
    rng = np.random.default_rng(seed)
    heads = {head: jnp.float32(rng.normal(size=n)) for head, n in sizes(likelihood).items()}
    if "log_excess_df" in heads:  # so large that REAL_LINE holds practically all of the mass
        heads["log_excess_df"] += 5.0
    return heads


def sizes(likelihood: Likelihood) -> dict[str, int]:
    """Returns the size of every statistic, at NUM_DIMS dimensions."""
    heads = {head: n * NUM_DIMS for head, n in likelihood.heads.items()}
    return heads | dict.fromkeys(likelihood.shared, 1)


def values_of(name: str) -> np.ndarray | None:
    """Returns the values that one dimension of x can take, or None if it is continuous."""
    likelihood = LIKELIHOODS[name](1)
    if likelihood.levels is not None:
        return np.arange(256) / likelihood.levels
    if "counts" in likelihood.kinds:
        return COUNTS
    return np.array([0.0, 1.0]) if "binary" in likelihood.kinds else None


def whole_space(name: str) -> tuple[np.ndarray, float]:
    """Returns points [n, D] that cover the support of a density, and the volume of each cell."""
    values = values_of(name)
    if values is not None:
        return np.array(list(itertools.product(values, repeat=NUM_DIMS))), 1.0
    edges = np.linspace(*SUPPORTS.get(name, REAL_LINE), 1001)
    middles = (edges[1:] + edges[:-1]) / 2.0
    points = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, NUM_DIMS)
    return points, (edges[1] - edges[0]) ** NUM_DIMS


@partial(jax.jit, static_argnums=0)
def log_probs(name: str, heads: Heads, x: Any) -> jax.Array:
    """Returns the log-density [n] of datapoints [n, D]."""
    return jax.vmap(LIKELIHOODS[name](1).log_prob, in_axes=(None, 0))(heads, x)


@partial(jax.jit, static_argnums=0)
def samples(name: str, keys: jax.Array, heads: Heads) -> jax.Array:
    return jax.vmap(LIKELIHOODS[name](1).sample, in_axes=(0, None))(keys, heads)


@partial(jax.jit, static_argnums=0)
def sample_and_log_prob(name: str, key: jax.Array, heads: Heads) -> tuple[jax.Array, jax.Array]:
    likelihood = LIKELIHOODS[name](1)
    x = likelihood.sample(key, heads)
    return x, likelihood.log_prob(heads, x)


@cache
def masses(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the points of `whole_space`, and the probability [n] of the cell around each."""
    points, volume = whole_space(name)
    log_prob = log_probs(name, random_heads(LIKELIHOODS[name](1), seed), np.float32(points))
    return points, np.exp(np.asarray(log_prob, np.float64)) * volume


@every_likelihood
@every_seed
def test_each_likelihood_integrates_to_1(name: str, seed: int):
    _, probabilities = masses(name, seed)
    assert np.sum(probabilities) == pytest.approx(1.0, abs=1e-5)


@every_likelihood
@every_seed
def test_log_prob_of_each_likelihood_is_scipys(name: str, seed: int):
    heads = random_heads(LIKELIHOODS[name](1), seed)
    x, log_prob = sample_and_log_prob(name, jax.random.key(seed), heads)
    exact_heads = {head: np.asarray(value, np.float64) for head, value in heads.items()}
    expected = SCIPY[name](exact_heads, np.asarray(x, np.float64)).sum()
    assert log_prob == pytest.approx(expected, rel=1e-5)


@every_likelihood
@pytest.mark.parametrize("seed", slow_but(SEEDS[:1], SEEDS))
def test_the_mean_of_each_likelihood_is_that_of_its_density(name: str, seed: int):
    heads = random_heads(LIKELIHOODS[name](1), seed)
    points, probabilities = masses(name, seed)
    mean = jax.jit(LIKELIHOODS[name](1).mean)(heads)
    np.testing.assert_allclose(mean, probabilities @ points, atol=2e-5)


@every_likelihood
@pytest.mark.parametrize("seed", slow_but(SEEDS[:1], SEEDS))
def test_samples_of_each_likelihood_have_the_mean_and_variance_of_its_density(name: str, seed: int):
    likelihood = LIKELIHOODS[name](1)
    heads = random_heads(likelihood, seed)
    keys = jax.random.split(jax.random.key(seed), NUM_DRAWS)
    draws = np.asarray(samples(name, keys, heads), np.float64)
    points, probabilities = masses(name, seed)
    mean = probabilities @ points
    assert standard_errors_off(draws, mean) < 4
    assert standard_errors_off((draws - mean) ** 2, probabilities @ (points - mean) ** 2) < 4
    (_, correlation), _ = np.asarray(np.corrcoef(draws.T))  # dimensions are independent given z
    assert abs(correlation) < 4 / np.sqrt(NUM_DRAWS)


@every_likelihood
def test_samples_of_each_likelihood_are_in_its_support(name: str):
    likelihood = LIKELIHOODS[name](1)
    heads = random_heads(likelihood, 0)
    draws = samples(name, jax.random.split(jax.random.key(0), NUM_DRAWS), heads)
    assert draws.dtype == jnp.float32
    values, seen = values_of(name), set(np.unique(draws).tolist())
    assert len(seen) > 1
    assert values is None or seen <= set(values.tolist())
    low, high = REAL_LINE if values is None else (values[0], values[-1])
    low, high = SUPPORTS.get(name, (low, high))
    assert np.all((low <= draws) & (draws <= high))


@every_likelihood
def test_each_likelihood_is_finite_at_extreme_statistics(name: str):
    """Logits of size 1e4, variances of exp(80) and exp(-80), and 0 are combined in every way."""
    likelihood = LIKELIHOODS[name](1)

    @jax.jit
    def evaluate(heads: Heads, x: jax.Array) -> Any:
        mean = jax.value_and_grad(lambda heads: jnp.sum(likelihood.mean(heads)))
        return (
            jax.value_and_grad(likelihood.log_prob)(heads, x),
            mean(heads),
            likelihood.sample(jax.random.key(0), heads),
        )

    for factors in itertools.product([-1.0, 0.0, 1.0], repeat=len(sizes(likelihood))):
        heads = {
            head: jnp.float32(factor * EXTREMES[head] * np.resize([1.0, -1.0], size))
            for factor, (head, size) in zip(factors, sizes(likelihood).items(), strict=True)
        }
        for value in (0.0, 0.5, 1.0):
            numbers = evaluate(heads, np.full(NUM_DIMS, value, np.float32))
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(numbers)), heads


@every_likelihood
def test_each_likelihood_names_the_kinds_of_data_that_it_scores(name: str):
    """Grey pixels under a Bernoulli likelihood have no density and no probability."""
    kinds = set(LIKELIHOODS[name](1).kinds)
    assert kinds
    assert kinds <= set(KINDS)
    for discrete in ("binary", "counts"):
        assert kinds == {discrete} or discrete not in kinds
    if LIKELIHOODS[name](1).levels is not None:
        assert kinds == {"grey"}


def test_the_gradient_of_bernoulli_log_prob_is_x_minus_its_mean():
    likelihood = likelihoods.bernoulli
    logits = jnp.float32([-30.0, -3.0, -0.1, 0.0, 0.2, 4.0, 30.0])
    for x in (jnp.zeros(7), jnp.ones(7)):
        gradient = jax.grad(lambda heads, x=x: likelihood.log_prob(heads, x))({"logits": logits})
        expected = np.asarray(x) - scipy.special.expit(np.asarray(logits, np.float64))
        np.testing.assert_allclose(gradient["logits"], expected, rtol=1e-5, atol=1e-7)


def test_bernoulli_log_prob_of_a_near_certain_pixel_keeps_its_digits():
    """The value log sigmoid(20) = -2.06e-9 becomes 0 in float32 as log(1 / (1 + exp(-20)))."""
    log_prob = likelihoods.bernoulli.log_prob
    for size in (5.0, 20.0, 60.0):
        certain = log_prob({"logits": jnp.full(1, -size)}, jnp.zeros(1))
        assert certain == pytest.approx(scipy.special.log_expit(size), rel=1e-4)
        wrong = log_prob({"logits": jnp.full(1, -size)}, jnp.ones(1))
        assert wrong == pytest.approx(scipy.special.log_expit(-size), rel=1e-5)


# Continuous Bernoulli

# The sizes run from where the density is 0/0, over the boundary of series and formula, to
# near-certain pixels.
SIZES = [0.0, 1e-30, 1e-8, 1e-4, 0.1, SERIES_BELOW * 0.999, SERIES_BELOW, 1.0, 5.0, 80.0, 1e4]
LOGITS = np.array([*SIZES, *(-size for size in SIZES)], np.float32)


def exact_log_normalizer(logits: np.ndarray) -> np.ndarray:
    """Returns log of the integral of exp(t x) over [0, 1], in float64.

    The integral is taken from the end that the logit favors, at |t|.
    """
    t = np.abs(logits.astype(np.float64))
    with np.errstate(invalid="ignore"):
        return np.maximum(logits, 0.0) + np.where(t < 1e-20, 0.0, np.log(-np.expm1(-t) / t))


@pytest.mark.parametrize("x", [0.0, 0.25, 0.5, 255 / 256, 1.0])
def test_continuous_bernoulli_log_prob_keeps_its_digits_at_every_logit(x: float):
    density = likelihoods.continuous_bernoulli.log_prob
    log_prob = jax.jit(jax.vmap(lambda logit: density({"logits": logit[None]}, jnp.full(1, x))))
    expected = LOGITS.astype(np.float64) * x - exact_log_normalizer(LOGITS)
    np.testing.assert_allclose(log_prob(jnp.asarray(LOGITS)), expected, rtol=1e-6, atol=2e-7)


def test_continuous_bernoulli_mean_and_gradient_keep_their_digits_at_every_logit():
    """The mean is that of a truncated exponential, and the gradient is x minus it."""
    likelihood, x = likelihoods.continuous_bernoulli, 0.75
    t = np.abs(LOGITS.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        distance = np.where(t < 1e-3, 0.5 - t / 12, 1.0 / t - 1.0 / np.expm1(t))
    expected = np.where(LOGITS > 0, 1.0 - distance, distance)
    heads = {"logits": jnp.asarray(LOGITS)}
    np.testing.assert_allclose(likelihood.mean(heads), expected, rtol=2e-6)
    gradient = jax.jit(jax.grad(likelihood.log_prob))(heads, jnp.full(len(LOGITS), x))["logits"]
    np.testing.assert_allclose(gradient, x - expected, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("logit", [0.0, 1e-5, -0.3, 0.6, -4.0, 40.0])
def test_continuous_bernoulli_samples_have_its_distribution_function(logit: float):
    """The check is a Kolmogorov-Smirnov test, which a right sampler fails for one seed in 1000."""
    sample = likelihoods.continuous_bernoulli.sample
    draws = np.asarray(sample(jax.random.key(0), {"logits": jnp.full(20_000, logit)}))
    distance = draws if logit <= 0 else 1.0 - draws
    exact = continuous_bernoulli(np.array(logit)) if logit else scipy.stats.uniform
    assert scipy.stats.kstest(distance, exact.cdf).pvalue > 1e-3


def test_a_bernoulli_density_of_grey_pixels_lacks_the_constant_of_the_continuous_one():
    """The constant is log C(1/2) = log 2 a pixel; for this reason grey pixels are refused."""
    heads, x = {"logits": jnp.zeros(3)}, jnp.full(3, 0.3)
    lacking = likelihoods.continuous_bernoulli.log_prob(heads, x) - likelihoods.bernoulli.log_prob(
        heads, x
    )
    assert lacking == pytest.approx(3 * np.log(2.0))


# Probabilities of grey levels

every_mass = pytest.mark.parametrize(
    "name", [name for name, likelihood in LIKELIHOODS.items() if likelihood(1).levels is not None]
)


@pytest.mark.parametrize("scale", [255.0, 256.0])
def test_a_level_is_found_on_either_scale_and_when_dequantized(scale: float):
    levels = jnp.arange(256).astype(jnp.float32)
    np.testing.assert_array_equal(level_of(levels / jnp.float32(scale)), levels)
    for u in (0.0, 0.25, 0.999):
        np.testing.assert_array_equal(level_of((levels + u) / 256), levels)


@every_mass
def test_the_probabilities_of_a_pixels_levels_sum_to_1_however_narrow_they_are(name: str):
    """The one dimension has scales from a thousandth of a level to a thousand levels."""
    likelihood = LIKELIHOODS[name](1)
    rng = np.random.default_rng(0)
    for size in (0.1, 1.0, 10.0, 1000.0):
        heads = {head: rng.normal(size=n) * size for head, n in likelihood.heads.items()}
        num_located = likelihood.heads.get("location", 1)
        heads |= {"location": np.full(num_located, 0.3)}
        heads |= {"log_scale": np.full(num_located, -np.log(256 * size))}
        heads |= {"mean": heads["location"], "log_var": 2.0 * heads["log_scale"]}
        heads = {head: jnp.float32(heads[head]) for head in likelihood.heads}
        levels = np.float32(np.arange(256)[:, None] / 256)
        probabilities = np.exp(log_probs(name, heads, levels), dtype=np.float64)
        assert np.sum(probabilities) == pytest.approx(1.0, abs=1e-5), size
        mean = probabilities @ (np.arange(256) / 256)
        assert likelihood.mean(heads)[0] == pytest.approx(mean, abs=1e-5), size


def logistic_heads(location: float, log_scale: float) -> dict[str, np.ndarray]:
    return {"location": np.array([location]), "log_scale": np.array([log_scale])}


@pytest.mark.parametrize("log_scale", [-5.0, -3.0, 0.0, 3.0, 7.0])
@pytest.mark.parametrize("location", [-0.5, 0.4, 1.2])
def test_discretized_logistic_log_prob_is_the_difference_of_the_cdf(
    location: float, log_scale: float
):
    """The reference is in float64, also in tails where float32 would subtract 1 from 1.

    With a scale of 1000 units, nearly all probability is in the end levels, which are open.
    """
    exact_heads = logistic_heads(location, log_scale)
    heads = {head: jnp.float32(value) for head, value in exact_heads.items()}
    levels = np.float32(np.arange(256)[:, None] / 256)
    found = np.asarray(log_probs("discretized_logistic", heads, levels))
    # The upper tail is by symmetry, because float64 has digits near 0 and not near 1.
    flipped = level_probabilities(exact_heads | {"location": 1.0 - exact_heads["location"]})
    direct = level_probabilities(exact_heads)[0]
    exact = np.where(np.arange(256) / 256 > location, flipped[0, ::-1], direct)
    np.testing.assert_allclose(found, np.log(exact), rtol=1e-5, atol=1e-5)


def test_a_mixture_of_one_discretized_logistic_is_that_logistic_at_a_shifted_location():
    heads = {name: jnp.float32([0.3, -0.2]) for name in ("logits", "location", "log_scale")}
    shifted = {**heads, "location": heads["location"] + 0.5}
    one = LIKELIHOODS["discretized_logistic_mixture"](2, num_components=1)
    single = likelihoods.discretized_logistic
    x = jnp.float32([3, 200]) / 256
    assert one.log_prob(heads, x) == pytest.approx(float(single.log_prob(shifted, x)), rel=1e-6)
    np.testing.assert_allclose(one.mean(heads), single.mean(shifted), rtol=1e-6)


@pytest.mark.parametrize("number", [0, 2.5])
def test_a_mixture_without_a_whole_number_of_components_is_refused(number: Any):
    with pytest.raises(ValueError, match=f"num_components is {number}; it must be"):
        LIKELIHOODS["discretized_logistic_mixture"](1, num_components=number)


def gaussian_cases() -> dict[str, np.ndarray]:
    """Returns means [n] and log-variances [n] for which every formula of a cell's mass is used.

    The means lie within the levels and far outside. The standard deviations are from a thousandth
    of a level to a thousand units.
    """
    means = np.array([-20.0, -0.5, 0.0, 0.4, 100.5 / 256, 1.2, 30.0])
    log_stds = np.log(np.array([1e-3, 0.1, 0.3, 1.0, 3.0, 30.0, 256.0, 256e3]) / 256)
    mean, log_std = np.meshgrid(means, log_stds)
    return {"mean": mean.ravel(), "log_var": 2.0 * log_std.ravel()}


def gaussian_log_probs(heads: Any) -> jax.Array:
    """Returns log P(level) [n, 256] of each mean and log-variance [n]."""
    levels = (jnp.arange(256) / 256).astype(heads["mean"].dtype)[:, None]

    def of_one(mean: jax.Array, log_var: jax.Array) -> jax.Array:
        own = {"mean": mean[None], "log_var": log_var[None]}
        return jax.vmap(likelihoods.discretized_gaussian.log_prob, (None, 0))(own, levels)

    return jax.vmap(of_one)(heads["mean"], heads["log_var"])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-9)])
def test_discretized_gaussian_log_prob_is_the_difference_of_the_cdf(dtype: str, tolerance: float):
    """The relative error is small also where a cell is 10^7 standard deviations from the mean."""
    cases = {name: value.astype(dtype) for name, value in gaussian_cases().items()}
    exact = gaussian_masses({name: value.astype(np.float64) for name, value in cases.items()})
    with jax.enable_x64(dtype == "float64"):
        found = np.asarray(jax.jit(gaussian_log_probs)(jax.tree.map(jnp.asarray, cases)))
    assert found.dtype == dtype
    # In float32 the position of a cell has an error too, of 1e-7 units.
    std = np.exp(0.5 * cases["log_var"].astype(np.float64))[:, None]
    position = np.finfo(dtype).eps * np.maximum(1.0, np.abs(cases["mean"]))[:, None] / std
    allowed = tolerance + tolerance * np.abs(exact) + 4.0 * position * np.sqrt(1.0 - 2.0 * exact)
    assert np.all(np.abs(found - exact) < allowed)


def test_discretized_gaussian_gradients_in_float32_are_those_in_float64_and_of_differences():
    cases = {name: np.float32(value) for name, value in gaussian_cases().items()}
    gradient = jax.jit(jax.grad(lambda heads: jnp.sum(gaussian_log_probs(heads)[:, ::15])))

    def gradients(dtype: str) -> dict[str, np.ndarray]:
        with jax.enable_x64(dtype == "float64"):
            own = {name: jnp.asarray(value.astype(dtype)) for name, value in cases.items()}
            return {name: np.asarray(slope) for name, slope in gradient(own).items()}

    rounded, exact = gradients("float32"), gradients("float64")
    wide = {name: np.asarray(value, np.float64) for name, value in cases.items()}
    for name, slopes in exact.items():
        np.testing.assert_allclose(rounded[name], slopes, rtol=1e-3, atol=1e-3, err_msg=name)
        step = 1e-4 * (np.exp(0.5 * wide["log_var"]) if name == "mean" else 1.0)
        above, below = (
            np.sum(gaussian_masses({**wide, name: wide[name] + shift})[:, ::15], axis=1)
            for shift in (step, -step)
        )
        differences = (above - below) / (2.0 * step)
        np.testing.assert_allclose(slopes, differences, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_density_summed_over_the_grey_levels_is_not_1():
    """At a deviation of 0.3 levels the levels' densities times their width sum to 1.34, not 1."""
    levels = np.float32(np.arange(256)[:, None] / 256)
    for std, total in ((0.3, 1.34), (0.1, 3.99), (3.0, 1.0)):
        values = {"mean": 100 / 256, "log_var": 2 * np.log(std / 256)}
        heads = {name: np.array([value], np.float32) for name, value in values.items()}
        densities = np.exp(np.asarray(log_probs("gaussian", heads, levels), np.float64))
        assert np.sum(densities) / 256 == pytest.approx(total, abs=5e-3)


@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.0])
def test_the_density_of_dequantized_pixels_bounds_the_probability_of_the_level(log_scale: float):
    """Jensen's inequality gives the bound, tight for a wide logistic: Theis et al. (2016)."""
    exact_heads = logistic_heads(0.4, log_scale)
    heads = {head: jnp.float32(value) for head, value in exact_heads.items()}
    u = (np.arange(1000) + 0.5) / 1000
    levels = np.arange(256)[:, None]  # the first and the last are open intervals
    log_density = scipy.stats.logistic.logpdf((levels + u) / 256, 0.4, np.exp(log_scale))
    log_prob = np.asarray(log_probs("discretized_logistic", heads, np.float32(levels / 256)))
    gaps = (log_prob - (np.mean(log_density, axis=1) - np.log(256)))[1:-1]
    assert np.min(gaps) > -1e-4
    assert np.max(gaps) < {-6.0: 1.0, -3.0: 1e-2, 0.0: 1e-4}[log_scale]
    assert np.max(gaps) > 0.1 or log_scale > -6.0


# One variance


def test_the_best_shared_variance_is_the_mean_squared_residual():
    """The gradient vanishes there, and the mean log p is -D/2 (log(2 pi e residual^2))."""
    rng = np.random.default_rng(0)
    x, means = jnp.float32(rng.normal(size=(2, 50, 4)))
    residual_sq = float(np.mean(np.square(np.asarray(x - means, np.float64))))

    def mean_log_prob(log_std: jax.Array) -> jax.Array:
        log_prob = likelihoods.gaussian_shared(1).log_prob
        return jnp.mean(
            jax.vmap(lambda mean, x: log_prob({"mean": mean, "log_std": log_std}, x))(means, x)
        )

    best = jnp.full(1, 0.5 * np.log(residual_sq), jnp.float32)
    value_and_slope = jax.jit(jax.value_and_grad(mean_log_prob))
    value, slope = value_and_slope(best)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)
    highest = -0.5 * 4 * np.log(2 * np.pi * np.e * residual_sq)
    assert value == pytest.approx(highest, rel=1e-6)
    for shift in (-0.1, 0.1):
        assert value_and_slope(best + shift)[0] < highest - 1e-3


def test_gaussian_shared_can_have_a_variance_for_each_dimension_as_factor_analysis_has():
    likelihood = likelihoods.gaussian_shared(3, per_dim=True)
    assert likelihood.shared == {"log_std": (3,)}
    rng = np.random.default_rng(0)
    mean, log_std, x = (jnp.float32(rng.normal(size=3)) for _ in range(3))
    found = likelihood.log_prob({"mean": mean, "log_std": log_std}, x)
    exact = scipy.stats.norm.logpdf(x, mean, np.exp(log_std)).sum()
    assert found == pytest.approx(exact, rel=1e-5)


# A start at the mean of the data

WITH_HEADS_AT_MEAN = [name for name in LIKELIHOODS if LIKELIHOODS[name](1).heads_at_mean]


def test_the_likelihoods_that_can_start_at_a_mean_are_those_listed_here():
    others = {"categorical", *LIKELIHOODS_OF_COUNTS}
    assert set(WITH_HEADS_AT_MEAN) == LIKELIHOODS.keys() - others


@pytest.mark.parametrize("name", WITH_HEADS_AT_MEAN)
def test_the_heads_at_a_mean_have_this_mean_whatever_the_others_are(name: str):
    """Of the discretized likelihoods, whose end levels are open, only where they are narrow."""
    means = np.array([0.002, 0.3, 0.5, 0.77, 0.996])
    likelihood = LIKELIHOODS[name](5)
    assert likelihood.heads_at_mean is not None
    spread = -12.0 if likelihood.levels else 1.3
    heads = {head: jnp.full(5 * size, spread) for head, size in likelihood.heads.items()}
    heads |= {head: jnp.full(shape, spread) for head, shape in likelihood.shared.items()}
    if name == "discretized_logistic_mixture":  # its components are apart
        means = 0.5 + 0.05 * (means - 0.5)
    given = likelihood.heads_at_mean(jnp.float32(means))
    assert given.keys() <= heads.keys()
    found = likelihood.mean({**heads, **given})
    np.testing.assert_allclose(found, means, atol=HALF_LEVEL if likelihood.levels else 1e-6)
    first = likelihood.heads_at_mean(jnp.float32(means[:1]))
    for head, values in first.items():
        np.testing.assert_array_equal(values, given[head][: likelihood.heads[head]])


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "gaussian_unit_mean"])
def test_a_mean_at_the_end_of_the_unit_interval_has_finite_heads(name: str):
    likelihood = LIKELIHOODS[name](2)
    assert likelihood.heads_at_mean is not None
    at_ends = likelihood.heads_at_mean(jnp.float32([0, 1]))
    mean = likelihood.mean({**at_ends, "log_var": jnp.zeros(2)})
    np.testing.assert_allclose(mean, [1e-3, 1.0 - 1e-3], atol=1e-6)


# Heavy tails


@pytest.mark.parametrize("log_excess_df", [-4.0, 0.0, 3.0, 12.0])
def test_student_t_samples_have_its_distribution_function(log_excess_df: float):
    """The check is a Kolmogorov-Smirnov test, which a right sampler fails for one seed in 1000."""
    heads = {"mean": jnp.full(5000, 0.4), "log_scale": jnp.full(5000, -1.0)}
    heads["log_excess_df"] = jnp.full(1, log_excess_df)
    draws = np.asarray(LIKELIHOODS["student_t"](5000).sample(jax.random.key(0), heads))
    exact = scipy.stats.t(1.0 + np.exp(log_excess_df), 0.4, np.exp(-1.0))
    assert scipy.stats.kstest(draws, exact.cdf).pvalue > 1e-3


def test_the_degrees_of_freedom_of_student_t_are_one_number_or_one_for_each_dimension():
    assert LIKELIHOODS["student_t"](3).shared == {"log_excess_df": (1,)}
    likelihood = LIKELIHOODS["student_t"](3, per_dim=True)
    assert likelihood.shared == {"log_excess_df": (3,)}
    rng = np.random.default_rng(0)
    names = ("mean", "log_scale", "log_excess_df")
    heads = {name: jnp.float32(rng.normal(size=3)) for name in names}
    x = jnp.float32(rng.normal(size=3))
    exact_heads = {name: np.asarray(value, np.float64) for name, value in heads.items()}
    exact = SCIPY["student_t"](exact_heads, np.asarray(x, np.float64)).sum()
    assert likelihood.log_prob(heads, x) == pytest.approx(exact, rel=1e-5)


# Counts


@pytest.mark.parametrize("name", LIKELIHOODS_OF_COUNTS)
def test_the_location_of_counts_is_added_to_the_log_of_their_mean(name: str):
    location = (-2.0, 3.0)
    plain, located = LIKELIHOODS[name](2), LIKELIHOODS[name](2, location=location)
    heads, x, key = random_heads(plain, 0), jnp.float32([0, 12]), jax.random.key(0)
    (log_mean,) = heads.keys() & {"log_rate", "log_mean"}
    shifted = {**heads, log_mean: heads[log_mean] + jnp.float32(location)}
    assert located.log_prob(heads, x) == plain.log_prob(shifted, x)
    np.testing.assert_array_equal(located.mean(heads), plain.mean(shifted))
    np.testing.assert_array_equal(located.sample(key, heads), plain.sample(key, shifted))
    with pytest.raises(ValueError, match=r"shape \(2,\).*\(3,\)"):
        LIKELIHOODS[name](3, location=location)


def test_each_dimension_of_a_negative_binomial_has_its_own_total_count():
    """The shared statistic is a learned constant; a datapoint has only a mean of its own."""
    for name in ("negative_binomial", "zero_inflated_negative_binomial"):
        assert LIKELIHOODS[name](3).shared == {"log_total_count": (3,)}
    heads = {"log_mean": np.log(np.full(3, 4.0)), "log_total_count": np.array([-2.0, 0.0, 4.0])}
    x, exact = np.array([0.0, 3.0, 9.0]), negative_binomial(heads)
    rounded = {head: jnp.float32(value) for head, value in heads.items()}
    found = likelihoods.negative_binomial(3).log_prob(rounded, jnp.float32(x))
    assert found == pytest.approx(exact.logpmf(x).sum(), rel=1e-6)


def test_counts_of_a_tiny_total_count_are_drawn_with_their_probability_of_0():
    """Most of their rates are below every float32, and a few are a hundred times the mean."""
    r, mean, number = 0.01, 5.0, 20_000
    heads = {"log_mean": jnp.full(number, np.log(mean)), "log_total_count": jnp.full(1, np.log(r))}
    draws = np.asarray(likelihoods.negative_binomial(1).sample(jax.random.key(0), heads))
    exact = scipy.stats.nbinom.pmf(0, r, r / (r + mean))
    assert standard_errors_off(draws == 0.0, exact) < 4
    assert standard_errors_off(draws, mean) < 4
