"""M2 of Kingma et al. (2014) on MNIST with few labels: y is summed over where it was not seen.

python experiments/run.py --config=experiments/few_labels.py --sweep

The axes are the number of labels and the draw of them. The networks are smaller than the paper's
(two layers of 500 units there), and the runs are shorter. `python -m experiments.paper.few_labels`
trains M1 and M1+M2 too.
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes

EPOCH = 50_000


def get_config() -> Config:
    config = default_config()
    config.data.name = "mnist"
    config.data.num_labels = 100
    config.model.labels = "m2"
    config.model.num_latents = 50
    config.model.hidden = (200,)
    config.model.layer_hidden = (200,)
    config.model.network_options = {"activation": "softplus"}
    config.model.likelihood = "bernoulli"
    config.model.init = "fan_in"
    config.model.init_at_mean = True
    config.algorithm.param_prior_std = 0.0
    config.optimizer.name = "adam"
    config.optimizer.step_size = 1e-3
    config.train.num_examples = 10 * EPOCH
    return config


def get_sweep() -> Axes:
    return {"data.num_labels": (100, 600, 1000, 3000), "data.label_seed": (0, 1, 2, 3, 4)}
