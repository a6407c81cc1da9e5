"""Encoder and decoder networks as pure functions. Only this folder imports flax.

`NETWORKS` lists the architectures and `INITIALIZATIONS` the distributions of a first weight.
"""

from collections.abc import Callable
from typing import NamedTuple

from aevb.networks.base import Network, fan_in_init, normal_init
from aevb.networks.base import WeightPosterior as WeightPosterior
from aevb.networks.base import init_of as init_of
from aevb.networks.base import rematerialized as rematerialized
from aevb.networks.convolutional import (
    conv_decoder,
    conv_encoder,
    residual_conv_decoder,
    residual_conv_encoder,
)
from aevb.networks.fully_connected import gated_mlp, mlp, residual_mlp
from aevb.networks.gated_convolutional import gated_conv_decoder, gated_conv_encoder
from aevb.networks.inputs import of_counts as of_counts
from aevb.networks.inputs import of_first as of_first
from aevb.networks.inputs import of_seen as of_seen
from aevb.networks.outputs import bounded as bounded
from aevb.networks.outputs import with_biases as with_biases
from aevb.networks.recurrent import recurrent as recurrent


class Architecture(NamedTuple):
    """The constructors of the encoder and the decoder."""

    encoder: Callable[..., Network]  # (D, heads, *, hidden, initialization, image_shape, dtype)
    decoder: Callable[..., Network]  # (Z, heads, *, constants, and the encoder's arguments)
    between: Callable[..., Network] = mlp  # of one layer of latents, to another


INITIALIZATIONS = {
    "normal": normal_init,
    "fan_in": fan_in_init,
}
"""The initializations by name, for `model.init` in a config."""

NETWORKS = {
    "mlp": Architecture(mlp, mlp),
    "gated_mlp": Architecture(gated_mlp, gated_mlp, gated_mlp),
    "residual_mlp": Architecture(residual_mlp, residual_mlp, residual_mlp),
    "conv": Architecture(conv_encoder, conv_decoder),
    "residual_conv": Architecture(residual_conv_encoder, residual_conv_decoder),
    "gated_conv": Architecture(gated_conv_encoder, gated_conv_decoder, gated_mlp),
}
"""The networks by name, for `model.network` in a config."""
