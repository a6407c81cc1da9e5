"""The Frey faces in a 2-D latent space, which `make run` trains.

python experiments/run.py --config=experiments/frey_faces.py

The settings are the paper's, of `figure_4_frey.py`.
"""

from aevb.config import Config
from aevb.experiments import figure_4_frey
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    return figure_4_frey.get_config()


def get_sweep() -> Axes:
    return figure_4_frey.get_sweep()
