"""The interactive page of a trained run's latent space, one HTML file that works offline.

The decoder runs in the page (`jaxpr_to_js.py`), so a point is decoded while it is dragged.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.config import DEFAULTS, Values
from aevb.distributions import DiagNormal
from aevb.evaluation import elbo
from aevb.evaluation.diagnostics import kl_per_unit
from aevb.experiment import Experiment
from aevb.reports.jaxpr_to_js import NotPortableError, encode_floats, portable
from aevb.reports.pages import page
from aevb.storage.metrics_log import curve
from aevb.types import Key, PyTree

SEED = 0  # of the draws from posteriors whose mean has no closed form
NUM_DRAWS = 64
MOST_POINTS = 1000  # points in the scatter plot
MOST_COORDINATES = 100_000  # coordinates of all points together
MOST_PICTURED = 100  # datapoints that are shown as pictures
MOST_PIXELS = 200_000  # pixels of all pictures together
MOST_PROGRAM = 16_000_000  # characters of the decoder's constants


def explorer_page(
    experiment: Experiment,
    params: PyTree,
    records: Sequence[Mapping[str, Any]],
    config: Values,
    summary: Mapping[str, Any],
) -> str:
    """Returns the page of a trained model, as HTML that needs no other file.

    Args:
        params: the model's parameters.
        records: the run's log.
        config: the run's config.
        summary: the run's bounds, as `runs` summarizes them.
    """
    name = f"{experiment.dataset.name}, {experiment.vae.num_latents} latent dimensions"
    image = _image(experiment)
    content = {
        "title": name,
        "summary": _describe(summary),
        "config": _settings(config),
        "curve": curve(records),
        "image": image,
        **_decoder(experiment, params),
        **_data(experiment, params, image),
    }
    return page("explorer", name, content)


def _describe(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [
            f"bound, {split}",
            f"{summary[f'{split}_bound']:.2f} ± {summary[f'{split}_bound_standard_error']:.2f} nats"
            + (f", {summary[bits]:.3f} bits/dim" if (bits := f"{split}_bits_per_dim") in summary
               else ""),
        ]
        for split in ("train", "test")
    ]  # fmt: skip
    return [*rows, ["training examples", f"{summary['num_examples']:,}"]]


def _settings(config: Values) -> list[dict[str, Any]]:
    """Returns every field, its value, and whether it is the default."""
    return [
        {"name": name, "value": str(value), "is_default": DEFAULTS.get(name) == value}
        for name, value in config.items()
    ]


def _image(experiment: Experiment) -> dict[str, Any]:
    """Returns the shape of a datapoint's picture, and the values of black and of white."""
    dataset = experiment.dataset
    shape = dataset.image_shape or (1, dataset.test.shape[1])
    low, high = 0.0, 1.0
    if dataset.kind == "real":
        low, high = float(np.min(dataset.test)), float(np.max(dataset.test))
    return {"shape": list(shape), "low": low, "high": high}


def _decoder(experiment: Experiment, params: PyTree) -> dict[str, Any]:
    """Returns E[x|z] as a program for the page, or the reason why there is none."""
    vae = experiment.vae
    try:
        program = portable(lambda z: vae.mean(params, z), vae.num_latents)
    except NotPortableError as error:
        return {"decoder": None, "why_not": str(error)}
    size = sum(len(constant["data"]) for constant in program["constants"])
    if size > MOST_PROGRAM:
        return {"decoder": None, "why_not": f"the decoder is too large for a page ({size:,} bytes)"}
    return {"decoder": program, "why_not": ""}


def _data(experiment: Experiment, params: PyTree, image: Mapping[str, Any]) -> dict[str, Any]:
    """Returns test datapoints: the means of q(z|x), their bounds, and pictures of some.

    It also returns the latent units, sorted by KL, the largest first.
    """
    dataset, vae, _ = experiment
    if not vae.has_encoder:
        units = [{"unit": unit, "kl": None} for unit in range(vae.num_latents)]
        return {"units": units, "points": None}
    number, num_dims = dataset.test.shape
    num_points = min(number, MOST_POINTS, max(MOST_COORDINATES // vae.num_latents, 1))
    num_pictured = min(num_points, MOST_PICTURED, max(MOST_PIXELS // num_dims, 1))
    index = np.linspace(0, number - 1, num_points).astype(np.int32)
    stored = dataset.test[index]
    x = elbo.fixed_inputs(dataset.preprocess, index, stored)
    bounds = elbo.make_bounds(vae, dataset.preprocess)
    keys = jax.random.split(jax.random.key(SEED), num_points)

    @jax.jit
    def seen(params: PyTree) -> tuple[Array, Array, Array]:
        means, kls = jax.vmap(lambda key, one: _marginals(key, vae.encode(params, one), vae.guide))(
            keys, x
        )
        return means, jnp.mean(kls, axis=0), bounds(params, jnp.asarray(stored), jnp.asarray(index))

    means, kl, scores = map(np.asarray, seen(params))
    pictured = np.linspace(0, num_points - 1, num_pictured).astype(int)
    levels = (np.asarray(x)[pictured] - image["low"]) / (image["high"] - image["low"] or 1.0)
    pixels = np.clip(255.0 * levels, 0.0, 255.0).round().astype(np.uint8)
    return {
        "units": [{"unit": int(unit), "kl": float(kl[unit])} for unit in np.argsort(-kl)],
        "points": {
            "means": encode_floats(means),
            "bounds": encode_floats(scores),
            "places": index.tolist(),
            "pictured": pictured.tolist(),
            "pictures": base64.b64encode(pixels.tobytes()).decode(),
        },
    }


def _marginals(key: Key, stats: PyTree, guide: Any) -> tuple[Array, Array]:
    """Returns the mean of q(z|x) and the KL of each unit's marginal from N(0, 1), both [Z].

    The KL takes the marginals as Gaussian. Both are exact for a diagonal Gaussian, and estimated
    from samples for every other guide.
    """
    if isinstance(stats, DiagNormal):
        return stats.mean, kl_per_unit(stats)
    draws = jax.vmap(lambda key: guide.sample(key, stats))(jax.random.split(key, NUM_DRAWS))
    mean, var = jnp.mean(draws, axis=0), jnp.var(draws, axis=0)
    return mean, kl_per_unit(DiagNormal(mean, jnp.log(var + jnp.finfo(var.dtype).tiny)))
