"""A run of a few seconds, mostly evaluations and checkpoints, which tests interrupt."""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    config = default_config()
    config.data.name = "synthetic"
    config.data.synthetic_num_train = 400
    config.data.synthetic_num_test = 100
    config.model.likelihood = "gaussian"
    config.model.hidden = (8,)
    config.train.num_examples = 20_000
    config.train.first_eval = 500
    config.train.evals_per_decade = 10
    return config


def get_sweep() -> Axes:
    return {"model.num_latents": (1, 2), "seed": (0, 1)}
