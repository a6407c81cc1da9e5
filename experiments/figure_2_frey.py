"""Figure 2 of the paper, Frey faces: the bound during training, AEVB compared with wake-sleep.

python experiments/run.py --config=experiments/figure_2_frey.py --sweep

`make paper` runs it. The split is random, as in the literature: no other split agrees with the axes
of the paper's figure. As in the paper, the curves are of the training and the test data, and there
are no validation data: nothing is chosen by the test bound.
"""

from aevb.config import Config, with_values
from aevb.experiments import figure_4_frey
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    values = {"data.split": "random", "data.num_valid": 0, "train.num_examples": 10_000_000}
    return with_values(figure_4_frey.get_config(), values)


def get_sweep() -> Axes:
    return {"algorithm.name": ("aevb", "wake_sleep"), **figure_4_frey.get_sweep()}
