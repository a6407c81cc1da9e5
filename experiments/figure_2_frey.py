"""Figure 2 of the paper, Frey faces: the bound during training, AEVB compared with wake-sleep.

python experiments/run.py --config=experiments/figure_2_frey.py --sweep

`make paper` runs it. The split is the random one of the literature, which agrees with the axes of
the paper's figure.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes, best_of


def get_config() -> Config:
    config = default_config()
    config.data.name = "frey_faces"
    config.data.split = "random"
    config.model.hidden = (200,)
    config.model.num_latents = 2
    config.model.likelihood = "gaussian_unit_mean"
    config.train.num_examples = 10_000_000
    return config


def get_sweep() -> Axes:
    return {
        "model.num_latents": (2, 5, 10, 20),
        "algorithm.name": ("aevb", "wake_sleep"),
        "optimizer.step_size": best_of(0.01, 0.02, 0.1),
        "seed": (0, 1, 2),
    }
