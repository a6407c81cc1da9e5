"""The Gaussian mixture's mean field, against enumeration and scikit-learn."""

import math
import warnings
from collections.abc import Iterator

import enumerated_mixture as brute
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln
from sklearn.mixture import BayesianGaussianMixture

from aevb.classical import coordinate_ascent, mixture_model, mixture_runs
from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.families import Wishart
from aevb.classical.mixture_model import MeanField, Prior
from aevb.classical.normal_wishart import NormalWishart

RNG = np.random.default_rng(0)
TINY = np.concatenate([RNG.normal(-1.0, 0.6, size=(3, 2)), RNG.normal(1.5, 0.6, size=(4, 2))])
KNOWN = brute.Prior(0.8, np.array([0.2, -0.1]), 0.5, 3.5, np.array([[1.0, 0.3], [0.3, 0.7]]))
CENTRES = np.array([[0.0, 0.0], [4.0, 1.0], [-2.0, 4.0]])
CLUSTERS = CENTRES[RNG.integers(3, size=150)] + RNG.normal(size=(150, 2))


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def prior(of: brute.Prior = KNOWN) -> Prior:
    precision = Wishart(jnp.float64(of.nu), jnp.asarray(of.scatter))
    component = NormalWishart(jnp.asarray(of.mean), jnp.float64(of.beta), precision)
    return Prior(jnp.float64(of.alpha), component)


def at_random(x: np.ndarray, num_components: int) -> MeanField:
    """Returns random responsibilities, and the parameters at the prior."""
    responsibilities = np.random.default_rng(1).dirichlet(np.ones(num_components), size=len(x))
    return MeanField(jnp.asarray(responsibilities), mixture_model.at_prior(prior(), num_components))


# The bound


def test_the_bound_rises_at_every_update():
    problem = mixture_model.coordinate_ascent(jnp.asarray(CLUSTERS), prior(), 4)

    @jax.jit
    @jax.vmap
    def histories(key: jax.Array) -> jax.Array:
        begun = problem.init(key)
        _, bounds = coordinate_ascent.ascend(problem, begun, num_sweeps=30)
        return jnp.concatenate([problem.bound(begun)[None], jnp.ravel(bounds)])

    found = np.asarray(histories(jax.random.split(jax.random.key(0), 4)))
    assert np.all(np.diff(found, axis=1) > -1e-10)
    assert np.all(found[:, -1] > found[:, 0] + 1.0)


@pytest.mark.slow
def test_no_step_from_an_updated_factor_raises_the_bound():
    """The slope of the bound is 0 after the update, and was not before."""
    problem = mixture_model.coordinate_ascent(jnp.asarray(CLUSTERS), prior(), 3)

    def bound(logits: jax.Array, theta: mixture_model.Parameters) -> jax.Array:
        return problem.bound(MeanField(jax.nn.softmax(logits), theta))

    def slopes(q: MeanField) -> jax.Array:
        """Returns the largest slopes in z and in the parameters, [2]."""
        logits = jnp.log(jnp.maximum(q.responsibilities, 1e-30))
        return jnp.stack(
            [
                jnp.max(jnp.array([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(gradient)]))
                for gradient in jax.grad(bound, argnums=(0, 1))(logits, q.parameters)
            ]
        )

    @jax.jit
    def of_states(begun: MeanField) -> jax.Array:
        after_parameters = problem.updates["parameters"](begun)
        states = [begun, after_parameters, problem.updates["z"](after_parameters)]
        return jax.vmap(slopes)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))

    in_z, in_parameters = np.asarray(of_states(at_random(CLUSTERS, 3))).T
    assert in_parameters[0] > 1e-2
    assert in_parameters[1] < 1e-8
    assert in_z[1] > 1e-2
    assert in_z[2] < 1e-8


def test_of_one_component_the_bound_is_the_evidence():
    problem = mixture_model.coordinate_ascent(jnp.asarray(TINY), prior(), 1)
    bound = jax.jit(lambda q: problem.bound(problem.update(q)))
    expected = brute.log_evidence_of_one(KNOWN, TINY)
    np.testing.assert_allclose(bound(at_random(TINY, 1)), expected, rtol=1e-12)


@pytest.mark.parametrize("num_components", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_the_bound_is_the_enumerated_evidence_less_the_kl(num_components: int):
    """The KL is KL(q(z) || p(z | x)) + E_q(z)[KL(q(parameters) || p(. | z, x))].

    The second term has the closed form of Dirichlets and normal-Wisharts for each of the K^N z.
    """
    exact = brute.enumerate_all(KNOWN, TINY, num_components)
    counts = brute.counts_of(exact.z, num_components)
    numbers = brute.subset_numbers(exact.z, num_components)
    posteriors = [brute.posterior(KNOWN, subset) for subset in brute.subsets_of(TINY)]
    problem = mixture_model.coordinate_ascent(jnp.asarray(TINY), prior(), num_components)

    @jax.jit
    @jax.vmap
    def after_sweeps(num_sweeps: jax.Array) -> tuple[MeanField, jax.Array]:
        start = problem.updates["parameters"](at_random(TINY, num_components))
        q = problem.updates["z"](
            jax.lax.fori_loop(0, num_sweeps, lambda _, q: problem.update(q), start)
        )
        return q, problem.bound(q)

    states, bounds = jax.tree.map(np.asarray, after_sweeps(jnp.array([0, 100])))
    for number, bound in enumerate(bounds):
        q = jax.tree.map(lambda leaf, number=number: leaf[number], states)
        of_each = q.responsibilities[np.arange(len(TINY)), exact.z]
        q_z = np.prod(of_each, axis=1)
        kl = float(np.sum(q_z * (np.log(q_z) - np.log(exact.posterior))))
        mean, beta, (nu, scatter) = q.parameters.components
        kl += q_z @ brute.kl_dirichlet(q.parameters.weights.concentration, KNOWN.alpha + counts)
        for k in range(num_components):
            ours = brute.NormalWishart(mean[k], beta[k], nu[k], scatter[k])
            kls = np.array([brute.kl_normal_wishart(ours, posterior) for posterior in posteriors])
            kl += q_z @ kls[numbers[:, k]]
        np.testing.assert_allclose(exact.log_evidence - bound, kl, rtol=1e-8)
        assert bound < exact.log_evidence


def test_without_data_the_bound_is_zero():
    q = MeanField(jnp.zeros((0, 3)), mixture_model.at_prior(prior(), 3))
    found = jax.jit(mixture_model.bound)(q, jnp.zeros((0, 2)), prior(), jnp.ones(3, bool))
    np.testing.assert_allclose(found, 0.0, atol=1e-12)


# Components that are masked


@pytest.mark.slow
def test_with_some_components_left_out_it_is_the_smaller_model():
    active = np.array([True, False, True, True, False])
    x = jnp.asarray(CLUSTERS)
    small = mixture_model.coordinate_ascent(x, prior(), 3)
    large = mixture_model.coordinate_ascent(x, prior(), 5, jnp.asarray(active))

    def after_sweeps(problem: CoordinateAscent, q: MeanField) -> tuple[MeanField, jax.Array]:
        return jax.lax.scan(lambda q, _: (problem.update(q), problem.bound(q)), q, length=4)

    @jax.jit
    def both(q: MeanField, wide: MeanField) -> tuple[tuple[MeanField, jax.Array], ...]:
        q, wide = small.updates["parameters"](q), large.updates["parameters"](wide)
        return after_sweeps(small, q), after_sweeps(large, wide)

    begun = at_random(CLUSTERS, 3)
    with_others = np.zeros((len(x), 5))
    with_others[:, active] = begun.responsibilities
    (q, bounds), (wide, bounds_of_wide) = both(
        begun, MeanField(jnp.asarray(with_others), mixture_model.at_prior(prior(), 5))
    )
    np.testing.assert_allclose(bounds_of_wide, bounds, rtol=1e-13)
    assert np.all(np.asarray(wide.responsibilities)[:, ~active] == 0.0)
    np.testing.assert_allclose(wide.responsibilities[:, active], q.responsibilities, atol=1e-12)
    left_out = jax.tree.map(lambda leaf: leaf[1], wide.parameters.components)
    for found, known in zip(
        jax.tree.leaves(left_out), jax.tree.leaves(prior().component), strict=True
    ):
        np.testing.assert_array_equal(found, known)


def test_a_seed_is_never_given_to_a_component_that_is_left_out():
    active = jnp.array([False, True, True])
    problem = mixture_model.coordinate_ascent(jnp.asarray(CLUSTERS), prior(), 3, active)
    q = jax.jit(problem.init)(jax.random.key(0))
    assert np.all(np.asarray(q.responsibilities)[:, 0] == 0.0)
    np.testing.assert_array_equal(np.sum(q.responsibilities, axis=1), 1.0)


# Blocks of points


@pytest.mark.slow
def test_runs_over_blocks_are_coordinate_ascent(monkeypatch: pytest.MonkeyPatch):
    """The three blocks include a last one that is padded."""
    monkeypatch.setattr(mixture_runs, "BLOCK_SIZE", 1500)
    x = jnp.asarray(CLUSTERS)
    problem = mixture_model.coordinate_ascent(x, prior(), 3)
    bound = jax.jit(problem.bound)
    updates = {name: jax.jit(update) for name, update in problem.updates.items()}
    starts = [problem.init(jax.random.key(seed)) for seed in range(4)]
    states = [updates["z"](q) for q in starts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(q.parameters for q in starts))
    priors = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *leaf.shape)), prior())
    jax.clear_caches()  # the program is compiled again with this block size
    runs, history = mixture_runs.continue_from(
        stacked, x, priors, jnp.ones((4, 3), bool), jnp.float64(-jnp.inf), num_sweeps=3
    )
    assert mixture_runs.split(x, num_clusters=12).x.shape == (3, 2, 64)
    for sweep in range(4):
        bounds = [bound(q) for q in states]
        np.testing.assert_allclose(history[sweep], np.array(bounds), rtol=1e-12)
        if sweep < 3:
            states = [updates["z"](updates["parameters"](q)) for q in states]
    for run, q in enumerate(states):
        found = jax.tree.map(lambda leaf, run=run: leaf[run], runs.parameters)
        for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(q.parameters), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


# scikit-learn


@pytest.mark.slow
def test_scikit_learn_finds_the_same_and_its_bound_lacks_known_constants():
    """Both start at the same responsibilities, under the same prior, for as many iterations.

    Its bound lacks the normalizers of the priors, C(alpha_0) and for each component B(W_0, nu_0)
    and (D / 2) log beta_0, and the (N D / 2) log 2 pi of the likelihood.
    """
    num_components, num_sweeps = 4, 7
    theirs = BayesianGaussianMixture(
        n_components=num_components,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=KNOWN.alpha,
        mean_precision_prior=KNOWN.beta,
        mean_prior=KNOWN.mean,
        degrees_of_freedom_prior=KNOWN.nu,
        covariance_prior=KNOWN.scatter,
        reg_covar=0.0,
        tol=0.0,
        max_iter=num_sweeps,
        init_params="random",
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that it has not converged
        theirs.fit(CLUSTERS)

    begun = np.random.RandomState(0).uniform(size=(len(CLUSTERS), num_components))
    begun /= np.sum(begun, axis=1, keepdims=True)
    problem = mixture_model.coordinate_ascent(jnp.asarray(CLUSTERS), prior(), num_components)

    @jax.jit
    def end(responsibilities: jax.Array) -> tuple[MeanField, jax.Array]:
        q = MeanField(responsibilities, mixture_model.at_prior(prior(), num_components))
        q = problem.updates["parameters"](q)
        q = jax.lax.fori_loop(0, num_sweeps, lambda _, q: problem.update(q), q)
        return q, problem.bound(q)

    q, bound = end(jnp.asarray(begun))

    components = q.parameters.components
    np.testing.assert_allclose(components.mean, theirs.means_, rtol=1e-8)
    covariances = np.asarray(components.precision.inverse_scale) / np.asarray(
        components.precision.df
    ).reshape(-1, 1, 1)
    np.testing.assert_allclose(covariances, theirs.covariances_, rtol=1e-8)
    np.testing.assert_allclose(q.parameters.weights.mean(), theirs.weights_, rtol=1e-8)

    num_dims = 2
    log_c = gammaln(num_components * KNOWN.alpha) - num_components * gammaln(KNOWN.alpha)
    log_b = 0.5 * KNOWN.nu * (np.linalg.slogdet(KNOWN.scatter)[1] - num_dims * math.log(2.0))
    log_b -= np.sum(gammaln(0.5 * (KNOWN.nu - np.arange(num_dims))))
    constants = log_c + num_components * (log_b + 0.5 * num_dims * math.log(KNOWN.beta))
    constants -= 0.5 * CLUSTERS.size * math.log(2.0 * math.pi)
    np.testing.assert_allclose(bound, theirs.lower_bound_ + constants, rtol=1e-9)
