"""The learned prior of the mixture, against samples and quadrature, in float64."""

from typing import NamedTuple

import enumerated_mixture as brute
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from aevb.classical import mixture_hierarchy, mixture_merges, mixture_model, mixture_runs
from aevb.classical.gaussian_mixture import make_prior
from aevb.classical.mixture_model import Parameters, Prior

X = np.random.default_rng(0).normal(size=(12, 1)) * 0.3 + 1.0
NO_ERRORS = np.zeros((1, 1))


class Learned(NamedTuple):
    """A fit of one component to X, and the hyperparameters at which it ended."""

    parameters: Parameters
    prior: Prior
    bound: float
    eta: float
    nu: float
    history: np.ndarray  # the bound after each sweep


def log_gamma(x: np.ndarray, shape: float, scale: float | np.ndarray) -> np.ndarray:
    """Returns the log-density of a gamma distribution."""
    return scipy.stats.gamma.logpdf(x, shape, scale=scale)


@pytest.fixture(scope="module")
def learned() -> Learned:
    with jax.enable_x64(True):
        prior = make_prior(1.0, np.zeros(1), 1.0, 1.0, np.eye(1))
        start = jax.tree.map(lambda leaf: leaf[None], mixture_model.at_prior(prior, 1))
        runs, history = mixture_runs.continue_from(
            start,
            jnp.asarray(X),
            jax.tree.map(lambda leaf: leaf[None], prior),
            jnp.ones((1, 1), bool),
            jnp.float64(-jnp.inf),
            num_sweeps=100,
            rounding=jnp.asarray(NO_ERRORS),
        )
        parameters = jax.tree.map(lambda leaf: leaf[0], runs.parameters)
        prior = jax.tree.map(lambda leaf: leaf[0], runs.prior)
        df, inverse_scale = prior.component.precision
        eta = 1.0 / float(inverse_scale[0, 0])
        bounds = np.asarray(history)[:, 0]
        return Learned(parameters, prior, float(runs.bound[0]), eta, float(df), bounds)


def test_the_bound_of_a_learned_prior_never_falls(learned: Learned):
    assert np.all(np.diff(learned.history) > -1e-10)


def test_the_learned_bound_is_below_the_evidence_and_near_it(learned: Learned):
    """The evidence of X integrates S and beta over a grid, at the eta and nu of the fit."""
    scales = np.exp(np.linspace(-14.0, 8.0, 70)) / learned.eta
    betas = np.exp(np.linspace(-25.0, 4.0, 70))
    log_evidences = np.array(
        [
            [
                brute.log_evidence_of_one(
                    brute.Prior(1.0, np.zeros(1), beta, learned.nu, np.array([[scale]])), X
                )
                for beta in betas
            ]
            for scale in scales
        ]
    )
    log_cells = (log_gamma(scales, 0.5, 2.0 / learned.eta) + np.log(scales))[:, None]
    log_cells = log_cells + (log_gamma(betas, 0.5, 2.0) + np.log(betas))[None]
    log_cells += np.log(np.log(scales[1] / scales[0]) * np.log(betas[1] / betas[0]))
    log_evidence = float(np.logaddexp.reduce(log_evidences + log_cells, axis=None))
    assert log_evidence - 1.5 < learned.bound < log_evidence


def test_the_learned_bound_is_the_expected_log_ratio_of_joint_and_q(learned: Learned):
    """The definition of the bound, from samples of every factor of Q; one dimension."""
    rng, num = np.random.default_rng(1), 50_000
    component, prior = learned.parameters.components, learned.prior.component
    mean, beta, df, rate = (
        float(np.ravel(leaf)[0])
        for leaf in (
            component.mean, component.mean_precision, component.precision.df,
            component.precision.inverse_scale,
        )
    )  # fmt: skip
    q_scale_df = 1.0 + learned.nu
    expected = float(prior.precision.inverse_scale[0, 0])
    of_precision = (0.5 * df, 2.0 / rate)  # shapes and scales of gamma distributions
    of_scale = (0.5 * q_scale_df, 2.0 * expected / q_scale_df)
    of_beta = (1.0, float(prior.mean_precision))
    precisions, scales, betas = (
        rng.gamma(*given, size=num) for given in (of_precision, of_scale, of_beta)
    )
    widths = 1.0 / np.sqrt(beta * precisions)
    means = mean + widths * rng.normal(size=num)
    log_ratio = log_gamma(scales, 0.5, 2.0 / learned.eta) - log_gamma(scales, *of_scale)
    log_ratio += log_gamma(betas, 0.5, 2.0) - log_gamma(betas, *of_beta)
    log_ratio += log_gamma(precisions, 0.5 * learned.nu, 2.0 / scales)
    log_ratio -= log_gamma(precisions, *of_precision)
    log_ratio += scipy.stats.norm.logpdf(means, 0.0, 1.0 / np.sqrt(betas * precisions))
    log_ratio -= scipy.stats.norm.logpdf(means, mean, widths)
    for x in X[:, 0]:
        log_ratio += scipy.stats.norm.logpdf(x, means, 1.0 / np.sqrt(precisions))
    error = np.std(log_ratio) / np.sqrt(num)
    assert error < 0.03
    assert abs(np.mean(log_ratio) - learned.bound) < 4.0 * error


@pytest.mark.slow
def test_no_update_of_a_learned_prior_lowers_the_bound():
    """Four components from random responsibilities, with clusters of unequal widths."""
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(40, 2)), 20.0 + 5.0 * rng.normal(size=(40, 2))])
    prior = make_prior(1.0, np.zeros(2), 1.0, 2.0, 100.0 * np.eye(2))
    responsibilities = jnp.asarray(rng.dirichlet(np.ones(4), size=(3, 80)))
    centres = mixture_model.at_prior(prior, 4).components.mean
    starts = jax.vmap(
        lambda r: mixture_model.update_parameters(
            prior, mixture_model.statistics(jnp.asarray(x).T, r.T, centres), centres
        )
    )(responsibilities)
    runs, history = mixture_runs.continue_from(
        starts,
        jnp.asarray(x),
        jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), prior),
        jnp.ones((3, 4), bool),
        jnp.float64(-jnp.inf),
        num_sweeps=60,
        rounding=0.01 * jnp.eye(2),
    )
    assert np.all(np.diff(history, axis=0) > -1e-9)
    assert np.all(history[-1] > history[0] + 10.0)
    np.testing.assert_allclose(np.sum(runs.statistics.num_points, axis=1), 80.0)


@pytest.mark.slow
def test_the_rounding_errors_enter_the_bound_as_their_expectation():
    """E[log N(x + u)] over u, from samples of u; the responsibilities of one component are 1."""
    prior = make_prior(*brute.TINY_PRIOR)
    x, errors = brute.tiny_data(), np.array([[0.09, 0.02], [0.02, 0.04]])
    parameters = mixture_model.at_prior(prior, 1)
    q = jax.tree.map(lambda leaf: leaf[None], parameters)
    priors = jax.tree.map(lambda leaf: leaf[None], prior)
    blocks = mixture_runs.split(jnp.asarray(x), num_clusters=1)
    here = jnp.ones((1, 1), bool)
    data, bound = mixture_runs.evaluate(q, priors, here, blocks, jnp.asarray(errors))
    plain, exact = mixture_runs.evaluate(q, priors, here, blocks)
    noise = np.random.default_rng(3).multivariate_normal(np.zeros(2), errors, size=(100_000, 7))
    log_lik = prior.component.expected_log_lik()
    values = np.asarray(log_lik(jnp.asarray(np.reshape(x + noise, (-1, 2)).T)))
    sums = np.sum(np.reshape(values, (-1, 7)), axis=1)
    change = sums - float(jnp.sum(log_lik(jnp.asarray(x).T)))
    error = np.std(change) / np.sqrt(len(change))
    assert abs(np.mean(change) - float(bound[0] - exact[0])) < 4.0 * error
    np.testing.assert_allclose(data.scatter[0, 0], plain.scatter[0, 0] + 7.0 * errors)


def test_the_mergers_learn_the_same_prior():
    """One update on the host and in JAX, where nu stays D."""
    x = brute.tiny_data()
    names = np.array([0, 0, 0, 1, 1, 1, 1])
    shared = mixture_merges.SharedPrior(
        1.0, np.zeros(2), 0.7, 2.0, np.array([[2.0, 0.3], [0.3, 1.0]])
    )
    clusters = mixture_merges.clusters_of(x, names, np.zeros((2, 2)))
    found = mixture_merges.learn(clusters, shared, 1)
    prior = make_prior(1.0, *shared[1:])
    members = jax.nn.one_hot(names, 2, axis=0, dtype=jnp.float64)
    centres = jnp.zeros((2, 2))
    data = mixture_model.statistics(jnp.asarray(x).T, members, centres)
    parameters = mixture_model.update_parameters(prior, data, centres)
    here = jnp.ones(2, bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture_hierarchy, "DFS", (1.0,))
        learned, _ = jax.jit(mixture_hierarchy.learn)(parameters, prior, here)
    np.testing.assert_allclose(found.mean_precision, learned.component.mean_precision)
    np.testing.assert_allclose(found.inverse_scale, learned.component.precision.inverse_scale)


@pytest.mark.slow
def test_the_best_df_is_chosen():
    """Components of one covariance have a larger nu than components of very different ones."""
    rng = np.random.default_rng(4)

    def chosen(stds: list[float]) -> float:
        x = np.concatenate([std * rng.normal(size=(500, 2)) for std in stds])
        names = np.repeat(np.arange(len(stds)), 500)
        members = jax.nn.one_hot(names, len(stds), axis=0, dtype=jnp.float64)
        prior = make_prior(1.0, np.zeros(2), 1.0, 2.0, np.eye(2))
        centres = jnp.zeros((len(stds), 2))
        data = mixture_model.statistics(jnp.asarray(x).T, members, centres)

        @jax.jit
        def learn(prior: Prior) -> Prior:
            parameters = mixture_model.update_parameters(prior, data, centres)
            return mixture_hierarchy.learn(parameters, prior, jnp.ones(len(stds), bool))[0]

        for _ in range(20):
            prior = learn(prior)
        return float(prior.component.precision.df)

    assert chosen([1.0] * 6) == 2.0 * max(mixture_hierarchy.DFS)
    assert chosen([0.1, 0.3, 1.0, 3.0, 10.0, 30.0]) == 2.0 * min(mixture_hierarchy.DFS)
