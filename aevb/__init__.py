"""Auto-Encoding Variational Bayes (Kingma & Welling, arXiv 1312.6114) in JAX.

``aevb.fit(x)`` trains on an array, ``aevb.train(experiment)`` as the command ``aevb run`` does, and
``aevb.load_run(folder)`` returns a trained run. ``import aevb`` by itself imports no other module;
``aevb.losses`` and the others are imported at first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from aevb import algorithms as algorithms
    from aevb import classical as classical
    from aevb import config as config
    from aevb import data as data
    from aevb import discrete as discrete
    from aevb import distributions as distributions
    from aevb import enumeration as enumeration
    from aevb import evaluation as evaluation
    from aevb import factors as factors
    from aevb import guides as guides
    from aevb import inference as inference
    from aevb import labels as labels
    from aevb import likelihoods as likelihoods
    from aevb import losses as losses
    from aevb import marginal as marginal
    from aevb import missing as missing
    from aevb import networks as networks
    from aevb import optimizers as optimizers
    from aevb import priors as priors
    from aevb import proposals as proposals
    from aevb import registry as registry
    from aevb import reparam as reparam
    from aevb import sequences as sequences
    from aevb import types as types
    from aevb import vae as vae
    from aevb.interactive import fit as fit
    from aevb.interactive import train as train
    from aevb.runs.trained import TrainedRun as TrainedRun
    from aevb.runs.trained import load_run as load_run

MODULES = (
    "algorithms",
    "classical",
    "config",
    "data",
    "discrete",
    "distributions",
    "enumeration",
    "evaluation",
    "factors",
    "guides",
    "inference",
    "labels",
    "likelihoods",
    "losses",
    "marginal",
    "missing",
    "networks",
    "optimizers",
    "priors",
    "proposals",
    "registry",
    "reparam",
    "sequences",
    "types",
    "vae",
)
OF_RUNS = {
    "TrainedRun": "aevb.runs.trained",
    "fit": "aevb.interactive",
    "load_run": "aevb.runs.trained",
    "train": "aevb.interactive",
}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"aevb.{name}")
    if name in OF_RUNS:
        return getattr(importlib.import_module(OF_RUNS[name]), name)
    if name == "__version__":  # set in pyproject.toml
        from importlib.metadata import version

        return version("aevb")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*MODULES, *OF_RUNS, "__version__"]
