"""Trains a VAE written like Flax's own example: a contender of train_speed.py.

The program has a Linen module, a TrainState, one jitted train_step, and a Python loop that passes
one NumPy minibatch after another to it. It differs from the example only where all contenders must
do the same work: the paper's tanh layers, initialization, Adagrad and prior on the parameters, and
a jitted step. The protocol is that of worker.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import raw_data
import worker
from flax import linen as nn
from flax.training.train_state import TrainState
from jax import Array


class VAE(nn.Module):
    """The VAE of appendix C: one hidden layer of tanh units in the encoder and in the decoder."""

    sizes: worker.Sizes
    latent_dim: int

    @nn.compact
    def __call__(self, x: Array, key: Array) -> tuple[Array, Array, list[Array]]:
        """Returns the posterior's mean and log-variance [M, Z], and the decoder's heads [M, D]."""

        def dense(size: int, name: str) -> nn.Dense:
            normal = nn.initializers.normal(0.1)
            return nn.Dense(size, kernel_init=normal, bias_init=normal, name=name)

        h = nn.tanh(dense(self.sizes.num_hidden, "encoder_hidden")(x))
        mean = dense(self.latent_dim, "mean")(h)
        log_var = dense(self.latent_dim, "log_var")(h)
        z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
        h = nn.tanh(dense(self.sizes.num_hidden, "decoder_hidden")(z))
        heads = [
            dense(self.sizes.num_dims, f"head_{number}")(h)
            for number in range(self.sizes.num_heads)
        ]
        return mean, log_var, heads


def log_lik(heads: list[Array], x: Array) -> Array:
    """Returns log p(x|z) in nats, [M].

    One head is the logits of a Bernoulli likelihood. Two heads are a Gaussian: the logits of its
    mean, and its log-variance.
    """
    if len(heads) == 1:
        return -optax.sigmoid_binary_cross_entropy(heads[0], x).sum(-1)
    mean, log_var = nn.sigmoid(heads[0]), heads[1]
    log_scale = jnp.log(2 * jnp.pi) + log_var
    return -0.5 * (log_scale + (x - mean) ** 2 * jnp.exp(-log_var)).sum(-1)


def mean_bound(model: VAE, params: dict, x: Array, key: Array) -> Array:
    """Returns the one-sample bound, eq. (7), averaged over datapoints [M, D], in nats."""
    outputs: Any = model.apply({"params": params}, x, key)
    mean, log_var, heads = outputs
    kl = -0.5 * (1 + log_var - mean**2 - jnp.exp(log_var)).sum(-1)
    return jnp.mean(log_lik(heads, x) - kl)


def main() -> None:
    args = worker.argument_parser(__doc__).parse_args()
    data = raw_data.load(args.data_dir, args.data)
    model = VAE(worker.SIZES[args.data], args.latent_dim)
    key, init_key, test_key = jax.random.split(jax.random.key(args.seed), 3)
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(init_key, data.train[:1], init_key)["params"],
        tx=optax.chain(
            optax.add_decayed_weights(1 / len(data.train)),  # the N(0, I) prior
            optax.adagrad(args.step_size, initial_accumulator_value=0.0, eps=0.0),
        ),
    )
    order = np.random.default_rng(args.seed)

    @jax.jit
    def train_step(state: TrainState, x: Array, key: Array) -> TrainState:
        step_key = jax.random.fold_in(key, state.step)
        gradient = jax.grad(lambda params: -mean_bound(model, params, x, step_key))(state.params)
        return state.apply_gradients(grads=gradient)

    def train_epoch() -> int:
        nonlocal state
        steps = len(data.train) // args.batch_size
        permutation = order.permutation(len(data.train))[: steps * args.batch_size]
        for indices in permutation.reshape(steps, args.batch_size):
            state = train_step(state, data.train[indices], key)
        jax.block_until_ready(state)
        return steps * args.batch_size

    evaluate = jax.jit(lambda params, x: mean_bound(model, params, x, test_key))
    worker.serve_training(
        ("flax", "jax", "optax"),
        train_epoch,
        lambda: float(evaluate(state.params, data.test)),
        device=jax.devices()[0].device_kind,
    )


if __name__ == "__main__":
    main()
