"""Builds the model that a config describes: likelihood, networks, guide and prior."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb import (
    guides,
    hierarchies,
    label_models,
    learned_baseline,
    likelihoods,
    missing,
    networks,
    priors,
    state_space,
    vae,
)
from aevb.building import labels
from aevb.building.entries import check_options, make_entry
from aevb.config import LATENTS, Values, entry_of, layers_of, section
from aevb.data import Description
from aevb.data.windows import frame_of
from aevb.errors import UserError
from aevb.guides import GuideFamily
from aevb.hierarchies import Layers
from aevb.likelihoods import Heads, Likelihood
from aevb.losses import REAL, Guide
from aevb.networks import Network
from aevb.priors import PriorFamily
from aevb.vae import VAE

NUM_FOR_MEAN = 10_000  # training datapoints whose mean model.init_at_mean takes
LEAST_MEAN_LOG = 1e-4  # of log(1 + x), for the rate of a count that is hardly ever seen


def build_vae(values: Values, data: Description, examples: Callable[[int], Array]) -> VAE:
    """Returns the model of a validated config, for described data.

    Args:
        examples: as for `experiment.build_model`.

    Raises:
        UserError: the parts do not fit together.
    """
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
        family, prior_family = labels.families(values, data, family, prior_family, between)
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


def _common(values: Values) -> dict[str, Any]:
    """Returns the arguments of every network of a config."""
    make_initialization = entry_of(values, "model.init")
    return {
        "initialization": make_initialization(values["model.init_std"]),
        "dtype": values["model.compute_dtype"],
    }


def _between(values: Values) -> Callable[..., Network]:
    """Returns the function (inputs, heads, **others) -> a network from latents to latents."""
    common = {"hidden": values["model.layer_hidden"], **_common(values)}

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
    common = _common(values)
    taken = ("hidden", "constants", "image_shape", *common)
    check_options(values, "model.network", architecture.encoder, 2, *taken)
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
