"""Trains the PyTorch VAE one epoch at a time on request: a contender of train_speed.py.

The protocol is that of worker.py.
--feed=preloaded: the dataset is one tensor, and a minibatch is an index_select of it.
--feed=dataloader: TensorDataset and DataLoader, as in most PyTorch programs.
--compile: loss and gradient through torch.compile (needs a C++ compiler).
"""

import functools
import itertools
from collections.abc import Iterable

import torch
import torch_vae
import worker
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    parser = torch_vae.argument_parser(__doc__)
    parser.add_argument("--feed", choices=["preloaded", "dataloader"], required=True)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(worker.num_cores())
    # The prior shrinks the weights of dead pixels into the denormals, which are slow on some CPUs.
    # XLA also flushes them. The setting belongs to a thread, and later threads inherit it, so it is
    # set early.
    torch.set_flush_denormal(True)

    data = torch_vae.load(args)
    generator = torch.Generator().manual_seed(args.seed)
    model = torch_vae.make_model(args, data, generator)
    optimizer = torch_vae.make_optimizer(model, len(data.train), args.step_size)
    loss = torch.compile(torch_vae.loss) if args.compile else torch_vae.loss
    steps_per_epoch = len(data.train) // args.batch_size
    if args.feed == "preloaded":
        endless = torch_vae.minibatches(data.train, args.batch_size, generator)
        epoch = functools.partial(itertools.islice, endless, steps_per_epoch)
    else:
        loader = DataLoader(
            TensorDataset(data.train),
            batch_size=args.batch_size,
            shuffle=True,
            drop_last=True,
            generator=generator,
        )

        def epoch() -> Iterable[Tensor]:
            return (x for (x,) in loader)

    def train_epoch() -> int:
        for x in epoch():
            torch_vae.step(model, x, optimizer, generator, loss)
        return steps_per_epoch * args.batch_size

    worker.serve_training(
        ("torch",),
        train_epoch,
        lambda: torch_vae.mean_bound(model, data.test, generator),
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
