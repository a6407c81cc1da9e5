"""Custom images, as an array or as a folder, trained like the package's datasets.

python docs/examples/own_images.py [FOLDER]

The program writes the Frey faces into a folder, as faces.npy and as faces/0.png, faces/1.png, ...,
and reads them like any other images. FOLDER keeps them, and the run with its figures; by default
the folder is temporary. These commands only train, and can be stopped and resumed:

python experiments/run.py --config=experiments/frey_faces.py --config.data.name=file:faces.npy
python experiments/run.py --config=experiments/frey_faces.py --config.data.name=images:faces

Levels of 0..255 are grey data, for likelihoods such as `gaussian_unit_mean`. With
--config.data.binarization=fixed they become binary, for `bernoulli`. An array of bool is binary,
and an array of floating point is real-valued, for `gaussian`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from aevb import data, runs
from aevb.config import default_config, validate, with_values
from aevb.storage.metrics_log import read_records


def write(folder):
    """Writes the faces, uint8 [N, 28, 20], in two forms."""
    faces = data.load("frey_faces")
    images = np.concatenate([faces.train, faces.test]).reshape(-1, 28, 20)
    (folder / "faces").mkdir(parents=True)
    np.save(folder / "faces.npy", images)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "faces" / f"{number}.png")


def main(folder=None, *, num_examples=200_000):
    """Trains the model; returns the first and last evaluated loss, in nats per validation image."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(folder or temporary)
        write(folder)
        array, images = f"file:{folder / 'faces.npy'}", f"images:{folder / 'faces'}"
        assert np.array_equal(data.load(array).train, data.load(images).train)
        changes = {
            "data.name": images,
            "data.split": "random",  # the default is blocked: the last fifth is for testing
            "train.num_examples": num_examples,
            "train.first_eval": 1000,
        }
        runs.run(validate(with_values(default_config(), changes)), folder / "run")
        records = read_records(folder / "run" / "metrics.jsonl")
        return -records[0]["valid_bound"], -records[-1]["valid_bound"]


if __name__ == "__main__":
    print("loss, first and last evaluation: {:.1f} and {:.1f} nats".format(*main(*sys.argv[1:])))
