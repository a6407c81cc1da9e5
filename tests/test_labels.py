"""Bounds with labels: a mixture of linear-Gaussian models, of which everything is known exactly."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import labelled_mixture
import numpy as np
import oracles
import pytest
from marks import slow_but

from aevb import labels, losses
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.labels import NOT_SEEN, Labelled, LabelPrior, LabelStats

NUM_DRAWS = 20_000
CASES = [(3, 4, 2, 0), (2, 3, 1, 1), (5, 6, 3, 2)]  # C, D, Z, seed
KEY = jax.random.key(0)
UNBIASED = ("sgvb_a", "sgvb_b", "stl", "score_function")  # their means are the evidence lower bound

every_case = pytest.mark.parametrize("sizes", slow_but(CASES[:1], CASES))


def as_float32(case: labelled_mixture.Mixture) -> tuple[Any, jax.Array]:
    return jax.tree.map(jnp.float32, case.params), jnp.float32(case.x)


def diagonal_model(params: Any, x: jax.Array) -> Labelled:
    stats = labelled_mixture.diagonal(params)
    return labelled_mixture.model_of(params, x, stats, diag_normal)


@every_case
@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_of_a_bound_with_a_label_seen_or_not_is_exact(sizes: Any, name: str):
    case = labelled_mixture.make(*sizes)
    params, x = as_float32(case)
    model = diagonal_model(params, x)
    seen = jnp.array([NOT_SEEN, 0, case.num_labels - 1])
    of_one = partial(labels.labelled_bound, model=model, bound=losses.BOUNDS[name], num_samples=2)
    keys = jax.random.split(KEY, NUM_DRAWS)
    draws = jax.jit(jax.vmap(lambda key: jax.vmap(lambda y: of_one(key, y))(seen)))(keys)
    expected = [labelled_mixture.bound(case, int(label)) for label in seen]
    assert oracles.standard_errors_off(draws, expected) < 4.0


@every_case
@pytest.mark.parametrize("name", slow_but(["sgvb_b"], ["sgvb_a", "sgvb_b", "stl", "dreg"]))
@pytest.mark.parametrize("label", [NOT_SEEN, 1])
def test_the_mean_gradient_is_that_of_the_exact_bound(sizes: Any, name: str, label: int):
    """In all parameters of p and q, also in those of q(y|x); dreg has one sample here."""
    case = labelled_mixture.make(*sizes)
    params, x = as_float32(case)

    def value(params: Any, key: jax.Array) -> jax.Array:
        bound = losses.BOUNDS[name]
        return labels.labelled_bound(key, jnp.int32(label), diagonal_model(params, x), bound=bound)

    keys = jax.random.split(KEY, NUM_DRAWS)
    gradients = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(params, keys)
    for part, draws in gradients.items():
        expected = oracles.finite_difference(
            lambda leaf, part=part: labelled_mixture.bound(
                case._replace(params={**case.params, part: leaf}), label
            ),
            case.params[part],
        )
        found = np.asarray(draws, np.float64)
        is_fixed = np.std(found, axis=0) < 1e-5  # 0, or without noise
        np.testing.assert_allclose(
            np.where(is_fixed, np.mean(found, axis=0), 0.0), np.where(is_fixed, expected, 0.0),
            atol=1e-4, err_msg=part,
        )  # fmt: skip
        if not np.all(is_fixed):
            off = oracles.standard_errors_off(found[:, ~is_fixed], expected[~is_fixed])
            assert off < 4.0, part


EXACT = ("sgvb_a", "stl", "iwae", "dreg", "miwae", "piwae", "ciwae", "renyi")


@every_case
@pytest.mark.parametrize("name", slow_but(["iwae"], EXACT))
def test_every_bound_at_the_exact_posterior_is_the_evidence(sizes: Any, name: str):
    case = labelled_mixture.make(*sizes)
    model = labelled_mixture.exact(case)
    seen = jnp.arange(NOT_SEEN, case.num_labels)
    expected = [labelled_mixture.log_prob(case), *labelled_mixture.log_joint_probs(case)]
    of_one = partial(labels.labelled_bound, model=model, bound=losses.BOUNDS[name], num_samples=4)
    found = jax.jit(jax.vmap(lambda y: of_one(KEY, y)))(seen)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@every_case
def test_estimates_with_labels_enumerated_agree_with_the_exact_evidence(sizes: Any):
    """exp(estimate - exact) has the mean 1 for p(x, y) of each y, and for p(x)."""
    case = labelled_mixture.make(*sizes)
    model = diagonal_model(*as_float32(case))
    keys = jax.random.split(KEY, 2000)
    of_all = jax.jit(jax.vmap(lambda key: labels.log_joint_probs(key, model, num_samples=20)))
    exact = labelled_mixture.log_joint_probs(case)
    ratios = np.exp(np.asarray(of_all(keys), np.float64) - exact)
    assert oracles.standard_errors_off(ratios, 1.0) < 4.0
    of_x = jax.jit(jax.vmap(lambda key: labels.log_prob(key, model, num_samples=20)))(keys)
    found = np.asarray(of_x, np.float64) - labelled_mixture.log_prob(case)
    assert oracles.standard_errors_off(np.exp(found), 1.0) < 4.0
    assert np.mean(found) < 0.0  # a stochastic lower bound
    many = labels.log_label_probs(KEY, model, num_samples=100_000)
    np.testing.assert_allclose(many, labelled_mixture.log_label_probs(case), atol=0.03)


def test_the_bound_without_the_label_is_largest_at_the_softmax_of_the_bounds():
    bounds, other = jnp.array([-3.0, -1.0, -2.0]), jnp.array([0.5, 0.0, -1.0])
    most = jax.nn.logsumexp(bounds)
    np.testing.assert_allclose(labels.sum_over_labels(bounds, bounds), most, rtol=1e-6)
    log_q = jax.nn.log_softmax(other)
    gap = jnp.sum(jnp.exp(log_q) * (log_q - jax.nn.log_softmax(bounds)))
    np.testing.assert_allclose(labels.sum_over_labels(bounds, other), most - gap, rtol=1e-6)


def test_a_certain_guide_gives_finite_bounds_and_gradients():
    """Where q(y|x) is 0 in float32, its term is 0."""
    logits = jnp.array([0.0, 1000.0, -1000.0])
    value, gradient = jax.value_and_grad(labels.sum_over_labels, argnums=1)(jnp.arange(3.0), logits)
    np.testing.assert_allclose(value, 1.0)
    assert np.all(np.isfinite(gradient))


@every_case
def test_a_batch_of_both_kinds_is_each_datapoint_by_itself(sizes: Any):
    case = labelled_mixture.make(*sizes)
    model = diagonal_model(*as_float32(case))
    by_label = labels.bounds_by_label(KEY, model, num_samples=3)
    seen = jnp.array([NOT_SEEN, *range(case.num_labels)])
    found = jax.vmap(lambda y: labels.labelled_bound(KEY, y, model, num_samples=3))(seen)
    np.testing.assert_allclose(found[1:], by_label, rtol=1e-6)
    np.testing.assert_allclose(found[0], labels.sum_over_labels(by_label, model.logits), rtol=1e-6)


def test_a_label_that_was_seen_gives_the_classifier_no_gradient_but_by_its_own_term():
    case = labelled_mixture.make(*CASES[0])
    params, x = as_float32(case)

    def value(logits: jax.Array, label: int) -> jax.Array:
        model = diagonal_model({**params, "logits": logits}, x)
        return labels.labelled_bound(KEY, jnp.int32(label), model)

    def term(logits: jax.Array, label: int) -> jax.Array:
        return labels.classification_term(jnp.int32(label), logits, 2.5)

    logits = params["logits"]
    np.testing.assert_array_equal(jax.grad(value)(logits, 1), 0.0)
    assert np.all(jax.grad(value)(logits, NOT_SEEN) != 0.0)
    np.testing.assert_allclose(term(logits, 1), 2.5 * jax.nn.log_softmax(logits)[1], rtol=1e-6)
    assert term(logits, NOT_SEEN) == 0.0
    np.testing.assert_array_equal(jax.grad(term)(logits, NOT_SEEN), 0.0)
    expected = 2.5 * (jnp.array([0.0, 1.0, 0.0]) - jax.nn.softmax(logits))
    np.testing.assert_allclose(jax.grad(term)(logits, 1), expected, rtol=1e-5)


@every_case
def test_a_conditional_bound_is_on_log_p_of_x_given_the_label(sizes: Any):
    case = labelled_mixture.make(*sizes)
    model = labelled_mixture.exact(case)
    log_prior = jax.nn.log_softmax(jnp.float32(case.params["prior"]))
    for label, log_joint in enumerate(labelled_mixture.log_joint_probs(case)):
        found = labels.conditional_bound(KEY, jnp.int32(label), model, bound=losses.sgvb_a)
        np.testing.assert_allclose(found, log_joint - log_prior[label], rtol=2e-5, atol=2e-5)


# (y, z) as one vector


def vector_model(case: labelled_mixture.Mixture) -> tuple[Any, losses.Guide, losses.Joint]:
    """Returns a function of the label to the statistics, the guide and the joint of the vector."""
    params, x = as_float32(case)
    number = case.num_labels
    prior = LabelPrior(jax.nn.log_softmax(params["prior"]), StandardNormal(params["W"].shape[2]))

    def log_lik(vector: jax.Array) -> jax.Array:
        label, z = labels.split(vector, number)
        return labelled_mixture.joint_at(params, x, jnp.argmax(label)).log_lik(z)

    def stats(label: int) -> LabelStats:
        of_z = labelled_mixture.diagonal(params)
        return LabelStats(jnp.int32(label), params["logits"], of_z)

    return stats, labels.of_vector(diag_normal, number), losses.Joint(prior, log_lik)


@every_case
@pytest.mark.parametrize("label", [NOT_SEEN, 1])
def test_drawn_labels_have_the_same_bound_as_enumerated_ones(sizes: Any, label: int):
    case = labelled_mixture.make(*sizes)
    stats_of, guide, joint = vector_model(case)
    stats, keys = stats_of(label), jax.random.split(KEY, NUM_DRAWS)
    expected = labelled_mixture.bound(case, label)
    for bound in (losses.sgvb_a, losses.sgvb_b, losses.evidence_lower_bound):
        of_all = jax.jit(jax.vmap(lambda key, bound=bound: bound(key, stats, guide, joint)))
        assert oracles.standard_errors_off(of_all(keys), expected) < 4.0
    weigh = jax.jit(partial(losses.log_weights, guide=guide, joint=joint, num_samples=NUM_DRAWS))
    log_w = weigh(KEY, stats)
    evidence = [labelled_mixture.log_prob(case), *labelled_mixture.log_joint_probs(case)][label + 1]
    ratios = np.exp(np.asarray(log_w, np.float64) - evidence)
    assert oracles.standard_errors_off(ratios, 1.0) < 4.0
    model = labels.of_latents(stats, diag_normal, joint)
    np.testing.assert_allclose(
        labels.labelled_bound(KEY, stats.label, model),
        labels.labelled_bound(KEY, stats.label, diagonal_model(*as_float32(case))),
        rtol=1e-6,
    )


def test_the_vectors_of_a_guide_have_its_densities():
    case = labelled_mixture.make(*CASES[0])
    stats_of, guide, joint = vector_model(case)
    for label in (NOT_SEEN, 2):
        stats = stats_of(label)
        draw = jax.jit(jax.vmap(lambda key, stats=stats: guide.sample(key, stats)))
        vectors = draw(jax.random.split(KEY, 2000))
        one_hot = np.asarray(vectors[:, :3])
        np.testing.assert_array_equal(np.sort(one_hot, axis=1), np.tile([0.0, 0.0, 1.0], (2000, 1)))
        q = np.exp(stats.log_probs())
        np.testing.assert_allclose(one_hot.mean(axis=0), q, atol=4.0 * 0.5 / math.sqrt(2000))
        z, log_q = losses.sample_and_log_prob(KEY, stats, guide)
        np.testing.assert_allclose(log_q, guide.log_prob(stats, z), rtol=1e-5)
        kls = guide.sample_and_kls
        assert kls is not None
        found, terms = kls(KEY, stats, joint.prior)
        np.testing.assert_array_equal(found, z)
        given = stats.given(z[:3])
        np.testing.assert_allclose(terms["z"], given.kl_to_standard_normal(), rtol=1e-5)
        of_z = joint.prior._replace(of_z=joint.prior.of_z.log_prob)  # without a closed form
        expected = given.log_prob(z[3:]) - StandardNormal(2).log_prob(z[3:])
        np.testing.assert_allclose(kls(KEY, stats, of_z)[1]["z"], expected, rtol=1e-5)
    assert stats_of(2).log_probs().tolist() == [-np.inf, -np.inf, 0.0]


def test_the_prior_of_the_vector_is_normalized_and_drawn_from():
    log_probs = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    prior = LabelPrior(log_probs, DiagNormal(jnp.ones(2), jnp.zeros(2)))
    z = jnp.array([0.3, -0.4])
    each = [prior.log_prob(labels.join(jnp.int32(y), z, 3)) for y in range(3)]
    total = jax.nn.logsumexp(jnp.stack(each))
    np.testing.assert_allclose(total, prior.of_z.log_prob(z), rtol=1e-6)
    np.testing.assert_allclose(each[1] - total, log_probs[1], rtol=1e-5)
    draws = jax.vmap(prior.sample)(jax.random.split(KEY, 4000))
    expected = [0.2, 0.5, 0.3, 1.0, 1.0]
    assert oracles.standard_errors_off(draws, expected) < 4.0
