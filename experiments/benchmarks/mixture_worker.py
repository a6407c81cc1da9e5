"""Fits the Gaussian mixture at each line of stdin: a contender of mixture_speed.py.

The answer to a line is {"seconds", "cpu_seconds", "score"}; the score is the mean log-density of
the data in nats. aevb fits once, to compile, before the worker is ready; `first_seconds` in the
worker's first line is the time of that fit.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import worker

SEPARATION = 2.0  # of the components' means, in standard deviations per dimension


def simulate(num_points: int, num_dims: int, num_components: int) -> np.ndarray:
    """Simulates overlapping components with unequal covariances, [N, D], float64."""
    rng = np.random.default_rng(0)
    means = SEPARATION * rng.normal(size=(num_components, num_dims))
    factors = rng.normal(size=(num_components, num_dims, num_dims)) / np.sqrt(num_dims)
    names = rng.integers(num_components, size=num_points)
    noise = rng.normal(size=(num_points, num_dims))
    return means[names] + np.einsum("nij,nj->ni", (factors + 0.5 * np.eye(num_dims))[names], noise)


def scikit_learn(x: np.ndarray, args: argparse.Namespace) -> Callable[[int], Callable[[], float]]:
    from sklearn.mixture import BayesianGaussianMixture

    def fit(seed: int) -> Callable[[], float]:
        model = BayesianGaussianMixture(
            n_components=args.components,
            weight_concentration_prior_type="dirichlet_distribution",
            n_init=args.restarts,
            max_iter=args.sweeps,
            tol=0.0,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the fit stops before it converges
            model.fit(x)
        return lambda: float(model.score(x))

    return fit


def aevb(x: np.ndarray, args: argparse.Namespace) -> Callable[[int], Callable[[], float]]:
    import jax

    jax.config.update("jax_enable_x64", args.contender == "aevb_float64")
    from aevb.classical import gaussian_mixture

    def fit(seed: int) -> Callable[[], float]:
        found = gaussian_mixture.fit(
            jax.random.key(seed),
            x,
            num_components=args.components,
            prior=gaussian_mixture.scikit_learn_prior(x, args.components),
            num_restarts=args.restarts,
            num_sweeps=args.sweeps,
            tolerance=-np.inf,
        )
        assert len(found.bounds) == args.sweeps + 1
        return lambda: float(np.mean(gaussian_mixture.score_samples(found, x)))

    return fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender")
    for name in ("points", "dims", "components", "restarts", "sweeps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    x = simulate(args.points, args.dims, args.components)
    is_ours = args.contender.startswith("aevb")
    fit = (aevb if is_ours else scikit_learn)(x, args)
    began = time.perf_counter()
    if is_ours:  # scikit-learn compiles nothing
        fit(0)
    first_seconds = time.perf_counter() - began

    def answer_to(request: str) -> dict[str, float]:
        score, times = worker.timed(lambda: fit(int(request)))
        return {**times, "score": score()}

    packages = ("jax", "jaxlib") if is_ours else ("scikit-learn",)
    worker.serve((*packages, "numpy", "scipy"), answer_to, first_seconds=first_seconds)


if __name__ == "__main__":
    main()
