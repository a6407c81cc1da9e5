"""The Frey faces in a 2-D latent space with the paper's settings: figure 4 (left).

python experiments/run.py --config=experiments/figure_4_frey.py

`make run` trains `frey_faces.py` instead, which has clear faces on the whole plane.

Without validation data (--config.data.num_valid=0) the bound ends at about 930 nats on the training
frames and 500 on the last fifth of the film, after 70 to 100 s on two CPU cores. The test bound is
highest, near 690, after a sixth of the training; the decoded faces improve until the end.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes, best_of


def get_config() -> Config:
    config = default_config()
    config.data.name = "frey_faces"
    config.data.split = "blocked"
    config.model.hidden = (200,)
    config.model.num_latents = 2
    config.model.likelihood = "gaussian_unit_mean"
    config.optimizer.step_size = 0.02
    config.train.num_examples = 6_000_000
    return config


def get_sweep() -> Axes:
    """Returns the axes of the paper's figure 2; the step size is chosen as in the paper."""
    return {
        "model.num_latents": (2, 5, 10, 20),
        "optimizer.step_size": best_of(0.01, 0.02, 0.1),
        "seed": (0, 1, 2),
    }
