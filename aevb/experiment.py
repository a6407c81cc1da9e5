"""From a config to its objects: the data set, the model and the algorithm."""

from typing import NamedTuple

from aevb import data, likelihoods, losses, networks, optimizers, vae
from aevb.algorithms import sgvb
from aevb.algorithms.base import Algorithm
from aevb.config import Values, section
from aevb.data import Dataset
from aevb.errors import UserError
from aevb.vae import VAE


class Experiment(NamedTuple):
    """What a config names."""

    dataset: Dataset
    vae: VAE
    algorithm: Algorithm


def build(values: Values) -> Experiment:
    """The objects of a validated config.

    Raises:
        UserError: the data cannot be had, or the parts do not fit together.
    """
    optimizer = optimizers.make(
        values["optimizer.name"], values["optimizer.step_size"], values["optimizer.options"]
    )
    options = section(values, "data")
    dataset = data.load(options.pop("name"), data.Options(**options))
    num_data = len(dataset.train)
    if values["train.batch_size"] > num_data:
        raise UserError(
            f"config.train.batch_size is {values['train.batch_size']}; it can be at most the "
            f"{num_data} training datapoints of {dataset.name}"
        )
    model = _build_vae(values, dataset)
    algorithm = sgvb.make(
        model,
        optimizer,
        num_data=num_data,
        bound=losses.BOUNDS[values["algorithm.bound"]],
        num_samples=values["algorithm.num_samples"],
        param_prior_std=values["algorithm.param_prior_std"] or None,
        prior_on_biases=values["algorithm.prior_on_biases"],
    )
    return Experiment(dataset, model, algorithm)


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
    network = networks.NETWORKS[values["model.network"]]
    initialisation = networks.INITIALISATIONS[values["model.init"]](values["model.init_std"])
    encoder = network(
        num_dims,
        {"mean": num_latents, "log_var": num_latents},
        hidden=hidden,
        initialisation=initialisation,
    )
    decoder = network(
        num_latents,
        {head: num_dims * size for head, size in likelihood.heads.items()},
        hidden=hidden[::-1],
        initialisation=initialisation,
        constants=likelihood.shared,
    )
    return vae.make(encoder, decoder, likelihood, num_latents=num_latents)
