"""Auto-Encoding Variational Bayes (Kingma & Welling, arXiv 1312.6114) in JAX.

Importing the package imports nothing else: take what you need, for example
``from aevb import losses``, which depends on jax alone. ``aevb.load_run(folder)`` gives a trained
model as functions, and loads the rest of the package when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from aevb.runs.load import TrainedRun as TrainedRun
    from aevb.runs.load import load_run as load_run

FROM_TRAINED = ("TrainedRun", "load_run")


def __getattr__(name: str) -> Any:
    if name == "__version__":  # which pyproject.toml says
        from importlib.metadata import version

        return version("aevb")
    if name not in FROM_TRAINED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aevb.runs import load

    return getattr(load, name)
