"""Builds the objects of a config: the dataset, the model and the algorithm."""

import importlib
import inspect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb import data, guides, likelihoods, losses, networks, optimizers, priors, vae
from aevb.algorithms.base import Algorithm
from aevb.algorithms.gradient_ascent import ParamPrior
from aevb.algorithms.skip_nonfinite import skip_bad_steps
from aevb.config import Values, section
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.evaluation import elbo
from aevb.losses import Bound, Guide, Joint
from aevb.optimizers import Optimizer
from aevb.options import parse_options
from aevb.priors import PriorFamily
from aevb.runtime import xla
from aevb.vae import VAE

WITHOUT_ENCODER = ("mcem",)  # algorithms whose models are evaluated with samples of the prior
WITHOUT_VAMP = ("mcem", "wake_sleep", "reweighted_wake_sleep")  # train p(z) without the encoder


class Experiment(NamedTuple):
    """The objects of a config."""

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
    optimizer = build_optimizer(values)  # first, so that errors come before the data are loaded
    dataset = load(values) if dataset is None else dataset
    num_data = len(dataset.train)
    if values["train.batch_size"] > num_data:
        raise UserError(
            f"config.train.batch_size is {values['train.batch_size']}; it can be at most the "
            f"{num_data} training datapoints of {dataset.name}"
        )
    model = _build_vae(values, dataset)
    algorithm = build_algorithm(values, model, num_data, optimizer)
    _require_room(algorithm)
    return Experiment(dataset, model, algorithm)


def load(values: Values) -> Dataset:
    """Loads the dataset of a validated config.

    Its training data are on disk or in memory, by `data.access` and `data.memory_share`.

    Raises:
        UserError: it cannot be loaded.
    """
    options = section(values, "data")
    access, share = options.pop("access"), options.pop("memory_share")
    if options["name"] == "synthetic":
        number = options["synthetic_num_train"] + options["synthetic_num_test"]
        width = max(number, options["synthetic_num_latents"])
        xla.require_memory(
            8 * width * options["synthetic_num_dims"],
            "the synthetic data",
            "config.data.synthetic_*",
        )
    dataset = data.load(options.pop("name"), data.Options(**options))
    fits = dataset.train.nbytes <= share * xla.memory()
    if access == "stream" or (access == "auto" and not fits):
        return data.on_disk(dataset, data.Options(**options))
    if isinstance(dataset.train, np.memmap):  # its file may be overwritten during the run
        return dataset._replace(train=np.array(dataset.train))
    return dataset._replace(train=np.asarray(dataset.train))


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
    return tuple(section(values, "data").items())


def _require_room(algorithm: Algorithm) -> None:
    """Checks that the training state fits into memory, before anything is allocated.

    Raises:
        UserError: it needs more memory than there is.
    """
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    # 3: the state, its copy from the last pause, and the gradients.
    xla.require_memory(
        3 * sum(sizes), "training this model", "config.model.hidden or config.model.num_latents"
    )


def build_optimizer(values: Values, step_size: float | Array | None = None) -> Optimizer:
    """Returns the optimizer of a validated config.

    Args:
        step_size: [], replaces the config's step size.

    Raises:
        UserError: the optimizer cannot be made.
    """
    return optimizers.make(
        values["optimizer.name"],
        values["optimizer.step_size"] if step_size is None else step_size,
        values["optimizer.options"],
    )


def build_algorithm(values: Values, model: VAE, num_data: int, optimizer: Optimizer) -> Algorithm:
    """Returns the algorithm of a validated config, for a model and N = `num_data` datapoints.

    The algorithm's `make` receives those algorithm.* fields of the config that it has parameters
    for.

    Raises:
        UserError: the parts do not fit together.
    """
    options = section(values, "algorithm")
    name = options.pop("name")
    make = importlib.import_module(f"aevb.algorithms.{name}").make
    wanted = inspect.signature(make).parameters
    options["prior"] = ParamPrior(options["param_prior_std"] or None, options["prior_on_biases"])
    if "bound" in wanted:
        options["bound"] = build_bound(values, model.guide)
    taken = {option: value for option, value in options.items() if option in wanted}
    try:
        algorithm = make(model, optimizer, num_data=num_data, **taken)
    except ValueError as error:
        fields = ", ".join(f"config.algorithm.{option}" for option in taken if option != "prior")
        raise UserError(
            f"config.algorithm.name is {name!r}, which refuses its arguments: {error} ({fields}, "
            "config.algorithm.param_prior_std, config.algorithm.prior_on_biases)"
        ) from error
    most = options["skip_bad_steps"]
    return skip_bad_steps(algorithm, most) if most else algorithm


def _build_vae(values: Values, dataset: Dataset) -> VAE:
    name = values["model.likelihood"]
    likelihood = likelihoods.LIKELIHOODS[name]
    if dataset.kind not in likelihood.kinds:
        fitting = [n for n, other in likelihoods.LIKELIHOODS.items() if dataset.kind in other.kinds]
        raise UserError(
            f"config.model.likelihood is {name!r}, which scores "
            f"{' or '.join(likelihood.kinds)} data and not the {dataset.kind} data of "
            f"{dataset.name}; use {' or '.join(fitting)}, or other data (config.data.binarization)"
        )
    if likelihood.levels not in (None, dataset.levels):
        raise UserError(
            f"config.model.likelihood is {name!r}, whose grey levels are k / "
            f"{likelihood.levels:g}, and those of {dataset.name} are k / {dataset.levels:g}; set "
            f"config.data.grey_scale={likelihood.levels:g}, which changes no probability"
        )
    num_dims, num_latents = dataset.train.shape[1], values["model.num_latents"]
    hidden = values["model.hidden"]
    architecture = networks.NETWORKS[values["model.network"]]
    initialization = networks.INITIALIZATIONS[values["model.init"]](values["model.init_std"])
    has_encoder = values["algorithm.name"] not in WITHOUT_ENCODER
    make_family = guides.GUIDES[values["model.guide"]]
    family = (make_family if has_encoder else guides.standard_normal_family)(
        guides.Sizes(num_latents, values["model.guide_layers"], values["model.guide_hidden"])
    )
    common = {
        "initialization": initialization,
        "image_shape": dataset.image_shape,
        "dtype": values["model.compute_dtype"],
    }
    heads = {head: num_dims * size for head, size in likelihood.heads.items()}
    try:
        encoder = architecture.encoder(num_dims, family.heads, hidden=hidden, **common)
        decoder = architecture.decoder(
            num_latents, heads, hidden=hidden[::-1], constants=likelihood.shared, **common
        )
    except ValueError as error:
        raise UserError(
            f"config.model.network is {values['model.network']!r}, which refuses the rest: {error} "
            f"(config.data.name is {dataset.name!r}, config.model.hidden is {hidden})"
        ) from error
    if values["model.rematerialize"]:
        encoder, decoder = map(networks.rematerialized, (encoder, decoder))
    if not architecture.knows_weight_posteriors and _has_local_noise(values):
        raise UserError(
            "config.algorithm.weight_noise is 'local', the noise of an mlp's units, and "
            f"config.model.network is {values['model.network']!r}; use minibatch or datapoint"
        )
    return vae.make(
        encoder if has_encoder else None,
        decoder,
        likelihood,
        num_latents=num_latents,
        guide_family=family,
        prior_family=_build_prior(values, dataset),
    )


def _has_local_noise(values: Values) -> bool:
    return values["algorithm.name"] == "full_vb" and values["algorithm.weight_noise"] == "local"


def _build_prior(values: Values, dataset: Dataset) -> PriorFamily:
    name, num_components = values["model.prior"], values["model.prior_components"]
    num_data = len(dataset.train)
    if name == "vamp" and values["algorithm.name"] in WITHOUT_VAMP:
        raise UserError(
            f"config.algorithm.name is {values['algorithm.name']!r}, which trains p(z) without the "
            "encoder that config.model.prior='vamp' is made of; use standard_normal or mixture"
        )
    if name == "vamp" and num_components > num_data:
        raise UserError(
            f"config.model.prior_components is {num_components}; for vamp it can be at most the "
            f"{num_data} training datapoints of {dataset.name}, at which its components start"
        )

    def examples(number: int) -> Array:
        """Returns evenly spaced training datapoints, preprocessed as in evaluation, [number, D]."""
        index = np.linspace(0, num_data - 1, number).astype(np.int32)
        return elbo.fixed_inputs(dataset.preprocess, index, dataset.train[index])

    return priors.PRIORS[name](
        priors.Options(
            values["model.num_latents"],
            num_components,
            examples,
            in_unit_interval=dataset.kind != "real",
        )
    )


def build_bound(values: Values, guide: Guide) -> Bound:
    """Returns the bound with its options applied, after a trial call.

    Raises:
        UserError: the bound has no such option, or refuses a value, config.algorithm.num_samples or
            the guide.
    """
    name, options = values["algorithm.bound"], values["algorithm.bound_options"]
    bound = losses.BOUNDS[name]
    given = parse_options(options, field="config.algorithm.bound_options", example="alpha=0.3")
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(bound).parameters.values()
        if parameter.kind == parameter.KEYWORD_ONLY and parameter.name != "num_samples"
    }
    for option, value in given.items():
        if option not in defaults:
            raise UserError(
                f"config.algorithm.bound_options is {options!r}, but the bound {name} has no "
                f"option {option!r}; it has {', '.join(defaults) or 'none'}"
            )
        if type(defaults[option]) is int and value.is_integer():
            given[option] = int(value)
    bound = partial(bound, **given)
    # A trial call with scalar densities, so that wrong arguments are found before training.
    toy = Guide(lambda key, stats: stats, lambda stats, z: z, guide.kl and (lambda stats: stats))
    rehearse = partial(bound, num_samples=values["algorithm.num_samples"])
    try:
        jax.eval_shape(
            lambda key: rehearse(key, jnp.zeros(()), toy, Joint(lambda z: z, lambda z: z)),
            jax.random.key(0),
        )
    except ValueError as error:
        fields = "config.algorithm.num_samples, config.algorithm.bound_options"
        if guide.kl is None:  # flows have none, nor has any guide if the prior is not N(0, I)
            fields += ", config.model.guide, config.model.prior"
        raise UserError(
            f"config.algorithm.bound is {name!r}, which refuses its arguments: {error} ({fields})"
        ) from error
    return bound
