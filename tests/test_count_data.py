"""Counts of a known model with one latent variable: AEVB comes close to their exact log p(x)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats

from aevb import guides, likelihoods, networks, optimizers, vae
from aevb.algorithms import aevb
from aevb.building.models import counts_location
from aevb.data.preprocessing import unchanged
from aevb.evaluation import elbo
from aevb.likelihoods import LIKELIHOODS
from aevb.losses import BOUNDS
from aevb.networks import Network
from aevb.training.loop import LoopKeys, make_advance, train_to
from aevb.vae import VAE

NUM_TRAIN, NUM_TEST = 2000, 1000
BIAS = np.log(np.array([0.5, 2.0, 5.0, 15.0, 60.0]))  # log means at z = 0
WEIGHTS = np.array([0.8, -0.5, 0.4, -0.3, 0.2])  # by which z changes them
TOTAL_COUNTS = np.array([2.0, 3.0, 5.0, 10.0, 20.0])
ZERO_SHARE = 0.2

Law = Callable[[np.ndarray], Any]  # means [..., D] -> the scipy.stats law of counts

LAWS: dict[str, Law] = {
    "poisson": scipy.stats.poisson,
    "negative_binomial": lambda mean: scipy.stats.nbinom(
        TOTAL_COUNTS, TOTAL_COUNTS / (TOTAL_COUNTS + mean)
    ),
}


def law_of(name: str) -> Law:
    return LAWS[name.removeprefix("zero_inflated_")]


def zero_share(name: str) -> float:
    return ZERO_SHARE if name.startswith("zero_inflated") else 0.0


def simulated(name: str) -> np.ndarray:
    """Returns counts x [NUM_TRAIN + NUM_TEST, D] of the model."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(NUM_TRAIN + NUM_TEST, 1))
    x = law_of(name)(np.exp(BIAS + z * WEIGHTS)).rvs(random_state=rng)
    return np.where(rng.uniform(size=x.shape) < zero_share(name), 0.0, x)


def exact_log_prob(name: str, x: np.ndarray) -> float:
    """Returns the mean of log p(x) over x [N, D], by quadrature over z."""
    share = zero_share(name)

    def log_prob(point: np.ndarray) -> float:
        def log_joint(z: np.ndarray) -> np.ndarray:
            drawn = law_of(name)(np.exp(BIAS + z * WEIGHTS)).pmf(point)
            log_lik = np.sum(np.log(share * (point == 0.0) + (1.0 - share) * drawn), axis=1)
            return log_lik + scipy.stats.norm.logpdf(z[:, 0])

        with np.errstate(divide="ignore"):  # a probability may be 0 far from the posterior
            return oracles.quadrature_log_prob(log_joint, 1, points=401)

    return float(np.mean([log_prob(point) for point in x]))


def model_of(name: str, train: np.ndarray) -> VAE:
    """Returns the family of the model, with an encoder of one hidden layer."""
    logs, num_dims = np.log1p(train), train.shape[1]
    mean, scale = logs.mean(axis=0).tolist(), logs.std(axis=0).tolist()
    likelihood = LIKELIHOODS[name](num_dims, location=counts_location(mean, num_dims))
    family = guides.diag_normal_family(guides.Sizes(1))
    init = networks.normal_init(0.01)
    encoder = networks.mlp(num_dims, family.heads, hidden=(32,), initialization=init)
    heads = {head: num_dims * size for head, size in likelihood.heads.items()}
    return vae.make(
        networks.of_counts(encoder, mean, scale),
        networks.mlp(1, heads, hidden=(), initialization=init, constants=likelihood.shared),
        likelihood,
        num_latents=1,
        guide_family=family,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in LIKELIHOODS if LIKELIHOODS[name](1).kinds == ("counts",)]
)
def test_aevb_comes_within_a_tenth_of_a_nat_of_the_log_prob_of_counts(name: str):
    x = simulated(name)
    train, test = x[:NUM_TRAIN], x[NUM_TRAIN:].astype(np.float32)
    model = model_of(name, train)
    with jax.numpy_dtype_promotion("standard"):  # which optax's Adam needs
        optimizer = optimizers.make("adam", 0.01)
    algorithm = aevb.make(model, optimizer, bound=BOUNDS["sgvb_b"])
    advance = make_advance(algorithm, unchanged, batch_size=100)
    keys = LoopKeys(*jax.random.split(jax.random.key(0)))
    state = jax.jit(algorithm.init)(jax.random.key(1))
    score, exact = elbo.make_score(model, unchanged), exact_log_prob(name, test)
    assert score(state.params, test, np.arange(NUM_TEST)).mean < exact - 1.0
    with jax.numpy_dtype_promotion("standard"):
        state, _ = train_to(advance, keys, jnp.float32(train), state, 2500)
    found = score(state.params, test, np.arange(NUM_TEST)).mean
    assert exact - 0.1 < found < exact + 0.05  # a fitted model can exceed it by chance


def identity(num_dims: int) -> Network:
    """Returns a network whose head `x` is its input."""
    return Network(lambda key: jnp.ones(num_dims), lambda params, x: {"x": params * x})


def test_the_encoder_of_counts_receives_their_standardized_logs():
    x = np.array([0.0, 3.0, 1e6])
    encoder = networks.of_counts(identity(3), mean=(0.5, 1.0, 12.0), scale=(1.0, 2.0, 0.5))
    received = encoder.apply(encoder.init(jax.random.key(0)), jnp.float32(x))["x"]
    assert received.dtype == jnp.float32
    np.testing.assert_allclose(
        received, (np.log1p(x) - [0.5, 1.0, 12.0]) / [1.0, 2.0, 0.5], rtol=1e-5
    )
    of_all = networks.of_counts(identity(3), mean=(1.0,), scale=(2.0,))
    received = of_all.apply(of_all.init(jax.random.key(0)), jnp.float32([-5.0, 0.0, 1.0]))["x"]
    np.testing.assert_allclose(received, (np.log1p([0.0, 0.0, 1.0]) - 1.0) / 2.0, rtol=1e-6)


def test_rates_of_counts_start_at_the_geometric_mean_of_the_data():
    """It is that of 1 + x, less 1; a column of zeros starts at a small rate, not at 0."""
    x = np.random.default_rng(0).poisson([0.1, 5.0, 1000.0], size=(4000, 3))
    location = np.array(counts_location(np.mean(np.log1p(x), axis=0).tolist(), 3))
    rates = np.exp(location)
    np.testing.assert_allclose(rates, scipy.stats.gmean(x + 1.0) - 1.0, rtol=1e-6)
    np.testing.assert_allclose(rates, [0.1, 5.0, 1000.0], rtol=0.3)
    found = likelihoods.poisson(3, location=tuple(location)).mean({"log_rate": jnp.zeros(3)})
    np.testing.assert_allclose(found, rates, rtol=1e-5)
    assert counts_location((0.0,), 2) == pytest.approx([np.log(1e-4)] * 2, abs=1e-3)
