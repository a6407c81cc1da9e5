"""A model whose datapoints share theta, with everything known."""

import numpy as np

from aevb.marginal import Estimate


class Shift:
    """p(x; theta) = N(x; theta, 1) with theta ~ N(0, var): p(x) = N(x; 0, 1 + var)."""

    def __init__(self, var: float, num_points: int):
        self.std, self.marginal_var = var**0.5, 1.0 + var
        rng = np.random.default_rng(0)
        self.x = rng.normal(scale=self.marginal_var**0.5, size=num_points)

    def log_probs(self, rng: np.random.Generator, num_theta: int, noise: float = 0.0) -> np.ndarray:
        """Returns log p(x_n; theta_s) [S, n], each p times independent noise of mean 1."""
        theta = self.std * rng.normal(size=(num_theta, 1))
        error = noise * rng.normal(size=(num_theta, len(self.x))) - noise**2 / 2.0
        return log_normal(self.x - theta, 1.0) + error

    def exact(self) -> np.ndarray:
        """Returns log p(x_n) [n]."""
        return log_normal(self.x, self.marginal_var)


def log_normal(x: np.ndarray, var: float) -> np.ndarray:
    return -0.5 * (np.log(2.0 * np.pi * var) + x**2 / var)


def parts_of(log_probs: np.ndarray) -> list[Estimate]:
    """Returns log p(x_n; theta_s) [S, n] as an estimate for each theta."""
    return [Estimate(row, np.zeros(len(row)), {}) for row in log_probs]  # pyright: ignore[reportArgumentType]
