"""Larochelle's fixed binarization of MNIST, with 500 hidden units and 20 latent dimensions.

python experiments/run.py --config=experiments/binarized_mnist.py

The test bound ends at about -104 nats, after 2 minutes on two CPU cores.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes, best_of


def get_config() -> Config:
    config = default_config()
    config.data.name = "binarized_mnist"
    config.model.hidden = (500,)
    config.model.num_latents = 20
    config.model.likelihood = "bernoulli"
    config.optimizer.step_size = 0.02
    config.train.num_examples = 5_000_000
    return config


def get_sweep() -> Axes:
    """Returns the axes of the paper's figure 2; the step size is chosen as in the paper."""
    return {
        "model.num_latents": (3, 5, 10, 20, 200),
        "optimizer.step_size": best_of(0.01, 0.02, 0.1),
        "seed": (0, 1, 2),
    }
