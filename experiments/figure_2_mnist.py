"""Figure 2 of the paper, MNIST: the bound during training, AEVB compared with wake-sleep.

python experiments/run.py --config=experiments/figure_2_mnist.py --sweep

`make paper` runs it. The images are Larochelle's fixed binarization, 50,000 of them for training.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes, best_of


def get_config() -> Config:
    config = default_config()
    config.data.name = "binarized_mnist"
    config.model.hidden = (500,)
    config.model.num_latents = 20
    config.model.likelihood = "bernoulli"
    config.train.num_examples = 10_000_000
    return config


def get_sweep() -> Axes:
    return {
        "model.num_latents": (3, 5, 10, 20, 200),
        "algorithm.name": ("aevb", "wake_sleep"),
        "optimizer.step_size": best_of(0.01, 0.02, 0.1),
        "seed": (0, 1, 2),
    }
