"""A finished run as pure functions of one datapoint, which jit and vmap as any others.

python docs/examples/trained_run.py [RUN]

RUN is the folder of a run, as runs/frey_faces/default that `make run` leaves; without one, a short
run is trained in a temporary folder.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import aevb
from aevb import runs
from aevb.config import default_config, validate, with_values


def main(folder=None, num_examples=200_000):
    """-> minus log p(x), in nats, of test images upside down, of them, and of the run's samples."""
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = Path(temporary) / "run"
            changes = {"train.num_examples": num_examples}
            runs.run(validate(with_values(default_config(), changes)), folder)
        run = aevb.load_run(folder)

    stored = run.dataset.test[:10]
    keys = jax.random.split(jax.random.key(0), len(stored))
    x = jax.jit(jax.vmap(run.dataset.preprocess))(keys, stored)  # as the model sees it
    z, samples = jax.jit(jax.vmap(run.sample))(keys)
    log_prob = jax.jit(jax.vmap(partial(run.log_prob, num_samples=200)))
    scored = [-float(jnp.mean(log_prob(keys, data))) for data in (x[:, ::-1], x, samples)]

    @jax.jit
    @jax.vmap
    def reconstruct(key, x):
        z = run.vae.guide.sample(key, run.encode(x))  # z ~ q(z|x)
        return run.decode(z)  # E[x|z]

    error = jnp.sqrt(jnp.mean(jnp.square(reconstruct(keys, x) - x)))
    print(f"pixels are reconstructed to within {error:.3f}, z from {z.min():.1f} to {z.max():.1f}")
    return scored


if __name__ == "__main__":
    turned, upright, own = main(*sys.argv[1:2])
    print(f"-log p(x): {upright:.0f} nats of test images, {turned:.0f} of the same upside down, "
          f"{own:.0f} of the run's own samples")  # fmt: skip
