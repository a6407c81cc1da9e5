"""Guides and priors of several factors: two linear-Gaussian layers, with exact bounds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import hierarchy
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hierarchy import ORDERS, Hierarchy
from marks import slow_but

from aevb import factors, losses
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal

NUM_DRAWS = 20_000
SIZES = [(4, (3, 2), 0), (3, (2, 2), 1), (6, (4, 1), 2)]  # D, (Z1, Z2), seed
OF_ELBO = ("sgvb_a", "sgvb_b", "stl", "score_function", "score_function_loo", "beta_elbo")
OF_MANY = ("iwae", "dreg", "miwae", "piwae", "ciwae", "renyi")
OPTIONS: dict[str, dict[str, Any]] = {
    "score_function_loo": {"num_samples": 2}, "beta_elbo": {"beta": 1.0},
    **{name: {"num_samples": 4} for name in OF_MANY},
}  # fmt: skip

every_order = pytest.mark.parametrize("order", ORDERS)
every_size = pytest.mark.parametrize("sizes", slow_but(SIZES[:1], SIZES))


def case_of(order: str, sizes: tuple[int, tuple[int, int], int]) -> Hierarchy:
    return hierarchy.make(order, *sizes)


def draws_of(
    case: Hierarchy, bounds: dict[str, Callable[..., jax.Array]]
) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Returns the values and gradients of bounds in independent draws, from one program."""
    x = jnp.float32(case.x)

    def value(name: str, params: Any, key: jax.Array) -> jax.Array:
        guide, stats = hierarchy.guide_of(case.order, params)
        joint = hierarchy.joint_of(params, x)
        return bounds[name](key, stats, guide, joint, **OPTIONS.get(name, {}))

    @jax.jit
    def all_of(params: Any, keys: jax.Array) -> Any:
        return {
            name: jax.lax.map(
                lambda key, name=name: jax.value_and_grad(lambda p: value(name, p, key))(params),
                keys, batch_size=500,
            )
            for name in bounds
        }  # fmt: skip

    found = all_of(
        jax.tree.map(jnp.float32, case.params), jax.random.split(jax.random.key(3), NUM_DRAWS)
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


def exact_gradient(case: Hierarchy) -> dict[str, np.ndarray]:
    """Returns the gradient of the exact bound, by central differences."""

    def of(name: str) -> np.ndarray:
        def value(at: np.ndarray) -> float:
            params = case.params | {name: at.reshape(case.params[name].shape)}
            return hierarchy.exact_elbo(case._replace(params=params))

        at = case.params[name]
        return oracles.finite_difference(value, at.ravel()).reshape(at.shape)

    return {name: of(name) for name in case.params}


@every_order
@every_size
def test_estimates_of_the_elbo_and_their_gradients_have_the_exact_means(order: str, sizes: Any):
    case = case_of(order, sizes)
    expected, gradient = hierarchy.exact_elbo(case), exact_gradient(case)
    for name, (value, slopes) in draws_of(case, {n: losses.BOUNDS[n] for n in OF_ELBO}).items():
        assert oracles.standard_errors_off(value, expected) < 4.0, name
        for param, exact in gradient.items():
            assert np.max(oracles.standard_errors_off(slopes[param], exact)) < 4.5, (name, param)


@every_order
def test_bounds_of_several_samples_have_gradients_of_one_mean(order: str):
    """iwae's gradient is the reference; the others keep the model's or the guide's part of it."""
    case = case_of(order, SIZES[0])
    found = draws_of(case, {name: losses.BOUNDS[name] for name in ("iwae", "dreg", "piwae")})
    value, slopes = found["iwae"]
    assert value.mean() < hierarchy.exact_log_prob(case)
    assert value.mean() > hierarchy.exact_elbo(case)
    for name, params in (("dreg", case.params), ("piwae", ("W1", "W2"))):
        np.testing.assert_allclose(found[name][0], value, rtol=1e-5, atol=1e-5)
        for param in params:
            off = found[name][1][param] - slopes[param]
            if np.any(off):
                error = np.std(off, axis=0, ddof=1) / np.sqrt(NUM_DRAWS) + 1e-6
                assert np.max(np.abs(off.mean(axis=0)) / error) < 4.5, (name, param)


@pytest.mark.parametrize("order", slow_but(["top_down"], ORDERS))
@every_size
def test_at_the_exact_posterior_every_bound_is_log_p_for_every_key(order: str, sizes: Any):
    case = case_of(order, sizes)
    guide, stats = hierarchy.exact_guide(case)
    joint = hierarchy.joint_of(jax.tree.map(jnp.float32, case.params), jnp.float32(case.x))
    expected = hierarchy.exact_log_prob(case)
    for name in ("sgvb_a", "stl", *OF_MANY):
        bound = partial(losses.BOUNDS[name], **OPTIONS.get(name, {}))
        found = jax.jit(lambda key, bound=bound: bound(key, stats, guide, joint))(jax.random.key(1))
        np.testing.assert_allclose(found, expected, rtol=2e-5, err_msg=name)


@every_order
def test_the_rate_and_its_terms_by_layer_add_up_to_the_bound(order: str):
    case = case_of(order, SIZES[0])
    params = jax.tree.map(jnp.float32, case.params)
    guide, stats = hierarchy.guide_of(case.order, params)
    joint = hierarchy.joint_of(params, jnp.float32(case.x))
    key = jax.random.key(0)
    rate, distortion = losses.rate_and_distortion(key, stats, guide, joint)
    assert guide.sample_and_kls is not None
    one_key = jax.random.split(key, 1)[0]
    z, kls = guide.sample_and_kls(one_key, stats, joint.prior)
    assert set(kls) == {"z1", "z2"}
    np.testing.assert_allclose(rate, sum(kls.values()), rtol=1e-5)
    np.testing.assert_allclose(distortion, -joint.log_lik(z), rtol=1e-5)
    bound = losses.sgvb_b(key, stats, guide, joint)
    np.testing.assert_allclose(-(rate + distortion), bound, rtol=1e-5)
    same = guide.sample(one_key, stats)
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other), same, z)


def test_top_down_inference_has_a_closed_kl_for_each_layer():
    """The first layer's does not depend on the key, and the second's mean is the KL's rest."""
    case = case_of("top_down", SIZES[0])
    params = jax.tree.map(jnp.float32, case.params)
    guide, stats = hierarchy.guide_of(case.order, params)
    joint = hierarchy.joint_of(params, jnp.float32(case.x))
    assert losses.closed_kl(stats, guide, joint) is None
    assert guide.sample_and_kls is not None
    of_keys = [
        guide.sample_and_kls(key, stats, joint.prior)
        for key in jax.random.split(jax.random.key(0), 2)
    ]
    top = oracles.kl_to_standard_normal(case.params["mean"], case.params["log_var"])
    for z, kls in of_keys:
        np.testing.assert_allclose(kls["z2"], top, rtol=1e-5)
        own = stats["z1"]
        q = DiagNormal(own["slope"] @ z["z2"] + own["level"], own["log_var_given"])
        expected = q.kl(joint.prior.factor("z1", z))
        assert expected is not None
        np.testing.assert_allclose(kls["z1"], expected, rtol=1e-5)
    assert of_keys[0][1]["z1"] != of_keys[1][1]["z1"]


def test_closed_kls_lower_the_variance():
    case = case_of("top_down", SIZES[0])
    found = draws_of(case, {name: losses.BOUNDS[name] for name in ("sgvb_a", "sgvb_b")})
    assert np.var(found["sgvb_b"][0]) < 0.9 * np.var(found["sgvb_a"][0])


def test_independent_factors_have_the_kl_of_the_joined_vector():
    mean, log_var = jnp.float32([0.3, -0.2, 1.0]), jnp.float32([-0.5, 0.1, -1.0])
    guide = factors.guide({"a": diag_normal, "b": diag_normal})
    prior = factors.prior({"a": StandardNormal(1), "b": StandardNormal(2)})
    stats = {"a": DiagNormal(mean[:1], log_var[:1]), "b": DiagNormal(mean[1:], log_var[1:])}
    joint = losses.Joint(prior, lambda z: -jnp.sum(jnp.square(z["b"])))
    joined = DiagNormal(mean, log_var)
    kl = losses.closed_kl(stats, guide, joint)
    assert kl is not None
    np.testing.assert_allclose(kl, joined.kl_to_standard_normal(), rtol=1e-6)
    z, log_q = losses.sample_and_log_prob(jax.random.key(0), stats, guide)
    together = jnp.concatenate([z["a"], z["b"]])
    np.testing.assert_allclose(log_q, joined.log_prob(together), rtol=1e-5)
    np.testing.assert_allclose(prior.log_prob(z), StandardNormal(3).log_prob(together), rtol=1e-6)
    assert losses.free_bits(jax.random.key(0), stats, guide, joint) < 0.0


def test_independent_latents_have_no_closed_kl_to_a_prior_with_parents():
    """E[KL(q(b) || p(b|a))] is over a ~ q, and its mean over draws is that of `sgvb_a`."""
    guide = factors.guide({"a": diag_normal, "b": diag_normal})
    given = factors.Given(("a",), lambda a: DiagNormal(2.0 * a, jnp.zeros(1)))
    prior = factors.prior({"a": StandardNormal(1), "b": given})
    q = DiagNormal(jnp.float32([0.4]), jnp.float32([-0.6]))
    stats, joint = {"a": q, "b": q}, losses.Joint(prior, lambda z: jnp.sum(z["b"]))
    assert losses.closed_kl(stats, guide, joint) is None
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    draws = [
        jax.jit(jax.vmap(lambda key, bound=bound: bound(key, stats, guide, joint)))(keys)
        for bound in (losses.sgvb_a, losses.sgvb_b)
    ]
    off = np.asarray(draws[0] - draws[1], np.float64)
    assert oracles.standard_errors_off(off, 0.0) < 4.0
    assert np.var(draws[1]) < np.var(draws[0])


def test_a_prior_that_is_a_function_has_the_kl_of_the_sample():
    case = case_of("bottom_up", SIZES[0])
    params = jax.tree.map(jnp.float32, case.params)
    guide, stats = hierarchy.guide_of(case.order, params)
    joint = hierarchy.joint_of(params, jnp.float32(case.x))
    of_function = losses.Joint(joint.log_prior, joint.log_lik)
    for bound in (losses.sgvb_a, losses.sgvb_b):
        np.testing.assert_allclose(
            bound(jax.random.key(0), stats, guide, of_function),
            losses.sgvb_a(jax.random.key(0), stats, guide, joint), rtol=1e-5,
        )  # fmt: skip


def test_samples_of_the_prior_have_its_covariance():
    case = case_of("top_down", SIZES[0])
    params = jax.tree.map(jnp.float32, case.params)
    prior = hierarchy.joint_of(params, jnp.float32(case.x)).prior
    z = jax.vmap(prior.sample)(jax.random.split(jax.random.key(0), NUM_DRAWS))
    w2 = case.params["W2"]
    expected = w2 @ w2.T + np.exp(hierarchy.LOG_VARS["z1"]) * np.eye(len(w2))
    np.testing.assert_allclose(np.cov(z["z1"], rowvar=False), expected, atol=0.06)
    assert z["z2"].shape == (NUM_DRAWS, 2)


def test_a_weighted_kl_weighs_each_term():
    case = case_of("top_down", SIZES[0])
    params = jax.tree.map(jnp.float32, case.params)
    guide, stats = hierarchy.guide_of(case.order, params)
    joint = hierarchy.joint_of(params, jnp.float32(case.x))
    key = jax.random.key(0)
    rate, distortion = losses.rate_and_distortion(key, stats, guide, joint)
    weighted = losses.with_kl_weight(guide, joint, 0.25)
    np.testing.assert_allclose(
        losses.sgvb_b(key, stats, *weighted), -0.25 * rate - distortion, rtol=1e-5
    )


@pytest.mark.parametrize("make", [factors.prior, factors.guide])
def test_a_factor_that_depends_on_a_later_one_is_refused(make: Callable[..., Any]):
    later = (
        factors.Given(("z2",), lambda z2: StandardNormal(1))
        if make is factors.prior
        else factors.Conditional(diag_normal, ("z2",), lambda own, z2: own)
    )
    with pytest.raises(ValueError, match="'z1' depends on 'z2', which is not before it"):
        make({"z1": later, "z2": StandardNormal(1)})
    with pytest.raises(ValueError, match="at least 1"):
        make({})
