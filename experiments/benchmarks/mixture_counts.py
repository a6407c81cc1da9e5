"""Compares how often aevb and scikit-learn find the number of clusters of simulated data.

    python experiments/benchmarks/mixture_counts.py [--sets=3] [--situations=four,outlier]

Every contender sees the same data sets of each situation (mixture_situations.py), one after another
in one process:

- aevb: `gaussian_mixture.fit` with its defaults, which tries up to 32 components;
- scikit-learn's `GaussianMixture` with the lowest BIC among the sizes;
- scikit-learn's `BayesianGaussianMixture` with as many components as the greatest of the sizes,
  counting the components to which some point is assigned.

scikit-learn is given the sizes within 3 of the truth, to its advantage. Its fits have 3 restarts,
as ours, and 500 iterations. The seconds of aevb's first fit of a situation contain the compilation.
The seeds of the data start at SEED; the prior was chosen on other seeds.
"""

import collections
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import harness
import jax
import mixture_situations
import numpy as np
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from aevb.classical import gaussian_mixture

SEED = 5_000  # of the first published data set; the prior was chosen on seeds 1,000 to 1,999
NEAR = 3
RESTARTS = 3

Count = Callable[[np.ndarray, int, int], int]  # points, the true number, seed -> the number found


def aevb(x: np.ndarray, _: int, seed: int) -> int:
    return gaussian_mixture.fit(jax.random.key(seed), x, num_restarts=RESTARTS).num_components


def sklearn_bic(x: np.ndarray, truth: int, seed: int) -> int:
    sizes = range(max(1, truth - NEAR), truth + NEAR + 1)
    fits = {
        size: GaussianMixture(size, n_init=RESTARTS, max_iter=500, random_state=seed).fit(x)
        for size in sizes
    }
    return min(sizes, key=lambda size: fits[size].bic(x))


def sklearn_bayesian(x: np.ndarray, truth: int, seed: int) -> int:
    model = BayesianGaussianMixture(
        n_components=truth + NEAR, n_init=RESTARTS, max_iter=500, random_state=seed
    )
    return len(np.unique(model.fit_predict(x)))


CONTENDERS: dict[str, Count] = {
    "aevb": aevb,
    "sklearn_bic": sklearn_bic,
    "sklearn_bayesian": sklearn_bayesian,
}


def count_all(name: str, num_sets: int) -> dict[str, Any]:
    """Returns what every contender finds in the data sets of a situation."""
    situation = mixture_situations.SITUATIONS[name]
    index = list(mixture_situations.SITUATIONS).index(name)
    found: dict[str, list[int]] = collections.defaultdict(list)
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for number in range(num_sets):
        seed = SEED + number
        x, _ = situation.draw(np.random.default_rng((seed, index)))
        for contender, count in CONTENDERS.items():
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a fit that has not converged
                found[contender].append(count(x, situation.num_clusters, seed))
            seconds[contender].append(time.perf_counter() - began)
    print(name, situation.num_clusters, dict(found), flush=True)
    return {
        "title": situation.title,
        "num_clusters": situation.num_clusters,
        "found": dict(found),
        "right": {
            contender: sum(number == situation.num_clusters for number in numbers)
            for contender, numbers in found.items()
        },
        "seconds": {
            contender: {"first": times[0], "median": statistics.median(times[1:] or times)}
            for contender, times in seconds.items()
        },
    }


def main() -> None:
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--sets", type=int, default=3, help="data sets of each situation")
    harness.add_choices(parser, "--situations", mixture_situations.SITUATIONS)
    args = parser.parse_args()
    load = harness.load_of_others()
    done: dict[str, Any] = {}
    for name in args.situations:
        done[name] = count_all(name, args.sets)
        harness.write_report(
            args, load, sets=args.sets, seed=SEED, restarts=RESTARTS, situations=done
        )


if __name__ == "__main__":
    main()
