"""A mixture of linear-Gaussian models, one for each label, whose evidence and bounds are exact.

y ~ p(y), z ~ N(0, I), x ~ N(W_y z + b_y, diag(noise_y)). All expectations are of quadratic forms,
in float64. The guide is q(y|x) and a diagonal Gaussian q(z|x, y) for each y, not the posterior.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from oracles import LinearGaussian

from aevb.distributions import DiagNormal, FullNormal, StandardNormal
from aevb.guides import full_normal
from aevb.labels import Labelled
from aevb.losses import Guide, Joint

Params = dict[str, np.ndarray]


class Mixture(NamedTuple):
    """A datapoint, and the parameters of a model and a guide with C labels."""

    x: np.ndarray  # [D]
    params: Params  # prior [C], W [C, D, Z], b [C, D], noise [C, D] of p; logits [C], mean and
    #                 log_var [C, Z] of q; prior and logits before the softmax, noise a log variance

    @property
    def num_labels(self) -> int:
        return len(self.params["prior"])


def make(num_labels: int, num_dims: int, num_latents: int, seed: int) -> Mixture:
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 0.7) -> np.ndarray:
        return np.asarray(scale * rng.normal(size=shape), np.float32).astype(np.float64)

    params = {
        "prior": draw(num_labels),
        "W": draw(num_labels, num_dims, num_latents),
        "b": draw(num_labels, num_dims, scale=1.0),
        "noise": draw(num_labels, num_dims, scale=0.3) - 0.5,
        "logits": draw(num_labels),
        "mean": draw(num_labels, num_latents),
        "log_var": draw(
            num_labels, num_latents, scale=0.3
        ),  # wide, so that weights have a variance
    }
    return Mixture(draw(num_dims, scale=1.0), params)


def given(params: Params, label: int) -> LinearGaussian:
    """Returns p(x|z) of one label."""
    return LinearGaussian(params["W"][label], params["b"][label], np.exp(params["noise"][label]))


def log_joint_probs(case: Mixture) -> np.ndarray:
    """Returns log p(x, y) for each y, [C]."""
    p = case.params
    each = [given(p, label).log_prob(case.x) for label in range(case.num_labels)]
    return scipy.special.log_softmax(p["prior"]) + np.array(each)


def log_prob(case: Mixture) -> float:
    return float(np.logaddexp.reduce(log_joint_probs(case)))


def log_label_probs(case: Mixture) -> np.ndarray:
    """Returns log p(y|x) for each y, [C]."""
    return scipy.special.log_softmax(log_joint_probs(case))


def elbos(case: Mixture) -> np.ndarray:
    """Returns the evidence lower bound on log p(x, y) of the case's guide for each y, [C]."""
    p = case.params
    each = [
        given(p, label).elbo(case.x, p["mean"][label], p["log_var"][label])
        for label in range(case.num_labels)
    ]
    return scipy.special.log_softmax(p["prior"]) + np.array(each)


def bound(case: Mixture, label: int) -> float:
    """Returns the bound on log p(x, y), or on log p(x) if the label is -1."""
    if label >= 0:
        return float(elbos(case)[label])
    log_q = scipy.special.log_softmax(case.params["logits"])
    return float(np.sum(np.exp(log_q) * (elbos(case) - log_q)))


def joint_at(params: Any, x: Any, label: Any) -> Joint:
    """Returns p(z) and log p(x|y, z) of a label [], differentiable in the parameters."""

    def log_lik(z: jax.Array) -> jax.Array:
        mean = params["W"][label] @ z + params["b"][label]
        return DiagNormal(mean, params["noise"][label]).log_prob(x)

    return Joint(StandardNormal(params["W"].shape[2], params["W"].dtype), log_lik)


def model_of(params: Any, x: Any, stats: Any, guide: Guide) -> Labelled:
    """Returns the model with the statistics of a guide q(z|x, y), leaves [C, ...]."""
    log_probs = jax.nn.log_softmax(params["prior"])
    return Labelled(
        log_probs, params["logits"], stats, guide, lambda label: joint_at(params, x, label)
    )


def diagonal(params: Any) -> DiagNormal:
    """Returns the statistics of the case's q(z|x, y), [C, Z]."""
    return DiagNormal(params["mean"], params["log_var"])


def exact(case: Mixture) -> Labelled:
    """Returns the model with its posterior p(y|x) p(z|x, y) as the guide."""
    stats = []
    for label in range(case.num_labels):
        mean, cov = given(case.params, label).posterior(case.x)
        factor = np.linalg.cholesky(cov)
        below = factor[np.tril_indices(len(factor), -1)]
        stats.append((mean, np.log(np.diag(factor)), below))
    of_all = FullNormal(*(jnp.float32(np.stack(part)) for part in zip(*stats, strict=True)))
    params = jax.tree.map(jnp.float32, {**case.params, "logits": log_label_probs(case)})
    return model_of(params, jnp.float32(case.x), of_all, full_normal)
