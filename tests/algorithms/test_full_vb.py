"""Full variational Bayes: its objective and its bound on log p(X) against exact answers.

In the linear-Gaussian model here, theta is the decoder's bias b alone, so b, all z and X are
jointly Gaussian. The evidence log p(X), the posterior and the best independent Gaussians therefore
have closed forms.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.stats
from configs import changed
from linear_models import as_float64, batch_of
from marks import slow_but
from oracles import LinearGaussian, standard_errors_off

from aevb import experiment, likelihoods, losses, networks, optimizers, vae
from aevb.algorithms import aevb, full_vb
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.distributions import DiagNormal
from aevb.errors import UserError
from aevb.guides import GUIDES, Sizes
from aevb.inference import hmc
from aevb.likelihoods import LIKELIHOODS
from aevb.losses import BOUNDS, Guide, Joint
from aevb.marginal import ESTIMATORS
from aevb.networks import Network, WeightPosterior, mlp
from aevb.priors import PRIORS, Options
from aevb.vae import VAE

NUM_DIMS, NUM_LATENTS = 3, 2
NUM_DATA = 12
NUM_DRAWS = 4000
PRIOR_STD = 0.8
every_noise = pytest.mark.parametrize(
    "noise",
    ["local", *(pytest.param(n, marks=pytest.mark.slow) for n in full_vb.NOISES if n != "local")],
)

Params = dict[str, Any]


def by_path(tree: Any) -> dict[str, np.ndarray]:
    """Returns the array of every leaf by its path, such as "mean/decoder/bias"."""
    return {
        "/".join(str(entry.key) for entry in path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


# The exact model


class Exact(NamedTuple):
    """The model of p(b) = N(0, std^2 I) and p(x|b) as in `model`, whose own bias is not used."""

    model: LinearGaussian
    std: float

    def log_evidence(self, x: np.ndarray) -> float:
        """Returns log p(X) of x [N, D], nats, by its ND-dimensional Gaussian."""
        num_data, num_dims = x.shape
        _, cov = self.model.marginal()
        common = np.kron(np.ones((num_data, num_data)), self.std**2 * np.eye(num_dims))
        joint_cov = np.kron(np.eye(num_data), cov) + common
        return float(scipy.stats.multivariate_normal.logpdf(x.ravel(), cov=joint_cov))  # pyright: ignore[reportArgumentType]

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean [..., D] and covariance [D, D] of p(b|X) at x [..., N, D]."""
        _, cov = self.model.marginal()
        precision = np.eye(x.shape[-1]) / self.std**2 + x.shape[-2] * np.linalg.inv(cov)
        posterior_cov = np.linalg.inv(precision)
        return np.sum(x, axis=-2) @ np.linalg.inv(cov) @ posterior_cov, posterior_cov

    def joint_precision(self, num_data: int) -> np.ndarray:
        """Returns the precision of p(b, z_1, ..., z_N | X).

        The inverse of its diagonal gives the variances of the best independent Gaussians.
        """
        weights, _, noise_var = self.model
        precise_weights = weights / noise_var[:, None]
        of_bias = np.diag(1.0 / self.std**2 + num_data / noise_var)
        of_latents = np.eye(weights.shape[1]) + weights.T @ precise_weights
        between = np.tile(precise_weights, num_data)
        return np.block([[of_bias, between], [between.T, np.kron(np.eye(num_data), of_latents)]])

    def best_bound(self, x: np.ndarray) -> float:
        """Returns the best bound on log p(X) of independent Gaussians for each entry of b and z.

        They have the posterior's means; KL(q || posterior) is half the log of the product of the
        precision's diagonal over its determinant.
        """
        precision = self.joint_precision(len(x))
        _, log_det = np.linalg.slogdet(precision)
        return self.log_evidence(x) - 0.5 * float(np.sum(np.log(np.diag(precision))) - log_det)

    def best_bias_var(self, num_data: int) -> np.ndarray:
        """Returns the variance of the best q(b), [D]."""
        return 1.0 / np.diag(self.joint_precision(num_data))[: len(self.model.bias)]

    def best_params(self, x: np.ndarray) -> Params:
        """Returns the parameters of `linear_vae` at the best bound: E[z|X] is linear in x."""
        bias, _ = self.posterior(x)
        _, cov = self.model.posterior(x[0])
        kernel = (self.model.weights / self.model.noise_var[:, None]) @ cov
        var = 1.0 / np.diag(np.linalg.inv(cov))
        encoder = {"kernel": kernel, "bias": -bias @ kernel, "log_var": np.log(var)}
        return {
            "mean": {"encoder": encoder, "decoder": {"bias": bias}},
            "log_var": {"decoder": {"bias": np.log(self.best_bias_var(len(x)))}},
        }

    def kl(self, params: Params) -> float:
        """Returns KL(q(b) || p(b)), nats."""
        mean, log_var = (params[name]["decoder"]["bias"] for name in ("mean", "log_var"))
        prior_cov = self.std**2 * np.eye(len(mean))
        return oracles.kl_gaussians(mean, np.diag(np.exp(log_var)), np.zeros_like(mean), prior_cov)

    def mean_bound(self, params: Params, x: np.ndarray) -> float:
        """Returns E_q(b) of the mean evidence lower bound of x [M, D], nats, in closed form."""
        encoder, bias = params["mean"]["encoder"], params["mean"]["decoder"]["bias"]
        model = self.model._replace(bias=bias)
        means = x @ encoder["kernel"] + encoder["bias"]
        at_mean = [
            model.elbo(point, mean, encoder["log_var"])
            for point, mean in zip(x, means, strict=True)
        ]
        bias_var = np.exp(params["log_var"]["decoder"]["bias"])
        return float(np.mean(at_mean) - 0.5 * np.sum(bias_var / model.noise_var))

    def bound(self, params: Params, x: np.ndarray) -> float:
        """Returns the bound on log p(X) of all x [N, D], nats."""
        return len(x) * self.mean_bound(params, x) - self.kl(params)


EXACT = Exact(oracles.linear_gaussian(1, NUM_DIMS, NUM_LATENTS), PRIOR_STD)


def simulate(seed: int, num_sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns biases [R, D] from their prior, and a dataset for each, [R, N, D]."""
    rng = np.random.default_rng(seed)
    bias = EXACT.std * rng.normal(size=(num_sets, NUM_DIMS))
    _, cov = EXACT.model.marginal()
    noise = rng.normal(size=(num_sets, NUM_DATA, NUM_DIMS)) @ np.linalg.cholesky(cov).T
    return bias, bias[:, None] + noise


@cache
def linear_vae() -> VAE:
    """Returns `EXACT` as a VAE, with an encoder of the family that contains the best guide."""
    weights, noise_var = jnp.float32(EXACT.model.weights), jnp.float32(EXACT.model.noise_var)

    def encoder_init(key: jax.Array) -> Any:
        kernel = 0.3 * jax.random.normal(key, (NUM_DIMS, NUM_LATENTS))
        return {"kernel": kernel, "bias": kernel[0], "log_var": jnp.zeros(NUM_LATENTS)}

    def encoder(params: Any, x: jax.Array) -> Mapping[str, jax.Array]:
        return {"mean": x @ params["kernel"] + params["bias"], "log_var": params["log_var"]}

    def decoder_init(key: jax.Array) -> Any:
        return {"bias": 0.5 * jax.random.normal(key, (NUM_DIMS,))}

    def decoder(params: Any, z: jax.Array) -> Mapping[str, jax.Array]:
        if isinstance(params, WeightPosterior):  # a bias has local noise: one draw per datapoint
            bias = DiagNormal(params.mean["bias"], params.log_var["bias"]).sample(params.key)
        else:
            bias = params["bias"]
        return {"mean": weights @ z + bias, "log_var": jnp.log(noise_var)}

    return vae.make(
        Network(encoder_init, encoder),
        Network(decoder_init, decoder, takes_weight_posteriors=True),
        likelihoods.gaussian,
        num_latents=NUM_LATENTS,
    )


@cache
def mlp_vae(likelihood: str = "gaussian", **families: str) -> VAE:
    """Returns a small VAE with hidden layers.

    Args:
        families: of the guide and of the prior, by name.
    """
    family = GUIDES[families.get("guide", "diag_normal")](Sizes(NUM_LATENTS, 2, 4))
    prior = PRIORS[families.get("prior", "standard_normal")](Options(NUM_LATENTS, 3))
    chosen, init = LIKELIHOODS[likelihood](1), networks.normal_init(0.5)
    heads = {head: NUM_DIMS * size for head, size in chosen.heads.items()}
    return vae.make(
        mlp(NUM_DIMS, family.heads, hidden=(4,), initialization=init),
        mlp(NUM_LATENTS, heads, hidden=(5,), initialization=init, constants=chosen.shared),
        chosen,
        num_latents=NUM_LATENTS,
        guide_family=family,
        prior_family=prior,
    )


def make(model: VAE, *, bound: str = "sgvb_b", **options: Any) -> Algorithm:
    """Makes plain gradient ascent with steps of 1."""
    options = {"num_data": NUM_DATA, "param_prior_std": PRIOR_STD, **options}
    return jitted(full_vb.make(model, optax.sgd(1.0), bound=BOUNDS[bound], **options))


def jitted(algorithm: Algorithm) -> Algorithm:
    return algorithm._replace(init=jax.jit(algorithm.init), update=jax.jit(algorithm.update))


def params_of(model: VAE, *, log_var: float = -3.0) -> Params:
    """Returns the parameters of `full_vb`, with widths of q(theta) around exp(log_var / 2)."""
    params = first_params(model)
    widths = jax.tree.map(
        lambda leaf: np.float32(log_var + np.linspace(-0.5, 0.5, leaf.size).reshape(leaf.shape)),
        params["log_var"],
    )
    return params | {"log_var": widths}


@cache
def first_params(model: VAE) -> Params:
    return make(model).init(jax.random.key(0)).params


def state_of(algorithm: Algorithm, params: Params) -> TrainState:
    """Returns a state with these parameters; plain gradient ascent depends on nothing else."""
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros._replace(params=params)


def some_batch(size: int = 5) -> Batch:
    """Returns a minibatch smaller than the whole dataset."""
    return batch_of(np.random.default_rng(0).normal(scale=1.2, size=(size, NUM_DIMS)))


class Steps(NamedTuple):
    """Many updates from one state with steps of 1, which equal the gradient; float64."""

    metrics: dict[str, np.ndarray]  # each [NUM_DRAWS]
    gradient: dict[str, np.ndarray]  # each [NUM_DRAWS, ...]


def steps_of(algorithm: Algorithm, params: Params, batch: Batch, num: int = NUM_DRAWS) -> Steps:
    state = state_of(algorithm, params)

    @jax.jit
    @jax.vmap
    def step(key: jax.Array) -> Any:
        new, metrics = algorithm.update(key, state, batch)
        return metrics, jax.tree.map(jnp.subtract, new.params, params)

    metrics, gradient = step(jax.random.split(jax.random.key(1), num))
    return Steps(as_float64(metrics), by_path(gradient))


def assert_same_mean(draws: np.ndarray, others: np.ndarray, name: str = "") -> None:
    """Checks that the means agree within 4 standard errors, in every entry of [n, ...]."""
    error = np.sqrt(sum(np.var(d, axis=0) / len(d) for d in (draws, others)))
    miss = np.abs(np.mean(draws, axis=0) - np.mean(others, axis=0))
    assert np.all(miss <= 4 * error), (name, np.max(miss / error))


# q(theta) and its KL


def log_normal(theta: Any, mean: Any, log_var: Any) -> np.ndarray:
    """Returns log N(theta; mean, exp(log_var)) [n] of a tree of draws [n, ...], by SciPy."""

    def of_leaf(theta: Any, mean: Any, log_var: Any) -> np.ndarray:
        log_prob = scipy.stats.norm.logpdf(theta, mean, np.exp(0.5 * log_var))
        return log_prob.reshape(len(theta), -1).sum(axis=1)

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, theta, mean, log_var)), np.zeros(()))


def log_q_and_p(params: Params, theta: Any, std: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns log q(theta) and log p(theta) of a tree of draws, [n] each."""
    mean, log_var = as_float64((params["mean"]["decoder"], params["log_var"]["decoder"]))
    prior = jax.tree.map(lambda leaf: np.full_like(leaf, 2 * np.log(std)), log_var)
    zeros = jax.tree.map(np.zeros_like, log_var)
    return log_normal(theta, mean, log_var), log_normal(theta, zeros, prior)


@cache
def draws_of_theta() -> tuple[Params, Any]:
    """Returns the parameters of q(theta) of an MLP, and 20,000 draws of its theta."""
    params = params_of(mlp_vae(), log_var=-1.0)
    draw = jax.jit(jax.vmap(full_vb.draw, in_axes=(0, None)))
    theta = draw(jax.random.split(jax.random.key(1), 20_000), params)
    return params, as_float64(theta["decoder"])


@pytest.mark.parametrize("std", slow_but([0.4], [1.0, 0.4, 3.0]))
def test_the_kl_of_theta_is_the_mean_of_log_q_less_log_p(std: float):
    """Appendix F.1's KL is within 4 standard errors of the mean, and that of two Gaussians."""
    params, theta = draws_of_theta()
    log_q, log_p = log_q_and_p(params, theta, std)
    kl = full_vb.kl_to_prior(params, std)
    assert standard_errors_off(log_q - log_p, kl) < 4
    mean, log_var = (
        np.concatenate([leaf.ravel() for leaf in by_path(params[name]["decoder"]).values()])
        for name in ("mean", "log_var")
    )
    cov, prior_cov = np.diag(np.exp(log_var)), std**2 * np.eye(len(mean))
    assert kl == pytest.approx(oracles.kl_gaussians(mean, cov, 0 * mean, prior_cov), rel=1e-5)


def test_the_kl_is_0_at_the_prior():
    params = params_of(linear_vae())
    at_prior = {
        "mean": jax.tree.map(jnp.zeros_like, params["mean"]),
        "log_var": jax.tree.map(lambda leaf: jnp.full_like(leaf, np.log(0.25)), params["log_var"]),
    }
    assert full_vb.kl_to_prior(at_prior, 0.5) == pytest.approx(0.0, abs=1e-6)


def test_with_fan_in_the_prior_variance_of_a_unit_does_not_depend_on_the_number_of_inputs():
    params = params_of(mlp_vae())
    stds = by_path(full_vb.prior_stds(params, 0.4, "fan_in"))
    for path, log_var in by_path(params["log_var"]).items():
        fan_in = log_var.shape[0] if log_var.ndim == 2 else 1
        assert stds[path] == pytest.approx(0.4 / np.sqrt(fan_in), rel=1e-12)
    assert len({float(std) for std in stds.values()}) > 1
    assert {float(std) for std in by_path(full_vb.prior_stds(params, 0.4)).values()} == {0.4}


def test_the_kl_with_fan_in_is_that_of_gaussians_with_these_deviations():
    params = params_of(mlp_vae(), log_var=-1.0)
    stds = full_vb.prior_stds(params, 0.4, "fan_in")
    mean, log_var, std = (by_path(tree) for tree in (params["mean"], params["log_var"], stds))
    expected = sum(
        oracles.kl_gaussians(
            mean[path].ravel(),
            np.diag(np.exp(log_var[path].ravel())),
            np.zeros(mean[path].size),
            std[path] ** 2 * np.eye(mean[path].size),
        )
        for path in log_var
    )
    assert full_vb.kl_to_prior(params, stds) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (3, 0.3), (10, 1.0), (25, 1.0)])
def test_the_weight_of_the_kl_of_theta_rises_linearly_to_1(step: int, weight: float):
    model = linear_vae()
    batch = batch_of(jnp.float32(SETS[0]))
    metrics = {}
    for warm_up in (0, 10):
        algorithm = make(model, kl_warm_up_steps=warm_up)
        state = algorithm.init(jax.random.key(0))._replace(step=jnp.int32(step))
        _, metrics[warm_up] = algorithm.update(jax.random.key(1), state, batch)
    gained = metrics[10]["objective"] - metrics[0]["objective"]
    assert gained == pytest.approx(float((1.0 - weight) * metrics[0]["kl"]), rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_decoder_and_learned_prior_have_a_posterior_and_encoder_and_flow_have_none():
    """The decoder and a learned p(z) are drawn; the encoder and a flow's own layers are not."""
    model = mlp_vae(guide="iaf", prior="mixture")
    state = make(model, bound="sgvb_a").init(jax.random.key(0))
    mean, log_var = state.params["mean"], state.params["log_var"]
    assert mean.keys() == {"encoder", "guide", "decoder", "prior"}
    assert log_var.keys() == {"decoder", "prior"}
    for leaf in by_path(log_var).values():
        np.testing.assert_allclose(np.exp(0.5 * leaf), full_vb.FIRST_STD, rtol=1e-6)
    drawn, before = by_path(full_vb.draw(jax.random.key(1), state.params)), by_path(mean)
    assert drawn.keys() == before.keys()
    for path, leaf in drawn.items():
        is_theta = path.partition("/")[0] in ("decoder", "prior")
        assert np.all((leaf != before[path]) == is_theta), path


# The objective


@every_noise
@pytest.mark.parametrize("bound", ["sgvb_a", "sgvb_b"])
def test_the_update_is_unbiased_for_the_gradient_of_the_exact_bound(noise: str, bound: str):
    """The oracle is the gradient of a minibatch's mean bound less KL / N, in phi and q(theta)."""
    batch, params = some_batch(), params_of(linear_vae(), log_var=-1.0)
    found = steps_of(make(linear_vae(), bound=bound, weight_noise=noise), params, batch)
    exact, x = as_float64(params), np.asarray(batch.x, np.float64)

    def objective(params: Params) -> float:
        return EXACT.mean_bound(params, x) - EXACT.kl(params) / NUM_DATA

    assert standard_errors_off(found.metrics["objective"], objective(exact)) < 4
    np.testing.assert_allclose(found.metrics["kl"], EXACT.kl(exact) / NUM_DATA, rtol=1e-5)
    leaves, structure = jax.tree.flatten(exact)
    for number, (path, gradient) in enumerate(found.gradient.items()):

        def at(leaf: np.ndarray, number: int = number) -> float:
            changed = [*leaves[:number], leaf, *leaves[number + 1 :]]
            return objective(jax.tree.unflatten(structure, changed))

        expected = oracles.finite_difference(at, leaves[number])
        assert standard_errors_off(gradient, expected) < 4, path


def same_distribution(draws: np.ndarray, others: np.ndarray) -> float:
    """Returns the p-value of the Kolmogorov-Smirnov test for two samples."""
    return scipy.stats.ks_2samp(draws, others).pvalue  # pyright: ignore[reportAttributeAccessIssue]


@cache
def noisy_steps(noise: str) -> Steps:
    """Returns updates of an MLP whose q(theta) is wide."""
    algorithm = make(mlp_vae(), weight_noise=noise)
    return steps_of(algorithm, params_of(mlp_vae(), log_var=-3.0), some_batch())


@pytest.mark.slow
def test_the_objective_has_the_mean_of_the_sampled_objective_of_appendix_f():
    """All of N (log p(x, z) - log q(z|x)) + log p(theta) - log q(theta) is sampled."""
    model, batch, params = mlp_vae(), some_batch(), params_of(mlp_vae(), log_var=-3.0)

    @jax.jit
    @jax.vmap
    def sample(key: jax.Array) -> tuple[jax.Array, Any]:
        theta_key, z_key = jax.random.split(key)
        theta = full_vb.draw(theta_key, params)

        def bound_of(key: jax.Array, x: jax.Array) -> jax.Array:
            return losses.sgvb_a(key, model.encode(theta, x), model.guide, model.joint(theta, x))

        bounds = jax.vmap(bound_of)(jax.random.split(z_key, len(batch.x)), batch.x)
        return jnp.mean(bounds), theta["decoder"]

    bounds, theta = as_float64(sample(jax.random.split(jax.random.key(2), 4 * NUM_DRAWS)))
    log_q, log_p = log_q_and_p(params, theta, EXACT.std)
    sampled = NUM_DATA * bounds + log_p - log_q
    for noise in full_vb.NOISES:
        closed = NUM_DATA * noisy_steps(noise).metrics["objective"]
        assert_same_mean(closed, sampled, noise)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["minibatch", "datapoint"])
def test_every_weight_noise_has_the_same_mean_objective_and_gradient(noise: str):
    local, other = noisy_steps("local"), noisy_steps(noise)
    assert_same_mean(local.metrics["objective"], other.metrics["objective"], "objective")
    for path, gradient in local.gradient.items():
        assert_same_mean(gradient, other.gradient[path], path)


@pytest.mark.slow
def test_local_noise_has_the_least_variance_and_minibatch_noise_the_most():
    """The gradient's variance exceeds local noise's by these factors, for datapoint and minibatch.

    Phi: 1.4 and 1.7; means of theta: 1.1 and 1.8; log-variances: 2.5 and 5.3, at M = 5. Minibatch
    noise does not average out over the minibatch, so its factors grow with M.
    """

    def variance(noise: str, part: str) -> float:
        gradient = noisy_steps(noise).gradient
        return sum(
            float(np.sum(np.var(gradient[path], axis=0))) for path in gradient if part in path
        )

    for part, low, high in (
        ("mean/encoder", 1.2, 1.4),
        ("mean/decoder", 1.0, 1.4),
        ("log_var/decoder", 1.8, 4.0),
    ):
        local, datapoint, minibatch = (
            variance(noise, part) for noise in ("local", "datapoint", "minibatch")
        )
        assert datapoint > low * local, part
        assert minibatch > high * local, part
        assert minibatch > datapoint, part


def test_local_noise_is_datapoint_noise_averaged_over_weights_that_give_the_same_units():
    """The objective therefore has the same distribution under both.

    The same holds for the gradient in the means of the last layer, which is the unit's error times
    its input. All other gradients have less variance (Rao-Blackwell).
    """
    local, datapoint = noisy_steps("local"), noisy_steps("datapoint")
    one, other = (steps.metrics["objective"] for steps in (local, datapoint))
    assert same_distribution(one, other) > 1e-3
    for path, gradient in local.gradient.items():
        draws = gradient.reshape(NUM_DRAWS, -1)
        others = datapoint.gradient[path].reshape(NUM_DRAWS, -1)
        if path.startswith(("mean/decoder/mean", "mean/decoder/log_var")):
            for entry, other in zip(draws.T, others.T, strict=True):
                assert same_distribution(entry, other) > 1e-4, path
        else:
            assert np.sum(np.var(draws, axis=0)) < np.sum(np.var(others, axis=0)), path


@cache
def aevb_at_the_mean(num_samples: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the mean bound of AEVB, and its gradient, with the noise of z that `full_vb` has."""
    model = mlp_vae()
    algorithm = jitted(
        aevb.make(model, optax.sgd(1.0), bound=BOUNDS["sgvb_b"], num_samples=num_samples)
    )
    params = params_of(model)["mean"]
    z_key = jax.random.split(jax.random.key(1), 3)[2]
    new, metrics = algorithm.update(z_key, state_of(algorithm, params), some_batch())
    gradient = by_path(jax.tree.map(jnp.subtract, new.params, params))
    return np.asarray(metrics["objective"]), gradient


@every_noise
def test_without_variance_the_bound_and_its_gradient_are_those_of_aevb_at_the_mean(noise: str):
    """The value of log_var is very low; the KL also pulls theta, by theta over std^2 N."""
    bound, gradient = aevb_at_the_mean(num_samples=3)
    algorithm = make(mlp_vae(), num_samples=3, weight_noise=noise)
    params = params_of(mlp_vae(), log_var=-40.0)
    state = state_of(algorithm, params)
    new, metrics = algorithm.update(jax.random.key(1), state, some_batch())
    np.testing.assert_allclose(metrics["objective"] + metrics["kl"], bound, rtol=1e-5)
    before, after = by_path(params["mean"]), by_path(new.params["mean"])
    for path, slope in gradient.items():
        pull = before[path] / (EXACT.std**2 * NUM_DATA) if path.startswith("decoder") else 0.0
        np.testing.assert_allclose(after[path] - before[path], slope - pull, rtol=1e-4, atol=1e-5)


# The bound on log p(X)

BIASES, SETS = simulate(seed=0, num_sets=200)


@cache
def trained(noise: str) -> Params:
    """Trains by 4000 steps of Adagrad on each of the datasets; the parameters are [200, ...]."""
    algorithm = full_vb.make(
        linear_vae(),
        optimizers.make("adagrad", 0.1),
        num_data=NUM_DATA,
        bound=BOUNDS["sgvb_b"],
        weight_noise=noise,
        param_prior_std=PRIOR_STD,
    )

    def train(x: jax.Array) -> Any:
        batch = Batch(x, jnp.arange(NUM_DATA))

        def step(number: jax.Array, state: Any) -> Any:
            return algorithm.update(jax.random.fold_in(jax.random.key(1), number), state, batch)[0]

        return jax.lax.fori_loop(0, 4000, step, algorithm.init(jax.random.key(0))).params

    return jax.jit(jax.vmap(train))(jnp.float32(SETS))


def test_the_best_bound_is_the_bound_at_the_best_parameters():
    """Two derivations of the oracle agree, and no parameters nearby are better."""
    x = SETS[0]
    best = EXACT.best_params(x)
    assert EXACT.bound(best, x) == pytest.approx(EXACT.best_bound(x), rel=1e-9)
    leaves, structure = jax.tree.flatten(best)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = [leaf + 0.05 * rng.normal(size=leaf.shape) for leaf in leaves]
        assert EXACT.bound(jax.tree.unflatten(structure, moved), x) < EXACT.best_bound(x)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["local", "minibatch"])
def test_training_reaches_the_best_bound_below_the_exact_evidence(noise: str):
    """Both gaps hold on each of 100 datasets.

    In nats, log p(X) is 1.453 above the best bound of independent Gaussians, for every X. The best
    bound is 0.03 on average, and at most 0.1, above the trained one.
    """
    params = as_float64(trained(noise))
    short = []
    for number, x in enumerate(SETS[:100]):
        best, evidence = EXACT.best_bound(x), EXACT.log_evidence(x)
        assert evidence - best == pytest.approx(1.453, abs=0.001)
        short.append(best - EXACT.bound(jax.tree.map(lambda leaf, n=number: leaf[n], params), x))
    assert min(short) >= 0.0
    assert max(short) < 0.15
    assert np.mean(short) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("has_closed_kl", "is_trained"),
    [(True, True), (False, False)],
)
def test_the_estimate_of_the_bound_is_the_exact_one_and_not_above_log_p(
    has_closed_kl: bool, is_trained: bool
):
    """The standard errors that it reports are also right."""
    model = linear_vae()
    if not has_closed_kl:
        model = model._replace(guide=model.guide._replace(kl=None))
    params = jax.tree.map(lambda leaf: leaf[0], trained("local"))
    if not is_trained:
        params = params_of(model, log_var=-1.0)
    x = SETS[0]
    exact, evidence = EXACT.bound(as_float64(params), x), EXACT.log_evidence(x)
    estimate = partial(
        full_vb.log_evidence_bound,
        vae=model, params=params, x=jnp.float32(x), num_samples=40, stds=PRIOR_STD,
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(1), 200)
    bounds, errors = as_float64(jax.jit(jax.vmap(estimate))(keys))
    assert standard_errors_off(bounds, exact) < 4
    assert np.mean(bounds) < evidence + 4 * np.std(bounds) / np.sqrt(200)
    assert standard_errors_off(np.square(bounds - exact), np.mean(np.square(errors))) < 4


# theta among the latents


@pytest.mark.slow
def test_with_theta_as_latents_p_of_x_is_its_mean_over_theta():
    """The bias of the linear model is theta: p(x) is Gaussian, with the variances of q added."""
    params = params_of(linear_vae(), log_var=-1.0)
    whole = full_vb.with_theta_as_latents(linear_vae(), params)
    assert whole.num_latents == NUM_DIMS + NUM_LATENTS
    keys = jax.random.split(jax.random.key(0), 20)
    latents, x = jax.vmap(lambda key: whole.sample(key, params))(keys)
    estimate = {
        name: jax.jit(jax.vmap(partial(log_p_over_theta, whole, params, name)))(keys, x, latents)
        for name in ("ais", "reverse_ais")
    }
    shift, var = (as_float64(params[name]["decoder"]["bias"]) for name in ("mean", "log_var"))
    _, cov = EXACT.model.marginal()
    cov: Any = cov + np.diag(np.exp(var))
    exact = scipy.stats.multivariate_normal(shift, cov).logpdf(x)
    for name, found in estimate.items():
        off = np.asarray(found.value, np.float64) - exact
        assert abs(np.mean(off)) < 4 * np.sqrt(np.mean(found.standard_error**2) / 20), name
        assert np.mean(found.standard_error) < 0.3, name
    assert np.mean(estimate["ais"].value) < np.mean(estimate["reverse_ais"].value) + 0.1


def log_p_over_theta(whole: VAE, params: Params, name: str, key: Any, x: Any, latent: Any) -> Any:
    exact = {"posterior_sample": latent} if name == "reverse_ais" else {}
    return ESTIMATORS[name].estimate(
        key, whole.encode(params, x), whole.guide, whole.joint(params, x),
        num_temps=50, num_chains=20, settings=hmc.Settings(num_leapfrog=4, num_warmup=50), **exact,
    )  # fmt: skip


def test_a_latent_of_theta_at_0_gives_the_model_at_the_mean():
    params, model = params_of(mlp_vae(), log_var=-1.0), mlp_vae()
    whole = full_vb.with_theta_as_latents(model, params)
    z, x = jnp.float32([0.3, -1.0]), jnp.arange(NUM_DIMS, dtype=jnp.float32)
    latent = jnp.concatenate([jnp.zeros(whole.num_latents - NUM_LATENTS), z])
    at_mean, at_zero = model.joint(params["mean"], x), whole.joint(params, x)
    assert at_zero.log_lik(latent) == pytest.approx(float(at_mean.log_lik(z)), rel=1e-5)
    num_theta = whole.num_latents - NUM_LATENTS
    prior = float(at_mean.log_prior(z)) - 0.5 * num_theta * np.log(2 * np.pi)
    assert at_zero.log_prior(latent) == pytest.approx(prior, rel=1e-5)
    np.testing.assert_allclose(whole.mean(params, latent), model.mean(params["mean"], z), rtol=1e-5)


def test_a_latent_of_theta_counts_the_standard_deviations_of_q():
    params, model = params_of(mlp_vae(), log_var=-1.0), mlp_vae()
    whole = full_vb.with_theta_as_latents(model, params)
    z, x = jnp.float32([0.3, -1.0]), jnp.arange(NUM_DIMS, dtype=jnp.float32)
    latent = jnp.concatenate([2.0 * jnp.ones(whole.num_latents - NUM_LATENTS), z])
    mean = {part: params["mean"][part] for part in params["log_var"]}
    shifted = jax.tree.map(lambda m, v: m + 2.0 * jnp.exp(0.5 * v), mean, params["log_var"])
    theta = params["mean"] | shifted
    expected = float(model.joint(theta, x).log_lik(z))
    assert whole.joint(params, x).log_lik(latent) == pytest.approx(expected, rel=1e-4)


# Calibration

LEVELS = (0.5, 0.9)


def is_inside(mean: np.ndarray, std: np.ndarray, bias: np.ndarray, level: float) -> np.ndarray:
    """Returns, for each bias [R, D], the share of dimensions in which the interval holds it, [R].

    The interval is the central one of N(mean, std^2).
    """
    half = std * scipy.stats.norm.ppf(0.5 + 0.5 * level)
    return np.mean(np.abs(bias - mean) < half, axis=1)


def expected_coverage(level: float) -> float:
    """Returns the coverage of intervals around the right mean that are too narrow.

    Mean field's variance is 1 over the diagonal of the posterior precision; the marginal variance
    is the diagonal of its inverse.
    """
    _, cov = EXACT.posterior(SETS[0])
    narrow = np.sqrt(EXACT.best_bias_var(NUM_DATA) / np.diag(cov))
    quantile = scipy.stats.norm.ppf(0.5 + 0.5 * level)
    return float(np.mean(2.0 * scipy.stats.norm.cdf(narrow * quantile) - 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_intervals_of_trained_posteriors_have_the_coverage_of_mean_field_theory(level: float):
    """On 400 datasets it is 35.0 % (error 1.4) and 73.2 % (1.4); theory says 35.4 and 73.6."""
    params = as_float64(trained("local"))
    mean, log_var = (params[name]["decoder"]["bias"] for name in ("mean", "log_var"))
    inside = is_inside(mean, np.exp(0.5 * log_var), BIASES, level)
    assert standard_errors_off(inside, expected_coverage(level)) < 4
    assert standard_errors_off(inside, level) > 4
    assert expected_coverage(level) < level - 0.1


def test_trained_posteriors_have_the_mean_of_the_posterior_and_the_variance_of_mean_field():
    params = as_float64(trained("local"))
    best_std = np.sqrt(EXACT.best_bias_var(NUM_DATA))
    miss = (params["mean"]["decoder"]["bias"] - EXACT.posterior(SETS)[0]) / best_std
    assert np.sqrt(np.mean(miss**2)) < 0.1
    ratio = np.exp(0.5 * params["log_var"]["decoder"]["bias"]) / best_std
    np.testing.assert_allclose(np.mean(ratio, axis=0), 1.0, atol=0.03)
    np.testing.assert_allclose(ratio, 1.0, atol=0.1)


# Refusals


@pytest.mark.parametrize("std", [0.0, np.inf])
def test_a_flat_prior_is_refused(std: float):
    model = linear_vae()
    params = params_of(model)
    for refused in (
        lambda: make(model, param_prior_std=std),
        lambda: full_vb.kl_to_prior(params, std),
    ):
        with pytest.raises(ValueError, match=f"param_prior_std is {std:g}; .* above 0 and finite"):
            refused()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_scale": "fan_out"}, "prior_scale is 'fan_out'; it must be one of .*'fan_in'"),
        ({"first_std": 0.0}, "first_std is 0; it must be above 0"),
        ({"kl_warm_up_steps": -1}, "kl_warm_up_steps is -1; it must be at least 0"),
    ],
)
def test_options_of_full_vb_out_of_range_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(linear_vae(), **options)


def test_an_unknown_noise_is_refused():
    with pytest.raises(ValueError, match=r"weight_noise is 'global'; it must be one of .*'local'"):
        make(linear_vae(), weight_noise="global")


def test_the_bound_on_log_p_of_the_data_is_refused_with_one_sample():
    with pytest.raises(ValueError, match="num_samples is 1; it must be at least 2"):
        full_vb.log_evidence_bound(
            jax.random.key(0), linear_vae(), params_of(linear_vae()), jnp.float32(SETS[0]),
            num_samples=1, stds=PRIOR_STD,
        )  # fmt: skip


@pytest.mark.parametrize("bound", BOUNDS)
def test_local_noise_is_refused_where_a_bound_compares_samples(bound: str):
    """The samples would share no theta, so the bound would have another mean."""
    make(linear_vae(), bound=bound, num_samples=1)
    make(linear_vae(), bound=bound, num_samples=4, weight_noise="datapoint")
    if bound in losses.NOT_MEANS:
        for refused in (BOUNDS[bound], partial(BOUNDS[bound])):
            with pytest.raises(ValueError, match=r"num_samples=4.*datapoint.*sgvb_b"):
                full_vb.make(
                    linear_vae(), optax.sgd(1.0), num_data=NUM_DATA, bound=refused, num_samples=4
                )
    else:
        make(linear_vae(), bound=bound, num_samples=4)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_is_a_mean_over_samples_if_it_is_affine_in_their_log_weights(bound: str):
    @jax.jit
    @jax.vmap
    def value(scale: jax.Array) -> jax.Array:
        guide = Guide(
            sample=lambda key, stats: jax.random.normal(key),
            log_prob=lambda stats, z: jnp.zeros(()),
            kl=lambda stats, prior: jnp.zeros(()),
            kl_per_unit=lambda stats, prior: jnp.zeros(1),
        )
        joint = Joint(prior=lambda z: jnp.zeros(()), log_lik=lambda z: scale * z)
        return BOUNDS[bound](jax.random.key(0), (), guide, joint, num_samples=4)

    curvature = np.diff(value(jnp.float32([0.0, 1.0, 2.0])), n=2)
    assert (abs(curvature[0]) > 1e-2) == (bound in losses.NOT_MEANS)


# From a config


def synthetic(**overrides: Any) -> Any:
    return changed(
        **{
            "data__name": "synthetic",
            "data__synthetic_num_train": 200,
            "data__synthetic_num_test": 50,
            "data__synthetic_num_dims": 5,
            "model__likelihood": "gaussian",
            "model__hidden": (8,),
            "algorithm__name": "full_vb",
            "train__batch_size": 20,
        }
        | overrides
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"algorithm__param_prior_std": 0.0}, "config.algorithm.param_prior_std"),
        ({"algorithm__prior_on_biases": False}, "config.algorithm.prior_on_biases"),
        ({"algorithm__bound": "iwae", "algorithm__num_samples": 5}, "config.algorithm.bound"),
    ],
)
def test_settings_that_full_vb_refuses_are_reported_in_one_line(
    overrides: dict[str, Any], words: str
):
    with pytest.raises(UserError) as refusal:
        experiment.build(synthetic(**overrides))
    message = str(refusal.value)
    assert message.startswith("config.algorithm.name is 'full_vb', which refuses")
    assert words in message
    assert "\n" not in message
