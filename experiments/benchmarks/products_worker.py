"""Computes only the matrix products of a kind's training steps: the limit of kinds_speed.py.

A round is one compiled loop over the steps. Each step has the products of one training step,
forward and backward, and nothing elementwise. The products of a convolution are those of its
patches: as many multiplications as the convolution has, and no work to make the patches. The
set-up tries every layout, as gemm_worker.py does, and keeps the fastest. The protocol is that of
worker.py, without a bound.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import gemm_worker
import jax
import jax.numpy as jnp
import kinds
import numpy as np
import worker
from gemm_worker import Layout, Linear
from jax import Array


class Layer(NamedTuple):
    """A layer of a network as products of the same input."""

    num_rows: int  # of the input, for a minibatch
    num_in: int
    num_out: int
    num_heads: int = 1  # products of these sizes
    has_input_gradient: bool = True  # the first layer of the encoder has none

    @property
    def flops(self) -> int:
        """Counts the operations of a step: 2 for each weight, row and product."""
        products = 3 if self.has_input_gradient else 2
        return 2 * products * self.num_rows * self.num_in * self.num_out * self.num_heads


def mlp_layers(kind: kinds.Kind) -> list[Layer]:
    D, H, Z, rows = kind.sizes.num_dims, kind.hidden, kind.num_latents, kind.batch_size
    encoder = [Layer(rows, *sizes) for sizes in itertools.pairwise((D, *H))]
    encoder[0] = encoder[0]._replace(has_input_gradient=False)
    rows *= kind.num_samples
    decoder = [Layer(rows, *sizes) for sizes in itertools.pairwise((Z, *H[::-1]))]
    decoder.append(Layer(rows, H[0], D, kind.sizes.num_heads))
    if kind.has_random_weights:  # the units' variances are a second product of each layer
        decoder *= 2
    return [*encoder, Layer(kind.batch_size, H[-1], Z, 2), *decoder]


def conv_layers(kind: kinds.Kind) -> list[Layer]:
    """Returns the layers of `aevb.networks`' conv, for one head with one channel."""
    M, H, Z, kernel = kind.batch_size, kind.hidden, kind.num_latents, 9
    pixels = [M * kinds.halved(28, times) ** 2 for times in range(len(H) + 1)]
    layers = [
        Layer(rows, kernel * num_in, num_out)
        for rows, num_in, num_out in zip(pixels[1:], (1, *H), H, strict=False)
    ]
    layers[0] = layers[0]._replace(has_input_gradient=False)
    num_units = pixels[-1] // M * H[-1]
    layers += [Layer(M, num_units, Z, 2), Layer(M, Z, num_units)]
    transposed = zip(pixels[:0:-1], H[::-1], (*H[-2::-1], 1), strict=True)
    return layers + [Layer(rows, F, kernel * G) for rows, F, G in transposed]


def gated_conv_layers(kind: kinds.Kind) -> list[Layer]:
    """Returns the layers of `aevb.networks`' gated_conv, for one head with one channel."""
    M, Z, kernel = kind.batch_size, kind.num_latents, 25
    *channels, last = kind.hidden
    pixels = [M * kinds.halved(28, number // 2) ** 2 for number in range(len(channels) + 1)]
    layers = [
        Layer(rows, kernel * num_in, 2 * num_out)
        for rows, num_in, num_out in zip(pixels[1:], (1, *channels), channels, strict=False)
    ]
    layers[0] = layers[0]._replace(has_input_gradient=False)
    layers += [Layer(M, pixels[-1] // M * channels[-1], 2 * last), Layer(M, last, Z, 2)]
    decoder = kinds.gated_channels(kind)
    layers.append(Layer(M, Z, pixels[-1] // M * 2 * decoder[0][1]))
    layers += [
        Layer(rows, num_in, kernel * 2 * num_out)
        for rows, (_, num_in, num_out) in zip(pixels[:0:-1], decoder, strict=True)
    ]
    return [*layers, Layer(pixels[0], decoder[-1][2], 1)]


LAYERS = {"mlp": mlp_layers, "conv": conv_layers, "gated_conv": gated_conv_layers}


def layers_of(kind: kinds.Kind) -> list[Layer]:
    return LAYERS[kind.network](kind)


def make_weights(layer: Layer, layout: Layout) -> list[Array]:
    """Returns the weights of a layer's products, which map x to its projection and back."""
    num_out = layer.num_out * (layer.num_heads if layout.joined_heads else 1)
    size = (layer.num_in, num_out)
    square = np.random.default_rng(0).normal(size=(max(size), min(size)))
    weights = np.linalg.qr(square)[0].reshape(max(size), min(size))
    weights = weights if size[0] >= size[1] else weights.T
    stored = jnp.asarray(weights.T if layout.transposed_weights else weights, jnp.float32)
    return [stored] * (1 if layout.joined_heads else layer.num_heads)


def layer_products(
    layer: Layer, layout: Layout, weights: list[Array], x: Array
) -> tuple[Array, list[Array]]:
    """Computes the products of one layer; returns the next step's x and all other results.

    The output y takes the place of the loss's gradient with respect to it. The gradient of the
    input is then a projection of x: no number grows.
    """
    linears = [Linear(each, layout) for each in weights]
    outputs = [linear.forward(x) for linear in linears]
    results = [linear.weight_gradient(x, y) for linear, y in zip(linears, outputs, strict=True)]
    if not layer.has_input_gradient:
        return x, results
    of_x = [linear.input_gradient(y) for linear, y in zip(linears, outputs, strict=True)]
    return of_x[0], results + of_x[1:]


def make_round(layers: list[Layer], layout: Layout) -> Callable[[int], None]:
    """Compiles the products of a training step; returns a function that runs some steps."""
    weights = [make_weights(layer, layout) for layer in layers]
    keys = jax.random.split(jax.random.key(0), len(layers))
    xs = [
        jax.random.normal(key, (layer.num_rows, layer.num_in))
        for key, layer in zip(keys, layers, strict=True)
    ]

    def step(weights: list[list[Array]], number: Array, carry: list) -> list:
        # The barrier keeps XLA from moving the products of an x that never changes before the loop.
        xs, _ = jax.lax.optimization_barrier(([x for x, _ in carry], number))
        return [
            layer_products(layer, layout, heads, x)
            for layer, heads, x in zip(layers, weights, xs, strict=True)
        ]

    def steps(weights: list[list[Array]], xs: list[Array], number: Array) -> list:
        shapes = jax.eval_shape(partial(step, weights), number, [(x, []) for x in xs])
        results = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        carry = [(x, rest) for x, (_, rest) in zip(xs, results, strict=True)]
        return jax.lax.fori_loop(0, number, partial(step, weights), carry)

    compiled = jax.jit(steps).lower(weights, xs, jnp.int32(0)).compile()

    def run(num_steps: int) -> None:
        jax.block_until_ready(compiled(weights, xs, jnp.int32(num_steps)))

    return run


def main() -> None:
    args = kinds.argument_parser(__doc__).parse_args()
    kind = kinds.KINDS[args.kind]
    layers = layers_of(kind)
    rounds = {
        layout: make_round(layers, layout)
        for layout in itertools.starmap(Layout, itertools.product([False, True], repeat=3))
    }
    few = math.ceil(args.per_round / 5)
    layout = gemm_worker.fastest({each: partial(run, few) for each, run in rounds.items()})

    def run() -> int:
        rounds[layout](args.per_round)
        return args.per_round * kind.batch_size

    def no_bound() -> float:
        raise ValueError("there is no model, and so no bound")

    worker.serve_training(
        ("jax",),
        run,
        no_bound,
        device=jax.devices()[0].device_kind,
        layout=str(layout),
        flops_per_example=sum(layer.flops for layer in layers) // kind.batch_size,
    )


if __name__ == "__main__":
    main()
