"""Trains aevb's VAE one epoch at a time on request: a contender of train_speed.py.

The same step as `experiments/run.py` runs, by the protocol that torch_worker.py tells: the
experiment is built from a config, and `aevb.loop` advances it by one epoch a request.
"""

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from aevb import evaluate, loop
from aevb.config import Values, default_config, validate
from aevb.experiment import build


def config_of(args: argparse.Namespace) -> Values:
    config = default_config()
    config.data.manual_dir = str(args.data_dir)
    config.model.num_latents = args.latent_dim
    config.train.batch_size = args.batch_size
    config.optimizer.step_size = args.step_size
    if args.data == "mnist":
        config.data.name = "binarized_mnist"
        config.model.hidden = (500,)
        config.model.likelihood = "bernoulli"
    return validate(config)


def answer(message: dict) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--data", choices=["frey", "mnist"], required=True)
    parser.add_argument("--latent-dim", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--step-size", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    dataset, vae, algorithm = build(config_of(args))
    init_key, order_key, step_key = jax.random.split(jax.random.key(args.seed), 3)
    keys = loop.LoopKeys(order_key, step_key)
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=args.batch_size)
    data, test = jnp.asarray(dataset.train), dataset.test
    steps_per_epoch = len(data) // args.batch_size
    state = jax.jit(algorithm.init)(init_key)

    def train_epoch() -> dict:
        nonlocal state
        start, cpu_start = time.perf_counter(), time.process_time()
        state, metrics = loop.train_to(advance, keys, data, state, state.step + steps_per_epoch)
        float(metrics["bound"])  # waits for the device
        return {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
            "examples": steps_per_epoch * args.batch_size,
        }

    train_epoch()
    versions = {name: version(name) for name in ("aevb", "jax")}
    answer({"ready": True, "versions": versions, "threads": os.cpu_count()})
    score = evaluate.make_score(vae, dataset.preprocess)
    for line in sys.stdin:
        request = line.strip()
        if request == "epoch":
            answer(train_epoch())
        elif request == "bound":
            answer({"test_bound": score(state.params, test, np.arange(len(test))).mean})
        else:
            raise ValueError(f"request {request!r}: expected epoch or bound")


if __name__ == "__main__":
    main()
