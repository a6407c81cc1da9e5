"""Figure 2 of the paper, MNIST: the bound during training, AEVB compared with wake-sleep.

python experiments/run.py --config=experiments/figure_2_mnist.py --sweep

`make paper` runs it. The images are Larochelle's fixed binarization, 50,000 of them for training.
As in the paper, the curves are of the training and the test data, and the validation images are not
used: nothing is chosen by the test bound.
"""

from aevb.config import Config, with_values
from aevb.experiments import binarized_mnist
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    values = {"data.num_valid": 0, "train.num_examples": 10_000_000}
    return with_values(binarized_mnist.get_config(), values)


def get_sweep() -> Axes:
    return {"algorithm.name": ("aevb", "wake_sleep"), **binarized_mnist.get_sweep()}
