"""The runs that measure the diagnosis: other data, sizes and settings than those it was tuned on.

They were written before the thresholds of the diagnosis were last changed, and have not been
changed since. Once their results have been used for a choice, they belong to the tuning set, and
others have to be written.
"""

from functools import partial

import numpy as np

from . import draws
from .situations import (
    ACTIVATION,
    BATCH,
    BETA,
    BRAIN_FLOATS,
    EXAMPLES,
    HEALTHY,
    HIDDEN,
    KIND,
    LATENTS,
    LIKELIHOOD,
    OF_BOUND,
    OPTIMIZER,
    PRIOR_STD,
    RAW,
    SPLIT,
    STEP_SIZE,
    Situation,
    situation,
)

_test = partial(situation, "test")
CAPACITY = {LIKELIHOOD: "gaussian", HIDDEN: (200, 200), LATENTS: 6, PRIOR_STD: 0.0}

FAULTS = (
    _test(
        "beta_of_sixty", "posterior_collapse",
        "a KL weight of 60 leaves one picture for every input",
        draws.strokes(2500, 14), {OF_BOUND: "beta_elbo", BETA: 60.0, LATENTS: 5},
    ),
    _test(
        "mean_over_samples_of_a_curve", "posterior_collapse",
        "squared errors are averaged over 48 times, and the KL is not",
        draws.decays(2000, 48, noise=0.3), {OF_BOUND: "beta_elbo", BETA: 48.0, LATENTS: 3},
    ),
    _test(
        "unrelated_counts", "posterior_collapse",
        "counts that do not depend on one another",
        draws.visits(6000, 12, num_habits=0),
        {KIND: "counts", LIKELIHOOD: "poisson", LATENTS: 2}, ["below_baseline"],
    ),
    _test(
        "milligrams", "unscaled_data",
        "columns in milligrams, kilometres and per cent, in their own units",
        draws.in_units(draws.cohorts(2500, 10, 3), (1e4, 1.0, 100.0)), {**RAW, LATENTS: 3},
        ["exploding_gradients", "step_too_small", "below_baseline", "step_too_large"],
    ),
    _test(
        "farads", "unscaled_data",
        "capacities in farads, which vary by picofarads",
        draws.in_units(draws.rings(2000, 8), (1e-9,)), {**RAW, LATENTS: 3},
        ["step_too_small", "posterior_collapse", "below_baseline", "variance_runs_away"],
    ),
    _test(
        "empty_fields", "constant_columns",
        "three fields of a form that nobody fills in",
        draws.with_columns(draws.cohorts(2000, 9, 3), lambda x: 0.0 * x[:, :3]),
        {LIKELIHOOD: "gaussian", LATENTS: 3}, ["variance_runs_away"],
    ),
    _test(
        "black_border", "constant_columns",
        "pictures with a border of two black pixels",
        draws.changed(draws.gratings(2000, 10), lambda x: np.pad(x, ((0, 0), (2, 2), (2, 2)))),
        {KIND: "grey", LIKELIHOOD: "gaussian", LATENTS: 3}, ["variance_runs_away"],
    ),
    _test(
        "exact_decays", "variance_runs_away",
        "computed curves, without noise, under a learned variance",
        draws.decays(2500, 24, noise=0.0), {LIKELIHOOD: "gaussian", LATENTS: 3},
        ["step_too_large"],
    ),
    _test(
        "sold_out", "variance_runs_away",
        "demand that is capped at the stock, so that a third of the values are equal",
        draws.changed(
            draws.rings(2500, 8, noise=0.4), lambda x: np.minimum(x, np.quantile(x, 0.65, axis=0))
        ),
        {LIKELIHOOD: "gaussian", LATENTS: 2}, ["wrong_likelihood", "constant_columns"],
    ),
    _test(
        "ink_as_real_numbers", "wrong_likelihood",
        "levels of ink from 0 to 16 under a squared error",
        draws.changed(draws.handwriting(1797), lambda x: x.reshape(len(x), -1)),
        {KIND: "real", LIKELIHOOD: "gaussian_shared", LATENTS: 4, EXAMPLES: 100_000},
        ["constant_columns", "unscaled_data"],
    ),
    _test(
        "closed_shops", "wrong_likelihood",
        "visits to shops that are closed on every third day, under a Poisson distribution",
        draws.visits(2500, 20, absent=0.33),
        {KIND: "counts", LIKELIHOOD: "poisson", LATENTS: 3},
    ),
    _test(
        "amounts", "wrong_likelihood",
        "amounts of money, which are skew, under a Gaussian",
        draws.changed(draws.cohorts(3000, 9, 2), np.exp), {LATENTS: 3},
        ["unscaled_data", "overfitting"],
    ),
    _test(
        "rare_spikes", "wrong_likelihood",
        "a detector with rare spikes that are far larger than its noise",
        draws.rings(3000, 12, noise=0.1, tail=1.6), {LATENTS: 2}, ["unscaled_data"],
    ),
    _test(
        "two_hundred_strokes", "overfitting",
        "hundreds of passes over some two hundred pictures",
        draws.strokes(300, 16),
        {
            HIDDEN: (200, 200), LATENTS: 8, PRIOR_STD: 0.0, BATCH: 50, EXAMPLES: 250_000,
        },
        ["too_few_data"],
    ),
    _test(
        "large_net_few_curves", "overfitting",
        "a learned variance and a large network on some hundred curves",
        draws.decays(350, 30), {**CAPACITY, BATCH: 40}, ["too_few_data"],
    ),
    _test(
        "merged_exports", "duplicates",
        "two exports that overlap were appended",
        draws.changed(draws.cohorts(1200, 10, 3), lambda x: np.concatenate([x, x[:800]])),
        {SPLIT: "random", LATENTS: 3},
    ),
    _test(
        "each_picture_thrice", "duplicates",
        "each picture was saved three times before the split",
        draws.changed(draws.gratings(800, 10), lambda x: np.repeat(x, 3, axis=0)),
        {SPLIT: "random", LIKELIHOOD: "gaussian_shared", LATENTS: 3},
        ["shuffled_film", "overfitting"],
    ),
    _test(
        "orbit_at_random", "shuffled_film",
        "the frames of a slow film are split at random",
        draws.orbit(2000, 12, speed=0.005),
        {SPLIT: "random", LIKELIHOOD: "gaussian_shared", LATENTS: 4}, ["duplicates"],
    ),
    _test(
        "sensors_at_random", "shuffled_film",
        "the minutes of a log of sensors are split at random",
        draws.readings(2500, 14), {SPLIT: "random", LATENTS: 4}, ["duplicates"],
    ),
    _test(
        "two_hospitals", "distribution_shift",
        "the patients of one hospital follow those of the other",
        draws.cohorts(2500, 12, 2, is_sorted=True), {LATENTS: 3}, ["overfitting"],
    ),
    _test(
        "new_lamp", "distribution_shift",
        "the last pictures were taken with another lamp",
        draws.with_end(draws.gratings(2000, 12), lambda x: 0.5 * x),
        {LIKELIHOOD: "gaussian_shared", LATENTS: 3}, ["overfitting"],
    ),
    _test(
        "worn_tool", "distribution_shift",
        "three measures drift while a tool wears off, and the last rows are held out",
        draws.changed(
            draws.rings(2500, 9),
            lambda x: x + np.linspace(0, 7, len(x))[:, None] * (np.arange(9) < 3),
        ),
        {LATENTS: 3}, ["overfitting"],
    ),
    _test(
        "fifty_decays", "too_few_data",
        "fifty measured curves",
        draws.decays(50, 30), {BATCH: 10, LATENTS: 3, EXAMPLES: 80_000}, ["overfitting"],
    ),
    _test(
        "twenty_five_gratings", "too_few_data",
        "a folder of twenty-five pictures",
        draws.gratings(25, 8),
        {BATCH: 5, LIKELIHOOD: "gaussian_shared", LATENTS: 3, EXAMPLES: 40_000}, ["overfitting"],
    ),
    _test(
        "rmsprop_at_a_fifth", "step_too_large",
        "RMSprop at a step of 0.2 jumps",
        draws.strokes(2000, 12), {OPTIMIZER: "rmsprop", STEP_SIZE: 0.2, LATENTS: 4},
        ["non_finite", "exploding_gradients", "dead_units", "posterior_collapse", "below_baseline"],
    ),
    _test(
        "adam_at_a_tenth", "step_too_large",
        "three layers with Adam at a step of 0.1",
        draws.cohorts(2500, 12, 3), {STEP_SIZE: 0.1, HIDDEN: (100, 100, 100), LATENTS: 3},
        ["non_finite", "exploding_gradients", "dead_units", "posterior_collapse", "below_baseline"],
    ),
    _test(
        "adamw_at_a_millionth", "step_too_small",
        "the loss creeps, at a step of 3e-6",
        draws.strokes(2500, 12), {OPTIMIZER: "adamw", STEP_SIZE: 3e-6, LATENTS: 4},
        ["below_baseline", "posterior_collapse"],
    ),
    _test(
        "creeping_descent", "step_too_small",
        "SGD at a step of 2e-5 is far from its end",
        draws.rings(2000, 16), {OPTIMIZER: "sgd", STEP_SIZE: 2e-5, LATENTS: 3},
        ["below_baseline", "posterior_collapse"],
    ),
    _test(
        "stopped_after_forty_steps", "step_too_small",
        "training was stopped while the loss was falling",
        draws.decays(2500, 32),
        {EXAMPLES: 4000, "train.first_eval": 200, LATENTS: 3},
        ["below_baseline", "posterior_collapse"],
    ),
    _test(
        "descent_on_a_sum", "exploding_gradients",
        "SGD at a step of 0.5 on a loss that is a sum over 144 pixels",
        draws.changed(draws.gratings(2000, 12), lambda x: x.astype(np.float32) / 255.0),
        {OPTIMIZER: "sgd", STEP_SIZE: 0.5, LATENTS: 3},
        ["non_finite", "step_too_large", "dead_units", "posterior_collapse", "below_baseline"],
    ),
    _test(
        "ten_layers", "exploding_gradients",
        "ten layers whose weights start too large",
        draws.cohorts(2000, 12, 3),
        {
            HIDDEN: (80,) * 10, ACTIVATION: "relu", "model.init": "normal",
            "model.init_std": 0.3, LATENTS: 3,
        },
        ["non_finite", "step_too_large", "dead_units", "posterior_collapse", "below_baseline"],
    ),
    _test(
        "huge_tanh_weights", "dead_units",
        "weights start at a standard deviation of 2: the layers are signs",
        draws.rings(2000, 14),
        {"model.init": "normal", "model.init_std": 2.0, LATENTS: 3, PRIOR_STD: 0.0},
        ["exploding_gradients", "below_baseline", "non_finite"],
    ),
    _test(
        "dead_after_some_steps", "dead_units",
        "a step of 0.2 leaves ReLUs that are 0 for every picture",
        draws.strokes(2000, 12),
        {ACTIVATION: "relu", STEP_SIZE: 0.2, HIDDEN: (60, 60), LATENTS: 3},
        ["step_too_large", "posterior_collapse", "below_baseline", "exploding_gradients"],
    ),
    _test(
        "sigmoids_at_the_ends", "dead_units",
        "sigmoids that are at 0 or 1 for nearly all curves",
        draws.decays(2000, 30),
        {
            ACTIVATION: "sigmoid", "model.init": "normal", "model.init_std": 2.0, LATENTS: 3,
            PRIOR_STD: 0.0,
        },
        ["exploding_gradients", "below_baseline", "non_finite"],
    ),
    _test(
        "logarithm_of_zero", "non_finite",
        "a logarithm of 0 in the table",
        draws.with_value(draws.cohorts(1500, 9, 2), -np.inf, num_cells=4), {LATENTS: 2},
    ),
    _test(
        "momentum_of_curves", "non_finite",
        "NaN in the first epoch, by a large step with momentum",
        draws.decays(1500, 40),
        {
            OPTIMIZER: "sgd", "optimizer.options.momentum": 0.95, STEP_SIZE: 0.5, LATENTS: 3,
            LIKELIHOOD: "gaussian",
        },
        ["exploding_gradients", "step_too_large"],
    ),
    _test(
        "sharp_strokes", "aggregate_far_from_prior",
        "a KL weight of 0.02: sharp reconstructions, and samples that are no strokes",
        draws.strokes(3000, 14), {OF_BOUND: "beta_elbo", BETA: 0.02, LATENTS: 6},
        ["overfitting"],
    ),
    _test(
        "endless_warm_up", "aggregate_far_from_prior",
        "the KL's weight has risen to a hundredth when training ends",
        draws.decays(3000, 32),
        {
            "algorithm.kl_schedule": "linear", LATENTS: 5,
            "algorithm.kl_schedule_options.warmup_examples": 40_000_000,
        },
        ["overfitting"],
    ),
    _test(
        "nearly_an_auto_encoder", "aggregate_far_from_prior",
        "a KL weight of 0.003 on spectra",
        draws.spectra(3000, 24, 4, noise=0.05), {OF_BOUND: "beta_elbo", BETA: 0.003, LATENTS: 5},
        ["overfitting"],
    ),
    _test(
        "stingy_weight_decay", "below_baseline",
        "weight decay keeps all rates near a half",
        draws.strokes(2500, 14), {PRIOR_STD: 0.008, LATENTS: 3}, ["posterior_collapse"],
    ),
    _test(
        "kelvin_and_bar", "below_baseline",
        "columns of very different spread share one variance",
        draws.in_units(draws.rings(2500, 10), (3.0, 0.015)), {**RAW, LATENTS: 2},
        ["unscaled_data", "wrong_likelihood"],
    ),
    _test(
        "brain_floats_of_mixtures", "low_precision",
        "exact mixtures of three spectra, with products in bfloat16",
        draws.spectra(2500, 30, 3, noise=0.001), {**BRAIN_FLOATS, LATENTS: 2},
    ),
    _test(
        "brain_floats_of_two_parts", "low_precision",
        "mixtures of two spectra that are measured to a thousandth",
        draws.spectra(3000, 16, 2, noise=0.0015), {**BRAIN_FLOATS, LATENTS: 1},
    ),
    _test(
        "one_stroke_at_a_time", "tiny_batches",
        "minibatches of one picture at a step for a hundred",
        draws.strokes(1500, 12), {BATCH: 1, EXAMPLES: 40_000, STEP_SIZE: 0.01, LATENTS: 3},
        ["step_too_large", "posterior_collapse", "below_baseline"],
    ),
    _test(
        "four_rows_at_a_time", "tiny_batches",
        "minibatches of four rows at a step for a hundred",
        draws.rings(1500, 10), {BATCH: 4, EXAMPLES: 100_000, STEP_SIZE: 0.02, LATENTS: 3},
        ["step_too_large", "posterior_collapse", "below_baseline"],
    ),
    _test(
        "serial_numbers", "label_leak",
        "the table has a serial number as its last column",
        draws.with_columns(
            draws.cohorts(2000, 8, 3), lambda x: 500.0 + np.arange(len(x))[:, None]
        ),
        {SPLIT: "random", LATENTS: 3},
    ),
    _test(
        "kilograms_and_pounds", "label_leak",
        "a weight is given in two units",
        draws.with_columns(draws.rings(2000, 9), lambda x: 2.2046 * x[:, 2:3]),
        {LIKELIHOOD: "gaussian", LATENTS: 3}, ["variance_runs_away"],
    ),
    _test(
        "shares_of_many_parts", "importance_weights",
        "log p(x) of mixtures of 25 spectra depends on the seed of the samples",
        draws.spectra(3000, 60, 25, noise=0.002),
        {HIDDEN: (), LATENTS: 24, STEP_SIZE: 0.01, EXAMPLES: 300_000},
    ),
)  # fmt: skip


def _healthy(name: str, description: str, draw, overrides) -> Situation:
    return situation("test", name, HEALTHY, description, draw, overrides)


HEALTHY_RUNS = (
    _healthy("strokes", "strokes and a Bernoulli", draws.strokes(4000, 14), {LATENTS: 6}),
    _healthy(
        "strokes_adamw", "weight decay in the optimizer",
        draws.strokes(3500, 12), {OPTIMIZER: "adamw", LATENTS: 5},
    ),
    _healthy(
        "strokes_iwae", "eight importance samples",
        draws.strokes(3000, 12),
        {OF_BOUND: "iwae", "algorithm.num_samples": 8, LATENTS: 4, EXAMPLES: 250_000},
    ),
    _healthy(
        "strokes_residual", "residual layers",
        draws.strokes(4000, 14),
        {"model.network": "residual_mlp", HIDDEN: (80, 80), LATENTS: 5},
    ),
    _healthy(
        "strokes_conv", "a small convolutional network",
        draws.strokes(3000, 14),
        {"model.network": "conv", HIDDEN: (6, 12), LATENTS: 5, STEP_SIZE: 0.004, EXAMPLES: 150_000},
    ),
    _healthy("cohorts", "a table of three groups", draws.cohorts(3500, 12, 3), {LATENTS: 4}),
    _healthy(
        "cohorts_vamp", "a VampPrior",
        draws.cohorts(3500, 10, 4), {"model.prior": "vamp", LATENTS: 4, OF_BOUND: "sgvb_a"},
    ),
    _healthy(
        "cohorts_leaky", "another activation and two layers",
        draws.cohorts(4000, 15, 2), {ACTIVATION: "leaky_relu", HIDDEN: (60, 60), LATENTS: 4},
    ),
    _healthy(
        "cohorts_in_batches_of_fifty", "smaller minibatches at a smaller step",
        draws.cohorts(3000, 10, 3), {BATCH: 50, STEP_SIZE: 0.001, LATENTS: 4},
    ),
    _healthy("rings", "a closed band", draws.rings(4000, 14, noise=0.3), {LATENTS: 3}),
    _healthy(
        "rings_cosine", "a step size that falls",
        draws.rings(3500, 10, noise=0.2), {"optimizer.schedule": "cosine", LATENTS: 3},
    ),
    _healthy(
        "rings_full_covariance", "a guide with a full covariance",
        draws.rings(3500, 12, noise=0.3), {"model.guide": "full_normal", LATENTS: 3},
    ),
    _healthy(
        "rings_heavy_tails", "heavy tails under a Student-t",
        draws.rings(4000, 12, noise=0.2, tail=3.0), {LIKELIHOOD: "student_t", LATENTS: 3},
    ),
    _healthy("decays", "noisy curves", draws.decays(3500, 28, noise=0.15), {LATENTS: 4}),
    _healthy(
        "decays_learned_variance", "curves under a variance that depends on z",
        draws.decays(4000, 20, noise=0.2), {LIKELIHOOD: "gaussian", LATENTS: 3},
    ),
    _healthy(
        "decays_cyclic", "a KL weight that rises in the first fifth",
        draws.decays(3500, 24, noise=0.2),
        {
            "algorithm.kl_schedule": "linear", LATENTS: 4,
            "algorithm.kl_schedule_options.warmup_examples": 80_000,
        },
    ),
    _healthy(
        "spectra_linear", "linear networks",
        draws.spectra(3500, 20, 4, noise=0.05), {HIDDEN: (), LATENTS: 3, STEP_SIZE: 0.005},
    ),
    _healthy(
        "spectra_average", "an average of the parameters",
        draws.spectra(3500, 24, 5, noise=0.05), {"algorithm.average_decay": 0.999, LATENTS: 4},
    ),
    _healthy(
        "gratings_unit_mean", "pictures in grey under a Gaussian with means in [0, 1]",
        draws.gratings(3500, 10, noise=16.0), {LIKELIHOOD: "gaussian_unit_mean", LATENTS: 4},
    ),
    _healthy(
        "gratings_levels", "grey levels with probabilities",
        draws.gratings(3500, 10, noise=12.0), {LIKELIHOOD: "discretized_logistic", LATENTS: 4},
    ),
    _healthy(
        "fast_orbit", "frames that differ from one another, split at random",
        draws.orbit(3500, 12, speed=1.0),
        {SPLIT: "random", LIKELIHOOD: "gaussian_shared", LATENTS: 4},
    ),
    _healthy(
        "visits_poisson", "counts of two habits",
        draws.visits(3500, 20), {KIND: "counts", LIKELIHOOD: "poisson", LATENTS: 3},
    ),
    _healthy(
        "visits_zero_inflated", "counts of which some are always 0",
        draws.visits(4000, 25, absent=0.2),
        {KIND: "counts", LIKELIHOOD: "zero_inflated_poisson", LATENTS: 3},
    ),
    _healthy(
        "handwriting", "scikit-learn's digits in black and white",
        draws.changed(draws.handwriting(1797), lambda x: (x > 7).astype(np.uint8)),
        {LATENTS: 4, EXAMPLES: 100_000, "train.patience": 10},
    ),
)  # fmt: skip
