"""Layers of latents by config: their exact bounds, what a run records of them, and refusals."""

from pathlib import Path
from typing import Any

import hierarchy
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from configs import changed
from marks import slow_but

from aevb import hierarchies, losses, networks, priors, runs
from aevb.classical import linear_gaussian
from aevb.config import Values
from aevb.distributions import DiagNormal
from aevb.errors import UserError
from aevb.experiment import build
from aevb.hierarchies import LayeredPrior, Layers
from aevb.networks import fan_in_init, mlp
from aevb.priors import Posterior
from aevb.reports import run_figures
from aevb.runs.in_memory import in_memory
from aevb.runs.trained import load_run

NUM_DRAWS = 20_000
SIZES = (3, 2)
LAYERS = Layers(SIZES)


def linear(num_inputs: int, size: int) -> networks.Network:
    """Returns a linear network."""
    heads: dict[str, int] = {"mean": size, "log_var": size}
    return mlp(num_inputs, heads, hidden=(), initialization=fan_in_init(1.0))


def layer(kernel: Any, bias: Any, log_var: Any) -> dict[str, Any]:
    """Returns the parameters of a linear network with this mean and a fixed log variance."""
    kernel, bias, log_var = map(np.asarray, (kernel, bias, log_var))
    return jax.tree.map(
        jnp.float32,
        {
            "mean": {"kernel": kernel.T, "bias": bias},
            "log_var": {"kernel": 0.0 * kernel.T, "bias": log_var},
        },
    )


def test_a_vector_is_cut_into_its_layers_and_joined_again():
    z = jnp.arange(6.0)
    layers = Layers((3, 2, 1))
    parts = layers.split(z)
    assert {name: part.tolist() for name, part in parts.items()} == {
        "z1": [0, 1, 2], "z2": [3, 4], "z3": [5],
    }  # fmt: skip
    np.testing.assert_array_equal(layers.join(parts), z)
    np.testing.assert_array_equal(layers.split(jnp.ones((4, 6)))["z2"], np.ones((4, 2)))


@pytest.mark.parametrize("order", hierarchy.ORDERS)
def test_linear_layers_have_the_exact_bound(order: str):
    """The networks of the families, with linear layers, are the model of the oracle."""
    case = hierarchy.make(order, 4, SIZES, 0)
    p = case.params
    below, top = linear(2, 3), priors.standard_normal(priors.Options(2))
    prior_family = hierarchies.prior_family(LAYERS, [below], top)
    noise = np.full(3, hierarchy.LOG_VARS["z1"])
    of_prior = {"z1": layer(p["W2"], np.zeros(3), noise)}
    heads = {"mean": jnp.float32(p["mean"]), "log_var": jnp.float32(p["log_var"])}
    if order == "bottom_up":
        family = hierarchies.bottom_up(LAYERS, [linear(3, 2)])
        own = {"z2": layer(p["slope"], p["level"], p["log_var_given"])}
    else:
        family = hierarchies.top_down(LAYERS, [linear(1 + 2, 3)], 1)
        slope = np.concatenate([np.zeros((3, 1)), p["slope"]], axis=1)
        own = {"z1": layer(slope, p["level"], p["log_var_given"])}
        heads["features"] = jnp.float32([7.0])
    stats = family.stats(own, heads)
    prior = prior_family.prior(of_prior, Posterior(family.guide, lambda x: stats))
    x = jnp.float32(case.x)
    whole = jax.tree.map(jnp.float32, p)
    joint = losses.Joint(prior, lambda z: hierarchy.joint_of(whole, x).log_lik(LAYERS.split(z)))
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    for bound in (losses.sgvb_a, losses.sgvb_b, losses.evidence_lower_bound):
        draws = jax.vmap(lambda key, bound=bound: bound(key, stats, family.guide, joint))(keys)
        expected = hierarchy.exact_elbo(case)
        assert oracles.standard_errors_off(np.asarray(draws, np.float64), expected) < 4.0
    # As parts, or as one vector
    z, log_q = losses.sample_and_log_prob(keys[0], stats, family.guide)
    assert z.shape == (5,)
    np.testing.assert_allclose(log_q, family.guide.log_prob(stats, z), rtol=1e-5)
    np.testing.assert_array_equal(z, family.guide.sample(keys[0], stats))
    of_function = losses.Joint(prior.log_prob, joint.log_lik)
    np.testing.assert_allclose(
        losses.sgvb_b(keys[0], stats, family.guide, of_function),
        losses.sgvb_a(keys[0], stats, family.guide, joint), rtol=1e-5,
    )  # fmt: skip


def test_a_product_of_gaussians_is_proportional_to_both():
    first = DiagNormal(jnp.float32([1.0, -2.0]), jnp.float32([0.5, -1.0]))
    second = DiagNormal(jnp.float32([0.0, 3.0]), jnp.float32([-0.3, 2.0]))
    product = hierarchies.combined(first, second)
    points = jnp.float32(np.random.default_rng(0).normal(size=(5, 2)))
    ratios = [first.log_probs(z) + second.log_probs(z) - product.log_probs(z) for z in points]
    np.testing.assert_allclose(ratios, np.tile(ratios[0], (5, 1)), rtol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_ladder_of_linear_layers_has_the_exact_bound(seed: int):
    """q(z1|z2, x) is p(z1|z2) times a Gaussian, in the oracle's terms a linear conditional."""
    case = hierarchy.make("top_down", 4, SIZES, seed)
    p = case.params
    of_prior = {"z1": layer(p["W2"], np.zeros(3), np.full(3, hierarchy.LOG_VARS["z1"]))}
    prior_networks = [linear(2, 3)]
    family = hierarchies.ladder(LAYERS, [linear(1, 2)], prior_networks, 1)
    assert family.shares_prior
    upward = layer(np.zeros((2, 1)), p["mean"], p["log_var"])
    heads = {"mean": p["level"], "log_var": p["log_var_given"], "features": np.zeros(1)}
    stats = family.stats({"z2": upward, "prior": of_prior}, jax.tree.map(jnp.float32, heads))
    precision = np.exp(-p["log_var_given"]) + np.exp(-hierarchy.LOG_VARS["z1"])
    given = {
        "slope": p["W2"] * (np.exp(-hierarchy.LOG_VARS["z1"]) / precision)[:, None],
        "level": p["level"] * np.exp(-p["log_var_given"]) / precision,
        "log_var_given": -np.log(precision),
    }
    expected = hierarchy.exact_elbo(case._replace(params={**p, **given}))
    top = priors.standard_normal(priors.Options(2))
    prior_of = hierarchies.prior_family(LAYERS, prior_networks, top).prior
    prior = prior_of(of_prior, Posterior(family.guide, lambda x: stats))
    whole, x = jax.tree.map(jnp.float32, p), jnp.float32(case.x)
    joint = losses.Joint(prior, lambda z: hierarchy.joint_of(whole, x).log_lik(LAYERS.split(z)))
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    draws = jax.vmap(lambda key: losses.sgvb_b(key, stats, family.guide, joint))(keys)
    assert oracles.standard_errors_off(np.asarray(draws, np.float64), expected) < 4.0


def test_the_gradient_of_a_ladders_prior_is_also_that_of_its_guide():
    vae = build(small(**{"model.inference": "ladder", "model.num_latents": (4, 3, 2)})).vae
    params = vae.init(jax.random.key(0))
    x = jnp.linspace(-1.0, 1.0, 10)

    def mean_of_z1(of_prior: Any) -> jax.Array:
        stats = vae.encode({**params, "prior": of_prior}, x)
        return jnp.sum(vae.guide.sample(jax.random.key(1), stats)[:4])

    slopes = jax.grad(mean_of_z1)(params["prior"])
    assert all(float(jnp.max(jnp.abs(leaf))) > 0 for leaf in jax.tree.leaves(slopes["z1"]["mean"]))
    assert set(params["guide"]) == {"z2", "z3"}


def test_a_ladder_with_a_learned_baseline_still_shares_its_prior():
    vae = build(small(**{"model.inference": "ladder", "algorithm.bound": "nvil"})).vae
    params, x = vae.init(jax.random.key(0)), jnp.zeros(10)
    stats, joint = vae.encode(params, x), vae.joint(params, x)
    assert np.isfinite(losses.nvil(jax.random.key(1), stats, vae.guide, joint))


def test_the_mean_below_the_top_follows_each_conditional_mean():
    layers = Layers((2, 2, 1))
    nets = [linear(2, 2), linear(1, 2)]
    family = hierarchies.prior_family(layers, nets, priors.standard_normal(priors.Options(1)))
    own = {
        "z1": layer([[1.0, 2.0], [0.0, 1.0]], [0.0, 1.0], [0.0, 0.0]),
        "z2": layer([[2.0], [3.0]], [0.0, 0.0], [0.0, 0.0]),
    }
    prior = family.prior(own, Posterior(losses.Guide(lambda k, s: s, lambda s, z: z), lambda x: x))
    assert isinstance(prior, LayeredPrior)
    np.testing.assert_allclose(prior.mean_below(jnp.ones(1)), [8.0, 4.0, 2.0, 3.0, 1.0])


def test_a_vamp_prior_of_the_top_is_made_of_its_own_posterior():
    """p(z2) = q(z2|u) for one pseudo-input u."""
    family = hierarchies.top_down(LAYERS, [linear(1 + 2, 3)], 1)
    options = priors.Options(2, 1, lambda number: jnp.ones((number, 4)))
    top = priors.vamp(options)
    prior_family = hierarchies.prior_family(LAYERS, [linear(2, 3)], top)
    assert prior_family.uses_encoder
    assert prior_family.init is not None
    assert family.init is not None
    own, of_guide = prior_family.init(jax.random.key(0)), family.init(jax.random.key(0))

    def encode(x: jax.Array) -> Any:
        heads = {"mean": x[:2], "log_var": x[2:4], "features": x[:1]}
        return family.stats(of_guide, heads)

    prior = prior_family.prior(own, Posterior(family.guide, encode))
    z = LAYERS.join({"z1": jnp.zeros(3), "z2": jnp.float32([0.5, -0.5])})
    expected = DiagNormal(jnp.ones(2), jnp.ones(2)).log_prob(jnp.float32([0.5, -0.5]))
    of_z1 = prior.prior.factor("z1", LAYERS.split(z)).log_prob(jnp.zeros(3))
    np.testing.assert_allclose(prior.log_prob(z) - of_z1, expected, rtol=1e-5)


# Runs


def small(**fields: Any) -> Values:
    short = {
        "data.name": "synthetic", "data.synthetic_num_train": 200, "model.hidden": (8,),
        "model.likelihood": "gaussian_shared", "model.num_latents": (3, 2),
        "model.layer_hidden": (6,), "train.num_examples": 2000, "train.first_eval": 500,
        "model.init": "fan_in", "optimizer.step_size": 0.05,
    }  # fmt: skip
    return changed(**{**short, **fields})


@pytest.mark.parametrize("inference", slow_but(["ladder"], ["bottom_up", "top_down", "ladder"]))
def test_a_run_records_the_rate_and_the_active_units_of_each_layer(inference: str, tmp_path: Path):
    values = small(**{"model.inference": inference})
    runs.run(values, tmp_path / "run")
    run = load_run(tmp_path / "run")
    last = run.history[-1]
    both = last["train_rate_z1"] + last["train_rate_z2"]
    assert both == pytest.approx(last["train_rate"], rel=1e-4)
    active = last["train_active_units_z1"] + last["train_active_units_z2"]
    assert active == last["train_active_units"]
    assert run.summary["test_bound"] > run.history[0]["train_bound"]
    z, x = run.model.sample(jax.random.key(0))
    assert z.shape == (5,)
    assert x.shape == (10,)
    key = jax.random.key(1)
    bound = run.model.bound(key, x, num_samples=2000)
    log_p = run.model.log_prob(key, x, num_samples=2000)
    assert bound < log_p < bound + 20.0


@pytest.mark.slow
def test_a_run_of_layers_goes_on_bitwise_as_if_it_had_not_stopped(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs.run(small(), whole)
    for num_examples in (1000, 2000):
        runs.run(small(**{"train.num_examples": num_examples}), parts)
    params = [load_run(folder).model.params for folder in (whole, parts)]
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_samples_of_the_top_layer_are_drawn():
    values = small(**{"data.name": "frey_faces", "model.likelihood": "gaussian_unit_mean"})
    experiment = build(values)
    params = experiment.vae.init(jax.random.key(0))
    images = run_figures.generated_images(experiment.vae, params, experiment.dataset.description)
    assert images["samples_of_top"].shape == images["samples"].shape == (10, 10, 28, 20)
    assert not np.array_equal(images["samples_of_top"], images["samples"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.guide": "full_normal"}, "is of one layer; set diag_normal"),
        ({"model.prior": "vamp"}, r"needs q\(z2\|x\).*set top_down"),
        ({"algorithm.name": "mcem"}, "has no encoder; use aevb"),
        ({"model.inference": "top_down", "model.layer_hidden": ()}, "set one size or more"),
        ({"model.inference": "ladder", "model.layer_hidden": ()}, "ladder takes .* features of x"),
        ({"model.num_latents": (3, 0)}, r"is \(3, 0\); it must be"),
        ({"model.num_latents": ()}, r"is \(\); it must be"),
        ({"algorithm.bound": "free_bits"}, "free_bits"),
    ],
)
def test_settings_that_layers_refuse_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        build(small(**fields))


def test_one_layer_in_a_tuple_is_the_plain_model():
    one, plain = (build(small(**{"model.num_latents": size})) for size in ((3,), 3))
    key = jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, one.vae.init(key), plain.vae.init(key))
    assert one.vae.layer_sizes == ()


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # needed by optax's Adam
@pytest.mark.parametrize("inference", ["bottom_up", "top_down", "ladder"])
def test_trained_linear_layers_reach_the_greatest_log_p(inference: str):
    """It is that of probabilistic PCA, of which the posterior is a diagonal Gaussian.

    Without a rise of the KL's weight a ladder keeps one unit of two (-9.6 nats, and not -7.6).
    """
    values = small(
        **{
            "model.inference": inference, "model.hidden": (), "model.num_latents": (2, 2),
            "data.synthetic_num_train": 4000, "data.synthetic_num_dims": 6,
            "model.layer_hidden": (16,), "algorithm.param_prior_std": 0.0,
            "optimizer.name": "adam", "optimizer.step_size": 5e-3, "optimizer.schedule": "cosine",
            "train.batch_size": 200, "train.num_examples": 1_200_000,
            "algorithm.kl_schedule": "linear" if inference == "ladder" else "constant",
        }
    )  # fmt: skip
    experiment = build(values)
    x = jnp.asarray(experiment.dataset.train)
    best = linear_gaussian.maximum_likelihood(x, 2)
    greatest = float(jnp.mean(jax.vmap(lambda one: linear_gaussian.log_prob(best, one))(x)))
    found = in_memory(values, experiment, "last").summary["train_bound"]
    assert greatest - 0.1 < found < greatest + 0.02
