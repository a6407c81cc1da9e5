"""A Flax NNX model, trained by a bound of `aevb.losses`.

python docs/examples/with_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from aevb import data
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.likelihoods import bernoulli
from aevb.losses import Joint, sgvb_b

NUM_PIXELS, NUM_HIDDEN, NUM_LATENTS = 560, 64, 2


class VAE(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(NUM_PIXELS, NUM_HIDDEN, rngs=rngs)
        self.heads = nnx.Linear(NUM_HIDDEN, 2 * NUM_LATENTS, rngs=rngs)
        self.back = nnx.Linear(NUM_LATENTS, NUM_HIDDEN, rngs=rngs)
        self.pixels = nnx.Linear(NUM_HIDDEN, NUM_PIXELS, rngs=rngs)

    def decode(self, z):
        return self.pixels(jnp.tanh(self.back(z)))

    def bound(self, key, x):
        """Returns eq. (7) for one datapoint x [D] of 0 and 1, in nats."""
        joint = Joint(
            StandardNormal(NUM_LATENTS),
            lambda z: bernoulli.log_prob({"logits": self.decode(z)}, x),
        )
        posterior = DiagNormal(*jnp.split(self.heads(jnp.tanh(self.hidden(x))), 2))
        return sgvb_b(key, posterior, diag_normal, joint)


def loss(model, key, x):
    return -jnp.mean(jax.vmap(model.bound)(jax.random.split(key, len(x)), x))


@nnx.jit
def step(model, optimizer, key, x):
    batch_key, noise_key = jax.random.split(key)
    batch = jax.random.choice(batch_key, x, (100,))
    value, gradient = nnx.value_and_grad(loss)(model, noise_key, batch)
    optimizer.update(model, gradient)
    return value


def main(num_steps=300):
    """Trains the model, and returns the losses of the first and the last minibatch."""
    x = jnp.float32(data.load("frey_faces").train > 127)
    model, losses = VAE(nnx.Rngs(0)), []
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    for key in jax.random.split(jax.random.key(1), num_steps):
        losses.append(float(step(model, optimizer, key, x)))
    return losses[0], losses[-1]


if __name__ == "__main__":
    print("loss, first and last minibatch: {:.1f} and {:.1f} nats".format(*main()))
