"""An experiment that brings a dataset, a likelihood, a bound, an estimator and an algorithm."""

import jax
import jax.numpy as jnp
import numpy as np

from aevb.algorithms import gradient_ascent
from aevb.algorithms.base import AlgorithmEntry
from aevb.config import default_config
from aevb.data import Dataset, DatasetEntry
from aevb.distributions import DiagNormal
from aevb.likelihoods import Likelihood
from aevb.losses import iwae
from aevb.marginal import Estimate, Estimator, importance_sampling


def waves(options, *, amplitude=1.0):
    """Returns sine waves of random phase, [N, 5]."""
    phases = np.random.default_rng(0).uniform(0.0, 2.0 * np.pi, size=(60, 1))
    x = (amplitude * np.sin(phases + np.arange(5))).astype(np.float32)
    return Dataset("waves", x[:40], x[40:], "real", lambda key, x: x, None, None)


def heavy_tailed(num_dims, *, df=4.0):
    """Returns Student-t noise of `df` degrees of freedom, with a learned scale a dimension."""

    def log_probs(heads, x):
        scaled = (x - heads["location"]) * jnp.exp(-heads["log_scale"])
        return jax.scipy.stats.t.logpdf(scaled, df) - heads["log_scale"]

    def sample(key, heads):
        noise = jax.random.t(key, df, heads["location"].shape)
        return heads["location"] + jnp.exp(heads["log_scale"]) * noise

    return Likelihood(
        heads={"location": 1},
        kinds=("real",),
        log_probs=log_probs,
        mean=lambda heads: heads["location"],
        sample=sample,
        shared={"log_scale": (num_dims,)},
    )


def tempered(key, stats, guide, joint, *, num_samples, power=1.0):
    """Returns the bound of Burda et al. of a likelihood that is raised to a power."""
    scaled = joint._replace(log_lik=lambda z: power * joint.log_lik(z))
    return iwae(key, stats, guide, scaled, num_samples=num_samples)


def doubled(key, stats, guide, joint, *, num_samples):
    """Returns the mean of two estimates by importance sampling."""
    first, second = (
        importance_sampling(k, stats, guide, joint, num_samples=num_samples)
        for k in jax.random.split(key)
    )
    error = jnp.hypot(first.standard_error, second.standard_error) / 2.0
    return Estimate((first.value + second.value) / 2.0, error, {})


def prior_samples(vae, optimizer, *, bound, num_samples=1, scale=1.0):
    """Returns ascent of `scale` times a bound whose guide is N(0, I)."""

    def objective(params, key, batch):
        def one(key, x):
            zeros = jnp.zeros(vae.num_latents)
            joint = vae.joint(params, x)
            return bound(key, DiagNormal(zeros, zeros), vae.guide, joint, num_samples=num_samples)

        value = jnp.mean(jax.vmap(one)(jax.random.split(key, len(batch.x)), batch.x))
        return scale * value, {"objective": value}

    return gradient_ascent.algorithm(objective, vae.init, optimizer)


def get_entries():
    return {
        "dataset": {"waves": DatasetEntry(waves)},
        "likelihood": {"heavy_tailed": heavy_tailed},
        "bound": {"tempered": tempered},
        "estimator": {"doubled": Estimator(doubled, "lower")},
        "algorithm": {"prior_samples": AlgorithmEntry(prior_samples, has_encoder=False)},
    }


def get_config():
    config = default_config()
    config.data.name = "waves"
    config.data.options.amplitude = 2.0
    config.model.hidden = (4,)
    config.model.likelihood = "heavy_tailed"
    config.model.likelihood_options.df = 3.0
    config.algorithm.name = "prior_samples"
    config.algorithm.options.scale = 0.5
    config.algorithm.bound = "tempered"
    config.algorithm.bound_options.power = 0.9
    config.algorithm.num_samples = 3
    config.train.num_examples = 400
    config.train.batch_size = 20
    config.train.first_eval = 100
    config.train.evals_per_decade = 2
    return config


def get_sweep():
    return {"model.likelihood_options.df": (3.0, 30.0)}
