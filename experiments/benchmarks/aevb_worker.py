"""Trains aevb's VAE one epoch at a time on request: a contender of train_speed.py.

The training step is that of `experiments/run.py`, with the protocol of worker.py. The experiment is
built from a config, and `aevb.training.loop` advances it by one epoch per request.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import worker

from aevb.config import Values, default_config, validate
from aevb.evaluation import elbo
from aevb.experiment import build
from aevb.training import loop


def config_of(args: argparse.Namespace) -> Values:
    config = default_config()
    config.data.manual_dir = str(args.data_dir)
    config.data.num_valid = 0  # so that the training data are the peers'
    config.model.num_latents = args.latent_dim
    config.train.batch_size = args.batch_size
    config.optimizer.step_size = args.step_size
    if args.data == "mnist":
        config.data.name = "binarized_mnist"
        config.model.hidden = (500,)
        config.model.likelihood = "bernoulli"
    return validate(config)


def main() -> None:
    args = worker.argument_parser(__doc__).parse_args()
    dataset, vae, algorithm = build(config_of(args))
    init_key, order_key, step_key = jax.random.split(jax.random.key(args.seed), 3)
    keys = loop.LoopKeys(order_key, step_key)
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=args.batch_size)
    data, test = jnp.asarray(dataset.train), dataset.test
    steps_per_epoch = len(data) // args.batch_size
    state = jax.jit(algorithm.init)(init_key)
    score = elbo.make_score(vae, dataset.preprocess)

    def train_epoch() -> int:
        nonlocal state
        state, metrics = loop.train_to(advance, keys, data, state, state.step + steps_per_epoch)
        float(metrics["objective"])  # waits for the device
        return steps_per_epoch * args.batch_size

    worker.serve_training(
        ("aevb", "jax"),
        train_epoch,
        lambda: score(state.params, test, np.arange(len(test))).mean,
        device=jax.devices()[0].device_kind,
    )


if __name__ == "__main__":
    main()
