"""The search for a mixture's best bound: coordinate ascent from clusters that were merged."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.classical import mixture_basis, mixture_data, mixture_merges, mixture_runs, mixture_seeds
from aevb.classical.families import Wishart
from aevb.classical.mixture_basis import Basis
from aevb.classical.mixture_merges import Level, SharedPrior
from aevb.classical.mixture_model import Parameters, Prior
from aevb.classical.normal_wishart import Moments, NormalWishart
from aevb.types import Key

FEWEST = 0.5  # a component with fewer expected datapoints counts as empty
NUM_SEEDING = 5_000  # the mergers see at most this many points
NUM_DENSEST = 10  # the least number of points that measure the scale of a dimension
NUM_PADDED = 4  # sizes are padded to a multiple of this, so that few programs are compiled


class Problem(NamedTuple):
    """Data and prior in the coordinates of the computation, in float64."""

    points: np.ndarray  # [N, D]
    basis: Basis
    prior: SharedPrior  # given, or the first guess
    view: np.ndarray  # [D, D], to the coordinates in which k-means measures distances
    rounding: np.ndarray | None  # [D, D], if the prior is learned
    dtype: jnp.dtype  # of the computation


class Candidate(NamedTuple):
    """The end of one run, in the coordinates of the computation; the bounds are those of x."""

    parameters: Parameters  # K components
    prior: Prior
    num_empty: int
    bounds: tuple[float, ...]  # nats, before the first sweep and after each
    converged: bool

    @property
    def size(self) -> int:
        return len(self.parameters.weights.concentration)


def problem_of(x: Array, dtype: jnp.dtype, prior: Prior | None) -> Problem:
    """Returns the problem of points x [N, D] in float64, with a given prior in float64 or none.

    Raises:
        ValueError: there is no prior, and the covariance of x has no inverse.
    """
    learned = prior is None
    points = np.asarray(x)
    origin = np.median(points, axis=0)  # an outlier does not move it
    if prior is None:
        prior = mixture_data.first_guess(x, origin)
    with jax.enable_x64(True):
        basis = mixture_basis.of_prior(prior, jnp.asarray(origin))
    concentration, (mean, beta, (df, scale)) = basis.prior(prior, jnp.dtype("float64"))
    factor, rounding = np.asarray(basis.factor), None
    if learned:
        inverse = np.linalg.inv(factor)
        errors = mixture_data.resolution(points) ** 2 / 12.0  # uniform within the unit
        rounding = (inverse * errors[None]) @ inverse.T
    shared = SharedPrior(
        float(concentration), np.asarray(mean), float(beta), float(df), np.asarray(scale)
    )
    view = factor / _scales(points)[:, None]
    return Problem(np.asarray(basis.of(x, x.dtype)), basis, shared, view, rounding, dtype)


def _scales(points: np.ndarray) -> np.ndarray:
    """Returns the width of the densest tenth of the points in each dimension, or another scale.

    Neither an outlier nor the distance of the clusters changes it, as they would change a standard
    deviation: with that, k-means divides the dimensions in which there are no clusters. It is 0 if
    a tenth of the values are equal; then the standard deviation is taken, or 1.
    """
    ordered = np.sort(points, axis=0)
    size = min(len(points), max(NUM_DENSEST, -(-len(points) // 10)))
    widths = np.min(ordered[size - 1 :] - ordered[: len(points) - size + 1], axis=0)
    scales = np.where(widths > 0.0, widths, np.std(points, axis=0))
    return np.where(scales > 0.0, scales, 1.0)


def merged(key: Key, problem: Problem, *, num_seeds: int, num_restarts: int) -> list[dict]:
    """Returns the levels of the mergers by size, for each restart.

    k-means of the first restart sees each dimension over its scale. If the prior is learned, each
    further one sees the points whitened by the scale E[S] of the seeds before.
    """
    sample_key, key = jax.random.split(key)
    points = problem.points
    if len(points) > NUM_SEEDING:
        chosen = jax.random.choice(sample_key, len(points), (NUM_SEEDING,), replace=False)
        points = points[np.asarray(chosen)]
    rounding = np.zeros_like(problem.view) if problem.rounding is None else problem.rounding
    learned, view, found = problem.rounding is not None, problem.view, []
    for its_key in jax.random.split(key, num_restarts):
        with jax.enable_x64(True):
            seen = jnp.asarray(view @ points.T)
            members = _seed(its_key, seen, num_seeds)
        names = np.argmax(np.asarray(members), axis=0)
        clusters = mixture_merges.clusters_of(points, names, rounding)
        levels = mixture_merges.merge(clusters, problem.prior, learned=learned)
        found.append(levels)
        if learned:
            of_seeds = levels[max(levels)].prior
            view = np.linalg.inv(np.linalg.cholesky(of_seeds.inverse_scale))
    return found


def _seed_all(key: Key, x: Array, num_seeds: int) -> Array:
    return mixture_seeds.responsibilities(key, x, num_seeds, jnp.ones(num_seeds, bool))


_seed = jax.jit(_seed_all, static_argnums=2)


def ascend(
    problem: Problem,
    paths: list[dict[int, Level]],
    sizes: list[int],
    *,
    num_sweeps: int,
    tolerance: float,
) -> list[Candidate]:
    """Runs coordinate ascent for each size from each path, all in one program."""
    num_components = -(-max(sizes) // NUM_PADDED) * NUM_PADDED
    size_of = [size for size in sizes for _ in paths]
    starts = [_start(problem, path, size, num_components) for size in sizes for path in paths]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    active = np.arange(num_components)[None] < np.array(size_of)[:, None]
    rounding = None if problem.rounding is None else jnp.asarray(problem.rounding, problem.dtype)
    runs, history = mixture_runs.ascend(
        stacked,
        jnp.asarray(problem.points, problem.dtype),
        jnp.asarray(active),
        jnp.asarray(tolerance, problem.dtype),
        num_sweeps=num_sweeps,
        rounding=rounding,
    )
    runs, history = jax.tree.map(np.asarray, (runs, history))
    jacobian = -len(problem.points) * problem.basis.log_det()
    found = []
    for run, size in enumerate(size_of):
        parameters, prior, counts = jax.tree.map(
            lambda leaf, run=run: leaf[run],
            (runs.parameters, runs.prior, runs.statistics.num_points),
        )
        bounds = history[: int(runs.num_sweeps[run]) + 1, run].tolist()
        found.append(
            Candidate(
                jax.tree.map(lambda leaf, size=size: jnp.asarray(leaf[:size]), parameters),
                jax.tree.map(jnp.asarray, prior),
                int(np.sum(counts[:size] < FEWEST)),
                tuple(bound + jacobian for bound in bounds),
                bool(runs.converged[run]),
            )
        )
    return found


def _start(
    problem: Problem, path: dict[int, Level], size: int, num_components: int
) -> mixture_runs.Starts:
    """Returns the start of a run; if the mergers began with fewer clusters, some have no points."""
    clusters, shared, _ = path[min(size, max(path))]
    missing = num_components - len(clusters.counts)
    factor = len(problem.points) / np.sum(clusters.counts)  # they may have seen a sample
    counts, means, scatters = (
        np.pad(leaf, [(0, missing), *[(0, 0)] * (leaf.ndim - 1)]) for leaf in clusters
    )
    means[len(means) - missing :] = shared.mean
    asarray = partial(jnp.asarray, dtype=problem.dtype)
    component = NormalWishart(
        asarray(shared.mean),
        asarray(shared.mean_precision),
        Wishart(asarray(shared.df), asarray(shared.inverse_scale)),
    )
    return mixture_runs.Starts(
        Moments(
            asarray(factor * counts), asarray(np.zeros_like(means)), asarray(factor * scatters)
        ),
        asarray(means),
        Prior(asarray(shared.concentration), component),
    )
