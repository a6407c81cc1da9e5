"""The interactive page of a trained run's latent space, one HTML file that works offline.

The decoder runs in the page (`jaxpr_to_js.py`), so a point is decoded while it is dragged. If the
page cannot run the decoder, it contains precomputed points, and shows the nearest of these.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb import label_models, labels
from aevb.config import DEFAULTS, Values
from aevb.data import Dataset, Labels
from aevb.evaluation import elbo
from aevb.evaluation.bits import BITS, UNITS
from aevb.evaluation.diagnostics import posterior_marginals
from aevb.experiment import Experiment
from aevb.losses import REAL
from aevb.reports.films import films_of
from aevb.reports.jaxpr_to_js import NotPortableError, encode_bytes, encode_floats, portable
from aevb.reports.pages import page
from aevb.runtime import xla
from aevb.runtime.paths import shown
from aevb.storage.metrics_log import curve
from aevb.types import Key, PyTree
from aevb.vae import VAE, of_last_layer

SEED = 0  # of the draws from posteriors whose mean has no closed form
MOST_POINTS = 1000  # points in the scatter plot
MOST_COORDINATES = 100_000  # coordinates of all points together
MOST_PICTURED = 100  # datapoints that are shown as pictures
MOST_PIXELS = 200_000  # pixels of all pictures together
MOST_STARTS = 100  # training datapoints of which one is where the page opens
MOST_PROGRAM = 16_000_000  # characters of the decoder's constants
MOST_AXES = 3  # units over which precomputed points are a grid
MEASURE_CHARTS = (  # title, label of the axis, and the lines: word in the legend -> name in the log
    ("Rate", "KL(q(z|x) ‖ p(z)), nats", {"": "rate"}),
    ("Distortion", "−E log p(x|z), nats", {"": "distortion"}),
    ("Active latents", "latents", {"by mean": "active_units", "by KL": "active_units_by_kl"}),
    (
        "The aggregate posterior", "nats",
        {"I(x; z)": "mutual_information", "KL(q(z) ‖ p(z))": "aggregate_kl"},
    ),
    (
        "Log variances of q(z|x)", "log variance",
        {word: f"posterior_log_var_{word}" for word in ("min", "mean", "max")},
    ),
    (
        "Log variances of p(x|z)", "log variance",
        {word: f"likelihood_log_var_{word}" for word in ("min", "mean", "max")},
    ),
    ("Norm of the gradient", "nats per datapoint", {"": "gradient_norm"}),
    ("Norm of the update", "norm", {"": "update_norm"}),
)  # fmt: skip
MOST_PRECOMPUTED = 800_000  # bytes of precomputed points and their pictures


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
        summary: the run's summary, which contains its bounds.
    """
    dataset, vae = experiment.dataset, of_last_layer(experiment.vae)
    name = f"{dataset.name}, {experiment.vae.size_of_z} latent dimensions"
    image = _image(dataset)
    data, means = _data(experiment, params, image)
    content = {
        "title": name,
        "summary": describe_bounds(summary),
        "config": _settings(config),
        "curve": curve(records),
        "measures": measure_charts(records),
        "image": image,
        "window": config["data.window"],
        "num_labels": vae.num_labels,
        "frame_latents": vae.num_latents // config["data.window"] if vae.frame else 0,
        "films": _films(experiment, params, image, config["data.window"]),
        **_decoder(vae, params),
        **data,
    }
    has_plane = vae.guide.support == REAL or (vae.num_labels and content["decoder"] is not None)
    content["support"] = "" if has_plane else vae.guide.support
    if content["decoder"] is None:
        content["grid"] = _precomputed(vae, params, content, means)
    return page("explorer", name, content)


def measure_charts(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the charts of a log's measures: a title, the label of the axis, and the lines."""
    charts = []
    for title, label, names in MEASURE_CHARTS:
        lines = [
            {
                "word": word,
                "split": split,
                "x": [record["examples"] for record in having],
                "y": [record[name] for record in having],
            }
            for word, suffix in names.items()
            for split in ("train", "valid", "test", "")
            for name in [f"{split}_{suffix}" if split else suffix]
            if (having := [record for record in records if name in record])
        ]
        if lines:
            charts.append({"title": title, "label": label, "lines": lines})
    return charts


def describe_bounds(summary: Mapping[str, Any]) -> list[list[str]]:
    """Returns the rows of a summary that people read, each a name and a value."""
    rows = []
    for split in ("train", "valid", "test"):
        if f"{split}_bound" not in summary:
            continue
        bound, error = summary[f"{split}_bound"], summary[f"{split}_bound_standard_error"]
        in_bits = "".join(
            f", {summary[f'{split}_{name}']:.3f} {unit}"
            for name, unit in UNITS.items()
            if f"{split}_{name}" in summary
        )
        spread = "" if error is None else f", standard error {error:.2f}"
        rows.append([f"bound, {split}", f"{bound:.2f} nats{spread}{in_bits}"])
    return [
        *rows,
        *_describe_measures(summary),
        ["training examples", f"{summary['num_examples']:,}"],
    ]


def _describe_measures(summary: Mapping[str, Any]) -> list[list[str]]:
    """Returns the rows of rate, distortion and active units of the test data, if it has them."""
    if "test_rate" not in summary:
        return []
    rate, distortion = summary["test_rate"], summary["test_distortion"]
    of_rate, of_distortion = (summary.get(f"test_{name}_{BITS}") for name in ("rate", "distortion"))
    in_bits = "" if of_rate is None else f"; {of_rate:.3f} and {of_distortion:.3f} {UNITS[BITS]}"
    return [
        ["rate and distortion, test", f"{rate:.2f} and {distortion:.2f} nats{in_bits}"],
        ["active latents, test", f"{summary['test_active_units']:.0f}"],
    ]


def _settings(config: Values) -> list[dict[str, Any]]:
    """Returns every field, its value, and whether it is the default."""
    return [
        {"name": name, "value": shown(str(value)), "is_default": DEFAULTS.get(name) == value}
        for name, value in config.items()
    ]


def _image(dataset: Dataset) -> dict[str, Any]:
    """Returns the shape of a datapoint's picture, and the values of black and of white."""
    shape = dataset.image_shape or (1, dataset.test.shape[1])
    low, high = dataset.range
    return {"shape": list(shape), "low": low, "high": high}


def _encode_pixels(values: Any, image: Mapping[str, Any]) -> str:
    """Returns pixels as base64 of bytes, from 0 for black to 255 for white."""
    levels = (np.asarray(values) - image["low"]) / (image["high"] - image["low"] or 1.0)
    pixels = np.clip(np.nan_to_num(255.0 * levels), 0.0, 255.0).round().astype(np.uint8)
    return encode_bytes(pixels)


def _films(
    experiment: Experiment, params: PyTree, image: Mapping[str, Any], num_frames: int
) -> list[dict[str, Any]]:
    """Returns the films of a model of windows of images, [] of any other."""
    dataset = experiment.dataset
    if not num_frames or dataset.image_shape is None:
        return []
    films = films_of(experiment.vae, params, dataset, num_frames)
    return [
        {"title": title, "pictures": _encode_pixels(frames, image), "frames": len(frames)}
        for title, frames in films.items()
    ]


def _decoder(vae: VAE, params: PyTree) -> dict[str, Any]:
    """Returns E[x|z] as a program for the page, or the reason why there is none."""
    try:
        program = portable(partial(vae.mean, params), vae.num_latents)
    except NotPortableError as error:
        return {"decoder": None, "why_not": str(error)}
    size = sum(len(constant["data"]) for constant in program["constants"])
    if size > MOST_PROGRAM:
        return {"decoder": None, "why_not": f"the decoder is too large ({size:,} bytes)"}
    return {"decoder": program, "why_not": ""}


def _data(
    experiment: Experiment, params: PyTree, image: Mapping[str, Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns test datapoints: the means of q(z|x), their bounds, and pictures of some.

    It also returns the latent units, sorted by KL, the largest first, the z at which the page
    opens, and separately the means of the datapoints with pictures, [n, Z]. One program computes
    all of it. A model without an encoder has no points, and the page opens at 0. The z of a model
    with labels begins with its most probable label, which is no unit.
    """
    dataset, vae = experiment.dataset, of_last_layer(experiment.vae)
    if not vae.has_encoder:
        units = [{"unit": unit, "kl": None} for unit in range(vae.num_latents)]
        start = [0.0] * vae.num_latents
        none = {"units": units, "points": None, "class_names": [], "start": start}
        return none, np.zeros((0, vae.num_latents))
    number, num_dims = dataset.test.shape
    num_points = min(number, MOST_POINTS, max(MOST_COORDINATES // vae.num_latents, 1))
    num_pictured = min(num_points, MOST_PICTURED, max(MOST_PIXELS // num_dims, 1))
    index = np.linspace(0, number - 1, num_points).astype(np.int32)
    stored = dataset.test[index]
    x = elbo.fixed_inputs(dataset.preprocess, index, stored)
    bounds = elbo.make_bounds(experiment.vae, dataset.preprocess)

    @xla.jit_brief
    def evaluate(params: PyTree, some: Array) -> tuple[Array, Array, Array, Array]:
        keys = jax.random.split(jax.random.key(SEED), num_points)
        means, kls = jax.vmap(lambda key, one: _code(key, vae, params, one))(keys, x)
        scores = bounds(params, jnp.asarray(stored), jnp.asarray(index))
        return means, jnp.mean(kls, axis=0), scores, _best_code(vae, params, some)

    has_kl = vae.guide.support == REAL or vae.num_labels > 0
    means, kl, scores, start = map(np.asarray, evaluate(params, _some_training_data(dataset)))
    pictured = np.linspace(0, num_points - 1, num_pictured).astype(int)
    class_names, classes = _classes(dataset.labels, index)
    shown = np.asarray(x)[pictured]
    data = {
        "class_names": class_names,
        "start": start.tolist(),
        "units": [
            {"unit": int(unit), "kl": float(kl[unit]) if has_kl else None}
            for unit in np.argsort(-kl)
            if unit >= vae.num_labels
        ],
        "points": {
            "means": encode_floats(means),
            "bounds": encode_floats(scores),
            "places": index.tolist(),
            "classes": classes,
            "pictured": pictured.tolist(),
            "pictures": _encode_pixels(shown, image),
            "missing": encode_bytes(np.isnan(shown)) if np.any(np.isnan(shown)) else None,
        },
    }
    return data, means[pictured]


def _classes(labels: Labels | None, index: np.ndarray) -> tuple[list[str], list[int]]:
    """Returns the names of the classes, and the numbers of test datapoints; both [] without any.

    Datapoints whose class is not known have one more class, named ?.
    """
    if labels is None:
        return [], []
    numbers = labels.test[index]
    unknown = ["?"] if np.any(numbers < 0) else []
    return [*labels.names, *unknown], np.where(numbers < 0, len(labels.names), numbers).tolist()


def _some_training_data(dataset: Dataset) -> Array:
    """Returns at most MOST_STARTS evenly spaced training datapoints, [n, D]."""
    number = min(len(dataset.train), MOST_STARTS)
    index = np.linspace(0, len(dataset.train) - 1, number).astype(np.int32)
    return elbo.fixed_inputs(dataset.preprocess, index, dataset.train[index])


def _code(key: Key, vae: VAE, params: PyTree, x: Array) -> tuple[Array, Array]:
    """Returns the mean of q(z|x) and the KL of each latent from N(0, 1), both [Z].

    If z is not real, a draw and NaN take their places. The z of a model with labels is the most
    probable label with the mean of q(z|x, y), and the KL is that of q(z|x, y).
    """
    stats = vae.encode(params, x)
    if vae.given_label is not None:
        label, own = label_models.most_probable(stats)
        mean, kl = posterior_marginals(key, own, vae.given_label)
        of_label = jnp.full(vae.num_labels, jnp.nan, kl.dtype)
        return labels.join(label, mean, vae.num_labels), jnp.concatenate([of_label, kl])
    if vae.guide.support == REAL:
        return posterior_marginals(key, stats, vae.guide)
    z = vae.guide.sample(key, stats)
    return z, jnp.full_like(z, jnp.nan)


def _best_code(vae: VAE, params: PyTree, x: Array) -> Array:
    """Returns the mean of q(z|x) of the one of x [n, D] that it reconstructs best, [Z]."""

    def encoded(arguments: tuple[Key, Array]) -> tuple[Array, Array]:
        key, one = arguments
        z, _ = _code(key, vae, params, one)
        return z, jnp.nansum(jnp.square(vae.mean(params, z) - one))

    z, errors = jax.lax.map(encoded, (jax.random.split(jax.random.key(SEED), len(x)), x))
    return z[jnp.argmin(errors)]


def _precomputed(
    vae: VAE, params: PyTree, content: Mapping[str, Any], means: np.ndarray
) -> dict[str, Any]:
    """Returns E[x|z] at some z, for a page that cannot decode, with a note for its reader.

    The z are a grid and `means` [n, Z], those of the datapoints that the page shows. The grid is
    over the units of largest KL, at quantiles of N(0, 1), with the other units at 0.
    """
    axes = [unit["unit"] for unit in content["units"][:MOST_AXES]]
    size = math.prod(content["image"]["shape"]) + 4 * vae.num_latents  # bytes of a point
    number = max(MOST_PRECOMPUTED // size - len(means), 1)
    side = (int(number ** (1 / len(axes))) - 1) // 2 * 2 + 1  # odd, so that the grid contains z = 0
    values = jax.scipy.special.ndtri(jnp.asarray((np.arange(side) + 0.5) / side, jnp.float32))
    grid = np.zeros((side ** len(axes), vae.num_latents))
    grid[:, axes] = np.stack(np.meshgrid(*[values] * len(axes)), axis=-1).reshape(-1, len(axes))
    z = np.concatenate([grid, means]).astype(np.float32)
    decode = xla.jit_brief(lambda z: jax.lax.map(partial(vae.mean, params), z, batch_size=50))
    names = ", ".join(f"z{unit + 1}" for unit in axes)
    others = " with the other latents at 0" if len(axes) < vae.num_latents else ""
    data = " and the means of q(z|x) of the test data below" if len(means) else ""
    return {
        "note": f"The picture is precomputed, at the nearest of {len(z)} points: a grid over "
        f"{names}{others}{data}. The page cannot decode, because {content['why_not']}.",
        "num_axes": len(axes),
        "latents": encode_floats(z),
        "pictures": _encode_pixels(decode(z), content["image"]),
    }
