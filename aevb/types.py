"""Type aliases for the equations, and the letters that denote array shapes.

Shapes are written in brackets; ``[]`` is a scalar:

====  ==========================  ====  =====================================
N     datapoints of the dataset   L     samples per datapoint
M     datapoints of a minibatch   K     importance samples
D     data dimensions             S     members of a sweep
Z     latent dimensions           T     optimization steps, temperatures, or time
H     hidden units of a layer     C     chains
====  ==========================  ====  =====================================

Log-densities and bounds are in nats, unless a name ends in ``_bits``. Higher is better.
"""

from collections.abc import Callable
from typing import Any

import jax

Key = jax.Array
"""A JAX random key. It is always the first argument and is used once."""

PyTree = Any
"""A nested container of arrays, as `jax.tree` defines it."""

LogDensity = Callable[[Any], jax.Array]
"""A function from a point ``[Z]`` or ``[D]``, or a pytree, to its log-density ``[]`` in nats."""
