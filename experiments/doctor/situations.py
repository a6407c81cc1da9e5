"""Small runs in which something is wrong, with the cause; most rebuild what users report.

The causes are known because the runs are made: this file and `healthy.py` know nothing of the
diagnosis. It may be tuned on these runs. `held_out` has those that measure it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aevb.config import Values, validate, with_values
from aevb.experiments import own_data

from . import draws
from .draws import Draw

HEALTHY = "healthy"
CAUSES = (
    "posterior_collapse", "unscaled_data", "constant_columns", "variance_runs_away",
    "wrong_likelihood", "overfitting", "duplicates", "shuffled_film", "distribution_shift",
    "too_few_data", "step_too_large", "step_too_small", "exploding_gradients", "dead_units",
    "non_finite", "aggregate_far_from_prior", "below_baseline", "low_precision", "tiny_batches",
    "label_leak", "importance_weights",
)  # fmt: skip
SETS = ("tuning", "test")
COMMON = {  # unless a situation differs
    "model.hidden": (100,),
    "optimizer.step_size": 0.002,
    "train.num_examples": 400_000,
}


class Situation(NamedTuple):
    """A run with a known state: the experiment `own_data` with other data and settings."""

    name: str
    cause: str  # one of CAUSES, or HEALTHY
    set: str  # one of SETS
    description: str
    draw: Draw | None  # the data [N, ...] of a generator; None if the overrides name them
    overrides: Mapping[str, Any]  # fields of the config
    accepted: frozenset[str]  # the causes that are right answers; empty for a healthy run

    def values(self, seed: int, data: Path) -> Values:
        """Returns the validated config of a seed.

        Args:
            data: the file of the data, which `write_data` writes.

        Raises:
            UserError: a field has a value that is not allowed.
        """
        fields: dict[str, Any] = {**COMMON, "seed": seed, **self.overrides}
        if self.draw is not None:
            fields["data.name"] = f"file:{data}"
        elif fields["data.name"] == "synthetic":
            fields["data.synthetic_seed"] = seed
        return validate(with_values(own_data.get_config(), fields))

    def write_data(self, seed: int, data: Path) -> None:
        """Writes the data of a seed, unless they come with the package."""
        if self.draw is not None:
            np.save(data, self.draw(np.random.default_rng(seed)))


def situation(
    part: str,
    name: str,
    cause: str,
    description: str,
    draw: Draw | None,
    overrides: Mapping[str, Any],
    also: Sequence[str] = (),
) -> Situation:
    """Returns a situation of the set `part`, with further causes that are right answers."""
    accepted = frozenset(() if cause == HEALTHY else (cause, *also))
    return Situation(name, cause, part, description, draw, overrides, accepted)


_tuning = partial(situation, "tuning")

BETA, OF_BOUND = "algorithm.bound_options.beta", "algorithm.bound"
LIKELIHOOD, LATENTS, HIDDEN = "model.likelihood", "model.num_latents", "model.hidden"
KIND, STANDARDIZE, SPLIT = "data.kind", "data.standardize", "data.split"
OPTIMIZER, STEP_SIZE = "optimizer.name", "optimizer.step_size"
EXAMPLES, BATCH, PRIOR_STD = "train.num_examples", "train.batch_size", "algorithm.param_prior_std"
ACTIVATION = "model.network_options.activation"
RAW = {KIND: "real", STANDARDIZE: False}
BRAIN_FLOATS = {  # a linear model, which in float32 comes near the noise
    "model.compute_dtype": "bfloat16", HIDDEN: (), STEP_SIZE: 0.02, "optimizer.schedule": "cosine",
}  # fmt: skip

TUNING = (
    _tuning(
        "beta_of_forty", "posterior_collapse",
        "KL near 0 and one blurred picture for every input, with a large weight of the KL",
        draws.digits(2000, 12), {OF_BOUND: "beta_elbo", BETA: 40.0, LATENTS: 4},
    ),
    _tuning(
        "mean_over_times", "posterior_collapse",
        "squared errors are averaged over 64 columns, which gives the KL 64 times its weight",
        draws.waves(2000, 64, noise=0.5),
        {OF_BOUND: "beta_elbo", BETA: 64.0, LATENTS: 4},
    ),
    _tuning(
        "signal_below_the_noise", "posterior_collapse",
        "a table in which the factors are far weaker than the noise: all outputs nearly equal",
        draws.factors(12_000, 10, 2, noise=100.0), {LATENTS: 2}, ["below_baseline"],
    ),
    _tuning(
        "strong_weight_decay", "posterior_collapse",
        "weight decay holds the weights near 0, and the latents are unused",
        draws.waves(1500, 32), {PRIOR_STD: 0.002, LATENTS: 3}, ["below_baseline"],
    ),
    _tuning(
        "columns_of_thousands", "unscaled_data",
        "a table of years, incomes and rates, in their own units: the loss is huge and stays so",
        draws.in_units(draws.factors(2000, 12, 3), (1.0, 1000.0, 30.0), 500.0),
        {**RAW, LATENTS: 3}, ["exploding_gradients", "step_too_small", "below_baseline"],
    ),
    _tuning(
        "levels_as_numbers", "unscaled_data",
        "pixels 0..255 are given as real numbers, without a division by 255",
        draws.changed(draws.film(2000, 10), lambda x: x.astype(np.float32)),
        {**RAW, LATENTS: 3}, ["exploding_gradients", "step_too_small"],
    ),
    _tuning(
        "plain_background", "constant_columns",
        "pictures with a black margin and a learned variance: the loss falls without end",
        draws.changed(
            draws.film(2000, 8, speed=3.0), lambda x: np.pad(x / 255.0, ((0, 0), (3, 3), (3, 3)))
        ),
        {**RAW, LIKELIHOOD: "gaussian", LATENTS: 3}, ["variance_runs_away"],
    ),
    _tuning(
        "two_constant_columns", "constant_columns",
        "a table with two columns that never change, and a learned variance",
        draws.with_columns(draws.factors(2000, 8, 2), lambda x: 0.0 * x[:, :2] + 3.0),
        {LIKELIHOOD: "gaussian", LATENTS: 2}, ["variance_runs_away"],
    ),
    _tuning(
        "curves_without_noise", "variance_runs_away",
        "exact curves and a learned variance: the bound rises without end and jumps",
        draws.waves(2000, 16, noise=0.0), {LIKELIHOOD: "gaussian", LATENTS: 4},
        ["step_too_large"],
    ),
    _tuning(
        "ratings_as_numbers", "variance_runs_away",
        "ratings of one to five stars, most of them five, under a Gaussian of learned variance",
        draws.changed(
            draws.factors(2000, 12, 2, noise=0.3), lambda x: np.clip(np.round(x + 4.0), 1.0, 5.0)
        ),
        {**RAW, LIKELIHOOD: "gaussian", LATENTS: 2}, ["wrong_likelihood"],
    ),
    _tuning(
        "strokes_as_real_numbers", "wrong_likelihood",
        "binary pictures under a squared error",
        draws.digits(2000, 12), {KIND: "real", LIKELIHOOD: "gaussian_shared", LATENTS: 4},
        ["variance_runs_away", "constant_columns"],
    ),
    _tuning(
        "word_counts_as_real_numbers", "wrong_likelihood",
        "small word counts under a Gaussian",
        draws.topics(2000, 30, 4), {KIND: "real", LIKELIHOOD: "gaussian_shared", LATENTS: 3},
    ),
    _tuning(
        "heavy_tails", "wrong_likelihood",
        "a table with rare and very large values, which decide a Gaussian bound",
        draws.factors(2000, 10, 2, noise=0.3, tail=1.5), {LATENTS: 2}, ["unscaled_data"],
    ),
    _tuning(
        "a_hundred_faces", "overfitting",
        "few pictures and many passes: the validation loss rises, the training loss falls",
        None,
        {
            "data.name": "frey_faces", "data.num_train": 150, LIKELIHOOD: "gaussian",
            HIDDEN: (200, 200), LATENTS: 10, PRIOR_STD: 0.0, BATCH: 50, EXAMPLES: 200_000,
        },
        ["too_few_data"],
    ),
    _tuning(
        "large_net_small_table", "overfitting",
        "a large network on a table of some hundred rows",
        draws.factors(500, 20, 3),
        {LIKELIHOOD: "gaussian", HIDDEN: (200, 200), LATENTS: 5, PRIOR_STD: 0.0},
        ["too_few_data"],
    ),
    _tuning(
        "file_twice", "duplicates",
        "the export was appended to itself before the split",
        draws.twice(draws.factors(1000, 12, 3)), {SPLIT: "random", LATENTS: 3},
    ),
    _tuning(
        "oversampled_digits", "duplicates",
        "rows were drawn with replacement before the split, to balance the classes",
        draws.resampled(draws.digits(700, 14), 2500), {SPLIT: "random", LATENTS: 4},
        ["overfitting", "too_few_data"],
    ),
    _tuning(
        "frey_faces_at_random", "shuffled_film",
        "the frames of a film of a face are split at random",
        None,
        {
            "data.name": "frey_faces", SPLIT: "random", LATENTS: 4,
            LIKELIHOOD: "gaussian_unit_mean",
        },
        ["duplicates"],
    ),
    _tuning(
        "wandering_spot_at_random", "shuffled_film",
        "the frames of a synthetic film are split at random",
        draws.film(2000, 12, speed=0.01),
        {SPLIT: "random", LIKELIHOOD: "gaussian_shared", LATENTS: 3}, ["duplicates"],
    ),
    _tuning(
        "sorted_by_digit", "distribution_shift",
        "the file is sorted by label, and its end is held out",
        draws.changed(draws.digits(2500, 12, is_sorted=True), lambda x: x[::-1]), {LATENTS: 4},
    ),
    _tuning(
        "drifting_sensor", "distribution_shift",
        "the level of a sensor drifts over the rows, and the last rows are held out",
        draws.changed(
            draws.factors(2000, 10, 2), lambda x: x + np.linspace(0.0, 8.0, len(x))[:, None]
        ),
        {LATENTS: 2},
    ),
    _tuning(
        "forty_rows", "too_few_data",
        "a table of forty patients",
        draws.factors(40, 12, 2), {BATCH: 20, LATENTS: 2, EXAMPLES: 100_000}, ["overfitting"],
    ),
    _tuning(
        "thirty_pictures", "too_few_data",
        "a folder of thirty pictures",
        draws.digits(30, 10), {BATCH: 10, LATENTS: 4, EXAMPLES: 50_000}, ["overfitting"],
    ),
    _tuning(
        "adam_at_three_tenths", "step_too_large",
        "the loss jumps up and down from the start, with Adam's step at 0.3",
        draws.digits(2000, 12), {STEP_SIZE: 0.3, LATENTS: 4},
        ["exploding_gradients", "dead_units", "posterior_collapse", "below_baseline"],
    ),
    _tuning(
        "jumping_bound", "step_too_large",
        "the bound of a curve model falls back again and again, at a step of 0.05",
        draws.waves(2000, 32), {STEP_SIZE: 0.05, LATENTS: 4, HIDDEN: (100, 100)},
        ["exploding_gradients", "posterior_collapse", "below_baseline", "dead_units"],
    ),
    _tuning(
        "adam_at_a_millionth", "step_too_small",
        "the loss hardly falls, at a step of 1e-6",
        draws.digits(2000, 12), {STEP_SIZE: 1e-6, LATENTS: 4},
        ["below_baseline", "posterior_collapse"],
    ),
    _tuning(
        "plain_gradient_descent", "step_too_small",
        "SGD at a step of 1e-5 is still rising at the end",
        draws.waves(2000, 32), {OPTIMIZER: "sgd", STEP_SIZE: 1e-5, LATENTS: 4},
        ["below_baseline", "posterior_collapse"],
    ),
    _tuning(
        "gradient_descent_on_incomes", "exploding_gradients",
        "SGD on incomes in their own units ends in NaN within an epoch",
        draws.in_units(draws.factors(2000, 8, 2), (100.0,)),
        {**RAW, OPTIMIZER: "sgd", STEP_SIZE: 0.1, LATENTS: 2},
        ["non_finite", "unscaled_data", "step_too_large"],
    ),
    _tuning(
        "eight_wide_layers", "exploding_gradients",
        "eight layers of ReLUs whose weights start too large",
        draws.digits(2000, 12),
        {
            HIDDEN: (100,) * 8, ACTIVATION: "relu", "model.init": "normal",
            "model.init_std": 0.25, LATENTS: 4,
        },
        ["non_finite", "step_too_large", "dead_units"],
    ),
    _tuning(
        "dying_relus", "dead_units",
        "a large step at the start leaves most ReLUs at 0 for every input",
        draws.digits(2000, 12), {ACTIVATION: "relu", STEP_SIZE: 0.1, LATENTS: 4},
        ["step_too_large", "posterior_collapse"],
    ),
    _tuning(
        "saturated_tanh", "dead_units",
        "weights start at a standard deviation of 1: nearly every tanh is at -1 or 1",
        draws.digits(2000, 12),
        {"model.init": "normal", "model.init_std": 1.0, LATENTS: 4, PRIOR_STD: 0.0},
        ["exploding_gradients", "below_baseline"],
    ),
    _tuning(
        "a_missing_value", "non_finite",
        "one cell of the table is NaN",
        draws.with_value(draws.factors(1000, 8, 2), np.nan), {LATENTS: 2},
    ),
    _tuning(
        "a_huge_placeholder", "non_finite",
        "missing cells hold 1e30, whose square is no float32",
        draws.with_value(draws.factors(1000, 8, 2), 1e30, num_cells=3), {**RAW, LATENTS: 2},
        ["unscaled_data"],
    ),
    _tuning(
        "beta_of_a_hundredth", "aggregate_far_from_prior",
        "sharp reconstructions and samples that look like nothing, with a small KL weight",
        draws.digits(2500, 12), {OF_BOUND: "beta_elbo", BETA: 0.01, LATENTS: 8},
        ["overfitting"],
    ),
    _tuning(
        "weight_of_stable_training", "aggregate_far_from_prior",
        "a KL weight of 0.001, as copied from an image model",
        draws.waves(2000, 32), {OF_BOUND: "beta_elbo", BETA: 0.001, LATENTS: 6},
        ["overfitting"],
    ),
    _tuning(
        "one_variance_for_all", "below_baseline",
        "columns of a hundred times different spread share one variance",
        draws.in_units(draws.factors(2000, 12, 1), (1.0, 0.01, 0.1)), {**RAW, LATENTS: 2},
        ["unscaled_data", "wrong_likelihood"],
    ),
    _tuning(
        "weight_decay_of_biases", "below_baseline",
        "weight decay holds the biases too: the rate of every pixel stays near a half",
        draws.digits(2000, 14), {PRIOR_STD: 0.01, LATENTS: 3}, ["posterior_collapse"],
    ),
    _tuning(
        "brain_floats_of_exact_columns", "low_precision",
        "columns that are measured to a thousandth, with products in bfloat16",
        draws.factors(2000, 12, 3, noise=0.001), {**BRAIN_FLOATS, LATENTS: 3},
    ),
    _tuning(
        "brain_floats_of_many_columns", "low_precision",
        "a physical table with hardly any noise, trained with the settings of an accelerator",
        draws.factors(3000, 30, 2, noise=0.002), {**BRAIN_FLOATS, LATENTS: 2, BATCH: 50},
    ),
    _tuning(
        "one_row_at_a_time", "tiny_batches",
        "minibatches of one row, at a step that suits hundreds",
        draws.waves(1500, 24), {BATCH: 1, EXAMPLES: 40_000, STEP_SIZE: 0.01, LATENTS: 4},
        ["step_too_large", "posterior_collapse"],
    ),
    _tuning(
        "two_pictures_at_a_time", "tiny_batches",
        "minibatches of two pictures, since the memory is small",
        draws.digits(2000, 12), {BATCH: 2, EXAMPLES: 60_000, STEP_SIZE: 0.01, LATENTS: 4},
        ["step_too_large", "posterior_collapse"],
    ),
    _tuning(
        "row_numbers", "label_leak",
        "the table has the number of the row as its first column",
        draws.changed(
            draws.factors(1500, 8, 2), lambda x: np.column_stack([np.arange(len(x)), x])
        ),
        {SPLIT: "random", LATENTS: 3},
    ),
    _tuning(
        "column_twice", "label_leak",
        "two columns of the table are the same",
        draws.with_columns(draws.factors(1500, 8, 2), lambda x: x[:, :1]),
        {LIKELIHOOD: "gaussian", LATENTS: 3}, ["variance_runs_away"],
    ),
    _tuning(
        "many_correlated_latents", "importance_weights",
        "log p(x) changes by nats from one estimate to the next, with 30 latents",
        draws.factors(3000, 60, 30, noise=0.05),
        {HIDDEN: (), LATENTS: 30, STEP_SIZE: 0.01, EXAMPLES: 300_000},
    ),
    _tuning(
        "mean_over_pixels", "posterior_collapse",
        "the binary loss is averaged over 256 pixels: every picture becomes the mean picture",
        draws.shapes(2500, 16), {OF_BOUND: "beta_elbo", BETA: 256.0, LATENTS: 6},
    ),
    _tuning(
        "disentangled_to_nothing", "posterior_collapse",
        "a KL weight of 100 for disentanglement leaves no unit in use",
        draws.surface(2500, 15, noise=0.5), {OF_BOUND: "beta_elbo", BETA: 100.0, LATENTS: 5},
    ),
    _tuning(
        "weights_start_at_nothing", "posterior_collapse",
        "four layers start with weights near 0, and no gradient reaches the encoder",
        draws.shapes(2000, 14),
        {
            "model.init": "normal", "model.init_std": 0.0001, HIDDEN: (80,) * 4, LATENTS: 3,
            OPTIMIZER: "sgd", STEP_SIZE: 0.01,
        },
        ["step_too_small", "below_baseline"],
    ),
    _tuning(
        "answers_by_chance", "posterior_collapse",
        "a questionnaire whose answers are unrelated",
        draws.answers(8000, 16, num_traits=0), {LATENTS: 2}, ["below_baseline"],
    ),
    _tuning(
        "micrometres", "unscaled_data",
        "lengths are in metres, and vary by micrometres",
        draws.in_units(draws.clusters(2500, 9, 4), (1e-6,)), {**RAW, LATENTS: 3},
        ["step_too_small", "posterior_collapse", "below_baseline"],
    ),
    _tuning(
        "calendar_dates", "unscaled_data",
        "dates as seconds and prices in cents, beside rates",
        draws.in_units(draws.surface(2000, 10), (1e5, 1.0, 2500.0, 0.1), 1e4),
        {**RAW, LATENTS: 3}, ["exploding_gradients", "step_too_small", "below_baseline"],
    ),
    _tuning(
        "silent_genes", "constant_columns",
        "six genes that are never seen, and a learned variance for each column",
        draws.with_columns(
            draws.changed(draws.bursts(2500, 20), np.log1p), lambda x: 0.0 * x[:, :6]
        ),
        {KIND: "real", LIKELIHOOD: "gaussian", LATENTS: 4}, ["variance_runs_away"],
    ),
    _tuning(
        "dead_pixels", "constant_columns",
        "a camera with a row of dead pixels",
        draws.changed(
            draws.swing(2000, 12), lambda x: np.where(np.arange(12)[:, None] == 5, 255, x)
        ),
        {KIND: "grey", LIKELIHOOD: "gaussian", LATENTS: 3}, ["variance_runs_away"],
    ),
    _tuning(
        "dry_days", "variance_runs_away",
        "half of all rainfalls are exactly 0, under a Gaussian of learned variance",
        draws.changed(
            draws.surface(2500, 8, noise=0.4), lambda x: np.maximum(x - np.median(x), 0.0)
        ),
        {**RAW, LIKELIHOOD: "gaussian", LATENTS: 2}, ["wrong_likelihood"],
    ),
    _tuning(
        "simulated_without_noise", "variance_runs_away",
        "the output of a simulator, without noise",
        draws.surface(2500, 20, noise=0.0), {LIKELIHOOD: "gaussian", LATENTS: 3},
        ["step_too_large"],
    ),
    _tuning(
        "questionnaire_as_numbers", "wrong_likelihood",
        "yes/no answers under a squared error",
        draws.answers(2500, 25), {KIND: "real", LIKELIHOOD: "gaussian_shared", LATENTS: 2},
        ["variance_runs_away"],
    ),
    _tuning(
        "overdispersed_genes", "wrong_likelihood",
        "counts of genes with far more spread than a Poisson distribution has",
        draws.bursts(2500, 25, total_count=0.5),
        {KIND: "counts", LIKELIHOOD: "poisson", LATENTS: 3},
    ),
    _tuning(
        "incomes", "wrong_likelihood",
        "incomes and prices, which are skew, under a Gaussian",
        draws.changed(draws.clusters(2500, 8, 3), np.exp), {LATENTS: 3}, ["unscaled_data"],
    ),
    _tuning(
        "two_hundred_shapes", "overfitting",
        "the training loss falls and the validation loss rises, on 200 pictures",
        draws.shapes(300, 20),
        {HIDDEN: (200, 200), LATENTS: 8, PRIOR_STD: 0.0, BATCH: 50, EXAMPLES: 200_000},
        ["too_few_data"],
    ),
    _tuning(
        "many_passes", "overfitting",
        "a learned variance and hundreds of passes over some hundred curves",
        draws.bumps(400, 30),
        {LIKELIHOOD: "gaussian", HIDDEN: (150, 150), LATENTS: 6, PRIOR_STD: 0.0, BATCH: 40},
        ["too_few_data"],
    ),
    _tuning(
        "copies_in_the_test", "duplicates",
        "validation and test rows were taken from the training rows",
        draws.changed(
            draws.bumps(2000, 25), lambda x: np.concatenate([x[:1400], x[:600]])
        ),
        {LATENTS: 4},
    ),
    _tuning(
        "five_copies", "duplicates",
        "each picture is there five times, and the rows are split at random",
        draws.changed(draws.shapes(500, 14), lambda x: np.repeat(x, 5, axis=0)),
        {SPLIT: "random", LATENTS: 3}, ["overfitting", "too_few_data"],
    ),
    _tuning(
        "overlapping_windows", "shuffled_film",
        "windows of a series that overlap but for one value are split at random",
        draws.windows(2500, 24), {SPLIT: "random", LATENTS: 4}, ["duplicates"],
    ),
    _tuning(
        "swinging_bar_at_random", "shuffled_film",
        "the frames of a camera are split at random",
        draws.swing(1800, 14),
        {SPLIT: "random", LIKELIHOOD: "gaussian_shared", LATENTS: 4}, ["duplicates"],
    ),
    _tuning(
        "sorted_by_cluster", "distribution_shift",
        "the groups of a study follow one another in the file",
        draws.clusters(2500, 12, 5, is_sorted=True), {LATENTS: 4},
    ),
    _tuning(
        "lights_off", "distribution_shift",
        "the last pictures were taken with less light",
        draws.with_end(draws.spots(2000, 12), lambda x: 0.4 * x),
        {LIKELIHOOD: "gaussian_shared", LATENTS: 3},
    ),
    _tuning(
        "inches", "distribution_shift",
        "the last rows are in inches, and the others in centimetres",
        draws.with_end(draws.surface(2500, 10), lambda x: x / 2.54 + 3.0), {LATENTS: 2},
    ),
    _tuning(
        "sixty_curves", "too_few_data",
        "sixty measured curves",
        draws.bumps(60, 40), {BATCH: 20, LATENTS: 3, EXAMPLES: 100_000}, ["overfitting"],
    ),
    _tuning(
        "thirty_wide_rows", "too_few_data",
        "thirty samples of eighty genes",
        draws.changed(draws.bursts(30, 80), np.log1p),
        {KIND: "real", BATCH: 10, LATENTS: 2, EXAMPLES: 60_000}, ["overfitting"],
    ),
    _tuning(
        "adagrad_at_one", "step_too_large",
        "Adagrad at a step of 1: the loss never comes down",
        draws.shapes(2000, 14), {OPTIMIZER: "adagrad", STEP_SIZE: 1.0, LATENTS: 4},
        ["non_finite", "exploding_gradients", "dead_units", "posterior_collapse", "below_baseline"],
    ),
    _tuning(
        "deep_and_fast", "step_too_large",
        "a deeper network with the step of a shallow one falls back to the mean",
        draws.surface(2500, 15), {STEP_SIZE: 0.08, HIDDEN: (80, 80, 80), LATENTS: 3},
        ["exploding_gradients", "posterior_collapse", "below_baseline", "dead_units"],
    ),
    _tuning(
        "stopped_at_once", "step_too_small",
        "training ends after twenty steps, while the loss is still falling",
        draws.shapes(2500, 16),
        {EXAMPLES: 2000, "train.first_eval": 100, LATENTS: 4},
        ["below_baseline", "posterior_collapse"],
    ),
    _tuning(
        "adagrad_at_a_thousandth", "step_too_small",
        "Adagrad at 0.0003, whose steps shrink further, is still far from the end",
        draws.clusters(2500, 12, 5), {OPTIMIZER: "adagrad", STEP_SIZE: 0.0003, LATENTS: 4},
        ["below_baseline", "posterior_collapse"],
    ),
    _tuning(
        "sum_over_pixels", "exploding_gradients",
        "a step that suited the mean over pixels, with a loss that is their sum",
        draws.spots(2000, 16), {OPTIMIZER: "sgd", STEP_SIZE: 1.0, LATENTS: 4},
        ["non_finite", "step_too_large", "dead_units", "posterior_collapse", "below_baseline"],
    ),
    _tuning(
        "deep_residual_layers", "exploding_gradients",
        "twelve residual layers whose weights start too large",
        draws.surface(2000, 12),
        {
            "model.network": "residual_mlp", HIDDEN: (60,) * 12, ACTIVATION: "relu",
            "model.init": "normal", "model.init_std": 0.2, LATENTS: 3,
        },
        ["non_finite", "step_too_large"],
    ),
    _tuning(
        "silent_relus", "dead_units",
        "after some large steps most ReLUs answer 0 to every questionnaire",
        draws.answers(2000, 30),
        {ACTIVATION: "relu", STEP_SIZE: 0.1, HIDDEN: (60, 60), LATENTS: 2},
        ["step_too_large", "posterior_collapse", "below_baseline"],
    ),
    _tuning(
        "saturated_sigmoids", "dead_units",
        "sigmoids whose weights start too large are at 0 or 1 for every input",
        draws.shapes(2000, 16),
        {
            ACTIVATION: "sigmoid", "model.init": "normal", "model.init_std": 1.5, LATENTS: 3,
            PRIOR_STD: 0.0,
        },
        ["non_finite", "exploding_gradients", "below_baseline"],
    ),
    _tuning(
        "division_by_zero", "non_finite",
        "a ratio in the table is infinite",
        draws.with_value(draws.clusters(1500, 10, 3), np.inf, num_cells=2), {LATENTS: 2},
    ),
    _tuning(
        "momentum_runs_off", "non_finite",
        "the loss becomes NaN in the first epochs, with momentum",
        draws.surface(1500, 20),
        {
            OPTIMIZER: "sgd", "optimizer.options.momentum": 0.95, STEP_SIZE: 0.3, LATENTS: 3,
            LIKELIHOOD: "gaussian",
        },
        ["exploding_gradients", "step_too_large"],
    ),
    _tuning(
        "warm_up_longer_than_the_run", "aggregate_far_from_prior",
        "the weight of the KL is still at a hundredth when training ends",
        draws.shapes(2500, 16),
        {
            "algorithm.kl_schedule": "linear", LATENTS: 8,
            "algorithm.kl_schedule_options.warmup_examples": 20_000_000,
        },
        ["overfitting"],
    ),
    _tuning(
        "auto_encoder_for_samples", "aggregate_far_from_prior",
        "with a KL weight of 0.005 the samples are not like the data",
        draws.clusters(3000, 16, 6), {OF_BOUND: "beta_elbo", BETA: 0.005, LATENTS: 6},
        ["overfitting"],
    ),
    _tuning(
        "priors_of_rare_events", "below_baseline",
        "weight decay, of the biases too, keeps the rates of rare answers from being learned",
        draws.changed(draws.answers(2500, 40), lambda x: x * (np.arange(40) % 4 == 0)),
        {PRIOR_STD: 0.01, LATENTS: 2}, ["posterior_collapse"],
    ),
    _tuning(
        "mixed_precisions", "below_baseline",
        "instruments of very different accuracy share one variance",
        draws.in_units(draws.clusters(2500, 10, 2), (5.0, 0.02)), {**RAW, LATENTS: 2},
        ["unscaled_data", "wrong_likelihood"],
    ),
    _tuning(
        "brain_floats_of_simulations", "low_precision",
        "simulated data whose noise is below the rounding of bfloat16",
        None,
        {
            **BRAIN_FLOATS, "data.name": "synthetic", "data.synthetic_num_train": 2500,
            "data.synthetic_num_dims": 16, "data.synthetic_noise_std": 0.001, LATENTS: 2,
        },
    ),
    _tuning(
        "brain_floats_of_spectra", "low_precision",
        "mixtures of four exact spectra, with products in bfloat16",
        None,
        {
            **BRAIN_FLOATS, "data.name": "synthetic", "data.synthetic_num_dims": 40,
            "data.synthetic_num_latents": 4, "data.synthetic_noise_std": 0.003, LATENTS: 4,
        },
    ),
    _tuning(
        "one_at_a_time", "tiny_batches",
        "minibatches of one picture, as in a loop over files",
        draws.shapes(1500, 12), {BATCH: 1, EXAMPLES: 40_000, STEP_SIZE: 0.01, LATENTS: 3},
        ["step_too_large", "posterior_collapse"],
    ),
    _tuning(
        "three_rows_at_a_time", "tiny_batches",
        "minibatches of three rows at a large step",
        draws.clusters(1500, 10, 4), {BATCH: 3, EXAMPLES: 90_000, STEP_SIZE: 0.02, LATENTS: 3},
        ["step_too_large", "posterior_collapse"],
    ),
    _tuning(
        "celsius_and_fahrenheit", "label_leak",
        "a column is another in other units",
        draws.with_columns(draws.surface(2000, 8), lambda x: 1.8 * x[:, :1] + 32.0),
        {LIKELIHOOD: "gaussian", LATENTS: 3}, ["variance_runs_away"],
    ),
    _tuning(
        "patient_numbers", "label_leak",
        "the table has the patient's number as a column",
        draws.with_columns(
            draws.clusters(2000, 9, 3), lambda x: 10_000.0 + np.arange(len(x))[:, None]
        ),
        {SPLIT: "random", LATENTS: 3},
    ),
    _tuning(
        "narrow_posteriors", "importance_weights",
        "the logarithms of p(x) of 20 latents depend on the seed of the samples",
        None,
        {
            "data.name": "synthetic", "data.synthetic_num_train": 3000,
            "data.synthetic_num_dims": 30, "data.synthetic_num_latents": 20,
            "data.synthetic_noise_std": 0.3, LATENTS: 20, STEP_SIZE: 0.005,
        },
    ),
)  # fmt: skip
