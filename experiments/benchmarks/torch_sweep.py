"""Trains every member of a sweep in one process, one after another: a way of sweep_speed.py.

    .venv-bench/bin/python experiments/benchmarks/torch_sweep.py --data-dir=DATA \
        --latents=3,5 --seeds=0,1 --num-examples=1000000

The training is that of torch_worker.py --feed=preloaded, without evaluation. After each member the
program prints a line of JSON with the member's bound on the test data, in nats.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import torch
import torch_vae
import worker


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--latents", required=True)
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--num-examples", type=int, required=True)
    parser.add_argument("--step-size", type=float, default=0.02)
    args = parser.parse_args()
    torch.set_num_threads(worker.num_cores())
    torch.set_flush_denormal(True)  # see torch_worker.py

    data = None
    for num_latents, seed in itertools.product(args.latents.split(","), args.seeds.split(",")):
        began = time.perf_counter()
        flags = [f"--data-dir={args.data_dir}", "--data=mnist", f"--latent-dim={num_latents}"]
        flags += [f"--seed={seed}", f"--step-size={args.step_size}"]
        settings = torch_vae.argument_parser(None).parse_args(flags)
        data = data or torch_vae.load(settings)
        generator = torch.Generator().manual_seed(settings.seed)
        model = torch_vae.make_model(settings, data, generator)
        optimizer = torch_vae.make_optimizer(model, len(data.train), settings.step_size)
        minibatches = torch_vae.minibatches(data.train, settings.batch_size, generator)
        for x in itertools.islice(minibatches, args.num_examples // settings.batch_size):
            torch_vae.step(model, x, optimizer, generator)
        member = {
            "num_latents": settings.latent_dim,
            "seed": settings.seed,
            "test_bound": torch_vae.mean_bound(model, data.test, generator),
            "seconds": time.perf_counter() - began,
        }
        print(json.dumps(member), flush=True)


if __name__ == "__main__":
    main()
