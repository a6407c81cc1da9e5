"""Builds the objects that a config describes: the dataset, the model and the algorithm."""

import inspect
import itertools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb import (
    data,
    guides,
    hierarchies,
    label_building,
    label_models,
    learned_baseline,
    likelihoods,
    missing,
    networks,
    optimizers,
    priors,
    registry,
    schedules,
    state_space,
    vae,
)
from aevb.algorithms.averaging import average_params
from aevb.algorithms.base import Algorithm
from aevb.algorithms.skip_nonfinite import skip_bad_steps
from aevb.config import (
    ENTRIES,
    KINDS,
    LATENTS,
    LIKELIHOOD_OF,
    OPTIONS,
    Values,
    entry_of,
    layers_of,
    section,
)
from aevb.data import Dataset, Description
from aevb.data.windows import frame_of
from aevb.errors import UserError
from aevb.evaluation import elbo
from aevb.guides import GuideFamily
from aevb.hierarchies import Layers
from aevb.label_models import LabelledData
from aevb.likelihoods import Heads, Likelihood
from aevb.losses import REAL, SCORE_FUNCTIONS, TAKE_KL_WEIGHT, Bound, Guide, Joint, closed_kl
from aevb.networks import Network
from aevb.optimizers import Optimizer
from aevb.priors import PriorFamily
from aevb.runtime import xla
from aevb.schedules import Length, Schedule
from aevb.types import Key
from aevb.vae import VAE

NUM_FOR_MEAN = 10_000  # training datapoints whose mean model.init_at_mean takes
LEAST_MEAN_LOG = 1e-4  # of log(1 + x), for the rate of a count that is hardly ever seen
SECTION_OF = {field: options for options, field in OPTIONS.items()}


class Experiment(NamedTuple):
    """The objects that a config describes."""

    dataset: Dataset
    vae: VAE
    algorithm: Algorithm


def build(values: Values, dataset: Dataset | None = None) -> Experiment:
    """Returns the objects of a validated config.

    Args:
        dataset: the result of `load` for these values; None to load it here.

    Raises:
        UserError: the data cannot be loaded, or the parts do not fit together.
    """
    build_optimizer(values, num_data=1)  # to report its errors before the data are loaded
    found = load(values) if dataset is None else dataset
    if values["train.patience"] and "valid" not in found.splits:
        raise UserError(
            f"config.train.patience is {values['train.patience']}, and {found.name} has no "
            "validation data here; set config.data.num_valid, or the patience to 0"
        )

    def examples(number: int) -> Array:
        index = np.linspace(0, len(found.train) - 1, number).astype(np.int32)
        with jax.ensure_compile_time_eval():  # the first parameters are drawn in a compiled program
            return elbo.fixed_inputs(found.preprocess, index, found.train[index])

    labelled = label_building.data_of(values, found)
    return Experiment(found, *build_model(values, found.description, examples, labelled))


def build_model(
    values: Values,
    data: Description,
    examples: Callable[[int], Array] | None = None,
    labelled: LabelledData | None = None,
) -> tuple[VAE, Algorithm]:
    """Returns the model and the algorithm of a validated config, for described data.

    Args:
        examples: number -> evenly spaced training datapoints, preprocessed as in evaluation,
            [number, D]. Without them a prior that starts at datapoints starts at zeros: for a model
            whose parameters are read from a checkpoint.
        labelled: the labels that are seen in training, for a model of them.

    Raises:
        UserError: the parts do not fit together.
    """
    values = with_likelihood(values, data.kind)
    if values["train.batch_size"] > data.num_train:
        raise UserError(
            f"config.train.batch_size is {values['train.batch_size']}; it can be at most the "
            f"{data.num_train} training datapoints of {data.name}"
        )
    model = _build_vae(
        values, data, examples or (lambda number: jnp.zeros((number, data.num_dims)))
    )
    optimizer = build_optimizer(values, data.num_train)
    algorithm = build_algorithm(values, model, data.num_train, optimizer, labelled)
    _require_room(algorithm)
    return model, algorithm


def with_likelihood(values: Values, kind: str) -> Values:
    """Returns the values with a likelihood: their own, or else that of data of this kind."""
    return {**values, "model.likelihood": values["model.likelihood"] or LIKELIHOOD_OF[kind]}


def load(values: Values) -> Dataset:
    """Loads the dataset of a validated config.

    Whether its training data are on disk or in memory depends on `data.access` and
    `data.memory_share`.

    Raises:
        UserError: the dataset cannot be loaded.
    """
    dataset, access = load_stored(values), values["data.access"]
    fits = dataset.train.nbytes <= values["data.memory_share"] * xla.memory()
    if access == "stream" or (access == "auto" and not fits):
        return data.on_disk(dataset, data_options(values))
    if isinstance(dataset.train, np.memmap):  # its file may be overwritten during the run
        return dataset._replace(train=np.array(dataset.train))
    return dataset._replace(train=np.asarray(dataset.train))


def data_options(values: Values) -> data.Options:
    """Returns the options of loading the dataset of a validated config."""
    options = section(values, "data")
    return data.Options(**{name: options[name] for name in data.Options._fields})


def load_stored(values: Values) -> Dataset:
    """Loads the dataset of a validated config as it is stored, in memory or on disk.

    Raises:
        UserError: the dataset cannot be loaded.
    """
    options, name = section(values, "data"), values["data.name"]
    if name == "synthetic":
        valid = options["num_valid"] if options["num_valid"] >= 0 else options["synthetic_num_test"]
        number = options["synthetic_num_train"] + options["synthetic_num_test"] + valid
        width = max(number, options["synthetic_num_latents"])
        xla.require_memory(
            8 * width * options["synthetic_num_dims"],
            "the synthetic data",
            "config.data.synthetic_*",
        )
    has_prefix = name.startswith(tuple(data.PREFIXES))
    entry = data.find(name) if has_prefix else entry_of(values, "data.name")
    _check_options(values, "data.name", entry.load, 1)
    own = section(values, "data.options")
    return data.load_entry(name, entry, data_options(values), **own)


def make_entry(values: Values, field: str, *args: Any, **found: Any) -> Any:
    """Calls the factory that a field names with the config's options for it; returns the object.

    Args:
        found: keyword arguments that the data determine, for a factory that has them.

    Raises:
        UserError: the factory has no such option, or refuses a value.
    """
    make = entry_of(values, field)
    _check_options(values, field, make, len(args), *found)
    parameters = inspect.signature(make).parameters
    taken = {name: value for name, value in found.items() if name in parameters}
    own = {**section(values, SECTION_OF[field]), **taken}
    try:
        return make(*args, **own)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"config.{field} is {values[field]!r}, which refuses its arguments: {error} "
            f"(config.{SECTION_OF[field]})"
        ) from error


def _check_options(
    values: Values, field: str, make: Callable[..., Any], num_args: int, *taken: str
) -> None:
    """Raises a UserError if the config has an option that a factory does not take.

    Args:
        num_args: the number of positional arguments that the caller passes to the factory.
        taken: the names of the keyword arguments that the caller passes.
    """
    parameters = list(inspect.signature(make).parameters)[num_args:]
    own = [name for name in parameters if name not in taken]
    for name in section(values, SECTION_OF[field]):
        if name not in own:
            raise UserError(
                f"config.{SECTION_OF[field]}.{name} is unknown; {values[field]} has the options "
                f"{', '.join(own) or '(none)'}"
            )


class Loader:
    """A cached `load`: each dataset is loaded once."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Any, ...], Dataset] = {}

    def __call__(self, values: Values) -> Dataset:
        key = data_key(values)
        if key not in self._loaded:
            self._loaded[key] = load(values)
        return self._loaded[key]


def data_key(values: Values) -> tuple[Any, ...]:
    """Returns a hashable key that is equal for configs with the same dataset."""
    fields = section(values, "data").items() | section(values, "data.options").items()
    return (values.get(ENTRIES), *sorted(fields, key=str))


def _require_room(algorithm: Algorithm) -> None:
    """Checks that the training state fits into memory, before anything is allocated.

    Raises:
        UserError: training needs more memory than there is.
    """
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    # Factor 3: the state, its copy from the last pause, and the gradients.
    xla.require_memory(
        3 * sum(sizes), "training this model", f"config.model.hidden or config.{LATENTS}"
    )


def build_optimizer(
    values: Values, num_data: int, step_size: float | Array | None = None
) -> Optimizer:
    """Returns the optimizer of a validated config, with the prior on the parameters.

    Args:
        num_data: N, by which the log-prior is divided.
        step_size: [], used instead of the config's step size.

    Raises:
        UserError: the optimizer cannot be made.
    """
    std = values["algorithm.param_prior_std"] or math.inf
    has_own_prior = entry_of(values, "algorithm.name").has_own_prior
    clip = optimizers.CLIPS[values["optimizer.clip"]]
    return optimizers.make(
        values["optimizer.name"],
        values["optimizer.step_size"] if step_size is None else step_size,
        section(values, "optimizer.options"),
        weight_decay=0.0 if has_own_prior else optimizers.prior_decay(std, num_data),
        mask=None if values["algorithm.prior_on_biases"] else optimizers.all_but_biases,
        clip=clip and clip(values["optimizer.clip_at"]),
        schedule=build_schedule(values, "optimizer.schedule", num_data),
    )


def build_schedule(values: Values, field: str, num_data: int) -> Schedule | None:
    """Returns the schedule that a field of a validated config names; None if it is constant.

    Args:
        num_data: N, the examples of one pass over the data.

    Raises:
        UserError: the schedule has no such option, or refuses a value.
    """
    name, options = values[field], SECTION_OF[field]
    if name == "constant":
        _check_options(values, field, schedules.constant, 1)
        return None
    if name in registry.names("schedule", values.get(ENTRIES, "")):
        num_examples, batch_size = values["train.num_examples"], values["train.batch_size"]
        return make_entry(values, field, Length(num_examples, batch_size, num_data))
    try:
        return schedules.of_optax(name, **section(values, options))
    except ValueError as error:
        raise UserError(f"config.{field} is {name!r}: {error} (config.{options})") from error


def require_same_schedules(values: Values, num_examples: int) -> None:
    """Checks that a longer run would have taken the same steps until now, so that a run can go on.

    Args:
        values: the config of the run.
        num_examples: of the longer run.

    Raises:
        UserError: its step sizes or weights would have differed.
    """
    done = values["train.num_examples"]
    if num_examples == done:
        return
    longer = {**values, "train.num_examples": num_examples}
    last = done // values["train.batch_size"]
    steps = jnp.asarray(np.unique(np.linspace(0, last, 100).astype(np.int32)))
    for field in (field for field, kind in KINDS.items() if kind == "schedule"):
        own, other = (build_schedule(each, field, num_data=1) for each in (values, longer))
        if own and other and not np.array_equal(jax.vmap(own)(steps), jax.vmap(other)(steps)):
            raise UserError(
                f"config.{field} is {values[field]!r}, which depends on the run's length: in a run "
                f"of {num_examples:,} examples it would have had other values until {done:,}. "
                f"Train a new run, with its length in config.{SECTION_OF[field]} if it is to go on"
            )


def build_algorithm(
    values: Values,
    model: VAE,
    num_data: int,
    optimizer: Optimizer,
    labelled: LabelledData | None = None,
) -> Algorithm:
    """Returns the algorithm of a validated config, for a model and N = `num_data` datapoints.

    The algorithm's `make` receives the algorithm.* fields of the config that are among its
    parameters.

    Raises:
        UserError: the parts do not fit together.
    """
    options = section(values, "algorithm")
    name, entry = options.pop("name"), entry_of(values, "algorithm.name")
    wanted = inspect.signature(entry.make).parameters
    if entry.has_own_prior and not options["prior_on_biases"]:
        raise UserError(
            f"config.algorithm.name is {name!r}, which refuses a flat prior on biases; set "
            "config.algorithm.prior_on_biases=True"
        )
    if "bound" in wanted:
        first = label_models.of_first_label(model)
        _require_gradient(values["algorithm.bound"], first.guide)
        options["bound"] = build_bound(values, *_have_kls(first))
    options |= _kl_weight(values, wanted, num_data)
    if model.num_labels:
        options |= label_building.options(values, model, options["bound"], labelled)
    _check_options(values, "algorithm.name", entry.make, 2, "num_data", "term", *options)
    taken = {option: value for option, value in options.items() if option in wanted}
    sizes = {"num_data": num_data} if "num_data" in wanted else {}
    own = section(values, "algorithm.options")
    try:
        algorithm = entry.make(model, optimizer, **sizes, **taken, **own)
    except ValueError as error:
        fields = ", ".join(f"config.algorithm.{option}" for option in taken)
        raise UserError(
            f"config.algorithm.name is {name!r}, which refuses its arguments: {error} ({fields})"
        ) from error
    if labelled is not None:
        algorithm = label_models.with_labels(algorithm, labelled.shown)
    if decay := options["average_decay"]:
        algorithm = average_params(algorithm, decay)
    most = options["skip_bad_steps"]
    return skip_bad_steps(algorithm, most) if most else algorithm


def _require_gradient(bound: str, guide: Guide) -> None:
    """Raises a UserError if a bound of the package has a wrong gradient in a guide's parameters."""
    is_known = bound in registry.NAMES["bound"]
    if not guide.is_reparameterized and is_known and bound not in SCORE_FUNCTIONS:
        raise UserError(
            f"config.algorithm.bound is {bound!r}, whose gradient passes through z, and z of "
            f"{guide.support} carries none; use one of {', '.join(SCORE_FUNCTIONS)}, "
            "config.algorithm.name=wake_sleep or reweighted_wake_sleep, or a relaxed config."
            "model.guide and config.model.prior"
        )


def _kl_weight(values: Values, wanted: Container[str], num_data: int) -> dict[str, Schedule]:
    """Returns the schedule of the KL's weight for the algorithm; {} if the weight is 1.

    Args:
        wanted: the names of the algorithm's parameters.

    Raises:
        UserError: the algorithm or the bound has no such weight.
    """
    schedule = build_schedule(values, "algorithm.kl_schedule", num_data)
    if schedule is None:
        return {}
    name, bound = values["algorithm.name"], values["algorithm.bound"]
    is_known = bound in registry.NAMES["bound"]
    if "kl_weight" not in wanted:
        reason = f"config.algorithm.name={name} has no weight of the KL; use aevb"
    elif is_known and bound not in TAKE_KL_WEIGHT:
        reason = (
            f"the gradient of config.algorithm.bound={bound} needs the weight 1; use one of "
            f"{', '.join(TAKE_KL_WEIGHT)}"
        )
    else:
        return {"kl_weight": schedule}
    raise UserError(
        f"config.algorithm.kl_schedule is {values['algorithm.kl_schedule']!r}, and {reason}"
    )


def _build_vae(values: Values, data: Description, examples: Callable[[int], Array]) -> VAE:
    if values["model.dynamics"]:
        return _build_state_space(values, data, examples)
    has_encoder = entry_of(values, "algorithm.name").has_encoder
    likelihood, examples = _scoring(values, data, examples)
    layers = Layers(layers_of(values[LATENTS]))
    num_latents = sum(layers.sizes)
    sizes = guides.Sizes(num_latents, values["model.guide_layers"], values["model.guide_hidden"])
    prior_family = _build_prior(values, data, examples)
    if len(layers.sizes) > 1:
        _require_layers_fit(values, prior_family)
    if not has_encoder:
        family = guides.standard_normal_family(sizes)
    elif len(layers.sizes) == 1:
        family = make_entry(values, "model.guide", sizes)
    else:
        family, prior_family = _build_layers(values, layers, prior_family)
    given, num_labels = family.guide, data.num_labels if values["model.labels"] else 0
    if values["model.labels"]:
        _require_same_latents(values, given, prior_family)
        between = _between(values)
        family, prior_family = label_building.families(values, data, family, prior_family, between)
    encoder, decoder = _build_networks(values, data, family, likelihood, num_labels)
    if values["model.init_at_mean"]:
        x = examples(min(data.num_train, NUM_FOR_MEAN))
        decoder = _starting_at(values, decoder, likelihood, jnp.mean(x, axis=0))
    if has_encoder and values["algorithm.bound"] == "nvil":
        family = learned_baseline.of_family(family)
        encoder = learned_baseline.of_encoder(encoder, data.num_dims)
    _require_same_latents(values, family.guide, prior_family)
    model = vae.make(
        encoder if has_encoder else None,
        decoder,
        likelihood,
        num_latents=num_labels + num_latents,
        guide_family=family,
        prior_family=prior_family,
    )
    if num_labels:
        return label_models.of_vae(model, given, num_labels, data.num_dims)
    return model._replace(layer_sizes=layers.sizes) if len(layers.sizes) > 1 else model


def _scoring(
    values: Values, data: Description, examples: Callable[[int], Array]
) -> tuple[Likelihood, Callable[[int], Array]]:
    """Returns the likelihood of x as it is stored, with its gaps, and examples without gaps."""
    likelihood = build_likelihood(values, data)
    if data.of_x is not None:
        likelihood = in_own_units(likelihood, data.of_x.log_jacobians(data.num_dims))
    if data.has_missing:
        _require_missing_fits(values, likelihood, data.num_dims)
        likelihood, examples = missing.of_seen(likelihood), _filled(examples)
    return likelihood, examples


def _require_missing_fits(values: Values, likelihood: Likelihood, num_dims: int) -> None:
    """Raises a UserError if the config has a setting that missing values refuse."""
    name = values["algorithm.name"]
    heads = {head: jnp.zeros(num_dims * size) for head, size in likelihood.heads.items()}
    heads |= {name: jnp.zeros(shape) for name, shape in likelihood.shared.items()}
    x = jnp.zeros(num_dims)
    if entry_of(values, "algorithm.name").trains_on_samples:
        reason = f"config.algorithm.name={name} trains the encoder on draws without gaps; set aevb"
    elif jax.eval_shape(likelihood.log_probs, heads, x).shape != x.shape:
        reason = (
            f"config.model.likelihood={values['model.likelihood']} has no term for each value of x"
        )
    else:
        return
    raise UserError(f"the data have missing values, and {reason}")


def _filled(examples: Callable[[int], Array]) -> Callable[[int], Array]:
    """Returns `examples` with the mean of the seen ones in place of a missing value, or 1/2."""

    def without_gaps(number: int) -> Array:
        x = examples(number)
        is_seen = ~jnp.isnan(x)
        num_seen = jnp.sum(is_seen.astype(x.dtype), axis=0)
        total = jnp.sum(jnp.where(is_seen, x, 0.0), axis=0)
        means = jnp.where(num_seen > 0, total / jnp.maximum(num_seen, 1.0), 0.5)
        return jnp.where(is_seen, x, means[None])

    return without_gaps


def _require_same_latents(values: Values, guide: Guide, prior: PriorFamily) -> None:
    """Raises a UserError if the guide and the prior of a config have other values of z."""
    name, support = values["algorithm.name"], guide.support
    if prior.support in (None, support):
        return
    if entry_of(values, "algorithm.name").has_encoder:
        other = f"config.model.guide={values['model.guide']} draws {support}; set them to fit"
    else:
        other = f"config.algorithm.name={name} needs {support}; use aevb or wake_sleep"
    raise UserError(
        f"config.model.prior is {values['model.prior']!r}, of {prior.support}, and {other}"
    )


def _build_layers(
    values: Values, layers: Layers, top: PriorFamily
) -> tuple[GuideFamily, PriorFamily]:
    """Returns the guide and the prior of several layers of latents.

    Args:
        top: the prior of the last layer.
    """
    inference, hidden = values["model.inference"], values["model.layer_hidden"]
    between = _between(values)
    pairs = list(itertools.pairwise(layers.sizes))

    def to(num_inputs: int, size: int, **others: int) -> Network:
        return between(num_inputs, {**dict.fromkeys(hierarchies.HEADS, size), **others})

    of_prior = [to(above, below) for below, above in pairs]
    prior = hierarchies.prior_family(layers, of_prior, top)
    if inference == "ladder":
        *middle, last = layers.sizes[1:]
        upward = [to(hidden[0], size, features=hidden[0]) for size in middle]
        upward.append(to(hidden[0], last))
        return hierarchies.ladder(layers, upward, of_prior, hidden[0]), prior
    if inference == "bottom_up":
        upward = [to(below, above) for below, above in pairs]
        return hierarchies.bottom_up(layers, upward), prior
    downward = [to(hidden[0] + above, below) for below, above in pairs]
    return hierarchies.top_down(layers, downward, hidden[0]), prior


def _between(values: Values) -> Callable[..., Network]:
    """Returns the function (inputs, heads, **others) -> a network from latents to latents."""
    make_initialization = entry_of(values, "model.init")
    common = {
        "hidden": values["model.layer_hidden"],
        "initialization": make_initialization(values["model.init_std"]),
        "dtype": values["model.compute_dtype"],
    }

    def between(num_inputs: int, heads: Mapping[str, int], **others: Any) -> Network:
        make, limit = entry_of(values, "model.network").between, values["model.log_var_limit"]
        network = make(num_inputs, heads, **(common | others))
        return networks.bounded(network, limit) if limit else network

    return between


def _build_state_space(values: Values, data: Description, examples: Callable[[int], Array]) -> VAE:
    """Returns a state-space model of windows, from the parts of a model of one frame."""
    num_frames, frame = values["data.window"], frame_of(data, values["data.window"])
    first = _build_prior(values, frame, examples)
    _require_dynamics_fit(values, first)
    sizes = state_space.Sizes(num_frames, values[LATENTS], values["model.layer_hidden"][0])
    between = _between(values)
    family = state_space.sequence_family(values["model.sequence_guide"], sizes, between)
    likelihood, examples = _scoring(values, frame, examples)
    encoder, decoder = _build_networks(values, frame, family.of_vector(sizes), likelihood)
    if values["model.init_at_mean"]:
        frames = examples(min(data.num_train, NUM_FOR_MEAN)).reshape(-1, frame.num_dims)
        decoder = _starting_at(values, decoder, likelihood, jnp.mean(frames, axis=0))
    model = vae.make(
        state_space.network_of_frames(encoder, num_frames),
        state_space.network_of_frames(decoder, num_frames),
        state_space.likelihood_of_frames(likelihood, num_frames),
        num_latents=num_frames * values[LATENTS],
        guide_family=family.of_vector(sizes),
        prior_family=state_space.prior_family(values["model.dynamics"], sizes, between, first),
    )
    return model._replace(frame=state_space.frame_model(family.guide, decoder, likelihood))


def _require_dynamics_fit(values: Values, first: PriorFamily) -> None:
    """Raises a UserError if the config has a setting that a state-space model refuses."""
    if len(layers_of(values[LATENTS])) > 1 or not isinstance(values[LATENTS], int):
        reason = f"config.{LATENTS}={values[LATENTS]} has layers; set one number, of a frame"
    elif (guide := values["model.guide"]) != "diag_normal":
        reason = f"config.model.guide={guide} is of one datapoint; set config.model.sequence_guide"
    elif not entry_of(values, "algorithm.name").has_encoder:
        reason = f"config.algorithm.name={values['algorithm.name']} has no encoder; use aevb"
    elif first.uses_encoder:
        reason = f"config.model.prior={values['model.prior']} needs q(z_1|x_1); use mixture"
    elif not values["model.layer_hidden"]:
        reason = "config.model.layer_hidden is (), whose first number is that of the features"
    else:
        return
    raise UserError(f"config.model.dynamics is {values['model.dynamics']!r}, and {reason}")


def _require_layers_fit(values: Values, top: PriorFamily) -> None:
    """Raises a UserError if the config has a setting that several layers of latents refuse."""
    inference = values["model.inference"]
    if (guide := values["model.guide"]) != "diag_normal":
        reason = f"config.model.guide={guide} is of one layer; set diag_normal"
    elif top.support not in (None, REAL) or top.to_decoder is not None:
        reason = f"config.model.prior={values['model.prior']} is of one layer; set standard_normal"
    elif not entry_of(values, "algorithm.name").has_encoder:
        reason = f"config.algorithm.name={values['algorithm.name']} has no encoder; use aevb"
    elif top.uses_encoder and inference == "bottom_up":
        reason = (
            f"config.model.prior={values['model.prior']} needs q(z{len(values[LATENTS])}|x), "
            "which config.model.inference=bottom_up has not; set top_down"
        )
    elif inference != "bottom_up" and not values["model.layer_hidden"]:
        reason = (
            f"config.model.inference={inference} takes config.model.layer_hidden[0] features of x, "
            "and it is (); set one size or more"
        )
    else:
        return
    raise UserError(f"config.{LATENTS} is {values[LATENTS]}, and {reason}")


def build_likelihood(values: Values, data: Description) -> Likelihood:
    """Returns the likelihood of a validated config, for x as the data are stored.

    Raises:
        UserError: it does not score such data, or refuses its options.
    """
    name, num_dims = values["model.likelihood"], data.num_dims
    logs = data.of_log_counts
    location = {} if logs is None else {"location": counts_location(logs.mean, num_dims)}
    likelihood = make_entry(values, "model.likelihood", num_dims, **location)
    if data.kind not in likelihood.kinds:
        others = {n: make(num_dims) for n, make in likelihoods.LIKELIHOODS.items()}
        fitting = [n for n, other in others.items() if data.kind in other.kinds]
        raise UserError(
            f"config.model.likelihood is {name!r}, which scores "
            f"{' or '.join(likelihood.kinds)} data and not the {data.kind} data of "
            f"{data.name}; use {' or '.join(fitting)}, or other data (config.data.binarization)"
        )
    if likelihood.levels is not None and data.levels is None:
        raise UserError(
            f"config.model.likelihood is {name!r}, whose grey levels are k / "
            f"{likelihood.levels:g}, and {data.name} does not say what its levels are; give its "
            f"Dataset levels={likelihood.levels:g} if they are these, or use a density such as "
            "gaussian"
        )
    if likelihood.levels not in (None, data.levels):
        raise UserError(
            f"config.model.likelihood is {name!r}, whose grey levels are k / "
            f"{likelihood.levels:g}, and those of {data.name} are k / {data.levels:g}; set "
            f"config.data.grey_scale={likelihood.levels:g}, which changes no probability"
        )
    if data.is_dequantized and likelihood.levels is not None:
        raise UserError(
            f"config.data.dequantize is True, and config.model.likelihood is {name!r}, which gives "
            "the levels themselves a probability; set config.data.dequantize=False"
        )
    return likelihood


def in_own_units(likelihood: Likelihood, log_jacobians: np.ndarray) -> Likelihood:
    """Returns a likelihood of standardized x whose log-density is that of x in its own units.

    Args:
        log_jacobians: log |dx'_d/dx_d| [D] of the standardized x', by which the log-densities
            differ.
    """

    def log_probs(heads: Heads, x: Array) -> Array:
        own = likelihood.log_probs(heads, x)
        each = jnp.asarray(log_jacobians, own.dtype)
        return own + (each if own.ndim else jnp.sum(each))

    return likelihood._replace(log_probs=log_probs)


def _build_networks(
    values: Values,
    data: Description,
    family: GuideFamily,
    likelihood: Likelihood,
    num_labels: int = 0,
) -> tuple[Network, Network]:
    """Returns the encoder and the decoder.

    Args:
        num_labels: C of a model with labels.
    """
    num_dims, layers = data.num_dims, Layers(layers_of(values[LATENTS]))
    sees_all = len(layers.sizes) == 1 or values["model.inference"] == "top_down"
    num_latents = sum(layers.sizes) if sees_all else layers.sizes[0]
    hidden, architecture = values["model.hidden"], entry_of(values, "model.network")
    make_initialization = entry_of(values, "model.init")
    common = {
        "initialization": make_initialization(values["model.init_std"]),
        "dtype": values["model.compute_dtype"],
    }
    taken = ("hidden", "constants", "image_shape", *common)
    _check_options(values, "model.network", architecture.encoder, 2, *taken)
    common |= section(values, "model.network_options")
    heads = {head: num_dims * size for head, size in likelihood.heads.items()}
    num_inputs, input_shape = num_dims, data.image_shape
    if data.has_missing:  # the encoder sees the mask too, as more channels of an image
        num_inputs = 2 * num_dims
        input_shape = None if input_shape is None else missing.shape_with_mask(input_shape)
    try:
        encoder = architecture.encoder(
            num_inputs, family.heads, hidden=hidden, image_shape=input_shape, **common
        )
        if num_labels:
            logits = {label_models.LOGITS: num_labels}
            classifier = architecture.encoder(
                num_inputs, logits, hidden=hidden, image_shape=input_shape, **common
            )
            encoder = label_models.with_classifier(encoder, classifier)
        decoder = architecture.decoder(
            num_labels + num_latents, heads, hidden=hidden[::-1], constants=likelihood.shared,
            image_shape=data.image_shape, **common,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise UserError(
            f"config.model.network is {values['model.network']!r}, which refuses the rest: {error} "
            f"(config.data.name is {data.name!r}, config.model.hidden is {hidden})"
        ) from error
    if not sees_all:
        decoder = networks.of_first(decoder, num_latents)
    if data.has_missing:
        encoder = networks.of_seen(encoder, None if input_shape is None else input_shape[2] // 2)
    if (logs := data.of_log_counts) is not None:
        encoder = networks.of_counts(encoder, logs.mean, logs.scale)
    if limit := values["model.log_var_limit"]:
        encoder, decoder = (networks.bounded(network, limit) for network in (encoder, decoder))
    if values["model.rematerialize"]:
        encoder, decoder = map(networks.rematerialized, (encoder, decoder))
    return encoder, decoder


def _starting_at(values: Values, decoder: Network, likelihood: Likelihood, mean: Array) -> Network:
    """Returns the decoder whose first E[x|z] is a mean [D], up to the effect of its weights.

    Raises:
        UserError: the likelihood has no heads at a mean, or the decoder no biases for them.
    """
    if likelihood.heads_at_mean is None:
        offered = likelihoods.LIKELIHOODS.items()
        names = [name for name, make in offered if make(1).heads_at_mean is not None]
        raise UserError(
            f"config.model.init_at_mean is True, and config.model.likelihood is "
            f"{values['model.likelihood']!r}, whose outputs cannot start at a mean; set "
            f"config.model.init_at_mean=False (it is for {', '.join(names)})"
        )
    started = networks.with_biases(decoder, likelihood.heads_at_mean, mean)
    try:
        jax.eval_shape(started.init, jax.random.key(0))
    except ValueError as error:
        raise UserError(
            f"config.model.init_at_mean is True, and config.model.network is "
            f"{values['model.network']!r}, which cannot start there: {error}; set "
            "config.model.init_at_mean=False"
        ) from error
    return started


def _build_prior(
    values: Values, data: Description, examples: Callable[[int], Array]
) -> PriorFamily:
    name, num_components = values["model.prior"], values["model.prior_components"]
    options = priors.Options(
        layers_of(values[LATENTS])[-1],
        num_components,
        examples,
        in_unit_interval=data.kind not in ("real", "counts"),
    )
    family = make_entry(values, "model.prior", options)
    if not family.uses_encoder:
        return family
    if not entry_of(values, "algorithm.name").trains_prior_by_encoder:
        raise UserError(
            f"config.algorithm.name is {values['algorithm.name']!r}, which trains p(z) without the "
            f"encoder that config.model.prior={name!r} is made of; use standard_normal or mixture"
        )
    if num_components > data.num_train:
        raise UserError(
            f"config.model.prior_components is {num_components}; for {name} it can be at most the "
            f"{data.num_train} training datapoints of {data.name}, at which its components start"
        )
    return family


def counts_location(mean: Sequence[float], num_dims: int) -> tuple[float, ...]:
    """Returns the log rates [D] at which a likelihood of counts starts.

    They are those of exp(mean) - 1, where `mean` [D] or [1] is that of log(1 + x) over the training
    data. A mean below LEAST_MEAN_LOG, as of a column of zeros, is replaced by it.
    """
    means = np.maximum(np.broadcast_to(np.asarray(mean, np.float64), (num_dims,)), LEAST_MEAN_LOG)
    return tuple(np.log(np.expm1(means)).tolist())


def _have_kls(model: VAE) -> tuple[bool, bool, bool]:
    """Returns whether the KL to the prior has a closed form, that of each latent, and its terms."""

    def kls(key: Key) -> tuple[Array | None, Array | None]:
        params = model.init(key)
        _, x = model.sample(key, params)
        stats, joint = model.encode(params, x), model.joint(params, x)
        per_unit = model.guide.kl_per_unit
        return closed_kl(stats, model.guide, joint), per_unit and per_unit(stats, joint.prior)

    kl, per_unit = jax.eval_shape(kls, jax.random.key(0))
    return kl is not None, per_unit is not None, model.guide.sample_and_kls is not None


def build_bound(
    values: Values, has_closed_kl: bool, has_kl_per_unit: bool, has_kls: bool = False
) -> Bound:
    """Returns the bound with its options applied, after a trial call.

    Args:
        has_closed_kl: whether the guide has a `kl` to the prior.
        has_kl_per_unit: whether it has a `kl_per_unit`.
        has_kls: whether it has `sample_and_kls`.

    Raises:
        UserError: the bound has no such option, refuses a value or config.algorithm.num_samples, or
            needs a closed-form KL.
    """
    bound = entry_of(values, "algorithm.bound")
    _check_options(values, "algorithm.bound", bound, 4, "num_samples")
    bound = partial(bound, **section(values, "algorithm.bound_options"))
    # A trial call with scalar densities, so that wrong arguments are found before training.
    kl, per_unit = (
        (lambda stats, prior: stats) if has else None for has in (has_closed_kl, has_kl_per_unit)
    )
    kls = (lambda key, stats, prior: (stats, {"z": stats})) if has_kls else None
    toy = Guide(
        lambda key, stats: stats, lambda stats, z: z, kl, kl_per_unit=per_unit, sample_and_kls=kls
    )
    rehearse = partial(bound, num_samples=values["algorithm.num_samples"])
    try:
        jax.eval_shape(
            lambda key: rehearse(key, jnp.zeros(()), toy, Joint(lambda z: z, lambda z: z)),
            jax.random.key(0),
        )
    except (TypeError, ValueError) as error:
        fields = "config.algorithm.num_samples, config.algorithm.bound_options"
        if not (has_closed_kl and has_kl_per_unit):
            fields += ", config.model.guide, config.model.prior"
        raise UserError(
            f"config.algorithm.bound is {values['algorithm.bound']!r}, which refuses its "
            f"arguments: {error} ({fields})"
        ) from error
    return bound
