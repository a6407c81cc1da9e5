"""A Haiku model, trained by a bound of `aevb.losses`.

python docs/examples/with_haiku.py
"""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from aevb import data
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.likelihoods import bernoulli
from aevb.losses import Joint, sgvb_b

NUM_PIXELS, NUM_HIDDEN, NUM_LATENTS = 560, 64, 2


def encode(x):
    return hk.nets.MLP([NUM_HIDDEN, 2 * NUM_LATENTS], activation=jnp.tanh, name="encoder")(x)


def decode(z):
    return hk.nets.MLP([NUM_HIDDEN, NUM_PIXELS], activation=jnp.tanh, name="decoder")(z)


encoder = hk.without_apply_rng(hk.transform(encode))
decoder = hk.without_apply_rng(hk.transform(decode))


def loss(params, key, x):
    """Returns minus eq. (7), in nats per datapoint, for a minibatch x [M, D] of 0 and 1."""

    def bound(key, x):  # of one datapoint; vmap adds the minibatch
        joint = Joint(
            StandardNormal(NUM_LATENTS),
            lambda z: bernoulli.log_prob({"logits": decoder.apply(params, z)}, x),
        )
        posterior = DiagNormal(*jnp.split(encoder.apply(params, x), 2))
        return sgvb_b(key, posterior, diag_normal, joint)

    return -jnp.mean(jax.vmap(bound)(jax.random.split(key, len(x)), x))


def main(num_steps=300):
    """Trains the model, and returns the losses of the first and the last minibatch."""
    x = jnp.float32(data.load("frey_faces").train > 127)
    one, other = jax.random.split(jax.random.key(0))
    params = {
        **jax.jit(encoder.init)(one, x[0]),
        **jax.jit(decoder.init)(other, jnp.zeros(NUM_LATENTS)),
    }
    optimizer = optax.adam(1e-3)
    state, losses = jax.jit(optimizer.init)(params), []

    @jax.jit
    def step(params, state, key, x):
        batch_key, noise_key = jax.random.split(key)
        batch = jax.random.choice(batch_key, x, (100,))
        value, gradient = jax.value_and_grad(loss)(params, noise_key, batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    for key in jax.random.split(jax.random.key(1), num_steps):
        params, state, value = step(params, state, key, x)
        losses.append(float(value))
    return losses[0], losses[-1]


if __name__ == "__main__":
    print("loss, first and last minibatch: {:.1f} and {:.1f} nats".format(*main()))
