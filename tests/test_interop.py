"""`aevb.losses` with models of other libraries: the same bound and gradient with each.

The same small VAE is written as a user of each library would write it. Bare JAX is the reference.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.likelihoods import bernoulli
from aevb.losses import BOUNDS, Joint

NUM_DIMS, NUM_HIDDEN, NUM_LATENTS = 5, 4, 2

SIZES = {
    "encoder_hidden": (NUM_DIMS, NUM_HIDDEN),
    "encoder_out": (NUM_HIDDEN, 2 * NUM_LATENTS),
    "decoder_hidden": (NUM_LATENTS, NUM_HIDDEN),
    "decoder_out": (NUM_HIDDEN, NUM_DIMS),
}

Layers = dict[str, tuple[jax.Array, jax.Array]]
"""A name to a kernel [inputs, outputs] and a bias [outputs]."""


class Outcome(NamedTuple):
    """The results of a library's model on the data, in the names and layouts of `Layers`."""

    loss: float
    gradient: Layers


def weights() -> Layers:
    rng = np.random.default_rng(0)
    return {
        name: (jnp.float32(rng.normal(size=size) / 2), jnp.float32(rng.normal(size=size[1]) / 2))
        for name, size in SIZES.items()
    }


X = jnp.asarray(np.random.default_rng(1).integers(0, 2, (6, NUM_DIMS)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 6)

Encode = Callable[[jax.Array], jax.Array]  # x [D] -> mean and log-variance [2 Z]
Decode = Callable[[jax.Array], jax.Array]  # z [Z] -> logits [D]


# A bound with a closed KL, one of several samples, and one with the score function; make test-all
# runs every bound.
FEW_BOUNDS = ("sgvb_b", "dreg", "score_function_loo")
bounds: tuple[str, ...] = FEW_BOUNDS


def loss_of(encode: Encode, decode: Decode) -> jax.Array:
    """Returns minus the mean of `bounds` over the minibatch, for two functions of one datapoint."""

    def bounds_of(key: jax.Array, x: jax.Array) -> jax.Array:
        stats = DiagNormal(*jnp.split(encode(x), 2))
        joint = Joint(
            prior=StandardNormal(NUM_LATENTS),
            log_lik=lambda z: bernoulli.log_prob({"logits": decode(z)}, x),
        )
        values = [BOUNDS[name](key, stats, diag_normal, joint, num_samples=4) for name in bounds]
        return jnp.stack(values)

    return -jnp.mean(jax.vmap(bounds_of)(KEYS, X))


def bare_jax() -> Outcome:
    def loss(params: Layers) -> jax.Array:
        def dense(name: str, h: jax.Array) -> jax.Array:
            kernel, bias = params[name]
            return h @ kernel + bias

        return loss_of(
            lambda x: dense("encoder_out", jnp.tanh(dense("encoder_hidden", x))),
            lambda z: dense("decoder_out", jnp.tanh(dense("decoder_hidden", z))),
        )

    params = weights()
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return Outcome(float(value), gradient)


def flax_nnx() -> Outcome:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.encoder_hidden = nnx.Linear(NUM_DIMS, NUM_HIDDEN, rngs=rngs)
            self.encoder_out = nnx.Linear(NUM_HIDDEN, 2 * NUM_LATENTS, rngs=rngs)
            self.decoder_hidden = nnx.Linear(NUM_LATENTS, NUM_HIDDEN, rngs=rngs)
            self.decoder_out = nnx.Linear(NUM_HIDDEN, NUM_DIMS, rngs=rngs)

        def encode(self, x: jax.Array) -> jax.Array:
            return self.encoder_out(jnp.tanh(self.encoder_hidden(x)))

        def decode(self, z: jax.Array) -> jax.Array:
            return self.decoder_out(jnp.tanh(self.decoder_hidden(z)))

    def loss(model: Model) -> jax.Array:
        return loss_of(model.encode, model.decode)

    model = Model(nnx.Rngs(0))
    for name, (kernel, bias) in weights().items():
        layer = getattr(model, name)
        layer.kernel[...], layer.bias[...] = kernel, bias
    value, gradient = nnx.jit(nnx.value_and_grad(loss))(model)
    layers = {name: (gradient[name]["kernel"][...], gradient[name]["bias"][...]) for name in SIZES}
    return Outcome(float(value), layers)


def equinox() -> Outcome:
    class Model(eqx.Module):
        encoder_hidden: eqx.nn.Linear
        encoder_out: eqx.nn.Linear
        decoder_hidden: eqx.nn.Linear
        decoder_out: eqx.nn.Linear

        def __init__(self, key: jax.Array):
            keys = jax.random.split(key, 4)
            self.encoder_hidden = eqx.nn.Linear(NUM_DIMS, NUM_HIDDEN, key=keys[0])
            self.encoder_out = eqx.nn.Linear(NUM_HIDDEN, 2 * NUM_LATENTS, key=keys[1])
            self.decoder_hidden = eqx.nn.Linear(NUM_LATENTS, NUM_HIDDEN, key=keys[2])
            self.decoder_out = eqx.nn.Linear(NUM_HIDDEN, NUM_DIMS, key=keys[3])

        def encode(self, x: jax.Array) -> jax.Array:
            return self.encoder_out(jnp.tanh(self.encoder_hidden(x)))

        def decode(self, z: jax.Array) -> jax.Array:
            return self.decoder_out(jnp.tanh(self.decoder_hidden(z)))

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model: Model) -> jax.Array:
        return loss_of(model.encode, model.decode)

    model = Model(jax.random.key(0))
    for name, (kernel, bias) in weights().items():
        model = eqx.tree_at(
            lambda m, name=name: (getattr(m, name).weight, getattr(m, name).bias),
            model,
            (kernel.T, bias),  # Equinox keeps [outputs, inputs]
        )
    value, gradient = loss(model)
    layers = {
        name: (getattr(gradient, name).weight.T, getattr(gradient, name).bias) for name in SIZES
    }
    return Outcome(float(value), layers)


def haiku() -> Outcome:
    def encode(x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(hk.Linear(NUM_HIDDEN, name="encoder_hidden")(x))
        return hk.Linear(2 * NUM_LATENTS, name="encoder_out")(hidden)

    def decode(z: jax.Array) -> jax.Array:
        hidden = jnp.tanh(hk.Linear(NUM_HIDDEN, name="decoder_hidden")(z))
        return hk.Linear(NUM_DIMS, name="decoder_out")(hidden)

    encoder = hk.without_apply_rng(hk.transform(encode))
    decoder = hk.without_apply_rng(hk.transform(decode))

    def loss(params: Any) -> jax.Array:
        return loss_of(lambda x: encoder.apply(params, x), lambda z: decoder.apply(params, z))

    key = jax.random.key(0)
    params = {**encoder.init(key, X[0]), **decoder.init(key, jnp.zeros(NUM_LATENTS))}
    assert params.keys() == SIZES.keys()
    params = {name: {"w": kernel, "b": bias} for name, (kernel, bias) in weights().items()}
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return Outcome(
        float(value), {name: (layer["w"], layer["b"]) for name, layer in gradient.items()}
    )


@pytest.mark.parametrize(
    ("library", "names"),
    [
        (equinox, FEW_BOUNDS),
        *(
            pytest.param(library, tuple(BOUNDS), marks=pytest.mark.slow)
            for library in (flax_nnx, equinox, haiku)
        ),
    ],
)
def test_the_losses_give_another_librarys_model_the_bounds_and_gradient_of_bare_jax(
    library: Callable[[], Outcome], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.modules[__name__], "bounds", names)
    expected, outcome = bare_jax(), library()
    assert outcome.loss == pytest.approx(expected.loss, rel=1e-6)
    assert outcome.gradient.keys() == SIZES.keys()
    for layer, leaves in expected.gradient.items():
        for leaf, other in zip(leaves, outcome.gradient[layer], strict=True):
            assert np.any(leaf != 0.0)
            np.testing.assert_allclose(other, leaf, rtol=1e-4, atol=1e-6)
