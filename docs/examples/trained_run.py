"""A finished run as pure functions of one datapoint, which can be jitted and vmapped.

A datapoint is in the units of the data, here grey levels. `run.model` has the same functions of the
model's own input, which is scaled.

python docs/examples/trained_run.py [RUN]

RUN is the folder of a run, for example runs/frey_faces/default, which `make run` writes. Without
it, a short run is trained in a temporary folder.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import aevb


def main(folder=None, *, num_examples=200_000):
    """Returns minus log p(x) of test images turned upside down, and of the originals, in nats."""
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = Path(temporary) / "run"
            fields = {"train.num_examples": num_examples}
            aevb.train("figure_4_frey", fields, workdir=folder)
        run = aevb.load_run(folder)  # needs no data
        faces = run.dataset.test[:10]  # loads them, and checks that they are those of the run

    keys = jax.random.split(jax.random.key(0), len(faces))
    posterior = jax.jit(jax.vmap(run.encode))(faces)  # statistics of q(z|x), of grey levels
    z = jax.vmap(run.model.vae.guide.sample)(keys, posterior)
    means = jax.jit(jax.vmap(run.decode))(z)  # E[x|z], [10, 28, 20] grey levels
    _, samples = jax.jit(jax.vmap(run.sample))(keys)  # z ~ p(z), x ~ p(x|z)
    error = jnp.sqrt(jnp.mean(jnp.square(means.reshape(faces.shape) - faces)))
    print(
        f"a pixel is {jnp.mean(faces):.0f} of 255 on average, in samples {jnp.mean(samples):.0f}, "
        f"and is reconstructed to within {error:.0f}"
    )
    log_prob = jax.jit(jax.vmap(partial(run.log_prob, num_samples=200)))
    return tuple(-float(jnp.mean(log_prob(keys, x))) for x in (faces[:, ::-1], faces))


if __name__ == "__main__":
    turned, upright = main(*sys.argv[1:])
    print(f"-log p(x): {upright:.0f} nats of test images, {turned:.0f} of the same upside down")
