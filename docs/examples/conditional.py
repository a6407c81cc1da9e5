"""A conditional VAE, p(x|z, y) with q(z|x, y): the lower half x of a face, given the upper half y.

python docs/examples/conditional.py

y can also be a label, as `jax.nn.one_hot(label, 10)`. log p(x|y) needs no bound of its own: y is a
constant in those of `aevb.losses`, and an input of the encoder and of the decoder.
"""

import jax
import jax.numpy as jnp
import optax

from aevb import data
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.likelihoods import bernoulli
from aevb.losses import Joint, sgvb_b
from aevb.networks import fan_in_init, mlp

NUM_PIXELS, NUM_HIDDEN, NUM_LATENTS = 280, 64, 2  # of half a face

common = {"hidden": (NUM_HIDDEN,), "initialization": fan_in_init(0.0)}
encoder = mlp(2 * NUM_PIXELS, {"mean": NUM_LATENTS, "log_var": NUM_LATENTS}, **common)
decoder = mlp(NUM_LATENTS + NUM_PIXELS, {"logits": NUM_PIXELS}, **common)


def init(key):
    one, other = jax.random.split(key)
    return encoder.init(one), decoder.init(other)


def loss(params, key, x, y):
    """Returns minus eq. (7) given y, in nats per datapoint, for x and y [M, D] of 0 and 1."""

    def bound(key, x, y):
        def log_lik(z):
            return bernoulli.log_prob(decoder.apply(params[1], jnp.concatenate([z, y])), x)

        posterior = DiagNormal(**encoder.apply(params[0], jnp.concatenate([x, y])))
        joint = Joint(StandardNormal(NUM_LATENTS), log_lik)
        return sgvb_b(key, posterior, diag_normal, joint)

    return -jnp.mean(jax.vmap(bound)(jax.random.split(key, len(x)), x, y))


def halves(pixels):
    """Splits [N, 560] of 0..255 into lower halves x [N, 280] of 0 and 1, and upper halves y."""
    binary = jnp.float32(pixels > 127)
    return binary[:, NUM_PIXELS:], binary[:, :NUM_PIXELS]


def main(num_steps=500):
    """Trains the model, and returns four losses.

    The first two are those of the first and the last minibatch. The others are of test faces, given
    their own y and given the y of another face.
    """
    faces = data.load("frey_faces", data.Options(split="random"))
    x, y = halves(faces.train)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, key):
        batch_key, noise_key = jax.random.split(key)
        index = jax.random.randint(batch_key, (100,), 0, len(x))
        value, gradient = jax.value_and_grad(loss)(params, noise_key, x[index], y[index])
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params, losses = jax.jit(init)(jax.random.key(0)), []
    state = jax.jit(optimizer.init)(params)
    for key in jax.random.split(jax.random.key(1), num_steps):
        params, state, value = step(params, state, key)
        losses.append(float(value))

    x, y = halves(faces.test)
    others = jnp.roll(y, len(y) // 2, axis=0)
    score = jax.jit(loss)
    scored = [float(score(params, jax.random.key(2), x, given)) for given in (y, others)]
    return losses[0], losses[-1], *scored


if __name__ == "__main__":
    before, after, own, others = main()
    print(f"loss, first and last minibatch: {before:.1f} and {after:.1f} nats")
    print(f"test faces: {own:.1f} nats given their upper half, {others:.1f} given another's")
