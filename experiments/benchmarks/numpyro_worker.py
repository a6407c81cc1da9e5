"""Trains a VAE by NumPyro's SVI, one epoch at a time on request: a contender of train_speed.py.

This is the fastest way that NumPyro offers: the data are on the device, and an epoch is one jitted
loop of `svi.update`. TraceMeanField_ELBO has the KL in closed form. NumPyro's own Adagrad has no
weight decay, so optax's is used, which NumPyro accepts. The protocol is that of worker.py.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
import raw_data
import worker
from jax import Array
from numpyro.infer import SVI, TraceMeanField_ELBO
from numpyro.infer.svi import SVIState


def dense(name: str, num_in: int, num_out: int):
    """Returns a linear layer whose weights and biases start from N(0, 0.1²)."""
    kernel, bias = (
        numpyro.param(f"{name}_{kind}", lambda key, s=shape: 0.1 * jax.random.normal(key, s))
        for kind, shape in (("kernel", (num_in, num_out)), ("bias", (num_out,)))
    )
    return lambda h: h @ kernel + bias


def main() -> None:
    args = worker.argument_parser(__doc__).parse_args()
    data = raw_data.load(args.data_dir, args.data)
    train, test = jnp.asarray(data.train), jnp.asarray(data.test)
    D, H, num_heads, N = worker.SIZES[args.data]
    M, Z = args.batch_size, args.latent_dim

    def guide(x: Array) -> None:
        h = jnp.tanh(dense("encoder_hidden", D, H)(x))
        mean, log_var = dense("mean", H, Z)(h), dense("log_var", H, Z)(h)
        with numpyro.plate("minibatch", len(x)):
            numpyro.sample("z", dist.Normal(mean, jnp.exp(0.5 * log_var)).to_event(1))

    def model(x: Array) -> None:
        with numpyro.plate("minibatch", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(Z), jnp.ones(Z)).to_event(1))
            h = jnp.tanh(dense("decoder_hidden", Z, H)(z))
            heads = [dense(f"head_{number}", H, D)(h) for number in range(num_heads)]
            if num_heads == 1:
                likelihood = dist.Bernoulli(logits=heads[0])
            else:
                likelihood = dist.Normal(jax.nn.sigmoid(heads[0]), jnp.exp(0.5 * heads[1]))
            numpyro.sample("x", likelihood.to_event(1), obs=x)

    # SVI's loss is a sum over the minibatch, so the gradient of the prior on the parameters is
    # multiplied by M/N. The scale of the whole gradient does not affect Adagrad.
    optimizer = optax.chain(
        optax.add_decayed_weights(M / N),
        optax.adagrad(args.step_size, initial_accumulator_value=0.0, eps=0.0),
    )
    svi = SVI(model, guide, optimizer, TraceMeanField_ELBO())
    init_key, order_key = jax.random.split(jax.random.key(args.seed))
    steps = N // M

    @jax.jit
    def epoch(state: SVIState, key: Array) -> SVIState:
        order = jax.random.permutation(key, N)[: steps * M].reshape(steps, M)
        return jax.lax.fori_loop(
            0, steps, lambda step, state: svi.update(state, train[order[step]])[0], state
        )

    state, epochs = svi.init(init_key, train[:M]), 0
    evaluate = jax.jit(svi.evaluate)

    def train_epoch() -> int:
        nonlocal state, epochs
        state = jax.block_until_ready(epoch(state, jax.random.fold_in(order_key, epochs)))
        epochs += 1
        return steps * M

    worker.serve_training(
        ("numpyro", "jax", "optax"),
        train_epoch,
        lambda: -float(evaluate(state, test)) / len(test),
        device=jax.devices()[0].device_kind,
    )


if __name__ == "__main__":
    main()
