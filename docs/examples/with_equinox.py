"""An Equinox model, trained by a bound of `aevb.losses`.

python docs/examples/with_equinox.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from aevb import data
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.likelihoods import bernoulli
from aevb.losses import Joint, sgvb_b

NUM_PIXELS, NUM_HIDDEN, NUM_LATENTS = 560, 64, 2


class VAE(eqx.Module):
    encoder: eqx.nn.MLP
    decoder: eqx.nn.MLP

    def __init__(self, key):
        one, other = jax.random.split(key)
        self.encoder = eqx.nn.MLP(NUM_PIXELS, 2 * NUM_LATENTS, NUM_HIDDEN, 1, jnp.tanh, key=one)
        self.decoder = eqx.nn.MLP(NUM_LATENTS, NUM_PIXELS, NUM_HIDDEN, 1, jnp.tanh, key=other)

    def bound(self, key, x):
        """Returns eq. (7) for one datapoint x [D] of 0 and 1, in nats."""
        joint = Joint(
            StandardNormal(NUM_LATENTS),
            lambda z: bernoulli.log_prob({"logits": self.decoder(z)}, x),
        )
        posterior = DiagNormal(*jnp.split(self.encoder(x), 2))
        return sgvb_b(key, posterior, diag_normal, joint)


@eqx.filter_value_and_grad
def loss(model, key, x):
    return -jnp.mean(jax.vmap(model.bound)(jax.random.split(key, len(x)), x))


def main(num_steps=300):
    """Trains the model, and returns the losses of the first and the last minibatch."""
    x = jnp.float32(data.load("frey_faces").train > 127)
    model, optimizer = VAE(jax.random.key(0)), optax.adam(1e-3)
    state, losses = optimizer.init(eqx.filter(model, eqx.is_array)), []

    @eqx.filter_jit
    def step(model, state, key, x):
        batch_key, noise_key = jax.random.split(key)
        batch = jax.random.choice(batch_key, x, (100,))
        value, gradient = loss(model, noise_key, batch)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    for key in jax.random.split(jax.random.key(1), num_steps):
        model, state, value = step(model, state, key, x)
        losses.append(float(value))
    return losses[0], losses[-1]


if __name__ == "__main__":
    print("loss, first and last minibatch: {:.1f} and {:.1f} nats".format(*main()))
