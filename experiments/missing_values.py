"""Frey faces of which a block is missing, filled in by a model that saw no whole face.

python experiments/run.py --config=experiments/missing_values.py
python experiments/run.py --config=experiments/missing_values.py --config.data.hide=entries

Two tenths of each face are hidden, in the training data too. The bound is on log p of the pixels
that are left, and is the importance-weighted one (MIWAE; Mattei & Frellsen 2019).
"""

from aevb.config import Config
from aevb.experiments import frey_faces
from aevb.sweeps.grid import Axes


def get_config() -> Config:
    config = frey_faces.get_config()
    config.data.hide = "blocks"
    config.data.hide_share = 0.2
    config.model.num_latents = 10
    config.algorithm.bound = "iwae"
    config.algorithm.num_samples = 5
    return config


def get_sweep() -> Axes:
    return {"data.hide": ("entries", "blocks"), "data.hide_share": (0.2, 0.5)}
