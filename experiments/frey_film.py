"""The Frey faces as a film: a state-space model of windows of 16 frames in a row.

python experiments/run.py --config=experiments/frey_film.py
python experiments/run.py --config=experiments/frey_film.py --config.model.dynamics=linear

p(z_t|z_{t-1}) is a network, p(x_t|z_t) the paper's Gaussian, and the guide has recurrent units. A
training example is a window. The weight of the KL rises in the first half of training; without it,
or with the paper's tanh units, which saturate in the first ten steps, the decoder ignores z.
`python -m experiments.paper.film` scores the last fifth of the film given what came before.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    config = default_config()
    config.data.name = "frey_faces"
    config.data.window = 16
    config.model.dynamics = "neural"
    config.model.sequence_guide = "filtering"
    config.model.num_latents = 10
    config.model.hidden = (200,)
    config.model.network_options = {"activation": "silu"}
    config.model.layer_hidden = (64,)
    config.model.likelihood = "gaussian_unit_mean"
    config.model.init = "fan_in"
    config.model.init_at_mean = True
    config.optimizer.name = "adam"
    config.optimizer.step_size = 1e-3
    config.algorithm.kl_schedule = "linear"
    config.train.batch_size = 20
    config.train.eval_every = 2500
    config.train.num_examples = 20_000
    return config


def get_sweep() -> Axes:
    return {
        "model.dynamics": ("linear", "neural"),
        "model.sequence_guide": ("smoothing", "filtering", "mean_field", "structured"),
        "seed": (0, 1, 2),
    }
