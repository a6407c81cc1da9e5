"""The baselines against SciPy, brute force and exact models."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_data
from scipy import stats

from aevb import data
from aevb.classical import linear_gaussian
from aevb.data import Dataset, Options, synthetic
from aevb.doctor.baselines import STATISTICS, Baseline, baselines, fit_pca
from aevb.likelihoods import LIKELIHOODS

EXACT = ("bernoulli", "continuous_bernoulli", "gaussian", "gaussian_unit_mean", "gaussian_shared",
         "categorical", "poisson")  # fmt: skip


def of(dataset: Dataset, name: str, num_latents: int = 1) -> dict[str, Baseline]:
    likelihood = LIKELIHOODS[name](dataset.train.shape[1])
    found = baselines(dataset, name, likelihood, num_latents=num_latents)
    return {baseline.name: baseline for baseline in found}


def data_for(name: str) -> np.ndarray:
    """Returns x [1000, 3] that a likelihood scores, as the model receives them."""
    random = np.random.default_rng(1)
    kind = LIKELIHOODS[name](3).kinds[0]
    levels = np.clip(random.normal([80, 128, 180], 15, (1000, 3)), 0, 255).astype(np.uint8)
    return {
        "binary": (random.random((1000, 3)) < [0.1, 0.5, 0.8]).astype(np.float64),
        "grey": levels / 256.0,
        "counts": random.negative_binomial(2, [0.1, 0.5, 0.9], (1000, 3)).astype(np.float64),
    }[kind]


def test_every_likelihood_of_the_package_has_statistics():
    assert STATISTICS.keys() == LIKELIHOODS.keys()


@pytest.mark.parametrize("name", STATISTICS)
def test_a_likelihood_without_z_has_the_mean_of_each_column(name: str):
    x, likelihood = data_for(name), LIKELIHOODS[name](3)
    statistics = {
        k: jnp.asarray(v, jnp.float32) for k, v in STATISTICS[name](x, likelihood).items()
    }
    heads = {head: (3 * size,) for head, size in likelihood.heads.items()}
    assert {k: v.shape for k, v in statistics.items()} == heads | dict(likelihood.shared)
    mean = np.mean(x, axis=0)
    # Half an event more in 1001 moves a mean by up to 0.0005.
    np.testing.assert_allclose(likelihood.mean(statistics), mean, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", EXACT)
def test_no_other_statistics_have_a_greater_likelihood(name: str):
    """All statistics move together at random, up and down; only the smoothing may gain."""
    x, likelihood = data_for(name), LIKELIHOODS[name](3)
    with jax.enable_x64(True):
        best = STATISTICS[name](x, likelihood)

        @jax.jit
        def score(moved: dict[str, jax.Array]) -> jax.Array:
            return jnp.mean(jax.vmap(lambda one: likelihood.log_prob(moved, one))(jnp.asarray(x)))

        found = score({k: jnp.asarray(v) for k, v in best.items()})
        for seed in range(4):
            step = 0.05 * np.random.default_rng(seed).normal(size=1000)
            for sign in (-1.0, 1.0):
                moved = {
                    k: jnp.asarray(v + sign * np.resize(step, v.shape)) for k, v in best.items()
                }
                assert score(moved) < found


@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_poisson"])
def test_counts_without_z_have_the_variance_of_each_column(name: str):
    x = data_for(name)
    found = STATISTICS[name](x, LIKELIHOODS[name](3))
    if name == "negative_binomial":
        mean, total = np.exp(found["log_mean"]), np.exp(found["log_total_count"])
        variance = stats.nbinom.var(total, total / (total + mean))
    else:
        rate, zero = np.exp(found["log_rate"]), 1.0 / (1.0 + np.exp(-found["zero_logit"]))
        variance = (1.0 - zero) * rate * (1.0 + zero * rate)
    np.testing.assert_allclose(variance, np.var(x, axis=0), rtol=0.01)


def test_counts_with_less_variance_than_poisson_are_scored_as_poisson():
    x = np.tile([[2.0, 3.0], [4.0, 5.0]], (100, 1)).astype(np.float32)
    found = of(small_data.of_splits(x, x, "counts"), "zero_inflated_poisson")
    expected = stats.poisson.logpmf(x, (x.sum(axis=0) + 0.5) / 201).sum(axis=1).mean()
    for baseline in found.values():
        assert baseline.train.mean == pytest.approx(expected, abs=0.01)


def test_bernoulli_columns_are_those_of_scipy_and_finite_at_unseen_values():
    x = (np.random.default_rng(0).random((300, 6)) < 0.3).astype(np.uint8)
    x[:200, 0], x[200:, 0] = 0, 1
    [baseline] = of(small_data.of_splits(x[:200], x[200:], "binary"), "bernoulli").values()
    probability = (x[:200].sum(axis=0) + 0.5) / 201
    log_probs = stats.bernoulli.logpmf(x, probability).sum(axis=1)
    assert baseline.name == "bernoulli without z"
    assert baseline.train.mean == pytest.approx(log_probs[:200].mean(), rel=1e-5)
    assert baseline.valid
    assert baseline.valid.mean == pytest.approx(log_probs[200:].mean(), rel=1e-5)
    assert baseline.valid.standard_error == pytest.approx(stats.sem(log_probs[200:]), rel=1e-4)


def test_levels_are_scored_by_their_frequencies():
    x = np.random.default_rng(0).integers(0, 4, (400, 2)).astype(np.uint8)
    found = of(small_data.of_array(x, kind="grey"), "discretized_gaussian")["categorical without z"]
    train = x[:280]
    together = (np.bincount(train.ravel(), minlength=256) + 1) / (train.size + 256)
    expected = 0.0
    for column in train.T:
        frequencies = (np.bincount(column, minlength=256) + together) / 281
        assert frequencies.sum() == pytest.approx(1.0)
        expected += np.log(frequencies[column]).mean()
    assert found.train.mean == pytest.approx(expected, rel=1e-5)


def test_densities_of_standardized_data_are_in_the_units_of_the_user():
    x = np.random.default_rng(0).normal(size=(700, 3)) * [1e-3, 1.0, 1e4] + [0.0, 5.0, 1e4]
    found = of(small_data.of_array(x), "gaussian_shared")
    train, valid = x[:490], x[490:560]
    mean, std = train.mean(axis=0), train.std(axis=0)
    gaussian = found["gaussian without z"]
    assert gaussian.train.mean == pytest.approx(
        stats.norm.logpdf(train, mean, std).sum(axis=1).mean(), abs=1e-3
    )
    assert gaussian.valid
    assert gaussian.valid.mean == pytest.approx(
        stats.norm.logpdf(valid, mean, std).sum(axis=1).mean(), abs=0.01
    )
    # of standardized columns one variance is as good as one for each
    assert found["gaussian_shared without z"].train.mean == pytest.approx(
        gaussian.train.mean, abs=1e-3
    )


def test_pca_of_samples_of_its_model_has_their_exact_log_likelihood():
    dataset, options = data.load("synthetic"), Options()
    found = of(dataset, "gaussian", num_latents=2)
    model = synthetic.make_model(options)
    exact = np.asarray(jax.vmap(model.log_prob)(jnp.asarray(dataset.valid)))
    pca = found["probabilistic PCA, Z = 2"]
    assert pca.valid
    assert pca.valid.mean == pytest.approx(exact.mean(), abs=0.1)  # of 39 parameters over 1000
    assert pca.valid.mean > found["gaussian without z"].train.mean + 1.0


@pytest.mark.parametrize("shape", [(60, 5), (20, 30)])
def test_pca_is_the_exact_maximum_for_tall_and_wide_data(shape: tuple[int, int]):
    random = np.random.default_rng(0)
    x = random.normal(size=shape) @ random.normal(size=(shape[1], shape[1])) + 3.0
    found = fit_pca(x, 3)
    assert found
    with jax.enable_x64(True):
        params = linear_gaussian.maximum_likelihood(jnp.asarray(x), 3)
    weights, bias, noise_var = (np.asarray(each) for each in params)
    covariance = weights @ weights.T + noise_var * np.eye(shape[1])
    y = x + random.normal(size=shape)
    expected = stats.multivariate_normal.logpdf(y, bias, covariance)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found.log_probs(y), expected, rtol=1e-8)


def test_pca_is_left_out_where_its_likelihood_has_no_maximum():
    x = np.random.default_rng(0).normal(size=(9, 4))
    flat = np.outer(x[:, 0], np.ones(4))
    assert fit_pca(x, 4) is None
    assert fit_pca(x[:3], 2) is None
    assert fit_pca(flat, 1) is None
    assert fit_pca(x, 3) is not None
    found = of(small_data.of_splits(flat.astype(np.float32)), "gaussian")
    assert [*found] == ["gaussian without z"]
    assert found["gaussian without z"].valid is None


def test_a_likelihood_of_the_user_is_compared_with_independent_columns():
    x = small_data.normals(50, 3)
    own = LIKELIHOODS["gaussian"](3)
    found = baselines(small_data.of_splits(x, x), "own", own, num_latents=1)
    assert [each.name for each in found] == ["gaussian without z", "probabilistic PCA, Z = 1"]


def test_constant_data_have_finite_baselines():
    x = np.zeros((50, 3), np.float32)
    for kind, name in (("real", "gaussian_shared"), ("counts", "negative_binomial")):
        for baseline in of(small_data.of_splits(x, x + 1, kind), name).values():
            assert np.isfinite(baseline.train.mean)


def test_baselines_are_the_same_on_disk_and_in_float64(tmp_path: Path):
    dataset = small_data.of_array(small_data.normals(300, 3))
    found = of(dataset, "gaussian")
    assert of(data.on_disk(dataset, Options(dir=str(tmp_path))), "gaussian") == found
    with jax.enable_x64(True):
        wide = of(dataset, "gaussian")
    for name, baseline in found.items():
        assert wide[name].train.mean == pytest.approx(baseline.train.mean, rel=1e-5)
