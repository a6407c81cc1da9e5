"""Data of your own, of any kind, in 2 latent dimensions; `aevb.fit(x)` has the same settings.

python experiments/run.py --config=experiments/own_data.py --config.data.name=file:scores.csv

The likelihood is by the kind of the data: bernoulli for binary, continuous_bernoulli for pixels,
gaussian_shared for real numbers, negative_binomial for counts.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    config = default_config()
    config.data.name = "file:"
    config.model.likelihood = ""
    config.model.hidden = (200, 200)
    config.model.init = "fan_in"
    config.optimizer.name = "adam"
    config.optimizer.step_size = 0.001
    config.train.num_examples = 500_000
    return config


def get_sweep() -> Axes:
    return {"model.num_latents": (2, 5, 10, 20), "seed": (0, 1, 2)}
