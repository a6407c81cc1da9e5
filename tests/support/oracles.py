"""Exact quantities in float64 without JAX, to which the package's float32 is compared."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LOG_2PI = math.log(2.0 * math.pi)


class LinearGaussian(NamedTuple):
    """p(x, z) = N(z; 0, I) N(x; W z + b, diag(noise_var)), with all quantities in closed form."""

    weights: Array  # W, [D, Z]
    bias: Array  # b, [D]
    noise_var: Array  # [D]

    def marginal(self) -> tuple[Array, Array]:
        """Returns the mean [D] and covariance [D, D] of p(x)."""
        return self.bias, self.weights @ self.weights.T + np.diag(self.noise_var)

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Returns the mean [Z] and covariance [Z, Z] of p(z|x)."""
        precise_weights = self.weights / self.noise_var[:, None]
        precision = np.eye(self.weights.shape[1]) + self.weights.T @ precise_weights
        cov: Array = np.linalg.inv(precision).astype(np.float64)
        return cov @ precise_weights.T @ (x - self.bias), cov

    def log_prob(self, x: Array) -> Array:
        """Returns log p(x), [] or [N], nats, for x [D] or [N, D]."""
        mean, cov = self.marginal()
        return scipy.stats.multivariate_normal.logpdf(x, mean, cov)  # pyright: ignore[reportArgumentType]

    def elbo(self, x: Array, mean: Array, log_var: Array) -> float:
        """Returns E_q[log p(x|z)] - KL(q || p(z)) at one x [D], nats.

        Here q = N(mean, diag(exp(log_var))).
        """
        residual = x - self.bias - self.weights @ mean
        spread = np.square(self.weights) @ np.exp(log_var)  # variance of W z under q
        expected_log_lik = -0.5 * np.sum(
            LOG_2PI + np.log(self.noise_var) + (residual**2 + spread) / self.noise_var
        )
        return float(expected_log_lik) - kl_to_standard_normal(mean, log_var)

    def posterior_log_q(self, x: Array, mean: Array, log_var: Array) -> float:
        """Returns E[log N(z; mean, diag(exp(log_var)))] over z ~ p(z|x) at one x [D], nats."""
        posterior_mean, cov = self.posterior(x)
        return expected_log_normal(posterior_mean - mean, cov, log_var)

    def dreamt_log_q(self, kernel: Array, bias: Array, log_var: Array) -> float:
        """Returns E[log N(z; x' kernel + bias, diag(exp(log_var)))] over x, z ~ p(x, z), nats."""
        # z - x' kernel - bias = (I - kernel' W) z - kernel' noise - (kernel' b + bias)
        of_z = np.eye(len(bias)) - kernel.T @ self.weights
        cov = of_z @ of_z.T + (kernel.T * self.noise_var) @ kernel
        return expected_log_normal(-(kernel.T @ self.bias + bias), cov, log_var)


def linear_gaussian(seed: int, num_dims: int, num_latents: int) -> LinearGaussian:
    """Returns a model with normal weights and noise of unequal sizes."""
    rng = np.random.default_rng(seed)
    return LinearGaussian(
        weights=rng.normal(size=(num_dims, num_latents)),
        bias=rng.normal(size=num_dims),
        noise_var=rng.uniform(0.3, 1.5, size=num_dims),
    )


def orthogonal_linear_gaussian(seed: int, num_dims: int, num_latents: int) -> LinearGaussian:
    """Returns a model whose posterior covariance is diagonal, so a diagonal guide can be exact."""
    model = linear_gaussian(seed, num_dims, num_latents)
    weights = np.linalg.qr(model.weights).Q * np.arange(1.0, num_latents + 1.0)
    return model._replace(weights=weights, noise_var=np.full(num_dims, 0.5))


def pca_log_lik(x: Array, num_latents: int) -> float:
    """Returns the greatest mean log p(x) [], nats, of probabilistic PCA on x [N, D].

    Tipping & Bishop (1999): with the eigenvalues of the sample covariance in falling order, the
    first Z are fitted and the noise variance is the mean of the others. The trace term is then D.
    """
    num_dims = x.shape[1]
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    noise_var = np.mean(eigenvalues[num_latents:])
    log_det = np.sum(np.log(eigenvalues[:num_latents])) + (num_dims - num_latents) * np.log(
        noise_var
    )
    return float(-0.5 * (num_dims * LOG_2PI + log_det + num_dims))


def pca_em(
    x: Array,
    num_latents: int,
    *,
    guide_cov: Callable[[Array], Array] = lambda cov: cov,
    num_steps: int = 2000,
) -> LinearGaussian:
    """Runs EM for probabilistic PCA on x [N, D]; Tipping & Bishop (1999), section 3.3.

    Args:
        guide_cov: maps the posterior's covariance [Z, Z] to that of a guide whose mean is the
            posterior's. The result is then that of variational EM with this guide in the E step.
    """
    num_data, num_dims = x.shape
    bias = np.mean(x, axis=0)
    weights, noise_var = np.random.default_rng(0).normal(size=(num_dims, num_latents)), 1.0
    for _ in range(num_steps):
        _, cov = LinearGaussian(weights, bias, np.full(num_dims, noise_var)).posterior(bias)
        z, cov = (x - bias) @ weights @ cov / noise_var, guide_cov(cov)
        second_moment = z.T @ z + num_data * cov
        weights = np.linalg.solve(second_moment, z.T @ (x - bias)).T
        residual_sq = np.sum(np.square(x - bias - z @ weights.T))
        spread = num_data * np.trace(weights @ cov @ weights.T)
        noise_var = float(residual_sq + spread) / x.size
    return LinearGaussian(weights, bias, np.full(num_dims, noise_var))


def expected_log_normal(shift: Array, cov: Array, log_var: Array) -> float:
    """Returns E[log N(y; 0, diag(exp(log_var)))], nats.

    The variable y [Z] has mean `shift` and covariance `cov`.
    """
    squares = np.square(shift) + np.diag(cov)
    return float(-0.5 * np.sum(LOG_2PI + log_var + squares * np.exp(-log_var)))


def kl_to_standard_normal(mean: Array, log_var: Array) -> float:
    """Returns KL(N(mean, diag(exp(log_var))) || N(0, I)), nats."""
    return kl_gaussians(mean, np.diag(np.exp(log_var)), np.zeros_like(mean), np.eye(len(mean)))


def kl_gaussians(mean0: Array, cov0: Array, mean1: Array, cov1: Array) -> float:
    """Returns KL(N(mean0, cov0) || N(mean1, cov1)), nats, for means [Z] and covariances [Z, Z]."""
    shift = mean1 - mean0
    mahalanobis = shift @ np.linalg.solve(cov1, shift)
    trace = np.trace(np.linalg.solve(cov1, cov0))
    log_dets = np.linalg.slogdet(cov1)[1] - np.linalg.slogdet(cov0)[1]
    return float(0.5 * (trace + mahalanobis - len(mean0) + log_dets))


def integrate(function: Callable[[Array], ArrayLike], low: float, high: float) -> float:
    """Integrates a function of points [n] over [low, high], by the trapezoid rule.

    If the function decays at the ends, the error vanishes faster than any power of the spacing.
    """
    points = np.linspace(low, high, 20_001)
    return float(np.trapezoid(np.asarray(function(points), np.float64), points))


def finite_difference(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """Returns the gradient of a scalar float64 function, by central differences."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        gradient[index] = (function(at + shift) - function(at - shift)) / (2.0 * step)
    return gradient


def standard_errors_off(draws: ArrayLike, exact: ArrayLike) -> float:
    """Returns the error of the mean of draws [n, ...], in standard errors, for the worst entry."""
    draws = np.asarray(draws, np.float64)
    standard_error = np.std(draws, axis=0, ddof=1) / math.sqrt(len(draws))
    return float(np.max(np.abs(np.mean(draws, axis=0) - exact) / standard_error))


def variance_standard_error(draws: Array) -> float:
    """Returns the standard error of the sample variance of draws [n], from their fourth moment."""
    squares = np.square(draws - np.mean(draws))
    return float(np.std(squares) / math.sqrt(len(draws)))


def quadrature_log_prob(
    log_joint: Callable[[Array], Array], num_latents: int, *, limit: float = 8.0, points: int = 1201
) -> float:
    """Integrates exp(log_joint(z)) over z and returns the log, log p(x), nats, for Z = 1 or 2.

    The trapezoid rule is applied on [-limit, limit]^Z, outside which the prior's mass is
    negligible. Its error vanishes faster than any power of the spacing. The sum is of logs, so it
    can neither overflow nor underflow.

    Args:
        log_joint: log p(x, z) of points [n, Z], as [n].
    """
    axis = np.linspace(-limit, limit, points)
    grid = np.stack(np.meshgrid(*[axis] * num_latents), axis=-1).reshape(-1, num_latents)
    log_cell = num_latents * np.log(axis[1] - axis[0])
    return float(scipy.special.logsumexp(log_joint(grid)) + log_cell)
