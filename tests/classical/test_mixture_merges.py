"""The mergers of hard clusters, against the closed form of each cluster's evidence."""

import enumerated_mixture as brute
import numpy as np
import pytest
from scipy.special import gammaln

from aevb.classical import mixture_data, mixture_merges
from aevb.classical.mixture_merges import SharedPrior

X, KNOWN = brute.tiny_data(), brute.TINY_PRIOR
PRIOR = SharedPrior(*KNOWN)
NO_ERRORS = np.zeros((2, 2))


def test_the_evidence_of_hard_clusters_is_that_of_their_points():
    names = np.array([0, 2, 0, 2, 2, 3, 3])
    clusters = mixture_merges.clusters_of(X, names, NO_ERRORS)
    log_gammas = mixture_merges.log_gammas_of(len(X), PRIOR)
    found = mixture_merges.log_evidence(clusters, PRIOR, log_gammas)
    for value, name in zip(found, (0, 2, 3), strict=True):
        members = X[names == name]
        expected = brute.log_evidence_of_one(KNOWN, members)
        expected += gammaln(KNOWN.alpha + len(members)) - gammaln(KNOWN.alpha)
        assert value == pytest.approx(expected, rel=1e-12)


def test_the_union_of_clusters_is_the_cluster_of_their_points():
    parts = mixture_merges.clusters_of(X, np.array([0, 0, 0, 1, 1, 1, 1]), NO_ERRORS)
    one, other = (mixture_merges.Clusters(*(leaf[i : i + 1] for leaf in parts)) for i in (0, 1))
    expected = mixture_merges.clusters_of(X, np.zeros(7, int), NO_ERRORS)
    for found, known in zip(mixture_merges.union(one, other), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-12)


def test_the_errors_of_points_add_to_the_scatter_of_their_cluster():
    errors = np.array([[0.3, 0.1], [0.1, 0.2]])
    without, found = (
        mixture_merges.clusters_of(X, np.zeros(7, int), e) for e in (NO_ERRORS, errors)
    )
    np.testing.assert_allclose(found.scatters - without.scatters, 7.0 * errors[None])


@pytest.mark.parametrize("learned", [False, True])
def test_mergers_reunite_the_parts_of_clusters(learned: bool):
    """Each of three clusters is cut into four; the level of three clusters is the truth."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(3), 60)
    x = rng.normal(size=(180, 2)) + 8.0 * np.array([[0, 0], [1, 0], [0, 1]])[names]
    corner = 2 * (x[:, 0] > 8.0 * (names == 1)) + (x[:, 1] > 8.0 * (names == 2))
    seeds = mixture_merges.clusters_of(x, 4 * names + corner, NO_ERRORS)
    prior = SharedPrior(1.0, np.zeros(2), 0.01, 2.0, (40.0 if learned else 2.0) * np.eye(2))
    levels = mixture_merges.merge(seeds, prior, learned=learned)
    assert sorted(levels) == list(range(1, 13))
    assert max(levels, key=lambda size: levels[size].score) == 3
    truth = mixture_merges.clusters_of(x, names, NO_ERRORS)
    order = np.lexsort(np.round(levels[3].clusters.means).T)
    expected = np.lexsort(np.round(truth.means).T)
    np.testing.assert_allclose(levels[3].clusters.means[order], truth.means[expected], atol=1e-9)
    assert np.trace(levels[3].prior.inverse_scale) < 10.0


# The unit to which data are recorded


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_unit_of_rounded_data_is_found_and_that_of_real_numbers_is_tiny(dtype: type):
    rng = np.random.default_rng(1)
    real = rng.normal(size=(500, 3))
    x = np.stack([0.1 * np.round(10.0 * real[:, 0]), 1e4 + 0.5 * np.round(real[:, 1]), real[:, 2]])
    found = mixture_data.resolution(x.T.astype(dtype).astype(np.float64))
    np.testing.assert_allclose(found[:2], [0.1, 0.5], rtol=1e-2)
    assert 0.0 < found[2] < 1e-3


def test_equal_values_have_no_unit():
    np.testing.assert_array_equal(mixture_data.resolution(np.full((5, 2), 3.0)), 0.0)
    np.testing.assert_array_equal(mixture_data.resolution(np.ones((1, 2))), 0.0)
