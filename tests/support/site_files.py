"""Small versions of the public files of datasets, as their sites serve them."""

import hashlib
import io
from collections.abc import Callable

import numpy as np

from aevb.data.io import sources
from aevb.data.io.sources import Download, Source

OFFLINE = "http://127.0.0.1:1"  # where no server answers
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 30, 10, 20
RNG = np.random.default_rng(0)

# Images and labels for training and testing, in the order of MNIST's SOURCE.
DIGITS = [
    RNG.integers(0, 256, size, dtype=np.uint8)
    for size in ((NUM_TRAIN, 28, 28), (NUM_TRAIN,), (NUM_TEST, 28, 28), (NUM_TEST,))
]
# 0/1 images to train, validate and test, in the order of binarized MNIST's SOURCE.
BITS = [
    RNG.integers(0, 2, (number, 28, 28), dtype=np.uint8)
    for number in (NUM_TRAIN, NUM_VALIDATION, NUM_TEST)
]


def idx(array: np.ndarray) -> bytes:
    axes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + axes + array.tobytes()


def amat(images: np.ndarray) -> bytes:
    rows = images.reshape(len(images), -1)
    return "".join(" ".join(str(pixel) for pixel in row) + "\n" for row in rows).encode()


def packed(images: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, packed_images=np.packbits(images.reshape(len(images), -1), axis=1))
    return file.getvalue()


def small(
    source: Source, arrays: list[np.ndarray], encode: Callable[[np.ndarray], bytes], url: str
) -> tuple[Source, dict[str, bytes]]:
    """Returns `source` with other arrays in place of its own, and the files that a site serves."""
    remaining, files = list(arrays), {}
    splits: dict[str, dict[str, sources.Part]] = {}
    for split, features in source.splits.items():
        splits[split] = {}
        for feature, part in features.items():
            array = remaining.pop(0)
            content = encode(array)
            files[part.names[0]] = content
            splits[split][feature] = part._replace(
                shape=array.shape,
                sha256=sources.digest(array),
                download=Download(
                    f"{url}/{part.names[0]}", len(content), hashlib.sha256(content).hexdigest()
                ),
            )
    return source._replace(splits=splits), files
