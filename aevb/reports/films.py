"""Films of a model of windows of frames: its test windows, their reconstructions, and samples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.data import Dataset
from aevb.evaluation import elbo
from aevb.runtime import xla
from aevb.types import Key, PyTree
from aevb.vae import VAE

SEED = 0
NUM_WINDOWS = 3  # test windows with their reconstructions
NUM_SAMPLED = 3
NUM_FRAMES = 60  # of a sampled film; a model without dynamics samples as many as a window has
MOST_VALUES = 1_000_000  # of all films together


def films_of(vae: VAE, params: PyTree, dataset: Dataset, num_frames: int) -> dict[str, np.ndarray]:
    """Returns title -> frames [T, D] as values of a model's x; {} if they would be too many.

    The films are test windows, each before E[x|z] at a z ~ q(z|x), and E[x|z] along z ~ p(z).

    Args:
        num_frames: T, of a window.
    """
    length = NUM_FRAMES if vae.frame is not None else num_frames
    num_dims = dataset.description.num_dims // num_frames
    if num_dims * (2 * NUM_WINDOWS * num_frames + NUM_SAMPLED * length) > MOST_VALUES:
        return {}
    number = min(NUM_WINDOWS, len(dataset.test))
    places = np.linspace(0, len(dataset.test) - 1, number).astype(np.int32)
    x = elbo.fixed_inputs(dataset.preprocess, places, dataset.test[places])
    keys = jax.random.split(jax.random.key(SEED), max(number, NUM_SAMPLED))

    @xla.jit_brief
    def draw(params: PyTree) -> tuple[Array, Array]:
        of_data = jax.vmap(partial(_reconstruction, vae, params))(keys[:number], x)
        of_model = jax.vmap(partial(_sampled, vae, params, length))(keys[:NUM_SAMPLED])
        return of_data.reshape(number, num_frames, num_dims), of_model

    reconstructed, sampled = map(np.asarray, draw(params))
    films = {}
    for place, window, other in zip(places, np.asarray(x), reconstructed, strict=True):
        films[f"test window {place}"] = window.reshape(num_frames, num_dims)
        films[f"test window {place}: E[x|z] at z ~ q(z|x)"] = other
    for one, film in enumerate(sampled, start=1):
        films[f"sample {one}: E[x|z] at z ~ p(z)"] = film.reshape(length, num_dims)
    return films


def _reconstruction(vae: VAE, params: PyTree, key: Key, x: Array) -> Array:
    return vae.mean(params, vae.guide.sample(key, vae.encode(params, x)))


def _sampled(vae: VAE, params: PyTree, length: int, key: Key) -> Array:
    """Returns the means of the frames at a draw of `length` latents from p(z), one after another.

    A model without dynamics draws a window.
    """
    prior = vae.prior(params)
    if vae.frame is None:
        return vae.mean(params, prior.sample(key))
    z = prior.prior._replace(num_steps=length).sample(key)
    return jax.vmap(partial(vae.frame.mean, params))(jnp.asarray(z))
