"""The plain VAE that Tomczak & Welling (2018) compare with: gated layers, 300-300-40, warm-up.

python experiments/run.py --config=experiments/gated_mnist.py
python experiments/run.py --config=experiments/gated_mnist.py --config.data.name=mnist

The first is Larochelle's fixed binarization, the second is binarized anew in each epoch. An epoch
has 50,000 examples. The KL's weight rises to 1 during 100 of them, and training stops once 50 have
brought no better validation bound.
"""

from aevb.config import Config, default_config

EPOCH = 50_000


def get_config() -> Config:
    config = default_config()
    config.data.name = "binarized_mnist"
    config.model.network = "gated_mlp"
    config.model.hidden = (300, 300)
    config.model.num_latents = 40
    config.model.likelihood = "bernoulli"
    config.model.init = "fan_in"
    config.optimizer.name = "adam"
    config.optimizer.step_size = 5e-4
    config.algorithm.param_prior_std = 0.0
    config.algorithm.kl_schedule = "linear"
    config.algorithm.kl_schedule_options = {"warmup_examples": 100 * EPOCH}
    config.train.batch_size = 100
    config.train.num_examples = 2000 * EPOCH
    config.train.eval_every = EPOCH
    config.train.patience = 50
    return config
