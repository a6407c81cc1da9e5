"""The Gaussian mixture's mean field, against enumeration."""

import enumerated_mixture as brute
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevb.classical import coordinate_ascent, mixture_model, mixture_runs
from aevb.classical.coordinate_ascent import CoordinateAscent
from aevb.classical.gaussian_mixture import make_prior
from aevb.classical.mixture_model import MeanField

RNG = np.random.default_rng(0)
TINY, KNOWN = brute.tiny_data(), brute.TINY_PRIOR
PRIOR = make_prior(*KNOWN)
CENTRES = np.array([[0.0, 0.0], [4.0, 1.0], [-2.0, 4.0]])
CLUSTERS = CENTRES[RNG.integers(3, size=150)] + RNG.normal(size=(150, 2))


def at_random(x: np.ndarray, num_components: int) -> MeanField:
    """Returns random responsibilities, and the parameters at the prior."""
    responsibilities = np.random.default_rng(1).dirichlet(np.ones(num_components), size=len(x))
    return MeanField(jnp.asarray(responsibilities), mixture_model.at_prior(PRIOR, num_components))


# The bound


def test_the_bound_rises_at_every_update():
    problem = mixture_model.coordinate_ascent(jnp.asarray(CLUSTERS), PRIOR, 4)

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
    problem = mixture_model.coordinate_ascent(jnp.asarray(CLUSTERS), PRIOR, 3)

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


def test_the_bound_of_one_component_is_the_evidence():
    problem = mixture_model.coordinate_ascent(jnp.asarray(TINY), PRIOR, 1)
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
    problem = mixture_model.coordinate_ascent(jnp.asarray(TINY), PRIOR, num_components)

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


def test_the_bound_of_a_mixture_without_data_is_0():
    q = MeanField(jnp.zeros((0, 3)), mixture_model.at_prior(PRIOR, 3))
    found = jax.jit(mixture_model.bound)(q, jnp.zeros((0, 2)), PRIOR, jnp.ones(3, bool))
    np.testing.assert_allclose(found, 0.0, atol=1e-12)


# Components that are masked


@pytest.mark.slow
def test_a_mixture_with_inactive_components_is_the_smaller_mixture():
    active = np.array([True, False, True, True, False])
    x = jnp.asarray(CLUSTERS)
    small = mixture_model.coordinate_ascent(x, PRIOR, 3)
    large = mixture_model.coordinate_ascent(x, PRIOR, 5, jnp.asarray(active))

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
        begun, MeanField(jnp.asarray(with_others), mixture_model.at_prior(PRIOR, 5))
    )
    np.testing.assert_allclose(bounds_of_wide, bounds, rtol=1e-13)
    assert np.all(np.asarray(wide.responsibilities)[:, ~active] == 0.0)
    np.testing.assert_allclose(wide.responsibilities[:, active], q.responsibilities, atol=1e-12)
    left_out = jax.tree.map(lambda leaf: leaf[1], wide.parameters.components)
    for found, known in zip(
        jax.tree.leaves(left_out), jax.tree.leaves(PRIOR.component), strict=True
    ):
        np.testing.assert_array_equal(found, known)


def test_a_seed_is_never_given_to_an_inactive_component():
    active = jnp.array([False, True, True])
    problem = mixture_model.coordinate_ascent(jnp.asarray(CLUSTERS), PRIOR, 3, active)
    q = jax.jit(problem.init)(jax.random.key(0))
    assert np.all(np.asarray(q.responsibilities)[:, 0] == 0.0)
    np.testing.assert_array_equal(np.sum(q.responsibilities, axis=1), 1.0)


# Blocks of points


@pytest.mark.slow
def test_runs_over_blocks_are_coordinate_ascent(monkeypatch: pytest.MonkeyPatch):
    """The three blocks include a last one that is padded."""
    monkeypatch.setattr(mixture_runs, "BLOCK_SIZE", 1500)
    x = jnp.asarray(CLUSTERS)
    problem = mixture_model.coordinate_ascent(x, PRIOR, 3)
    bound = jax.jit(problem.bound)
    updates = {name: jax.jit(update) for name, update in problem.updates.items()}
    init = jax.jit(problem.init)
    starts = [init(jax.random.key(seed)) for seed in range(4)]
    states = [updates["z"](q) for q in starts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(q.parameters for q in starts))
    priors = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *leaf.shape)), PRIOR)
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
