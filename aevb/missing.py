"""Missing data: a NaN in x is a value that was not seen, and the bound is on log p(x_seen).

Values are missing at random: whether one is may depend on what was seen, and not on what was not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.inference import importance_weights
from aevb.likelihoods import Heads, Likelihood
from aevb.losses import Guide, Joint, sample_and_log_prob
from aevb.types import Key, PyTree


def with_mask(x: Array, num_channels: int | None = None) -> Array:
    """Returns the input [2 D] of an encoder: x [D] with 0 for NaN, and 1 where a value was seen.

    Args:
        num_channels: of images [height, width, channels], to which the mask adds as many; None puts
            the whole mask after x.
    """
    is_seen = ~jnp.isnan(x)
    parts = jnp.where(is_seen, x, 0.0), is_seen.astype(x.dtype)
    if num_channels is None:
        return jnp.concatenate(parts)
    return jnp.concatenate([part.reshape(-1, num_channels) for part in parts], axis=1).reshape(-1)


def shape_with_mask(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns the shape of images (height, width) or (height, width, channels) with their mask."""
    height, width, *channels = image_shape
    return height, width, 2 * (channels[0] if channels else 1)


def of_seen(likelihood: Likelihood) -> Likelihood:
    """Returns the likelihood of the values of x [D] that are not NaN.

    It has no `levels`: bits per dimension are of all dimensions.

    Raises:
        ValueError: in `log_probs`, if the dimensions are not independent given z.
    """

    def log_probs(heads: Heads, x: Array) -> Array:
        is_seen = ~jnp.isnan(x)
        # 0 is a value that every likelihood scores; its term is left out.
        each = likelihood.log_probs(heads, jnp.where(is_seen, x, 0.0))
        if each.shape != x.shape:
            raise ValueError(
                f"log_probs has the shape {each.shape} for x of {x.shape}; missing data need a "
                "likelihood whose dimensions are independent given z"
            )
        return jnp.where(is_seen, each, 0.0)

    return likelihood._replace(log_probs=log_probs, levels=None)


class Imputation(NamedTuple):
    """The missing values of one datapoint, given the seen ones, which stay as they are."""

    mean: Array  # [D], E[x | x_seen], whose mean square error is least
    draws: Array  # [S, D] ~ p(x | x_seen), for intervals
    effective_sample_size: Array  # [], of the importance weights, out of K


def impute(
    key: Key,
    x: Array,
    stats: PyTree,
    guide: Guide,
    joint: Joint,
    *,
    mean: Callable[[Any], Array],
    draw: Callable[[Key, Any], Array],
    num_samples: int = 1000,
    num_draws: int = 100,
) -> Imputation:
    """Returns the mean and draws of p(x_missing | x_seen) by importance sampling from the guide.

    Mattei & Frellsen (2019): E[x | x_seen] is the mean of E[x|z_k] under the normalized weights of
    log p(x_seen, z_k) - log q(z_k|x_seen), z_k ~ q. A draw is that of p(x|z_k), where k is drawn by
    these weights. Both are right as K grows; a small effective sample size says that K is too few.

    Args:
        x: [D], NaN where it was not seen.
        joint: its log_lik is that of the seen values, such as of `of_seen`.
        mean: z -> E[x|z] [D].
        draw: (key, z) -> x ~ p(x|z) [D].
        num_samples: K.
        num_draws: S.

    Raises:
        ValueError: num_samples or num_draws is below 1.
    """
    for name, value in (("num_samples", num_samples), ("num_draws", num_draws)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    sample_key, which_key, draw_key = jax.random.split(key, 3)

    def weighted(key: Key) -> tuple[Any, Array]:
        z, log_q = sample_and_log_prob(key, stats, guide)
        return z, joint.log_prior(z) + joint.log_lik(z) - log_q

    z, log_w = jax.vmap(weighted)(jax.random.split(sample_key, num_samples))
    weights = jax.nn.softmax(log_w)
    of_mean = weights @ jax.vmap(mean)(z)
    # By the inverse of the distribution function; `categorical` would draw K S numbers.
    which = jax.random.choice(which_key, num_samples, (num_draws,), p=weights)
    chosen = jax.tree.map(lambda leaf: leaf[which], z)
    draws = jax.vmap(draw)(jax.random.split(draw_key, num_draws), chosen)
    is_seen = ~jnp.isnan(x)
    return Imputation(
        jnp.where(is_seen, x, of_mean),
        jnp.where(is_seen[None], x[None], draws),
        importance_weights.effective_sample_size(importance_weights.of(log_w)),
    )
