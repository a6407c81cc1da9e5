"""Gibbs sampling of the Gaussian mixture, against enumeration and mean field."""

import math

import enumerated_mixture as brute
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import standard_errors_off

from aevb.classical import coordinate_ascent, gibbs, mixture_gibbs, mixture_model
from aevb.classical.gaussian_mixture import make_prior

TINY, KNOWN = brute.tiny_data(), brute.TINY_PRIOR
NEW = np.array([[0.5, 0.5]])
PRIOR = make_prior(*KNOWN)


def density_of_new(exact: brute.Enumeration, num_components: int) -> float:
    """Returns p(NEW | x), the ratio of two evidences."""
    with_new = brute.enumerate_all(KNOWN, np.concatenate([TINY, NEW]), num_components)
    return math.exp(with_new.log_evidence - exact.log_evidence)


@pytest.mark.slow
def test_gibbs_has_the_enumerated_probabilities_and_mean_field_does_not():
    """The quantities ignore labels: pairs in one component, and the density of a new point."""
    x, num_components = jnp.asarray(TINY), 3
    exact = brute.enumerate_all(KNOWN, TINY, num_components)

    @jax.jit
    def draw(key: jax.Array) -> mixture_gibbs.Sample:
        start_key, key = jax.random.split(key)
        starts = jax.vmap(lambda key: mixture_gibbs.start(key, x, num_components))(
            jax.random.split(start_key, 400)
        )
        transition = mixture_gibbs.transition(PRIOR, x, num_components)
        return gibbs.sample(key, starts, transition, num_samples=40, num_warmup=40)

    samples = draw(jax.random.key(0))
    same = np.mean(
        np.asarray(samples.z)[..., :, None] == np.asarray(samples.z)[..., None, :], axis=1
    )
    pairs = np.triu_indices(len(TINY), 1)
    assert standard_errors_off(same[:, *pairs], brute.together(exact)[pairs]) < 4

    at_new = jax.vmap(jax.vmap(lambda sample: mixture_gibbs.log_joint(sample, jnp.asarray(NEW))))
    densities = np.sum(np.exp(jax.jit(at_new)(samples)), axis=(2, 3))
    assert (
        standard_errors_off(np.mean(densities, axis=1), density_of_new(exact, num_components)) < 4
    )

    problem = mixture_model.coordinate_ascent(x, PRIOR, num_components)

    @jax.jit
    def mean_field(key: jax.Array) -> jax.Array:
        q = coordinate_ascent.ascend(problem, problem.init(key), num_sweeps=50)[0]
        return q.responsibilities

    q = np.asarray(mean_field(jax.random.key(0)))
    assert standard_errors_off(same[:, *pairs], (q @ q.T)[pairs]) > 4


def test_a_transition_leaves_the_exact_posterior_invariant():
    """One sweep from exact draws of z gives exact draws of z and of the parameters."""
    exact = brute.enumerate_all(KNOWN, TINY, 2)
    chosen = np.random.default_rng(0).choice(len(exact.z), size=20_000, p=exact.posterior)
    x = jnp.asarray(TINY)
    begun = mixture_gibbs.start(jax.random.key(0), x, 2)
    transition = mixture_gibbs.transition(PRIOR, x, 2)

    @jax.jit
    @jax.vmap
    def step(key: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the next z, and the density of NEW under the parameters."""
        after = transition(key, begun._replace(z=z))
        return after.z, jnp.sum(jnp.exp(mixture_gibbs.log_joint(after, jnp.asarray(NEW))))

    keys = jax.random.split(jax.random.key(2), len(chosen))
    z, densities = step(keys, jnp.asarray(exact.z[chosen], jnp.int32))
    assert standard_errors_off(densities, density_of_new(exact, 2)) < 4
    names = np.asarray(z) @ (2 ** np.arange(len(TINY))[::-1])
    frequencies = np.bincount(names, minlength=2 ** len(TINY))
    likely = exact.posterior > 1e-3
    errors = np.sqrt(exact.posterior * (1.0 - exact.posterior) * len(z))
    assert np.sum(likely) > 5
    off = np.abs(frequencies - exact.posterior * len(z))[likely] / errors[likely]
    assert np.max(off) < 4
