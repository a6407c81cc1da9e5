"""Builds the objects that a config describes: the dataset, the model and the algorithm."""

import inspect
import math
from collections.abc import Callable, Container
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb import (
    data,
    label_models,
    optimizers,
    registry,
    schedules,
)
from aevb.algorithms.averaging import average_params
from aevb.algorithms.base import Algorithm
from aevb.algorithms.skip_nonfinite import skip_bad_steps
from aevb.building import labels
from aevb.building.entries import SECTION_OF, check_options, make_entry
from aevb.building.models import build_vae
from aevb.config import (
    ENTRIES,
    KINDS,
    LATENTS,
    LIKELIHOOD_OF,
    Values,
    entry_of,
    section,
)
from aevb.data import Dataset, Description
from aevb.errors import UserError
from aevb.evaluation import elbo
from aevb.label_models import LabelledData
from aevb.losses import SCORE_FUNCTIONS, TAKE_KL_WEIGHT, Bound, Guide, Joint, closed_kl
from aevb.optimizers import Optimizer
from aevb.runtime import xla
from aevb.schedules import Length, Schedule
from aevb.types import Key
from aevb.vae import VAE


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

    labelled = labels.data_of(values, found)
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
    model = build_vae(values, data, examples or (lambda number: jnp.zeros((number, data.num_dims))))
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
    check_options(values, "data.name", entry.load, 1)
    own = section(values, "data.options")
    return data.load_entry(name, entry, data_options(values), **own)


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
        check_options(values, field, schedules.constant, 1)
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
        options |= labels.options(values, model, options["bound"], labelled)
    check_options(values, "algorithm.name", entry.make, 2, "num_data", "term", *options)
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
    check_options(values, "algorithm.bound", bound, 4, "num_samples")
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
