"""Trains the PyTorch VAE one epoch at a time on request: a contender of train_speed.py.

After set-up and one warm-up epoch it prints {"ready": true, ...}. Then every line of stdin is
answered by one line of JSON: "epoch" trains one epoch and answers {"seconds", "cpu_seconds",
"examples"}; "bound" answers {"test_bound"}, in nats, over all test datapoints. The end of stdin
ends it. Between requests it blocks on stdin, so it takes no time from other contenders.

--feed=preloaded: the data set is one tensor, a minibatch is an index_select of it.
--feed=dataloader: TensorDataset and DataLoader, as most PyTorch programs have it.
--compile: loss and gradient through torch.compile (needs a C++ compiler).
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterable

import torch
import torch_vae
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


def loss(model: torch_vae.VAE, x: Tensor, noise: Tensor) -> Tensor:
    """Minus the mean bound of a minibatch; the prior on theta is in the optimizer."""
    return -model(x, noise).mean()


def num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def answer(message: dict) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    parser = torch_vae.argument_parser(__doc__)
    parser.add_argument("--feed", choices=["preloaded", "dataloader"], required=True)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(num_cores())
    # Under the prior the weights of dead pixels shrink into the denormals, slow on some CPUs. XLA
    # flushes them too. The setting belongs to a thread, and later threads inherit it: so, early.
    torch.set_flush_denormal(True)

    data = torch_vae.load(args)
    generator = torch.Generator().manual_seed(args.seed)
    model = torch_vae.make_model(args, data, generator)
    optimizer = torch_vae.make_optimizer(model, len(data.train), args.step_size)
    loss_fn = torch.compile(loss) if args.compile else loss
    loader = DataLoader(
        TensorDataset(data.train),
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=0,
        generator=generator,
    )

    def minibatches() -> Iterable[Tensor]:
        if args.feed == "dataloader":
            return (x for (x,) in loader)
        indices = torch_vae.shuffled_minibatches(len(data.train), args.batch_size, generator)
        return (data.train.index_select(0, i) for i in indices)

    def train_epoch() -> dict:
        start, cpu_start = time.perf_counter(), time.process_time()
        examples = 0
        for x in minibatches():
            noise = torch.randn(len(x), args.latent_dim, generator=generator)
            optimizer.zero_grad()
            loss_fn(model, x, noise).backward()
            optimizer.step()
            examples += len(x)
        return {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
            "examples": examples,
        }

    train_epoch()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    answer({"ready": True, "versions": versions, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        request = line.strip()
        if request == "epoch":
            answer(train_epoch())
        elif request == "bound":
            answer({"test_bound": torch_vae.mean_bound(model, data.test, generator)})
        else:
            raise ValueError(f"request {request!r}: expected epoch or bound")


if __name__ == "__main__":
    main()
