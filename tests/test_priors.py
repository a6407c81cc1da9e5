"""Priors p(z): their densities, their samples, and every prior with every guide in a model."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from belief_network import DISCRETE
from marks import slow_but
from oracles import standard_errors_off

from aevb import experiment, guides, likelihoods, priors, vae
from aevb.algorithms.base import Batch
from aevb.config import Config, default_config, validate
from aevb.distributions import DiagNormal
from aevb.errors import UserError
from aevb.evaluation import elbo
from aevb.experiment import Experiment
from aevb.guides import Sizes, diag_normal
from aevb.losses import BOUNDS, Guide, closed_kl
from aevb.networks import Network
from aevb.priors import AnyPrior, Options, Posterior

GUIDES = {name: make for name, make in guides.GUIDES.items() if name not in DISCRETE}
PRIORS = {name: make for name, make in priors.PRIORS.items() if name not in DISCRETE}
NUM_DRAWS = 20_000
NUM_LATENTS, NUM_COMPONENTS, NUM_DIMS = 2, 3, 4

RNG = np.random.default_rng(0)
ENCODER = RNG.normal(size=(NUM_DIMS, NUM_LATENTS)).astype(np.float32)
EXAMPLES = RNG.normal(size=(NUM_COMPONENTS, NUM_DIMS)).astype(np.float32)
LOG_VAR = np.array([-1.0, -2.0], np.float32)

every_prior = pytest.mark.parametrize("name", PRIORS)


def encode(x: Any) -> DiagNormal:
    return DiagNormal(jnp.tanh(x @ jnp.asarray(ENCODER)) * 2.0, jnp.asarray(LOG_VAR))


def options(**changes: Any) -> Options:
    return Options(
        NUM_LATENTS, NUM_COMPONENTS, lambda number: jnp.asarray(EXAMPLES[:number])
    )._replace(**changes)


# The parameters of `vamp` and `mixture` in these tests; a standard normal is a mixture of one.
MIXTURE = {
    "logits": jnp.float32([0.5, -1.0, 0.2]),
    "mean": jnp.float32([[2.0, -1.0], [0.0, 0.5], [-2.0, 1.5]]),
    "log_var": jnp.float32([[0.1, -0.7], [-1.0, 0.3], [0.5, -2.0]]),
}


def prior_of(name: str) -> AnyPrior:
    own = {"standard_normal": None, "mixture": MIXTURE, "vamp": {"pseudo_inputs": EXAMPLES}}[name]
    return PRIORS[name](options()).prior(own, Posterior(diag_normal, encode))


def components_of(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns weights [K], means [K, Z] and standard deviations [K, Z], by NumPy."""
    if name == "standard_normal":
        return np.ones(1), np.zeros((1, NUM_LATENTS)), np.ones((1, NUM_LATENTS))
    if name == "vamp":
        means = 2.0 * np.tanh(EXAMPLES.astype(np.float64) @ ENCODER)
        std = np.exp(0.5 * LOG_VAR.astype(np.float64))
        return np.full(3, 1 / 3), means, np.tile(std, (3, 1))
    weights = scipy.special.softmax(np.asarray(MIXTURE["logits"], np.float64))
    mean, log_var = (np.asarray(MIXTURE[part], np.float64) for part in ("mean", "log_var"))
    return weights, mean, np.exp(0.5 * log_var)


@every_prior
def test_the_density_of_a_prior_is_scipys_sum_of_weighted_normals(name: str):
    weights, means, stds = components_of(name)
    z = np.random.default_rng(1).normal(scale=2.0, size=(50, NUM_LATENTS)).astype(np.float32)
    log_each = scipy.stats.norm.logpdf(z[:, None], means, stds).sum(axis=2)
    exact = scipy.special.logsumexp(np.log(weights) + log_each, axis=1)
    found = jax.jit(jax.vmap(prior_of(name).log_prob))(jnp.asarray(z))
    np.testing.assert_allclose(found, np.asarray(exact), rtol=1e-5, atol=1e-5)


@every_prior
def test_samples_of_a_prior_have_its_density(name: str):
    """The checks are Kolmogorov-Smirnov on each marginal, at 1e-3 each, and a joint expectation."""
    weights, means, stds = components_of(name)
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    draws = np.asarray(jax.jit(jax.vmap(prior_of(name).sample))(keys), np.float64)

    def cdf_of(latent: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda z: (
            scipy.stats.norm.cdf(z[:, None], means[:, latent], stds[:, latent]) @ weights
        )

    for latent in range(NUM_LATENTS):
        assert scipy.stats.kstest(draws[:, latent], cdf_of(latent)).pvalue > 1e-3
    assert standard_errors_off(draws[:, 0] * draws[:, 1], weights @ np.prod(means, axis=1)) < 4


@pytest.mark.parametrize("name", GUIDES)
def test_a_vamp_of_any_guide_integrates_to_1(name: str):
    family = GUIDES[name](Sizes(NUM_LATENTS, 2, 4))
    own = family.init and family.init(jax.random.key(0))
    rng = np.random.default_rng(3)
    heads = {
        head: jnp.float32(0.2 * rng.normal(size=(NUM_DIMS, size)))
        for head, size in family.heads.items()
    }

    def encode(x: jax.Array) -> Any:
        return family.stats(own, {head: x @ kernel for head, kernel in heads.items()})

    prior = PRIORS["vamp"](options()).prior(
        {"pseudo_inputs": jnp.asarray(EXAMPLES)}, Posterior(family.guide, encode)
    )
    axis = np.linspace(-14.0, 14.0, 201).astype(np.float32)
    points = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1))
    log_p = jax.jit(jax.vmap(jax.vmap(prior.log_prob)))(points)
    density = np.exp(np.asarray(log_p, np.float64))
    assert max(np.max(density[[0, -1]]), np.max(density[:, [0, -1]])) < 1e-9
    assert np.trapezoid(np.trapezoid(density, axis), axis) == pytest.approx(1.0, abs=1e-5)


def test_a_mixture_starts_with_equal_weights_and_means_that_differ():
    """Components that start alike would stay alike."""
    family = PRIORS["mixture"](options(num_components=2000))
    assert family.init is not None
    own = family.init(jax.random.key(0))
    assert own["mean"].shape == (2000, NUM_LATENTS)
    assert scipy.stats.kstest(np.ravel(own["mean"]), scipy.stats.norm.cdf).pvalue > 1e-3
    np.testing.assert_array_equal(own["logits"], 0.0)
    np.testing.assert_array_equal(own["log_var"], 0.0)


@pytest.mark.parametrize("in_unit_interval", [True, False])
def test_pseudo_inputs_start_at_examples_and_those_of_pixels_stay_in_0_to_1(in_unit_interval: bool):
    """Pseudo-inputs of pixels stay in 0 to 1 even if their learned parameters are large."""
    pixels = np.array([[0.0, 1.0, 0.5, 0.25]] * NUM_COMPONENTS, np.float32)
    start = pixels if in_unit_interval else EXAMPLES
    family = PRIORS["vamp"](
        options(examples=lambda number: jnp.asarray(start), in_unit_interval=in_unit_interval)
    )
    assert family.init is not None
    own = family.init(jax.random.key(0))
    point = Guide(lambda key, stats: stats, lambda stats, z: jnp.sum(stats))
    keys = jax.random.split(jax.random.key(0), 100)

    def seen(own: Any) -> np.ndarray:
        """Returns the pseudo-inputs that the encoder gets, sorted."""
        prior = family.prior(own, Posterior(point, lambda x: x))
        return np.unique(np.asarray(jax.jit(jax.vmap(prior.sample))(keys)), axis=0)

    if not in_unit_interval:
        np.testing.assert_array_equal(seen(own), np.unique(EXAMPLES, axis=0))
        return
    np.testing.assert_allclose(seen(own)[0], [0.1, 0.9, 0.5, 0.3], rtol=1e-5)
    far = {"pseudo_inputs": 1e3 * own["pseudo_inputs"]}
    np.testing.assert_allclose(seen(far)[0], [0.0, 1.0, 0.5, 0.0], atol=1e-6)


def test_a_vamp_without_examples_is_refused():
    with pytest.raises(ValueError, match="examples"):
        PRIORS["vamp"](options(examples=None))


# In a model


def config_of(guide: str, prior: str, bound: str = "sgvb_a") -> Config:
    config = default_config()
    config.data.name = "synthetic"
    config.data.synthetic_num_train = 20
    config.model.likelihood = "gaussian"
    config.model.hidden = (4,)
    config.model.guide, config.model.prior = guide, prior
    config.model.guide_layers, config.model.guide_hidden = 2, 3
    config.model.prior_components = 5
    config.algorithm.bound = bound
    config.train.batch_size = 20
    return config


def build(guide: str, prior: str, bound: str = "sgvb_a") -> Experiment:
    return experiment.build(validate(config_of(guide, prior, bound)))


@pytest.mark.parametrize(
    ("guide", "prior"),
    slow_but(
        [("full_normal", "vamp")],
        [*((guide, "vamp") for guide in GUIDES), ("diag_normal", "mixture"), ("iaf", "mixture"),
         ("diag_normal", "standard_normal")], unpack=True,
    ),
)  # fmt: skip
def test_every_guide_and_every_prior_take_two_steps(guide: str, prior: str):
    """Each part of the parameters moves, and the outputs are finite and can be decoded."""
    built = build(guide, prior)
    batch = Batch(jnp.asarray(built.dataset.train), jnp.arange(20))
    start = jax.jit(built.algorithm.init)(jax.random.key(0))
    parts = {"encoder", "decoder"}
    parts |= {"guide"} if guide == "iaf" else set()
    parts |= {"prior"} if prior != "standard_normal" else set()
    assert start.params.keys() == parts

    update, state, metrics = jax.jit(built.algorithm.update), start, {}
    for number in range(2):
        state, metrics = update(jax.random.key(number), state, batch)
    z, x = jax.jit(built.vae.sample)(jax.random.key(2), state.params)
    assert np.isfinite(metrics["objective"])
    assert z.shape == (2,)
    assert np.all(np.isfinite(x))
    for part in parts:
        for before, after in zip(
            jax.tree.leaves(start.params[part]), jax.tree.leaves(state.params[part]), strict=True
        ):
            assert np.all(np.isfinite(after))
            assert np.any(before != after), part


@pytest.mark.parametrize("bound", ["sgvb_b", "beta_elbo", "free_bits"])
@pytest.mark.parametrize(
    ("guide", "prior"),
    [
        ("planar", "standard_normal"),
        ("iaf", "standard_normal"),
        ("diag_normal", "mixture"),
        ("full_normal", "vamp"),
    ],
)
def test_a_bound_that_needs_a_closed_kl_is_refused_in_a_model_without_one(
    guide: str, prior: str, bound: str
):
    with pytest.raises(UserError, match=r"sgvb_a.*config\.model\.guide.*config\.model\.prior"):
        build(guide, prior, bound)


@pytest.mark.parametrize("guide", ["diag_normal", "full_normal"])
def test_a_gaussian_guide_has_the_closed_kl_to_the_standard_normal(guide: str):
    dataset, model, _ = build(guide, "standard_normal", "sgvb_b")

    @jax.jit
    def found_and_expected(key: jax.Array, x: jax.Array) -> Any:
        params = model.init(key)
        stats = model.encode(params, x)
        kl = closed_kl(stats, model.guide, model.joint(params, x))
        return kl, stats.kl_to_standard_normal()

    found, expected = found_and_expected(jax.random.key(0), jnp.asarray(dataset.train[0]))
    assert found == expected


def test_encoder_and_decoder_are_drawn_from_the_same_keys_whatever_else_is_drawn():
    """They have the same bits as those of a model with nothing else to draw."""
    keys = Network(jax.random.key_data, lambda params, x: {})  # whose parameters are its key
    key = jax.random.key(3)
    expected = jax.random.key_data(jax.random.split(key))
    for guide, prior in itertools.product(("diag_normal", "iaf"), ("standard_normal", "mixture")):
        params = vae.make(
            keys,
            keys,
            likelihoods.gaussian,
            num_latents=NUM_LATENTS,
            guide_family=GUIDES[guide](Sizes(NUM_LATENTS)),
            prior_family=PRIORS[prior](options()),
        ).init(key)
        np.testing.assert_array_equal(params["encoder"], expected[0])
        np.testing.assert_array_equal(params["decoder"], expected[1])


def test_more_pseudo_inputs_than_data_are_refused():
    config = config_of("diag_normal", "vamp")
    config.model.prior_components = 21
    with pytest.raises(UserError, match=r"prior_components is 21.*at most the 20"):
        experiment.build(validate(config))


def test_pseudo_inputs_of_a_model_start_at_training_datapoints_as_it_sees_them():
    built = build("diag_normal", "vamp")
    start = jax.jit(built.vae.init)(jax.random.key(0))["prior"]["pseudo_inputs"]
    np.testing.assert_array_equal(start, built.dataset.train[[0, 4, 9, 14, 19]])


def test_the_score_of_a_model_is_a_bound_with_its_own_prior():
    """The oracle is eq. (6) with the prior taken from the parameters, one datapoint at a time."""
    built = build("diag_normal", "mixture")
    params = jax.jit(built.vae.init)(jax.random.key(0))
    score = elbo.make_score(built.vae, built.dataset.preprocess)
    found = score(params, built.dataset.train, np.arange(20))
    mixture = params["prior"]
    prior = priors.mixture(Options(2, 5)).prior(mixture, Posterior(diag_normal, lambda x: x))

    @jax.jit
    def bound(number: jax.Array, x: jax.Array) -> jax.Array:
        stats = built.vae.encode(params, x)
        joint = built.vae.joint(params, x)._replace(prior=prior)
        key = jax.random.fold_in(jax.random.key(elbo.NOISE_SEED), number)
        return BOUNDS["sgvb_a"](key, stats, diag_normal, joint)

    terms = [bound(jnp.asarray(n), jnp.asarray(built.dataset.train[n])) for n in range(20)]
    assert found.mean == pytest.approx(np.mean(terms), rel=1e-5)
