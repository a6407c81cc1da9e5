"""Experiments built from a config: which likelihoods accept which data, and whether each learns."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from refusals import refusal

from aevb import experiment, networks, registry, runs
from aevb.algorithms.base import Batch, TrainState
from aevb.config import default_config, validate, with_values
from aevb.data import Dataset, preprocessing
from aevb.data.kinds import KINDS
from aevb.errors import UserError
from aevb.evaluation import elbo
from aevb.evaluation.elbo import Score
from aevb.experiment import Experiment
from aevb.likelihoods import LIKELIHOODS
from aevb.training import loop
from aevb.types import PyTree

NUM_DATA, NUM_DIMS = 40, 6
GREY = [name for name, likelihood in LIKELIHOODS.items() if "grey" in likelihood(1).kinds]


def dataset(kind: str, grey_scale: float = 256.0) -> Dataset:
    """Returns a dataset of two clusters, stored as each kind of data is."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(size=(2, NUM_DIMS))[rng.integers(2, size=NUM_DATA)]
    noisy = centres + 0.05 * rng.normal(size=centres.shape)
    stored = {
        "binary": (noisy > 0.5).astype(np.uint8),
        "grey": np.clip(256 * noisy, 0, 255).astype(np.uint8),
        "unit": np.clip(noisy, 0, 1).astype(np.float32),
        "real": noisy.astype(np.float32),
        "counts": rng.poisson(20 * centres).astype(np.float32),
    }[kind]
    scale = grey_scale if kind == "grey" else 1.0
    return Dataset(
        name=f"some_{kind}",
        train=stored,
        test=stored[:10],
        kind=kind,
        preprocess=lambda key, x: x.astype(jnp.float32) / jnp.float32(scale),
        image_shape=None,
        levels=grey_scale if kind == "grey" else None,
    )


def build(name: str, data_set: Dataset, **model: Any) -> Experiment:
    config = default_config()
    config.model.likelihood = name
    config.model.hidden = ()
    config.model.update(model)
    config.train.batch_size = NUM_DATA
    return experiment.build(validate(config), data_set)


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(LIKELIHOODS, KINDS)))
def test_a_likelihood_is_refused_for_data_that_it_cannot_score(name: str, kind: str):
    """The message names all likelihoods that fit, and the setting for choosing other data."""
    if kind in LIKELIHOODS[name](1).kinds:
        assert build(name, dataset(kind)).vae.levels == LIKELIHOODS[name](1).levels
        return
    with pytest.raises(UserError) as refusal:
        build(name, dataset(kind))
    words = str(refusal.value)
    for part in (name, f"the {kind} data of some_{kind}", "config.data.binarization"):
        assert part in words
    offered = words.partition("; use ")[2].partition(",")[0].split(" or ")
    fitting = {other for other, likelihood in LIKELIHOODS.items() if kind in likelihood(1).kinds}
    assert set(offered) == fitting


def test_the_likelihoods_of_each_kind_of_data_are_those_listed_here():
    """The expected table is written out, so that a kind claimed by mistake is found."""
    by_kind = {
        kind: {name for name, likelihood in LIKELIHOODS.items() if kind in likelihood(1).kinds}
        for kind in ("binary", "unit", "real", "counts")
    }
    assert by_kind == {
        "binary": {"bernoulli"},
        "unit": {
            *("continuous_bernoulli", "gaussian", "gaussian_unit_mean", "gaussian_shared"),
            "student_t",
        },
        "real": {"gaussian", "gaussian_shared", "student_t"},
        "counts": {
            *("poisson", "negative_binomial"),
            *("zero_inflated_poisson", "zero_inflated_negative_binomial"),
        },
    }
    assert not any("grey" in LIKELIHOODS[name](1).kinds for name in by_kind["binary"])


@pytest.mark.parametrize("name", GREY)
def test_likelihoods_of_grey_levels_are_refused_for_data_on_another_scale(name: str):
    """Their samples and means would be k / 256 where the data are k / 255."""
    if LIKELIHOODS[name](1).levels is None:
        build(name, dataset("grey", 255.0))
        return
    with pytest.raises(UserError, match=rf"{name}.*k / 256.*k / 255.*grey_scale=256"):
        build(name, dataset("grey", 255.0))
    with pytest.raises(UserError, match=rf"{name}.*k / 256.*some_grey.*levels=256"):
        build(name, dataset("grey")._replace(levels=None))


@pytest.mark.parametrize("name", slow_but(["categorical"], LIKELIHOODS))
def test_training_raises_the_bound_of_every_likelihood(name: str):
    """Two hundred steps raise the bound by far more than its noise, and all values stay finite."""
    data_set = dataset(LIKELIHOODS[name](1).kinds[0])
    built = build(name, data_set)
    index = jnp.arange(NUM_DATA)
    x = jax.vmap(data_set.preprocess, in_axes=(None, 0))(
        jax.random.key(0), jnp.asarray(data_set.train)
    )

    @jax.jit
    def bounds_of(keys: jax.Array) -> jax.Array:
        def step(state: TrainState, key: jax.Array) -> tuple[TrainState, jax.Array]:
            state, metrics = built.algorithm.update(key, state, Batch(x, index))
            return state, metrics["objective"]

        return jax.lax.scan(step, built.algorithm.init(jax.random.key(0)), keys)[1]

    bounds = np.asarray(bounds_of(jax.random.split(jax.random.key(1), 200)), np.float64)
    assert np.all(np.isfinite(bounds))
    first, last = bounds[:20], bounds[-20:]
    standard_error = np.hypot(np.std(first), np.std(last)) / np.sqrt(20)
    assert np.mean(last) > np.mean(first) + 4 * standard_error


def at_zero_weights(built: Experiment) -> jax.Array:
    """Returns E[x|z] of the first parameters with all kernels replaced by zeros."""
    params = built.vae.init(jax.random.key(0))
    biases = jax.tree.map(lambda leaf: jnp.where(leaf.ndim == 1, leaf, 0.0), params)
    return built.vae.mean(biases, jnp.ones(2))


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "gaussian_shared"])
def test_a_model_that_starts_at_the_mean_has_that_of_the_training_data(name: str):
    data_set = dataset(LIKELIHOODS[name](1).kinds[0])
    scale = 256.0 if data_set.kind == "grey" else 1.0
    mean = np.mean(data_set.train / scale, axis=0)
    mean = mean if name == "gaussian_shared" else np.clip(mean, 1e-3, 1.0 - 1e-3)
    found = at_zero_weights(build(name, data_set, init_at_mean=True))
    np.testing.assert_allclose(found, mean, atol=1e-5)
    assert np.max(np.abs(at_zero_weights(build(name, data_set)) - mean)) > 0.05


@pytest.mark.parametrize("name", ["categorical", "poisson"])
def test_a_likelihood_without_heads_at_a_mean_is_refused_to_start_there(name: str):
    line = refusal(lambda: build(name, dataset(LIKELIHOODS[name](1).kinds[0]), init_at_mean=True))
    assert f"config.model.likelihood is {name!r}, whose outputs cannot start at a mean" in line
    assert "set config.model.init_at_mean=False (it is for bernoulli, " in line


def test_a_network_whose_heads_have_no_bias_is_refused_to_start_at_the_mean(
    monkeypatch: pytest.MonkeyPatch,
):
    def without_biases(num_inputs: int, heads: Any, **how: Any) -> networks.Network:
        return networks.Network(lambda key: {"w": jnp.zeros(3)}, lambda params, x: {})

    architecture = networks.Architecture(networks.mlp, without_biases)
    monkeypatch.setitem(networks.NETWORKS, "mlp", architecture)
    line = refusal(lambda: build("bernoulli", dataset("binary"), init_at_mean=True))
    assert "config.model.network is 'mlp', which cannot start there" in line
    assert "the head 'logits' have no 'bias'" in line


@pytest.mark.parametrize("name", ["gaussian", "gaussian_shared"])
def test_the_limit_of_log_variances_holds_for_the_guide_and_the_likelihood(name: str):
    """With variances of at least exp(-3), no density exceeds exp(3/2) / sqrt(2 pi) a dimension."""
    vae = build(name, dataset("real"), log_var_limit=3.0).vae
    params = jax.tree.map(lambda leaf: 1e3 * leaf, vae.init(jax.random.key(0)))
    stats, z = vae.encode(params, jnp.ones(NUM_DIMS)), jnp.ones(2)
    assert np.all((np.abs(stats.log_var) > 2.0) & (np.abs(stats.log_var) <= 3.0))
    log_lik = vae.joint(params, vae.mean(params, z)).log_lik(z)
    highest = 0.5 * NUM_DIMS * (3.0 - np.log(2 * np.pi))
    assert highest - 6.0 * NUM_DIMS <= log_lik <= highest + 1e-4


DISCRETE = [name for name in GREY if LIKELIHOODS[name](1).levels is not None]


def dequantized() -> Dataset:
    plain = dataset("grey")
    noisy = preprocessing.dequantized(plain.preprocess)
    return plain._replace(preprocess=noisy, is_dequantized=True)


@pytest.mark.parametrize("name", DISCRETE)
def test_a_likelihood_of_levels_is_refused_dequantized_data(name: str):
    with pytest.raises(UserError, match=rf"dequantize is True.*{name}.*dequantize=False"):
        build(name, dequantized())


def reported_bits(name: str, data_set: Dataset) -> dict[str, Any]:
    """Returns what a run's summary has besides the bounds, for bounds of N nats on N datapoints."""

    def score(params: PyTree, data: np.ndarray, index: np.ndarray) -> Score:
        return Score(float(len(index)), 0.1)

    found = runs._bounds(score, (), build(name, data_set), data_set.splits)
    return {column: value for column, value in found.items() if "_bound" not in column}


@pytest.mark.parametrize("name", GREY)
def test_a_run_reports_bits_of_probabilities_and_bounds_of_bits_of_dequantized_data(name: str):
    """A density's nats include the volume of a level, 8 bits a pixel; a probability's do not."""
    bits = {split: -n / NUM_DIMS / np.log(2.0) for split, n in (("train", NUM_DATA), ("test", 10))}
    if name in DISCRETE:
        expected = {f"{split}_bits_per_dim": value for split, value in bits.items()}
        assert reported_bits(name, dataset("grey")) == pytest.approx(expected)
        return
    assert reported_bits(name, dataset("grey")) == {}
    expected = {f"{split}_dequantized_bits_per_dim": 8.0 + value for split, value in bits.items()}
    assert reported_bits(name, dequantized()) == pytest.approx(expected)


ALGORITHMS = {
    "aevb": {},
    "wake_sleep": {},
    "reweighted_wake_sleep": {"num_samples": 5},
    "mcem": {},
    "full_vb": {"param_prior_std": 1.0},
}


def test_every_algorithm_is_in_the_table_of_these_tests():
    assert set(registry.NAMES["algorithm"]) == set(ALGORITHMS)


def built_with(name: str) -> Experiment:
    """Builds an experiment on real data with the algorithm of this name."""
    config = with_values(
        default_config(),
        {
            "model.likelihood": "gaussian",
            "model.hidden": (),
            "train.batch_size": 10,
            "algorithm.name": name,
            **{f"algorithm.{option}": value for option, value in ALGORITHMS[name].items()},
        },
    )
    return experiment.build(validate(config), dataset("real"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_is_built_by_name_and_keeps_the_shapes_and_types_of_its_state(name: str):
    built = built_with(name)
    key = jax.random.key(0)
    state = jax.eval_shape(built.algorithm.init, key)
    batch = Batch(jnp.zeros((10, NUM_DIMS)), jnp.arange(10))
    after, metrics = jax.eval_shape(built.algorithm.update, key, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.leaves(after) == jax.tree.leaves(state)
    assert metrics["objective"].shape == ()
    params = jax.eval_shape(built.algorithm.vae_params, state.params)
    assert built.vae.has_encoder == ("encoder" in params)


@pytest.mark.parametrize("name", slow_but(["aevb"], ALGORITHMS))
def test_every_algorithm_raises_the_bound_of_the_data(name: str):
    """All algorithms share the loop and the score, so that their curves can be compared."""
    built = built_with(name)
    data_set = built.dataset
    algorithm = built.algorithm
    advance = loop.make_advance(algorithm, data_set.preprocess, batch_size=10)
    keys = loop.LoopKeys(*jax.random.split(jax.random.key(0)))
    score = elbo.make_score(built.vae, data_set.preprocess)

    def score_of(state: TrainState) -> float:
        params = algorithm.vae_params(state.params)
        return score(params, data_set.train, np.arange(NUM_DATA)).mean

    state = jax.jit(algorithm.init)(jax.random.key(1))
    before = score_of(state)
    state, metrics = loop.train_to(advance, keys, jnp.asarray(data_set.train), state, 400)
    assert np.isfinite(metrics["objective"])
    assert score_of(state) > before + 3.0  # nats, of NUM_DIMS dimensions
