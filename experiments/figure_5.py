"""Figures 4 (right) and 5 of the paper: MNIST models with 2, 5, 10 and 20 latent dimensions.

python experiments/run.py --config=experiments/figure_5.py --sweep

`make paper` runs it. It takes about 10 minutes on two CPU cores.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    config = default_config()
    config.data.name = "binarized_mnist"
    config.model.hidden = (500,)
    config.model.num_latents = 2
    config.model.likelihood = "bernoulli"
    config.optimizer.step_size = 0.02
    config.train.num_examples = 10_000_000
    return config


def get_sweep() -> Axes:
    return {"model.num_latents": (2, 5, 10, 20)}
