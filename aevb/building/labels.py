"""Builds the parts of a model with labels that a config describes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from aevb import label_models
from aevb.config import Values
from aevb.data import Dataset, Description
from aevb.errors import UserError
from aevb.guides import GuideFamily
from aevb.label_models import LabelledData
from aevb.losses import Bound
from aevb.networks import Network
from aevb.priors import PriorFamily
from aevb.vae import VAE


def families(
    values: Values,
    data: Description,
    given: GuideFamily,
    of_z: PriorFamily,
    between: Callable[..., Network],
) -> tuple[GuideFamily, PriorFamily]:
    """Returns the guide and the prior of a label and z.

    Args:
        given: of z alone, q(z|x, y).
        between: (inputs, heads) -> a network from features of x and y to these heads.

    Raises:
        UserError: the data show no labels, or the prior is made of q(z|x), which there is not.
    """
    kind, name = values["model.labels"], values["model.prior"]
    if not data.num_labels:
        raise UserError(
            f"config.model.labels is {kind!r}, and {data.name} shows a model no labels; give its "
            "Dataset Labels with is_shown"
        )
    if of_z.uses_encoder or of_z.to_decoder is not None:
        reason = "needs q(z|x) without a label" if of_z.uses_encoder else "is relaxed"
        raise UserError(
            f"config.model.labels is {kind!r}, and config.model.prior={name} {reason}; use "
            "standard_normal or mixture"
        )
    num_features = values["model.layer_hidden"][0]
    network = between(num_features + data.num_labels, given.heads)
    family = label_models.guide_family(given, network, data.num_labels, num_features)
    return family, label_models.prior_family(of_z, data.num_labels)


def data_of(values: Values, dataset: Dataset) -> LabelledData | None:
    """Returns the labels that a model is trained on; None if the config has no model of them."""
    if not values["model.labels"] or dataset.labels is None:
        return None
    shown = dataset.labels.shown
    x = np.asarray(dataset.train[np.flatnonzero(shown >= 0)])
    return LabelledData(shown, x, dataset.preprocess, min(values["train.batch_size"], len(x)))


def options(
    values: Values, model: VAE, bound: Bound, labelled: LabelledData | None
) -> dict[str, Any]:
    """Returns the arguments of the algorithm of a model with labels.

    Args:
        bound: the config's, of one label.
        labelled: None for a model that is not trained.
    """
    found: dict[str, Any] = {"bound": label_models.objective(model, bound, values["model.labels"])}
    if labelled is not None:
        weight = values["algorithm.label_weight"]
        found["term"] = label_models.classification(model, labelled, weight)
    return found
