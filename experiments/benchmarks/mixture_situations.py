"""Simulated situations in which the number of clusters is clear, for mixture_counts.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Situation(NamedTuple):
    """Data sets of one kind. `draw` maps a generator to points [N, D] and their clusters [N]."""

    title: str
    num_clusters: int
    draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def centres(rng: np.random.Generator, num: int, num_dims: int, apart: float) -> np.ndarray:
    """Draws centers [K, D] in a cube, no two nearer than `apart`; the cube grows until they fit."""
    side = apart * num ** (1.0 / num_dims)
    found: list[np.ndarray] = []
    while len(found) < num:
        drawn = side * rng.uniform(-0.5, 0.5, size=num_dims)
        if all(np.linalg.norm(drawn - other) >= apart for other in found):
            found.append(drawn)
        side *= 1.001
    return np.array(found)


def clusters(
    num: int, sizes: int | Sequence[int], num_dims: int, apart: float, elongation: float = 1.0
) -> Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    """Returns a draw of Gaussian clusters, `apart` of the least standard deviation or further.

    With an `elongation` of e, each cluster has a random orientation and standard deviations between
    1 and e, and the centers are `apart` times e / 2 apart.
    """

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        counts = np.full(num, sizes) if isinstance(sizes, int) else np.array(sizes)
        names = np.repeat(np.arange(num), counts)
        noise = rng.normal(size=(len(names), num_dims))
        means = centres(rng, num, num_dims, apart * max(1.0, elongation / 2.0))
        if elongation > 1.0:
            for name in range(num):
                stds = np.geomspace(elongation, 1.0, num_dims)
                turn, _ = np.linalg.qr(rng.normal(size=(num_dims, num_dims)))
                noise[names == name] = (noise[names == name] * stds) @ turn
        return means[names] + noise, names

    return draw


def nested(num_dims: int, inner: int, outer: int) -> Callable:
    """Returns a draw of a cluster inside another with ten times its standard deviation."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        names = np.repeat([0, 1], [inner, outer])
        stds = np.array([1.0, 10.0])[names]
        return stds[:, None] * rng.normal(size=(len(names), num_dims)), names

    return draw


def changed(draw: Callable, *, offset: float = 0.0, scales: Sequence[float] = (1.0,)) -> Callable:
    """Returns a draw in other units: the columns are multiplied by `scales` in turn and shifted."""

    def moved(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x, names = draw(rng)
        return offset + x * np.resize(scales, x.shape[1]), names

    return moved


def with_outlier(draw: Callable, far: float) -> Callable:
    """Returns a draw with one further point, a cluster of its own, at `far` in every dimension."""

    def more(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x, names = draw(rng)
        return np.concatenate([x, np.full((1, x.shape[1]), far)]), np.append(names, names.max() + 1)

    return more


def rounded(draw: Callable, unit: float) -> Callable:
    """Returns a draw of data that are recorded to a unit."""

    def coarse(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x, names = draw(rng)
        return unit * np.round(x / unit), names

    return coarse


SITUATIONS: Mapping[str, Situation] = {
    "one_line": Situation("1 cluster of 1,000 in 1-D", 1, clusters(1, 1000, 1, 10.0)),
    "one_wide": Situation("1 cluster of 100 in 20-D", 1, clusters(1, 100, 20, 10.0)),
    "two_near": Situation("2 of 1,000 in 1-D, 3 apart", 2, clusters(2, 1000, 1, 3.0)),
    "four": Situation("4 of 100 in 2-D, 10 apart", 4, clusters(4, 100, 2, 10.0)),
    "three_few": Situation("3 of 15 in 2-D, 10 apart", 3, clusters(3, 15, 2, 10.0)),
    "eight_5d": Situation("8 of 100 in 5-D, 6 apart", 8, clusters(8, 100, 5, 6.0)),
    "six_20d_few": Situation("6 of 15 in 20-D, 30 apart", 6, clusters(6, 15, 20, 30.0)),
    "twenty": Situation("20 of 50 in 2-D, 10 apart", 20, clusters(20, 50, 2, 10.0)),
    "twenty_few": Situation("20 of 15 in 3-D, 30 apart", 20, clusters(20, 15, 3, 30.0)),
    "unequal": Situation(
        "3 of 1,000, 100 and 15 in 2-D, 10 apart", 3, clusters(3, (1000, 100, 15), 2, 10.0)
    ),
    "elongated": Situation(
        "4 of 150 in 2-D, elongated tenfold", 4, clusters(4, 150, 2, 6.0, elongation=10.0)
    ),
    "nested": Situation("a cluster of 200 in one of 200, in 2-D", 2, nested(2, 200, 200)),
    "far_off": Situation(
        "4 of 100 in 2-D, 10 apart, at 10^6", 4, changed(clusters(4, 100, 2, 10.0), offset=1e6)
    ),
    "units": Situation(
        "4 of 100 in 2-D, 10 apart, units of 10^6 and 10^-6", 4,
        changed(clusters(4, 100, 2, 10.0), scales=(1e6, 1e-6)),
    ),
    "outlier": Situation(
        "3 of 100 in 2-D, 10 apart, and a point at 10^6", 4,
        with_outlier(clusters(3, 100, 2, 10.0), 1e6),
    ),
    "rounded": Situation(
        "3 of 200 in 2-D, 10 apart, rounded to whole stds", 3,
        rounded(clusters(3, 200, 2, 10.0), 1.0),
    ),
}  # fmt: skip
