"""Trains or evaluates one kind of model by a plain Flax program: a contender of kinds_speed.py.

As flax_worker.py, the program has a Linen module, a TrainState and one jitted train_step, which a
Python loop calls with one NumPy minibatch after another. All functions take minibatches [M, D]. The
protocol is that of worker.py; an "epoch" is the work of a round.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import kinds
import numpy as np
import optax
import raw_data
from flax import linen as nn
from flax.training.train_state import TrainState
from flax_worker import log_lik
from jax import Array

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adamw": lambda rate: optax.adamw(rate, weight_decay=kinds.DECOUPLED_DECAY),
    "rmsprop": lambda rate: optax.rmsprop(rate, kinds.RMSPROP_DECAY, eps_in_sqrt=False),
}


class RandomDense(nn.Module):
    """A linear layer with Gaussian weights, by the local reparameterization.

    Without the random numbers "weights" its weights are their means.
    """

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        first = nn.initializers.constant(2 * math.log(kinds.FIRST_STD))
        shape = (x.shape[-1], self.size)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        kernel_log_var = self.param("kernel_log_var", first, shape)
        bias_log_var = self.param("bias_log_var", first, shape[1:])
        mean = x @ kernel + bias
        if not self.has_rng("weights"):
            return mean
        var = x**2 @ jnp.exp(kernel_log_var) + jnp.exp(bias_log_var)
        return mean + jnp.sqrt(var) * jax.random.normal(self.make_rng("weights"), mean.shape)


class Encoder(nn.Module):
    kind: kinds.Kind

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        if self.kind.network == "conv":
            x = x.reshape(-1, 28, 28, 1)
            for channels in self.kind.hidden:
                x = nn.gelu(nn.Conv(channels, (3, 3), strides=2)(x))
            x = x.reshape(len(x), -1)
        elif self.kind.network == "gated_conv":
            *convolutions, last = self.kind.hidden
            x = x.reshape(-1, 28, 28, 1)
            for number, channels in enumerate(convolutions):
                x = nn.glu(nn.Conv(2 * channels, (5, 5), strides=1 + number % 2)(x))
            x = nn.glu(nn.Dense(2 * last)(x.reshape(len(x), -1)))
        else:
            for units in self.kind.hidden:
                x = nn.tanh(nn.Dense(units)(x))
        return nn.Dense(self.kind.num_latents)(x), nn.Dense(self.kind.num_latents)(x)


class Decoder(nn.Module):
    kind: kinds.Kind

    @nn.compact
    def __call__(self, z: Array) -> list[Array]:
        first, *others = self.kind.hidden[::-1]
        if self.kind.network == "conv":
            side = kinds.halved(28, len(self.kind.hidden))
            h = nn.gelu(nn.Dense(side * side * first)(z)).reshape(-1, side, side, first)
            for channels in others:
                h = nn.gelu(nn.ConvTranspose(channels, (3, 3), strides=(2, 2))(h))
            return [nn.ConvTranspose(1, (3, 3), strides=(2, 2))(h).reshape(len(z), -1)]
        if self.kind.network == "gated_conv":
            side = kinds.halved(28, (len(self.kind.hidden) - 1) // 2)
            layers = kinds.gated_channels(self.kind)
            size = 2 * layers[0][1]
            h = nn.Dense(side * side * size, use_bias=False)(z).reshape(-1, side, side, size)
            h = nn.glu(h + self.param("bias", nn.initializers.zeros, (size,)))
            for stride, _, channels in layers:
                layer = nn.ConvTranspose(2 * channels, (5, 5), strides=(stride, stride))
                h = nn.glu(layer(h))
            return [nn.Conv(1, (1, 1))(h).reshape(len(z), -1)]
        dense = RandomDense if self.kind.has_random_weights else nn.Dense
        for units in (first, *others):
            z = nn.tanh(dense(units)(z))
        return [dense(self.kind.sizes.num_dims)(z) for _ in range(self.kind.sizes.num_heads)]


class VAE(nn.Module):
    kind: kinds.Kind

    def setup(self) -> None:
        self.encoder, self.decoder = Encoder(self.kind), Decoder(self.kind)

    def __call__(self, x: Array, key: Array) -> tuple[Array, Array, list[Array]]:
        """Returns the posterior's mean and log-variance [M, Z], and the decoder's heads [M, D]."""
        mean, log_var = self.encoder(x)
        z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
        return mean, log_var, self.decoder(z)

    def log_weights(self, x: Array, key: Array, num_samples: int) -> Array:
        """Returns log p(x, z_k) - log q(z_k|x), [M, K], in nats."""
        mean, log_var = (stat[:, None] for stat in self.encoder(x))
        noise = jax.random.normal(key, (len(x), num_samples, self.kind.num_latents))
        z = mean + jnp.exp(0.5 * log_var) * noise
        heads = self.decoder(z.reshape(-1, z.shape[-1]))
        heads = [head.reshape(len(x), num_samples, -1) for head in heads]
        # The constants of log p(z) and log q(z|x) cancel.
        return log_lik(heads, x[:, None]) + 0.5 * (noise**2 + log_var - z**2).sum(-1)


def elbo(model: VAE, params: dict, x: Array, key: Array, **rngs: Array) -> Array:
    """Returns the one-sample bound, eq. (7), of each datapoint, [M], in nats."""
    outputs: Any = model.apply({"params": params}, x, key, rngs=rngs)
    mean, log_var, heads = outputs
    return log_lik(heads, x) + 0.5 * (1 + log_var - mean**2 - jnp.exp(log_var)).sum(-1)


def log_mean_weight(model: VAE, params: dict, x: Array, key: Array, num_samples: int) -> Array:
    """Returns log 1/K sum_k p(x, z_k) / q(z_k|x), [M], in nats: the IWAE bound."""
    log_w: Any = model.apply({"params": params}, x, key, num_samples, method="log_weights")
    return jax.nn.logsumexp(log_w, axis=1) - math.log(num_samples)


def kl_of_weights(decoder: dict[str, dict[str, Array]]) -> Array:
    """Returns KL(q(theta) || N(0, I)) of all `RandomDense` layers, [], in nats."""
    pairs = [
        (layer[name], layer[f"{name}_log_var"])
        for layer in decoder.values()
        for name in ("kernel", "bias")
    ]
    kls = [-0.5 * jnp.sum(1 + log_var - mean**2 - jnp.exp(log_var)) for mean, log_var in pairs]
    return jnp.sum(jnp.stack(kls))


def bounds(model: VAE, params: dict, x: Array, key: Array, **rngs: Array) -> Array:
    """Returns the kind's bound of each datapoint, [M], in nats."""
    if model.kind.bound == "iwae":
        return log_mean_weight(model, params, x, key, model.kind.num_samples)
    return elbo(model, params, x, key, **rngs)


def objective(model: VAE, params: dict, x: Array, key: Array) -> Array:
    """Returns the value per datapoint that the kind maximizes, [], in nats."""
    if not model.kind.has_random_weights:
        return jnp.mean(bounds(model, params, x, key))
    z_key, weights_key = jax.random.split(key)
    kl = kl_of_weights(params["decoder"]) / model.kind.sizes.num_train
    return jnp.mean(bounds(model, params, x, z_key, weights=weights_key)) - kl


def minibatches(train: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yields minibatches without end; an epoch's incomplete last one is dropped."""
    order = np.random.default_rng(seed)
    while True:
        permutation = order.permutation(len(train))[: len(train) // size * size]
        yield from (train[indices] for indices in permutation.reshape(-1, size))


def first_state(model: VAE, key: Array, x: np.ndarray) -> TrainState:
    kind = model.kind
    optimizer = OPTIMIZERS[kind.optimizer](kind.step_size)
    if kind.weight_decay:
        optimizer = optax.chain(optax.add_decayed_weights(kind.weight_decay), optimizer)
    params = model.init(key, x, key)["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)


def make_evaluate(model: VAE, test: np.ndarray, number: int) -> Callable[[Any], float]:
    """Returns params -> the mean bound or log p(x) of `number` test images, in nats."""
    key = jax.random.key(0)
    if model.kind.evaluation == "log_p":
        num_samples = kinds.NUM_IMPORTANCE_SAMPLES
        one = jax.jit(lambda params, x: log_mean_weight(model, params, x, key, num_samples))
        images = test[:: len(test) // number][:number, None]
        return lambda params: float(np.mean([one(params, x) for x in images]))
    firsts = range(0, number, kinds.EVALUATED_AT_ONCE)
    blocks = [test[:number][first : first + kinds.EVALUATED_AT_ONCE] for first in firsts]
    some = jax.jit(lambda params, x: jnp.sum(bounds(model, params, x, key)))
    return lambda params: float(np.sum([some(params, x) for x in blocks])) / number


def main() -> None:
    args = kinds.argument_parser(__doc__).parse_args()
    kind = kinds.KINDS[args.kind]
    data = raw_data.load(args.data_dir, kind.data)
    model = VAE(kind)
    key, init_key = jax.random.split(jax.random.key(args.seed))
    state = first_state(model, init_key, data.train[:1])
    batches = minibatches(data.train, kind.batch_size, args.seed)

    @jax.jit
    def train_step(state: TrainState, x: Array, key: Array) -> TrainState:
        step_key = jax.random.fold_in(key, state.step)
        gradient = jax.grad(lambda params: -objective(model, params, x, step_key))(state.params)
        return state.apply_gradients(grads=gradient)

    def train(num_steps: int) -> int:
        nonlocal state
        for _ in range(num_steps):
            state = train_step(state, next(batches), key)
        jax.block_until_ready(state)
        return num_steps * kind.batch_size

    evaluate = make_evaluate(
        model, data.test, args.per_round if kind.evaluation else len(data.test)
    )
    kinds.serve(
        kind,
        args.per_round,
        ("flax", "jax", "optax"),
        train,
        lambda: evaluate(state.params),
        device=jax.devices()[0].device_kind,
    )


if __name__ == "__main__":
    main()
