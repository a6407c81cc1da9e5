"""Pages of untrained models, and the content of a page."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import probit_entries

from aevb import registry
from aevb.config import Config, default_config, validate, with_values
from aevb.experiment import Experiment, build
from aevb.reports.explorer import explorer_page
from aevb.types import PyTree

SUMMARY = {
    "train_bound": -1.0, "train_bound_standard_error": 0.1, "test_bound": -2.0,
    "test_bound_standard_error": 0.1, "num_examples": 0,
}  # fmt: skip


def content_of(text: str) -> dict[str, Any]:
    """Returns the content that the page's scripts show."""
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', text)
    return json.loads(found, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"no browser reads a page with {constant} in its JSON")


def floats(text: str) -> np.ndarray:
    """Returns the numbers that a page has as base64 of float32."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def page_of_untrained(
    values: dict[str, Any], config: Config | None = None, entries: str = ""
) -> tuple[Experiment, PyTree, str]:
    """Returns an untrained model, its parameters and its page.

    Args:
        values: changes to the config.
        config: the default config, if it is None.
        entries: the digest of an experiment's file that brings entries.
    """
    checked = validate(with_values(config or default_config(), values), entries)
    experiment = build(checked)
    algorithm = experiment.algorithm
    params = algorithm.vae_params(jax.jit(algorithm.init)(jax.random.key(0)).params)
    return experiment, params, explorer_page(experiment, params, [], checked, SUMMARY)


def page_without_decoder(num_latents: int) -> tuple[Experiment, PyTree, str]:
    """Returns an untrained model that pages cannot decode, its parameters and its page."""
    entries = registry.bring(Path(probit_entries.__file__))
    values = {"model.num_latents": num_latents}
    return page_of_untrained(values, probit_entries.get_config(), entries)
