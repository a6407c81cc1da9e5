"""Trains the PyTorch VAE one epoch at a time on request: a contender of train_speed.py.

The protocol is that of worker.py.
--feed=preloaded: the dataset is one tensor, a minibatch is an index_select of it.
--feed=dataloader: TensorDataset and DataLoader, as in most PyTorch programs.
--compile: loss and gradient through torch.compile (needs a C++ compiler).
"""

import platform
from collections.abc import Iterable

import torch
import torch_vae
import worker
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


def loss(model: torch_vae.VAE, x: Tensor, noise: Tensor) -> Tensor:
    """Returns minus the mean bound of a minibatch; the prior on theta is in the optimizer."""
    return -model(x, noise).mean()


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

    def train_epoch() -> int:
        examples = 0
        for x in minibatches():
            noise = torch.randn(len(x), args.latent_dim, generator=generator)
            optimizer.zero_grad()
            loss_fn(model, x, noise).backward()
            optimizer.step()
            examples += len(x)
        return examples

    worker.serve(
        train_epoch,
        lambda: torch_vae.mean_bound(model, data.test, generator),
        versions={"python": platform.python_version(), "torch": torch.__version__},
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
