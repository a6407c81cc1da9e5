"""Bounds by the score function of discrete latents, against sums over all their samples."""

from functools import cache, partial
from typing import Any

import belief_network
import jax
import jax.numpy as jnp
import linear_models
import numpy as np
import oracles
import pytest
import scipy.special
from belief_network import Case
from marks import slow_but

from aevb import guides, likelihoods, priors, vae
from aevb.algorithms import aevb, reweighted_wake_sleep, wake_sleep
from aevb.discrete import Bernoulli
from aevb.guides import bernoulli
from aevb.losses import BOUNDS, SCORE_FUNCTIONS, Guide
from aevb.networks import mlp, normal_init
from aevb.vae import VAE

NUM_DRAWS = 40_000
NUM_SAMPLES = {"score_function": 1, "score_function_loo": 2, "nvil": 1, "vimco": 2}
every_size = pytest.mark.parametrize(
    "sizes", slow_but(belief_network.SIZES[1:2], belief_network.SIZES)
)
BASELINE = -2.0  # of `nvil`

with_baseline = bernoulli._replace(
    sample=lambda key, own: bernoulli.sample(key, own[0]),
    log_prob=lambda own, z: bernoulli.log_prob(own[0], z),
    baseline=lambda own: own[1],
)


@cache
def draws_of(sizes: tuple[int, int, int]) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Returns the values and gradients of the bounds in independent draws, from one program."""
    params, x = belief_network.in_float32(belief_network.make(*sizes))
    params = params | {"baseline": jnp.float32(BASELINE)}

    def value(name: str, params: Any, key: jax.Array) -> jax.Array:
        joint = belief_network.joint_of(params, x)
        stats = (Bernoulli(params["logits"]), params["baseline"])
        return BOUNDS[name](key, stats, with_baseline, joint, num_samples=NUM_SAMPLES[name])

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def all_of(params: Any, key: jax.Array) -> Any:
        return {
            name: jax.value_and_grad(partial(value, name))(params, key) for name in SCORE_FUNCTIONS
        }

    found = all_of(params, jax.random.split(jax.random.key(5), NUM_DRAWS))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


def exact_of(name: str, case: Case) -> float:
    if name == "vimco":
        return belief_network.exact_iwae(case, NUM_SAMPLES[name])
    return belief_network.exact_elbo(case)


@every_size
@pytest.mark.parametrize("name", SCORE_FUNCTIONS)
def test_the_means_of_a_bound_and_of_its_gradient_are_exact(name: str, sizes: Any):
    case = belief_network.make(*sizes)
    value, gradient = draws_of(sizes)[name]
    assert oracles.standard_errors_off(value, exact_of(name, case)) < 4
    for part in case.params:

        def objective(at: np.ndarray, part: str = part) -> float:
            return exact_of(name, case._replace(params=case.params | {part: at}))

        exact = oracles.finite_difference(objective, case.params[part])
        assert oracles.standard_errors_off(gradient[part], exact) < 4.5, part


@every_size
def test_the_baseline_of_nvil_has_the_gradient_of_least_squares_and_the_others_none(sizes: Any):
    found = draws_of(sizes)
    value, gradient = found["nvil"]
    # f is the value of the bound of one sample, and its error is f - b for every key.
    np.testing.assert_allclose(gradient["baseline"], value - BASELINE, rtol=1e-4, atol=1e-4)
    for name in set(SCORE_FUNCTIONS) - {"nvil"}:
        np.testing.assert_array_equal(found[name][1]["baseline"], 0.0)


@every_size
def test_baselines_lower_the_variance_of_the_gradient(sizes: Any):
    found = draws_of(sizes)
    plain, loo, nvil = (
        np.sum(np.var(found[name][1]["logits"], axis=0))
        for name in ("score_function", "score_function_loo", "nvil")
    )
    assert loo < plain
    assert nvil < plain


def test_a_guide_without_a_baseline_has_a_baseline_of_0():
    params, x = belief_network.in_float32(belief_network.make(*belief_network.SIZES[1]))

    def gradient(name: str, guide: Guide, stats: Any) -> jax.Array:
        def value(logits: jax.Array) -> jax.Array:
            own = (Bernoulli(logits), *stats) if stats else Bernoulli(logits)
            return BOUNDS[name](jax.random.key(0), own, guide, belief_network.joint_of(params, x))

        return jax.grad(value)(params["logits"])

    plain = gradient("score_function", bernoulli, ())
    np.testing.assert_allclose(gradient("nvil", bernoulli, ()), plain, rtol=1e-5)
    zero = gradient("nvil", with_baseline, (jnp.float32(0.0),))
    np.testing.assert_allclose(zero, plain, rtol=1e-5)


@pytest.mark.parametrize("num_samples", [2, 3, 5])
def test_the_signal_of_vimco_is_that_of_its_definition(num_samples: int):
    """Sum_k [(L - L_(-k)) grad log q_k - w_k grad log q_k], from the samples of a key."""
    case = belief_network.make(*belief_network.SIZES[1])
    params, x = belief_network.in_float32(case)
    joint, key = belief_network.joint_of(params, x), jax.random.key(4)

    def value(logits: jax.Array) -> jax.Array:
        return BOUNDS["vimco"](key, Bernoulli(logits), bernoulli, joint, num_samples=num_samples)

    found, gradient = jax.jit(jax.value_and_grad(value))(params["logits"])
    keys = jax.random.split(key, num_samples)
    z = np.asarray(
        jax.jit(jax.vmap(lambda one: bernoulli.sample(one, Bernoulli(params["logits"]))))(keys)
    )
    p, logits = case.params, case.params["logits"]
    log_q = belief_network.log_bernoulli(logits, z)
    log_w = belief_network.log_bernoulli(p["prior"], z) - log_q
    log_w += belief_network.log_bernoulli(z @ p["weights"].T + p["bias"], case.x)
    bound = scipy.special.logsumexp(log_w) - np.log(num_samples)
    np.testing.assert_allclose(found, bound, rtol=1e-5)
    expected = np.zeros_like(logits)
    for k in range(num_samples):
        replaced = log_w.copy()
        replaced[k] = np.mean(np.delete(log_w, k))
        baseline = scipy.special.logsumexp(replaced) - np.log(num_samples)
        score = z[k] - scipy.special.expit(logits)
        expected += (bound - baseline - np.exp(log_w[k] - bound) / num_samples) * score
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)


def test_vimco_and_its_gradient_are_finite_where_weights_of_samples_are_0():
    """Of three samples, one or two are excluded by the model."""

    def log_lik(z: jax.Array) -> jax.Array:
        return jnp.where(z[0] > 0, -jnp.inf, -1.0)

    params, x = belief_network.in_float32(belief_network.make(1, 1, 0))
    joint = belief_network.joint_of(params, x)._replace(log_lik=log_lik)

    def value(logits: jax.Array, key: jax.Array) -> jax.Array:
        return BOUNDS["vimco"](key, Bernoulli(logits), bernoulli, joint, num_samples=3)

    keys = jax.random.split(jax.random.key(0), 50)
    of_keys = jax.jit(jax.vmap(jax.value_and_grad(value), in_axes=(None, 0)))
    found, slopes = map(np.asarray, of_keys(jnp.zeros(1), keys))
    for number in (1, 2):
        left = np.isclose(found, np.nanmax(found) + np.log(number / 3), atol=1e-4)
        assert np.sum(left) > 10
        assert np.all(np.isfinite(slopes[left]))


# Wake-sleep and reweighted wake-sleep, unchanged, of a belief network with linear networks

NUM_LATENTS, NUM_DIMS = 2, 3


@cache
def model() -> VAE:
    encoder, decoder = (
        mlp(inputs, {"logits": outputs}, hidden=(), initialization=normal_init(0.7))
        for inputs, outputs in ((NUM_DIMS, NUM_LATENTS), (NUM_LATENTS, NUM_DIMS))
    )
    return vae.make(
        encoder, decoder, likelihoods.bernoulli, num_latents=NUM_LATENTS,
        guide_family=guides.bernoulli_family(guides.Sizes(NUM_LATENTS)),
        prior_family=priors.bernoulli(priors.Options(NUM_LATENTS)),
    )  # fmt: skip


X = belief_network.values_of(NUM_DIMS)[[1, 6]]


class Exact:
    """The objectives of the model at its parameters, in float64, over all x and z."""

    def __init__(self, params: Any) -> None:
        self.params, self.z = params, belief_network.values_of(NUM_LATENTS)

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        decoder = self.params["decoder"]["logits"]
        log_lik = belief_network.log_bernoulli(self.z @ decoder["kernel"] + decoder["bias"], x)
        return belief_network.log_bernoulli(self.params["prior"]["logits"], self.z) + log_lik

    def log_q(self, x: np.ndarray) -> np.ndarray:
        encoder = self.params["encoder"]["logits"]
        return belief_network.log_bernoulli(x @ encoder["kernel"] + encoder["bias"], self.z)


def parts(tree: Any) -> dict[str, np.ndarray]:
    return {
        "encoder kernel": tree["encoder"]["logits"]["kernel"],
        "encoder bias": tree["encoder"]["logits"]["bias"],
        "decoder kernel": tree["decoder"]["logits"]["kernel"],
        "decoder bias": tree["decoder"]["logits"]["bias"],
        "prior": tree["prior"]["logits"],
    }


def joined(found: dict[str, np.ndarray]) -> Any:
    return {
        "encoder": {"logits": {n: found[f"encoder {n}"] for n in ("kernel", "bias")}},
        "decoder": {"logits": {n: found[f"decoder {n}"] for n in ("kernel", "bias")}},
        "prior": {"logits": found["prior"]},
    }


def wake_sleep_objective(at: Any, fixed: Exact) -> float:
    """Returns E_q[log p(x, z)] + E_p(x, z)[log q(z|x)], the expectations at fixed parameters."""
    moving = Exact(at)
    wake = np.mean([np.exp(fixed.log_q(x)) @ moving.log_joint(x) for x in X])
    every = belief_network.values_of(NUM_DIMS)
    return float(wake + sum(np.exp(fixed.log_joint(x)) @ moving.log_q(x) for x in every))


def reweighted_objective(at: Any, fixed: Exact) -> float:
    """Returns E_q[w_1 (log p(x, z_1) + log q(z_1|x)) + w_2 ...], the weights at fixed ones."""
    moving, terms = Exact(at), []
    for x in X:
        q, log_w = np.exp(fixed.log_q(x)), fixed.log_joint(x) - fixed.log_q(x)
        each = moving.log_joint(x) + moving.log_q(x)
        w = scipy.special.expit(log_w[:, None] - log_w[None])  # of the first of two samples
        terms.append(q @ (w * each[:, None] + (1 - w) * each[None]) @ q)
    return float(np.mean(terms))


@pytest.mark.parametrize(
    ("make", "objective", "options"),
    [
        (wake_sleep.make, wake_sleep_objective, {}),
        (reweighted_wake_sleep.make, reweighted_objective, {"num_samples": 2}),
    ],
)
def test_wake_sleep_of_discrete_latents_has_the_exact_steps(
    make: Any, objective: Any, options: Any
):
    algorithm = linear_models.make(make, model(), **options)
    state = algorithm.init(jax.random.key(0))
    params = linear_models.as_float64(state.params)
    steps, _ = linear_models.updates_of(
        algorithm, state, linear_models.batch_of(X), num_draws=20_000
    )
    at, fixed = parts(params), Exact(params)
    for name, draws in parts(steps).items():

        def value(leaf: np.ndarray, name: str = name) -> float:
            return objective(joined(at | {name: leaf}), fixed)

        assert oracles.standard_errors_off(draws, oracles.finite_difference(value, at[name])) < 4.5


def test_aevb_with_a_baseline_moves_every_part_of_the_parameters():
    algorithm = linear_models.make(aevb.make, model(), bound=BOUNDS["nvil"])
    state = algorithm.init(jax.random.key(0))
    after, _ = algorithm.update(jax.random.key(1), state, linear_models.batch_of(X))
    before, after = parts(state.params), parts(after.params)
    for name, leaf in before.items():
        assert np.any(np.asarray(after[name]) != np.asarray(leaf)), name
