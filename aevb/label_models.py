"""A VAE with labels: p(y) p(z) p(x|y, z) and q(y|x) q(z|x, y), and its training.

z of the `VAE` is the vector (y, z) of `aevb.labels`, which begins with y as a one-hot vector. Its
functions take a datapoint x [D], whose label was not seen, or [D + 1], which ends with its label.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb import labels
from aevb.algorithms.base import Algorithm, Batch, TrainState
from aevb.guides import GuideFamily, Heads
from aevb.labels import NOT_SEEN, LabelPrior, LabelStats
from aevb.losses import Bound, Guide, Joint
from aevb.networks import Network, init_of
from aevb.priors import Posterior, PriorFamily
from aevb.types import Key, PyTree
from aevb.vae import VAE

FEATURES, LOGITS = "features", "label_logits"  # heads of the encoder
CONDITIONAL = "conditional"  # the objective is a bound on log p(x|y)


# The model


def guide_family(
    given: GuideFamily, network: Network, num_labels: int, num_features: int
) -> GuideFamily:
    """Returns the family q(y|x) q(z|x, y).

    Args:
        given: of z, such as the diagonal Gaussians.
        network: from features of x and a one-hot y, joined, to the heads of `given`.
        num_features: of x, an output of the encoder. The other is the logits of q(y|x).
    """

    def stats(own: PyTree, heads: Heads) -> LabelStats:
        features = heads[FEATURES]

        def at(label: Array) -> PyTree:
            inputs = jnp.concatenate([features, label])
            return given.stats(own.get("given"), network.apply(own["network"], inputs))

        of_z = jax.vmap(at)(jnp.eye(num_labels, dtype=features.dtype))
        return LabelStats(jnp.int32(NOT_SEEN), heads[LOGITS], of_z)

    def init(key: Key) -> PyTree:
        network_key, given_key = jax.random.split(key)
        own = {} if given.init is None else {"given": given.init(given_key)}
        return {"network": network.init(network_key), **own}

    guide = labels.of_vector(given.guide, num_labels)
    return GuideFamily(guide, {FEATURES: num_features}, stats, init)


def prior_family(of_z: PriorFamily, num_labels: int) -> PriorFamily:
    """Returns the family p(y) p(z), in which all labels have the same probability."""

    def prior(own: PyTree, posterior: Posterior) -> LabelPrior:
        log_probs = jnp.full(num_labels, -np.log(num_labels), jnp.float32)
        return LabelPrior(log_probs, of_z.prior(own, posterior))

    return PriorFamily(prior, of_z.init, support=labels.SUPPORT)


def with_classifier(encoder: Network, classifier: Network) -> Network:
    """Returns the two networks of x as one, with the heads of both."""
    parts = {"features": encoder, "classifier": classifier}

    def apply(params: PyTree, x: Array) -> Heads:
        return dict(encoder.apply(params["features"], x)) | dict(
            classifier.apply(params["classifier"], x)
        )

    def hidden(params: PyTree, x: Array) -> dict[str, Array]:
        return {
            f"{layer} ({name})": units
            for name, part in parts.items()
            if part.hidden is not None
            for layer, units in part.hidden(params[name], x).items()
        }

    return Network(init_of(parts), apply, hidden=hidden)


def of_vae(vae: VAE, given: Guide, num_labels: int, num_dims: int) -> VAE:
    """Returns a VAE of (y, z) whose datapoints may end with their label.

    Args:
        vae: of datapoints [D] whose label was not seen, with the families of this module.
        given: q(z|x, y).
    """

    def encode(params: PyTree, x: Array) -> LabelStats:
        stats = vae.encode(params, x[:num_dims])
        if len(x) == num_dims:
            return stats
        return stats._replace(label=x[num_dims].astype(jnp.int32))

    return vae._replace(
        encode=encode,
        joint=lambda params, x: vae.joint(params, x[:num_dims]),
        hidden=lambda params, x, z: vae.hidden(params, x[:num_dims], z),
        num_labels=num_labels,
        given_label=given,
    )


def most_probable(stats: LabelStats) -> tuple[Array, PyTree]:
    """Returns the most probable label [] of x, and the statistics of q(z|x, y) at it."""
    label = jnp.argmax(stats.logits)
    return label, jax.tree.map(lambda leaf: leaf[label], stats.of_z)


def of_first_label(vae: VAE) -> VAE:
    """Returns the model given y = 0, by which a bound is checked; the same without labels."""
    if vae.given_label is None:
        return vae

    def joint(params: PyTree, x: Array) -> Joint:
        of_all, number = vae.joint(params, x), vae.num_labels
        label = jnp.int32(0)
        return Joint(of_all.prior.of_z, lambda z: of_all.log_lik(labels.join(label, z, number)))

    def encode(params: PyTree, x: Array) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], vae.encode(params, x).of_z)

    return vae._replace(encode=encode, joint=joint, guide=vae.given_label)


# Its training


class LabelledData(NamedTuple):
    """The labels of the training data, and the datapoints that have one."""

    shown: np.ndarray  # [N] int32, the label of each training datapoint, or NOT_SEEN
    x: np.ndarray  # [n, D], the datapoints that have one, as stored
    preprocess: Callable[[Key, Array], Array]
    batch_size: int  # of the minibatch of them that trains q(y|x) in each step


def objective(vae: VAE, bound: Bound, kind: str) -> Bound:
    """Returns a bound given y as one of the datapoint with its label, seen or not.

    Args:
        bound: an entry of `BOUNDS`, with its options.
        kind: CONDITIONAL for a bound on log p(x|y), else one on log p(x, y) and log p(x).
    """
    assert vae.given_label is not None
    given = vae.given_label
    of = labels.conditional_bound if kind == CONDITIONAL else labels.labelled_bound

    def of_latents(
        key: Key, stats: LabelStats, guide: Guide, joint: Joint, *, num_samples: int = 1
    ) -> Array:
        del guide  # its y would be drawn
        model = labels.of_latents(stats, given, joint)
        return of(key, stats.label, model, bound=bound, num_samples=num_samples)

    return of_latents


def classification(vae: VAE, data: LabelledData, weight: float) -> Callable[[Key, PyTree], Array]:
    """Returns the function of a key and the parameters that trains q(y|x), with its noise.

    Its value [] is an unbiased estimate of weight times the mean of log q(y|x) over the datapoints
    with a label, from a minibatch of them alone. Eq. (9) of Kingma et al. (2014), divided by N, is
    this term added to the mean bound; their alpha is weight times N.
    """
    x, known = jnp.asarray(data.x), jnp.asarray(data.shown[data.shown >= 0])

    def term(key: Key, params: PyTree) -> Array:
        which_key, noise_key = jax.random.split(key)
        which = jax.random.randint(which_key, (data.batch_size,), 0, len(known))

        def of_one(key: Key, place: Array) -> Array:
            stats = vae.encode(params, data.preprocess(key, x[place]))
            return labels.classification_term(known[place], stats.logits, weight)

        return jnp.mean(jax.vmap(of_one)(jax.random.split(noise_key, data.batch_size), which))

    return term


def with_labels(algorithm: Algorithm, shown: np.ndarray) -> Algorithm:
    """Returns the algorithm whose datapoints end with their labels.

    Args:
        shown: [N], the label of each training datapoint, or NOT_SEEN.
    """
    of_all = jnp.asarray(shown)

    def labelled(batch: Batch) -> Batch:
        own = of_all[batch.indices].astype(batch.x.dtype)
        return batch._replace(x=jnp.concatenate([batch.x, own[:, None]], axis=1))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        return algorithm.update(key, state, labelled(batch))

    norms: Any = algorithm.norms
    return algorithm._replace(
        update=update,
        norms=norms and (lambda key, state, batch: norms(key, state, labelled(batch))),
    )
