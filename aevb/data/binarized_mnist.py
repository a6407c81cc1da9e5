"""MNIST with 0/1 pixels, binarized by Salakhutdinov & Murray (2008), published by Larochelle.

The literature's scores on "statically binarized MNIST" refer to this one draw. The images are
sorted by digit, so they must be shuffled before they are divided into minibatches.
"""

from pathlib import Path

import numpy as np

from aevb.data import Dataset, Options, preprocessing
from aevb.data.io import prepared
from aevb.data.io.sources import Download, Part, Source

IMAGE_SHAPE = (28, 28)


def load(options: Options) -> Dataset:
    """Returns 50,000 training, 10,000 validation and 10,000 test images, with pixels 0/1.

    The split `train+validation` appends the validation images to the training images, and has none
    for validation.

    Raises:
        UserError: the files are not on this machine and cannot be downloaded, or are damaged.
    """
    train, valid, test = prepared.load(SOURCE, ("train", "validation", "test"), options)
    if options.split == "train+validation":
        train, valid = np.concatenate([train, valid]), valid[:0]
    return Dataset(
        name="binarized_mnist",
        train=train,
        valid=valid,
        test=test,
        kind="binary",
        preprocess=preprocessing.unchanged,
        image_shape=IMAGE_SHAPE,
        levels=None,
    )


def _read_bits(path: Path) -> np.ndarray:
    """Reads images [N, 28, 28], uint8 of 0/1, from Larochelle's text or from packed bits.

    Text (.amat): one line per image, of 784 digits 0 or 1 separated by blanks. Packed (.npz): the
    array `packed_images` [N, 98], with 8 pixels per byte, the first one in the highest bit.

    Raises:
        ValueError: the text has another form.
    """
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return np.unpackbits(arrays["packed_images"], axis=1).reshape(-1, *IMAGE_SHAPE)
    text = np.fromfile(path, np.uint8).reshape(-1, 784, 2)
    separators = np.full(784, ord(" "), np.uint8)
    separators[-1] = ord("\n")
    if not np.array_equal(text[:, :, 1], np.broadcast_to(separators, text.shape[:2])):
        raise ValueError("it is not lines of 784 digits with blanks between")
    return (text[:, :, 0] - np.uint8(ord("0"))).reshape(-1, *IMAGE_SHAPE)


def _part(name: str, num_images: int, sha256: str, served: str) -> Part:
    file = f"binarized_mnist_{name}.amat"
    url = f"http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/{file}"
    size = num_images * 784 * 2
    names = (file, f"{name}.npz")
    return Part(names, (num_images, *IMAGE_SHAPE), sha256, Download(url, size, served))


SOURCE = Source(
    name="binarized_mnist",
    format="a text of 0 and 1 (.amat) or packed_images (.npz)",
    read=_read_bits,
    splits={
        "train": {
            "image": _part(
                "train",
                50_000,
                "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
                "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
            )
        },
        "validation": {
            "image": _part(
                "valid",
                10_000,
                "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
                "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
            )
        },
        "test": {
            "image": _part(
                "test",
                10_000,
                "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
                "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
            )
        },
    },
    citation="R. Salakhutdinov and I. Murray, On the quantitative analysis of deep belief "
    "networks, ICML 2008",
)
