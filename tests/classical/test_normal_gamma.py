"""The normal of unknown mean and precision: exact inference, mean field, and SGVB."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import standard_errors_off

from aevb import reparam
from aevb.classical import coordinate_ascent, normal_gamma
from aevb.classical.families import Gamma
from aevb.classical.normal_gamma import MeanField, NormalGamma
from aevb.inference import lbfgs
from aevb.losses import Guide, Joint, sgvb_a

DATA = np.random.default_rng(0).normal(1.5, 0.7, size=12)


def prior() -> NormalGamma:
    return NormalGamma(*map(jnp.float64, (0.3, 0.5, 2.0, 1.5)))


def data() -> jax.Array:
    return jnp.asarray(DATA)


def grid(family: NormalGamma) -> tuple[jax.Array, jax.Array, float]:
    """Returns points of mu and log tau [G, G] that hold all the mass, and the area of a cell."""
    away = 12.0 * float(np.sqrt(family.variances()[0]))
    mu = np.linspace(float(family.mean) - away, float(family.mean) + away, 401)
    middle = np.log(float(family.shape / family.rate))
    log_tau = np.linspace(middle - 6.0, middle + 3.0, 401)
    area = float((mu[1] - mu[0]) * (log_tau[1] - log_tau[0]))
    of_mu, of_tau = np.meshgrid(mu, log_tau, indexing="ij")
    return jnp.asarray(of_mu), jnp.asarray(of_tau), area


# Exact inference


def test_the_evidence_is_the_integral_of_the_joint():
    mu, log_tau, area = grid(normal_gamma.posterior(prior(), data()))
    log_joint = jax.vmap(
        jax.vmap(lambda mu, tau: normal_gamma.log_joint(prior(), data(), mu, tau))
    )(mu, jnp.exp(log_tau))
    integral = jax.nn.logsumexp(log_joint + log_tau) + np.log(area)  # d tau = tau d log tau
    np.testing.assert_allclose(normal_gamma.log_evidence(prior(), data()), integral, rtol=1e-8)


def test_bayes_rule_holds_at_every_point():
    """The identity is log p(mu, tau | x) = log p(x, mu, tau) - log p(x)."""
    exact = normal_gamma.posterior(prior(), data())
    for mu, tau in itertools.product((-1.0, 0.7, 2.0), (0.1, 1.0, 5.0)):
        joint = normal_gamma.log_joint(prior(), data(), jnp.float64(mu), jnp.float64(tau))
        known = exact.log_prob(jnp.float64(mu), jnp.float64(tau))
        np.testing.assert_allclose(
            joint - known, normal_gamma.log_evidence(prior(), data()), rtol=1e-12
        )


def test_the_log_joint_is_that_of_the_model():
    mu, tau = 0.8, 2.5
    expected = (
        np.sum(scipy.stats.norm.logpdf(DATA, mu, tau**-0.5))
        + scipy.stats.norm.logpdf(mu, 0.3, (0.5 * tau) ** -0.5)
        + scipy.stats.gamma.logpdf(tau, 2.0, scale=1 / 1.5)
    )
    found = normal_gamma.log_joint(prior(), data(), jnp.float64(mu), jnp.float64(tau))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_evidence_is_the_product_of_the_predictives():
    """The predictive of each next point, p(x_1) p(x_2 | x_1) ..., is Student's t, in any order."""
    total, family = 0.0, prior()
    for point in DATA:
        total += float(normal_gamma.log_predictive(family, jnp.float64(point)))
        family = normal_gamma.posterior(family, jnp.full(1, point))
    np.testing.assert_allclose(normal_gamma.log_evidence(prior(), data()), total, rtol=1e-10)
    np.testing.assert_allclose(family, normal_gamma.posterior(prior(), data()), rtol=1e-12)


def test_without_data_the_posterior_is_the_prior_and_log_evidence_is_0():
    assert normal_gamma.posterior(prior(), jnp.zeros(0)) == prior()
    assert normal_gamma.log_evidence(prior(), jnp.zeros(0)) == 0.0


@pytest.mark.parametrize("x", [[2.0], [2.0, 2.0, 2.0]], ids=["one point", "constant"])
def test_one_point_and_a_constant_have_a_proper_posterior(x: list[float]):
    exact = normal_gamma.posterior(prior(), jnp.asarray(x))
    assert float(exact.shape) == 2.0 + 0.5 * len(x)
    assert float(exact.mean) == pytest.approx((0.5 * 0.3 + 2.0 * len(x)) / (0.5 + len(x)))
    optimum = normal_gamma.mean_field_optimum(prior(), jnp.asarray(x))
    assert np.all(np.isfinite(jax.tree.leaves(optimum)))


# Mean field


def test_the_bound_rises_at_every_update_and_stays_below_the_evidence():
    problem = normal_gamma.coordinate_ascent(prior(), data())
    start = problem.init(jax.random.key(0))
    _, bounds = coordinate_ascent.ascend(problem, start, num_sweeps=20)
    history = np.concatenate([[problem.bound(start)], np.ravel(bounds)])
    assert np.all(np.diff(history) > -1e-12)
    assert history[1] - history[0] > 1.0
    assert history[-1] < float(normal_gamma.log_evidence(prior(), data()))


def test_coordinate_ascent_ends_at_the_closed_form():
    problem = normal_gamma.coordinate_ascent(prior(), data())
    found = coordinate_ascent.maximize(
        problem, problem.init(jax.random.key(0)), tolerance=0.0, max_sweeps=100
    )
    optimum = normal_gamma.mean_field_optimum(prior(), data())
    np.testing.assert_allclose(jax.tree.leaves(found.state), jax.tree.leaves(optimum), rtol=1e-10)


def test_the_bound_is_the_evidence_less_the_kl_to_the_posterior():
    """The KL is by quadrature, at the optimum and away from it."""
    problem = normal_gamma.coordinate_ascent(prior(), data())
    exact = normal_gamma.posterior(prior(), data())
    mu, log_tau, area = grid(exact)
    optimum = normal_gamma.mean_field_optimum(prior(), data())
    other = MeanField(jnp.float64(1.2), jnp.float64(9.0), Gamma(jnp.float64(4.0), jnp.float64(3.0)))
    for q in (optimum, other):

        def densities(mu: jax.Array, tau: jax.Array, q: MeanField = q) -> tuple[jax.Array, ...]:
            log_q = jax.scipy.stats.norm.logpdf(mu, q.mean, 1.0 / jnp.sqrt(q.precision))
            return log_q + q.tau.log_prob(tau), exact.log_prob(mu, tau)

        log_q, log_p = jax.vmap(jax.vmap(densities))(mu, jnp.exp(log_tau))
        kl = area * jnp.sum(jnp.exp(log_q + log_tau) * (log_q - log_p))
        gap = normal_gamma.log_evidence(prior(), data()) - problem.bound(q)
        np.testing.assert_allclose(gap, kl, rtol=1e-6)


def test_mean_field_has_the_right_means_and_variances_too_small_by_the_known_factors():
    exact = normal_gamma.posterior(prior(), data())
    optimum = normal_gamma.mean_field_optimum(prior(), data())
    np.testing.assert_allclose(optimum.mean, exact.mean)
    np.testing.assert_allclose(optimum.tau.mean(), exact.shape / exact.rate)
    of_mu, of_tau = exact.variances()
    shape = exact.shape
    np.testing.assert_allclose(1.0 / optimum.precision / of_mu, (shape - 1.0) / shape)
    narrow = optimum.tau.shape / jnp.square(optimum.tau.rate)
    np.testing.assert_allclose(narrow / of_tau, shape / (shape + 0.5))


@pytest.mark.slow
def test_sgvb_finds_the_mean_field_optimum():
    """L-BFGS maximizes eq. (6) with the noise of 500 samples fixed, in 8 repetitions."""
    gamma = reparam.FAMILIES["gamma"]

    def parts(stats: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        positive = jnp.exp(stats["log"])  # mu's precision, tau's shape and its rate
        return 1.0 / jnp.sqrt(positive[0]), {
            "concentration": positive[1:2],
            "rate": positive[2:],
        }

    def draw(key: jax.Array, stats: dict[str, jax.Array]) -> jax.Array:
        mu_key, tau_key = jax.random.split(key)
        std, of_tau = parts(stats)
        mu = stats["mean"] + std * jax.random.normal(mu_key, (1,))
        return jnp.concatenate([mu, gamma.sample(tau_key, of_tau)])

    def log_prob(stats: dict[str, jax.Array], z: jax.Array) -> jax.Array:
        std, of_tau = parts(stats)
        log_normal = jax.scipy.stats.norm.logpdf(z[0], stats["mean"][0], std)
        return log_normal + gamma.log_prob(of_tau, z[1:])

    joint = Joint(
        lambda z: prior().log_prob(z[0], z[1]),
        lambda z: normal_gamma.log_joint(prior(), data(), *z) - prior().log_prob(z[0], z[1]),
    )

    @jax.jit
    @jax.vmap
    def fit(key: jax.Array) -> dict[str, jax.Array]:
        def bound(stats: dict[str, jax.Array]) -> jax.Array:
            return sgvb_a(key, stats, Guide(draw, log_prob), joint, num_samples=500)

        start = {"mean": jnp.zeros(1), "log": jnp.zeros(3)}
        return lbfgs.maximize(bound, start, num_steps=15)

    found = fit(jax.random.split(jax.random.key(0), 8))
    optimum = normal_gamma.mean_field_optimum(prior(), data())
    log = jnp.log(jnp.stack([optimum.precision, *optimum.tau]))
    assert standard_errors_off(found["mean"], np.full(1, optimum.mean)) < 4
    assert standard_errors_off(found["log"], np.asarray(log)) < 4
    assert np.all(np.std(found["log"], axis=0) < 0.1)
