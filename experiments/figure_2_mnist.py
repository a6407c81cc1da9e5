"""Figure 2 of the paper, MNIST: the bound during training, AEVB compared with wake-sleep.

python experiments/run.py --config=experiments/figure_2_mnist.py --sweep

`make paper` runs it. The images are Larochelle's fixed binarization, 50,000 of them for training.
"""

from aevb.config import Config, with_values
from aevb.experiments import binarized_mnist
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    return with_values(binarized_mnist.get_config(), {"train.num_examples": 10_000_000})


def get_sweep() -> Axes:
    return {"algorithm.name": ("aevb", "wake_sleep"), **binarized_mnist.get_sweep()}
