"""A custom likelihood: Laplace pixels, which are more robust to outliers than Gaussian ones.

python docs/examples/own_likelihood.py

`aevb.losses` takes log p(x|z) as any function, and `aevb.vae.make` takes any `Likelihood`. This
file is also that of an experiment, which adds the likelihood by `get_entries`:

python experiments/run.py --config=docs/examples/own_likelihood.py
"""

import jax
import jax.numpy as jnp
import optax

from aevb import data, networks, vae
from aevb.config import default_config
from aevb.likelihoods import Likelihood
from aevb.losses import sgvb_b

NUM_HIDDEN, NUM_LATENTS = 64, 2


def log_probs(heads, x):
    """Returns log Laplace(x_d; location_d, exp(log_scale_d)) of each dimension, [D], nats."""
    distance = jnp.abs(x - heads["location"]) * jnp.exp(-heads["log_scale"])
    return -(jnp.log(2.0) + heads["log_scale"] + distance)


def sample(key, heads):
    noise = jax.random.laplace(key, heads["location"].shape)
    return heads["location"] + jnp.exp(heads["log_scale"]) * noise


laplace = Likelihood(
    heads={"location": 1, "log_scale": 1},  # one number per pixel each
    kinds=("grey", "real"),
    log_probs=log_probs,
    mean=lambda heads: heads["location"],
    sample=sample,
)


def get_entries():
    return {"likelihood": {"laplace": lambda num_dims: laplace}}


def get_config():
    config = default_config()
    config.model.likelihood = "laplace"
    return config


def integral(log_scale):
    """Returns the integral of exp(log_prob) by the trapezoidal rule; it is 1 for a density."""
    heads = {"location": jnp.array([0.3]), "log_scale": jnp.array([log_scale])}
    x = 0.3 + jnp.exp(log_scale) * jnp.linspace(-20.0, 20.0, 4001)
    return jnp.trapezoid(jnp.exp(jax.vmap(lambda x: laplace.log_prob(heads, x[None]))(x)), x)


def main(num_steps=300):
    """Trains the model, and returns the losses of the first and the last minibatch."""
    faces = data.load("frey_faces")
    x = jnp.float32(faces.train) / 256
    num_pixels = x.shape[1]
    common = {"hidden": (NUM_HIDDEN,), "initialization": networks.normal_init(0.1)}
    model = vae.make(
        networks.mlp(num_pixels, {"mean": NUM_LATENTS, "log_var": NUM_LATENTS}, **common),
        networks.mlp(NUM_LATENTS, {"location": num_pixels, "log_scale": num_pixels}, **common),
        laplace,
        num_latents=NUM_LATENTS,
    )
    optimizer = optax.adam(1e-3)

    def loss(params, key, x):
        def bound(key, x):
            return sgvb_b(key, model.encode(params, x), model.guide, model.joint(params, x))

        return -jnp.mean(jax.vmap(bound)(jax.random.split(key, len(x)), x))

    @jax.jit
    def step(params, state, key):
        batch_key, noise_key = jax.random.split(key)
        batch = jax.random.choice(batch_key, x, (100,))
        value, gradient = jax.value_and_grad(loss)(params, noise_key, batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params, losses = jax.jit(model.init)(jax.random.key(0)), []
    state = jax.jit(optimizer.init)(params)
    for key in jax.random.split(jax.random.key(1), num_steps):
        params, state, value = step(params, state, key)
        losses.append(float(value))
    return losses[0], losses[-1]


if __name__ == "__main__":
    print(f"integrals: {integral(-3.0):.4f}, {integral(0.0):.4f} and {integral(2.0):.4f}")
    print("loss, first and last minibatch: {:.1f} and {:.1f} nats".format(*main()))
