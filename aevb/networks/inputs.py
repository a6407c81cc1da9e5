"""Networks of another input: the first entries of a vector, counts, data with missing values."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array

from aevb.missing import with_mask
from aevb.networks.base import Network


def of_input(network: Network, function: Callable[[Array], Array]) -> Network:
    """Returns the network applied to a function of its input."""
    hidden = network.hidden
    return network._replace(
        apply=lambda params, x: network.apply(params, function(x)),
        hidden=hidden and (lambda params, x: hidden(params, function(x))),
    )


def of_first(network: Network, number: int) -> Network:
    """Returns the network applied to the first `number` entries of its input."""
    return of_input(network, lambda z: z[:number])


def of_counts(network: Network, mean: Sequence[float], scale: Sequence[float]) -> Network:
    """Returns a network of counts x [D], which standardizes log(1 + x) for the given one.

    Args:
        network: receives (log(1 + x) - mean) / scale.
        mean: [D] or [1], of log(1 + x) over the training data.
        scale: [D] or [1], its standard deviation.
    """
    shift, width = jnp.asarray(mean), jnp.asarray(scale)

    def standardized(x: Array) -> Array:
        logs = jnp.log1p(jnp.maximum(x, 0.0))  # pseudo-inputs of a prior may be negative
        return ((logs - shift) / width).astype(x.dtype)

    return of_input(network, standardized)


def of_seen(network: Network, num_channels: int | None = None) -> Network:
    """Returns a network of x [D] with NaN, from one of `missing.with_mask`(x) [2 D].

    Args:
        num_channels: of images; None for other data.
    """
    return of_input(network, lambda x: with_mask(x, num_channels))
