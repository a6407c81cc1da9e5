"""Larochelle's fixed binarization of MNIST, 500 hidden units, 20 latent dimensions.

python experiments/run.py --config=experiments/binarized_mnist.py

Ends at a test bound of about -104 nats, in 2 minutes on two CPU cores.
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
    """Figure 2 of the paper, which chooses the step size so too."""
    return {
        "model.num_latents": (3, 5, 10, 20, 200),
        "optimizer.step_size": best_of(0.01, 0.02, 0.1),
        "seed": (0, 1, 2),
    }
