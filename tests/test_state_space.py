"""State-space models by config: their exact bounds, runs of windows, and refusals."""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import state_space as exact
from configs import changed
from marks import slow_but

from aevb import config, hierarchies, likelihoods, losses, networks, priors, runs, state_space
from aevb.config import Values
from aevb.distributions import DiagNormal, StandardNormal
from aevb.errors import UserError
from aevb.experiment import build
from aevb.networks import fan_in_init, mlp
from aevb.priors import Posterior
from aevb.reports import run_figures
from aevb.runs.trained import load_run
from aevb.sequences import Markov

NUM_FRAMES, NUM_LATENTS, NUM_FEATURES = 4, 2, 3
SIZES = state_space.Sizes(NUM_FRAMES, NUM_LATENTS, NUM_FEATURES)
KEY = jax.random.key(0)


def between(num_inputs: int, heads: Any, **others: Any) -> networks.Network:
    return mlp(num_inputs, heads, **({"hidden": (5,), "initialization": fan_in_init(1.0)} | others))


def drawn(tree: Any, seed: int = 0, scale: float = 0.3) -> Any:
    """Returns parameters of the same shapes, all random."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.float32(scale * rng.normal(size=leaf.shape)), tree)


def prior_of(dynamics: str, own: Any = None) -> tuple[state_space.SequencePrior, Any]:
    first = priors.standard_normal(priors.Options(NUM_LATENTS))
    family = state_space.prior_family(dynamics, SIZES, between, first)
    assert family.init is not None
    own = drawn(family.init(KEY)) if own is None else own
    unused = Posterior(losses.Guide(lambda key, s: s, lambda s, z: z), lambda x: x)
    return family.prior(own, unused), own


def guide_of(kind: str, seed: int = 1) -> tuple[losses.Guide, Any, Any]:
    """Returns a guide, and the function of features [T, H] that gives its statistics."""
    family = state_space.sequence_family(kind, SIZES, between).of_vector(SIZES)
    assert family.init is not None
    own = drawn(family.init(KEY), seed)
    return family.guide, lambda features: family.stats(own, {"features": features}), family


FEATURES = jnp.float32(np.random.default_rng(5).normal(size=(NUM_FRAMES, NUM_FEATURES)))


# The families


def test_the_prior_without_weights_is_stationary():
    """Every z_t is N(0, I), and neighbors have the correlation 0.9."""
    for dynamics in state_space.DYNAMICS:
        _, own = prior_of(dynamics)
        prior, _ = prior_of(dynamics, jax.tree.map(jnp.zeros_like, own))
        z = jax.vmap(prior.sample)(jax.random.split(KEY, 20_000))
        lags = np.abs(np.subtract.outer(np.arange(NUM_FRAMES), np.arange(NUM_FRAMES)))
        expected = np.kron(0.9**lags, np.eye(NUM_LATENTS))
        np.testing.assert_allclose(np.cov(z, rowvar=False), expected, atol=0.05)


@pytest.mark.parametrize("dynamics", state_space.DYNAMICS)
def test_the_prior_of_a_vector_is_that_of_its_frames(dynamics: str):
    prior, own = prior_of(dynamics)
    z = prior.sample(KEY)
    assert z.shape == (NUM_FRAMES * NUM_LATENTS,)
    frames = z.reshape(NUM_FRAMES, NUM_LATENTS)
    expected = StandardNormal(NUM_LATENTS).log_prob(frames[0])
    network = between(NUM_LATENTS, dict.fromkeys(hierarchies.HEADS, NUM_LATENTS))
    if dynamics == "linear":
        heads = {"mean": NUM_LATENTS}
        network = between(NUM_LATENTS, heads, hidden=(), constants={"log_var": (NUM_LATENTS,)})
    for before, now in itertools.pairwise(frames):
        found = network.apply(own["transition"], before)
        mean, log_var = 0.9 * before + found["mean"], jnp.log(0.19) + found["log_var"]
        expected += DiagNormal(mean, log_var).log_prob(now)
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", slow_but(["filtering", "structured"], state_space.GUIDES))
def test_every_guide_has_a_normalized_density_and_terms_of_its_rate(kind: str):
    """The importance weights q'/q of two of its distributions have mean 1."""
    guide, stats_of, _ = guide_of(kind)
    stats, other = stats_of(FEATURES), stats_of(FEATURES + 0.1)
    prior, _ = prior_of("neural")

    @jax.jit
    @jax.vmap
    def of(key: jax.Array) -> Any:
        z, log_q = losses.sample_and_log_prob(key, stats, guide)
        assert guide.sample_and_kls is not None
        _, kls = guide.sample_and_kls(key, stats, prior)
        return (
            z,
            log_q - guide.log_prob(stats, z),
            guide.log_prob(other, z) - log_q,
            kls,
            (log_q - prior.log_prob(z)),
        )

    z, off, log_w, kls, rates = of(jax.random.split(KEY, 4000))
    assert z.shape == (4000, NUM_FRAMES * NUM_LATENTS)
    np.testing.assert_allclose(off, 0.0, atol=2e-4)
    assert oracles.standard_errors_off(np.exp(np.asarray(log_w, np.float64)), 1.0) < 4.0
    assert set(kls) == {"first", "transitions"}
    difference = np.asarray(kls["first"] + kls["transitions"] - rates, np.float64)
    assert oracles.standard_errors_off(difference, 0.0) < 4.0


def test_guides_depend_on_the_frames_that_their_names_say():
    """Of the last frame's features: smoothing alone passes them to the first latent."""
    changed_last = FEATURES.at[-1].add(1.0)
    changed_first = FEATURES.at[0].add(1.0)
    moved = {}
    for kind in state_space.GUIDES:
        guide, stats_of, _ = guide_of(kind)
        z, *others = (
            guide.sample(KEY, stats_of(features)).reshape(NUM_FRAMES, -1)
            for features in (FEATURES, changed_last, changed_first)
        )
        moved[kind] = tuple(
            bool(jnp.any(jnp.abs(other[t] - z[t]) > 1e-6))
            for other, t in zip(others, (0, -1), strict=True)
        )
    assert moved == {
        "smoothing": (True, True),  # x_1 through z_1, z_2, ...
        "filtering": (False, True),
        "mean_field": (True, True),
        "structured": (True, True),
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_structured_guide_with_the_parameters_of_a_linear_model_is_its_posterior(seed: int):
    """With its dynamics those of p, and the factors of a frame those of a linear likelihood."""
    case = exact.make(NUM_FRAMES, NUM_LATENTS, 3, seed, missing=())
    params = jax.tree.map(jnp.float32, case.params)
    noise = {"log_var": jnp.full(NUM_LATENTS, exact.LOG_VARS["z"] - state_space.LOG_NOISE)}
    slope = params["slope"] - 0.9 * jnp.eye(NUM_LATENTS)
    # N(x; W z + b, S) with a square W is, as a function of z, N(z; W^-1 (x - b), W^-1 S W^-1'),
    # which is diagonal for a diagonal W.
    weights, x = jnp.float32([0.8, -1.3]), jnp.float32(case.x[:, :NUM_LATENTS])
    of_frame = {
        "mean": {"kernel": jnp.diag(1.0 / weights), "bias": jnp.zeros(NUM_LATENTS)},
        "log_var": {
            "kernel": jnp.zeros((NUM_LATENTS, NUM_LATENTS)),
            "bias": jnp.float32(exact.LOG_VARS["x"]) - jnp.log(jnp.square(weights)),
        },
    }

    def linear(num_inputs: int, heads: Any, **others: Any) -> networks.Network:
        return between(num_inputs, heads, **{**others, "hidden": ()})

    sizes = SIZES._replace(num_features=NUM_LATENTS)
    family = state_space.sequence_family("structured", sizes, linear).of_vector(sizes)
    chain = {"slope": slope, "level": params["level"], **noise}
    stats = family.stats({"frame": of_frame, "chain": chain}, {"features": x})
    of_linear = params | {
        "start": jnp.zeros(NUM_LATENTS), "weights": jnp.diag(weights), "bias": jnp.zeros(2),
    }  # fmt: skip
    transition = exact.prior_of(of_linear, NUM_FRAMES).transition
    markov = Markov(StandardNormal(NUM_LATENTS), transition, NUM_FRAMES)
    log_lik = exact.log_lik_of(of_linear)
    joint = losses.Joint(
        state_space.SequencePrior(sizes, markov),
        lambda z: jnp.sum(jax.vmap(log_lik)(z.reshape(NUM_FRAMES, -1), x)),
    )
    log_w = losses.log_weights(KEY, stats, family.guide, joint, num_samples=20)
    np.testing.assert_allclose(log_w, log_w[0], atol=2e-4)


def test_a_likelihood_of_frames_is_the_product_of_its_frames():
    frame = likelihoods.LIKELIHOODS["gaussian_shared"](3, per_dim=True)
    both = state_space.likelihood_of_frames(frame, 2)
    x = jnp.float32(np.random.default_rng(0).normal(size=6))
    mean = jnp.float32(np.random.default_rng(1).normal(size=(2, 3)))
    log_std = jnp.float32([0.1, -0.4, 0.3])
    heads = {"mean": mean, "log_std": jnp.stack([log_std, log_std])}
    each = [
        frame.log_probs({"mean": mean[t], "log_std": log_std}, x[3 * t : 3 * t + 3]) for t in (0, 1)
    ]
    np.testing.assert_allclose(both.log_probs(heads, x), np.concatenate(each), rtol=1e-6)
    np.testing.assert_array_equal(both.mean(heads), mean.ravel())
    draws = jax.vmap(lambda key: both.sample(key, heads))(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(np.std(draws, axis=0), np.tile(np.exp(log_std), 2), rtol=0.03)
    assert abs(np.corrcoef(draws[:, 0], draws[:, 3])[0, 1]) < 0.03  # each frame has its own noise


# Runs


def small(**fields: Any) -> Values:
    short = {
        "data.name": "frey_faces", "data.window": 3, "data.num_train": 60, "model.hidden": (8,),
        "model.likelihood": "gaussian_shared", "model.num_latents": 2, "model.layer_hidden": (6,),
        "model.dynamics": "linear", "train.num_examples": 400, "train.first_eval": 200,
        "train.batch_size": 20, "train.eval_examples": 40, "model.init": "fan_in",
        "optimizer.step_size": 0.02,
    }  # fmt: skip
    return changed(**{**short, **fields})


@pytest.mark.slow
@pytest.mark.parametrize("kind", state_space.GUIDES)
def test_a_run_of_windows_improves_and_records_the_rate_of_the_transitions(
    kind: str, tmp_path: Path
):
    values = small(**{"model.sequence_guide": kind, "model.dynamics": "neural"})
    runs.run(values, tmp_path / "run")
    run = load_run(tmp_path / "run")
    last = run.history[-1]
    rates = last["train_rate_first"] + last["train_rate_transitions"]
    assert rates == pytest.approx(last["train_rate"], rel=1e-3, abs=1e-2)
    assert run.summary["test_bound"] > run.history[0]["valid_bound"]
    z, x = run.model.sample(KEY)
    assert z.shape == (6,)
    assert x.shape == (3 * 560,)
    frames = run.decode(z)
    assert frames.shape == (3, 28, 20)
    for name in ("bound", "samples", "reconstructions"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").is_file()


@pytest.mark.slow
def test_log_p_of_a_window_is_estimated_from_the_laplace_approximation(tmp_path: Path):
    runs.run(small(), tmp_path / "run")
    run = load_run(tmp_path / "run")
    _, x = run.model.sample(KEY)
    bound = run.model.bound(KEY, x, num_samples=200)
    assert bound < run.model.log_prob(KEY, x, num_samples=1000)


@pytest.mark.slow
def test_a_run_of_windows_goes_on_bitwise_as_if_it_had_not_stopped(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs.run(small(), whole)
    for num_examples in (200, 400):
        runs.run(small(**{"train.num_examples": num_examples}), parts)
    params = [load_run(folder).model.params for folder in (whole, parts)]
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_windows_without_dynamics_are_datapoints_of_the_plain_model():
    experiment = build(small(**{"model.dynamics": ""}))
    assert experiment.vae.num_latents == 2
    assert experiment.dataset.train.shape == (60, 3 * 560)
    params = experiment.vae.init(KEY)
    images = run_figures.generated_images(experiment.vae, params, experiment.dataset.description)
    assert images["samples"].shape == (10, 10, 3 * 28, 20)


def test_a_state_space_model_has_the_shared_noise_of_one_frame_and_starts_at_its_mean():
    values = small(**{"model.likelihood_options.per_dim": True, "model.init_at_mean": True})
    experiment = build(values)
    params = experiment.vae.init(KEY)
    assert params["decoder"]["log_std"].shape == (560,)
    frames = np.asarray(experiment.dataset.train, np.float64).reshape(-1, 560) / 256.0
    np.testing.assert_allclose(params["decoder"]["mean"]["bias"], frames.mean(axis=0), rtol=1e-4)


def test_the_bound_of_standardized_frames_is_in_their_own_units(tmp_path: Path):
    """A column in another unit adds its log to the bound, once for each frame."""
    x = np.random.default_rng(0).normal(size=(300, 3))
    bounds = []
    for name, scale in (("one", 1.0), ("two", 100.0)):
        np.save(tmp_path / f"{name}.npy", x * scale)
        values = small(**{
            "data.name": f"file:{tmp_path}/{name}.npy", "data.kind": "real", "data.num_train": 0,
        })  # fmt: skip
        vae = build(values).vae
        params = vae.init(KEY)
        standardized = jnp.zeros(9)
        bounds.append(vae.joint(params, standardized).log_lik(jnp.zeros(6)))
    np.testing.assert_allclose(bounds[0] - bounds[1], 9 * np.log(100.0), rtol=1e-4)


def test_missing_frames_by_config_leave_bounds_and_gradients_finite(tmp_path: Path):
    x = np.random.default_rng(0).normal(size=(100, 4))
    x[::3], x[1, 0] = np.nan, np.nan
    np.save(tmp_path / "gaps.npy", x)
    values = small(**{
        "data.name": f"file:{tmp_path}/gaps.npy", "data.kind": "real", "data.missing": True,
        "data.num_train": 0,
    })  # fmt: skip
    dataset, vae, _ = build(values)
    window = jnp.asarray(dataset.train[0])

    def bound(params: Any, x: jax.Array) -> jax.Array:
        return losses.sgvb_b(KEY, vae.encode(params, x), vae.guide, vae.joint(params, x))

    params = vae.init(KEY)
    value, gradient = jax.jit(jax.value_and_grad(bound))(params, window)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    none = vae.joint(params, jnp.full_like(window, jnp.nan)).log_lik(jnp.zeros(6))
    assert none == 0.0


def test_the_choices_of_a_config_are_those_of_the_families():
    assert config.DYNAMICS == state_space.DYNAMICS
    assert config.SEQUENCE_GUIDES == state_space.GUIDES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.num_latents": (3, 2)}, "has layers; set one number, of a frame"),
        ({"model.guide": "iaf"}, "is of one datapoint; set config.model.sequence_guide"),
        ({"model.prior": "vamp"}, "use mixture"),
        ({"algorithm.name": "mcem"}, "has no encoder; use aevb"),
        ({"model.layer_hidden": ()}, "whose first number is that of the features"),
        ({"data.split": "random"}, "data.split is 'random'; use data in the order of time"),
        ({"data.window": 0}, "'linear', which is of windows of frames; set config.data.window"),
        ({"data.window": 1}, "data.window is 1; it must be 0, or at least 2"),
        ({"data.name": "mnist"}, "data.split is 'standard'; use data in the order of time"),
        ({"data.window": 300}, "the valid split of frey_faces has 200 frames"),
        ({"model.sequence_guide": "rnn"}, "it must be one of smoothing, filtering"),
    ],
)
def test_settings_that_windows_or_dynamics_refuse_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        build(small(**fields))


def test_an_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="direction is 'sideways'; it must be one of forward"):
        networks.recurrent(2, 3, size=4, direction="sideways")
