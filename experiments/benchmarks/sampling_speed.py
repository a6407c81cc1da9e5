"""Compares the accuracy and speed of variational Bayes, Gibbs sampling and HMC on one posterior.

    python experiments/benchmarks/sampling_speed.py [--rounds=5] [--draws=2000]

The models are three of `aevb.classical`, in float32. A round fits each model by variational Bayes,
from start to end, and draws from its posterior by 4 chains; both are compiled. The reference for
the quantities of a model is the mean over the draws of all rounds. A variational mean differs from
the reference by a fixed number of the posterior's standard deviations. The mean of n effective
samples has an error of 1 / sqrt(n) standard deviations, so after some time the chains are the more
accurate of the two.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from worker import timed

from aevb.classical import (
    coordinate_ascent,
    gaussian_mixture,
    gibbs,
    logistic_regression,
    mixture_gibbs,
    mixture_model,
    normal_gamma,
)
from aevb.classical.logistic_regression import Data
from aevb.inference import hmc
from aevb.types import Key

NUM_CHAINS = 4
WARMUP = 200


class Beliefs(NamedTuple):
    """The mean and standard deviation of Q quantities."""

    mean: Array  # [Q]
    std: Array  # [Q]


class Problem(NamedTuple):
    """A posterior, with its approximations and its sampler."""

    sampler: str
    fits: dict[str, Callable[[], Beliefs]]  # by variational Bayes
    draw: Callable[[Key], Array]  # returns [C, L, Q]


def normal(draws: int) -> Problem:
    """Returns a normal-gamma problem: the mean and the precision of 20 numbers."""
    x = 1.0 + 2.0 * jax.random.normal(jax.random.key(0), (20,))
    prior = normal_gamma.NormalGamma(*map(jnp.float32, (0.0, 0.1, 1.0, 1.0)))

    def fit() -> Beliefs:
        problem = normal_gamma.coordinate_ascent(prior, x)
        start = problem.init(jax.random.key(0))
        q = coordinate_ascent.maximize(problem, start, tolerance=1e-5, max_sweeps=100).state
        mean = jnp.stack([q.mean, q.tau.mean()])
        return Beliefs(mean, jnp.stack([q.precision**-0.5, q.tau.shape**0.5 / q.tau.rate]))

    def draw(key: Key) -> Array:
        transition = gibbs.normal_gamma_transition(prior, x)
        starts = jnp.ones((NUM_CHAINS, 2))
        return gibbs.sample(key, starts, transition, num_samples=draws, num_warmup=WARMUP)

    return Problem("Gibbs", {"mean field": fit}, draw)


def mixture(draws: int) -> Problem:
    """Returns a mixture problem: the density at 6 new points, given 300 of 3 touching clusters."""
    kind_key, x_key, new_key, seed = jax.random.split(jax.random.key(1), 4)
    centres = jnp.array([[-3.0, 0.0], [0.0, 2.5], [3.0, -0.5]])
    x = centres[jax.random.randint(kind_key, (300,), 0, 3)] + jax.random.normal(x_key, (300, 2))
    new = 2.0 * jax.random.normal(new_key, (6, 2))
    prior = gaussian_mixture.scikit_learn_prior(x, 3)
    problem = mixture_model.coordinate_ascent(x, prior, 3)

    def densities(sample: mixture_gibbs.Sample) -> Array:
        return jnp.sum(jnp.exp(mixture_gibbs.log_joint(sample, new)), axis=0)

    def fit() -> Beliefs:
        q = coordinate_ascent.ascend(problem, problem.init(seed), num_sweeps=100)[0]
        some = jax.vmap(partial(_of_mean_field, q))(jax.random.split(seed, 1000))
        found = jax.vmap(densities)(some)
        return Beliefs(jnp.mean(found, axis=0), jnp.std(found, axis=0))

    def start(key: Key) -> mixture_gibbs.Sample:
        """Starts a chain at the clusters of k-means, as mean field does.

        From other starts a chain can take thousands of draws to fill an empty component.
        """
        clusters = jnp.argmax(problem.init(key).responsibilities, axis=1)
        return mixture_gibbs.start(key, x, 3)._replace(z=clusters.astype(jnp.int32))

    def draw(key: Key) -> Array:
        start_key, key = jax.random.split(key)
        starts = jax.vmap(start)(jax.random.split(start_key, NUM_CHAINS))
        transition = mixture_gibbs.transition(prior, x, 3)
        samples = gibbs.sample(key, starts, transition, num_samples=draws, num_warmup=WARMUP)
        return jax.vmap(jax.vmap(densities))(samples)

    return Problem("Gibbs", {"mean field": fit}, draw)


def logistic(draws: int) -> Problem:
    """Returns a logistic regression: 5 weights of correlated columns, given 40 labels."""
    design_key, w_key, y_key = jax.random.split(jax.random.key(2), 3)
    design = jax.random.normal(design_key, (40, 5))
    design = design.at[:, 1:].add(0.8 * design[:, :1])
    weights = jax.random.normal(w_key, (5,))
    y = jax.random.bernoulli(y_key, jax.nn.sigmoid(design @ weights)).astype(jnp.float32)
    data, prior_var = Data(design, y), jnp.float32(4.0)

    def fit(method: Callable[..., Any]) -> Beliefs:
        q = method(data, prior_var, num_steps=50)
        return Beliefs(q.mean, jnp.sqrt(jnp.sum(jnp.square(q.factor()), axis=1)))

    def draw(key: Key) -> Array:
        return hmc.sample(
            key,
            jnp.zeros((NUM_CHAINS, 5)),
            partial(logistic_regression.log_joint, data, prior_var),
            num_samples=draws,
            settings=hmc.Settings(num_warmup=WARMUP),
        ).samples

    fits = {
        "normal": partial(fit, logistic_regression.fit),
        "mean field": partial(fit, logistic_regression.fit_mean_field),
    }
    return Problem("HMC", fits, draw)


PROBLEMS = {"normal-gamma": normal, "Gaussian mixture": mixture, "logistic regression": logistic}


def _of_mean_field(q: mixture_model.MeanField, key: Key) -> mixture_gibbs.Sample:
    """Draws weights, means and precisions from Q."""
    weights_key, components_key = jax.random.split(key)
    log_gammas = jax.random.loggamma(weights_key, q.parameters.weights.concentration)
    keys = jax.random.split(components_key, len(log_gammas))
    means, whiteners = jax.vmap(type(q.parameters.components).sample)(q.parameters.components, keys)
    nobody = jnp.zeros(0, jnp.int32)
    return mixture_gibbs.Sample(nobody, jax.nn.log_softmax(log_gammas), means, whiteners)


def seconds_of(compiled: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    result, times = timed(lambda: jax.block_until_ready(compiled(*args)))
    return result, times["seconds"]


def measure(problem: Problem, rounds: int) -> dict[str, Any]:
    """Runs fits and chains in turn, and returns the figures of both."""
    keys = jax.random.split(jax.random.key(3), rounds)
    draw = jax.jit(problem.draw).lower(keys[0]).compile()
    fits = {name: jax.jit(fit).lower().compile() for name, fit in problem.fits.items()}
    samples, sampling, fitting = [], [], {name: [] for name in fits}
    beliefs: dict[str, Beliefs] = {}
    for key in keys:
        found, seconds = seconds_of(draw, key)
        samples.append(found)
        sampling.append(seconds)
        for name, fit in fits.items():
            beliefs[name], seconds = seconds_of(fit)
            fitting[name].append(seconds)
    chains = jnp.concatenate(samples)
    pooled = np.asarray(chains, np.float64).reshape(-1, chains.shape[-1])
    mean, std = pooled.mean(axis=0), pooled.std(axis=0)
    sizes = np.asarray(hmc.effective_sample_size(chains))
    rate = float(np.min(sizes)) / sum(sampling)  # of the quantity that mixes worst
    error = float(1.0 / np.sqrt(np.min(sizes)))  # of the reference, in standard deviations
    result: dict[str, Any] = {
        "sampler": problem.sampler,
        "sampling_seconds": harness.summary(sampling),
        "effective_samples_per_second": rate,
        "worst_r_hat": float(np.max(np.asarray(hmc.r_hat(chains)))),
        "reference_error": error,
        "fits": {},
    }
    for name, belief in beliefs.items():
        off = float(np.max(np.abs(np.asarray(belief.mean) - mean) / std))
        ratios = np.asarray(belief.std) / std
        result["fits"][name] = {
            "seconds": harness.summary(fitting[name]),
            "mean_off_in_std": off,
            "std_ratio": {"least": float(ratios.min()), "most": float(ratios.max())},
            # Unknown if the reference itself may have as large an error.
            "sampler_is_nearer_after_seconds": None if off < 2.0 * error else 1.0 / (off**2 * rate),
        }
    return result


def main() -> None:
    parser = harness.argument_parser(__doc__, rounds=5)
    parser.add_argument("--draws", type=int, default=2000, help="of each chain in a round")
    args = parser.parse_args()
    load = harness.load_of_others()
    problems = {name: measure(make(args.draws), args.rounds) for name, make in PROBLEMS.items()}
    harness.write_report(
        args, load, rounds=args.rounds, chains=NUM_CHAINS, draws=args.draws, problems=problems
    )


if __name__ == "__main__":
    main()
