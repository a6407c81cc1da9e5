"""Names for what flows through the equations, and the legend of shape letters.

Shapes are written in brackets, ``[]`` being a scalar:

====  ==========================  ====  =====================================
N     datapoints of the data set  L     samples per datapoint
M     datapoints of a minibatch   K     importance samples
D     data dimensions             S     members of a sweep
Z     latent dimensions           T     optimization steps, or temperatures
H     hidden units of a layer     C     chains
====  ==========================  ====  =====================================

Every log-density and every bound is in nats, higher is better, unless a name ends in ``_bits``.
"""

from collections.abc import Callable
from typing import Any

import jax

Key = jax.Array
"""A jax random key. It is always the first argument, and is used once."""

PyTree = Any
"""A nested container of arrays, as `jax.tree` understands it."""

LogDensity = Callable[[jax.Array], jax.Array]
"""A point ``[Z]`` or ``[D]`` to its log-density ``[]`` in nats."""
