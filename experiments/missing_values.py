"""Frey faces of which a block is missing, filled in by a model that saw no whole face.

python experiments/run.py --config=experiments/missing_values.py
python experiments/run.py --config=experiments/missing_values.py --config.data.hide=entries

Two tenths of each face are hidden, in the training data too. The bound is on log p of the pixels
that are left, and is the importance-weighted one (MIWAE; Mattei & Frellsen 2019). The last state
fills better than the best by the validation bound: the means are still learned when the variance
has become too small for the frames of another time.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    config = default_config()
    config.data.name = "frey_faces"
    config.data.hide = "blocks"
    config.data.hide_share = 0.2
    config.model.num_latents = 20
    config.model.likelihood = "gaussian_shared"
    config.model.init = "fan_in"
    config.algorithm.bound = "iwae"
    config.algorithm.num_samples = 5
    config.algorithm.param_prior_std = 0.0
    config.optimizer.name = "adam"
    config.optimizer.step_size = 0.002
    config.train.batch_size = 200
    config.train.num_examples = 600_000
    return config


def get_sweep() -> Axes:
    return {"data.hide": ("entries", "blocks"), "data.hide_share": (0.2, 0.5)}
