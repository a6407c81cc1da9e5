"""MNIST: 60,000 and 10,000 handwritten digits, [D] = 28 x 28 grey levels (LeCun et al. 1998)."""

import gzip
import math
from pathlib import Path

import numpy as np

from aevb.data import Dataset, Labels, Options, preprocessing
from aevb.data.io import prepared
from aevb.data.io.sources import Download, Part, Source

KINDS = {"dynamic": "binary", "fixed": "binary", "none": "grey"}

IMAGE_SHAPE = (28, 28)


def load(options: Options) -> Dataset:
    """Returns the standard 60,000 training and 10,000 test images.

    `aevb.data.load` makes the last 10,000 of the training images validation images, by default.

    The binarization `dynamic` draws each pixel x as 1 with probability x / 255 on every call, from
    the key (a fixed key gives a fixed image). `fixed` draws once in the same way, with a fixed
    seed; this is not Larochelle's draw, which is the dataset `binarized_mnist`. `none` keeps the
    grey levels. The digits are the labels, which are read if `Options.num_labels` asks for them.

    Raises:
        UserError: the files are not on this machine and cannot be downloaded, or are damaged.
    """
    train, test = prepared.load(SOURCE, ("train", "test"), options)
    labels = None
    if options.num_labels >= 0:
        of_train, of_test = prepared.load(SOURCE, ("train", "test"), options, part="label")
        names = tuple(map(str, range(10)))
        labels = Labels(names, *(each[:, 0].astype(np.int64) for each in (of_train, of_test)))
    preprocess = preprocessing.drawn
    if options.binarization == "fixed":
        train, test = preprocessing.binarized_once(train, test)
        preprocess = preprocessing.unchanged
    elif options.binarization == "none":
        preprocess = preprocessing.scaled(options.grey_scale)
    return Dataset(
        name="mnist",
        train=train,
        test=test,
        kind=KINDS[options.binarization],
        preprocess=preprocess,
        image_shape=IMAGE_SHAPE,
        levels=options.grey_scale if options.binarization == "none" else None,
        labels=labels,
    )


def _read_idx(path: Path) -> np.ndarray:
    """Reads the uint8 array of an IDX file, gzipped or not; the file's name does not matter.

    The header is two zero bytes, the type (8: uint8), the number of axes, and the size of each axis
    as 4 bytes, big-endian.

    Raises:
        ValueError: it is not an IDX file of uint8, or its length does not match its header.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"it begins with {content[:4].hex()}, and is no IDX file of uint8")
    start = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"its header says {shape}, {math.prod(shape)} bytes, and {len(content) - start} follow"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _part(file: str, shape: tuple[int, ...], sha256: str, size: int, served: str) -> Part:
    url = f"https://storage.googleapis.com/cvdf-datasets/mnist/{file}.gz"
    return Part((f"{file}.gz", file), shape, sha256, Download(url, size, served))


SOURCE = Source(
    name="mnist",
    format="an IDX file (gzipped or not)",
    read=_read_idx,
    splits={
        "train": {
            "image": _part(
                "train-images-idx3-ubyte",
                (60_000, *IMAGE_SHAPE),
                "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            "label": _part(
                "train-labels-idx1-ubyte",
                (60_000,),
                "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
        },
        "test": {
            "image": _part(
                "t10k-images-idx3-ubyte",
                (10_000, *IMAGE_SHAPE),
                "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            "label": _part(
                "t10k-labels-idx1-ubyte",
                (10_000,),
                "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        },
    },
    citation="Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to "
    "document recognition, Proceedings of the IEEE 86, 1998",
)
