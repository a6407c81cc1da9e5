"""The Frey faces as a film: a state-space model of windows of 16 frames in a row.

python experiments/run.py --config=experiments/frey_film.py
python experiments/run.py --config=experiments/frey_film.py --config.model.dynamics=linear

p(z_t|z_{t-1}) is a network, p(x_t|z_t) the paper's Gaussian, and the guide has recurrent units. A
training example is a window. With the paper's tanh units, all units of the encoder saturate in the
first ten steps, and the decoder ignores z; with silu and this step size it uses z after 300 steps.
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
    config.optimizer.step_size = 3e-3
    config.train.batch_size = 20
    config.train.eval_every = 5000
    config.train.num_examples = 40_000
    return config


def get_sweep() -> Axes:
    return {
        "model.dynamics": ("linear", "neural"),
        "model.sequence_guide": ("smoothing", "filtering", "mean_field", "structured"),
        "seed": (0, 1, 2),
    }
