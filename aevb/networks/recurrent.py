"""Gated recurrent units over a sequence, forward or backward in time or both."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aevb.networks.base import Network, of_module

DIRECTIONS = {"forward": (False,), "backward": (True,), "both": (False, True)}


class Recurrent(nn.Module):
    """Gated recurrent units (Cho et al. 2014), one layer for each direction."""

    size: int
    direction: str  # one of DIRECTIONS

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Returns the units [T, H] along x [T, F]; for both directions [T, 2 H]."""
        along: list[Any] = [
            nn.RNN(
                nn.GRUCell(self.size),
                reverse=is_reversed,
                keep_order=True,
                name="backward" if is_reversed else "forward",
            )(x)
            for is_reversed in DIRECTIONS[self.direction]
        ]
        return {"features": jnp.concatenate(along, axis=-1)}


def recurrent(num_frames: int, num_inputs: int, *, size: int, direction: str) -> Network:
    """Returns gated recurrent units from [T, F] to the head features [T, H], or [T, 2 H].

    Input weights have variance 1 / fan-in, recurrent weights are orthogonal, and biases 0.

    Args:
        num_frames: T.
        num_inputs: F.
        size: H, the units of each direction.
        direction: forward (the units at t depend on x_1..x_t), backward (on x_t..x_T), or both.

    Raises:
        ValueError: the direction is unknown.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}; it must be one of {', '.join(DIRECTIONS)}")
    return of_module(Recurrent(size, direction), (num_frames, num_inputs))
