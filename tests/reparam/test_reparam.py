"""Reparameterized families: densities, samples and gradients against SciPy in float64.

The tests run over FAMILIES, so a new entry needs a counterpart in SCIPY. It needs nothing else if
its parameters have the usual names (EXTREMES) and its dimensions are independent (JOINT_CELLS).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
from marks import slow_but
from numpy.typing import ArrayLike
from oracles import standard_errors_off

from aevb.losses import Guide, Joint, sgvb_a
from aevb.reparam import FAMILIES, composition, inverse_cdf, location_scale
from aevb.reparam.family import Family, Noise, Params, open_uniform, positive
from aevb.reparam.gamma import GammaNoise, log_gamma

BATCH = 2_000  # draws in every call, so that each family is compiled once
# Gammas are slow to draw, and the gradients of two families made of them are noisy.
MADE_OF_GAMMAS = ("erlang", "student_t", "gamma", "dirichlet", "beta", "chi_squared")
NUM_BATCHES = {
    **dict.fromkeys(FAMILIES, 20),
    **dict.fromkeys(MADE_OF_GAMMAS, 5),
    **dict.fromkeys(("elliptical", "f"), 12),
}
FALSE_ALARM = 1e-3  # of all the Kolmogorov-Smirnov tests together

Exact = dict[str, np.ndarray]  # parameters in float64, as float32 holds them


class Law:
    """A distribution of SciPy with its parameters; freezing one in SciPy takes milliseconds."""

    def __init__(self, distribution: Any, *args: Any, **kwargs: Any):
        self.distribution, self.args, self.kwargs = distribution, args, kwargs

    def __getattr__(self, method: str) -> Callable[..., Any]:
        function = getattr(self.distribution, method)
        return lambda *at: function(*at, *self.args, **self.kwargs)


class Counterpart(NamedTuple):
    """A family at some parameters, and its counterpart in SciPy."""

    params: dict[str, Any]  # Z = 3, each dimension different
    law: Callable[[Exact], Law]  # of views [V] of z: its dimensions,
    views: np.ndarray = np.eye(3)  # or its projections [V, Z]
    joint: Callable[[Exact, np.ndarray], Any] | None = None  # log p(z) of dependent dimensions


SCALE_TRIL = [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.9, 0.3, 1.2]]
PROJECTIONS = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, -0.7, 0.4], [1.0, 1.0, 1.0]])
SUMS = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


def projected_student_t(p: Exact) -> Law:
    factor = PROJECTIONS @ np.tril(p["scale_tril"])
    location = PROJECTIONS @ p["location"]
    return Law(scipy.stats.t, p["df"], location, np.sqrt(np.sum(factor**2, axis=1)))


def multivariate_student_t(p: Exact, z: np.ndarray) -> Any:
    factor = np.tril(p["scale_tril"])
    logpdf: Any = scipy.stats.multivariate_t.logpdf  # its type has an integer df
    return logpdf(z, p["location"], factor @ factor.T, df=p["df"])


def summed_dirichlet(p: Exact) -> Law:
    partial_sums = SUMS @ p["concentration"]
    return Law(scipy.stats.beta, partial_sums, np.sum(p["concentration"]) - partial_sums)


LOCATIONS, SCALES = [-1.0, 0.0, 2.0], [0.5, 1.0, 3.0]
TWO = {"location": LOCATIONS, "scale": SCALES}

SCIPY: dict[str, Counterpart] = {
    "exponential": Counterpart(
        {"rate": SCALES}, lambda p: Law(scipy.stats.expon, scale=1 / p["rate"])
    ),
    "cauchy": Counterpart(TWO, lambda p: Law(scipy.stats.cauchy, p["location"], p["scale"])),
    "logistic": Counterpart(TWO, lambda p: Law(scipy.stats.logistic, p["location"], p["scale"])),
    "rayleigh": Counterpart(
        {"scale": SCALES}, lambda p: Law(scipy.stats.rayleigh, scale=p["scale"])
    ),
    "pareto": Counterpart(
        {"scale": SCALES, "concentration": [0.8, 1.5, 7.0]},
        lambda p: Law(scipy.stats.pareto, p["concentration"], scale=p["scale"]),
    ),
    "weibull": Counterpart(
        {"scale": SCALES, "concentration": [0.7, 1.0, 4.0]},
        lambda p: Law(scipy.stats.weibull_min, p["concentration"], scale=p["scale"]),
    ),
    "reciprocal": Counterpart(
        {"low": [0.01, 0.5, 3.0], "high": [20.0, 1.0, 4.0]},
        lambda p: Law(scipy.stats.loguniform, p["low"], p["high"]),
    ),
    "gompertz": Counterpart(
        {"scale": SCALES, "concentration": [0.1, 1.0, 5.0]},
        lambda p: Law(scipy.stats.gompertz, p["concentration"], scale=p["scale"]),
    ),
    "gumbel": Counterpart(TWO, lambda p: Law(scipy.stats.gumbel_r, p["location"], p["scale"])),
    # scipy.stats.erlang warns at the concentrations that a finite difference passes through
    "erlang": Counterpart(
        {"concentration": [1.0, 2.0, 5.0], "rate": SCALES},
        lambda p: Law(scipy.stats.gamma, p["concentration"], scale=1 / p["rate"]),
    ),
    "laplace": Counterpart(TWO, lambda p: Law(scipy.stats.laplace, p["location"], p["scale"])),
    "elliptical": Counterpart(
        {"location": LOCATIONS, "scale_tril": SCALE_TRIL, "df": 3.5},
        projected_student_t,
        PROJECTIONS,
        multivariate_student_t,
    ),
    "student_t": Counterpart(
        {**TWO, "df": [0.8, 3.0, 12.0]},
        lambda p: Law(scipy.stats.t, p["df"], p["location"], p["scale"]),
    ),
    "uniform": Counterpart(TWO, lambda p: Law(scipy.stats.uniform, p["location"], p["scale"])),
    "triangular": Counterpart(
        {**TWO, "mode": [0.1, 0.5, 0.7]},
        lambda p: Law(scipy.stats.triang, p["mode"], p["location"], p["scale"]),
    ),
    "gaussian": Counterpart(TWO, lambda p: Law(scipy.stats.norm, p["location"], p["scale"])),
    "log_normal": Counterpart(
        {"location": LOCATIONS, "scale": [0.3, 0.6, 1.0]},
        lambda p: Law(scipy.stats.lognorm, p["scale"], scale=np.exp(p["location"])),
    ),
    "gamma": Counterpart(
        {"concentration": [0.4, 1.5, 9.0], "rate": SCALES},
        lambda p: Law(scipy.stats.gamma, p["concentration"], scale=1 / p["rate"]),
    ),
    "dirichlet": Counterpart(
        {"concentration": [0.7, 1.5, 3.0]},
        summed_dirichlet,
        SUMS,
        lambda p, z: scipy.stats.dirichlet(p["concentration"]).logpdf(z / np.sum(z)),
    ),
    "beta": Counterpart(
        {"concentration1": [0.6, 2.0, 12.0], "concentration0": [1.5, 1.0, 9.0]},
        lambda p: Law(scipy.stats.beta, p["concentration1"], p["concentration0"]),
    ),
    "chi_squared": Counterpart({"df": [1.0, 3.5, 12.0]}, lambda p: Law(scipy.stats.chi2, p["df"])),
    "f": Counterpart(
        {"df1": [1.5, 4.0, 12.0], "df2": [3.0, 2.5, 20.0]},
        lambda p: Law(scipy.stats.f, p["df1"], p["df2"]),
    ),
}

EXTREMES = {
    "location": (-1e4, 1e4),
    "mode": (1e-6, 1.0 - 1e-6),
    "low": (1e-10, 1e-3),
    "high": (1e-2, 1e10),
    **dict.fromkeys(("scale", "scale_tril", "rate"), (1e-4, 1e4)),
    **dict.fromkeys(("concentration", "concentration1", "concentration0"), (1e-3, 1e4)),
    **dict.fromkeys(("df", "df1", "df2"), (1e-2, 1e4)),
}

# Far from 0, a float z is rounded to an end of a narrow triangle, where the density is 0. The other
# limits keep a float z in range, and the concentration one of an Erlang.
NEARER_EXTREMES = {
    "triangular": {"location": (0.0,)},
    "log_normal": {"location": (-50.0, 50.0)},
    "erlang": {"concentration": (1.0, 1e4)},
}

every_family = pytest.mark.parametrize("name", FAMILIES)
# These four are drawn from Gammas, like others, and their programs compile slowly.
DRAWN_ALIKE = ("erlang", "beta", "chi_squared", "f")
every_drawn_family = pytest.mark.parametrize(
    "name", slow_but(set(FAMILIES) - set(DRAWN_ALIKE), FAMILIES)
)
# One or two families for each way to draw.
DRAWN_IN_SHORT = ("cauchy", "gumbel", "triangular", "elliptical", "student_t", "gamma", "dirichlet")
every_closed_inverse_cdf = pytest.mark.parametrize(
    "name", [name for name in inverse_cdf.INVERSE_CDF if name != "erlang"]
)


def exact_params(name: str) -> Exact:
    params = SCIPY[name].params.items()
    return {param: np.asarray(np.float32(value), np.float64) for param, value in params}


@functools.cache
def float32_params(name: str) -> Params:
    return {param: jnp.asarray(value, jnp.float32) for param, value in exact_params(name).items()}


def keys(number: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), number)


class Evaluation(NamedTuple):
    """The results of a family at one draw of its noise."""

    z: jax.Array
    slope: Params  # of the sum of z, in the parameters
    bounded_slope: Params  # of `bounded` at z, in the parameters
    log_prob: jax.Array
    log_prob_slopes: tuple[Params, jax.Array]  # in the parameters, in z


def bounded(views: Any, scaling: Any, tanh: Callable[[Any], Any]) -> Any:
    """Returns a statistic [] of views [V], whose mean moves with location, scale and tails."""
    centre, width = scaling
    t = tanh((views - centre) / width)
    return (t + t**2).sum(-1)


@functools.cache
def evaluator(family: Family) -> Callable[..., Evaluation]:
    """Returns a compiled function of params [n], noise [n], views [V, Z] and scaling.

    It returns an Evaluation [n].
    """

    def evaluate(params: Params, noise: Any, views: jax.Array, scaling: Any) -> Evaluation:
        z, pullback = jax.vjp(lambda params: family.transform(params, noise), params)
        cotangent = jax.grad(lambda z: bounded(views @ z, scaling, jnp.tanh))(z)
        (slope,), (bounded_slope,) = pullback(jnp.ones_like(z)), pullback(cotangent)
        value_and_slopes = jax.value_and_grad(family.log_prob, argnums=(0, 1))
        return Evaluation(z, slope, bounded_slope, *value_and_slopes(params, z))

    return jax.jit(jax.vmap(evaluate, in_axes=(0, 0, None, None)))


@functools.cache
def noise_maker(noise: Noise) -> Callable[[jax.Array], Any]:
    return jax.jit(jax.vmap(lambda key: noise(key, (3,), jnp.float32)))


@functools.cache
def noise_of(name: str) -> list[Any]:
    """Returns the noise of each batch, [n, ...]."""
    seed = jax.random.key(list(FAMILIES).index(name))
    return [
        noise_maker(FAMILIES[name].noise)(batch)
        for batch in jax.random.split(seed, (NUM_BATCHES[name], BATCH))
    ]


def repeated(tree: Any, times: int) -> Any:
    """Repeats leaves [...] to [times, ...]."""
    return jax.tree.map(lambda leaf: np.tile(leaf, (times, *[1] * np.ndim(leaf))), tree)


def evaluate(name: str, params: Params, noise: Any) -> Evaluation:
    """Evaluates the family with params [BATCH, ...]."""
    views, scaling = jax.tree.map(jnp.float32, (SCIPY[name].views, centre_and_width(name)))
    return evaluator(FAMILIES[name])(params, noise, views, scaling)


@functools.cache
def evaluations(name: str) -> Evaluation:
    """Returns the evaluations of all draws [n, ...], in float64."""
    params = repeated(float32_params(name), BATCH)
    batches = [evaluate(name, params, noise) for noise in noise_of(name)]
    return jax.tree.map(lambda *parts: np.concatenate(parts).astype(np.float64), *batches)


def draws(name: str) -> np.ndarray:
    """Returns all draws, [n, Z]."""
    return np.asarray(evaluations(name).z)


def quantiles(name: str, params: Exact, u: ArrayLike) -> np.ndarray:
    return SCIPY[name].law(params).ppf(u)


def centre_and_width(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the median and the interquartile range of the views."""
    lower, median, upper = (
        quantiles(name, exact_params(name), np.float64(level)) for level in (0.25, 0.5, 0.75)
    )
    return median, upper - lower


def exact_log_prob(name: str, params: Exact, z: np.ndarray) -> float:
    joint, law = SCIPY[name].joint, SCIPY[name].law
    return float(joint(params, z) if joint else np.sum(law(params).logpdf(z)))


def test_the_families_are_those_of_section_2_4():
    ways = (inverse_cdf.INVERSE_CDF, location_scale.LOCATION_SCALE, composition.COMPOSITION)
    assert [" ".join(way) for way in ways] == [
        "exponential cauchy logistic rayleigh pareto weibull reciprocal gompertz gumbel erlang",
        "laplace elliptical student_t logistic uniform triangular gaussian",
        "log_normal gamma dirichlet beta chi_squared f",
    ]
    assert set(FAMILIES) == set().union(*ways)
    assert len(FAMILIES) == 22
    assert location_scale.LOCATION_SCALE["logistic"] is inverse_cdf.INVERSE_CDF["logistic"]
    for name, family in FAMILIES.items():
        assert family.params == tuple(SCIPY[name].params)


def p_values(name: str, z: np.ndarray) -> list[float]:
    """Returns the p-values of Kolmogorov-Smirnov tests of z [n, Z], one for each view."""
    law = SCIPY[name].law(exact_params(name))
    levels = law.cdf(z @ SCIPY[name].views.T)
    return [
        scipy.stats.kstest(levels[:, view], "uniform", method="asymp").pvalue
        for view in range(levels.shape[1])
    ]


NUM_VIEWS = sum(len(counterpart.views) for counterpart in SCIPY.values())


@pytest.mark.parametrize("name", slow_but(DRAWN_IN_SHORT, FAMILIES))
def test_samples_of_a_family_have_scipys_distribution(name: str):
    """Right samples fail any of these tests with probability FALSE_ALARM (Bonferroni).

    Samples that are a twentieth too large fail.
    """
    assert min(p_values(name, draws(name))) > FALSE_ALARM / NUM_VIEWS
    assert min(p_values(name, 1.05 * draws(name))) < FALSE_ALARM / NUM_VIEWS


@every_drawn_family
def test_log_prob_of_a_family_is_scipys(name: str):
    log_probs = evaluations(name).log_prob[:50]
    expected = [exact_log_prob(name, exact_params(name), z) for z in draws(name)[:50]]
    np.testing.assert_allclose(log_probs, expected, rtol=1e-5, atol=1e-5)


@every_drawn_family
def test_the_gradient_of_log_prob_is_scipys(name: str):
    """The gradient is in every parameter, and in z along a direction that stays in the simplex."""
    params = exact_params(name)
    direction = np.array([1.0, 1.0, -2.0])
    in_params, in_z = evaluations(name).log_prob_slopes
    for i, z in enumerate(draws(name)[:5]):
        for param, value in params.items():
            expected = oracles.finite_difference(
                lambda v, param=param, z=z: exact_log_prob(name, {**params, param: v}, z), value
            )
            np.testing.assert_allclose(in_params[param][i], expected, rtol=1e-4, atol=1e-4)
        step = 1e-4 * np.min(np.abs(z))
        ahead, behind = (exact_log_prob(name, params, z + s * direction) for s in (step, -step))
        expected = (ahead - behind) / (2.0 * step)
        assert direction @ in_z[i] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def support_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of each dimension's support, [Z] each."""
    low, high = SCIPY[name].law(exact_params(name)).support()
    return np.resize(low, 3), np.resize(high, 3)


@pytest.mark.parametrize("name", [name for name in FAMILIES if np.isfinite(support_of(name)).any()])
def test_log_prob_is_minus_infinity_outside_the_support(name: str):
    for ends, step in zip(support_of(name), (-0.1, 0.1), strict=True):
        for dim in np.flatnonzero(np.isfinite(ends)):
            outside = np.resize(quantiles(name, exact_params(name), 0.5), 3)
            outside /= np.sum(outside) if name == "dirichlet" else 1.0
            outside[dim] = ends[dim] + step
            if name == "dirichlet":  # it assumes that z sums to 1
                outside[dim - 1] += 1.0 - np.sum(outside)
            assert FAMILIES[name].log_prob(float32_params(name), jnp.float32(outside)) == -np.inf


class Cells(NamedTuple):
    """A support divided into cells for the trapezoid rule.

    The variable of the rule is one in which the density decays.
    """

    params: Params
    points: np.ndarray  # [n, Z]
    volumes: np.ndarray  # [n]


def dimension_cells(name: str, dim: int) -> Cells:
    low, high = (float(ends[dim]) for ends in support_of(name))
    t, step = np.linspace(-60.0, 60.0, 20_001, retstep=True)
    if np.isfinite(high):
        z = low + (high - low) * scipy.special.expit(t)
        slopes = (high - low) * scipy.special.expit(t) * scipy.special.expit(-t)
    elif np.isfinite(low):
        z, slopes = low + np.exp(t), np.exp(t)
    else:
        z, slopes = np.sinh(0.5 * t), 0.5 * np.cosh(0.5 * t)
    params = {param: value[dim : dim + 1] for param, value in float32_params(name).items()}
    return Cells(params, z[:, None], slopes * step)


def elliptical_cells() -> Cells:
    """Returns cells of the first two dimensions."""
    t, step = np.linspace(-15.0, 15.0, 401, retstep=True)
    points = np.stack(np.meshgrid(np.sinh(t), np.sinh(t)), axis=-1).reshape(-1, 2)
    p = float32_params("elliptical")
    params = {**p, "location": p["location"][:2], "scale_tril": p["scale_tril"][:2, :2]}
    return Cells(params, points, np.outer(np.cosh(t), np.cosh(t)).ravel() * step**2)


def dirichlet_cells() -> Cells:
    """Returns cells by breaking a stick twice; the volume is in the first two dimensions."""
    t, step = np.linspace(-40.0, 40.0, 401, retstep=True)
    first, second = (scipy.special.expit(side).ravel() for side in np.meshgrid(t, t))
    rests = [scipy.special.expit(-side).ravel() for side in np.meshgrid(t, t)]
    points = np.stack([first, rests[0] * second, rests[0] * rests[1]], axis=-1)
    volumes = first * rests[0] ** 2 * second * rests[1] * step**2
    return Cells(float32_params("dirichlet"), points, volumes)


JOINT_CELLS = {"elliptical": elliptical_cells, "dirichlet": dirichlet_cells}


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(name: str, params: Params, z: jax.Array) -> jax.Array:
    return jax.vmap(FAMILIES[name].log_prob, in_axes=(None, 0))(params, z)


def log_probs(name: str, params: Params, z: np.ndarray) -> jax.Array:
    """Returns the log-density [n] of points [n, Z]."""
    return _log_probs(name, params, np.float32(z))


@every_family
def test_the_density_of_a_family_integrates_to_1(name: str):
    """The float32 density is summed in float64, for each dimension or for all dependent ones."""
    if name in JOINT_CELLS:
        cells = [JOINT_CELLS[name]()]
    else:
        cells = [dimension_cells(name, dim) for dim in range(3)]
    for params, points, volumes in cells:
        density = np.exp(np.float64(log_probs(name, params, points)))
        assert volumes @ density == pytest.approx(1.0, abs=1e-5)


@every_closed_inverse_cdf
def test_the_transform_is_scipys_inverse_cdf_with_its_gradient(name: str):
    """The levels include the least and the greatest u that are ever drawn."""
    levels = [2**-24, 1e-4, 0.1, 0.5, 0.7, 0.999, 1.0 - 2**-24]
    u = np.array(levels, np.float32)[:, None]
    noise = jnp.tile(u, (BATCH // len(u) + 1, 3))[:BATCH]
    all_found = evaluate(name, repeated(float32_params(name), BATCH), noise)
    found = jax.tree.map(lambda leaf: leaf[: len(u)], all_found)
    exact = exact_params(name)
    quantile = functools.partial(quantiles, name, u=u.astype(np.float64))
    np.testing.assert_allclose(found.z, quantile(exact), rtol=1e-5, atol=1e-6)
    for param, value in exact.items():
        ahead, behind = (quantile({**exact, param: value + step}) for step in (1e-4, -1e-4))
        expected = (ahead - behind) / 2e-4
        np.testing.assert_allclose(found.slope[param], expected, rtol=1e-4, atol=1e-4)


@functools.cache
def expectation_gradient(name: str) -> Exact:
    """Returns the gradient of the mean of `bounded`, by quadrature and finite differences.

    The quadrature runs over levels.
    """
    t, step = np.linspace(-30.0, 30.0, 1001, retstep=True)
    levels = scipy.special.expit(t)[:, None]
    weights = levels[:, 0] * scipy.special.expit(-t) * step
    exact, scaling = exact_params(name), centre_and_width(name)

    def expectation(params: Exact) -> float:
        return float(weights @ bounded(quantiles(name, params, levels), scaling, np.tanh))

    return {
        param: oracles.finite_difference(
            lambda v, param=param: expectation({**exact, param: v}), value, 1e-4
        )
        for param, value in exact.items()
    }


@every_drawn_family
def test_the_gradient_of_an_expectation_is_unbiased_in_every_parameter(name: str):
    """The tolerance is narrow enough to reject a gradient that is a third off."""
    for param, exact in expectation_gradient(name).items():
        shape = exact.shape
        moving = np.tril(np.ones(shape)) > 0 if param == "scale_tril" else np.ones(shape, bool)
        drawn = evaluations(name).bounded_slope[param]
        assert standard_errors_off(drawn[:, moving], exact[moving]) < 4, param
        for entry in np.argwhere(moving):
            assert standard_errors_off(1.33 * drawn[:, *entry], exact[*entry]) > 4, (param, entry)
        np.testing.assert_array_equal(drawn[:, ~moving], 0.0)


def extreme_params(name: str) -> list[dict[str, Any]]:
    """Returns every combination of the least and the greatest value of each parameter."""
    sizes = {param: EXTREMES[param] for param in FAMILIES[name].params}
    sizes.update(NEARER_EXTREMES.get(name, {}))
    shapes = {
        param: np.tril(np.ones((3, 3))) if param == "scale_tril" else np.ones(value.shape)
        for param, value in float32_params(name).items()
    }
    return [
        {
            param: np.float32(value * shapes[param])
            for param, value in zip(sizes, chosen, strict=True)
        }
        for chosen in itertools.product(*sizes.values())
    ]


def extreme_noise(name: str, period: int) -> Any:
    """Returns drawn noise in which two draws of each period are the least and greatest uniforms."""

    def with_extremes(uniform: jax.Array) -> jax.Array:
        return uniform.at[::period].set(2**-24).at[1::period].set(1.0 - 2**-24)

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, GammaNoise):
            return leaf._replace(uniform=with_extremes(leaf.uniform))
        return with_extremes(leaf) if FAMILIES[name].noise is open_uniform else leaf

    noise = noise_of(name)[0]
    return jax.tree.map(replace, noise, is_leaf=lambda leaf: isinstance(leaf, GammaNoise))


@every_drawn_family
def test_samples_log_prob_and_their_gradients_are_finite_at_extremes(name: str):
    """The draws of a batch are distributed among the combinations."""
    combinations = extreme_params(name)
    each = BATCH // len(combinations)
    params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *repeated(combinations, each))
    evaluated = evaluate(name, params, extreme_noise(name, each))
    finite = np.stack(
        [np.isfinite(leaf).reshape(BATCH, -1).all(axis=1) for leaf in jax.tree.leaves(evaluated)]
    )
    assert np.all(finite), combinations[np.flatnonzero(~finite.all(axis=0))[0] // each]


@every_family
def test_a_sample_is_the_transform_of_noise_that_has_no_parameter(name: str):
    """Its log_prob is also SciPy's without `jit` and `vmap`."""
    family, params = FAMILIES[name], float32_params(name)
    key = jax.random.key(7)
    z = family.sample(key, params)
    assert z.dtype == jnp.float32
    np.testing.assert_array_equal(z, family.transform(params, family.noise(key, z.shape, z.dtype)))
    assert np.all(z != family.sample(jax.random.key(8), params))
    exact = exact_log_prob(name, exact_params(name), np.asarray(z, np.float64))
    assert float(family.log_prob(params, z)) == pytest.approx(exact, rel=1e-5, abs=1e-5)


def test_uniform_noise_takes_the_midpoints_of_equal_cells():
    """They are in the open interval; bfloat16 has so few values that the test sees all of them."""
    coarse = open_uniform(jax.random.key(0), (10_000,), jnp.bfloat16)
    np.testing.assert_array_equal(np.unique(np.float64(coarse)), (np.arange(128) + 0.5) / 128)
    fine = np.float64(open_uniform(jax.random.key(0), (10_000,), jnp.float32)) * 2**24
    assert np.all(fine % 2 == 1)
    assert 1 <= np.min(fine) < np.max(fine) <= 2**24 - 1


def test_positive_saturates_where_z_is_still_positive_and_its_square_finite():
    z = positive(jnp.float32([-1e6, -85.0, 0.0, 39.0, 1e6]))
    np.testing.assert_allclose(z[1:4], np.exp([-85.0, 0.0, 39.0]), rtol=1e-5)
    assert np.all(np.isfinite([*z, *(1.0 / z), *jnp.square(z)]))
    gradient = jax.jit(jax.vmap(jax.grad(positive)))(jnp.float32([-1e6, 1e6]))
    np.testing.assert_array_equal(gradient, 0.0)


def test_the_logarithm_of_a_gamma_and_its_gradient_are_unbiased_at_any_concentration():
    """The mean E[log g] is the digamma and its derivative the trigamma, also where g would be 0."""
    concentrations = jnp.float32([1e-3, 0.1, 1.0, 30.0, 1e4])

    @jax.jit
    @jax.vmap
    def log_g_and_slopes(key: jax.Array) -> tuple[jax.Array, Any]:
        noise = FAMILIES["gamma"].noise(key, (5,), jnp.float32)
        log_g, pullback = jax.vjp(lambda a: log_gamma(a, noise), concentrations)
        return log_g, pullback(jnp.ones(5))[0]

    log_g, slopes = log_g_and_slopes(keys(10_000))
    exact = np.float64(concentrations)
    assert standard_errors_off(log_g, scipy.special.digamma(exact)) < 4
    assert standard_errors_off(slopes, scipy.special.polygamma(1, exact)) < 4


def test_elliptical_in_one_dimension_is_student_t():
    location, scale, df = jnp.float32([0.3]), jnp.float32([0.7]), jnp.float32(2.5)
    z = jnp.float32([[-40.0], [0.0], [1.5]])
    joint = log_probs(
        "elliptical", {"location": location, "scale_tril": scale[:, None], "df": df}, z
    )
    single = log_probs("student_t", {"location": location, "scale": scale, "df": df[None]}, z)
    np.testing.assert_allclose(joint, single, rtol=1e-5)


def test_student_t_of_many_degrees_of_freedom_is_gaussian():
    """The value lgamma(df / 2) is 7e7 at df = 10^7, of which float32 keeps no decimal."""
    params = float32_params("gaussian")
    heavy = log_probs("student_t", {**params, "df": jnp.full(3, 1e7)}, draws("gaussian")[:10])
    light = evaluations("gaussian").log_prob[:10]
    np.testing.assert_allclose(heavy, light, rtol=1e-5, atol=1e-5)


def test_a_family_is_a_guide_whose_bound_is_unbiased():
    """The oracle is KL(Exponential(r) || Exponential(s)) = log(r / s) + s / r - 1, by sgvb_a."""
    family = FAMILIES["exponential"]
    guide = Guide(family.sample, family.log_prob)
    r, s = {"rate": jnp.float32([2.0, 0.5])}, {"rate": jnp.float32([1.0, 3.0])}
    joint = Joint(functools.partial(family.log_prob, s), log_lik=lambda z: jnp.float32(0.0))
    bounds = jax.jit(jax.vmap(lambda key: sgvb_a(key, r, guide, joint)))(keys(10_000))
    ratio = np.float64(s["rate"]) / np.float64(r["rate"])
    assert standard_errors_off(bounds, -np.sum(ratio - np.log(ratio) - 1.0)) < 4
