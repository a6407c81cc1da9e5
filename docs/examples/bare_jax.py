"""A custom VAE in bare JAX, trained by a bound of `aevb.losses`.

python docs/examples/bare_jax.py
"""

import jax
import jax.numpy as jnp

from aevb import data
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.likelihoods import bernoulli
from aevb.losses import Joint, sgvb_b

NUM_PIXELS, NUM_HIDDEN, NUM_LATENTS = 560, 64, 2


def init(key):
    sizes = {
        "hidden": (NUM_PIXELS, NUM_HIDDEN), "heads": (NUM_HIDDEN, 2 * NUM_LATENTS),
        "back": (NUM_LATENTS, NUM_HIDDEN), "pixels": (NUM_HIDDEN, NUM_PIXELS),
    }  # fmt: skip
    keys = dict(zip(sizes, jax.random.split(key, len(sizes)), strict=True))
    return {
        name: (jax.random.normal(keys[name], size) / size[0] ** 0.5, jnp.zeros(size[1]))
        for name, size in sizes.items()
    }


def dense(layer, x):
    weights, bias = layer
    return x @ weights + bias


def loss(params, key, x):
    """Returns minus eq. (7), in nats per datapoint, for a minibatch x [M, D] of 0 and 1."""

    def bound(key, x):  # of one datapoint; vmap adds the minibatch
        mean, log_var = jnp.split(dense(params["heads"], jnp.tanh(dense(params["hidden"], x))), 2)

        def log_lik(z):
            logits = dense(params["pixels"], jnp.tanh(dense(params["back"], z)))
            return bernoulli.log_prob({"logits": logits}, x)

        joint = Joint(StandardNormal(NUM_LATENTS), log_lik)
        return sgvb_b(key, DiagNormal(mean, log_var), diag_normal, joint)

    return -jnp.mean(jax.vmap(bound)(jax.random.split(key, len(x)), x))


@jax.jit
def step(params, key, x):
    """Takes a gradient step on a random minibatch of x [N, D]."""
    batch_key, noise_key = jax.random.split(key)
    batch = jax.random.choice(batch_key, x, (100,))
    value, gradient = jax.value_and_grad(loss)(params, noise_key, batch)
    return jax.tree.map(lambda p, g: p - 0.005 * g, params, gradient), value


def main(num_steps=300):
    """Trains the model, and returns the losses of the first and the last minibatch."""
    x = jnp.float32(data.load("frey_faces").train > 127)
    params, losses = jax.jit(init)(jax.random.key(0)), []
    for key in jax.random.split(jax.random.key(1), num_steps):
        params, value = step(params, key, x)
        losses.append(float(value))
    return losses[0], losses[-1]


if __name__ == "__main__":
    print("loss, first and last minibatch: {:.1f} and {:.1f} nats".format(*main()))
