"""A posterior over the decoder's weights, compared with MAP, on Frey faces.

python experiments/run.py --config=experiments/full_vb_frey.py --sweep

The paper has no such experiment. Full variational Bayes (appendix F) is compared with AEVB with a
point estimate, on few and on more frames. `make paper` runs it and estimates the test log p(x).

The optimizer is Adam, because Adagrad's path is too short to reach the optimum of the variances.
"""

from aevb.config import Config, with_values
from aevb.experiments import figure_4_frey
from aevb.sweeps.grid import Axes, best_of


def get_config() -> Config:
    values = {
        "data.split": "random",
        "optimizer.name": "adam",
        "train.num_examples": 5_000_000,
        "train.evals_per_decade": 22,  # they are a tenth of the examples apart
    }
    return with_values(figure_4_frey.get_config(), values)


def get_sweep() -> Axes:
    return {
        "data.num_train": (100, 1000),
        "algorithm.name": ("aevb", "full_vb"),
        "optimizer.step_size": best_of(0.003, 0.01, num_examples=500_000),
        "seed": (0, 1, 2, 3, 4),
    }
