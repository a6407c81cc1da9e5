"""Exact sums over all values of few discrete latents, in nats: log p(x), p(z|x), and bounds.

The sum over a discrete factor of a larger model leaves no variance of its sampling, in the value or
in the gradient (Rao-Blackwellization). All functions take the values that are summed over: the rows
of `binary_values` or of `one_hot_values`, or any others that are all of the support.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.losses import Guide, Joint
from aevb.types import PyTree

MOST_VALUES = 2**20


def binary_values(num_latents: int) -> Array:
    """Returns every z of 0 and 1, [2^Z, Z].

    Raises:
        ValueError: there are none, or more than 2^20.
    """
    return one_hot_values(num_latents, 2)[:, 1::2]


def one_hot_values(num_variables: int, num_classes: int) -> Array:
    """Returns every value of V variables of C classes, as one-hot rows joined, [C^V, V C].

    Raises:
        ValueError: there are none, or more than 2^20.
    """
    if min(num_variables, num_classes) < 1 or num_classes**num_variables > MOST_VALUES:
        raise ValueError(
            f"{num_variables} variables of {num_classes} classes have {num_classes}^{num_variables}"
            f" values; there must be at least 1 variable and at most {MOST_VALUES:,} values"
        )
    classes = np.indices((num_classes,) * num_variables).reshape(num_variables, -1).T
    return jnp.asarray(np.eye(num_classes)[classes].reshape(len(classes), -1), float)


def log_prob(values: PyTree, joint: Joint) -> Array:
    """Computes log p(x) = log Sum_z p(x, z), [] in nats.

    Args:
        values: every z, leaves [n, ...].
    """
    return jax.nn.logsumexp(jax.vmap(log_joint_of(joint))(values))


def posterior(values: PyTree, joint: Joint) -> Array:
    """Computes p(z|x) of every z, [n]; the arguments are those of `log_prob`."""
    return jax.nn.softmax(jax.vmap(log_joint_of(joint))(values))


def elbo(values: PyTree, stats: PyTree, guide: Guide, joint: Joint) -> Array:
    """Computes Sum_z q(z|x) [log p(x, z) - log q(z|x)], [] in nats: the ELBO, without sampling."""
    return sum_over(values, stats, guide, log_joint_of(joint))


def sum_over(
    values: PyTree, stats: PyTree, guide: Guide, bound_at: Callable[[Any], Array]
) -> Array:
    """Computes Sum_y q(y|x) [bound(y) - log q(y|x)] over the values of a discrete factor y.

    Returns [] in nats. If bound(y) is a bound on log p(x, y), the sum is one on log p(x): E_q(y|x)
    of bound(y), plus the entropy of q(y|x). Eq. (7) of Kingma et al. (2014) is such a bound.

    Args:
        values: every y, leaves [n, ...].
        guide: q(y|x), with its statistics; those of the other factors are closed over.
        bound_at: y -> bound(y) []; it may be an estimate. With the same key for every y the noise
            is shared, which leaves the mean as it is.
    """

    def term(value: Any) -> Array:
        log_q = guide.log_prob(stats, value)
        return jnp.exp(log_q) * (bound_at(value) - log_q)

    return jnp.sum(jax.vmap(term)(values))


def log_joint_of(joint: Joint) -> Callable[[Any], Array]:
    """Returns the function z -> log p(x, z) [], in nats."""
    return lambda z: joint.log_prior(z) + joint.log_lik(z)
