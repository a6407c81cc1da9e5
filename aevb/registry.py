"""The named entries of a config: those of the package, and those that an experiment's file brings.

The package's entries are in tables, such as `aevb.losses.BOUNDS`. An experiment's file can bring
others, which a config then names in the same way:

    def get_entries():
        return {"likelihood": {"probit": probit}, "bound": {"my_bound": my_bound}}

An entry is a factory with the signature of the table's entries. Its own keyword arguments are set
in the config's options, such as `model.likelihood_options`. The file must not import files beside
it, because each run keeps a copy of this file alone.

This module imports neither jax nor the tables, so that `--help` and the message about a wrong
setting appear without delay.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aevb.errors import UserError

NAMES = {
    "dataset": ("binarized_mnist", "frey_faces", "mnist", "synthetic"),
    "network": ("mlp", "gated_mlp", "residual_mlp", "conv", "residual_conv", "gated_conv"),
    "initialization": ("normal", "fan_in"),
    "likelihood": (
        "bernoulli",
        "continuous_bernoulli",
        "gaussian",
        "gaussian_unit_mean",
        "gaussian_shared",
        "student_t",
        "discretized_logistic",
        "discretized_logistic_mixture",
        "discretized_gaussian",
        "categorical",
        "poisson",
        "negative_binomial",
        "zero_inflated_poisson",
        "zero_inflated_negative_binomial",
    ),
    "guide": (
        "diag_normal",
        "full_normal",
        "planar",
        "iaf",
        "bernoulli",
        "categorical",
        "relaxed_bernoulli",
        "relaxed_categorical",
    ),
    "prior": (
        "standard_normal",
        "mixture",
        "vamp",
        "bernoulli",
        "categorical",
        "relaxed_bernoulli",
        "relaxed_categorical",
    ),
    "algorithm": ("aevb", "full_vb", "wake_sleep", "reweighted_wake_sleep", "mcem"),
    "bound": (
        "sgvb_a",
        "sgvb_b",
        "score_function",
        "score_function_loo",
        "nvil",
        "stl",
        "iwae",
        "vimco",
        "dreg",
        "miwae",
        "piwae",
        "ciwae",
        "renyi",
        "beta_elbo",
        "free_bits",
        "free_bits_per_unit",
    ),
    "schedule": ("constant", "linear", "cyclic", "cosine", "exponential", "piecewise", "burda"),
    "estimator": ("importance", "importance_upper", "ais", "reverse_ais", "appendix_d"),
    "proposal": ("encoder", "laplace", "modes"),
}
"""The names in the package's tables, by kind. A test checks them against the tables."""

TABLES = {
    "dataset": "aevb.data:DATASETS",
    "network": "aevb.networks:NETWORKS",
    "initialization": "aevb.networks:INITIALIZATIONS",
    "likelihood": "aevb.likelihoods:LIKELIHOODS",
    "guide": "aevb.guides:GUIDES",
    "prior": "aevb.priors:PRIORS",
    "algorithm": "aevb.algorithms:ALGORITHMS",
    "bound": "aevb.losses:BOUNDS",
    "schedule": "aevb.schedules:SCHEDULES",
    "estimator": "aevb.marginal:ESTIMATORS",
    "proposal": "aevb.proposals:PROPOSALS",
}
"""The tables, as module:name."""

EXPERIMENT = "experiment.py"  # the copy of an experiment's file in the folder of a run


class Source(NamedTuple):
    """An experiment's file that brings entries."""

    text: str
    entries: Mapping[str, Mapping[str, Any]]  # kind -> name -> entry


_sources: dict[str, Source] = {}  # by the file's SHA-256


def bring(file: Path) -> str:
    """Runs an experiment's file and registers the entries that its get_entries() returns, if any.

    Returns the SHA-256 of the file, which `names` and `find` take to include its entries; "" if it
    brings none.

    Raises:
        UserError: the file cannot be run, or get_entries() does not return entries by kind and
            name.
    """
    digest = digest_of(file)
    if digest not in _sources:
        spec: Any = importlib.util.spec_from_file_location(f"aevb_experiment_{digest[:16]}", file)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            entries = getattr(module, "get_entries", dict)()
        except Exception as error:  # any exception that the user's file raises
            words = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"the entries of {file} cannot be read: {words}") from error
        _check(entries, file)
        try:
            text = file.read_bytes().decode()  # with its line ends, so that a copy has this digest
        except UnicodeDecodeError:
            raise UserError(f"{file} brings entries and is no UTF-8; save it as UTF-8") from None
        _sources[digest] = Source(text, entries)
    return digest if _sources[digest].entries else ""


def digest_of(file: Path) -> str:
    """Returns the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _check(entries: Any, file: Path) -> None:
    """Raises a UserError if entries are not mappings by kind and name, or their names are taken."""
    for found in (entries, *(entries.values() if isinstance(entries, Mapping) else ())):
        if not isinstance(found, Mapping):
            raise UserError(
                f"get_entries() of {file} returns {found!r}, which is no mapping; it must return "
                '{kind: {name: entry}}, such as {"bound": {"my_bound": my_bound}}'
            )
    for kind, brought in entries.items():
        if kind not in NAMES:
            raise UserError(
                f"get_entries() of {file} has the kind {kind!r}; the kinds are {', '.join(NAMES)}"
            )
        for entry in brought:
            if entry in NAMES[kind]:
                raise UserError(
                    f"get_entries() of {file} has the {kind} {entry!r}, which the package has too; "
                    "give it another name"
                )


def text_of(digest: str) -> str:
    """Returns the text of a file that brought entries."""
    return _sources[digest].text


def names(kind: str, digest: str = "") -> tuple[str, ...]:
    """Returns the names of a kind: those of the package, and those of the file with this digest."""
    brought = _sources[digest].entries.get(kind, {}) if digest else {}
    return (*NAMES[kind], *brought)


def entries(kind: str, digest: str = "") -> dict[str, Any]:
    """Returns the entries of a kind by name; imports the package's table."""
    module, _, variable = TABLES[kind].partition(":")
    table = getattr(importlib.import_module(module), variable)
    return {**table, **(_sources[digest].entries.get(kind, {}) if digest else {})}


def find(kind: str, name: str, digest: str = "") -> Any:
    """Returns an entry, from the package's table or from the file with this digest."""
    return entries(kind, digest)[name]
