"""Diagnoses a model of one's own: its measures, and the line where its loss becomes non-finite.

python docs/examples/own_model_measures.py
"""

import jax
import jax.numpy as jnp

from aevb.distributions import DiagNormal, StandardNormal
from aevb.doctor.origin import origin_of
from aevb.evaluation.measures import measure
from aevb.guides import diag_normal
from aevb.losses import Joint

NUM_DIMS, NUM_LATENTS = 5, 2


def encode(params, x):
    return DiagNormal(x @ params["encoder"], jnp.full(NUM_LATENTS, -1.0))


def joint_of(params, x):
    """Returns p(x, z) of one x, with a variance whose log is a parameter."""

    def log_lik(z):
        return DiagNormal(z @ params["decoder"], params["log_var"]).log_prob(x)

    return Joint(StandardNormal(NUM_LATENTS), log_lik)


def main():
    """Returns the measures of the model on a batch, and where a careless loss fails."""
    x_key, encoder_key, decoder_key, key = jax.random.split(jax.random.key(0), 4)
    params = {
        "encoder": 0.5 * jax.random.normal(encoder_key, (NUM_DIMS, NUM_LATENTS)),
        "decoder": jax.random.normal(decoder_key, (NUM_LATENTS, NUM_DIMS)),
        "log_var": jnp.zeros(NUM_DIMS),
    }
    x = jax.random.normal(x_key, (200, NUM_DIMS))
    measures = measure(
        key, x, lambda x: encode(params, x), diag_normal, lambda x: joint_of(params, x)
    )

    def loss(params, x):
        variance = params["log_var"]  # its exponential was forgotten
        return jnp.mean(jnp.square(x) / variance + jnp.log(variance))

    return measures, origin_of(jax.grad(loss), params, x)


if __name__ == "__main__":
    measures, where = main()
    for name, value in measures.items():
        print(f"{name:24} {value:8.3f}")
    print(where)
