"""The fitted Gaussian mixture as users call it: in float32, on data of any scale."""

import itertools

import enumerated_mixture as brute
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import integrate
from sklearn.mixture import BayesianGaussianMixture

from aevb.classical import (
    gaussian_mixture,
    mixture_data,
    mixture_merges,
    mixture_model,
    mixture_search,
)
from aevb.classical.families import Dirichlet
from aevb.classical.gaussian_mixture import Fit, make_prior
from aevb.classical.mixture_model import Parameters, Prior

IN_FLOAT32 = True
KEY = jax.random.key(0)
NUM_POINTS = 300
CORNERS = np.array([[0.0, 0.0], [6.0, 1.0], [-2.0, 6.0], [7.0, 8.0], [-7.0, -3.0]])


def simulated(num_components: int, num_points: int = NUM_POINTS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    names = rng.integers(num_components, size=num_points)
    stds = np.array([[1.0, 1.0], [0.5, 1.5], [1.0, 0.3], [0.7, 0.7], [1.5, 0.5]])[names]
    return CORNERS[names] + stds * rng.normal(size=(num_points, 2))


def choose(x: np.ndarray, prior: brute.Prior | None = None) -> Fit:
    """Fits up to 6 components to x [NUM_POINTS, 2] by one compiled program of 18 runs."""
    assert x.shape == (NUM_POINTS, 2)
    known = None if prior is None else make_prior(*prior)
    return gaussian_mixture.fit(KEY, x, num_components=range(1, 7), prior=known, num_restarts=3)


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return choose(simulated(3))


FAR_APART = brute.Prior(2.0, np.zeros(1), 0.02, 4.0, np.array([[0.5]]))


def far_apart() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.array([[-50.0]] * 3 + [[0.0]] * 2 + [[50.0]] * 3) + 0.3 * rng.normal(size=(8, 1))


@pytest.fixture(scope="module")
def fitted_far_apart() -> Fit:
    """Returns the fit in float64 to components that are far apart."""
    prior = make_prior(*FAR_APART)
    with jax.enable_x64(True):
        return gaussian_mixture.fit(KEY, far_apart(), num_components=3, prior=prior, tolerance=1e-9)


KNOWN = brute.Prior(1.0, np.array([0.5, -0.5]), 0.7, 3.5, np.array([[1.0, 0.2], [0.2, 2.0]]))


# The number of components


@pytest.mark.slow
@pytest.mark.parametrize("num_components", [1, 2, 3, 5])
def test_the_true_number_of_components_is_chosen(num_components: int):
    found = choose(simulated(num_components))
    assert found.num_components == num_components
    assert found.converged
    distances = np.linalg.norm(
        np.asarray(found.means)[:, None] - CORNERS[None, :num_components], axis=2
    )
    assert sorted(np.argmin(distances, axis=1)) == list(range(num_components))
    assert np.max(np.min(distances, axis=1)) < 0.5


@pytest.mark.slow
def test_candidates_rank_as_by_the_enumerated_evidence():
    """Pairs are compared if their evidences differ by a nat; each score is below its evidence."""
    rng = np.random.default_rng(3)
    num_apart = 0
    with jax.enable_x64(True):
        for centres in ([0.0] * 8, [-6.0] * 4 + [6.0] * 4, [-8.0] * 3 + [0.0] * 3 + [8.0] * 3):
            x = np.array(centres)[:, None] + rng.normal(size=(len(centres), 1))
            known = brute.Prior(1.0, np.zeros(1), 0.05, 2.0, np.eye(1))
            found = gaussian_mixture.fit(
                KEY, x, num_components=(1, 2, 3), prior=make_prior(*known), tolerance=1e-9
            )
            evidences = {k: brute.enumerate_all(known, x, k).log_evidence for k in (1, 2, 3)}
            assert all(found.scores[k] < evidences[k] + 1e-9 for k in evidences)
            assert evidences[found.num_components] > max(evidences.values()) - 1.0
            for one, other in itertools.permutations(evidences, 2):
                if evidences[one] > evidences[other] + 1.0:
                    num_apart += 1
                    assert found.scores[one] > found.scores[other]
    assert num_apart >= 3


@pytest.mark.slow
def test_far_apart_components_have_modes_of_equal_evidence_and_the_bound_sees_one(
    fitted_far_apart: Fit,
):
    """With log K! for the K! modes, the score is within 0.01 nats of the evidence."""
    found = fitted_far_apart
    gap = brute.enumerate_all(FAR_APART, far_apart(), 3).log_evidence - found.bound
    assert np.log(6.0) < gap < np.log(6.0) + 0.01
    assert found.scores[3] == pytest.approx(found.bound + np.log(6.0))


@pytest.mark.slow
def test_an_empty_component_has_no_modes_of_its_own():
    """Six components of which four are empty have 6!/4! modes; the only candidate is still kept."""
    x = simulated(2)
    prior = gaussian_mixture.scikit_learn_prior(x, 6)
    found = gaussian_mixture.fit(KEY, x, num_components=6, prior=prior, num_restarts=18)
    counts = np.asarray(found.parameters.weights.concentration) - 1.0 / 6.0
    assert np.sum(counts < 1.0) == 4
    assert found.scores[6] == pytest.approx(found.bound + np.log(30.0))
    assert found.num_components == 6


# The default prior. These fits share one compiled program.


def row(counts: list[int], apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns clusters of standard deviation 1 in the plane, in a row, and their names."""
    names = np.repeat(np.arange(len(counts)), counts)
    x = np.random.default_rng(7).normal(size=(len(names), 2))
    x[:, 0] += apart * names
    return x, names


def turned(x: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Makes the clusters ten times as long as wide, each in a direction of its own."""
    angles = 1.0 * names
    along, across = 10.0 * x[:, 0] - 10.0 * 40.0 * names, x[:, 1]
    rotated = [np.cos(angles) * along - np.sin(angles) * across,
               np.sin(angles) * along + np.cos(angles) * across]  # fmt: skip
    return np.stack(rotated, axis=1) + 40.0 * np.stack([names, names % 2], axis=1)


@pytest.mark.parametrize(
    ("counts", "apart"),
    [([300], 0.0), ([75] * 4, 10.0), ([100] * 3, 30.0), ([270, 15, 15], 10.0), ([60] * 5, 6.0)],
    ids=["one", "four", "far apart", "unequal", "near"],
)
def test_clear_clusters_are_counted_right(counts: list[int], apart: float):
    x, names = row(counts, apart)
    found = choose(x)
    assert found.num_components == len(counts)
    order = np.argsort(found.means[:, 0])
    clusters = np.argsort(order)[np.asarray(gaussian_mixture.predict(found, x))]
    assert np.mean(clusters == names) > 0.99
    assert np.all(np.diff(found.bounds) > -1e-2)


@pytest.mark.parametrize("kind", ["nested", "elongated", "rounded"])
def test_clusters_of_other_shapes_are_counted_right(kind: str):
    x, names = row([150, 150], 0.0) if kind == "nested" else row([100] * 3, 40.0)
    if kind == "nested":
        x = np.where(names[:, None] == 1, 10.0 * x, x)
    elif kind == "elongated":
        x = turned(x, names)
    else:
        x = np.round(x)  # whole standard deviations: many datapoints are equal
    assert choose(x).num_components == len(np.unique(names))


def test_an_outlier_becomes_a_component_and_moves_no_other():
    """The shift of the means is compared with their standard errors, 0.1."""
    x, names = row([100, 100, 99, 1], 10.0)
    x[-1] = 1e6
    found = choose(x)
    assert found.num_components == 4
    means = found.means[np.argsort(found.means[:, 0])]
    for name in range(3):
        np.testing.assert_allclose(means[name], np.mean(x[names == name], axis=0), atol=0.01)


@pytest.mark.parametrize(
    ("scales", "origin"),
    [((1e6, 1e6), (0.0, 0.0)), ((1e-6, 1e-6), (0.0, 0.0)), ((1e6, 1e-6), (-1e6, 1e-6))],
)
def test_the_default_fit_is_equivariant(scales: tuple, origin: tuple):
    x, _ = row([75] * 4, 10.0)
    fits = choose(x), choose(np.array(origin) + np.array(scales) * x)
    orders = [np.argsort(found.means[:, 0]) for found in fits]
    expected, found = (
        (np.asarray(its.means)[order], np.asarray(its.covariances)[order])
        for its, order in zip(fits, orders, strict=True)
    )
    np.testing.assert_allclose((found[0] - origin) / scales, expected[0], atol=1e-3)
    np.testing.assert_allclose(found[1] / np.outer(scales, scales), expected[1], atol=1e-3)
    jacobian = -len(x) * np.sum(np.log(scales))
    assert fits[1].bound == pytest.approx(fits[0].bound + jacobian, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num", "size", "num_dims", "apart"),
    [(1, 100, 20, 0.0), (20, 15, 3, 30.0), (20, 50, 1, 10.0), (8, 100, 5, 6.0)],
)
def test_the_default_finds_the_number_without_candidates(
    num: int, size: int, num_dims: int, apart: float
):
    """The clusters are on a line, or on a grid with three to a side in up to three dimensions.

    In the other dimensions there are none, which a standard deviation as scale would hide.
    """
    rng = np.random.default_rng(11)
    places = rng.permutation(num)
    grid = np.stack([places // 3**d % 3 for d in range(min(num_dims, 3))], axis=1)
    centres = np.zeros((num, num_dims))
    centres[:, : grid.shape[1]] = places[:, None] if num_dims == 1 else grid
    x = np.repeat(apart * centres, size, axis=0) + rng.normal(size=(num * size, num_dims))
    assert gaussian_mixture.fit(KEY, x).num_components == num


@pytest.mark.slow
def test_the_search_reaches_the_bound_of_a_start_at_the_truth():
    """Twelve clusters in ten dimensions, of which k-means takes several for one."""
    rng = np.random.default_rng(5)
    names = np.repeat(np.arange(12), 40)
    x = 3.0 * rng.normal(size=(12, 10))[names] + rng.normal(size=(480, 10))
    found = gaussian_mixture.fit(KEY, x)
    points, dtype = mixture_data.points(x)
    problem = mixture_search.problem_of(points, dtype, None)
    assert problem.rounding is not None
    truth = mixture_merges.clusters_of(problem.points, names, problem.rounding)
    prior = mixture_merges.learn(truth, problem.prior, 10)
    start = {12: mixture_merges.Level(truth, prior, 0.0)}
    (known,) = mixture_search.ascend(problem, [start], [12], num_sweeps=200, tolerance=1e-3)
    assert found.num_components == 12
    assert found.bound > known.bounds[-1] - 0.5


# The fit


@pytest.mark.slow
def test_the_bound_is_that_of_the_data_as_given():
    """The oracle is the plain model in float64, at the fitted parameters and their best q(z)."""

    @jax.jit
    def bound(parameters: Parameters, prior: Prior, x: jax.Array) -> jax.Array:
        active = jnp.ones(3, bool)
        log_joints = mixture_model.log_joint(parameters, active)
        responsibilities, _ = mixture_model.assign(log_joints, x.T)
        q = mixture_model.MeanField(responsibilities.T, parameters)
        return mixture_model.bound(q, x, prior, active)

    fitted = choose(simulated(3), KNOWN)
    assert fitted.num_components == 3
    parameters, prior = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (fitted.parameters, fitted.prior)
    )
    with jax.enable_x64(True):
        expected = float(bound(parameters, prior, simulated(3)))
    assert fitted.bound == pytest.approx(expected, rel=1e-5)
    assert fitted.bound == fitted.bounds[-1]
    assert np.all(np.diff(fitted.bounds) > -1e-2)


def test_another_unit_and_origin_change_the_bound_only_by_the_jacobian(fitted: Fit):
    """The test is in float32, at an origin where the raw data would have no digit left."""
    scales, origin = np.array([1000.0, 0.001]), np.array([1e9, -50.0])
    x = simulated(3)
    moved = choose(origin + scales * x)
    jacobian = -len(x) * np.sum(np.log(scales))
    assert moved.bound == pytest.approx(fitted.bound + jacobian, abs=0.1)
    np.testing.assert_allclose(moved.weights, fitted.weights, atol=1e-3)
    at = x[:20]
    scores = gaussian_mixture.score_samples(moved, origin + scales * at)
    expected = gaussian_mixture.score_samples(fitted, at) - np.sum(np.log(scales))
    np.testing.assert_allclose(scores, expected, atol=5e-3)


@pytest.mark.slow  # it compiles its own program
def test_under_scikit_learns_prior_the_fit_is_scikit_learns():
    x = simulated(3)
    prior = gaussian_mixture.scikit_learn_prior(x, 3)
    fitted = gaussian_mixture.fit(KEY, x, num_components=3, prior=prior, tolerance=1e-5)
    theirs = BayesianGaussianMixture(
        n_components=3,
        weight_concentration_prior_type="dirichlet_distribution",
        reg_covar=0.0,
        tol=1e-8,
        max_iter=500,
        random_state=0,
    ).fit(x)
    mean, mean_precision, (df, inverse_scale) = prior.component
    assert float(prior.concentration) == pytest.approx(theirs.weight_concentration_prior_)
    assert (float(mean_precision), float(df)) == (1.0, 2.0)
    np.testing.assert_allclose(mean, theirs.mean_prior_, rtol=1e-5)
    np.testing.assert_allclose(inverse_scale, theirs.covariance_prior_, rtol=1e-5)

    order = np.argsort(np.asarray(fitted.means)[:, 0])
    theirs_order = np.argsort(theirs.means_[:, 0])
    np.testing.assert_allclose(fitted.means[order], theirs.means_[theirs_order], atol=1e-2)
    np.testing.assert_allclose(fitted.weights[order], theirs.weights_[theirs_order], atol=1e-3)
    np.testing.assert_allclose(
        fitted.covariances[order], theirs.covariances_[theirs_order], atol=2e-2
    )
    names = np.asarray(gaussian_mixture.predict(fitted, x))
    np.testing.assert_array_equal(
        np.argsort(order)[names], np.argsort(theirs_order)[theirs.predict(x)]
    )


def test_the_best_of_the_restarts_is_kept():
    runs = [candidate(2, [-5.0, -3.0]), candidate(2, [-4.0, -2.0]), candidate(2, [-3.5, -3.0])]
    best, scores = gaussian_mixture._choose(runs)
    assert best is runs[1]
    assert scores == {2: pytest.approx(-2.0 + np.log(2.0))}


def candidate(size: int, bounds: list[float]) -> mixture_search.Candidate:
    component = make_prior(*KNOWN).component
    leaves = jax.tree.map(lambda leaf: np.stack([leaf] * size), component)
    parameters = Parameters(Dirichlet(jnp.ones(size)), leaves)
    return mixture_search.Candidate(parameters, make_prior(*KNOWN), 0, tuple(bounds), True)


# New points


@pytest.mark.slow
def test_the_predictive_density_integrates_to_one(fitted_far_apart: Fit):
    def density(points: np.ndarray) -> np.ndarray:
        return np.exp(gaussian_mixture.score_samples(fitted_far_apart, points[:, None]))

    with jax.enable_x64(True):
        assert integrate(density, -300.0, 300.0) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_the_predictive_of_one_component_is_the_ratio_of_evidences():
    x, new = simulated(1), np.array([[1.0, -2.0]])
    found = choose(x, KNOWN)
    assert found.num_components == 1
    before, after = (brute.log_evidence_of_one(KNOWN, d) for d in (x, np.concatenate([x, new])))
    assert float(gaussian_mixture.score_samples(found, new)[0]) == pytest.approx(
        after - before, abs=1e-4
    )


def test_component_probabilities_are_those_of_the_predictive_density(fitted: Fit):
    new = np.array([[0.0, 0.0], [3.0, 0.5], [2.0, 3.0], [100.0, 100.0]])
    found = np.asarray(gaussian_mixture.predict_proba(fitted, new), np.float64)
    np.testing.assert_allclose(np.sum(found, axis=1), 1.0, atol=1e-6)
    mean, beta, (nu, scatter) = jax.tree.map(np.asarray, fitted.parameters.components)
    log_joint = np.log(np.asarray(fitted.weights))[None].repeat(len(new), axis=0)
    for k in range(3):
        freedom = nu[k] - 1.0  # degrees of freedom of Student's t in two dimensions
        shape = scatter[k] * (1.0 + beta[k]) / (beta[k] * freedom)
        log_joint[:, k] += scipy.stats.multivariate_t(mean[k], shape, freedom).logpdf(new)
    np.testing.assert_allclose(found, scipy.special.softmax(log_joint, axis=1), atol=1e-4)
    names = gaussian_mixture.predict(fitted, new)
    np.testing.assert_array_equal(names, np.argmax(found, axis=1))


# Very few or degenerate data


@pytest.mark.slow  # it compiles its own program; that of the constant data is shared
def test_one_datapoint_under_a_given_prior_has_its_evidence():
    x = np.array([[2.0, 3.0]])
    found = gaussian_mixture.fit(KEY, x, num_components=(1, 2), prior=make_prior(*KNOWN))
    assert found.num_components == 1
    assert found.bound == pytest.approx(brute.log_evidence_of_one(KNOWN, x), abs=1e-5)


def test_constant_data_under_a_given_prior_have_their_evidence():
    x = np.full((NUM_POINTS, 2), 3.0)
    found = choose(x, KNOWN)
    assert found.num_components == 1
    assert found.bound == pytest.approx(brute.log_evidence_of_one(KNOWN, x), rel=1e-5)


def test_duplicate_datapoints_are_fitted_as_separate_datapoints():
    """Each of three places has 100 datapoints; the prior limits how narrow the components are."""
    places = np.array([[0.0, 1.0], [3.0, 7.0], [5.0, 2.0]])
    found = choose(np.repeat(places, NUM_POINTS // 3, axis=0))
    assert found.num_components == 3
    order = np.argsort(found.means[:, 0])
    np.testing.assert_allclose(found.means[order], places, atol=0.3)
    assert np.all(np.isfinite(found.bounds))


# Invalid arguments


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((0, 2)), "there must be a datapoint"),
        (np.zeros((3, 0)), "there must be a datapoint"),
        (np.zeros(5), "must be \\[N, D\\]"),
        (np.array([[1.0, np.nan], [2.0, 3.0], [np.inf, 0.0]]), "2 of 3 datapoints"),
        (np.array([["a", "b"]]), "array of numbers"),
        (np.ones((1, 2)), "no inverse"),
        (np.ones((9, 2)), "no inverse"),
        (np.stack([np.arange(9.0), np.ones(9)], axis=1), "no inverse"),
        (np.stack([np.arange(9.0), 2.0 * np.arange(9.0)], axis=1), "no inverse"),
    ],
    ids=["empty", "no dims", "flat", "NaN", "text", "one", "constant", "constant dim", "redundant"],
)
def test_data_that_a_mixture_cannot_be_fitted_to_are_refused_in_one_line(x: np.ndarray, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        gaussian_mixture.fit(KEY, x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_components": 0}, "num_components is 0"),
        ({"num_components": ()}, "num_components is"),
        ({"num_components": 2.5}, "num_components is 2.5"),
        ({"num_restarts": 0}, "num_restarts is 0"),
        ({"num_sweeps": 0}, "num_sweeps is 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"prior": make_prior(1.0, np.zeros(3), 1.0, 3.0, np.eye(3))}, "x has 2 dimensions"),
    ],
)
def test_arguments_of_the_mixture_out_of_range_are_refused(arguments: dict, says: str):
    with pytest.raises(ValueError, match=says):
        gaussian_mixture.fit(KEY, simulated(2), **arguments)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((0.0, np.zeros(2), 1.0, 2.0, np.eye(2)), "above 0"),
        ((1.0, np.zeros(2), 0.0, 2.0, np.eye(2)), "above 0"),
        ((1.0, np.zeros(2), 1.0, 1.0, np.eye(2)), "df is 1.0"),
        ((1.0, np.zeros(2), 1.0, 2.0, -np.eye(2)), "definite"),
        ((1.0, np.zeros(2), 1.0, 2.0, np.eye(3)), "shapes"),
    ],
)
def test_a_prior_with_improper_parameters_is_refused(given: tuple, says: str):
    with pytest.raises(ValueError, match=says):
        make_prior(*given)


def test_new_points_of_other_dimensions_are_refused(fitted: Fit):
    with pytest.raises(ValueError, match="3 dimensions; the mixture was fitted to 2"):
        gaussian_mixture.predict(fitted, np.zeros((4, 3)))
