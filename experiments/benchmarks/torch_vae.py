"""Trains the paper's VAE in PyTorch, written independently of aevb, to check the bound.

    .venv-bench/bin/python experiments/benchmarks/torch_vae.py --data-dir=DATA --data=frey \
        --split=blocked --latent-dim=2 --num-examples=3000000 --seed=0

The program prints a line of JSON at a few log-spaced points and at the end, with the one-sample
bound of each split in nats, a mean over all datapoints. DATA holds frey_faces/frey_rawface.mat and
binarized_mnist/{train,test}.npz. Settings: Kingma & Welling 2013, section 5 and appendix C.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import raw_data
import torch
from torch import Tensor, nn
from torch.nn import functional

# torch.optim.Adagrad computes g / (sqrt(sum of g²) + eps). With eps = 0 this is 0/0 = NaN while
# all gradients of a parameter are zero. In float32 this eps does not change any root above 2e-13,
# so the update is that of eps = 0, and a parameter without a gradient is not changed.
ADAGRAD_EPS = 1e-20


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """Returns KL(N(mean, diag(exp(log_var))) || N(0, I)) in nats (appendix B): (M, Z) -> (M,)."""
    return -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(-1)


def bernoulli_log_lik(x: Tensor, logits: Tensor) -> Tensor:
    """Returns log p(x|z) of independent Bernoulli pixels, x in {0, 1}: (M, D) -> (M,)."""
    return -functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def gaussian_log_lik(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Returns log N(x; mean, diag(exp(log_var))), constants included: (M, D) -> (M,)."""
    squared_error = (x - mean).square()
    return -0.5 * (math.log(2 * math.pi) + log_var + squared_error * (-log_var).exp()).sum(-1)


class VAE(nn.Module):
    """An encoder and a decoder with one hidden layer of tanh units each (appendix C).

    Args:
        decoder: "bernoulli", or "gaussian_unit_mean". The mean of the latter is a sigmoid; its
            log-variance is a linear function of the hidden layer, one value for each pixel.
    """

    def __init__(self, data_dim: int, hidden_dim: int, latent_dim: int, decoder: str):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder_hidden = nn.Linear(data_dim, hidden_dim)
        self.encoder_mean = nn.Linear(hidden_dim, latent_dim)
        self.encoder_log_var = nn.Linear(hidden_dim, latent_dim)
        self.decoder_hidden = nn.Linear(latent_dim, hidden_dim)
        self.decoder_logits = nn.Linear(hidden_dim, data_dim)
        self.decoder_log_var = None
        if decoder == "gaussian_unit_mean":
            self.decoder_log_var = nn.Linear(hidden_dim, data_dim)
        elif decoder != "bernoulli":
            raise ValueError(f"decoder={decoder!r}: expected bernoulli or gaussian_unit_mean")

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance of q(z|x): (M, D) -> (M, Z), (M, Z)."""
        hidden = self.encoder_hidden(x).tanh()
        return self.encoder_mean(hidden), self.encoder_log_var(hidden)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        """Returns log p(x|z) in nats: (M, D), (M, Z) -> (M,)."""
        hidden = self.decoder_hidden(z).tanh()
        logits = self.decoder_logits(hidden)
        if self.decoder_log_var is None:
            return bernoulli_log_lik(x, logits)
        return gaussian_log_lik(x, logits.sigmoid(), self.decoder_log_var(hidden))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Returns the one-sample bound per datapoint, eq. (7), noise ~ N(0, I).

        Shapes: (M, D), (M, Z) -> (M,).
        """
        mean, log_var = self.encode(x)
        z = mean + (0.5 * log_var).exp() * noise
        return self.log_lik(x, z) - kl_to_standard_normal(mean, log_var)


def init_parameters(model: VAE, generator: torch.Generator, init_std: float) -> None:
    """Draws every weight and every bias from N(0, init_std²)."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, init_std, generator=generator)


def make_optimizer(model: VAE, num_train: int, step_size: float) -> torch.optim.Optimizer:
    """Returns Adagrad for -(mean bound + log N(theta; 0, I) / num_train).

    Its accumulator starts at 0. The prior enters as weight decay, which adds theta / num_train to
    the gradient of the loss.
    """
    return torch.optim.Adagrad(
        model.parameters(),
        lr=step_size,
        weight_decay=1 / num_train,
        initial_accumulator_value=0.0,
        eps=ADAGRAD_EPS,
        fused=True,
    )


def minibatches(data: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields minibatches without end; an epoch's incomplete last one is dropped."""
    while True:
        order = torch.randperm(len(data), generator=generator)
        for indices in order[: len(data) - len(data) % batch_size].split(batch_size):
            yield data.index_select(0, indices)


def loss(model: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """Returns minus the mean bound of a minibatch; the prior on theta is in the optimizer."""
    return -model(x, noise).mean()


def step(
    model: VAE,
    x: Tensor,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    loss: Callable[[VAE, Tensor, Tensor], Tensor] = loss,
) -> None:
    noise = torch.randn(len(x), model.latent_dim, generator=generator)
    optimizer.zero_grad()
    loss(model, x, noise).backward()
    optimizer.step()


def mean_bound(model: VAE, data: Tensor, generator: torch.Generator) -> float:
    """Returns the mean of the one-sample bound over all data (N, D), in nats."""
    total = 0.0
    with torch.no_grad():
        for x in data.split(1000):
            noise = torch.randn(len(x), model.latent_dim, generator=generator)
            total += model(x, noise).double().sum().item()
    return total / len(data)


class DataSet(NamedTuple):
    train: Tensor  # (N, D)
    test: Tensor  # (N_test, D)
    decoder: str  # the likelihood for these pixels
    hidden_dim: int  # the paper's


def load(args: argparse.Namespace) -> DataSet:
    """Loads Frey faces or MNIST; the "random" split of the faces is a fixed random choice."""
    train, test = raw_data.load(args.data_dir, args.data)
    if args.data == "frey" and args.split == "random":
        faces = np.concatenate([train, test])
        faces = faces[np.random.default_rng(0).permutation(len(faces))]
        train, test = faces[: len(train)], faces[len(train) :]
    decoder, hidden = {"frey": ("gaussian_unit_mean", 200), "mnist": ("bernoulli", 500)}[args.data]
    return DataSet(torch.from_numpy(train), torch.from_numpy(test), decoder, hidden)


def make_model(args: argparse.Namespace, data: DataSet, generator: torch.Generator) -> VAE:
    """Returns the model that the flags describe, initialized."""
    hidden_dim = args.hidden_dim or data.hidden_dim
    model = VAE(data.train.shape[1], hidden_dim, args.latent_dim, data.decoder)
    init_parameters(model, generator, args.init_std)
    return model


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the flags that the reference run and the speed worker share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the datasets")
    parser.add_argument("--data", choices=["frey", "mnist"], required=True)
    parser.add_argument("--split", choices=["blocked", "random"], default="blocked", help="frey")
    parser.add_argument("--latent-dim", type=int, required=True)
    parser.add_argument("--hidden-dim", type=int, help="default: the paper's, frey 200, mnist 500")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--step-size", type=float, default=0.02)
    parser.add_argument("--init-std", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def report_points(num_examples: int) -> list[int]:
    """Returns 1, 3, 10, 30, ... times 10^4 below num_examples, then num_examples."""
    points = [scale * 10**power for power in range(4, 10) for scale in (1, 3)]
    return [point for point in points if point < num_examples] + [num_examples]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--num-examples", type=int, required=True)
    args = parser.parse_args()

    data = load(args)
    generator = torch.Generator().manual_seed(args.seed)
    model = make_model(args, data, generator)
    optimizer = make_optimizer(model, len(data.train), args.step_size)
    batches = minibatches(data.train, args.batch_size, generator)
    num_examples, seconds = 0, 0.0
    for point in report_points(args.num_examples):
        start = time.perf_counter()
        while num_examples < point:
            x = next(batches)
            step(model, x, optimizer, generator)
            num_examples += len(x)
        seconds += time.perf_counter() - start
        progress = {
            **{name: getattr(args, name) for name in ("data", "split", "latent_dim", "seed")},
            "num_examples": num_examples,
            "seconds": round(seconds, 2),
            "train_bound": mean_bound(model, data.train, generator),
            "test_bound": mean_bound(model, data.test, generator),
        }
        print(json.dumps(progress), flush=True)


if __name__ == "__main__":
    main()
