"""What can be changed of the outputs of any network: their first biases, and their range."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array

from aevb.networks.base import Network
from aevb.types import Key, PyTree

LOG_STDS = ("log_std", "log_scale", "log_diag")  # heads that are logs of standard deviations


def with_biases(
    decoder: Network, heads_of: Callable[[Array], Mapping[str, Array]], x: Array
) -> Network:
    """Returns the decoder with biases that start where zero weights give the heads `heads_of(x)`.

    Pixels that share a bias, as those of a convolution do, get the heads of the mean of their x.
    The first parameters raise a ValueError if a head has no bias.

    Args:
        heads_of: x [D], for any D -> some of the heads, elementwise.
        x: [D].
    """

    def init(key: Key) -> PyTree:
        params = decoder.init(key)
        biases = {}
        for name, head in heads_of(x).items():
            layer = params.get(name)
            if not isinstance(layer, Mapping) or "bias" not in layer:
                raise ValueError(f"the parameters of the head {name!r} have no 'bias'")
            num_sharing = head.size // layer["bias"].size
            value = heads_of(jnp.mean(x.reshape(num_sharing, -1), axis=0))[name]
            biases[name] = {**layer, "bias": value.astype(layer["bias"].dtype)}
        return {**params, **biases}

    return decoder._replace(init=init)


def bounded(network: Network, limit: float) -> Network:
    """Returns the network with its log variances v replaced by limit * tanh(v / limit).

    They are then between -limit and limit, and nearly as before where they are small. For the logs
    of standard deviations (log_std, log_scale and log_diag), half of the limit takes its place. It
    holds for all heads and constants with these names.
    """
    limits = {"log_var": limit, **dict.fromkeys(LOG_STDS, 0.5 * limit)}

    def apply(params: PyTree, x: Array) -> Mapping[str, Array]:
        heads = network.apply(params, x)
        own = {name: limits[name] for name in heads if name in limits}
        return {**heads, **{name: b * jnp.tanh(heads[name] / b) for name, b in own.items()}}

    return network._replace(apply=apply)
