"""The datasets as NumPy arrays, read directly from their files, for peers without aevb.

DATA holds frey_faces/frey_rawface.mat and binarized_mnist/{train,test}.npz.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

NUM_FREY_TRAIN = 1572  # the first of 1965 frames


class Arrays(NamedTuple):
    train: np.ndarray  # [N, D] float32
    test: np.ndarray


def load(data_dir: Path, name: str) -> Arrays:
    """Loads Frey faces scaled by 1/256 and split in time, or the fixed binarization of MNIST."""
    if name == "frey":
        import scipy.io

        faces = scipy.io.loadmat(str(data_dir / "frey_faces" / "frey_rawface.mat"))["ff"].T
        scaled = faces.astype(np.float32) / 256
        return Arrays(scaled[:NUM_FREY_TRAIN], scaled[NUM_FREY_TRAIN:])

    def images(split: str) -> np.ndarray:
        with np.load(data_dir / "binarized_mnist" / f"{split}.npz") as arrays:
            return np.unpackbits(arrays["packed_images"], axis=1).astype(np.float32)

    return Arrays(images("train"), images("test"))
