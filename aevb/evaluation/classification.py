"""What a run records of a model with labels: errors of q(y|x), and the bound given the label."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.data import Dataset
from aevb.evaluation.elbo import NOISE_SEED, Score, Scorer, fixed_input, in_blocks
from aevb.losses import evidence_lower_bound
from aevb.types import Key, PyTree
from aevb.vae import VAE


def with_labels(score: Scorer, vae: VAE, dataset: Dataset) -> Scorer:
    """Returns the scorer with measures of the datapoints whose label is known, seen or not.

    `label_error` is the fraction of them whose most probable label by q(y|x) is another.
    `conditional_bound` is the mean evidence lower bound on log p(x|y) in nats, at the right y.

    Args:
        score: of the bound on log p(x), in which no label is seen.
    """
    compiled = jax.jit(_judged(vae, dataset.preprocess))

    def with_measures(params: PyTree, data: Any, index: np.ndarray) -> Score:
        found = score(params, data, index)
        known = _labels_of(dataset, data)
        index = index[known[index] >= 0]
        if not len(index):
            return found
        wrong, bounds = in_blocks(
            lambda block: compiled(params, data[block], block, known[block]), index
        )
        own = {
            "label_error": float(np.mean(wrong)),
            "conditional_bound": float(np.mean(bounds, dtype=np.float64)),
        }
        return found._replace(measures={**found.measures, **own})

    return with_measures


def _judged(vae: VAE, preprocess: Callable[[Key, Array], Array]) -> Callable[..., Any]:
    """Returns (params, stored [n, D], index [n], labels [n]) -> errors, bounds on log p(x|y)."""

    def of_one(params: PyTree, stored: Array, number: Array, label: Array) -> tuple[Array, Array]:
        x = fixed_input(preprocess, number, stored)
        best = jnp.argmax(vae.encode(params, x).logits)
        stats = vae.encode(params, jnp.append(x, label.astype(x.dtype)))
        key, joint = jax.random.fold_in(jax.random.key(NOISE_SEED), number), vae.joint(params, x)
        bound = evidence_lower_bound(key, stats, vae.guide, joint)
        return best != label, bound - joint.prior.log_probs[label]

    def judge(params: PyTree, stored: Array, index: Array, labels: Array) -> tuple[Array, Array]:
        return jax.vmap(partial(of_one, params))(stored, index, labels)

    return judge


def _labels_of(dataset: Dataset, data: Any) -> np.ndarray:
    """Returns the labels of one of the dataset's splits, int32, with -1 for unknown ones."""
    split = next(name for name, held in dataset.splits.items() if held is data)
    assert dataset.labels is not None
    return np.asarray(dataset.labels.of_split(split), np.int32)
