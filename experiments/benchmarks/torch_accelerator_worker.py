"""Measures the training of the same models in PyTorch: a worker of accelerator.py.

The protocol is that of cell_worker.py. The training data are one tensor on the device. "eager" is
plain PyTorch, "compile" has loss and gradient through torch.compile, and "graphs" through
torch.compile with CUDA graphs (mode="reduce-overhead"). The optimizer is fused. "tensorfloat32"
allows TF32 in products and convolutions, and "bfloat16" is torch.autocast.
"""

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cell_worker
import kinds
import raw_data
import torch
import torch_kinds_worker
import torch_vae
import worker
from torch import Tensor, nn

NUM_LATENTS = 20
SIDE = 28


def make_model(network: str, hidden: Sequence[int], device: str) -> nn.Module:
    torch.manual_seed(0)
    if network == "conv":
        kind = kinds.KINDS["conv"]._replace(hidden=tuple(hidden), num_latents=NUM_LATENTS)
        return torch_kinds_worker.VAE(kind).to(device)
    [units] = hidden
    model = torch_vae.VAE(SIDE**2, units, NUM_LATENTS, "bernoulli")
    torch_vae.init_parameters(model, torch.Generator().manual_seed(0), 0.1)
    return model.to(device)


def minibatches(data: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yields minibatches without end, permuted on the device of the data."""
    while True:
        order = torch.randperm(len(data), device=data.device)
        for indices in order[: len(data) - len(data) % batch_size].split(batch_size):
            yield data.index_select(0, indices)


def loss_in(way: str) -> Callable[..., Tensor]:
    """Returns the loss of `torch_vae`, compiled unless the way is "eager"."""
    torch.compiler.reset()
    if way == "eager":
        return torch_vae.loss
    return torch.compile(torch_vae.loss, mode="reduce-overhead" if way == "graphs" else None)


def allow(precision: str) -> None:
    """Allows TF32 in the float32 products and convolutions of this process, or not."""
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"


class Measures:
    """The function that measures a cell, on one device."""

    def __init__(self, folder: Path, device: str):
        self.folder, self.device = folder, device

    @functools.cached_property
    def data(self) -> Tensor:
        return torch.from_numpy(raw_data.load(self.folder, "mnist").train).to(self.device)

    def single(
        self, *, network: str, hidden: Sequence[int], batch_size: int, precision: str, way: str,
        **how: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Measures one run."""
        allow(precision)
        model, loss = make_model(network, hidden, self.device), loss_in(way)
        optimizer = torch_vae.make_optimizer(model, len(self.data), 0.02)
        batches = minibatches(self.data, batch_size)
        is_mixed = precision == "bfloat16"

        def take(number: int) -> float:
            for x in (next(batches) for _ in range(number)):
                torch.compiler.cudagraph_mark_step_begin()
                noise = torch.randn(batch_size, NUM_LATENTS, device=self.device)
                optimizer.zero_grad()
                with torch.autocast(self.device, torch.bfloat16, enabled=is_mixed):
                    value = loss(model, x, noise)
                value.backward()
                optimizer.step()
            return -value.item()  # waits for the device

        return cell_worker.rates(take, batch_size, **how)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the datasets")
    args = parser.parse_args()
    torch.set_num_threads(worker.num_cores())
    torch.set_flush_denormal(True)  # see torch_worker.py
    measures = Measures(args.data_dir, "cuda" if torch.cuda.is_available() else "cpu")
    cell_worker.serve(("torch",), {"single": measures.single})


if __name__ == "__main__":
    main()
