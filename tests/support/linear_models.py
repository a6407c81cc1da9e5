"""Probabilistic PCA as a `VAE` with a linear encoder, and exact training results in float64."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from oracles import LinearGaussian

from aevb import guides, likelihoods, optimizers, vae
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.networks import Network
from aevb.optimizers import Mask
from aevb.training.loop import LoopKeys, make_advance, train_to
from aevb.vae import VAE

NUM_DIMS, NUM_LATENTS = 4, 2
NUM_DATA = 10
NUM_DRAWS = 5000

Params = dict[str, dict[str, np.ndarray]]


# The model


@cache
def linear_vae(
    num_dims: int = NUM_DIMS,
    num_latents: int = NUM_LATENTS,
    std: float = 0.5,
    encoder: str = "diagonal",
) -> VAE:
    """Returns probabilistic PCA whose parameters are drawn from N(0, std^2).

    Args:
        encoder: "diagonal", a family that contains the posterior once W has orthogonal columns;
            "spherical", with one variance for all latents, which does not; "none", for `mcem`.
    """
    num_log_vars = {"diagonal": num_latents, "spherical": 1, "none": 0}[encoder]

    def encoder_init(key: jax.Array) -> Any:
        normal = std * jax.random.normal(key, (num_dims + 1, num_latents))
        return {
            "kernel": normal[1:],
            "bias": normal[0],
            "log_var": jnp.zeros(num_log_vars),
        }

    def encode(params: Any, x: jax.Array) -> Mapping[str, jax.Array]:
        log_var = jnp.broadcast_to(params["log_var"], (num_latents,))
        return {"mean": x @ params["kernel"] + params["bias"], "log_var": log_var}

    def decoder_init(key: jax.Array) -> Any:
        normal = std * jax.random.normal(key, (num_latents + 1, num_dims))
        return {
            "kernel": normal[1:],
            "bias": normal[0],
            "log_var": jnp.zeros(1),  # one noise variance for all dimensions
        }

    def decode(params: Any, z: jax.Array) -> Mapping[str, jax.Array]:
        log_var = jnp.broadcast_to(params["log_var"], (num_dims,))
        return {"mean": z @ params["kernel"] + params["bias"], "log_var": log_var}

    has_encoder = encoder != "none"
    family = guides.diag_normal_family if has_encoder else guides.standard_normal_family
    model = vae.make(
        Network(encoder_init, encode) if has_encoder else None,
        Network(decoder_init, decode),
        likelihoods.gaussian,
        num_latents=num_latents,
        guide_family=family(guides.Sizes(num_latents)),
    )
    return model._replace(init=jax.jit(model.init))


def batch_of(x: np.ndarray) -> Batch:
    return Batch(jnp.float32(x), jnp.arange(len(x), dtype=jnp.int32))


def gaussian_batch(num_dims: int = NUM_DIMS, size: int = 5) -> Batch:
    return batch_of(np.random.default_rng(0).normal(scale=1.5, size=(size, num_dims)))


# Exact values in float64


def as_float64(params: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def linear_gaussian(params: Params) -> LinearGaussian:
    decoder = params["decoder"]
    noise_var = np.exp(decoder["log_var"]) * np.ones(decoder["bias"].shape)
    return LinearGaussian(decoder["kernel"].T, decoder["bias"], noise_var)


def exact_bound(params: Params, x: np.ndarray) -> float:
    """Returns the mean over x [M, D] of the evidence lower bound of `linear_vae`, in float64."""
    encoder, model = params["encoder"], linear_gaussian(params)
    means = x @ encoder["kernel"] + encoder["bias"]
    log_var = encoder["log_var"] * np.ones(means.shape[1])
    return float(
        np.mean([model.elbo(point, mean, log_var) for point, mean in zip(x, means, strict=True)])
    )


def exact_log_prob(params: Params, x: np.ndarray) -> float:
    """Returns the mean over x [M, D] of log p(x)."""
    return float(np.mean(linear_gaussian(params).log_prob(x)))


def gradient_of(objective: Callable[[Params], float], params: Params) -> Params:
    """Returns the gradient in every parameter, by central differences."""

    def gradient(part: str, name: str) -> np.ndarray:
        def value(leaf: np.ndarray) -> float:
            return objective(params | {part: params[part] | {name: leaf}})

        return oracles.finite_difference(value, params[part][name])

    return {
        part: {name: gradient(part, name) for name in leaves} for part, leaves in params.items()
    }


def assert_equal(tree: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# Updates


@cache
def make(
    make_algorithm: Callable[..., Algorithm],
    model: VAE,
    *,
    step_size: float = 1.0,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
    **options: Any,
) -> Algorithm:
    """Makes plain gradient ascent with steps of 1, without a prior unless a decay is given."""
    optimizer = optimizers.make("sgd", step_size, weight_decay=weight_decay, mask=mask)
    algorithm = make_algorithm(model, optimizer, **options)
    return algorithm._replace(update=jax.jit(algorithm.update))


@cache
def with_many_keys(update: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(jax.vmap(update, in_axes=(0, None, None)))


def updates_of(
    algorithm: Algorithm, state: TrainState, batch: Batch, *, num_draws: int = NUM_DRAWS
) -> tuple[Params, np.ndarray]:
    """Returns the steps and the objectives of independent updates from one state.

    Each leaf of the steps is [num_draws, ...].
    """
    keys = jax.random.split(jax.random.key(1), num_draws)
    states, metrics = with_many_keys(algorithm.update)(keys, state, batch)
    new, old = as_float64((states.params, state.params))
    return jax.tree.map(np.subtract, new, old), np.asarray(metrics["objective"], np.float64)


def assert_8_times_the_variance(draws: np.ndarray, others: np.ndarray) -> None:
    tolerance = np.hypot(
        oracles.variance_standard_error(draws) / 8, oracles.variance_standard_error(others)
    )
    assert abs(np.var(draws) / 8 - np.var(others)) < 4 * tolerance


# Training


@cache
def pca_data(scales: tuple[float, float] | None = None) -> np.ndarray:
    """Returns x [400, 6] of probabilistic PCA with 2 latents and noise of standard deviation 0.5.

    Args:
        scales: of the columns of W, which are then orthogonal; None for normal weights.
    """
    rng = np.random.default_rng(0)
    weights, bias, _ = oracles.linear_gaussian(0, 6, 2)
    if scales is not None:
        weights = np.linalg.qr(weights).Q * scales
    z = rng.normal(size=(400, 2))
    x: np.ndarray = z @ weights.T + bias
    return x + 0.5 * rng.normal(size=x.shape)


def trained(
    make_algorithm: Callable[..., Algorithm],
    x: np.ndarray,
    *,
    encoder: str = "diagonal",
    num_steps: int = 4000,
    **options: Any,
) -> Params:
    """Trains `linear_vae` with 2 latents by the paper's Adagrad on minibatches of 50 of x."""
    algorithm = make_algorithm(
        linear_vae(x.shape[1], 2, std=0.1, encoder=encoder),
        optimizers.make("adagrad", 0.1),
        **options,
    )
    start = algorithm.init(jax.random.key(0))
    assert exact_log_prob(as_float64(start.params), x) < oracles.pca_log_lik(x, 2) - 2.0
    advance = make_advance(algorithm, lambda key, x: x, batch_size=50)
    keys = LoopKeys(*jax.random.split(jax.random.key(1)))
    state, _ = train_to(advance, keys, jnp.float32(x), start, num_steps)
    return as_float64(state.params)
