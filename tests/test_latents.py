"""Latents that are no vector, in estimates of log p(x) and in fitted proposals."""

from typing import Any

import hierarchy
import jax
import jax.numpy as jnp
import pytest
from hierarchy import Hierarchy
from marks import slow_but

from aevb import latents, losses, marginal, proposals
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal


def case_of(order: str) -> Hierarchy:
    return hierarchy.make(order, 3, (2, 2), 1)


@pytest.mark.parametrize("name", slow_but(["importance", "ais"], marginal.ESTIMATORS))
def test_estimates_of_log_p_agree_with_the_exact_evidence(name: str):
    case = case_of("bottom_up")
    params = jax.tree.map(jnp.float32, case.params)
    guide, stats = hierarchy.guide_of(case.order, params)
    joint = hierarchy.joint_of(params, jnp.float32(case.x))
    exact, of_exact = hierarchy.exact_guide(case)
    settings: dict[str, Any] = {
        "importance": {"num_samples": 20_000},
        "importance_upper": {
            "num_samples": 20_000,
            "posterior_sample": exact.sample(jax.random.key(5), of_exact),
        },
        "ais": {"num_temps": 60, "num_chains": 100},
        "reverse_ais": {
            "num_temps": 60, "num_chains": 100,
            "posterior_sample": exact.sample(jax.random.key(5), of_exact),
        },
        "appendix_d": {"num_samples": 300, "num_chains": 6},
    }[name]  # fmt: skip
    estimate = jax.jit(
        lambda key: marginal.ESTIMATORS[name].estimate(key, stats, guide, joint, **settings)
    )(jax.random.key(2))
    off = abs(float(estimate.value) - hierarchy.exact_log_prob(case))
    assert off < 4.0 * float(estimate.standard_error) + 1e-4


@pytest.mark.parametrize("name", slow_but(["laplace"], ["laplace", "modes"]))
def test_a_proposal_has_the_structure_of_the_latents(name: str):
    case = case_of("top_down")
    params = jax.tree.map(jnp.float32, case.params)
    guide, stats = hierarchy.guide_of(case.order, params)
    joint = hierarchy.joint_of(params, jnp.float32(case.x))

    @jax.jit
    def estimated(fit_key: jax.Array, key: jax.Array) -> marginal.Estimate:
        fitted = proposals.PROPOSALS[name](fit_key, stats, guide, joint)
        return marginal.importance_sampling(key, *fitted, joint, num_samples=2000)

    estimate = estimated(jax.random.key(0), jax.random.key(1))
    off = abs(float(estimate.value) - hierarchy.exact_log_prob(case))
    assert off < 4.0 * float(estimate.standard_error)
    assert float(estimate.diagnostics["pareto_k"]) < 0.5


def test_a_matrix_of_latents_becomes_a_vector():
    def sample(key: jax.Array, stats: DiagNormal) -> jax.Array:
        return stats.mean + jax.random.normal(key, stats.mean.shape)

    guide = losses.Guide(sample, lambda stats, z: -jnp.sum(jnp.square(z - stats.mean)))
    joint = losses.Joint(lambda z: jnp.sum(z[1]), lambda z: jnp.sum(z[:, 0]))
    stats = DiagNormal(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    vectors = latents.as_vectors(stats, guide, joint)
    z = vectors.guide.sample(jax.random.key(0), stats)
    assert z.shape == (6,)
    assert vectors.unravel(z).shape == (2, 3)
    assert vectors.joint.log_prior(z) == jnp.sum(z[3:])


def test_a_vector_of_latents_stays_as_it_is():
    stats = DiagNormal(jnp.zeros(3), jnp.zeros(3))
    joint = losses.Joint(StandardNormal(3), lambda z: jnp.sum(z))
    vectors = latents.as_vectors(stats, diag_normal, joint)
    assert vectors.guide is diag_normal
    assert vectors.joint is joint
