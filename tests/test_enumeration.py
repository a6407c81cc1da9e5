"""Sums over all values of discrete latents, against NumPy's, a mixture and a larger model."""

from typing import Any

import belief_network
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats

from aevb import enumeration, factors, guides, losses, marginal
from aevb.discrete import Bernoulli, Categorical
from aevb.distributions import DiagNormal, FullNormal, StandardNormal
from aevb.guides import bernoulli, full_normal
from aevb.losses import Joint

every_size = pytest.mark.parametrize("sizes", belief_network.SIZES)
CATEGORICAL = guides.categorical(3)


def test_every_value_appears_once():
    np.testing.assert_array_equal(enumeration.binary_values(3), belief_network.values_of(3))
    rows = np.asarray(enumeration.one_hot_values(2, 3)).reshape(-1, 2, 3)
    assert len({row.tobytes() for row in rows}) == 9
    np.testing.assert_array_equal(rows.sum(axis=2), 1.0)
    assert enumeration.one_hot_values(1, 4).shape == (4, 4)


@pytest.mark.parametrize(("num_variables", "num_classes"), [(21, 2), (0, 2), (3, 0)])
def test_too_many_values_or_none_are_refused(num_variables: int, num_classes: int):
    with pytest.raises(ValueError, match=f"{num_variables} variables of {num_classes} classes"):
        enumeration.one_hot_values(num_variables, num_classes)


@every_size
def test_a_belief_network_has_the_exact_evidence_posterior_and_bound(sizes: Any):
    case = belief_network.make(*sizes)
    params, x = belief_network.in_float32(case)
    values = enumeration.binary_values(sizes[0])
    joint = belief_network.joint_of(params, x)
    log_joint = belief_network.log_joint(case)
    found = jax.jit(lambda values: enumeration.log_prob(values, joint))(values)
    np.testing.assert_allclose(found, belief_network.exact_log_prob(case), rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(lambda values: enumeration.posterior(values, joint))(values),
        scipy.special.softmax(log_joint), rtol=1e-4, atol=1e-7,
    )  # fmt: skip

    def elbo(params: Any) -> jax.Array:
        joint = belief_network.joint_of(params, x)
        return enumeration.elbo(values, Bernoulli(params["logits"]), bernoulli, joint)

    bound, gradient = jax.jit(jax.value_and_grad(elbo))(params)
    np.testing.assert_allclose(bound, belief_network.exact_elbo(case), rtol=1e-5)
    for name, slope in gradient.items():
        exact = exact_gradient(case, name)
        np.testing.assert_allclose(slope, exact, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("sizes", belief_network.SIZES[:2])
def test_the_importance_bounds_on_both_sides_have_the_exact_means(sizes: Any):
    """The upper one is log 1/K Sum_k w_k under K samples of q, weighed by itself over p(x)."""
    case, num_samples = belief_network.make(*sizes), 3
    params, x = belief_network.in_float32(case)
    joint, q = belief_network.joint_of(params, x), Bernoulli(params["logits"])
    values = enumeration.binary_values(sizes[0])
    log_posterior = jnp.log(enumeration.posterior(values, joint))

    @jax.jit
    @jax.vmap
    def estimate(key: jax.Array) -> jax.Array:
        z_key, key = jax.random.split(key)
        z = values[jax.random.categorical(z_key, log_posterior)]
        options = {"posterior_sample": z, "num_samples": num_samples}
        return marginal.importance_upper(key, q, bernoulli, joint, **options).value

    draws = estimate(jax.random.split(jax.random.key(0), 20_000))
    log_w, log_q = (
        belief_network.log_joint(case) - belief_network.log_q(case), belief_network.log_q(case)
    )  # fmt: skip
    log_mean, mass = log_w, log_q
    for _ in range(num_samples - 1):
        log_mean = np.logaddexp(log_mean[..., None], log_w)
        mass = mass[..., None] + log_q
    log_mean -= np.log(num_samples)
    log_p = belief_network.exact_log_prob(case)
    exact = np.sum(np.exp(mass + log_mean - log_p) * log_mean)
    assert exact > log_p
    assert oracles.standard_errors_off(np.asarray(draws, np.float64), exact) < 4


def exact_gradient(case: belief_network.Case, name: str) -> np.ndarray:
    def value(at: np.ndarray) -> float:
        return belief_network.exact_elbo(case._replace(params=case.params | {name: at}))

    return oracles.finite_difference(value, case.params[name])


# A mixture of three Gaussians in two dimensions

LOGITS = np.array([0.3, -0.8, 0.1])
MEANS = np.array([[0.0, 0.0], [2.0, -1.0], [-1.5, 1.0]])
X = np.array([0.7, -0.4])


def mixture_joint() -> Joint:
    means = jnp.float32(MEANS)
    return Joint(
        Categorical(jnp.float32(LOGITS)),
        lambda y: DiagNormal(y @ means, jnp.zeros(2)).log_prob(jnp.float32(X)),
    )


def test_a_mixture_has_its_exact_evidence_and_its_responsibilities_are_the_best_guide():
    log_each = scipy.special.log_softmax(LOGITS) + scipy.stats.norm.logpdf(X, MEANS).sum(axis=1)
    values, joint = enumeration.one_hot_values(1, 3), mixture_joint()
    expected = np.logaddexp.reduce(log_each)
    np.testing.assert_allclose(enumeration.log_prob(values, joint), expected, rtol=1e-6)
    best = Categorical(jnp.float32(log_each))
    bound = enumeration.elbo(values, best, CATEGORICAL, joint)
    np.testing.assert_allclose(bound, expected, rtol=1e-6)
    np.testing.assert_allclose(best.mean(), values @ best.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        enumeration.posterior(values, joint)[::-1], best.mean()[::-1], rtol=1e-5
    )
    other = Categorical(jnp.zeros(3))
    assert enumeration.elbo(values, other, CATEGORICAL, joint) < expected - 0.1


# A mixture of linear-Gaussian models: y is summed over, z is sampled


def test_a_sum_over_one_factor_of_a_larger_model_is_exact_at_the_exact_posterior():
    """Then the bound at each y is log p(x, y) for every key, and their sum is log p(x)."""
    models = [oracles.linear_gaussian(seed, 4, 2) for seed in range(3)]
    x = np.random.default_rng(0).normal(size=4)
    log_each = scipy.special.log_softmax(LOGITS) + [float(model.log_prob(x)) for model in models]
    weights, bias, noise_var = (
        jnp.stack([jnp.float32(getattr(model, name)) for model in models])
        for name in ("weights", "bias", "noise_var")
    )
    posteriors = [normal_of(*model.posterior(x)) for model in models]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *posteriors)
    prior = factors.prior({"y": Categorical(jnp.float32(LOGITS)), "z": StandardNormal(2)})

    def log_lik(z: Any) -> jax.Array:
        number = jnp.argmax(z["y"])
        mean = weights[number] @ z["z"] + bias[number]
        return DiagNormal(mean, jnp.log(noise_var[number])).log_prob(jnp.float32(x))

    def bound_at(y: jax.Array) -> jax.Array:
        own = jax.tree.map(lambda leaf: leaf[jnp.argmax(y)], stacked)
        given = Joint(
            lambda z: prior.log_prob({"y": y, "z": z}), lambda z: log_lik({"y": y, "z": z})
        )
        return losses.sgvb_a(jax.random.key(1), own, full_normal, given)

    values = enumeration.one_hot_values(1, 3)
    best = Categorical(jnp.float32(log_each))
    bound = jax.jit(lambda q: enumeration.sum_over(values, q, CATEGORICAL, bound_at))
    found = bound(best)
    np.testing.assert_allclose(found, np.logaddexp.reduce(log_each), rtol=1e-5)
    # Another q(y|x) loses KL(q(y|x) || p(y|x)).
    other = Categorical(jnp.float32([0.5, 0.0, -0.5]))
    lower = bound(other)
    lost = other.kl(best)
    assert lost is not None
    np.testing.assert_allclose(found - lower, lost, rtol=1e-3)


def normal_of(mean: np.ndarray, cov: np.ndarray) -> FullNormal:
    factor = np.linalg.cholesky(cov)
    below = factor[np.tril_indices(len(factor), -1)]
    parts: Any = (mean, np.log(np.diag(factor)), below)
    return FullNormal(*map(jnp.float32, parts))
