"""Labels: bounds on log p(x, y) and log p(x) where y is one of C classes, seen or not.

The model is p(y) p(z) p(x|y, z) with the guide q(y|x) q(z|x, y): M2 of Kingma, Rezende, Mohamed &
Welling (2014, "Semi-supervised learning with deep generative models"). Given y it is a conditional
VAE. A label is a whole number 0..C-1, or `NOT_SEEN`. One that was not seen is summed over and never
drawn, so that gradients need no score function. Every bound of `aevb.losses.BOUNDS` can be used
given y. The datapoints with and without a label can be in one batch, under `jax.vmap`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from aevb.losses import Bound, Guide, Joint, iwae, log_prior, sample_and_log_prob, sgvb_b
from aevb.types import Key, PyTree

NOT_SEEN = -1
SUPPORT = "one-hot labels beside other latents"  # of the vector (y, z)


class Labelled(NamedTuple):
    """The model and the guide at one x, with a conditional VAE for each y = 0..C-1."""

    log_probs: Array  # [C], log p(y), nats
    logits: Array  # [C], whose softmax is q(y|x)
    stats: PyTree  # statistics of q(z|x, y) for each y, leaves [C, ...]
    guide: Guide  # q(z|x, y)
    joint: Callable[[Array], Joint]  # y [] -> p(z) and log p(x|y, z)


# Bounds


def conditional_bound(
    key: Key, label: Array, model: Labelled, *, bound: Bound = sgvb_b, num_samples: int = 1
) -> Array:
    """Estimates a bound on log p(x|y) of one label [] that was seen; returns [] in nats.

    Args:
        label: a whole number 0..C-1.
        bound: an entry of `aevb.losses.BOUNDS`.
    """
    stats = jax.tree.map(lambda leaf: leaf[label], model.stats)
    return bound(key, stats, model.guide, model.joint(label), num_samples=num_samples)


def bounds_by_label(
    key: Key, model: Labelled, *, bound: Bound = sgvb_b, num_samples: int = 1
) -> Array:
    """Estimates a bound on log p(x, y) for each y; returns [C] in nats."""

    def given(key: Key, label: Array, stats: PyTree) -> Array:
        return bound(key, stats, model.guide, model.joint(label), num_samples=num_samples)

    number = len(model.log_probs)
    keys = jax.random.split(key, number)
    return model.log_probs + jax.vmap(given)(keys, jnp.arange(number), model.stats)


def sum_over_labels(bounds: Array, logits: Array) -> Array:
    """Computes Sum_y q(y|x) [L(x, y) - log q(y|x)], a bound on log p(x) from those on log p(x, y).

    Returns [] in nats; eq. (7) of Kingma et al. 2014. It is largest, and equal to
    log Sum_y exp(L(x, y)), if q(y|x) is the softmax of the L(x, y).

    Args:
        bounds: L(x, y) [C], on log p(x, y).
        logits: [C], whose softmax is q(y|x).
    """
    log_q = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_q) * (bounds - log_q))


def labelled_bound(
    key: Key, label: Array, model: Labelled, *, bound: Bound = sgvb_b, num_samples: int = 1
) -> Array:
    """Estimates a bound on log p(x, y) if the label was seen, and on log p(x) if it was not.

    Returns [] in nats; eqs. (6) and (7) of Kingma et al. 2014. Both are computed, so that labels
    that were seen cost as much as others.

    Args:
        label: [], 0..C-1 or `NOT_SEEN`.
        bound: an entry of `aevb.losses.BOUNDS`, with num_samples of z for each y.
    """
    bounds = bounds_by_label(key, model, bound=bound, num_samples=num_samples)
    summed = sum_over_labels(bounds, model.logits)
    return jnp.where(label >= 0, bounds[jnp.maximum(label, 0)], summed)


def classification_term(label: Array, logits: Array, weight: float | Array) -> Array:
    """Computes weight log q(y|x), the term that eq. (9) of Kingma et al. 2014 adds to the bound.

    Returns [] in nats, and 0 for a label that was not seen. The bound of a label that was seen does
    not depend on q(y|x), and this term trains it. THE SUM IS NO ESTIMATE OF A BOUND: it is lower by
    as much as the term says, and is maximized elsewhere. Report the bound without it.

    Args:
        label: [], 0..C-1 or `NOT_SEEN`.
        weight: alpha, which they set to a tenth of the number of datapoints over that of labels.
    """
    log_q = jax.nn.log_softmax(logits)[jnp.maximum(label, 0)]
    return weight * jnp.where(label >= 0, log_q, 0.0)


# Estimates by importance sampling, with y enumerated


def log_joint_probs(key: Key, model: Labelled, *, num_samples: int) -> Array:
    """Estimates log p(x, y) for each y by K samples of z from q(z|x, y); returns [C] in nats.

    Each is a stochastic lower bound. q(y|x) is not used.
    """
    return bounds_by_label(key, model, bound=iwae, num_samples=num_samples)


def log_prob(key: Key, model: Labelled, *, num_samples: int) -> Array:
    """Estimates log p(x) by log Sum_y p(y) 1/K Sum_k p(x|y, z_yk) p(z_yk) / q(z_yk|x, y).

    Returns [] in nats: a stochastic lower bound.
    """
    return jax.nn.logsumexp(log_joint_probs(key, model, num_samples=num_samples))


def log_label_probs(key: Key, model: Labelled, *, num_samples: int) -> Array:
    """Estimates log p(y|x) for each y by Bayes' rule, from `log_joint_probs`; returns [C] in nats.

    It is the model's own classification, of which q(y|x) is an approximation.
    """
    return jax.nn.log_softmax(log_joint_probs(key, model, num_samples=num_samples))


# The label as a latent: (y, z) as one vector [C + Z], which begins with y as a one-hot vector


class LabelStats(NamedTuple):
    """The statistics of a guide of (y, z)."""

    label: Array  # [], which is y if it was seen, or NOT_SEEN
    logits: Array  # [C], whose softmax is q(y|x)
    of_z: PyTree  # statistics of q(z|x, y) for each y, leaves [C, ...]

    def log_probs(self) -> Array:
        """Returns log q(y|x) [C] in nats; if the label was seen, q is 1 there."""
        places = jnp.arange(len(self.logits), dtype=self.label.dtype)
        at_label = jnp.where(places == self.label, 0.0, -jnp.inf)
        log_q = jax.nn.log_softmax(self.logits)
        return jnp.where(self.label >= 0, at_label.astype(log_q.dtype), log_q)

    def given(self, label: Array) -> PyTree:
        """Returns the statistics of q(z|x, y) at a one-hot y [C]."""
        return jax.tree.map(
            lambda leaf: jnp.tensordot(label.astype(leaf.dtype), leaf, 1), self.of_z
        )


class LabelPrior(NamedTuple):
    """The prior p(y) p(z) as a density of the vector [C + Z]."""

    log_probs: Array  # [C], log p(y), nats
    of_z: Any  # p(z), a `Density`

    def sample(self, key: Key) -> Array:
        """Draws the vector."""
        label_key, key = jax.random.split(key)
        label = jax.random.categorical(label_key, self.log_probs)
        return join(label, self.of_z.sample(key), len(self.log_probs))

    def log_prob(self, z: Array) -> Array:
        """Returns log p(y) + log p(z) [] of the vector, in nats."""
        label, z = split(z, len(self.log_probs))
        return at(self.log_probs, label) + log_prior(self.of_z, z)


def join(label: Array, z: Array, num_labels: int) -> Array:
    """Returns the vector [C + Z] of a label [] and z [Z]."""
    return jnp.concatenate([jax.nn.one_hot(label, num_labels, dtype=z.dtype), z])


def split(z: Array, num_labels: int) -> tuple[Array, Array]:
    """Returns the one-hot label [C] and z [Z] of a vector."""
    return z[:num_labels], z[num_labels:]


def at(log_probs: Array, label: Array) -> Array:
    """Returns the entry of log_probs [C] at a one-hot label [C]; the others may be infinite."""
    return jnp.sum(jnp.where(label > 0.5, log_probs, 0.0))


def of_vector(guide: Guide, num_labels: int) -> Guide:
    """Returns the guide q(y|x) q(z|x, y) of the vector (y, z), whose statistics are `LabelStats`.

    y is drawn, without a gradient for its logits: it is for evaluation and estimates of log p(x).
    `of_latents` is for training.

    Args:
        guide: q(z|x, y).
        num_labels: C.
    """

    def draw(key: Key, stats: LabelStats) -> tuple[Array, Array, Array]:
        """Draws the vector, and computes log q(y|x) [] and log q(z|x, y) []."""
        label_key, key = jax.random.split(key)
        log_q = stats.log_probs()
        label = jax.random.categorical(label_key, log_q)
        given = jax.tree.map(lambda leaf: leaf[label], stats.of_z)
        z, log_q_of_z = sample_and_log_prob(key, given, guide)
        return join(label, z, num_labels), log_q[label], log_q_of_z

    def both(key: Key, stats: LabelStats) -> tuple[Array, Array]:
        z, log_q, log_q_of_z = draw(key, stats)
        return z, log_q + log_q_of_z

    def log_prob(stats: LabelStats, z: Array) -> Array:
        label, z = split(z, num_labels)
        return at(stats.log_probs(), label) + guide.log_prob(stats.given(label), z)

    def kls(key: Key, stats: LabelStats, prior: LabelPrior) -> tuple[Array, Mapping[str, Array]]:
        z, _, log_q_of_z = draw(key, stats)
        label, own = split(z, num_labels)
        log_q = stats.log_probs()
        is_possible = log_q > -jnp.inf
        terms = jnp.exp(log_q) * (jnp.where(is_possible, log_q, 0.0) - prior.log_probs)
        closed = None if guide.kl is None else guide.kl(stats.given(label), prior.of_z)
        of_z = log_q_of_z - log_prior(prior.of_z, own) if closed is None else closed
        return z, {"y": jnp.sum(terms), "z": of_z}

    return Guide(
        lambda key, stats: both(key, stats)[0], log_prob, None, both, sample_and_kls=kls,
        support=SUPPORT, is_reparameterized=False,
    )  # fmt: skip


def of_latents(stats: LabelStats, guide: Guide, joint: Joint) -> Labelled:
    """Returns the model of a guide and a joint of the vector (y, z), with y enumerated.

    Args:
        guide: q(z|x, y), from which `of_vector` made the guide of the vector.
        joint: of the vector; its prior is a `LabelPrior`.
    """
    prior: LabelPrior = joint.prior
    number = len(prior.log_probs)

    def given(label: Array) -> Joint:
        return Joint(prior.of_z, lambda z: joint.log_lik(join(label, z, number)))

    return Labelled(prior.log_probs, stats.logits, stats.of_z, guide, given)
