"""Figure 3 of the paper: the marginal likelihood of three algorithms, with few and many images.

python experiments/run.py --config=experiments/figure_3.py --sweep

`make paper` runs it and estimates log p(x) at every checkpoint. The model has 100 hidden units and
3 latent dimensions, for which the paper's estimator of appendix D still works.
"""

from aevb.config import Config, with_values
from aevb.experiments import binarized_mnist
from aevb.sweeps.grid import Axes, best_of


def get_config() -> Config:
    values = {
        "data.num_valid": 0,  # as in the paper; nothing is chosen by the test bound
        "model.hidden": (100,),
        "model.num_latents": 3,
        "train.num_examples": 3_000_000,
        "train.evals_per_decade": 2,
        "train.eval_examples": 1000,
        "train.keep_checkpoints": True,
    }
    return with_values(binarized_mnist.get_config(), values)


def get_sweep() -> Axes:
    return {
        "data.num_train": (1000, 50_000),
        "algorithm.name": ("aevb", "wake_sleep", "mcem"),
        "optimizer.step_size": best_of(0.01, 0.02, 0.1),
        "seed": (0, 1, 2),
    }
