"""Functions as operations of a page: a browser's engine computes the same results as JAX."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from javascript import Engine
from marks import slow_but

from aevb.likelihoods import LIKELIHOODS
from aevb.networks import NETWORKS, normal_init
from aevb.reports.jaxpr_to_js import NotPortableError, portable

KEY = jax.random.key(0)
SHAPE = (7, 5)  # odd, so that the edges of convolutions are tested
NUM_LATENTS = 3
CLOSE = 1e-5  # float32 rounds at 1e-7 per number, and a product sums 200 of them


def agree(function: Callable[[Any], Any], num_inputs: int, *, scale: float = 1.0) -> None:
    engine, compiled = Engine(portable(function, num_inputs)), jax.jit(function)
    for key in jax.random.split(KEY, 5):
        inputs = scale * jax.random.normal(key, (num_inputs,))
        expected = np.ravel(compiled(inputs))
        np.testing.assert_allclose(engine(np.asarray(inputs)), expected, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize(
    ("network", "likelihood"),
    slow_but(
        [("conv", "bernoulli")],
        itertools.product(NETWORKS, LIKELIHOODS),
        unpack=True,
    ),
)
def test_a_translated_decoder_computes_what_jax_does(network: str, likelihood: str):
    likelihood_ = LIKELIHOODS[likelihood](1)
    heads = {name: SHAPE[0] * SHAPE[1] * size for name, size in likelihood_.heads.items()}
    decoder = NETWORKS[network].decoder(
        NUM_LATENTS, heads, hidden=(4, 6), initialization=normal_init(0.5),
        constants=likelihood_.shared, image_shape=SHAPE, dtype="float32",
    )  # fmt: skip
    params = jax.jit(decoder.init)(KEY)
    agree(lambda z: likelihood_.mean(decoder.apply(params, z)), NUM_LATENTS, scale=2.0)


MATRIX = jax.random.normal(jax.random.key(1), (3, 4))
CUBE = jax.random.normal(jax.random.key(2), (3, 2, 4))
IMAGES = jnp.ones((1, 4, 4, 2))
ACTIVATIONS = (jax.nn.relu, jax.nn.leaky_relu, jax.nn.elu, jax.nn.silu, jax.nn.gelu)
COMPARISONS = [
    *enumerate([jnp.equal, jnp.not_equal, jnp.less, jnp.less_equal, jnp.greater, jnp.greater_equal])
]
with_own_gradient = jax.custom_vjp(jnp.square)
with_own_gradient.defvjp(lambda x: (x * x, x), lambda x, slope: (slope * x,))
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "moves": lambda x: jnp.flip(jnp.broadcast_to(x[:, None], (3, 4))[1:, ::2].T, 0) + x[None, :2],
    "parts": lambda x: jnp.split(x, [1])[1] * jnp.split(MATRIX * x[0], 2, axis=1)[1][0, :2],
    "vectors joined": lambda x: jnp.concatenate([x[1:], jnp.ones(2), x * x[0]]),
    "rows joined": lambda x: jnp.concatenate([x[:, None] * MATRIX, MATRIX])[1:5],
    "a product from the left": lambda x: MATRIX.T @ x,
    "a product of what is computed": lambda x: jnp.outer(x, x) @ MATRIX,
    "a product over the middle of three axes": lambda x: jnp.tensordot(CUBE * x[0], x[:2], (1, 0)),
    "a sum over the middle of three axes": lambda x: jnp.sum(CUBE * x[0], axis=1),
    "sums over either axis": lambda x: jnp.sum(x[:, None] * MATRIX, 0) + jnp.sum(MATRIX * x[0]),
    "the greatest": lambda x: jnp.max(x[:, None] * MATRIX, axis=0),
    "cases": lambda x: jnp.where(x > 0, jnp.where(x < 1, jnp.exp(x), 2.0), -x),
    "comparisons": lambda x: sum(f(x, x[1]).astype(jnp.float32) * (2.0**n) for n, f in COMPARISONS),
    "unary": lambda x: jnp.log1p(x**2) + jnp.expm1(x) / jnp.sqrt(1 + x**2) + jax.nn.softplus(x),
    "a distribution function": jax.scipy.special.erfc,
    "powers": lambda x: jnp.abs(x) ** 1.5 + x**3 + jax.lax.rsqrt(1 + x * x) - jnp.sign(x),
    "activations": lambda x: sum(f(x) for f in ACTIVATIONS),
    "softmax": jax.nn.softmax,
    "calls": lambda x: jax.checkpoint(jnp.tanh)(x) + jax.jit(jnp.exp)(x) + with_own_gradient(x),
    "a constant alone": lambda x: jnp.arange(3.0),
    "the input itself": lambda x: x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_javascript_operation_computes_what_jax_does(name: str):
    agree(FUNCTIONS[name], 3)


def test_unused_operations_and_constants_are_left_out():
    unused = jnp.ones((3, 1000))

    def function(x):
        return (x @ unused, x * 2.0)[1]

    program = portable(function, 3)
    assert [step["op"] for step in program["steps"]] == ["mul"]
    assert sum(len(constant["data"]) for constant in program["constants"]) < 100


def test_a_program_lists_its_constants_and_steps():
    """Pages depend on this format, and so does the JavaScript in them."""
    weights = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert portable(lambda z: jnp.tanh(z @ weights), 2) == {
        "num_inputs": 2,
        "constants": [{"slot": 1, "data": "AACAPwAAAEAAAEBAAACAQAAAoEAAAMBA"}],
        "steps": [
            {"op": "product", "in": [0, 1], "out": 2, "size": 3, "inner": 2, "columns": 3},
            {"op": "tanh", "in": [2], "out": 3, "size": 3},
        ],
        "output": 3,
    }


def convolution(x: Any, **how: Any) -> Any:
    kernel = jnp.ones((3, 3, 1, 2))
    return jax.lax.conv_general_dilated(
        IMAGES * x[0], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **how
    )


REFUSED: dict[str, Callable[[Any], Any]] = {
    "sin": jnp.sin,
    "sort": jnp.sort,
    "cumsum": jnp.cumsum,
    "erf_inv": jax.lax.erf_inv,
    "and": lambda x: (x > 0) & (x < 1),
    "concatenate": lambda x: jnp.concatenate([x[:, None] * MATRIX, MATRIX], axis=1),
    "scan": lambda x: jax.lax.scan(lambda total, one: (total + one, None), x[0], x)[0],
    "while": lambda x: jax.lax.while_loop(lambda y: y[0] < 5.0, lambda y: y + 1.0, x),
    "convert_element_type": lambda x: x.astype(jnp.int32),
    "dot_general with a batch": lambda x: jax.vmap(jnp.dot)(x[:, None] * MATRIX, MATRIX),
    "conv_general_dilated with groups": lambda x: convolution(x, feature_group_count=2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operation_without_a_translation_is_refused_by_name(name: str):
    with pytest.raises(NotPortableError, match=f"operation {name}"):
        portable(REFUSED[name], 3)
