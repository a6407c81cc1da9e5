"""A sigmoid belief network with 200 latents of 0 and 1, on binarized MNIST.

python experiments/run.py --config=experiments/sigmoid_belief_network.py
python experiments/run.py --config=experiments/sigmoid_belief_network.py \
--config.algorithm.name=reweighted_wake_sleep
python experiments/run.py --config=experiments/sigmoid_belief_network.py \
--config.model.guide=relaxed_bernoulli --config.model.prior=relaxed_bernoulli \
--config.algorithm.bound=sgvb_a

Encoder and decoder are linear, as in Mnih & Gregor (2014) and Mnih & Rezende (2016).
"""

from aevb.config import Config, default_config
from aevb.sweeps.grid import Axes, best_of


def get_config() -> Config:
    config = default_config()
    config.data.name = "binarized_mnist"
    config.model.hidden = ()
    config.model.num_latents = 200
    config.model.likelihood = "bernoulli"
    config.model.guide = "bernoulli"
    config.model.prior = "bernoulli"
    config.model.init = "fan_in"
    config.model.init_at_mean = True
    config.algorithm.bound = "vimco"
    config.algorithm.num_samples = 5
    config.algorithm.param_prior_std = 0.0
    config.optimizer.name = "adam"
    config.optimizer.step_size = 1e-3
    config.train.num_examples = 5_000_000
    return config


def get_sweep() -> Axes:
    return {
        "algorithm.bound": ("score_function_loo", "nvil", "vimco"),
        "optimizer.step_size": best_of(3e-4, 1e-3, 3e-3, by="valid"),
        "seed": (0, 1, 2),
    }
