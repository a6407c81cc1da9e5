"""Small runs in which nothing is wrong, of many kinds of data, models and settings.

A diagnosis must find nothing here: the bound is above that of a model without latents, the latents
are in use, and the validation bound does not fall far behind its best.
"""

from functools import partial

from . import draws
from .situations import (
    ACTIVATION,
    BATCH,
    EXAMPLES,
    HEALTHY,
    HIDDEN,
    KIND,
    LATENTS,
    LIKELIHOOD,
    OF_BOUND,
    OPTIMIZER,
    RAW,
    SPLIT,
    STEP_SIZE,
    Situation,
    situation,
)


def _healthy(part: str, name: str, description: str, draw, overrides) -> Situation:
    return situation(part, name, HEALTHY, description, draw, overrides)


_tuning = partial(_healthy, "tuning")

TUNING = (
    _tuning("digits", "digits and a Bernoulli", draws.digits(4000, 12), {LATENTS: 6}),
    _tuning(
        "digits_by_adagrad", "the paper's optimizer",
        draws.digits(4000, 10), {OPTIMIZER: "adagrad", STEP_SIZE: 0.05, LATENTS: 5},
    ),
    _tuning(
        "digits_iwae", "five importance samples",
        draws.digits(3000, 10),
        {OF_BOUND: "iwae", "algorithm.num_samples": 5, LATENTS: 4},
    ),
    _tuning(
        "digits_full_covariance", "a guide with a full covariance and the STL gradient",
        draws.digits(4000, 12), {"model.guide": "full_normal", OF_BOUND: "stl", LATENTS: 4},
    ),
    _tuning(
        "digits_vamp", "a VampPrior",
        draws.digits(4000, 12), {"model.prior": "vamp", LATENTS: 4, OF_BOUND: "sgvb_a"},
    ),
    _tuning(
        "digits_conv", "a small convolutional network",
        draws.digits(3000, 12),
        {"model.network": "conv", HIDDEN: (8, 16), LATENTS: 5, STEP_SIZE: 0.005, EXAMPLES: 250_000},
    ),
    _tuning(
        "digits_warm_up", "a KL weight that rises in the first quarter",
        draws.digits(4000, 14),
        {
            "algorithm.kl_schedule": "linear", LATENTS: 6,
            "algorithm.kl_schedule_options.warmup_examples": 100_000,
        },
    ),
    _tuning("factors", "a factor model", draws.factors(3000, 12, 3), {LATENTS: 3}),
    _tuning(
        "factors_linear", "linear networks: probabilistic PCA",
        draws.factors(3000, 20, 4), {HIDDEN: (), LATENTS: 4, STEP_SIZE: 0.005},
    ),
    _tuning(
        "factors_per_column", "factor analysis, with a variance for each column",
        draws.in_units(draws.factors(3000, 10, 2), (1.0, 20.0, 0.1), 50.0),
        {"model.likelihood_options.per_dim": True, LATENTS: 2},
    ),
    _tuning(
        "factors_in_small_batches", "minibatches of twenty at a smaller step",
        draws.factors(2500, 8, 2), {BATCH: 20, STEP_SIZE: 0.0005, LATENTS: 2},
    ),
    _tuning(
        "factors_unused_latents", "more latents than factors, of which some stay unused",
        draws.factors(4000, 16, 3), {LATENTS: 6},
    ),
    _tuning(
        "waves", "curves under a shared variance",
        draws.waves(3000, 32, noise=0.3), {LATENTS: 4},
    ),
    _tuning(
        "waves_learned_variance", "curves under a variance that depends on z",
        draws.waves(4000, 24, noise=0.3), {LIKELIHOOD: "gaussian", LATENTS: 4},
    ),
    _tuning(
        "waves_relu_cosine", "ReLUs, with a step that decays by a cosine",
        draws.waves(3000, 32, noise=0.3),
        {ACTIVATION: "relu", "optimizer.schedule": "cosine", LATENTS: 4},
    ),
    _tuning(
        "waves_mixture_prior", "a learned mixture as the prior",
        draws.waves(3000, 24, noise=0.2),
        {"model.prior": "mixture", "model.prior_components": 10, OF_BOUND: "sgvb_a", LATENTS: 4},
    ),
    _tuning(
        "waves_brain_floats", "bfloat16, where the noise is far larger than its rounding",
        draws.waves(3000, 24, noise=0.4), {"model.compute_dtype": "bfloat16", LATENTS: 4},
    ),
    _tuning(
        "topics_poisson", "word counts under a Poisson",
        draws.topics(3000, 30, 4), {KIND: "counts", LIKELIHOOD: "poisson", LATENTS: 4},
    ),
    _tuning(
        "topics_negative_binomial", "word counts, with the likelihood by the kind",
        draws.topics(3000, 40, 5, length=120.0), {KIND: "counts", LATENTS: 5},
    ),
    _tuning(
        "film_fast", "frames that differ from one another, split at random",
        draws.film(3000, 12, speed=3.0),
        {SPLIT: "random", LIKELIHOOD: "gaussian_shared", LATENTS: 4},
    ),
    _tuning(
        "film_levels", "grey levels with probabilities",
        draws.film(3000, 10, speed=3.0), {LIKELIHOOD: "discretized_logistic", LATENTS: 4},
    ),
    _tuning(
        "digits_reweighted_wake_sleep", "another algorithm, with five samples",
        draws.digits(3000, 10),
        {"algorithm.name": "reweighted_wake_sleep", "algorithm.num_samples": 5, LATENTS: 4},
    ),
    _tuning("shapes", "shapes and a Bernoulli", draws.shapes(4000, 16), {LATENTS: 6}),
    _tuning(
        "shapes_rmsprop", "another optimizer",
        draws.shapes(3500, 12), {OPTIMIZER: "rmsprop", LATENTS: 5},
    ),
    _tuning(
        "shapes_dreg", "importance samples with a doubly reparameterized gradient",
        draws.shapes(3000, 12), {OF_BOUND: "dreg", "algorithm.num_samples": 4, LATENTS: 5},
    ),
    _tuning(
        "shapes_gated", "a gated network",
        draws.shapes(3500, 14), {"model.network": "gated_mlp", LATENTS: 5},
    ),
    _tuning(
        "shapes_free_bits", "one free nat",
        draws.shapes(3500, 14), {OF_BOUND: "free_bits", LATENTS: 5},
    ),
    _tuning(
        "shapes_conv", "convolutions of sixteen pixels",
        draws.shapes(2500, 16),
        {"model.network": "conv", HIDDEN: (6, 12), LATENTS: 5, STEP_SIZE: 0.005, EXAMPLES: 150_000},
    ),
    _tuning("surface", "a curved surface", draws.surface(3500, 15, noise=0.2), {LATENTS: 3}),
    _tuning(
        "surface_iaf", "an inverse autoregressive flow",
        draws.surface(3000, 12, noise=0.3),
        {
            "model.guide": "iaf", "model.guide_layers": 2, "model.guide_hidden": 30,
            OF_BOUND: "sgvb_a", LATENTS: 3, EXAMPLES: 200_000,
        },
    ),
    _tuning(
        "surface_momentum", "gradient descent with momentum and clipping",
        draws.surface(3000, 10, noise=0.3),
        {
            OPTIMIZER: "sgd", "optimizer.options.momentum": 0.9, STEP_SIZE: 0.005,
            "optimizer.clip": "global_norm", "optimizer.clip_at": 10.0, LATENTS: 3,
        },
    ),
    _tuning(
        "surface_of_unit_scale", "real data that need no standardization",
        draws.changed(draws.surface(3000, 12, noise=0.2), lambda x: x / 2.0),
        {**RAW, LATENTS: 3},
    ),
    _tuning(
        "surface_residual", "residual layers",
        draws.surface(3500, 20, noise=0.3),
        {"model.network": "residual_mlp", HIDDEN: (60, 60), LATENTS: 3},
    ),
    _tuning("clusters", "five clusters", draws.clusters(3500, 12, 5), {LATENTS: 4}),
    _tuning(
        "clusters_mixture_prior", "a prior with a component for each cluster",
        draws.clusters(3500, 10, 4),
        {"model.prior": "mixture", "model.prior_components": 8, OF_BOUND: "sgvb_a", LATENTS: 4},
    ),
    _tuning(
        "clusters_in_large_batches", "minibatches of 500 at a larger step",
        draws.clusters(4000, 15, 4),
        {BATCH: 500, STEP_SIZE: 0.003, EXAMPLES: 500_000, LATENTS: 4},
    ),
    _tuning("answers", "a questionnaire of two traits", draws.answers(4000, 30), {LATENTS: 2}),
    _tuning(
        "answers_beta", "a KL weight a little above 1",
        draws.answers(3500, 40), {OF_BOUND: "beta_elbo", "algorithm.bound_options.beta": 1.5},
    ),
    _tuning(
        "genes", "counts with overdispersion",
        draws.bursts(3500, 30), {KIND: "counts", LATENTS: 4},
    ),
    _tuning(
        "clusters_elu", "three clusters, with another activation",
        draws.clusters(3500, 18, 3), {ACTIVATION: "elu", HIDDEN: (80, 40), LATENTS: 5},
    ),
    _tuning("bumps", "curves with one peak", draws.bumps(3500, 30, noise=0.1), {LATENTS: 4}),
    _tuning(
        "spots", "noisy pixels in [0, 1] under a continuous Bernoulli",
        draws.spots(3500, 14, noise=0.25), {LATENTS: 4},
    ),
    _tuning(
        "swing", "a film whose every position recurs, and whose end is held out",
        draws.swing(3000, 12), {LIKELIHOOD: "gaussian_unit_mean", LATENTS: 2},
    ),
    _tuning(
        "synthetic", "the package's linear-Gaussian data, at their own noise",
        None,
        {
            "data.name": "synthetic", "data.synthetic_num_train": 3000,
            "data.synthetic_num_dims": 12, "data.synthetic_num_latents": 3, LATENTS: 3,
        },
    ),
)  # fmt: skip
