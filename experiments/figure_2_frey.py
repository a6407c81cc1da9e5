"""Figure 2 of the paper, Frey faces: the bound during training, AEVB compared with wake-sleep.

python experiments/run.py --config=experiments/figure_2_frey.py --sweep

`make paper` runs it. The split is the random one of the literature, which agrees with the axes of
the paper's figure.
"""

from aevb.config import Config, with_values
from aevb.experiments import frey_faces
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    values = {"data.split": "random", "train.num_examples": 10_000_000}
    return with_values(frey_faces.get_config(), values)


def get_sweep() -> Axes:
    return {"algorithm.name": ("aevb", "wake_sleep"), **frey_faces.get_sweep()}
