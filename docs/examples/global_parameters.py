"""Factor analysis with a distribution over its weights, with an encoder and without one.

python docs/examples/global_parameters.py

    p(W) prod_n p(z_n) p(x_n | W, z_n)        q(W) prod_n q(z_n)

All datapoints share W: they are a plate, and W is a global parameter, as theta in appendix F of the
paper. q(z_n) is made of x_n by a linear encoder (amortized), or has statistics of its own for each
n. Coordinate ascent gives the best bound of any such q. Both reach it, because the posterior of
each z_n has a mean that is linear in x_n, and the same covariance.
"""

import jax
import jax.numpy as jnp
import optax

from aevb import factors
from aevb.classical import coordinate_ascent, linear_gaussian_em
from aevb.distributions import DiagNormal, FullNormal, StandardNormal
from aevb.guides import full_normal
from aevb.losses import Joint, sgvb_b

NUM_DATA, NUM_DIMS, NUM_LATENTS, NOISE_VAR = 200, 6, 2, 0.25
BATCH_SIZE = 50


def simulate(key):
    weight_key, latent_key, noise_key = jax.random.split(key, 3)
    weights = jax.random.normal(weight_key, (NUM_DIMS, NUM_LATENTS))
    latents = jax.random.normal(latent_key, (NUM_DATA, NUM_LATENTS))
    noise = jax.random.normal(noise_key, (NUM_DATA, NUM_DIMS))
    return latents @ weights.T + NOISE_VAR**0.5 * noise


def normal_at_0(key, size):
    """Returns the statistics of N(mean, 0.1^2 I), with a small random mean [size]."""
    return FullNormal(
        0.1 * jax.random.normal(key, (size,)),
        jnp.full(size, jnp.log(0.1)),
        jnp.zeros(size * (size - 1) // 2),
    )


def init(key):
    """Returns the parameters of q(W), with an encoder, and with own statistics of each q(z_n)."""
    keys = jax.random.split(key, NUM_DATA + 2)
    of_weights = normal_at_0(keys[0], NUM_DIMS * NUM_LATENTS)
    own = jax.vmap(lambda key: normal_at_0(key, NUM_LATENTS))(keys[2:])
    encoder = {
        "kernel": 0.1 * jax.random.normal(keys[1], (NUM_LATENTS, NUM_DIMS)),
        "shared": normal_at_0(keys[1], NUM_LATENTS),
    }
    return {"amortized": (of_weights, encoder), "own statistics": (of_weights, own)}


def stats_of(q_of_z, x, number):
    """Returns the statistics of q(z_n) of datapoint `number`."""
    if isinstance(q_of_z, dict):
        shared = q_of_z["shared"]
        return shared._replace(mean=q_of_z["kernel"] @ x + shared.mean)
    return jax.tree.map(lambda leaf: leaf[number], q_of_z)


def bound(params, key, x, numbers):
    """Estimates the bound on log p(x_1, ..., x_N) [], in nats, from a minibatch x [M, D]."""
    of_weights, q_of_z = params
    local_key, key = jax.random.split(key)

    def local(key, flat, datapoint):
        x, number = datapoint
        weights = flat.reshape(NUM_DIMS, NUM_LATENTS)
        log_var = jnp.full(NUM_DIMS, jnp.log(NOISE_VAR))
        joint = Joint(
            StandardNormal(NUM_LATENTS), lambda z: DiagNormal(weights @ z, log_var).log_prob(x)
        )
        return sgvb_b(key, stats_of(q_of_z, x, number), full_normal, joint)

    log_lik = factors.plate(local_key, local, (x, numbers), num_data=NUM_DATA)
    joint = Joint(StandardNormal(NUM_DIMS * NUM_LATENTS), log_lik)
    return sgvb_b(key, of_weights, full_normal, joint)


def fit(params, x, num_steps):
    """Returns the bound before and after training, in nats per datapoint."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, num_steps))

    def step(carry, key):
        params, state = carry
        row_key, key = jax.random.split(key)
        rows = jax.random.choice(row_key, NUM_DATA, (BATCH_SIZE,), replace=False)
        gradient = jax.grad(lambda params: -bound(params, key, x[rows], rows))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(params):
        keys = jax.random.split(jax.random.key(1), num_steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    @jax.jit
    def score(params):
        keys = jax.random.split(jax.random.key(2), 500)
        values = jax.vmap(lambda key: bound(params, key, x, jnp.arange(NUM_DATA)))(keys)
        return jnp.mean(values) / NUM_DATA

    return float(score(params)), float(score(train(params)))


def best_bound(x):
    """Returns the bound at the end of coordinate ascent, in nats per datapoint."""
    problem = linear_gaussian_em.variational_bayes(
        x,
        NUM_LATENTS,
        bias=jnp.zeros(NUM_DIMS),
        noise_var=jnp.float32(NOISE_VAR),
        weight_precision=jnp.float32(1.0),
    )
    first = problem.init(jax.random.key(0))
    _, bounds = coordinate_ascent.ascend(problem, first, num_sweeps=500)
    return float(bounds[-1, -1]) / NUM_DATA


def main(num_steps=3000):
    x = simulate(jax.random.key(0))
    starts = init(jax.random.key(3))
    found = {name: fit(params, x, num_steps) for name, params in starts.items()}
    return found, best_bound(x)


if __name__ == "__main__":
    found, best = main()
    for name, (before, after) in found.items():
        print(f"bound, {name}: {before:.2f} and, trained, {after:.3f} nats per datapoint")
    print(f"the best bound, by coordinate ascent: {best:.3f}")
