"""Figures 4 (right) and 5 of the paper: MNIST models with 2, 5, 10 and 20 latent dimensions.

python experiments/run.py --config=experiments/figure_5.py --sweep

`make paper` runs it. It takes about 10 minutes on two CPU cores.
"""

from aevb.config import Config, with_values
from aevb.experiments import binarized_mnist
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    values = {"data.num_valid": 0, "model.num_latents": 2, "train.num_examples": 10_000_000}
    return with_values(binarized_mnist.get_config(), values)


def get_sweep() -> Axes:
    return {"model.num_latents": (2, 5, 10, 20)}
