"""MNIST, binarised anew in each epoch, 500 hidden units, 20 latent dimensions.

python experiments/run.py --config=experiments/mnist.py

Takes 2 to 3 minutes on two CPU cores.
"""

from aevb.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.data.name = "mnist"
    config.data.binarization = "dynamic"
    config.model.hidden = (500,)
    config.model.num_latents = 20
    config.model.likelihood = "bernoulli"
    config.optimizer.step_size = 0.02
    config.train.num_examples = 5_000_000
    return config
