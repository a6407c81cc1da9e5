"""Bounds and their gradients against a linear-Gaussian model, where all of it is known exactly."""

import inspect
import itertools
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
from oracles import LinearGaussian, standard_errors_off

from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.losses import BOUNDS, Bound, Guide, Joint, log_weights, minibatch_objective

NUM_DRAWS = 20_000
CASES = [(1, 1, 0), (4, 2, 1), (6, 3, 2)]  # D, Z, seed
ELBO_ESTIMATORS = ("sgvb_a", "sgvb_b")  # unbiased for the evidence lower bound

every_bound = pytest.mark.parametrize("name", BOUNDS)
every_elbo_estimator = pytest.mark.parametrize("name", ELBO_ESTIMATORS)
every_case = pytest.mark.parametrize(("num_dims", "num_latents", "seed"), CASES)


class Case(NamedTuple):
    """A model, a datapoint and a guide that is not the posterior; float64 that float32 holds."""

    model: LinearGaussian
    x: np.ndarray
    mean: np.ndarray
    log_var: np.ndarray

    def elbo(self) -> float:
        return self.model.elbo(self.x, self.mean, self.log_var)

    def stats(self) -> DiagNormal:
        return DiagNormal(jnp.float32(self.mean), jnp.float32(self.log_var))


def make_case(num_dims: int, num_latents: int, seed: int) -> Case:
    rng = np.random.default_rng(seed + 1000)
    case = Case(
        oracles.linear_gaussian(seed, num_dims, num_latents),
        x=rng.normal(scale=2.0, size=num_dims),
        mean=rng.normal(size=num_latents),
        log_var=rng.normal(size=num_latents) - 1.0,
    )
    return jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(np.float64), case)


def exact_case(num_dims: int, num_latents: int, seed: int) -> Case:
    """One whose guide is the posterior."""
    model = oracles.orthogonal_linear_gaussian(seed, num_dims, num_latents)
    x = np.random.default_rng(seed).normal(size=num_dims)
    mean, cov = model.posterior(x)
    np.testing.assert_allclose(cov, np.diag(np.diag(cov)), atol=1e-12)
    return Case(model, x, mean, np.log(np.diag(cov)))


def joint_of(model: Any, x: Any) -> Joint:
    """The same model in jax, differentiable in its weights and bias."""
    (weights, bias, noise_var), x = jax.tree.map(jnp.float32, (model, x))
    return Joint(
        log_prior=StandardNormal(weights.shape[1]).log_prob,
        log_lik=lambda z: DiagNormal(weights @ z + bias, jnp.log(noise_var)).log_prob(x),
    )


def keys(number: int = NUM_DRAWS, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), number)


@partial(jax.jit, static_argnames=("bound", "num_samples"))
def evaluations(
    bound: Bound, keys: jax.Array, stats: DiagNormal, model: Any, x: jax.Array, num_samples: int
) -> jax.Array:
    joint = joint_of(model, x)
    return jax.vmap(lambda key: bound(key, stats, diag_normal, joint, num_samples=num_samples))(
        keys
    )


def draws_of(bound: Bound, case: Case, *, num_samples: int = 1, seed: int = 0) -> np.ndarray:
    """Independent evaluations of a bound -> [NUM_DRAWS]."""
    model, x = jax.tree.map(jnp.float32, (case.model, case.x))
    draws = evaluations(bound, keys(seed=seed), case.stats(), model, x, num_samples)
    return np.asarray(draws, np.float64)


@every_case
def test_the_oracles_agree_with_one_another(num_dims: int, num_latents: int, seed: int):
    """log p(x) - ELBO = KL(q || posterior), eq. (1); the gradient by differences; SciPy."""
    model, x, mean, log_var = case = make_case(num_dims, num_latents, seed)
    gap = oracles.kl_gaussians(mean, np.diag(np.exp(log_var)), *model.posterior(x))
    assert model.log_prob(x) - case.elbo() == pytest.approx(gap, rel=1e-9)
    gradient = model.elbo_gradient(x, mean, log_var)
    differences = {
        "mean": oracles.finite_difference(lambda v: model.elbo(x, v, log_var), mean),
        "log_var": oracles.finite_difference(lambda v: model.elbo(x, mean, v), log_var),
        "weights": oracles.finite_difference(
            lambda v: model._replace(weights=v).elbo(x, mean, log_var), model.weights
        ),
        "bias": oracles.finite_difference(
            lambda v: model._replace(bias=v).elbo(x, mean, log_var), model.bias
        ),
    }
    for name, expected in differences.items():
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-6, atol=1e-6)


@every_elbo_estimator
@every_case
def test_it_is_unbiased_for_the_elbo_of_a_linear_gaussian_model(
    name: str, num_dims: int, num_latents: int, seed: int
):
    case = make_case(num_dims, num_latents, seed)
    assert standard_errors_off(draws_of(BOUNDS[name], case, seed=seed), case.elbo()) < 4


@every_elbo_estimator
@every_case
def test_its_gradient_is_unbiased_for_the_gradient_of_that_elbo(
    name: str, num_dims: int, num_latents: int, seed: int
):
    """In the guide's statistics (phi) and in the model's weights and bias (theta)."""
    case = make_case(num_dims, num_latents, seed)

    def estimate(params: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        stats = DiagNormal(params["mean"], params["log_var"])
        model = (params["weights"], params["bias"], case.model.noise_var)
        return BOUNDS[name](key, stats, diag_normal, joint_of(model, case.x))

    params = {
        "mean": jnp.float32(case.mean),
        "log_var": jnp.float32(case.log_var),
        "weights": jnp.float32(case.model.weights),
        "bias": jnp.float32(case.model.bias),
    }
    gradients = jax.jit(jax.vmap(jax.grad(estimate), in_axes=(None, 0)))(params, keys(seed=seed))
    for part, exact in case.model.elbo_gradient(case.x, case.mean, case.log_var).items():
        assert standard_errors_off(gradients[part], exact) < 4, part


@every_bound
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_bound_exceeds_log_p_on_average(name: str, seed: int):
    case = make_case(4, 2, seed)
    draws = draws_of(BOUNDS[name], case, num_samples=10, seed=seed)
    standard_error = np.std(draws) / np.sqrt(NUM_DRAWS)
    assert np.mean(draws) < case.model.log_prob(case.x) + 4 * standard_error


@pytest.mark.parametrize(("num_dims", "num_latents"), [(1, 1), (4, 2), (6, 3)])
def test_sgvb_a_has_no_variance_at_the_exact_posterior(num_dims: int, num_latents: int):
    """log p(x, z) - log q(z|x) is log p(x) at every z, whereas sgvb_b keeps log p(x|z)'s spread."""
    case = exact_case(num_dims, num_latents, seed=0)
    log_prob = case.model.log_prob(case.x)
    assert case.elbo() == pytest.approx(log_prob, rel=1e-9)
    np.testing.assert_allclose(draws_of(BOUNDS["sgvb_a"], case), log_prob, atol=1e-4)
    draws = draws_of(BOUNDS["sgvb_b"], case)
    assert np.std(draws) > 0.1
    assert standard_errors_off(draws, log_prob) < 4


@every_elbo_estimator
def test_its_variance_is_that_of_one_sample_over_num_samples(name: str):
    case = make_case(4, 2, seed=1)
    single = draws_of(BOUNDS[name], case)
    averaged = draws_of(BOUNDS[name], case, num_samples=10, seed=1)
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
    log_w = log_weights(
        jax.random.key(seed), case.stats(), diag_normal, joint, num_samples=NUM_DRAWS
    )
    assert log_w.shape == (NUM_DRAWS,)
    log_w = np.asarray(log_w, np.float64)
    log_prob = case.model.log_prob(case.x)
    assert standard_errors_off(np.exp(log_w - log_prob), 1.0) < 4
    assert standard_errors_off(log_w, case.elbo()) < 4
    estimates = scipy.special.logsumexp(log_w.reshape(-1, 10), axis=1) - np.log(10)
    elbo, importance_weighted = np.mean(log_w), np.mean(estimates)
    standard_error = np.std(estimates) / np.sqrt(len(estimates))
    assert elbo < importance_weighted < log_prob + 4 * standard_error


def test_sgvb_a_takes_a_guide_of_another_family_without_a_kl():
    """A Laplace guide, its statistics a dictionary, against quadrature."""
    case = make_case(3, 1, seed=3)
    location, scale = 0.3, 0.6
    guide = Guide(
        sample=lambda key, stats: (
            stats["location"] + stats["scale"] * jax.random.laplace(key, (1,))
        ),
        log_prob=lambda stats, z: jnp.sum(
            -jnp.abs(z - stats["location"]) / stats["scale"] - jnp.log(2.0 * stats["scale"])
        ),
    )
    stats = {"location": jnp.float32(location), "scale": jnp.float32(scale)}
    joint = joint_of(case.model, case.x)
    draws = jax.vmap(lambda key: BOUNDS["sgvb_a"](key, stats, guide, joint))(keys())

    noise_std = np.sqrt(case.model.noise_var)

    def integrand(z: np.ndarray) -> np.ndarray:
        means = z[:, None] @ case.model.weights.T + case.model.bias
        log_lik = scipy.stats.norm.logpdf(case.x, means, noise_std).sum(axis=1)
        log_q = scipy.stats.laplace.logpdf(z, location, scale)
        return np.exp(log_q) * (scipy.stats.norm.logpdf(z) + log_lik - log_q)

    assert standard_errors_off(draws, oracles.integrate(integrand, -25.0, 25.0)) < 4


def test_sgvb_b_refuses_a_guide_without_a_kl_and_names_the_way_out():
    case = make_case(1, 1, seed=0)
    with pytest.raises(ValueError, match="sgvb_a"):
        BOUNDS["sgvb_b"](
            jax.random.key(0),
            case.stats(),
            diag_normal._replace(kl=None),
            joint_of(case.model, case.x),
        )


@every_bound
@pytest.mark.parametrize("num_samples", [0, -1])
def test_a_bound_refuses_to_average_over_no_sample(name: str, num_samples: int):
    case = make_case(1, 1, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        draws_of(BOUNDS[name], case, num_samples=num_samples)


@every_bound
def test_every_entry_of_bounds_has_the_signature_of_bound(name: str):
    expected = inspect.signature(Bound.__call__).parameters
    parameters = inspect.signature(BOUNDS[name]).parameters
    assert list(parameters) == [parameter for parameter in expected if parameter != "self"]
    assert parameters["num_samples"].kind == inspect.Parameter.KEYWORD_ONLY
    assert parameters["num_samples"].default == 1
    assert parameters["key"].default is inspect.Parameter.empty


@every_bound
def test_every_bound_is_named_as_its_function(name: str):
    assert getattr(BOUNDS[name], "__name__", None) == name


@every_bound
def test_jit_and_vmap_change_nothing(name: str):
    cases = [make_case(4, 2, seed) for seed in range(3)]
    x = jnp.stack([jnp.float32(case.x) for case in cases])
    stats = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[case.stats() for case in cases])
    model = cases[0].model

    def bound(key: jax.Array, stats: DiagNormal, x: jax.Array) -> jax.Array:
        return BOUNDS[name](key, stats, diag_normal, joint_of(model, x), num_samples=5)

    one_by_one = [
        bound(key, jax.tree.map(itemgetter(i), stats), x[i]) for i, key in enumerate(keys(3))
    ]
    together = jax.jit(jax.vmap(bound))(keys(3), stats, x)
    assert together.shape == (3,)
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5)


@every_bound
def test_the_same_key_gives_the_same_value_and_another_another(name: str):
    case = make_case(4, 2, seed=1)
    first, again = (draws_of(BOUNDS[name], case, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.all(first != draws_of(BOUNDS[name], case, seed=6))


def test_minibatch_objective_is_unbiased_for_the_sum_over_the_data():
    """Its mean over all minibatches that can be drawn is that sum, eq. (8)."""
    bounds = np.random.default_rng(0).normal(size=7).astype(np.float32)
    for size in (1, 3, 7):
        objectives = [
            minibatch_objective(jnp.asarray(bounds[list(chosen)]), num_data=7)
            for chosen in itertools.combinations(range(7), size)
        ]
        assert np.mean(objectives) == pytest.approx(bounds.sum(), rel=1e-5)


def test_minibatch_objective_weighs_each_datapoint_by_n_over_m():
    bounds = jnp.float32([-3.0, 1.0, 4.0, 5.0])
    assert minibatch_objective(bounds, num_data=100) == pytest.approx(100 / 4 * 7.0)
    gradient = jax.grad(lambda bounds: minibatch_objective(bounds, num_data=100))(bounds)
    np.testing.assert_allclose(gradient, 100 / 4)


Estimator = Callable[[Case, int], np.ndarray]


def without_constants(case: Case, seed: int) -> np.ndarray:
    """sgvb_b with a squared error in place of the log-likelihood."""
    dropped = 0.5 * np.sum(np.log(2.0 * np.pi * case.model.noise_var))
    return draws_of(BOUNDS["sgvb_b"], case, seed=seed) + dropped


def without_kl(case: Case, seed: int) -> np.ndarray:
    kl = oracles.kl_to_standard_normal(case.mean, case.log_var)
    return draws_of(BOUNDS["sgvb_b"], case, seed=seed) + kl


def slightly_wrong(case: Case, seed: int) -> np.ndarray:
    return draws_of(BOUNDS["sgvb_b"], case, seed=seed) + 0.2


@pytest.mark.parametrize("wrong", [without_constants, without_kl, slightly_wrong])
def test_four_standard_errors_are_tight_enough_to_catch(wrong: Estimator):
    case = make_case(4, 2, seed=1)
    assert standard_errors_off(wrong(case, 1), case.elbo()) > 4
