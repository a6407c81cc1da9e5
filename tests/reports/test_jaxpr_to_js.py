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
    engine = Engine(portable(function, num_inputs))
    for key in jax.random.split(KEY, 5):
        inputs = scale * jax.random.normal(key, (num_inputs,))
        expected = np.ravel(function(inputs))
        np.testing.assert_allclose(engine(np.asarray(inputs)), expected, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize(
    ("network", "likelihood"),
    slow_but(
        [("conv", "bernoulli")],
        itertools.product(NETWORKS, LIKELIHOODS),
        unpack=True,
    ),
)
def test_a_page_decodes_as_jax_does(network: str, likelihood: str):
    likelihood_ = LIKELIHOODS[likelihood](1)
    heads = {name: SHAPE[0] * SHAPE[1] * size for name, size in likelihood_.heads.items()}
    decoder = NETWORKS[network].decoder(
        NUM_LATENTS, heads, hidden=(4, 6), initialization=normal_init(0.5),
        constants=likelihood_.shared, image_shape=SHAPE, dtype="float32",
    )  # fmt: skip
    params = decoder.init(KEY)
    agree(lambda z: likelihood_.mean(decoder.apply(params, z)), NUM_LATENTS, scale=2.0)


MATRIX = jax.random.normal(jax.random.key(1), (3, 4))
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "moves": lambda x: jnp.flip(jnp.broadcast_to(x[:, None], (3, 4))[1:, ::2].T, 0) + x[None, :2],
    "a product from the left": lambda x: MATRIX.T @ x,
    "a product of what is computed": lambda x: jnp.outer(x, x) @ MATRIX,
    "sums over either axis": lambda x: jnp.sum(x[:, None] * MATRIX, 0) + jnp.sum(MATRIX * x[0]),
    "the greatest": lambda x: jnp.max(x[:, None] * MATRIX, axis=0),
    "cases": lambda x: jnp.where((x > 0) & (x < 1), jnp.exp(x), -x),
    "unary": lambda x: jnp.log1p(x**2) + jnp.expm1(x) / jnp.sqrt(1 + x**2) + jax.nn.softplus(x),
    "powers": lambda x: jnp.abs(x) ** 1.5 + x**3 + jax.lax.rsqrt(1 + x * x) - jnp.sign(x),
    "the normal distribution function": lambda x: jax.scipy.special.ndtr(3 * x),
    "softmax": jax.nn.softmax,
    "a constant alone": lambda x: jnp.arange(3.0),
    "the input itself": lambda x: x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_are_jaxs(name: str):
    agree(FUNCTIONS[name], 3)


def test_what_nobody_reads_is_left_out():
    unused = jnp.ones((3, 1000))

    def function(x):
        return (x @ unused, x * 2.0)[1]

    program = portable(function, 3)
    assert [step["op"] for step in program["steps"]] == ["mul"]
    assert sum(len(constant["data"]) for constant in program["constants"]) < 100


def test_an_operation_that_a_page_does_not_know_is_refused_by_name():
    with pytest.raises(NotPortableError, match="sin"):
        portable(jnp.sin, 3)
    with pytest.raises(NotPortableError, match="sort"):
        portable(jnp.sort, 3)
