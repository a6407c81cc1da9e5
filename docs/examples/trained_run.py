"""A finished run as pure functions of one datapoint, which can be jitted and vmapped.

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
from aevb import runs
from aevb.config import default_config, validate, with_values


def main(folder=None, *, num_examples=200_000):
    """Returns minus log p(x) of test images turned upside down, and of the originals, in nats."""
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = Path(temporary) / "run"
            changes = {"train.num_examples": num_examples}
            runs.run(validate(with_values(default_config(), changes)), folder)
        run = aevb.load_run(folder)  # needs no data
        stored = run.dataset.test[:10]  # loads them, and checks that they are those of the run

    keys = jax.random.split(jax.random.key(0), len(stored))
    x = jax.vmap(run.preprocess)(keys, jnp.asarray(stored))  # the input of the model

    posterior = jax.jit(jax.vmap(run.encode))(x)  # statistics of q(z|x)
    z = jax.vmap(run.vae.guide.sample)(keys, posterior)
    means = jax.jit(jax.vmap(run.decode))(z)  # E[x|z]
    _, samples = jax.jit(jax.vmap(run.sample))(keys)  # z ~ p(z), x ~ p(x|z)
    error = jnp.sqrt(jnp.mean(jnp.square(means - x)))
    print(
        f"a pixel is {jnp.mean(x):.2f} on average, in samples {jnp.mean(samples):.2f}, and is "
        f"reconstructed to within {error:.3f}"
    )
    log_prob = jax.jit(jax.vmap(partial(run.log_prob, num_samples=200)))
    return tuple(-float(jnp.mean(log_prob(keys, data))) for data in (x[:, ::-1], x))


if __name__ == "__main__":
    turned, upright = main(*sys.argv[1:])
    print(f"-log p(x): {upright:.0f} nats of test images, {turned:.0f} of the same upside down")
