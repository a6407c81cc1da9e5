"""Computes and saves the figures of a trained run."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb import label_models, labels
from aevb.data import Dataset, Description
from aevb.evaluation import elbo, manifold
from aevb.evaluation.diagnostics import posterior_marginals
from aevb.experiment import Experiment
from aevb.reports import figures
from aevb.runtime import xla
from aevb.storage import metrics_log
from aevb.storage.trackers import Pictures
from aevb.types import PyTree
from aevb.vae import VAE, of_last_layer

DRAWING_SEED = 0
NUM_RECONSTRUCTIONS = 12
NUM_SAMPLES = 100
NUM_ANALOGIES = 10


def draw_run(
    experiment: Experiment, params: PyTree, records: list[dict[str, Any]], folder: Path
) -> None:
    """Writes bound.png and, for images, reconstructions, samples and, if Z = 2, the manifold.

    A model with labels also has analogies.
    """
    dataset, vae = experiment.dataset, experiment.vae
    model = f"{dataset.name}, {vae.size_of_z} latent dimensions"
    drawn = {"bound": figures.bound_curve(metrics_log.curve(records), title=model)}
    compiled = xla.jit_brief(partial(_images, experiment))
    images = {name: np.asarray(grid) for name, grid in compiled(params).items()}
    if images:
        title = f"{model}: test images and their reconstructions"
        drawn["reconstructions"] = figures.reconstructions(*images["reconstructions"], title=title)
        title = f"{model}:\nE[x|z] at random z ~ p(z)"
        drawn["samples"] = figures.samples({title: np.concatenate(images["samples"])})
    if "samples_of_top" in images:
        last = len(vae.layer_sizes)
        title = f"{model}:\nE[x|z] at random z{last} ~ p(z{last}), the layers below at their means"
        joined = np.concatenate(images["samples_of_top"])
        drawn["samples_of_top"] = figures.samples({title: joined})
    if "analogies" in images:
        names = experiment.dataset.labels.names if experiment.dataset.labels else ()
        title = f"{model}: a test image, and E[x|y, z] with its z, for y = {', '.join(names)}"
        drawn["analogies"] = figures.image_rows(images["analogies"], [], title=title)
    if "manifold" in images:
        title = f"{dataset.name}: E[x|z] over the latent plane"
        drawn["manifold"] = figures.manifolds({title: images["manifold"]}, manifold.QUANTILES)
    folder.mkdir(exist_ok=True)
    for name, figure in drawn.items():
        figures.save(figure, str(folder / f"{name}.png"))


def _images(experiment: Experiment, params: PyTree) -> dict[str, Array]:
    """Returns name -> images [R, C, h, w(, 3)] of a model; {} if the data are not images."""
    dataset, vae, _ = experiment
    if dataset.image_shape is None:
        return {}
    pairs = as_images(jnp.stack(reconstruct(vae, params, dataset)), dataset.description)
    images = {"reconstructions": pairs, **generated_images(vae, params, dataset.description)}
    if vae.num_labels:
        images["analogies"] = as_images(analogies(vae, params, dataset), dataset.description)
    return images


def generated_images(vae: VAE, params: PyTree, data: Description) -> dict[str, Array]:
    """Returns the samples of a model of images, [R, C, h, w(, 3)], and, if Z = 2, the manifold.

    A model with several layers of latents also has samples of its last layer alone.
    """
    side = math.isqrt(NUM_SAMPLES)
    images = {"samples": sample_means(vae, params).reshape(side, side, -1)}
    if vae.layer_sizes:
        images["samples_of_top"] = means_of_top(vae, params).reshape(side, side, -1)
    if manifold.has_plane(vae):
        images["manifold"] = manifold.decode_unit_square(vae, params)
    return {name: as_images(means, data) for name, means in images.items()}


def as_images(means: Array, data: Description) -> Array:
    """Returns pictures [R, C, h, w(, 3)] of a model's x [R, C, D], from 0 for black to 1."""
    low, high = data.range
    shape = (*means.shape[:2], *(data.image_shape or ()))
    return (means.reshape(shape) - low) / (high - low or 1.0)


def pictures_of(experiment: Experiment) -> Pictures | None:
    """Returns a function from a state's parameters to the images of `draw_run`, without axes.

    The images are name -> [h, w(, 3)] uint8. They show means at the same noise in each call. The
    function is compiled at its first call. If the data are not images, `pictures_of` returns None.
    """
    if experiment.dataset.image_shape is None:
        return None

    @xla.jit_brief
    def in_bytes(params: PyTree) -> dict[str, Array]:
        images = _images(experiment, experiment.algorithm.vae_params(params))
        return {
            name: jnp.round(255.0 * jnp.clip(jnp.nan_to_num(grid), 0.0, 1.0)).astype(jnp.uint8)
            for name, grid in images.items()
        }

    def pictures(params: PyTree) -> dict[str, np.ndarray]:
        return {name: figures.tile(np.asarray(grid)) for name, grid in in_bytes(params).items()}

    return pictures


def reconstruct(vae: VAE, params: PyTree, dataset: Dataset) -> tuple[Array, Array]:
    """Returns evenly spaced test datapoints, and E[x|z] at a z ~ q(z|x) of each; both [B, D]."""
    index = np.linspace(0, len(dataset.test) - 1, NUM_RECONSTRUCTIONS).astype(int)

    def one(number: Array, stored: Array) -> tuple[Array, Array]:
        x = elbo.fixed_input(dataset.preprocess, number, stored)
        key = jax.random.fold_in(jax.random.key(DRAWING_SEED), number)
        return x, vae.mean(params, vae.guide.sample(key, vae.encode(params, x)))

    return jax.vmap(one)(jnp.asarray(index), jnp.asarray(dataset.test[index]))


def analogies(vae: VAE, params: PyTree, dataset: Dataset) -> Array:
    """Returns test datapoints, each beside E[x|y, z] for every label y, [R, 1 + C, D].

    z, the style, is the mean of q(z|x, y) at the most probable label of the datapoint.
    """
    index = np.linspace(0, len(dataset.test) - 1, NUM_ANALOGIES).astype(int)
    assert vae.given_label is not None
    given = vae.given_label

    def row(number: Array, stored: Array) -> Array:
        x = elbo.fixed_input(dataset.preprocess, number, stored)
        _, own = label_models.most_probable(vae.encode(params, x))
        z, _ = posterior_marginals(jax.random.key(DRAWING_SEED), own, given)
        number_of_labels = vae.num_labels
        of_all = jax.vmap(lambda label: vae.mean(params, labels.join(label, z, number_of_labels)))(
            jnp.arange(number_of_labels)
        )
        return jnp.concatenate([x[None], of_all])

    return jax.vmap(row)(jnp.asarray(index), jnp.asarray(dataset.test[index]))


def sample_means(vae: VAE, params: PyTree) -> Array:
    """Returns E[x|z] at NUM_SAMPLES draws z ~ p(z), without the noise of p(x|z), [B, D]."""
    keys = jax.random.split(jax.random.key(DRAWING_SEED), NUM_SAMPLES)
    return jax.vmap(lambda key: vae.mean(params, vae.sample(key, params)[0]))(keys)


def means_of_top(vae: VAE, params: PyTree) -> Array:
    """Returns E[x|z] at draws of the last layer of latents, the others at their means, [B, D]."""
    keys = jax.random.split(jax.random.key(DRAWING_SEED), NUM_SAMPLES)
    of_top, last = of_last_layer(vae), vae.layer_sizes[-1]
    return jax.vmap(lambda key: of_top.mean(params, vae.sample(key, params)[0][-last:]))(keys)
