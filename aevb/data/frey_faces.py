"""The Frey faces: 1,965 frames of a film of one face, [D] = 28 x 20 grey levels.

The frames are part of the package. They are read from there each time, which takes 10 ms and needs
no writable folder. `aevb.data.prepare("frey_faces")` makes a TensorFlow dataset of them for other
tools.
"""

import zlib
from pathlib import Path

import numpy as np

from aevb.data import Dataset, Options, preprocessing, splits
from aevb.data.io import sources
from aevb.data.io.sources import Part, Source

IMAGE_SHAPE = (28, 20)
NUM_FRAMES = 1965
NUM_VALID = 200  # by default, as in the literature


def load(options: Options) -> Dataset:
    """Returns the frames in three parts, by default of 1,372 + 200 + 393 or 1,565 + 200 + 200.

    The split `blocked` takes the last 20% of the film for the test, the frames before them for
    validation and the others for training. The split `random`, common in the literature, is a
    permutation with a fixed seed, with as many frames for the test as for validation. Without
    validation data both have 1,572 training frames and 393 test frames. Frames are a
    fraction of a second apart, and neighbors are near-duplicates. With `random`, nearly every test
    frame has a near-duplicate in the training set, so its scores reward memorization and are not
    comparable with those of `blocked`.

    Raises:
        UserError: the file in the package is damaged.
    """
    part = SOURCE.splits["film"]["image"]
    film = sources.read(SOURCE, part, sources.SHIPPED / part.names[0]).reshape(NUM_FRAMES, -1)
    num_valid = NUM_VALID if options.num_valid < 0 else options.num_valid
    train, valid, test = splits.split(film, options.split, num_valid)
    return Dataset(
        name="frey_faces",
        train=train,
        valid=valid,
        test=test,
        kind="grey",
        preprocess=preprocessing.scaled(options.grey_scale),
        image_shape=IMAGE_SHAPE,
        levels=options.grey_scale,
    )


def _read_film(path: Path) -> np.ndarray:
    """Reads the frames [N, 28, 20] uint8 from a MATLAB v5 file with one compressed variable.

    The file has a header of 128 bytes, a tag of 8 bytes and a zlib stream. The stream ends with the
    pixels. They are column-major with one image per column, so the images are contiguous. This
    function does not check the pixels; the caller compares their digest. scipy.io can read the
    file too, but takes 0.4 s to import.
    """
    pixels = zlib.decompress(path.read_bytes()[136:])[-NUM_FRAMES * 28 * 20 :]
    return np.frombuffer(pixels, np.uint8).reshape(-1, *IMAGE_SHAPE)


SOURCE = Source(
    name="frey_faces",
    format="a MATLAB v5 file",
    read=_read_film,
    splits={
        "film": {
            "image": Part(
                names=("frey_rawface.mat",),
                shape=(NUM_FRAMES, *IMAGE_SHAPE),
                sha256="2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78",
            )
        }
    },
    citation="S. Roweis, L. Saul and G. Hinton, Global coordination of local linear models, "
    "NIPS 2001",
)
