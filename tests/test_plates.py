"""Global parameters: Bayesian regression and factor analysis, whose bounds are known exactly."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from marks import slow_but

from aevb import factors, losses
from aevb.classical import linear_gaussian_em, linear_regression
from aevb.classical.coordinate_ascent import ascend
from aevb.classical.linear_gaussian_em import Factors
from aevb.distributions import LOG_2PI, FullNormal, StandardNormal
from aevb.guides import full_normal
from aevb.losses import Guide, Joint

CASES = [(6, 2, 0), (10, 3, 1), (8, 1, 2)]  # N, dimensions of theta or of x, seed
KEY = jax.random.key(0)
NUM_DRAWS = 4000
every_case = pytest.mark.parametrize("sizes", slow_but(CASES[:1], CASES))


def as_full_normal(mean: Any, covariance: Any) -> FullNormal:
    factor = np.linalg.cholesky(np.asarray(covariance, np.float64))
    below = factor[np.tril_indices(len(factor), -1)]
    parts = (mean, np.log(np.diag(factor)), below)
    return FullNormal(*(jnp.asarray(part, jnp.float32) for part in parts))


class Regression:
    """y_n ~ N(x_n'w, 1/beta), w ~ N(0, I): w is global, and nothing is local."""

    def __init__(self, num_data: int, num_dims: int, seed: int):
        rng = np.random.default_rng(seed)
        self.design = jnp.asarray(rng.normal(size=(num_data, num_dims)), jnp.float32)
        self.y = self.design @ jnp.asarray(rng.normal(size=num_dims), jnp.float32)
        self.y += 0.5 * jnp.asarray(rng.normal(size=num_data), jnp.float32)
        self.precisions = jnp.float32(1.0), jnp.float32(4.0)
        exact = linear_regression.posterior(self.design, self.y, *self.precisions)
        self.posterior = as_full_normal(exact.mean, exact.covariance)
        self.evidence = float(linear_regression.log_evidence(self.design, self.y, *self.precisions))
        self.prior = StandardNormal(num_dims)

    def local(self, key: Any, theta: jax.Array, x: Any) -> jax.Array:
        design, y = x
        beta = self.precisions[1]
        return 0.5 * (jnp.log(beta) - LOG_2PI - beta * jnp.square(y - design @ theta))

    def joint(self, rows: jax.Array | None = None) -> Joint:
        data = (self.design, self.y) if rows is None else (self.design[rows], self.y[rows])
        return Joint(self.prior, factors.plate(KEY, self.local, data, num_data=len(self.y)))


@every_case
def test_at_the_exact_posterior_of_theta_every_bound_is_the_evidence_of_all_data(sizes: Any):
    case = Regression(*sizes)
    for name in ("sgvb_a", "stl", "iwae", "dreg", "renyi"):
        bound = partial(losses.BOUNDS[name], num_samples=4)
        found = jax.jit(
            lambda key, bound=bound: bound(key, case.posterior, full_normal, case.joint())
        )(KEY)
        np.testing.assert_allclose(found, case.evidence, rtol=1e-4, err_msg=name)


@every_case
@pytest.mark.parametrize("name", ["sgvb_a", "sgvb_b", "stl"])
def test_minibatches_have_the_bound_and_the_gradient_of_all_data_on_average(name: str, sizes: Any):
    case = Regression(*sizes)
    num_data = len(case.y)
    wide = case.posterior._replace(log_diag=case.posterior.log_diag + 0.3)

    def bound(stats: FullNormal, key: Any) -> jax.Array:
        row_key, key = jax.random.split(key)
        rows = jax.random.randint(row_key, (2,), 0, num_data)
        return losses.BOUNDS[name](key, stats, full_normal, case.joint(rows))

    keys = jax.random.split(KEY, NUM_DRAWS)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(bound), (None, 0)))(wide, keys)

    def exact(stats: FullNormal) -> jax.Array:
        lower, beta = stats.factor(), case.precisions[1]
        squares = jnp.sum(jnp.square(case.y - case.design @ stats.mean))
        squares += jnp.sum(jnp.square(case.design @ lower))
        log_lik = 0.5 * (num_data * (jnp.log(beta) - LOG_2PI) - beta * squares)
        return log_lik - stats.kl(case.prior)

    expected, expected_slopes = jax.jit(jax.value_and_grad(exact))(wide)
    assert oracles.standard_errors_off(np.asarray(values, np.float64), float(expected)) < 4.0
    for found, mean in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected_slopes), strict=True):
        for column, one in zip(np.asarray(found, np.float64).T, np.asarray(mean), strict=True):
            assert oracles.standard_errors_off(column, float(one)) < 4.0


# Factor analysis: W is global, z_n local

rows_of_weights = Guide(  # independent rows of W [D, Z], each with any covariance
    sample=lambda key, stats: jax.vmap(lambda k, s: s.sample(k))(
        jax.random.split(key, len(stats.mean)), stats
    ),
    log_prob=lambda stats, w: jnp.sum(jax.vmap(lambda s, row: s.log_prob(row))(stats, w)),
    kl=lambda stats, prior: jnp.sum(jax.vmap(lambda s: s.kl(prior))(stats)),
)


class FactorAnalysis:
    """x_n ~ N(W z_n, s^2 I) with z_n ~ N(0, I), W_dz ~ N(0, 1), and the best Q(W) Q(Z)."""

    def __init__(self, num_data: int, num_dims: int, seed: int):
        rng = np.random.default_rng(seed)
        num_dims += 2
        x = rng.normal(size=(num_data, 1)) @ rng.normal(size=(1, num_dims))
        self.x = jnp.asarray(x + 0.5 * rng.normal(size=x.shape), jnp.float32)
        self.noise_var = jnp.float32(0.25)
        self.problem = linear_gaussian_em.variational_bayes(
            self.x, 1, bias=jnp.zeros(num_dims), noise_var=self.noise_var,
            weight_precision=jnp.float32(1.0),
        )  # fmt: skip
        self.best, bounds = ascend(self.problem, self.problem.init(KEY), num_sweeps=500)
        self.bound = float(bounds[-1, -1])

    def stats(self, q: Factors) -> tuple[FullNormal, FullNormal]:
        """Returns the statistics of q(W), by rows, and of q(Z), by datapoints."""

        def of(rows: Any) -> FullNormal:
            number, size = rows.mean.shape
            one = as_full_normal(rows.mean[0], rows.covariance)
            spread = jnp.broadcast_to(one.log_diag, (number, size))
            return FullNormal(rows.mean, spread, jnp.zeros((number, 0)))

        return of(q.weights), of(q.latents)

    def estimate(self, stats: tuple[FullNormal, FullNormal], key: Any) -> jax.Array:
        of_weights, of_latents = stats
        local_key, key = jax.random.split(key)

        def local(key: Any, weights: jax.Array, datapoint: Any) -> jax.Array:
            x, own = datapoint

            def log_lik(z: jax.Array) -> jax.Array:
                squares = jnp.sum(jnp.square(x - weights @ z)) / self.noise_var
                return -0.5 * (len(x) * (LOG_2PI + jnp.log(self.noise_var)) + squares)

            return losses.sgvb_b(key, own, full_normal, Joint(StandardNormal(1), log_lik))

        data = (self.x, of_latents)
        plate = factors.plate(local_key, local, data, num_data=len(self.x))
        joint = Joint(StandardNormal(1), plate)
        return losses.sgvb_b(key, of_weights, rows_of_weights, joint)


@every_case
def test_the_bound_of_factor_analysis_is_that_of_coordinate_ascent(sizes: Any):
    case = FactorAnalysis(*sizes)
    keys = jax.random.split(KEY, NUM_DRAWS)
    stats = case.stats(case.best)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(case.estimate), (None, 0)))(stats, keys)
    assert oracles.standard_errors_off(np.asarray(values, np.float64), case.bound) < 4.0
    for leaf in jax.tree.leaves(slopes):  # at the optimum
        for column in np.asarray(leaf, np.float64).reshape(NUM_DRAWS, -1).T:
            assert oracles.standard_errors_off(column, 0.0) < 4.5  # the largest of many
