"""A posterior over the decoder's weights, compared with MAP, on Frey faces.

python experiments/run.py --config=experiments/full_vb_frey.py --sweep

The paper has no such experiment. Full variational Bayes (appendix F) is compared with AEVB with a
point estimate, on few and on more frames. `make paper` runs it and estimates the test log p(x).
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
    config.train.num_examples = 3_000_000
    return config


def get_sweep() -> Axes:
    return {
        "data.num_train": (100, 1000),
        "algorithm.name": ("aevb", "full_vb"),
        "optimizer.step_size": best_of(0.01, 0.02, 0.1),
        "seed": (0, 1, 2),
    }
