"""Sigmoid belief networks of few latents, whose evidence, posterior and bounds are exact sums.

z_j ~ Bernoulli(sigmoid(prior_j)), x_d ~ Bernoulli(sigmoid(W z + b)_d), and the guide is a product
of Bernoullis, which is not the posterior. All sums are over all 2^Z values of z, in float64.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aevb.discrete import Bernoulli
from aevb.losses import Joint

DISCRETE = ("bernoulli", "categorical", "relaxed_bernoulli", "relaxed_categorical")
"""The guides and priors of discrete latents and of their relaxations, by name."""

Params = dict[str, np.ndarray]
SIZES = [(1, 3, 0), (4, 6, 1), (12, 5, 2)]  # Z, D, seed


class Case(NamedTuple):
    """A model, a datapoint and a guide's statistics; float64 numbers that float32 holds exactly."""

    x: np.ndarray  # [D]
    params: Params  # prior [Z], weights [D, Z], bias [D] of p; logits [Z] of q


def make(num_latents: int, num_dims: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    shapes = {
        "prior": (num_latents,), "weights": (num_dims, num_latents), "bias": (num_dims,),
        "logits": (num_latents,),
    }  # fmt: skip
    params = {
        name: rng.normal(size=shape).astype(np.float32).astype(np.float64)
        for name, shape in shapes.items()
    }
    return Case((rng.uniform(size=num_dims) < 0.5).astype(np.float64), params)


def values_of(num_latents: int) -> np.ndarray:
    """Returns every z, [2^Z, Z]."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=num_latents)))


def log_bernoulli(logits: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns log Bernoulli(value; sigmoid(logits)), summed over the last axis."""
    return np.sum(value * logits - np.logaddexp(0.0, logits), axis=-1)


def log_joint(case: Case) -> np.ndarray:
    """Returns log p(x, z) of every z, [2^Z]."""
    p, z = case.params, values_of(len(case.params["prior"]))
    logits = z @ p["weights"].T + p["bias"]
    return log_bernoulli(p["prior"], z) + log_bernoulli(logits, case.x)


def log_q(case: Case) -> np.ndarray:
    """Returns log q(z|x) of every z, [2^Z]."""
    return log_bernoulli(case.params["logits"], values_of(len(case.params["logits"])))


def exact_log_prob(case: Case) -> float:
    return float(np.logaddexp.reduce(log_joint(case)))


def exact_elbo(case: Case) -> float:
    return float(np.exp(log_q(case)) @ (log_joint(case) - log_q(case)))


def exact_iwae(case: Case, num_samples: int) -> float:
    """Returns the bound of Burda et al. (2015), over all (2^Z)^K sets of samples."""
    log_w, q = log_joint(case) - log_q(case), np.exp(log_q(case))
    of_set, mass = log_w, q
    for _ in range(num_samples - 1):
        of_set = np.logaddexp(of_set[..., None], log_w)
        mass = mass[..., None] * q
    return float(np.sum(mass * (of_set - np.log(num_samples))))


def joint_of(params: Any, x: Any) -> Joint:
    """Returns the model as a `Joint`, differentiable in its parameters."""

    def log_lik(z: jax.Array) -> jax.Array:
        return Bernoulli(params["weights"] @ z + params["bias"]).log_prob(x)

    return Joint(Bernoulli(params["prior"]), log_lik)


def in_float32(case: Case) -> tuple[Any, jax.Array]:
    """Returns the parameters and x for JAX."""
    return jax.tree.map(jnp.float32, case.params), jnp.float32(case.x)
