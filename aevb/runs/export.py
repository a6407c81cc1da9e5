"""Writes a trained model for programs without this package: StableHLO, parameters and a card."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax import export as jax_export
from safetensors.numpy import save

from aevb.config import Values
from aevb.data import Description, units
from aevb.data.identity import content_of
from aevb.data.preprocessing import Preprocessing
from aevb.errors import UserError
from aevb.experiment import with_likelihood
from aevb.runtime import provenance
from aevb.runtime.paths import require_empty
from aevb.storage.metrics_log import write_json
from aevb.types import PyTree
from aevb.vae import VAE

CARD, PARAMETERS = "model.json", "parameters.safetensors"
FORMAT = 1  # of the card; changes when a reader must change
PLATFORMS = ("cpu", "cuda", "tpu")
UNITS = {
    "binary": "0 or 1",
    "grey": "grey levels in 0..255",
    "unit": "numbers in [0, 1]",
    "real": "the data's own units, before any standardization",
    "counts": "whole numbers from 0",
}
NOISE = "u, independent and uniform on [0, 1) for each value of x"
DRAWS = {  # z ~ q(z|x) from the statistics of a guide
    "diag_normal": "z = mean + exp(log_var / 2) * e, with e ~ N(0, I)",
    "full_normal": "z = mean + L e, with e ~ N(0, I); L is lower triangular, with the diagonal "
    "exp(log_diag), and below_diag below it, row by row",
    "bernoulli": "z = 1 with probability 1 / (1 + exp(-logits)), else 0",
    "categorical": "of each row of logits, the class k with probability softmax(logits)_k; z is "
    "the one-hot rows, joined",
}


class Program(NamedTuple):
    """A function of one datapoint, and what its arguments and results are."""

    function: Callable[..., Mapping[str, Array]]
    inputs: Mapping[str, tuple[tuple[int, ...], str]]  # name -> shape, meaning
    outputs: str  # the meaning of the results


class Exported(NamedTuple):
    """A program as the content of a file, and its entry in the card."""

    content: bytes
    about: Mapping[str, Any]


def export(
    folder: Path,
    vae: VAE,
    params: PyTree,
    data: Description,
    config: Values,
    about: Mapping[str, Any],
) -> list[Path]:
    """Writes a model's programs, parameters and card into a new folder; returns the files.

    The programs contain the parameters. The card is written last.

    Args:
        about: further entries of the card, as JSON content.

    Raises:
        UserError: the folder holds files or cannot be written, the preprocessing is not of this
            package, or a network or likelihood cannot be exported.
    """
    try:
        require_empty(folder, "export the model to")
    except OSError as error:
        raise _unwritable(folder, error) from error
    if vae.num_labels:
        raise UserError(
            f"the run of {data.name} has labels (config.model.labels), for which there is no "
            "format; export load_run(RUN).model.encode and .decode by jax.export"
        )
    if not isinstance(data.preprocess, Preprocessing):
        raise UserError(
            f"{data.name} has a preprocessing of its own, whose noise is unknown, so that it "
            "cannot be exported; give its Dataset one of aevb.data.preprocessing (unchanged, drawn "
            "or scaled), or export load_run(RUN).model.encode, without preprocessing, by jax.export"
        )
    params = jax.device_get(params)  # plain arrays, as constants on no particular device
    found = {
        name: _exported(name, program)
        for name, program in programs_of(vae, params, data, config).items()
    }
    card = {
        "format": FORMAT,
        "load": "jax.export.deserialize(bytearray(FILE's bytes)).call(INPUTS in the order below)",
        "versions": provenance.versions(),
        **about,
        "data": content_of(data),
        "latents": {
            "number": vae.num_latents,
            "prior": config["model.prior"],
            "guide": config["model.guide"] if vae.has_encoder else None,
            "draw": DRAWS.get(config["model.guide"]) if vae.has_encoder else None,
        },
        "programs": {name: exported.about for name, exported in found.items()},
        "parameters": PARAMETERS,
        "config": with_likelihood(config, data.kind),
    }
    contents = {exported.about["file"]: exported.content for exported in found.values()}
    contents[PARAMETERS] = save(named_arrays(params), {"aevb": card["versions"]["aevb"]})
    return _write(folder, contents, card)


def programs_of(vae: VAE, params: PyTree, data: Description, config: Values) -> dict[str, Program]:
    """Returns the encoder, if the model has one, and the decoder, in the user's units.

    Args:
        data: of a preprocessing of this package.
    """

    def encode(x: Array, noise: Array | None = None) -> dict[str, Array]:
        return named_arrays(vae.encode(params, units.with_noise(data, x, noise)))

    def decode(z: Array) -> dict[str, Array]:
        return {"mean": units.from_model(data, vae.mean(params, z))}

    is_random = units.is_random(data)
    is_drawn = data.kind == "binary" and is_random
    unit = UNITS["grey" if is_drawn else data.kind]
    inputs = {"x": (data.shape, unit)} | ({"noise": (data.shape, NOISE)} if is_random else {})
    guide = config["model.guide"]
    decoder = Program(decode, {"z": ((vae.num_latents,), "latents")}, f"E[x|z]: {unit}")
    if not vae.has_encoder:
        return {"decoder": decoder}
    return {
        "encoder": Program(encode, inputs, f"statistics of q(z|x), of the guide {guide}"),
        "decoder": decoder,
    }


def named_arrays(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a tree by their path, such as "decoder.hidden_0.kernel"."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _exported(name: str, program: Program) -> Exported:
    """Exports a program for any number of datapoints.

    Raises:
        UserError: JAX refuses it.
    """
    n = jax_export.symbolic_shape("n")
    args = [jax.ShapeDtypeStruct((*n, *shape), jnp.float32) for shape, _ in program.inputs.values()]
    try:
        with _without_source_locations():
            made = jax_export.export(jax.jit(jax.vmap(program.function)), platforms=PLATFORMS)(
                *args
            )
        content = bytes(made.serialize())
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the {name} cannot be exported ({reason}); it must consist of operations of JAX that "
            "have StableHLO for any number of datapoints, without calls back into Python"
        ) from error
    outputs = jax.tree.unflatten(made.out_tree, made.out_avals)
    return Exported(
        content,
        {
            "file": f"{name}.stablehlo",
            "inputs": [
                {"name": name, "shape": ["n", *shape], "dtype": "float32", "meaning": meaning}
                for name, (shape, meaning) in program.inputs.items()
            ],
            "outputs": {
                name: {"shape": ["n", *aval.shape[1:]], "dtype": aval.dtype.name}
                for name, aval in outputs.items()
            },
            "meaning": program.outputs,
            "platforms": list(made.platforms),
            "calling_convention_version": made.calling_convention_version,
        },
    )


@contextmanager
def _without_source_locations() -> Iterator[None]:
    """Returns a context in which programs do not name the source files of this machine."""
    limit = jax.config.jax_traceback_in_locations_limit  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def _write(folder: Path, contents: Mapping[str, bytes], card: Mapping[str, Any]) -> list[Path]:
    """Writes the files; if that fails, removes them.

    Raises:
        UserError: they cannot be written.
    """
    files = [folder / name for name in (*contents, CARD)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        write_json(folder / CARD, card)
    except OSError as error:
        _remove(files)
        raise _unwritable(folder, error) from error
    return files


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError:  # the folder itself is unusable
            return


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"{folder} cannot be written ({error.strerror or error}); name another folder, or make room"
    )
