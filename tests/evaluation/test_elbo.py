"""Evaluation: which bound it computes, the same noise every time, and bits per dimension."""

import math
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats

from aevb import guides, likelihoods, vae
from aevb.data import Dataset
from aevb.evaluation import elbo
from aevb.evaluation.bits import BITS, DEQUANTIZED_BITS, bits_of, bits_per_dim
from aevb.evaluation.elbo import fixed_input, make_score, some_of
from aevb.likelihoods import LIKELIHOODS
from aevb.losses import sgvb_a, sgvb_b
from aevb.networks import mlp, normal_init
from aevb.vae import VAE

NUM_DIMS, NUM_LATENTS = 4, 2
NUM_DATA = 1200  # more than two EVALUATION_BATCHes, and no multiple of one


def make_vae(name: str) -> VAE:
    """Returns a linear VAE."""
    likelihood = LIKELIHOODS[name](1)
    init = normal_init(0.3)
    heads = {"mean": NUM_LATENTS, "log_var": NUM_LATENTS}
    encoder = mlp(NUM_DIMS, heads, hidden=(), initialization=init)
    decoder_heads = {head: NUM_DIMS * size for head, size in likelihood.heads.items()}
    decoder = mlp(NUM_LATENTS, decoder_heads, hidden=(), initialization=init)
    return vae.make(encoder, decoder, likelihood, num_latents=NUM_LATENTS)


GREY = np.random.default_rng(0).integers(0, 256, (NUM_DATA, NUM_DIMS)).astype(np.uint8)
REAL = np.random.default_rng(1).normal(size=(NUM_DATA, NUM_DIMS)).astype(np.float32)
EVERYTHING = np.arange(NUM_DATA)


def binarize(key: jax.Array, x: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, x.astype(jnp.float32) / 255.0).astype(jnp.float32)


def unchanged(key: jax.Array, x: jax.Array) -> jax.Array:
    return x


class Scored(NamedTuple):
    model: VAE
    params: Any
    score: elbo.Scorer


@cache
def bernoulli() -> Scored:
    """Returns the model and the score for `GREY` data."""
    model = make_vae("bernoulli")
    return Scored(model, model.init(jax.random.key(0)), make_score(model, binarize))


@cache
def gaussian() -> Scored:
    """Returns the model and the score for `REAL` data."""
    model = make_vae("gaussian")
    return Scored(model, model.init(jax.random.key(0)), make_score(model, unchanged))


def bound_of_one(number: int, *, without_kl: bool = False) -> float:
    """Returns the bound of datapoint `number` of the grey data, computed directly with its keys."""
    key = jax.random.fold_in(jax.random.key(elbo.EVALUATION_SEED), number)
    x = binarize(key, jnp.asarray(GREY[number]))
    key = jax.random.fold_in(jax.random.key(elbo.NOISE_SEED), number)
    model, params, _ = bernoulli()
    bound = sgvb_a if without_kl else sgvb_b
    return float(bound(key, model.encode(params, x), model.guide, model.joint(params, x)))


# The score


def test_the_score_is_the_mean_of_sgvb_b_with_each_datapoints_own_keys():
    index = [0, 7, 501, 1199]
    expected = [bound_of_one(number) for number in index]
    score = bernoulli().score(bernoulli().params, GREY, np.asarray(index))
    assert score.mean == pytest.approx(np.mean(expected), rel=1e-5)
    assert score.standard_error == pytest.approx(np.std(expected, ddof=1) / 2.0, rel=1e-4)


def test_the_score_of_a_guide_without_a_kl_is_the_mean_of_sgvb_a():
    model = bernoulli().model._replace(guide=bernoulli().model.guide._replace(kl=None))
    index = [3, 5]
    score = make_score(model, binarize)(bernoulli().params, GREY, np.asarray(index))
    expected = [bound_of_one(number, without_kl=True) for number in index]
    assert score.mean == pytest.approx(np.mean(expected), rel=1e-5)
    assert score.mean != pytest.approx(np.mean([bound_of_one(number) for number in index]))


def test_the_score_without_an_encoder_is_the_bound_of_many_samples_of_the_prior():
    decoder = mlp(NUM_LATENTS, {"mean": NUM_DIMS, "log_var": NUM_DIMS}, hidden=(),
                  initialization=normal_init(0.3))  # fmt: skip
    family = guides.standard_normal_family(guides.Sizes(NUM_LATENTS))
    model = vae.make(
        None, decoder, likelihoods.gaussian, num_latents=NUM_LATENTS, guide_family=family
    )
    params = model.init(jax.random.key(0))
    assert params.keys() == {"decoder"}
    x = jnp.asarray(REAL[3])
    key = jax.random.fold_in(jax.random.key(elbo.NOISE_SEED), 3)
    keys = jax.random.split(key, elbo.PRIOR_SAMPLES)

    @jax.jit
    @jax.vmap
    def log_lik(key: jax.Array) -> jax.Array:
        return model.joint(params, x).log_lik(jax.random.normal(key, (NUM_LATENTS,)))

    log_liks = np.asarray(log_lik(keys), np.float64)
    expected = np.logaddexp.reduce(log_liks) - math.log(elbo.PRIOR_SAMPLES)
    found = make_score(model, unchanged)(params, REAL, np.array([3])).mean
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_the_score_is_unbiased_for_the_exact_bound_of_a_linear_gaussian_model():
    """It agrees within 4 of the standard errors of the noise, with the data fixed."""
    decoder = gaussian().params["decoder"]
    log_var = decoder["log_var"] | {"kernel": jnp.zeros((NUM_LATENTS, NUM_DIMS))}
    params = gaussian().params | {"decoder": decoder | {"log_var": log_var}}
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    model = oracles.LinearGaussian(
        weights=exact["decoder"]["mean"]["kernel"].T,
        bias=exact["decoder"]["mean"]["bias"],
        noise_var=np.exp(exact["decoder"]["log_var"]["bias"]),
    )
    heads = exact["encoder"]
    x = np.asarray(REAL, np.float64)
    means, log_vars = (
        x @ heads[name]["kernel"] + heads[name]["bias"] for name in ("mean", "log_var")
    )
    elbos = np.array([model.elbo(*each) for each in zip(x, means, log_vars, strict=True)])
    each = np.array([gaussian().score(params, REAL, np.array([i])).mean for i in EVERYTHING])
    assert oracles.standard_errors_off(each - elbos, 0.0) < 4
    score = gaussian().score(params, REAL, EVERYTHING)
    assert score.mean == pytest.approx(np.mean(each), rel=1e-5)
    error = np.std(each, ddof=1) / math.sqrt(NUM_DATA)
    assert score.standard_error == pytest.approx(error, rel=1e-4)


def test_a_datapoints_bound_depends_neither_on_the_others_nor_on_their_order():
    def mean(index: np.ndarray) -> float:
        return bernoulli().score(bernoulli().params, GREY, index).mean

    evens_and_odds = [mean(EVERYTHING[::2]), mean(EVERYTHING[1::2])]
    assert mean(EVERYTHING) == pytest.approx(np.mean(evens_and_odds), rel=1e-5)
    assert mean(EVERYTHING[::-1]) == pytest.approx(np.mean(evens_and_odds), rel=1e-5)


def test_the_score_of_one_datapoint_has_no_standard_error():
    assert bernoulli().score(bernoulli().params, GREY, np.array([7])).standard_error is None


def test_a_score_is_bitwise_reproducible():
    first, again = (bernoulli().score(bernoulli().params, GREY, EVERYTHING) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_score_depends_on_the_parameters():
    other = jax.tree.map(lambda leaf: leaf + 0.1, bernoulli().params)
    assert bernoulli().score(other, GREY, EVERYTHING).mean != pytest.approx(
        bernoulli().score(bernoulli().params, GREY, EVERYTHING).mean, rel=1e-4
    )


def test_an_evaluations_binarization_is_drawn_once_for_each_datapoint():
    grey = jnp.full(1000, 128, jnp.uint8)
    first, again, other = (fixed_input(binarize, jnp.int32(i), grey) for i in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 1000))


# The evaluated subset


@pytest.mark.parametrize(("num_data", "limit"), [(50, 20), (20, 20), (5, 20), (21, 20)])
def test_the_evaluated_subset_has_distinct_sorted_indices_and_is_always_the_same(
    num_data: int, limit: int
):
    some = some_of(num_data, limit)
    assert len(some) == min(num_data, limit)
    assert np.all(np.diff(some) > 0)
    assert set(some) <= set(range(num_data))
    np.testing.assert_array_equal(some, some_of(num_data, limit))


def test_the_evaluated_subset_is_uniform_over_the_data():
    """The first ones would not do: the start of a film or of sorted data is not typical."""
    some = some_of(10_000, 1000)
    assert scipy.stats.kstest(some / 10_000, scipy.stats.uniform.cdf).pvalue > 1e-3


# Bits


@pytest.mark.parametrize("num_dims", [1, 560])
def test_the_uniform_density_over_the_unit_cube_costs_8_bits_a_dimension(num_dims: int):
    """The density has 0 nats, and gives each of 256 levels the same probability."""
    assert bits_per_dim(0.0, num_dims=num_dims, levels=256) == 8.0


def test_nats_of_probabilities_give_their_code_length_as_they_are():
    """The code length of two pixels is -log2 of a discretized likelihood, without cell volumes."""
    heads = {"location": jnp.float32([0.4, 0.6]), "log_scale": jnp.float32([-3.0, -1.0])}
    x = jnp.float32([90 / 256, 1 / 256])
    nats = float(likelihoods.discretized_logistic.log_prob(heads, x))
    edges = np.array([[90, 91], [1, 2]]) / 256
    below = scipy.stats.logistic.cdf(edges, [[0.4], [0.6]], np.exp([[-3.0], [-1.0]]))
    expected = -np.mean(np.log2(below[:, 1] - below[:, 0]))
    assert bits_per_dim(nats, num_dims=2) == pytest.approx(expected, rel=1e-5)
    uniform = likelihoods.categorical.log_prob({"logits": jnp.zeros(512)}, x)
    assert bits_per_dim(float(uniform), num_dims=2) == pytest.approx(8.0)


@pytest.mark.parametrize("name", ["discretized_logistic", "gaussian"])
def test_rate_and_distortion_have_bits_that_add_up_to_the_bounds_where_it_has_bits(name: str):
    model = make_vae(name)
    index = np.array([0, 7, 501])
    scored = make_score(model, unchanged)(model.init(jax.random.key(0)), REAL, index)
    parts = [scored.measures.get(f"{part}_bits_per_dim") for part in ("rate", "distortion")]
    if name == "gaussian":
        assert parts == [None, None]
        return
    assert None not in parts
    assert sum(filter(None, parts)) == pytest.approx(bits_per_dim(scored.mean, num_dims=NUM_DIMS))
    assert parts[0] == pytest.approx(scored.measures["rate"] / NUM_DIMS / math.log(2.0))


STDS = (0.01, 0.3, 3.0, 1000.0)  # of one pixel, in levels
NOISE = (np.arange(400) + 0.5) / 400  # of dequantization, in levels: the midpoints of a quadrature


def heads_of(name: str, std: float) -> dict[str, jax.Array]:
    """Returns a pixel's statistics: around the middle, with about this standard deviation."""
    known = {
        "mean": 0.4, "mean_logits": -0.4, "location": 0.4, "logits": std,
        "log_scale": math.log(std / 256), "log_std": math.log(std / 256),
        "log_var": 2.0 * math.log(std / 256), "log_excess_df": 1.0,
    }  # fmt: skip
    likelihood, rng = LIKELIHOODS[name](1), np.random.default_rng(0)
    sizes = dict(likelihood.heads) | dict.fromkeys(likelihood.shared, 1)
    return {
        head: jnp.float32(np.full(1, known[head]) if n == 1 else std * rng.normal(size=n))
        for head, n in sizes.items()
    }


def nats_of_levels(name: str, data_set: Dataset, std: float) -> np.ndarray:
    """Returns log p(x|z) [levels, noise] of each value of a pixel, or of each point of its cell."""
    values = np.arange(2 if data_set.kind == "binary" else 256)[:, None]
    noise = NOISE[None] if data_set.is_dequantized else np.zeros((1, 1))
    x = jnp.float32((values + noise) / (data_set.levels or 1.0))[..., None]
    return np.asarray(log_probs(name, heads_of(name, std), x), np.float64)


@partial(jax.jit, static_argnums=0)
def log_probs(name: str, heads: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Returns log p(x|z) [levels, noise] of pixels [levels, noise, 1]."""
    of_cell = jax.vmap(LIKELIHOODS[name](1).log_prob, in_axes=(None, 0))
    return jax.vmap(of_cell, in_axes=(None, 0))(heads, x)


@pytest.mark.parametrize(
    ("name", "kind", "is_dequantized"),
    [
        (name, kind, is_dequantized)
        for name, make in LIKELIHOODS.items()
        for kind in make(1).kinds
        if kind != "counts"  # which have no bits
        for is_dequantized in ([False, True] if kind == "grey" else [False])
    ],
)
def test_reported_bits_are_of_probabilities_that_sum_to_1_or_are_bounds_of_their_bits(
    name: str, kind: str, is_dequantized: bool
):
    """The bits of dequantized data are compared with the integral of the density over each cell."""
    model, stored = make_vae(name), np.zeros((1, 1), np.uint8)
    levels = 256.0 if kind == "grey" else None
    data_set = Dataset(
        "some", stored, stored, kind, unchanged, None, levels, is_dequantized=is_dequantized
    )
    for std in STDS:
        nats = nats_of_levels(name, data_set, std)
        reported = [bits_of(float(mean), data_set, model) for mean in np.mean(nats, axis=1)]
        if LIKELIHOODS[name](1).levels is not None:
            assert sum(2.0 ** -bits[BITS] for bits in reported) == pytest.approx(1, abs=1e-4)
        elif is_dequantized:
            bounds = np.array([2.0 ** -bits[DEQUANTIZED_BITS] for bits in reported])
            cells = np.mean(np.exp(nats), axis=1) / 256
            assert np.all(bounds <= cells * (1.0 + 1e-4))
            assert np.sum(cells) <= 1.0 + 1e-4
            assert np.sum(bounds) > 0.95 or std != 3.0  # the bound is tight there
        else:
            assert not any(reported)
