"""Full variational Bayes: its objective and its bound on log p(X) against exact answers.

In the linear-Gaussian model here theta is the decoder's bias b alone, so that b, all z and X are
jointly Gaussian: log p(X), the posterior, and the best that independent Gaussians can do are closed.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.stats
from oracles import LinearGaussian, standard_errors_off
from test_config import changed

from aevb import evaluate, experiment, losses, networks, vae
from aevb.algorithms import full_vb, sgvb
from aevb.algorithms.ascent import ParamPrior
from aevb.algorithms.base import Algorithm, Batch
from aevb.distributions import DiagNormal
from aevb.errors import UserError
from aevb.guides import GUIDES, Sizes
from aevb.likelihoods import LIKELIHOODS
from aevb.loop import LoopKeys, make_advance, train_to
from aevb.losses import BOUNDS, Guide, Joint
from aevb.networks import Network, WeightPosterior, mlp
from aevb.priors import PRIORS, Options
from aevb.vae import VAE

NUM_DIMS, NUM_LATENTS = 3, 2
NUM_DATA = 12
NUM_DRAWS = 4000
PRIOR = ParamPrior(std=0.8)
every_noise = pytest.mark.parametrize("noise", full_vb.NOISES)

Params = dict[str, Any]


def as_float64(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def by_path(tree: Any) -> dict[str, np.ndarray]:
    """ "mean/decoder/bias" -> its array, for every leaf."""
    return {
        "/".join(str(entry.key) for entry in path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


# The exact model


class Exact(NamedTuple):
    """p(b) = N(0, std^2 I) and p(x|b) as in `model`, whose own bias is not used."""

    model: LinearGaussian
    std: float

    def log_evidence(self, x: np.ndarray) -> float:
        """log p(X) of x [N, D], nats, by its ND-dimensional Gaussian."""
        num_data, num_dims = x.shape
        _, cov = self.model.marginal()
        common = np.kron(np.ones((num_data, num_data)), self.std**2 * np.eye(num_dims))
        joint_cov = np.kron(np.eye(num_data), cov) + common
        return float(scipy.stats.multivariate_normal.logpdf(x.ravel(), cov=joint_cov))

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [..., D] and covariance [D, D] of p(b|X) at x [..., N, D]."""
        _, cov = self.model.marginal()
        precision = np.eye(x.shape[-1]) / self.std**2 + x.shape[-2] * np.linalg.inv(cov)
        posterior_cov = np.linalg.inv(precision)
        return np.sum(x, axis=-2) @ np.linalg.inv(cov) @ posterior_cov, posterior_cov

    def joint_precision(self, num_data: int) -> np.ndarray:
        """Of p(b, z_1, ..., z_N | X), whose inverse diagonal is the best factors' variances."""
        weights, _, noise_var = self.model
        precise_weights = weights / noise_var[:, None]
        of_bias = np.diag(1.0 / self.std**2 + num_data / noise_var)
        of_latents = np.eye(weights.shape[1]) + weights.T @ precise_weights
        between = np.tile(precise_weights, num_data)
        return np.block(
            [[of_bias, between], [between.T, np.kron(np.eye(num_data), of_latents)]]
        )

    def best_bound(self, x: np.ndarray) -> float:
        """The greatest bound on log p(X) of independent Gaussians for each entry of b and z.

        They have the posterior's means; KL(q || posterior) is half the log of the product of the
        precision's diagonal over its determinant.
        """
        precision = self.joint_precision(len(x))
        _, log_det = np.linalg.slogdet(precision)
        return self.log_evidence(x) - 0.5 * float(np.sum(np.log(np.diag(precision))) - log_det)

    def best_bias_var(self, num_data: int) -> np.ndarray:
        """Of the best q(b) [D]."""
        return 1.0 / np.diag(self.joint_precision(num_data))[: len(self.model.bias)]

    def best_params(self, x: np.ndarray) -> Params:
        """Those of `linear_vae` at the best bound: E[z|X] is linear in x."""
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
        """KL(q(b) || p(b)), nats."""
        mean, log_var = (params[name]["decoder"]["bias"] for name in ("mean", "log_var"))
        prior_cov = self.std**2 * np.eye(len(mean))
        return oracles.kl_gaussians(
            mean, np.diag(np.exp(log_var)), np.zeros_like(mean), prior_cov
        )

    def mean_bound(self, params: Params, x: np.ndarray) -> float:
        """E_q(b) of the mean evidence lower bound of x [M, D], nats, in closed form."""
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
        """On log p(X) of all x [N, D], nats."""
        return len(x) * self.mean_bound(params, x) - self.kl(params)


EXACT = Exact(oracles.linear_gaussian(0, NUM_DIMS, NUM_LATENTS), PRIOR.std or 0.0)


def simulate(seed: int, num_sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Biases [R, D] from their prior, and a data set of each [R, N, D]."""
    rng = np.random.default_rng(seed)
    bias = EXACT.std * rng.normal(size=(num_sets, NUM_DIMS))
    _, cov = EXACT.model.marginal()
    noise = rng.normal(size=(num_sets, NUM_DATA, NUM_DIMS)) @ np.linalg.cholesky(cov).T
    return bias, bias[:, None] + noise


@cache
def linear_vae() -> VAE:
    """`EXACT`, with an encoder of the family that holds the best guide."""
    weights, noise_var = jnp.float32(EXACT.model.weights), jnp.float32(EXACT.model.noise_var)

    def encoder_init(key: jax.Array) -> Any:
        kernel = 0.3 * jax.random.normal(key, (NUM_DIMS, NUM_LATENTS))
        return {"kernel": kernel, "bias": kernel[0], "log_var": jnp.zeros(NUM_LATENTS)}

    def encoder(params: Any, x: jax.Array) -> Mapping[str, jax.Array]:
        return {"mean": x @ params["kernel"] + params["bias"], "log_var": params["log_var"]}

    def decoder_init(key: jax.Array) -> Any:
        return {"bias": 0.5 * jax.random.normal(key, (NUM_DIMS,))}

    def decoder(params: Any, z: jax.Array) -> Mapping[str, jax.Array]:
        if isinstance(params, WeightPosterior):
            bias = DiagNormal(params.mean["bias"], params.log_var["bias"]).sample(params.key)
        else:
            bias = params["bias"]
        return {"mean": weights @ z + bias, "log_var": jnp.log(noise_var)}

    return vae.make(
        Network(encoder_init, encoder),
        Network(decoder_init, decoder),
        LIKELIHOODS["gaussian"],
        num_latents=NUM_LATENTS,
    )


@cache
def mlp_vae(likelihood: str = "gaussian", **families: str) -> VAE:
    """A small one with hidden layers; families: of the guide and of the prior, by name."""
    family = GUIDES[families.get("guide", "diag_normal")](Sizes(NUM_LATENTS, 2, 4))
    prior = PRIORS[families.get("prior", "standard_normal")](Options(NUM_LATENTS, 3))
    chosen, init = LIKELIHOODS[likelihood], networks.normal_init(0.5)
    heads = {head: NUM_DIMS * size for head, size in chosen.heads.items()}
    return vae.make(
        mlp(NUM_DIMS, family.heads, hidden=(4,), initialisation=init),
        mlp(NUM_LATENTS, heads, hidden=(5, 4), initialisation=init, constants=chosen.shared),
        chosen,
        num_latents=NUM_LATENTS,
        guide_family=family,
        prior_family=prior,
    )


def make(model: VAE, *, bound: str = "sgvb_b", **options: Any) -> Algorithm:
    """Plain gradient ascent with steps of 1."""
    options = {"num_data": NUM_DATA, "prior": PRIOR, **options}
    return full_vb.make(model, optax.sgd(1.0), bound=BOUNDS[bound], **options)


def params_of(model: VAE, *, log_var: float = -3.0) -> Params:
    """What `full_vb` trains, with a q(theta) of various widths around exp(log_var / 2)."""
    params = make(model).init(jax.random.key(0)).params
    widths = jax.tree.map(
        lambda leaf: log_var + jnp.linspace(-0.5, 0.5, leaf.size).reshape(leaf.shape),
        params["log_var"],
    )
    return params | {"log_var": widths}


def batch_of(x: np.ndarray) -> Batch:
    return Batch(jnp.float32(x), jnp.arange(len(x), dtype=jnp.int32))


def some_batch(size: int = 5) -> Batch:
    """Less than the whole data set."""
    return batch_of(np.random.default_rng(0).normal(scale=1.2, size=(size, NUM_DIMS)))


class Steps(NamedTuple):
    """Many updates from one state with steps of 1, which are the gradient; float64."""

    metrics: dict[str, np.ndarray]  # each [NUM_DRAWS]
    gradient: dict[str, np.ndarray]  # each [NUM_DRAWS, ...]


def steps_of(algorithm: Algorithm, params: Params, batch: Batch, num: int = NUM_DRAWS) -> Steps:
    state = algorithm.init(jax.random.key(0))._replace(params=params)

    @jax.jit
    @jax.vmap
    def step(key: jax.Array) -> Any:
        new, metrics = algorithm.update(key, state, batch)
        return metrics, jax.tree.map(jnp.subtract, new.params, params)

    metrics, gradient = step(jax.random.split(jax.random.key(1), num))
    return Steps(as_float64(metrics), by_path(gradient))


def assert_same_mean(draws: np.ndarray, others: np.ndarray, name: str = "") -> None:
    """Within 4 standard errors, in every entry of [n, ...]."""
    error = np.hypot(*(np.std(d, axis=0) / np.sqrt(len(d)) for d in (draws, others)))
    miss = np.abs(np.mean(draws, axis=0) - np.mean(others, axis=0))
    assert np.all(miss <= 4 * error), (name, np.max(miss / error))


# q(theta) and its KL


def log_normal(theta: Any, mean: Any, log_var: Any) -> np.ndarray:
    """log N(theta; mean, exp(log_var)) of a tree of draws [n, ...] -> [n], by SciPy."""

    def of_leaf(theta: Any, mean: Any, log_var: Any) -> np.ndarray:
        log_prob = scipy.stats.norm.logpdf(theta, mean, np.exp(0.5 * log_var))
        return log_prob.reshape(len(theta), -1).sum(axis=1)

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, theta, mean, log_var)), np.zeros(()))


def log_q_and_p(params: Params, theta: Any, std: float) -> tuple[np.ndarray, np.ndarray]:
    """log q(theta) and log p(theta) of a tree of draws -> [n] each."""
    mean, log_var = as_float64((params["mean"]["decoder"], params["log_var"]["decoder"]))
    prior = jax.tree.map(lambda leaf: np.full_like(leaf, 2 * np.log(std)), log_var)
    zeros = jax.tree.map(np.zeros_like, log_var)
    return log_normal(theta, mean, log_var), log_normal(theta, zeros, prior)


@pytest.mark.parametrize("std", [1.0, 0.4, 3.0])
def test_the_kl_of_theta_is_the_mean_of_log_q_less_log_p(std: float):
    """Appendix F.1 within 4 standard errors, and by the closed form for any two Gaussians."""
    params = params_of(mlp_vae(), log_var=-1.0)
    keys = jax.random.split(jax.random.key(1), 20_000)
    theta = as_float64(jax.vmap(full_vb.draw, in_axes=(0, None))(keys, params)["decoder"])
    log_q, log_p = log_q_and_p(params, theta, std)
    kl = full_vb.kl_to_prior(params, ParamPrior(std))
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
    assert full_vb.kl_to_prior(at_prior, ParamPrior(0.5)) == pytest.approx(0.0, abs=1e-6)


def test_theta_is_what_the_model_generates_by_and_phi_has_no_distribution():
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
    """Of the mean bound of a minibatch less KL / N, in phi and in q(theta), by differences."""
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


@cache
def noisy_steps(noise: str) -> Steps:
    """Of an MLP whose q(theta) is wide."""
    algorithm = make(mlp_vae(), weight_noise=noise)
    return steps_of(algorithm, params_of(mlp_vae(), log_var=-3.0), some_batch())


def test_the_objective_is_that_of_appendix_f_before_its_kls_are_closed():
    """N (log p(x, z) - log q(z|x)) + log p(theta) - log q(theta), everything sampled."""
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


@pytest.mark.parametrize("noise", ["minibatch", "datapoint"])
def test_every_noise_has_the_same_mean_objective_and_gradient(noise: str):
    local, other = noisy_steps("local"), noisy_steps(noise)
    assert_same_mean(local.metrics["objective"], other.metrics["objective"], "objective")
    for path, gradient in local.gradient.items():
        assert_same_mean(gradient, other.gradient[path], path)


def total_variance(steps: Steps, part: str) -> float:
    """Of the gradient, summed over the entries of "mean" or "log_var"."""
    return sum(float(np.sum(np.var(g, axis=0))) for p, g in steps.gradient.items() if part in p)
