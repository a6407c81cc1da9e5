"""Samples of a linear-Gaussian model whose log p(x) and posterior are known exactly.

The model is probabilistic PCA (Tipping & Bishop 1999): x = W z + b + noise, with z ~ N(0, I) and
noise ~ N(0, noise_var I). It is a VAE with a linear decoder, so bounds and estimators can be
checked on it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aevb.data import Dataset, Options, preprocessing
from aevb.errors import UserError
from aevb.types import Key


class LinearGaussian(NamedTuple):
    """The model p(x, z) = N(z; 0, I) N(x; W z + b, noise_var I)."""

    weights: Array  # W, [D, Z]
    bias: Array  # b, [D]
    noise_var: Array  # []

    def sample(self, key: Key) -> Array:
        """Draws one x [D], by first drawing z."""
        num_dims, num_latents = self.weights.shape
        normal = jax.random.normal(key, (num_latents + num_dims,), self.weights.dtype)
        z, noise = normal[:num_latents], normal[num_latents:]
        return self.weights @ z + self.bias + jnp.sqrt(self.noise_var) * noise

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Returns the mean [Z] and covariance [Z, Z] of p(z | x), which is Gaussian, at x [D].

        With M = W'W + noise_var I they are M^-1 W'(x - b) and noise_var M^-1 (Bishop, Pattern
        Recognition and Machine Learning, 2006, eq. 12.42).
        """
        num_latents = self.weights.shape[1]
        identity = jnp.eye(num_latents, dtype=self.weights.dtype)
        factor = jax.scipy.linalg.cho_factor(
            self.weights.T @ self.weights + self.noise_var * identity
        )
        mean = jax.scipy.linalg.cho_solve(factor, self.weights.T @ (x - self.bias))
        return mean, self.noise_var * jax.scipy.linalg.cho_solve(factor, identity)

    def log_prob(self, x: Array) -> Array:
        """Returns the exact log p(x) [], in nats, at x [D].

        Bayes' rule holds at every z: log p(x) = log p(x | z) + log p(z) - log p(z | x). At the
        posterior mean the quadratic terms are sums of squares, so there is no cancellation.
        """
        num_dims, num_latents = self.weights.shape
        mean, cov = self.posterior(x)
        residual = x - self.bias - self.weights @ mean
        log_lik = -0.5 * (
            residual @ residual / self.noise_var + num_dims * jnp.log(2.0 * jnp.pi * self.noise_var)
        )
        log_prior = -0.5 * (mean @ mean + num_latents * jnp.log(2.0 * jnp.pi))
        log_posterior = -0.5 * jnp.linalg.slogdet(2.0 * jnp.pi * cov)[1]
        return log_lik + log_prior - log_posterior


def make_model(options: Options) -> LinearGaussian:
    """Returns the model of the samples that `load` returns.

    W and b are drawn from a standard normal distribution with the options' seed.

    Raises:
        UserError: a number of dimensions is below 1, or the noise is not above 0.
    """
    for field in ("num_train", "num_test", "num_dims", "num_latents"):
        if (value := getattr(options, f"synthetic_{field}")) < 1:
            raise UserError(f"data.synthetic_{field} is {value}; it must be at least 1")
    if not 0 < options.synthetic_noise_std < float("inf"):
        raise UserError(
            f"data.synthetic_noise_std is {options.synthetic_noise_std}; it must be above 0"
        )
    num_dims, num_latents = options.synthetic_num_dims, options.synthetic_num_latents
    normal = jax.random.normal(_keys(options)[0], (num_dims, num_latents + 1), jnp.float32)
    return LinearGaussian(
        weights=normal[:, :-1],
        bias=normal[:, -1],
        noise_var=jnp.float32(options.synthetic_noise_std**2),
    )


def load(options: Options) -> Dataset:
    """Returns independent samples of `make_model(options)`, float32.

    They are determined by the seed. By default there are as many validation as test data. The test
    data do not depend on the number of training data, nor the training data on the number of
    validation data.

    Raises:
        UserError: as for `make_model`.
    """
    model = make_model(options)
    num_test = options.synthetic_num_test
    num_valid = num_test if options.num_valid < 0 else options.num_valid
    ends = np.cumsum([num_test, options.synthetic_num_train, num_valid])
    x = np.asarray(_samples(_keys(options)[1], model, np.arange(ends[-1], dtype=np.uint32)))
    test, train, valid = np.split(x, ends[:-1])
    return Dataset(
        name="synthetic",
        train=train,
        valid=valid,
        test=test,
        kind="real",
        preprocess=preprocessing.unchanged,
        image_shape=None,
        levels=None,
    )


@jax.jit
def _samples(key: Key, model: LinearGaussian, index: Array) -> Array:
    """Returns sample number i for each i in `index` [N]; the result is [N, D]."""
    return jax.vmap(lambda i: model.sample(jax.random.fold_in(key, i)))(index)


def _keys(options: Options) -> Array:
    """Returns a key for the model and one for the samples, [2]."""
    return jax.random.split(jax.random.key(options.synthetic_seed))
