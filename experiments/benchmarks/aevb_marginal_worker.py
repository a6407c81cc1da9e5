"""Estimates log p(x) by importance sampling on request: a contender of marginal_speed.py.

--weights names a file with the decoder, the encoder and the images of marginal_speed.py. Each line
of stdin is a number of images and K, for example "8 5000". The answer has the estimates in nats,
the seconds, and the peak memory of the process so far.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import worker

from aevb import marginal
from aevb.distributions import DiagNormal, StandardNormal
from aevb.guides import diag_normal
from aevb.likelihoods import bernoulli
from aevb.losses import Joint

CHUNK = 500


def main() -> None:
    with np.load(sys.argv[1]) as file:
        arrays = {name: jnp.asarray(file[name]) for name in file}

    def dense(name: str, h: jax.Array) -> jax.Array:
        return h @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]

    def log_prob(key: jax.Array, x: jax.Array, num_samples: int) -> jax.Array:
        hidden = jnp.tanh(dense("encoder/hidden_0", x))
        stats = DiagNormal(dense("encoder/mean", hidden), dense("encoder/log_var", hidden))

        def logits(z: jax.Array) -> jax.Array:
            return dense("decoder/logits", jnp.tanh(dense("decoder/hidden_0", z)))

        joint = Joint(
            StandardNormal(len(stats.mean)),
            lambda z: bernoulli.log_prob({"logits": logits(z)}, x),
        )
        estimate = marginal.importance_sampling(
            key, stats, diag_normal, joint, num_samples=num_samples, chunk_size=CHUNK
        )
        return estimate.value

    estimate = jax.jit(
        lambda keys, x, num_samples: jax.lax.map(
            lambda kx: log_prob(kx[0], kx[1], num_samples), (keys, x)
        ),
        static_argnums=2,
    )

    def run(request: str) -> dict:
        number, num_samples = map(int, request.split())
        keys, images = jax.random.split(jax.random.key(0), number), arrays["images"][:number]
        compiled = estimate.lower(keys, images, num_samples).compile()
        values, times = worker.timed(lambda: np.asarray(compiled(keys, images)))
        return {**times, "log_p": values.tolist(), "peak_kib": worker.peak_kib()}

    run("1 500")
    worker.serve(("aevb", "jax"), run)


if __name__ == "__main__":
    main()
