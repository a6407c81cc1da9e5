"""Every setting: its default, its meaning and its allowed values, with their validation.

The rest of the package sees validated values, not a ConfigDict. This file imports neither jax nor
numpy, so that `--help` and the message about a wrong setting appear without delay.
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference

from aevb import registry
from aevb.errors import UserError
from aevb.runtime.paths import absolute
from aevb.storage.metrics_log import read_with_digest

Config = Any
"""An ml_collections.ConfigDict; a type checker does not know its fields."""

Values = Mapping[str, Any]
"""A validated config, with every field: {"model.num_latents": 2, ...}."""


class Field(NamedTuple):
    """One setting."""

    name: str  # dotted, as on the command line after "--config."
    default: Any
    help: str
    allowed: str  # the allowed values in words, for the error message
    accepts: Callable[[Any], bool]  # called only with a value of the default's type


class DataChoices(NamedTuple):
    """The choices that a dataset offers; the first of each is the default."""

    splits: tuple[str, ...]
    binarizations: tuple[str, ...]


VALUE_KINDS = ("binary", "grey", "unit", "real", "counts")  # equal to `data.kinds.KINDS`
LIKELIHOOD_OF = {  # the likelihood of a config that leaves it to the kind of the data
    "binary": "bernoulli",
    "grey": "continuous_bernoulli",
    "unit": "continuous_bernoulli",
    "real": "gaussian_shared",
    "counts": "negative_binomial",
}
HIDDEN = ("entries", "blocks")  # equal to `data.gaps.WAYS`; a test checks it
DYNAMICS = ("linear", "neural")  # equal to `state_space.DYNAMICS`
SEQUENCE_GUIDES = ("smoothing", "filtering", "mean_field", "structured")  # to its `GUIDES`
LABEL_MODELS = ("conditional", "m2")
NOISES = ("minibatch", "datapoint", "local")  # equal to `full_vb.NOISES`; a test checks it
DATASETS = {  # choices of the package's datasets; a test checks that they match
    "binarized_mnist": DataChoices(("standard", "train+validation"), ("none",)),
    "frey_faces": DataChoices(("blocked", "random"), ("none",)),
    "mnist": DataChoices(("standard",), ("dynamic", "fixed", "none")),
    "synthetic": DataChoices(("standard",), ("none",)),
}
PREFIXES = {  # prefixes of the names of datasets that are not part of the package
    "tfds:": DataChoices(("train,test",), ("none", "dynamic")),
    "file:": DataChoices(("blocked", "random"), ("none", "dynamic", "fixed")),
    "images:": DataChoices(("blocked", "random"), ("none", "dynamic", "fixed")),
    "array:": DataChoices(("blocked", "random"), ("none", "dynamic", "fixed")),
}
OPTIONS = {
    "data.options": "data.name",
    "model.network_options": "model.network",
    "model.likelihood_options": "model.likelihood",
    "model.guide_options": "model.guide",
    "model.prior_options": "model.prior",
    "algorithm.options": "algorithm.name",
    "algorithm.bound_options": "algorithm.bound",
    "algorithm.kl_schedule_options": "algorithm.kl_schedule",
    "optimizer.options": "optimizer.name",
    "optimizer.schedule_options": "optimizer.schedule",
}
"""The sections of keyword arguments, each with the field that names the entry they are for.

They are empty by default. Their fields are known only when the entry is made.
"""
KINDS = {
    "data.name": "dataset",
    "model.network": "network",
    "model.init": "initialization",
    "model.likelihood": "likelihood",
    "model.guide": "guide",
    "model.prior": "prior",
    "algorithm.name": "algorithm",
    "algorithm.bound": "bound",
    "algorithm.kl_schedule": "schedule",
    "optimizer.schedule": "schedule",
}
"""The fields that name an entry of the registry, with the kind of entry."""
LATENTS = "model.num_latents"
ENTRIES = "entries"
"""The key of the digest of an experiment's file that brings entries, in a validated config."""


def _one_of(names: tuple[str, ...]) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(names)}", lambda value: value in names


def _entry() -> tuple[str, Callable[[Any], bool]]:
    """Returns placeholders for a field in KINDS; `validate` checks it against the registry."""
    return "", lambda value: True


def _at_least(low: float) -> tuple[str, Callable[[Any], bool]]:
    return f"at least {low}", lambda value: low <= value < math.inf


def _up_to(high: int) -> tuple[str, Callable[[Any], bool]]:
    """Returns the description and the check of a number from 1 to `high`.

    The limit is for settings that cost memory or time. It is far above any sensible value, but
    below values that would make the machine unresponsive.
    """
    return f"at least 1 and at most {high:,}", lambda value: 1 <= value <= high


def _are_sizes(values: Sequence[Any], most: int) -> bool:
    return all(type(value) is int and 1 <= value <= most for value in values)


def layers_of(num_latents: int | tuple[int, ...]) -> tuple[int, ...]:
    """Returns the sizes of the layers of latents that `model.num_latents` names."""
    return num_latents if isinstance(num_latents, tuple) else (num_latents,)


def total_latents(values: Values) -> int:
    """Returns the size of the vector z of a validated config, over all layers or frames."""
    frames = values["data.window"] if values["model.dynamics"] else 1
    return frames * sum(layers_of(values[LATENTS]))


def _seed() -> tuple[str, Callable[[Any], bool]]:
    return "at least 0 and below 2^32", lambda value: 0 <= value < 2**32


def _above_zero() -> tuple[str, Callable[[Any], bool]]:
    return "a finite number above 0", lambda value: 0 < value < math.inf


def _anything(words: str) -> tuple[str, Callable[[Any], bool]]:
    return words, lambda value: True


def has_path(name: str) -> bool:
    """Returns whether a dataset's name holds a path to the user's own data."""
    return name.startswith(("file:", "images:"))


def _prefix(name: str) -> str:
    """Returns the prefix in PREFIXES that a dataset's name begins with, or ""."""
    return next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")


MOST_STEPS = 2**31 - 2  # the largest step count that a training state can hold

# These settings change the use of files, memory and devices, but not what is computed.
WITHOUT_EFFECT = (
    "data.access",
    "data.dir",
    "data.manual_dir",
    "data.memory_share",
    "train.checkpoint_seconds",
    "train.keep_checkpoints",
    "train.num_devices",
    "train.tensorboard",
    "train.wandb",
)

FIELDS = (
    Field("seed", 0, "seed of all randomness: parameters, minibatches, samples", *_seed()),
    Field(
        "data.name", "frey_faces", "the dataset. tfds:NAME is an image dataset that TFDS has "
        "prepared in data.dir; file:FILE is a table of numbers (.csv, .tsv, .parquet) or an "
        "array (.npy, .npz, .mat), one row per datapoint; images:FOLDER is a folder of images of "
        "one size (png, jpg, tif, webp, bmp, pgm), or of a subfolder of them for each class",
        *_entry(),
    ),
    Field(
        "data.kind", "", "file:FILE: binary (0 and 1), grey (levels 0..255), unit (pixels in "
        "[0, 1]), real or counts (0, 1, 2, ...); '' guesses: bool, and only 0 and 1, are binary, "
        "floating point in [0, 1] is unit and other real, whole numbers are grey in an array and "
        "real in a table",
        *_one_of(("", *VALUE_KINDS)),
    ),
    Field(
        "data.key", "", "file:FILE: name of the array, if an .npz or .mat file holds several",
        *_anything("a name"),
    ),
    Field(
        "data.standardize", True, "file:FILE: real data are standardized by the training data, "
        "each column of a table, and images by one mean and one scale; the bound is that of the "
        "data in their own units",
        *_anything("True or False"),
    ),
    Field(
        "data.split", "", "how training, validation and test data are chosen; '' is the dataset's "
        "first split. frey_faces, file:FILE, images:FOLDER: blocked (the last fifth is test data) "
        "or random (as in the literature; of a film, near-copies of each test frame are trained "
        "on); with class folders, within each class. tfds:NAME: two or three TFDS splits, such as "
        "train[:80%],train[80%:]",
        *_anything("a split of the dataset"),
    ),
    Field(
        "data.binarization", "", "'' is the dataset's first. mnist, file:FILE, images:FOLDER: "
        "dynamic (drawn anew each time), fixed (drawn once) or none (grey levels)",
        *_anything("a binarization of the dataset"),
    ),
    Field(
        "data.grey_scale", 256.0, "grey level k becomes k / grey_scale; 255 reaches 1, but "
        "likelihoods of levels and data.dequantize need 256, at which the levels tile [0, 1]",
        "255.0 or 256.0", lambda value: value in (255.0, 256.0),
    ),
    Field(
        "data.dequantize", False, "grey level k becomes (k + u) / 256 with u uniform on [0, 1), "
        "drawn anew in each step and fixed in evaluations. The bound of a density, such as a "
        "gaussian one, then bounds the bits per dimension; without it a density has none",
        *_anything("True or False"),
    ),
    Field(
        "data.dir", "", "where datasets are prepared; '' is $TFDS_DATA_DIR or "
        "~/tensorflow_datasets",
        *_anything("a folder"),
    ),
    Field(
        "data.manual_dir", "", "folder of the files that you downloaded yourself, directly or in "
        "a subfolder named as the dataset; '' is downloads/manual in data.dir",
        *_anything("a folder"),
    ),
    Field(
        "data.missing", False, "file:FILE: NaN, and a blank of a table, is a value that was not "
        "seen; the bound is on log p of what was seen, and the encoder is told what was",
        *_anything("True or False"),
    ),
    Field(
        "data.hide", "", "takes values away, for a study of missing data: entries hides pixels, or "
        "values, independently of one another; blocks hides a rectangle of each image; '' nothing",
        *_one_of(("", *HIDDEN)),
    ),
    Field(
        "data.hide_share", 0.5, "the share of the values that data.hide takes away",
        "above 0 and below 1", lambda value: 0 < value < 1,
    ),
    Field(
        "data.num_train", 0, "N, the number of training datapoints used, evenly spaced; 0 for all",
        *_at_least(0),
    ),
    Field(
        "data.num_valid", -1, "number of validation datapoints, on which choices are made; they "
        "are not trained on. -1 is the dataset's own number; with 0 no checkpoint is the best, and "
        "the bound of the test data is followed during training",
        *_at_least(-1),
    ),
    Field(
        "data.window", 0, "T: the datapoints are windows of T frames in a row, of data in the "
        "order of time with data.split=blocked: all windows of the training data, and of the "
        "others those that do not overlap; 0 for single frames. data.num_valid counts frames",
        "0, or at least 2 and at most 10,000", lambda value: value == 0 or 2 <= value <= 10**4,
    ),
    Field(
        "data.num_labels", -1, "number of training datapoints whose class a model is shown "
        "(model.labels), as many of each class as of any other; 0 for all labels of the data, -1 "
        "for none, which are then not read",
        *_at_least(-1),
    ),
    Field("data.label_seed", 0, "seed of the draw of these datapoints", *_seed()),
    Field(
        "data.access", "auto", "memory: training data are copied to the device; stream: "
        "minibatches are read from disk; auto: stream if the data exceed data.memory_share",
        *_one_of(("auto", "memory", "stream")),
    ),
    Field(
        "data.memory_share", 0.25, "auto: the largest fraction of the device's memory for "
        "training data",
        "between 0 and 1", lambda value: 0 <= value <= 1,
    ),
    Field("data.synthetic_num_train", 1000, "synthetic: training datapoints", *_up_to(10**8)),
    Field("data.synthetic_num_test", 1000, "synthetic: test datapoints", *_up_to(10**8)),
    Field("data.synthetic_num_dims", 10, "synthetic: data dimensions", *_up_to(10**6)),
    Field("data.synthetic_num_latents", 2, "synthetic: true latent dimensions", *_up_to(10**5)),
    Field("data.synthetic_noise_std", 0.5, "synthetic: observation noise", *_above_zero()),
    Field("data.synthetic_seed", 0, "synthetic: seed of the parameters and the data", *_seed()),
    Field(
        "model.network", "mlp", "architecture of encoder and decoder: mlp (option activation), "
        "gated_mlp, residual_mlp (activation); for images conv, residual_conv (both: activation, "
        "num_blocks) and gated_conv",
        *_entry(),
    ),
    Field(
        LATENTS, 2, "latent dimensions; a tuple such as (100, 50) for several layers "
        "of them, from the data upward",
        "at least 1 and at most 100,000, or a tuple of at most 10 such numbers",
        lambda value: _are_sizes(layers_of(value), 10**5) and 1 <= len(layers_of(value)) <= 10,
    ),
    Field(
        "model.inference", "bottom_up", "several layers: bottom_up is q(z1|x) q(z2|z1) with "
        "p(x|z1) (Burda et al. 2015); top_down is q(z2|x) q(z1|z2, x) with p(x|z1, z2) (Tomczak & "
        "Welling 2018); ladder is q(z2|x) q(z1|z2, x), the prior p(z1|z2) times a Gaussian of x, "
        "with p(x|z1) (Sonderby et al. 2016)",
        *_one_of(("bottom_up", "top_down", "ladder")),
    ),
    Field(
        "model.layer_hidden", (100, 100), "several layers, model.dynamics: hidden units of each "
        "network between latents; model.labels: of that from features of x and y to q(z|x, y), and "
        "first the number of features",
        "a tuple of at most 100 whole numbers from 1 to 1,000,000, such as (100, 100)",
        lambda value: len(value) <= 100 and _are_sizes(value, 10**6),
    ),
    Field(
        "model.dynamics", "", "data.window: a state-space model p(z_t|z_{t-1}) p(x_t|z_t) with "
        "model.num_latents for each frame, whose transition is linear or neural (a network with "
        "model.layer_hidden); model.hidden is of a frame, and model.prior of the first. '' for a "
        "model that takes a window as one datapoint without time",
        *_one_of(("", *DYNAMICS)),
    ),
    Field(
        "model.sequence_guide", "smoothing", "model.dynamics: smoothing is q(z_t|z_{t-1}, "
        "x_t..x_T) by recurrent units backward in time, filtering q(z_t|z_{t-1}, x_1..x_t), "
        "mean_field q(z_t|x); structured is a Gaussian with a block-tridiagonal precision. They "
        "have model.layer_hidden[0] units and features of a frame",
        *_one_of(SEQUENCE_GUIDES),
    ),
    Field(
        "model.labels", "", "conditional: p(x|y, z) of the class y, with all labels seen; m2: p(y) "
        "p(z) p(x|y, z), in which y is summed over where data.num_labels does not show it (Kingma "
        "et al. 2014); '' ignores the classes",
        *_one_of(("", *LABEL_MODELS)),
    ),
    Field(
        "model.hidden", (200,), "units of each hidden layer of the encoder; the decoder has them "
        "in reverse order. () for linear networks. conv, residual_conv: channels of each layer, "
        "which halves the image. gated_conv: channels of layers of strides 1, 2, 1, ..., and last "
        "the units of a layer of the whole image",
        "a tuple of at most 100 whole numbers from 1 to 1,000,000, such as (200,)",
        lambda value: len(value) <= 100 and _are_sizes(value, 10**6),
    ),
    Field(
        "model.compute_dtype", "float32", "dtype of the networks' matrix products; parameters, "
        "heads and bounds are always float32. bfloat16 is for hardware that supports it",
        *_one_of(("float32", "bfloat16")),
    ),
    Field(
        "model.rematerialize", False, "recompute the hidden layers for the gradient instead of "
        "storing them: less memory, a third more time",
        *_anything("True or False"),
    ),
    Field(
        "model.likelihood", "gaussian_unit_mean", "p(x|z); '' is by the kind of the data: "
        + ", ".join(f"{name} for {kind}" for kind, name in LIKELIHOOD_OF.items()),
        *_entry(),
    ),
    Field(
        "model.guide", "diag_normal", "q(z|x): diag_normal and full_normal are Gaussian; planar "
        "and iaf (inverse autoregressive) are normalizing flows without a closed-form KL; "
        "bernoulli and categorical (option num_classes) are of discrete z, for the bounds by the "
        "score function and for wake-sleep; relaxed_bernoulli (temperature) and "
        "relaxed_categorical (num_classes, temperature) are their Concrete relaxations",
        *_entry(),
    ),
    Field("model.guide_layers", 4, "planar, iaf: layers of the flow", *_up_to(1000)),
    Field("model.guide_hidden", 100, "iaf: hidden units of each layer's network", *_up_to(10**5)),
    Field(
        "model.prior", "standard_normal", "p(z): standard_normal, mixture (of learned Gaussians) "
        "or vamp (of q(z|u) at learned inputs u); bernoulli, categorical, relaxed_bernoulli and "
        "relaxed_categorical, with learned logits, for the guides of these names, with their "
        "options. Only standard_normal, bernoulli and categorical have closed-form KLs",
        *_entry(),
    ),
    Field("model.prior_components", 50, "mixture, vamp: number of components", *_up_to(10**6)),
    Field(
        "model.init", "normal", "normal: all parameters from N(0, init_std^2), as in the paper; "
        "fan_in: weights of variance 1/fan-in, biases 0",
        *_entry(),
    ),
    Field(
        "model.init_std", 0.1, "standard deviation of model.init=normal; the paper's N(0, 0.01) "
        "read as a variance",
        *_above_zero(),
    ),
    Field(
        "model.init_at_mean", False, "the biases of the decoder's outputs start where zero weights "
        "give E[x|z] the mean of the training data; not for counts, which always start near it, "
        "nor categorical",
        *_anything("True or False"),
    ),
    Field(
        "model.log_var_limit", 0.0, "the log variances v of q(z|x) and p(x|z) become limit * "
        "tanh(v / limit), between -limit and limit; 0 for no limit",
        *_at_least(0),
    ),
    Field(
        "algorithm.name", "aevb", "training algorithm: aevb, full_vb (with a posterior over the "
        "decoder's weights), wake_sleep, reweighted_wake_sleep or mcem (Monte Carlo EM, which has "
        "no encoder and ignores model.guide)",
        *_entry(),
    ),
    Field("algorithm.bound", "sgvb_b", "aevb, full_vb: the bound that is maximized", *_entry()),
    Field(
        "algorithm.kl_schedule", "constant", "aevb: weight of the KL to the prior by step, in "
        "training alone: linear (from 0 to 1 in the option warmup_examples), cyclic "
        "(period_examples, rising), or as optimizer.schedule; the logged bounds have weight 1",
        *_entry(),
    ),
    Field(
        "algorithm.num_samples", 1, "L, samples of z per datapoint; mcem always uses 1, and "
        "reweighted_wake_sleep needs at least 2",
        *_up_to(10**6),
    ),
    Field(
        "algorithm.accumulation_steps", 1, "number of parts of a minibatch, processed one after "
        "the other with their gradients added: less memory, the same result",
        *_up_to(10**6),
    ),
    Field(
        "algorithm.weight_noise", "local", "full_vb: theta is drawn for each datapoint "
        "(datapoint, as in algorithm 2), for each minibatch (minibatch), or as noise of the units "
        "(local), which has the least variance but cannot be used for iwae and similar bounds "
        "with several samples",
        *_one_of(NOISES),
    ),
    Field(
        "algorithm.label_weight", 0.1, "model.labels: weight of the mean of log q(y|x) over the "
        "datapoints with a label, which is added to the mean bound; alpha / N of Kingma et al. "
        "(2014)",
        *_at_least(0),
    ),
    Field(
        "algorithm.num_leapfrog", 10, "mcem: leapfrog steps of an HMC trajectory",
        *_up_to(10**4),
    ),
    Field(
        "algorithm.target_acceptance", 0.9, "mcem: acceptance rate toward which the step size is "
        "tuned",
        "between 0 and 1, both excluded", lambda value: 0 < value < 1,
    ),
    Field(
        "algorithm.num_updates", 5, "mcem: ascent steps of theta per sample of z",
        *_up_to(10**4),
    ),
    Field(
        "algorithm.param_prior_std", 1.0, "standard deviation of the prior N(0, std^2) on all "
        "parameters (MAP), including those of model.guide and model.prior; 0 for maximum "
        "likelihood. full_vb: of the prior p(theta)",
        *_at_least(0),
    ),
    Field(
        "algorithm.prior_on_biases", True, "whether that prior applies to biases",
        *_anything("True or False"),
    ),
    Field(
        "algorithm.average_decay", 0.0, "decay of the exponential moving average of all "
        "parameters, which is evaluated and loaded instead of the last ones, such as 0.999; 0 for "
        "no average",
        "at least 0 and below 1", lambda value: 0 <= value < 1,
    ),
    Field(
        "algorithm.skip_bad_steps", 0, "number of non-finite steps (NaN or infinity) that are "
        "skipped and counted; the next one stops the run",
        f"at least 0 and at most {MOST_STEPS:,}", lambda value: 0 <= value <= MOST_STEPS,
    ),
    Field(
        "optimizer.name", "adagrad", "any optax optimizer; adagrad has the paper's initial "
        "accumulator of 0 and epsilon of 0",
        *_anything("the name of an optax optimizer"),
    ),
    Field(
        "optimizer.step_size", 0.02, "learning rate; the paper uses 0.01, 0.02 or 0.1",
        *_above_zero(),
    ),
    Field(
        "optimizer.schedule", "constant", "factor of the step size by step: cosine (options "
        "warmup_examples, decay_examples, final), exponential (rate, decay_examples), piecewise "
        "(boundaries, factors), burda (3^i passes at 10^(-i/7)), linear or cyclic; or a schedule "
        "of optax, such as polynomial_schedule, with optax's options",
        *_entry(),
    ),
    Field(
        "optimizer.clip", "none", "global_norm: the gradient, with that of the prior on the "
        "parameters, is scaled down to the norm optimizer.clip_at; adaptive: that of each unit's "
        "weights to optimizer.clip_at times their norm",
        *_one_of(("none", "global_norm", "adaptive")),
    ),
    Field("optimizer.clip_at", 1.0, "the largest norm, for optimizer.clip", *_above_zero()),
    Field("train.num_examples", 3_000_000, "training examples seen in total", *_at_least(1)),
    Field("train.batch_size", 100, "M, datapoints of a minibatch", *_at_least(1)),
    Field(
        "train.num_devices", 0, "devices that share each minibatch; 0 for as many as divide it. "
        "In a sweep each run has one device",
        *_at_least(0),
    ),
    Field("train.first_eval", 10_000, "examples at the first evaluation", *_at_least(1)),
    Field(
        "train.evals_per_decade", 10, "evaluations per tenfold increase of the examples, evenly "
        "spaced in their logarithm",
        *_up_to(1000),
    ),
    Field(
        "train.eval_every", 0, "examples between two evaluations; 0 for evaluations by "
        "train.first_eval and train.evals_per_decade",
        *_at_least(0),
    ),
    Field(
        "train.patience", 0, "training stops early once so many evaluations have brought no new "
        "best validation bound; those before the KL has its whole weight (algorithm.kl_schedule) "
        "do not count. 0 for never",
        *_at_least(0),
    ),
    Field(
        "train.eval_examples", 10_000, "largest number of datapoints of each split in an "
        "evaluation during training (the summary uses all)",
        *_at_least(1),
    ),
    Field(
        "train.checkpoint_seconds", 60.0, "a checkpoint is saved at the evaluations, but not more "
        "often than every two seconds, and after this time without one",
        *_above_zero(),
    ),
    Field(
        "train.keep_checkpoints", False, "keep every checkpoint, instead of the last two and the "
        "best by the validation bound",
        *_anything("True or False"),
    ),
    Field(
        "train.init_from", "", "the folder of a finished run with the same model, from whose last "
        "parameters this one starts; --init_from is short for it",
        *_anything("a folder"),
    ),
    Field(
        "train.tensorboard", False, "also write TensorBoard event files: numbers, pictures and "
        "settings; --tensorboard is short for it (pip install 'aevb[tensorboard]')",
        *_anything("True or False"),
    ),
    Field(
        "train.wandb", "off", "the same for Weights & Biases: offline writes files for `wandb "
        "sync`, online uploads during training (pip install 'aevb[wandb]')",
        *_one_of(("off", "offline", "online")),
    ),
)  # fmt: skip


DEFAULTS = {field.name: field.default for field in FIELDS}


def default_config() -> Config:
    """Returns a config with every field at its default: the paper's Frey faces, 2 latents.

    It is locked: only existing fields can be set, except in the OPTIONS.
    """
    config: dict[str, Any] = {}
    for name, default in [*((f.name, f.default) for f in FIELDS), *((n, {}) for n in OPTIONS)]:
        *sections, leaf = name.split(".")
        target = config
        for section_name in sections:
            target = target.setdefault(section_name, {})
        target[leaf] = default
    # It may also be a tuple, which a ConfigDict would refuse for an int.
    config["model"]["num_latents"] = FieldReference(DEFAULTS[LATENTS], field_type=object)
    return _locked(ConfigDict(config))


def _locked(config: Config) -> Config:
    """Locks a config, except for the options, whose names are not known here; returns it."""
    config.lock()
    for name in OPTIONS:
        section_name, leaf = name.split(".")
        config[section_name][leaf].unlock()
    return config


def flatten(config: Config) -> dict[str, Any]:
    """Returns the config as {"model.num_latents": 2, ...}, in the order of its fields."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{name}.{leaf}": inner for leaf, inner in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns a copy of a config with new values for some fields, given by dotted name."""
    copy: Any = ConfigDict(config.to_dict())
    for name, value in values.items():
        *sections, leaf = name.split(".")
        target = copy
        for section_name in sections:
            target = target[section_name]
        with target.ignore_type():  # `validate` reports a wrong type
            target[leaf] = value
    return _locked(copy)


def of_finished_run(folder: Path, data: str = "") -> Values:
    """Returns the validated config of a finished run, and registers the run's own entries.

    Args:
        data: the data's new name if they have moved, else "".

    Raises:
        UserError: there is no run, it is not finished, its config is not valid in this version, or
            the copy of its experiment's file has changed.
    """
    found = _stored(folder)
    if not is_finished(folder, found):
        raise UserError(
            f"{folder} holds a run that is not finished; give the command that started it again, "
            "which resumes it"
        )
    return _of_stored(found, folder, data)


def of_run(folder: Path, data: str = "") -> Values:
    """Returns the validated config of a run, as `of_finished_run` does, even if it is unfinished.

    Raises:
        UserError: as `of_finished_run`, except that the run need not be finished.
    """
    return _of_stored(_stored(folder), folder, data)


def _stored(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.json")
    try:
        return read_with_digest(folder / "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read ({error})") from error


def _of_stored(found: dict[str, Any], folder: Path, data: str) -> Values:
    entries = bring_again(found.pop(ENTRIES, ""), folder)
    # JSON has lists where a config has tuples.
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return validate(values | ({"data.name": data} if data else {}), entries)


def is_finished(folder: Path, config: Mapping[str, Any]) -> bool:
    """Returns whether the run in a folder has taken all steps of its config, or stopped early.

    A finished run that goes on for more examples has the summary of the fewer until it ends.
    """
    summary, batch_size = folder / "summary.json", config["train.batch_size"]
    if not summary.is_file():
        return False
    try:
        found = json.loads(summary.read_text(encoding="utf-8"))
        done, is_early = found["num_examples"], found.get("stopped_early", False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True  # whoever reads it says that it is damaged
    return is_early or done == config["train.num_examples"] // batch_size * batch_size


def bring_again(digest: str, folder: Path) -> str:
    """Registers the entries of a run's copy of its experiment's file; returns the file's digest.

    Args:
        digest: the digest of the file that the run was trained with; "" if it brought no entries.

    Raises:
        UserError: the copy is missing or has changed.
    """
    copy = folder / registry.EXPERIMENT
    if digest and not copy.is_file():
        raise UserError(f"{copy} is missing, which holds entries that the run was trained with")
    if digest and registry.digest_of(copy) != digest:
        raise UserError(
            f"{copy} has changed since the run was trained with it; put it back as it was"
        )
    return registry.bring(copy) if digest else ""


def section(values: Values, name: str) -> dict[str, Any]:
    """Returns the values of one section: {"num_examples": ..., "batch_size": ...} for "train".

    Options within it are left out, because they are sections of their own.
    """
    prefix = f"{name}."
    fields = {
        field.removeprefix(prefix): value
        for field, value in values.items()
        if field.startswith(prefix)
    }
    return {field: value for field, value in fields.items() if "." not in field}


def entry_of(values: Values, field: str) -> Any:
    """Returns the entry of the registry that a field of KINDS names; imports its table."""
    return registry.find(KINDS[field], values[field], values.get(ENTRIES, ""))


def is_field(name: str) -> bool:
    """Returns whether a dotted name is a field, or an option within one of OPTIONS."""
    return name in DEFAULTS or name.rpartition(".")[0] in OPTIONS


def require_field(name: str) -> None:
    """Raises a UserError if a dotted name is not a field; the message suggests a similar one."""
    if name in OPTIONS:
        raise UserError(
            f"config.{name} holds the options of config.{OPTIONS[name]}; set each by its name: "
            f"config.{name}.NAME=VALUE"
        )
    if not is_field(name):
        similar = [field for field in DEFAULTS if field.endswith(f".{name}")]
        similar = similar or difflib.get_close_matches(name, DEFAULTS, n=1, cutoff=0.8)
        meant = f" (do you mean config.{similar[0]}?)" if similar else ""
        raise UserError(f"config.{name} is unknown{meant}; --help lists the fields")


def allowed(field: Field, entries: str = "") -> str:
    """Returns the allowed values of a field in words.

    Args:
        entries: the digest of an experiment's file that brings entries.
    """
    if field.name not in KINDS:
        return field.allowed
    names = ", ".join(registry.names(KINDS[field.name], entries))
    others = {
        "dataset": ", tfds:NAME, file:FILE or images:FOLDER",
        "schedule": ", or the name of an optax schedule",
    }
    return f"one of {names}{others.get(KINDS[field.name], '')}"


def help_text(config: Config, entries: str = "", section_name: str = "") -> str:
    """Returns two lines for each field: its value in this config, its meaning, allowed values.

    Args:
        section_name: the section whose fields are described; "" for all.
    """
    values = flatten(config)
    lines = [
        f"  --config.{field.name}={values[field.name]!r}\n"
        f"      {field.help} [{allowed(field, entries)}]"
        for field in FIELDS
        if field.name.startswith(section_name)
    ]
    lines += [
        f"  --config.{name}.NAME=VALUE\n      an option of {of}; an unknown NAME lists them"
        for name, of in OPTIONS.items()
        if name.startswith(section_name)
    ]
    return "\n".join(lines)


def validate(config: Config | Values, entries: str = "") -> Values:
    """Returns the values of a config after all checks that do not need jax.

    An empty split or binarization is replaced by the dataset's default, and the path of data by an
    absolute one, so that a run's saved config names what was used.

    Args:
        entries: the digest of an experiment's file that brings entries, from `registry.bring`.

    Raises:
        UserError: a field is unknown or missing, has a value that is not allowed, or does not fit
            another field. The message names the field, the value and the allowed values.
    """
    values = flatten(config)
    fields = {field.name: field for field in FIELDS}
    for name in sorted(values.keys() - fields.keys()):
        _check_option(name, values[name])
    for name, field in fields.items():
        if name not in values:
            raise UserError(f"config.{name} is missing; start from aevb.config.default_config()")
        value, kind = values[name], type(field.default)
        if not _is_of(name, value, kind) or not _accepts(field, value, entries):
            raise UserError(
                f"config.{name} is {value!r}; it must be {allowed(field, entries)} "
                f"({kind.__name__}){_meant(name, value)}"
            )
    values |= _data_choices(values, entries)
    _check_window(values)
    _check_labels(values)
    if has_path(values["data.name"]):
        prefix, _, path = values["data.name"].partition(":")
        values["data.name"] = f"{prefix}:{absolute(path, 'config.data.name')}"
    if values["train.init_from"]:
        values["train.init_from"] = str(
            absolute(values["train.init_from"], "config.train.init_from")
        )
    _check_steps(values)
    return values | ({ENTRIES: entries} if entries else {})


def _is_of(name: str, value: Any, kind: type) -> bool:
    """Returns whether a value has the type of the field's default, or another that it may have."""
    return type(value) is kind or (name == LATENTS and type(value) is tuple)


def _accepts(field: Field, value: Any, entries: str) -> bool:
    if field.name == "data.name" and (prefix := _prefix(value)):
        return value != prefix
    if field.name in KINDS:
        by_kind = field.name == "model.likelihood" and value == ""
        by_optax = KINDS[field.name] == "schedule" and value.endswith("_schedule")
        return by_kind or by_optax or value in registry.names(KINDS[field.name], entries)
    return field.accepts(value)


def _meant(name: str, value: Any) -> str:
    """Returns what to do about a name of data without a path, or about a path without a prefix."""
    if name != "data.name" or not isinstance(value, str):
        return ""
    if value in PREFIXES:
        return "; name your data, such as --config.data.name=file:scores.csv or images:FOLDER"
    path = Path(value)
    if value and (path.is_file() or path.is_dir()):
        return f"; do you mean {'file' if path.is_file() else 'images'}:{value}?"
    return ""


def _check_option(name: str, value: Any) -> None:
    """Raises a UserError if a name is not an option, or an option cannot have this value."""
    require_field(name)
    each = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(one, bool | int | str) or _is_finite(one) for one in each):
        raise UserError(
            f"config.{name} is {value!r}; it must be a finite number, a bool, a string or a tuple "
            "of these"
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _check_steps(values: Values) -> None:
    """Raises a UserError if the examples, the minibatch and its parts do not fit together."""
    num_examples, batch_size = values["train.num_examples"], values["train.batch_size"]
    if num_examples < batch_size:
        raise UserError(
            f"config.train.num_examples is {num_examples}; it must be at least one minibatch, "
            f"config.train.batch_size={batch_size}"
        )
    if batch_size % (parts := values["algorithm.accumulation_steps"]):
        raise UserError(
            f"config.algorithm.accumulation_steps is {parts}; it must divide a minibatch, "
            f"config.train.batch_size={batch_size}"
        )
    if (num_steps := num_examples // batch_size) > MOST_STEPS:
        raise UserError(
            f"config.train.num_examples is {num_examples}, which is {num_steps} steps; it must be "
            f"at most {MOST_STEPS:,} minibatches, which a state can count"
        )


def _check_window(values: Values) -> None:
    """Raises a UserError if windows of frames do not fit the split or the dynamics."""
    if values["data.window"] and values["data.split"] != "blocked":
        raise UserError(
            f"config.data.window is {values['data.window']}, whose frames follow one another, and "
            f"config.data.split is {values['data.split']!r}; use data in the order of time with "
            "data.split=blocked: frey_faces, file:FILE or images:FOLDER"
        )
    if values["model.dynamics"] and not values["data.window"]:
        raise UserError(
            f"config.model.dynamics is {values['model.dynamics']!r}, which is of windows of "
            "frames; set config.data.window to at least 2"
        )


def _check_labels(values: Values) -> None:
    """Raises a UserError if a model of labels has a setting that it refuses."""
    if not (kind := values["model.labels"]):
        return
    number, layers = values["data.num_labels"], layers_of(values[LATENTS])
    if number < 0:
        reason = "config.data.num_labels=-1 shows it none; set their number, or 0 for all"
    elif kind == "conditional" and number:
        reason = f"config.data.num_labels={number} leaves out others; set 0, or model.labels=m2"
    elif values["algorithm.name"] != "aevb":
        reason = f"config.algorithm.name={values['algorithm.name']} has no labels; use aevb"
    elif values["algorithm.kl_schedule"] != "constant":
        reason = f"config.algorithm.kl_schedule={values['algorithm.kl_schedule']} is not for it"
    elif len(layers) > 1:
        reason = f"config.{LATENTS}={values[LATENTS]} are several layers; set one number"
    elif values["data.window"]:
        reason = f"config.data.window={values['data.window']}, and frames have labels; set 0"
    elif values["algorithm.bound"] == "nvil":
        reason = "config.algorithm.bound=nvil has no baseline for each label; use another bound"
    elif not values["model.layer_hidden"]:
        reason = "config.model.layer_hidden is (), and its first number is that of features of x"
    else:
        return
    raise UserError(f"config.model.labels is {kind!r}, and {reason}")


def _data_choices(values: Values, entries: str) -> dict[str, str]:
    """Returns the split and binarization of a dataset, with '' replaced by the first one.

    Raises:
        UserError: the dataset does not offer one of them.
    """
    name = values["data.name"]
    prefix = _prefix(name)
    for field in ("data.kind", "data.key", "data.missing"):
        if values[field] and not (has_path(name) or name.startswith("array:")):
            raise UserError(
                f"config.{field} is {values[field]!r}, which is for file:FILE; leave it "
                f"{DEFAULTS[field]!r} for {name}"
            )
    offered = (DATASETS | PREFIXES).get(prefix or name) or registry.find("dataset", name, entries)
    choices = {}
    for field, names in (
        ("data.split", offered.splits),
        ("data.binarization", offered.binarizations),
    ):
        value, any_split = values[field], prefix == "tfds:" and field == "data.split"
        if value and value not in names and not any_split:
            raise UserError(
                f"config.{field} is {value!r}; for {name} it must be one of {', '.join(names)}"
            )
        choices[field] = value or names[0]
    return choices
