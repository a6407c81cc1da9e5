"""Linear-Gaussian models with a datapoint and a guide, in JAX and in float64.

The float64 side gives the exact expectation of each bound. The expectation of a bound of two
samples is exact: log w(z) is a quadratic, so a Gauss-Hermite rule over the noise of both samples
integrates any smooth function of the two.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from marks import slow_but
from oracles import LinearGaussian

from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.losses import Guide, Joint

NUM_DRAWS = 20_000
PHI, THETA = ("mean", "log_var"), ("weights", "bias")
CASES = [(1, 1, 0), (4, 2, 1), (6, 3, 2)]  # D, Z, seed
every_case = pytest.mark.parametrize("sizes", slow_but(CASES[1:2], CASES))


class Case(NamedTuple):
    """A model, a datapoint and a guide that is not the posterior.

    The values are float64 numbers that float32 holds exactly.
    """

    model: LinearGaussian
    x: np.ndarray
    mean: np.ndarray
    log_var: np.ndarray

    def elbo(self) -> float:
        return self.model.elbo(self.x, self.mean, self.log_var)

    def kl(self) -> float:
        return oracles.kl_to_standard_normal(self.mean, self.log_var)

    def kl_per_unit(self) -> np.ndarray:
        return 0.5 * (self.mean**2 + np.exp(self.log_var) - 1.0 - self.log_var)

    def stats(self) -> DiagNormal:
        return DiagNormal(jnp.float32(self.mean), jnp.float32(self.log_var))

    def params(self) -> dict[str, np.ndarray]:
        weights, bias, _ = self.model
        return {"mean": self.mean, "log_var": self.log_var, "weights": weights, "bias": bias}

    def with_params(self, mean: Any, log_var: Any, weights: Any, bias: Any) -> "Case":
        return Case(self.model._replace(weights=weights, bias=bias), self.x, mean, log_var)


@functools.cache
def make_case(num_dims: int, num_latents: int, seed: int) -> Case:
    rng = np.random.default_rng(seed + 1000)
    case = Case(
        oracles.linear_gaussian(seed, num_dims, num_latents),
        x=rng.normal(scale=2.0, size=num_dims),
        mean=rng.normal(size=num_latents),
        log_var=rng.normal(size=num_latents) - 1.0,
    )
    return jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(np.float64), case)


def exact_case(num_dims: int, num_latents: int, seed: int) -> Case:
    """Returns a case whose guide is the posterior."""
    model = oracles.orthogonal_linear_gaussian(seed, num_dims, num_latents)
    x = np.random.default_rng(seed).normal(size=num_dims)
    mean, cov = model.posterior(x)
    np.testing.assert_allclose(cov, np.diag(np.diag(cov)), atol=1e-12)
    return Case(model, x, mean, np.log(np.diag(cov)))


# Cases in JAX


def joint_of(model: Any, x: Any) -> Joint:
    """Returns the model as a `Joint` that is differentiable in its weights and bias."""
    (weights, bias, noise_var), x = jax.tree.map(jnp.float32, (model, x))
    return Joint(
        prior=StandardNormal(weights.shape[1]),
        log_lik=lambda z: DiagNormal(weights @ z + bias, jnp.log(noise_var)).log_prob(x),
    )


def keys(number: int = NUM_DRAWS, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), number)


@functools.partial(jax.jit, static_argnames=("bound", "num_samples"))
def _evaluations(
    bound: Callable[..., Any], keys: jax.Array, params: Any, rest: Any, num_samples: int
) -> Any:
    return jax.vmap(lambda key: bound(key, *_problem(params, *rest), num_samples=num_samples))(keys)


def _problem(params: Any, noise_var: Any, x: Any) -> tuple[DiagNormal, Guide, Joint]:
    stats = DiagNormal(params["mean"], params["log_var"])
    return stats, diag_normal, joint_of((params["weights"], params["bias"], noise_var), x)


def draws_of(
    bound: Callable[..., Any], case: Case, *, num_samples: int = 1, seed: int = 0
) -> np.ndarray:
    """Returns independent evaluations [NUM_DRAWS, ...] of a bound, or of several stacked ones."""
    params, rest = jax.tree.map(jnp.float32, (case.params(), (case.model.noise_var, case.x)))
    draws = _evaluations(bound, keys(seed=seed), params, rest, num_samples)
    return np.asarray(draws, np.float64)


class Estimates(NamedTuple):
    """The values and gradients of a bound in independent draws."""

    value: np.ndarray  # [NUM_DRAWS]
    gradient: dict[str, np.ndarray]  # of phi and theta, each [NUM_DRAWS, ...]


def estimates_of(
    bounds: Mapping[str, Callable[..., Any]], case: Case, *, seed: int = 0
) -> dict[str, Estimates]:
    """Returns draws of bounds whose num_samples is fixed.

    One program compiles faster than one for each bound.
    """
    params, rest = jax.tree.map(jnp.float32, (case.params(), (case.model.noise_var, case.x)))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def evaluate(params: Any, key: jax.Array) -> Any:
        return {
            name: jax.value_and_grad(lambda params, b=bound: b(key, *_problem(params, *rest)))(
                params
            )
            for name, bound in bounds.items()
        }

    evaluated = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), evaluate(params, keys(seed=seed))
    )
    return {name: Estimates(*each) for name, each in evaluated.items()}


# Expectations in float64

NODES = {1: 60, 2: 20, 3: 9}  # number of nodes of the rule along each of Z dimensions


def log_weights_at(case: Case, noise: np.ndarray) -> np.ndarray:
    """Returns log p(x, z) - log q(z|x) [n] at z = mean + std noise, noise [n, Z]."""
    (weights, bias, noise_var), x, mean, log_var = case
    z = mean + np.exp(0.5 * log_var) * noise
    residual = x - bias - z @ weights.T
    log_lik = -0.5 * np.sum(oracles.LOG_2PI + np.log(noise_var) + residual**2 / noise_var, axis=1)
    # The normalizing constants of log p(z) and log q(z|x) are the same.
    return log_lik + 0.5 * np.sum(noise**2 + log_var - z**2, axis=1)


Pair = tuple[np.ndarray, np.ndarray]  # log w of one sample and of the other


def expectation_over_pairs(case: Case, function: Callable[[Pair], np.ndarray]) -> float:
    """Returns E[function((log w_1, log w_2))] over two independent samples of the guide."""
    num_latents = len(case.mean)
    nodes, masses = np.polynomial.hermite_e.hermegauss(NODES[num_latents])
    noise = np.stack(np.meshgrid(*[nodes] * num_latents), axis=-1).reshape(-1, num_latents)
    mass = functools.reduce(np.multiply.outer, [masses / np.sum(masses)] * num_latents).ravel()
    log_w = log_weights_at(case, noise)
    return float(mass @ function((log_w[:, None], log_w)) @ mass)


def power_mean(log_w: Pair, power: float) -> np.ndarray:
    """Returns 1/power log 1/2 Sum_k w_k^power: IWAE for power 1, Renyi for power 1 - alpha."""
    one, other = log_w
    return (np.logaddexp(power * one, power * other) - np.log(2.0)) / power


def iwae_of_two(case: Case) -> float:
    return expectation_over_pairs(case, lambda log_w: power_mean(log_w, 1.0))


def renyi_of_two(case: Case) -> float:
    return expectation_over_pairs(case, lambda log_w: power_mean(log_w, 0.5))


Objective = Callable[[Case], float]


class Expected(NamedTuple):
    """The exact expectation of a bound of BOUNDS with its default options."""

    value: Objective
    phi: Objective | None = None  # the objective whose gradient phi gets, if it is not `value`
    num_samples: int = 2


EXPECTED = {
    **dict.fromkeys(
        ("sgvb_a", "sgvb_b", "score_function", "score_function_loo", "nvil", "stl"),
        Expected(Case.elbo),
    ),
    "iwae": Expected(iwae_of_two),
    "vimco": Expected(iwae_of_two),
    "dreg": Expected(iwae_of_two),
    "miwae": Expected(iwae_of_two, num_samples=4),
    "piwae": Expected(iwae_of_two, phi=Case.elbo),
    "ciwae": Expected(lambda case: 0.5 * case.elbo() + 0.5 * iwae_of_two(case)),
    "renyi": Expected(renyi_of_two),
    "beta_elbo": Expected(lambda case: case.elbo() - 3.0 * case.kl()),
    "free_bits": Expected(lambda case: case.elbo() + case.kl() - max(case.kl(), 1.0)),
    "free_bits_per_unit": Expected(
        lambda case: case.elbo() + case.kl() - np.maximum(case.kl_per_unit(), 0.1).sum()
    ),
}
ELBO_ESTIMATORS = tuple(name for name, expected in EXPECTED.items() if expected.value == Case.elbo)


@functools.cache
def exact_gradient(objective: Objective, sizes: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Returns the gradient of an objective at `make_case(*sizes)`, by central differences."""
    case = make_case(*sizes)
    params = case.params()

    def gradient(name: str) -> np.ndarray:
        def value(leaf: np.ndarray) -> float:
            return objective(case.with_params(**(params | {name: leaf})))

        return oracles.finite_difference(value, params[name])

    return {name: gradient(name) for name in params}
