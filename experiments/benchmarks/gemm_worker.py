"""Computes only the matrix products of training steps: the limit of train_speed.py.

An "epoch" is one compiled loop with as many steps as an epoch of training. Each step has exactly
the products of one training step, forward and backward, and nothing elementwise, so that only the
machine limits its speed. The set-up tries every layout of weights, gradients and heads, and keeps
the fastest. The protocol is that of worker.py, without a bound.
"""

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import worker
from jax import Array

TRIALS = 3  # of each layout during set-up


class Layout(NamedTuple):
    """The layout of the arrays of a step."""

    transposed_weights: bool  # stored [out, in] rather than [in, out]
    transposed_gradients: bool  # the same for the gradients of the weights
    joined_heads: bool  # whether all heads of a network are one product

    def __str__(self) -> str:
        shape = {False: "[in, out]", True: "[out, in]"}
        return (
            f"weights {shape[self.transposed_weights]}, "
            f"their gradients {shape[self.transposed_gradients]}, "
            f"heads {'joined' if self.joined_heads else 'apart'}"
        )


def flops_per_example(sizes: worker.Sizes, latent_dim: int) -> int:
    """Counts the operations per example in the products of one step.

    Each weight takes 2 in the forward pass, 2 for its gradient, and 2 for the gradient of its
    input; the first layer does not need the last 2.
    """
    D, H, num_heads, _ = sizes
    first, others = D * H, H * 2 * latent_dim + latent_dim * H + H * num_heads * D
    return 2 * (2 * first + 3 * others)


def product(a: Array, b: Array, contract_a: int, contract_b: int) -> Array:
    return jax.lax.dot_general(a, b, (((contract_a,), (contract_b,)), ((), ())))


class Linear(NamedTuple):
    """The three products of a layer, in one layout."""

    weights: Array
    layout: Layout

    def forward(self, x: Array) -> Array:
        return product(x, self.weights, 1, 1 if self.layout.transposed_weights else 0)

    def input_gradient(self, g: Array) -> Array:
        return product(g, self.weights, 1, 0 if self.layout.transposed_weights else 1)

    def weight_gradient(self, x: Array, g: Array) -> Array:
        return product(g, x, 0, 0) if self.layout.transposed_gradients else product(x, g, 0, 0)


def step_products(networks: list[list[Array]], x: Array, layout: Layout) -> tuple[Array, list]:
    """Computes the products of one step; returns the next step's x [M, D] and all other results.

    Args:
        networks: the weights of encoder hidden, encoder heads, decoder hidden and decoder heads.
    """
    encoder, posterior, decoder, likelihood = (
        [Linear(weights, layout) for weights in layer] for layer in networks
    )
    num_latents = decoder[0].weights.shape[1 if layout.transposed_weights else 0]
    h = encoder[0].forward(x)
    stats = [head.forward(h) for head in posterior]
    z = stats[0][:, :num_latents]
    k = decoder[0].forward(z)
    outputs = [head.forward(k) for head in likelihood]

    # Each output is used in place of the loss's gradient with respect to it: the shapes are equal.
    of_k = [head.input_gradient(g) for head, g in zip(likelihood, outputs, strict=True)]
    of_h = [head.input_gradient(g) for head, g in zip(posterior, stats, strict=True)]
    of_z = decoder[0].input_gradient(of_k[0])
    gradients = [head.weight_gradient(k, g) for head, g in zip(likelihood, outputs, strict=True)]
    gradients += [head.weight_gradient(h, g) for head, g in zip(posterior, stats, strict=True)]
    gradients += [decoder[0].weight_gradient(z, of_k[0]), encoder[0].weight_gradient(x, of_h[0])]
    return outputs[0][:, : x.shape[1]], [gradients, of_k, of_h, of_z]


def make_networks(sizes: worker.Sizes, latent_dim: int, layout: Layout) -> list[list[Array]]:
    """Returns weights whose forward pass is a projection of x: no number grows or vanishes."""
    rng = np.random.default_rng(0)

    def orthonormal(num_in: int, num_out: int) -> np.ndarray:
        return np.linalg.qr(rng.normal(size=(num_in, num_out)))[0]

    D, H, num_heads, _ = sizes
    hidden, heads = orthonormal(D, H), [orthonormal(H, latent_dim) for _ in range(2)]
    networks = [[hidden], heads, [heads[0].T], [hidden.T] * num_heads]

    def stored(weights: np.ndarray) -> Array:
        return jnp.asarray(weights.T if layout.transposed_weights else weights, jnp.float32)

    if layout.joined_heads:
        networks = [[np.concatenate(layer, axis=1)] for layer in networks]
    return [[stored(weights) for weights in layer] for layer in networks]


def make_epoch(
    sizes: worker.Sizes, latent_dim: int, batch_size: int, layout: Layout
) -> Callable[[], None]:
    """Compiles the products of one epoch; returns a function that runs them and waits."""
    networks = make_networks(sizes, latent_dim, layout)
    x = jax.random.normal(jax.random.key(0), (batch_size, sizes.num_dims))

    def epoch(networks: list[list[Array]], x: Array) -> tuple[Array, list]:
        shapes = jax.eval_shape(lambda x: step_products(networks, x, layout), x)[1]
        others = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return jax.lax.fori_loop(
            0,
            sizes.num_train // batch_size,
            lambda _, carry: step_products(networks, carry[0], layout),
            (x, others),
        )

    compiled = jax.jit(epoch).lower(networks, x).compile()

    def run() -> None:
        jax.block_until_ready(compiled(networks, x))

    return run


def fastest(epochs: dict[Layout, Callable[[], None]]) -> Layout:
    """Returns the layout with the shortest time; the layouts take turns in `TRIALS` trials."""
    seconds = dict.fromkeys(epochs, float("inf"))
    for _ in range(TRIALS):
        for layout, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            seconds[layout] = min(seconds[layout], time.perf_counter() - start)
    return min(seconds, key=seconds.__getitem__)


def main() -> None:
    args = worker.argument_parser(__doc__).parse_args()
    sizes = worker.SIZES[args.data]
    epochs = {
        layout: make_epoch(sizes, args.latent_dim, args.batch_size, layout)
        for layout in itertools.starmap(Layout, itertools.product([False, True], repeat=3))
    }
    layout = fastest(epochs)

    def run_epoch() -> int:
        epochs[layout]()
        return sizes.num_train // args.batch_size * args.batch_size

    def no_bound() -> float:
        raise ValueError("there is no model, and so no bound")

    worker.serve_training(
        ("jax",),
        run_epoch,
        no_bound,
        device=jax.devices()[0].device_kind,
        layout=str(layout),
        flops_per_example=flops_per_example(sizes, args.latent_dim),
    )


if __name__ == "__main__":
    main()
