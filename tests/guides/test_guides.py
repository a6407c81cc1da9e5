"""Families of q(z|x): densities, their gradients and samples, and the posteriors they can fit."""

import itertools
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.stats
from belief_network import DISCRETE
from cases import joint_of
from jax.flatten_util import ravel_pytree
from marks import slow_but
from oracles import standard_errors_off

from aevb import guides
from aevb.distributions import DiagNormal, FullNormal, StandardNormal
from aevb.guides import GuideFamily, Sizes, diag_normal, full_normal
from aevb.guides.flows import FlowStats, PlanarStats, planar
from aevb.losses import BOUNDS, Bound, Guide, Joint, log_weights

NUM_DRAWS = 20_000
NUM_LAYERS, NUM_HIDDEN = 3, 8
FLOWS = ("planar", "iaf")
GUIDES = {name: make for name, make in guides.GUIDES.items() if name not in DISCRETE}

every_guide = pytest.mark.parametrize("name", GUIDES)
every_new_guide = pytest.mark.parametrize(
    "name", [name for name in GUIDES if name != "diag_normal"]
)
every_flow = pytest.mark.parametrize("name", FLOWS)
of_some_sizes = pytest.mark.parametrize("num_latents", [pytest.param(1, marks=pytest.mark.slow), 4])


@cache
def family_of(name: str, num_latents: int) -> GuideFamily:
    return GUIDES[name](Sizes(num_latents, NUM_LAYERS, NUM_HIDDEN))


@cache
def random_stats(name: str, num_latents: int, seed: int, *, scale: float = 0.6) -> Any:
    """Returns statistics far from a standard normal's, but still on a grid.

    The heads are drawn from N(0, scale^2).
    """
    family, rng = family_of(name, num_latents), np.random.default_rng(seed)
    heads = {head: scale * rng.normal(size=size) for head, size in family.heads.items()}
    heads |= {head: 0.3 * heads[head] - 0.5 for head in ("log_var", "log_diag") if head in heads}
    own = family.init and family.init(jax.random.key(seed))
    return family.stats(own, jax.tree.map(jnp.float32, heads))


def as_float64(tree: Any) -> Any:
    """Returns the tree in float64, within `jax.enable_x64`."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)


@partial(jax.jit, static_argnums=0)
def draws_of(guide: Guide, stats: Any) -> jax.Array:
    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    return jax.vmap(guide.sample, in_axes=(0, None))(keys, stats)


@partial(jax.jit, static_argnums=0)
def log_probs(guide: Guide, stats: Any, z: Any) -> jax.Array:
    """Returns the log-density [n] of points [n, Z]."""
    return jax.vmap(guide.log_prob, in_axes=(None, 0))(stats, z)


class Grid(NamedTuple):
    """A density in two dimensions, on a grid that holds all its mass."""

    axis: np.ndarray  # [G], of both dimensions
    density: np.ndarray  # [G, G], the first dimension first


@cache
def grid_of(name: str, seed: int) -> Grid:
    guide, stats = family_of(name, 2).guide, random_stats(name, 2, seed)
    axis = np.linspace(-10.0, 10.0, 401).astype(np.float32)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_q = np.asarray(log_probs(guide, stats, points), np.float64).reshape(len(axis), -1)
    return Grid(axis.astype(np.float64), np.exp(log_q))


# Densities


@every_guide
@pytest.mark.parametrize("seed", [0, 1])
def test_the_density_of_a_guide_integrates_to_1(name: str, seed: int):
    axis, density = grid_of(name, seed)
    border = np.concatenate([density[[0, -1]].ravel(), density[:, [0, -1]].ravel()])
    assert np.max(border) < 1e-9
    total = np.trapezoid(np.trapezoid(density, axis), axis)
    assert total == pytest.approx(1.0, abs=1e-5)


@every_guide
@pytest.mark.parametrize("seed", [0, 1])
def test_samples_of_a_guide_have_its_density(name: str, seed: int):
    """Kolmogorov-Smirnov tests both coordinates and their sum, with 1e-3 false alarms for each."""
    axis, density = grid_of(name, seed)
    draws = np.asarray(draws_of(family_of(name, 2).guide, random_stats(name, 2, seed)), np.float64)
    spacing = axis[1] - axis[0]
    for values, marginal in (
        (draws[:, 0], np.trapezoid(density, axis, axis=1)),
        (draws[:, 1], np.trapezoid(density, axis, axis=0)),
    ):
        steps = 0.5 * spacing * (marginal[1:] + marginal[:-1])
        cdf = np.concatenate([[0.0], np.cumsum(steps)])
        test = scipy.stats.kstest(values, lambda z, cdf=cdf: np.interp(z, axis, cdf))
        assert test.pvalue > 1e-3
    # The marginals do not determine the dependence; this expectation tests it.
    first, second = np.meshgrid(axis, axis, indexing="ij")
    exact = np.trapezoid(np.trapezoid(density * np.sin(first) * np.cos(second), axis), axis)
    assert standard_errors_off(np.sin(draws[:, 0]) * np.cos(draws[:, 1]), exact) < 4


@every_flow
@of_some_sizes
def test_a_flows_density_is_that_of_the_change_of_variables(name: str, num_latents: int):
    """The oracle is log q(z_0) - log |det dz / dz_0|; moving the base's mean moves z_0."""
    guide = family_of(name, num_latents).guide
    with jax.enable_x64(True):
        stats = as_float64(random_stats(name, num_latents, seed=2))

        @jax.jit
        def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            def moved(mean: jax.Array) -> jax.Array:
                return guide.sample(key, stats._replace(base=stats.base._replace(mean=mean)))

            log_det = jnp.linalg.slogdet(jax.jacfwd(moved)(stats.base.mean))[1]
            expected = stats.base.log_prob(stats.base.sample(key)) - log_det
            return guide.log_prob(stats, guide.sample(key, stats)), expected

        found, expected = jax.vmap(both)(jax.random.split(jax.random.key(0), 50))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@every_guide
@of_some_sizes
def test_sample_and_log_prob_gives_the_z_of_sample_and_its_log_prob(name: str, num_latents: int):
    guide, stats = family_of(name, num_latents).guide, random_stats(name, num_latents, seed=3)
    sample_and_log_prob = guide.sample_and_log_prob
    assert sample_and_log_prob is not None

    @jax.jit
    @jax.vmap
    def every_way(key: jax.Array) -> tuple[jax.Array, ...]:
        z, log_q = sample_and_log_prob(key, stats)
        return z, guide.sample(key, stats), log_q, guide.log_prob(stats, z)

    z, again, log_q, found = every_way(jax.random.split(jax.random.key(0), 200))
    np.testing.assert_allclose(z, again, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found, log_q, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", slow_but(["iaf"], [n for n in GUIDES if n != "diag_normal"]))
def test_gradients_of_a_guides_density_are_finite_differences(name: str):
    """The gradients are in z and in every statistic, through a flow's inversion, in float64."""
    guide = family_of(name, 3).guide
    with jax.enable_x64(True):
        stats = as_float64(random_stats(name, 3, seed=4))
        at, unravel = ravel_pytree((stats, jnp.asarray([0.7, -0.4, 1.1])))
        log_prob = jax.jit(lambda flat: guide.log_prob(*unravel(flat)))
        shifts = 1e-5 * jnp.eye(len(at))
        differences = jax.jit(
            jax.vmap(lambda shift: (log_prob(at + shift) - log_prob(at - shift)) / 2e-5)
        )(shifts)
        gradient = jax.jit(jax.grad(log_prob))(at)
    assert np.sum(np.asarray(gradient) != 0.0) >= 12  # so that the comparison is informative
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@every_guide
def test_the_gradient_of_log_weights_is_the_same_with_log_q_from_sampling_or_from_log_prob(
    name: str,
):
    """In `log_weights`, log q comes from sampling; the alternative is `log_prob` at the sample."""
    guide = family_of(name, 3).guide
    joint = Joint(lambda z: -jnp.sum(z**4), lambda z: jnp.sum(jnp.sin(z)))
    with jax.enable_x64(True):
        stats = as_float64(random_stats(name, 3, seed=5))

        def value(guide: Guide, stats: Any) -> jax.Array:
            return jnp.sum(log_weights(jax.random.key(0), stats, guide, joint, num_samples=4))

        @jax.jit
        def both_ways(stats: Any) -> list[Any]:
            ways = (guide, guide._replace(sample_and_log_prob=None))
            return [jax.value_and_grad(partial(value, way))(stats) for way in ways]

        quick, by_log_prob = both_ways(stats)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), quick, by_log_prob)


@every_guide
@of_some_sizes
def test_every_head_and_parameter_of_a_guide_changes_its_density(name: str, num_latents: int):
    """Every head changes the density; a head without effect would be trained in vain."""
    family = family_of(name, num_latents)
    assert all(size > 0 for size in family.heads.values())
    rng = np.random.default_rng(0)
    heads = {head: jnp.float32(rng.normal(size=size)) for head, size in family.heads.items()}
    own = family.init and family.init(jax.random.key(0))
    z = jnp.linspace(-1.0, 1.0, num_latents) + 0.3

    def log_prob(own: Any, heads: Any) -> jax.Array:
        return family.guide.log_prob(family.stats(own, heads), z)

    of_own, of_heads = jax.jit(jax.grad(log_prob, argnums=(0, 1)))(own, heads)
    if num_latents > 1:
        assert all(np.any(leaf != 0.0) for leaf in jax.tree.leaves(of_own))
    assert all(np.all(leaf != 0.0) for leaf in of_heads.values())


# The full Gaussian


@of_some_sizes
def test_full_normal_is_scipys_with_the_covariance_of_its_factor_and_the_closed_kl(
    num_latents: int,
):
    guide, stats = full_normal, random_stats("full_normal", num_latents, seed=0)
    mean, factor = (np.asarray(part, np.float64) for part in (stats.mean, stats.factor()))
    np.testing.assert_array_equal(factor, np.tril(factor))
    np.testing.assert_allclose(np.diag(factor), np.exp(stats.log_diag), rtol=1e-6)
    np.testing.assert_array_equal(factor[np.tril_indices(num_latents, -1)], stats.below_diag)
    z = np.random.default_rng(0).normal(size=(20, num_latents)).astype(np.float32)
    found = log_probs(guide, stats, z)
    exact = scipy.stats.multivariate_normal.logpdf(z, mean, factor @ factor.T)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found, np.ravel(exact), rtol=1e-4, atol=1e-4)
    draws = np.asarray(draws_of(guide, stats), np.float64)
    assert standard_errors_off(draws, mean) < 4
    products = np.einsum("ni,nj->nij", draws - mean, draws - mean)
    assert standard_errors_off(products, factor @ factor.T) < 4
    kl = oracles.kl_gaussians(mean, factor @ factor.T, np.zeros(num_latents), np.eye(num_latents))
    assert guide.kl is not None
    assert guide.kl(stats, StandardNormal(num_latents)) == pytest.approx(kl, rel=1e-5)


@pytest.mark.slow
def test_full_normal_reaches_a_posterior_that_diag_normal_cannot():
    """The loss of diag_normal is known: its best variances are 1 over the precision's diagonal."""
    model = oracles.linear_gaussian(0, 6, 3)
    x = np.random.default_rng(0).normal(size=6)
    mean, cov = model.posterior(x)
    precision = np.linalg.inv(cov)
    missed = 0.5 * (np.sum(np.log(np.diag(precision))) - np.linalg.slogdet(precision)[1])
    assert missed > 0.2
    joint, log_prob = joint_of(model, x), model.log_prob(x)
    best = DiagNormal(jnp.float32(mean), jnp.float32(-np.log(np.diag(precision))))
    key = jax.random.key(0)
    log_w = jax.jit(lambda key: log_weights(key, best, diag_normal, joint, num_samples=NUM_DRAWS))(
        key
    )
    assert standard_errors_off(log_prob - np.asarray(log_w, np.float64), missed) < 4

    def climb(stats: FullNormal, key: jax.Array) -> tuple[FullNormal, None]:
        """Takes one step up `stl`, whose gradient has no noise at the posterior."""
        gradient = jax.grad(lambda s: BOUNDS["stl"](key, s, full_normal, joint, num_samples=10))
        return jax.tree.map(lambda leaf, slope: leaf + 0.03 * slope, stats, gradient(stats)), None

    start = FullNormal(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3))
    found, _ = jax.jit(partial(jax.lax.scan, climb))(start, jax.random.split(key, 1000))
    factor = np.asarray(found.factor(), np.float64)
    np.testing.assert_allclose(found.mean, mean, atol=1e-3)
    np.testing.assert_allclose(factor @ factor.T, cov, atol=1e-3)
    log_w = log_weights(key, found, full_normal, joint, num_samples=100)
    np.testing.assert_allclose(log_w, log_prob, atol=1e-3)


def test_stl_has_no_gradient_at_an_exact_posterior_with_correlations():
    """The gradient would not vanish if the density came from sampling, where nothing is stopped."""
    model = oracles.linear_gaussian(1, 5, 3)
    x = np.random.default_rng(1).normal(size=5)
    mean, cov = model.posterior(x)
    factor = np.linalg.cholesky(cov)
    stats = FullNormal(
        jnp.float32(mean),
        jnp.float32(np.log(np.diag(factor))),
        jnp.float32(factor[np.tril_indices(3, -1)]),
    )
    joint = joint_of(model, x)

    def gradients(name: str) -> np.ndarray:
        bound = jax.grad(lambda stats, key: BOUNDS[name](key, stats, full_normal, joint))
        keys = jax.random.split(jax.random.key(0), 100)
        return np.concatenate(
            [leaf.ravel() for leaf in jax.jit(jax.vmap(bound, in_axes=(None, 0)))(stats, keys)]
        )

    assert np.max(np.abs(gradients("stl"))) < 1e-4
    assert np.std(gradients("sgvb_a")) > 0.1  # it is 0 only on average


# Flows


def banana(z: Any) -> Any:
    """Returns the mean of the one observation in a model with a curved posterior, at z [..., 2]."""
    return z[..., 1] + z[..., 0] ** 2


BANANA_X, BANANA_STD = 1.5, 0.3


def banana_joint() -> Joint:
    noise = DiagNormal(jnp.zeros(1), jnp.full(1, 2.0 * np.log(BANANA_STD), jnp.float32))
    return Joint(StandardNormal(2), lambda z: noise.log_prob(BANANA_X - banana(z)[None]))


def banana_log_prob() -> float:
    def log_joint(z: np.ndarray) -> np.ndarray:
        log_lik = scipy.stats.norm.logpdf(BANANA_X, banana(z), BANANA_STD)
        return scipy.stats.norm.logpdf(z).sum(axis=1) + log_lik

    return oracles.quadrature_log_prob(log_joint, 2)


@cache
def fitted_to_the_banana(name: str) -> tuple[float, float]:
    """Returns the evidence lower bound of a guide after 1500 Adam steps, and its standard error."""
    family = GUIDES[name](Sizes(2, 4 if name == "planar" else 2, 8))
    guide, joint = family.guide, banana_joint()
    rng = np.random.default_rng(0)
    heads = {head: jnp.float32(0.5 * rng.normal(size=n)) for head, n in family.heads.items()}
    own = family.init and family.init(jax.random.key(0))
    optimizer = optax.adam(0.02)

    def bounds(key: jax.Array, stats: Any, number: int) -> jax.Array:
        return log_weights(key, stats, guide, joint, num_samples=number)

    @jax.jit
    def fit(stats: Any) -> jax.Array:
        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            stats, state = carry
            grads = jax.grad(lambda stats: -jnp.mean(bounds(key, stats, 32)))(stats)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(stats, updates), state), None

        start = (stats, optimizer.init(stats))
        (stats, _), _ = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 1500))
        return bounds(jax.random.key(2), stats, NUM_DRAWS)

    log_w = np.asarray(fit(family.stats(own, heads)), np.float64)
    return float(np.mean(log_w)), float(np.std(log_w) / np.sqrt(NUM_DRAWS))


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax needs it
@pytest.mark.parametrize("name", FLOWS)
def test_the_bound_of_a_flow_at_a_curved_posterior_is_between_the_best_gaussians_and_log_p(
    name: str,
):
    """The value log p(x) is known by quadrature; a wrong density would soon exceed it."""
    log_prob = banana_log_prob()
    gaussian, flow = fitted_to_the_banana("full_normal"), fitted_to_the_banana(name)
    assert log_prob - gaussian[0] > 0.5  # so that an improvement is possible
    assert log_prob - flow[0] < 0.5 * (log_prob - gaussian[0])
    for bound, standard_error in (gaussian, flow):
        assert bound < log_prob + 4 * standard_error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "name_of_bound", "reference", "num_samples"),
    [
        ("planar", "stl", "sgvb_a", 1),
        ("iaf", "dreg", "iwae", 3),
    ],
)
def test_stl_and_dreg_have_the_mean_gradient_with_flows_too(
    name: str, name_of_bound: str, reference: str, num_samples: int
):
    """The gradients use the same noise; half of what depends on phi in log q is inverted."""
    guide, joint = family_of(name, 2).guide, banana_joint()
    stats = random_stats(name, 2, seed=7)
    flat, unravel = ravel_pytree(stats)

    def gradient(bound: Bound, key: jax.Array) -> jax.Array:
        def value(flat: jax.Array) -> jax.Array:
            return bound(key, unravel(flat), guide, joint, num_samples=num_samples)

        return jax.grad(value)(flat)

    @jax.jit
    def differences(keys: jax.Array) -> jax.Array:
        return jax.vmap(
            lambda key: gradient(BOUNDS[name_of_bound], key) - gradient(BOUNDS[reference], key)
        )(keys)

    draws = np.asarray(differences(jax.random.split(jax.random.key(3), 4000)), np.float64)
    varies = np.std(draws, axis=0) > 0.0
    assert np.sum(varies) > 10
    np.testing.assert_array_equal(draws[:, ~varies], 0.0)  # the entries that masks remove
    # The worst of many entries has a wider limit than a single one: 1e-4 in all.
    limit = scipy.stats.norm.isf(0.5e-4 / np.sum(varies))
    assert standard_errors_off(draws[:, varies], 0.0) < max(limit, 4.0)


PLANAR_EXTREMES = list(itertools.product([0.0, 1e-6, 1e-2, 1.0, 30.0], [0.0, 1e-2, 3.0, 300.0]))


def one_planar_layer(w: float, u: float, b: float, *, along: float) -> FlowStats:
    """Returns one layer with |w| and |u| as given, and `along` the cosine of u's angle to w."""
    direction = np.array([0.6, 0.8])
    aside = np.array([-0.8, 0.6])
    u_vector = u * (along * direction + np.sqrt(1.0 - along**2) * aside)
    layers = PlanarStats(
        jnp.float32(u_vector[None]), jnp.float32(w * direction[None]), jnp.float32([b])
    )
    return FlowStats(DiagNormal(jnp.zeros(2), jnp.zeros(2)), layers)


planar_slopes = jax.jit(jax.vmap(jax.value_and_grad(planar.log_prob), in_axes=(0, None)))


@partial(jax.jit, static_argnums=2)
def planar_draws(stats: FlowStats, keys: jax.Array, guide: Guide) -> Any:
    assert guide.sample_and_log_prob is not None
    draw = jax.vmap(guide.sample_and_log_prob, in_axes=(0, None))
    return jax.vmap(draw, in_axes=(None, 0))(keys, stats)


@pytest.mark.parametrize("along", [-1.0, -0.5, 0.5])
def test_a_planar_layer_is_invertible_whatever_its_statistics(along: float):
    """Its scalar map rises (its slope is the Jacobian's determinant), and nothing overflows."""
    z = jnp.float32([0.3, -0.2])
    stats = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *[one_planar_layer(w, u, 0.1, along=along) for w, u in PLANAR_EXTREMES],
    )
    log_q, gradients = planar_slopes(stats, z)
    assert np.all(np.isfinite(log_q))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    keys = jax.random.split(jax.random.key(0), 2000)
    draws, known = planar_draws(stats, keys, planar)
    assert np.all(np.isfinite(draws))
    assert np.all(np.isfinite(known))


def test_a_planar_layer_with_u_or_w_of_0_is_a_translation():
    """The map at u = 0 is the identity; w -> 0 keeps u bounded, and w = 0 shifts by u tanh(b)."""
    key = jax.random.key(0)
    for w in (0.0, 1e-6, 1.0):
        stats = one_planar_layer(w, 0.0, 0.4, along=0.5)
        np.testing.assert_allclose(planar.sample(key, stats), stats.base.sample(key), rtol=1e-6)
        z = jnp.float32([0.3, -0.2])
        np.testing.assert_allclose(planar.log_prob(stats, z), stats.base.log_prob(z), rtol=1e-6)
    still = one_planar_layer(0.0, 2.0, 0.4, along=0.5)
    shift = np.asarray(still.layers.u[0]) * np.tanh(0.4)
    np.testing.assert_allclose(
        planar.sample(key, still), still.base.sample(key) + shift, rtol=1e-5, atol=1e-6
    )


def test_the_gradient_of_a_planar_layer_at_u_0_is_the_finite_difference():
    """There its invertible u is composed from two branches, which must join smoothly."""
    with jax.enable_x64(True):
        stats = as_float64(one_planar_layer(1.0, 0.0, 0.4, along=0.5))
        at, unravel = ravel_pytree(stats)
        z = jnp.asarray([0.3, -0.2])
        log_prob = jax.jit(lambda flat: planar.log_prob(unravel(flat), z))
        differences = oracles.finite_difference(log_prob, np.asarray(at))
        gradient = jax.grad(log_prob)(at)
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("num_hidden", [3, 16])
def test_each_entry_of_an_iaf_layer_depends_on_all_before_it_and_none_after(num_hidden: int):
    """For one layer, dz / dz_0 is triangular; with Z hidden units it has no other zeros."""
    family = GUIDES["iaf"](Sizes(5, 1, num_hidden))
    assert family.init is not None
    rng = np.random.default_rng(0)
    heads = {head: jnp.float32(rng.normal(size=size)) for head, size in family.heads.items()}
    stats = family.stats(family.init(jax.random.key(0)), heads)

    def moved(mean: jax.Array) -> jax.Array:
        base = stats.base._replace(mean=mean)
        return family.guide.sample(jax.random.key(1), stats._replace(base=base))[::-1]

    jacobian = np.asarray(jax.jit(jax.jacfwd(moved))(stats.base.mean))
    np.testing.assert_array_equal(jacobian, np.tril(jacobian))
    assert np.all(np.diag(jacobian) > 0.0)
    if num_hidden >= 5:
        assert np.all(jacobian[np.tril_indices(5)] != 0.0)


def test_more_than_ten_layers_of_an_iaf_are_stacked_in_numerical_order():
    """JAX sorts the names of a dict as strings, so that layer_10 precedes layer_2."""
    family = GUIDES["iaf"](Sizes(2, 12, 4))
    assert family.init is not None
    own = family.init(jax.random.key(0))
    own = {
        f"layer_{layer}": jax.tree.map(lambda leaf, n=layer: jnp.full_like(leaf, n), own[name])
        for layer, name in enumerate(own)
    }
    heads = {head: jnp.zeros(size) for head, size in family.heads.items()}
    stats = jax.jit(family.stats)(own, heads)
    for leaf in jax.tree.leaves(stats.layers.network):
        np.testing.assert_array_equal(leaf.reshape(12, -1)[:, 0], np.arange(12.0))
