"""Every setting: its default, its meaning and its allowed values, with their validation.

The rest of the package sees validated values, not a ConfigDict. This file imports neither jax nor
numpy, so that `--help` and the message about a wrong setting appear without delay.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from aevb.errors import UserError
from aevb.storage.metrics_log import read_signed

Config = Any
"""An ml_collections.ConfigDict, whose fields are unknown to a type checker."""

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


# The names in the package's tables. They are repeated here because importing the tables imports
# jax. A test checks that they are equal.
NETWORKS = ("mlp", "conv")
INITIALIZATIONS = ("normal", "fan_in")
LIKELIHOODS = (
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "gaussian_unit_mean",
    "gaussian_shared",
    "discretized_logistic",
    "categorical",
)
GUIDES = ("diag_normal", "full_normal", "planar", "iaf")
PRIORS = ("standard_normal", "mixture", "vamp")
ALGORITHMS = ("aevb", "full_vb", "wake_sleep", "reweighted_wake_sleep", "mcem")
BOUNDS = (
    "sgvb_a",
    "sgvb_b",
    "score_function",
    "score_function_loo",
    "stl",
    "iwae",
    "dreg",
    "miwae",
    "piwae",
    "ciwae",
    "renyi",
    "beta_elbo",
    "free_bits",
)
NOISES = ("minibatch", "datapoint", "local")
DATA_SETS = {
    "binarized_mnist": DataChoices(("standard", "train+validation"), ("none",)),
    "frey_faces": DataChoices(("blocked", "random"), ("none",)),
    "mnist": DataChoices(("standard",), ("dynamic", "fixed", "none")),
    "synthetic": DataChoices(("standard",), ("none",)),
}
PREFIXES = {  # prefixes of the names of datasets that are not part of the package
    "tfds:": DataChoices(("train,test",), ("none", "dynamic")),
    "npy:": DataChoices(("blocked", "random"), ("none", "dynamic", "fixed")),
    "images:": DataChoices(("blocked", "random"), ("none", "dynamic", "fixed")),
}


def _one_of(names: tuple[str, ...]) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(names)}", lambda value: value in names


def _at_least(low: float) -> tuple[str, Callable[[Any], bool]]:
    return f"at least {low}", lambda value: low <= value < math.inf


def _up_to(high: int) -> tuple[str, Callable[[Any], bool]]:
    """Returns the description and the check of a number from 1 to `high`.

    The limit is for settings that cost memory or time. It is far above any sensible value, and
    below values that would make the machine unresponsive.
    """
    return f"at least 1 and at most {high:,}", lambda value: 1 <= value <= high


def _seed() -> tuple[str, Callable[[Any], bool]]:
    return "at least 0 and below 2^32", lambda value: 0 <= value < 2**32


def _above_zero() -> tuple[str, Callable[[Any], bool]]:
    return "a finite number above 0", lambda value: 0 < value < math.inf


def _anything(words: str) -> tuple[str, Callable[[Any], bool]]:
    return words, lambda value: True


def _prefix(name: str) -> str:
    """Returns the prefix in PREFIXES with which a dataset's name begins, or ""."""
    return next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")


MOST_STEPS = 2**31 - 2  # the largest step count that a training state can hold

# These settings change where files are read and written, but not what is computed.
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
    Field("seed", 0, "of all randomness: parameters, minibatches, samples", *_seed()),
    Field(
        "data.name", "frey_faces", "the data set; tfds:NAME is images that TFDS has prepared in "
        "data.dir; npy:FILE and images:FOLDER are yours, an array that np.save wrote (of 0..255, "
        "bool or floating point, a row a datapoint) or images of one size (png, jpg, bmp, pgm)",
        f"one of {', '.join(DATA_SETS)}, tfds:NAME, npy:FILE or images:FOLDER",
        lambda value: value in DATA_SETS or bool(_prefix(value) and value != _prefix(value)),
    ),
    Field(
        "data.split", "", "train and test; '' is the data set's first. frey_faces: blocked "
        "(the last fifth of the film tests) or random (the literature's; leaks between "
        "neighbors); npy:FILE and images:FOLDER likewise. tfds:NAME: two of TFDS's, such as "
        "train[:80%],train[80%:]",
        *_anything("a split of the data set"),
    ),
    Field(
        "data.binarization", "", "'' is the data set's first. mnist: dynamic (drawn anew each "
        "time), fixed (drawn once) or none (grey levels); npy:FILE and images:FOLDER likewise",
        *_anything("a binarization of the data set"),
    ),
    Field(
        "data.grey_scale", 256.0, "grey level k becomes k / grey_scale; 256 makes bits per "
        "dimension exact, 255 reaches 1", "255.0 or 256.0", lambda value: value in (255.0, 256.0),
    ),
    Field(
        "data.dir", "", "where data sets are prepared; '' is $TFDS_DATA_DIR, or else "
        "~/tensorflow_datasets", *_anything("a folder"),
    ),
    Field(
        "data.manual_dir", "", "where files that you brought lie, in it or in its subfolder named "
        "as the data set; '' is downloads/manual in data.dir", *_anything("a folder"),
    ),
    Field(
        "data.num_train", 0, "N, so many of the training datapoints, evenly spaced; 0 for all",
        *_at_least(0),
    ),
    Field(
        "data.access", "auto", "memory: the training data are copied to the device; stream: their "
        "minibatches are read from disk; auto: stream, where memory would not do",
        *_one_of(("auto", "memory", "stream")),
    ),
    Field(
        "data.memory_share", 0.25, "auto: so much of the device's memory may hold training data",
        "between 0 and 1", lambda value: 0 <= value <= 1,
    ),
    Field("data.synthetic_num_train", 1000, "synthetic: training datapoints", *_up_to(10**8)),
    Field("data.synthetic_num_test", 1000, "synthetic: test datapoints", *_up_to(10**8)),
    Field("data.synthetic_num_dims", 10, "synthetic: data dimensions", *_up_to(10**6)),
    Field("data.synthetic_num_latents", 2, "synthetic: true latent dimensions", *_up_to(10**5)),
    Field("data.synthetic_noise_std", 0.5, "synthetic: observation noise", *_above_zero()),
    Field("data.synthetic_seed", 0, "synthetic: of the true parameters and data", *_seed()),
    Field(
        "model.network", "mlp", "architecture of encoder and decoder: mlp, or conv of images",
        *_one_of(NETWORKS),
    ),
    Field("model.num_latents", 2, "latent dimensions", *_up_to(10**5)),
    Field(
        "model.hidden", (200,), "units of each hidden layer of the encoder, and in reverse of the "
        "decoder; () for linear ones. conv: channels of each layer, which halves the image",
        "a tuple of at most 100 whole numbers from 1 to 1,000,000, such as (200,)",
        lambda value: len(value) <= 100
        and all(type(size) is int and 1 <= size <= 10**6 for size in value),
    ),
    Field(
        "model.compute_dtype", "float32", "of the networks' products; parameters, heads and bounds "
        "are float32 all the same. bfloat16 is for hardware that has it",
        *_one_of(("float32", "bfloat16")),
    ),
    Field(
        "model.rematerialize", False, "compute the networks' hidden layers again for a gradient, "
        "rather than keep them: less memory, a third more time", *_anything("True or False"),
    ),
    Field(
        "model.likelihood", "gaussian_unit_mean", "p(x|z) of the decoder",
        *_one_of(LIKELIHOODS),
    ),
    Field(
        "model.guide", "diag_normal", "q(z|x): diag_normal and full_normal are Gaussians, planar "
        "and iaf (inverse autoregressive) normalizing flows, which have no closed KL",
        *_one_of(GUIDES),
    ),
    Field("model.guide_layers", 4, "planar, iaf: layers of the flow", *_up_to(1000)),
    Field("model.guide_hidden", 100, "iaf: hidden units of each layer's network", *_up_to(10**5)),
    Field(
        "model.prior", "standard_normal", "p(z): standard_normal, mixture (of learned Gaussians) "
        "or vamp (of q(z|u) at learned inputs u); only the first has closed KLs",
        *_one_of(PRIORS),
    ),
    Field("model.prior_components", 50, "mixture, vamp: their components", *_up_to(10**6)),
    Field(
        "model.init", "normal", "normal: all parameters from N(0, init_std^2), as the paper; "
        "fan_in: weights of variance 1/fan-in, biases 0",
        *_one_of(INITIALIZATIONS),
    ),
    Field(
        "model.init_std", 0.1, "standard deviation of model.init=normal; the paper's N(0, 0.01) "
        "read as a variance", *_above_zero(),
    ),
    Field(
        "algorithm.name", "aevb", "how to train: aevb, full_vb (with a posterior over the "
        "decoder's weights), wake_sleep, reweighted_wake_sleep or mcem (Monte-Carlo EM, which has "
        "no encoder and no use for model.guide)",
        *_one_of(ALGORITHMS),
    ),
    Field(
        "algorithm.bound", "sgvb_b", "aevb, full_vb: the estimator that is maximized",
        *_one_of(BOUNDS),
    ),
    Field(
        "algorithm.bound_options", "", "its other arguments, as alpha=0.3 (renyi), num_groups=4 "
        "(miwae, piwae), beta=0.5 (ciwae, beta_elbo) or free_nats=2 (free_bits)",
        *_anything("name=value, separated by commas"),
    ),
    Field(
        "algorithm.num_samples", 1, "L, samples of z per datapoint; mcem has always 1, and "
        "reweighted_wake_sleep needs 2", *_up_to(10**6),
    ),
    Field(
        "algorithm.accumulation_steps", 1, "parts of a minibatch that are taken one after the "
        "other, their gradients added: less memory, the same result", *_up_to(10**6),
    ),
    Field(
        "algorithm.weight_noise", "local", "full_vb: whether theta is drawn for each datapoint "
        "(as algorithm 2), for each minibatch, or by the noise of its units (local), which has "
        "the least variance but does not serve iwae and its like with several samples",
        *_one_of(NOISES),
    ),
    Field("algorithm.num_leapfrog", 10, "mcem: steps of a trajectory of HMC", *_up_to(10**4)),
    Field(
        "algorithm.target_acceptance", 0.9, "mcem: the acceptance that its step size aims at",
        "between 0 and 1, both excluded", lambda value: 0 < value < 1,
    ),
    Field(
        "algorithm.num_updates", 5, "mcem: steps of theta on each sample of z", *_up_to(10**4),
    ),
    Field(
        "algorithm.param_prior_std", 1.0, "of the prior N(0, std^2) on all parameters (MAP), "
        "those of model.guide and model.prior too; 0 for maximum likelihood. full_vb: of the "
        "prior p(theta)", *_at_least(0),
    ),
    Field(
        "algorithm.prior_on_biases", True, "whether that prior covers biases",
        *_anything("True or False"),
    ),
    Field(
        "algorithm.skip_bad_steps", 0, "so many steps that would bring in a NaN or an infinity are "
        "passed over, and counted; one more stops the run, as the first does with 0",
        f"at least 0 and at most {MOST_STEPS:,}", lambda value: 0 <= value <= MOST_STEPS,
    ),
    Field(
        "optimizer.name", "adagrad", "any optax optimizer; adagrad has the paper's accumulator and "
        "epsilon of 0", *_anything("the name of an optax optimizer"),
    ),
    Field("optimizer.step_size", 0.02, "learning rate; the paper: 0.01, 0.02 or 0.1",
          *_above_zero()),
    Field(
        "optimizer.options", "", "its other arguments, as b1=0.9,eps=1e-4",
        *_anything("name=value, separated by commas"),
    ),
    Field("train.num_examples", 3_000_000, "training examples seen in all", *_at_least(1)),
    Field("train.batch_size", 100, "M, datapoints of a minibatch", *_at_least(1)),
    Field(
        "train.num_devices", 0, "that share each minibatch; 0 for as many as there are and divide "
        "it. A sweep gives each run one device", *_at_least(0),
    ),
    Field(
        "train.first_eval", 10_000, "examples at the first evaluation", *_at_least(1),
    ),
    Field(
        "train.evals_per_decade", 10, "evaluations each time the examples grow tenfold, evenly "
        "spaced in their logarithm", *_up_to(1000),
    ),
    Field(
        "train.eval_examples", 10_000, "at most so many datapoints of each split for an evaluation "
        "(the summary scores all)", *_at_least(1),
    ),
    Field(
        "train.checkpoint_seconds", 60.0, "a checkpoint at each evaluation, and after this time "
        "without one", *_above_zero(),
    ),
    Field(
        "train.keep_checkpoints", False, "keep every checkpoint, rather than the last two and the "
        "best", *_anything("True or False"),
    ),
    Field(
        "train.tensorboard", False, "also write event files of numbers, pictures and settings; "
        "--tensorboard is short for it (pip install 'aevb[tensorboard]')",
        *_anything("True or False"),
    ),
    Field(
        "train.wandb", "off", "the same for Weights & Biases: offline writes files, which `wandb "
        "sync` uploads, online uploads them as it trains (pip install 'aevb[wandb]')",
        *_one_of(("off", "offline", "online")),
    ),
)  # fmt: skip


def default_config() -> Config:
    """Returns a config with every field at its default: the paper's Frey faces, 2 latents."""
    config: dict[str, Any] = {}
    for field in FIELDS:
        *sections, leaf = field.name.split(".")
        target = config
        for name in sections:
            target = target.setdefault(name, {})
        target[leaf] = field.default
    return ConfigDict(config).lock()


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
    return copy


def with_defaults(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's saved values, with defaults for the fields that did not exist then."""
    return {field.name: field.default for field in FIELDS} | dict(found)


def of_finished_run(folder: Path) -> Values:
    """Returns the validated config of a finished run.

    Raises:
        UserError: there is no run, it is not finished, or its config is not valid in this version.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no run's folder: it has no config.json")
    if not (folder / "summary.json").is_file():
        raise UserError(
            f"{folder} holds a run that is not finished; give the command that started it again, "
            "which goes on with it"
        )
    try:
        found = read_signed(folder / "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read ({error})") from error
    # JSON has lists where a config has tuples.
    as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return validate(with_defaults(as_tuples))


def section(values: Values, name: str) -> dict[str, Any]:
    """Returns the values of one section: {"num_examples": ..., "batch_size": ...} for "train"."""
    prefix = f"{name}."
    return {
        field.removeprefix(prefix): value
        for field, value in values.items()
        if field.startswith(prefix)
    }


def help_text(config: Config) -> str:
    """Returns two lines for each field: its value in this config, its meaning, allowed values."""
    values = flatten(config)
    return "\n".join(
        f"  --config.{field.name}={values[field.name]!r}\n      {field.help} [{field.allowed}]"
        for field in FIELDS
    )


def validate(config: Config) -> Values:
    """Returns the values of a config, after all checks that do not need jax.

    An empty split or binarization is replaced by the dataset's default, so that a run's saved
    config names the one that was used.

    Raises:
        UserError: a field is unknown or missing, has a value that is not allowed, or does not fit
            another field. The message names the field, the value and the allowed values.
    """
    values = flatten(config)
    fields = {field.name: field for field in FIELDS}
    for name in sorted(values.keys() - fields.keys()):
        raise UserError(f"config.{name} is unknown; --help lists the fields")
    for name, field in fields.items():
        if name not in values:
            raise UserError(f"config.{name} is missing; start from aevb.config.default_config()")
        value, kind = values[name], type(field.default)
        if type(value) is not kind or not field.accepts(value):
            raise UserError(
                f"config.{name} is {value!r}; it must be {field.allowed} ({kind.__name__})"
            )
    values |= _data_choices(values["data.name"], values["data.split"], values["data.binarization"])
    if values["train.num_examples"] < values["train.batch_size"]:
        raise UserError(
            f"config.train.num_examples is {values['train.num_examples']}; it must be at least "
            f"one minibatch, config.train.batch_size={values['train.batch_size']}"
        )
    batch_size, parts = values["train.batch_size"], values["algorithm.accumulation_steps"]
    if batch_size % parts:
        raise UserError(
            f"config.algorithm.accumulation_steps is {parts}; it must divide a minibatch, "
            f"config.train.batch_size={batch_size}"
        )
    num_steps = values["train.num_examples"] // values["train.batch_size"]
    if num_steps > MOST_STEPS:
        raise UserError(
            f"config.train.num_examples is {values['train.num_examples']}, which is {num_steps} "
            f"steps; it must be at most {MOST_STEPS:,} minibatches, which a state can count"
        )
    return values


def _data_choices(name: str, split: str, binarization: str) -> dict[str, str]:
    """Returns the split and binarization of a dataset, with '' replaced by its first ones.

    Raises:
        UserError: the dataset does not offer one of them.
    """
    prefix = _prefix(name)
    offered = PREFIXES[prefix] if prefix else DATA_SETS[name]
    choices = {}
    for field, value, allowed in (
        ("data.split", split, offered.splits),
        ("data.binarization", binarization, offered.binarizations),
    ):
        any_split = prefix == "tfds:" and field == "data.split"
        if value and value not in allowed and not any_split:
            raise UserError(
                f"config.{field} is {value!r}; for {name} it must be one of {', '.join(allowed)}"
            )
        choices[field] = value or allowed[0]
    return choices
