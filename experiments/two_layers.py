"""Two layers of latents, 100 and 50, on MNIST: the larger model of Burda et al. (2016).

python experiments/run.py --config=experiments/two_layers.py --config.train.num_examples=2000000
python experiments/run.py --config=experiments/two_layers.py --config.model.inference=top_down

The networks are 784-200-200-100-100-100-50 and back, with five importance samples. In full, the
schedule of the step size has eight stages, of 3,280 passes over the data; these are seven of them.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes

EPOCH = 50_000


def get_config() -> Config:
    config = default_config()
    config.data.name = "mnist"
    config.model.num_latents = (100, 50)
    config.model.hidden = (200, 200)
    config.model.layer_hidden = (100, 100)
    config.model.likelihood = "bernoulli"
    config.model.init = "fan_in"
    config.model.init_at_mean = True
    config.algorithm.bound = "iwae"
    config.algorithm.num_samples = 5
    config.algorithm.param_prior_std = 0.0
    config.optimizer.name = "adam"
    config.optimizer.step_size = 1e-3
    config.optimizer.options = {"eps": 1e-4}
    config.optimizer.schedule = "burda"
    config.optimizer.schedule_options = {"num_stages": 7}
    config.train.batch_size = 20
    config.train.num_examples = 1093 * EPOCH
    return config


def get_sweep() -> Axes:
    return {
        "algorithm.num_samples": (1, 5, 50),
        "model.inference": ("bottom_up", "top_down", "ladder"),
    }
