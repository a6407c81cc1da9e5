"""Datasets named tfds:NAME: images that TFDS has prepared as array_record.

NAME is a folder below `data.dir`, such as fashion_mnist or mnist_corrupted/spatter, or the path of
a folder. Reading does not need TensorFlow; preparing most of TFDS's own datasets does.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aevb.data import Dataset, Options, preprocessing
from aevb.data.io import sources
from aevb.data.io.array_records import Records
from aevb.errors import UserError

TFDS = "tfds:"

KINDS = {"none": "grey", "dynamic": "binary"}

INFO = "dataset_info.json"  # TFDS writes this file last
BLOCK = 1000  # datapoints that are decoded at once


class Images(NamedTuple):
    """A prepared dataset, and the feature that is the image."""

    builder: Any
    feature: str
    shape: tuple[int, ...]  # [h, w], or [h, w, channels] if there are several
    is_encoded: bool  # as PNG or JPEG


def load(name: str, options: Options) -> Dataset:
    """Returns the images of two or three splits; those of the training split stay on disk.

    Args:
        name: the dataset's name, with its prefix.
        options: `split` holds the splits for training, for validation (optional) and for the
            test, separated by commas: train[:80%],train[80%:].

    Raises:
        UserError: the dataset is not prepared, or not as array_record; it has no such split, or no
            images of one size; it is damaged.
    """
    folder = _find(name, options)
    images = _open(name, folder)
    parts = re.split(r",(?![^\[]*\])", options.split)
    if len(parts) not in (2, 3):
        raise UserError(
            f"data.split of {name} is {options.split!r}; it must be two or three of TFDS's splits, "
            "for training, validation (optional) and the test, such as train,test or "
            "train[:80%],train[80%:90%],train[90%:]"
        )
    train, *valid, test = (_records(name, images, part, options) for part in parts)
    is_grey = options.binarization == "none"
    return Dataset(
        name=name,
        train=train,
        valid=np.asarray(valid[0]) if valid else None,
        test=np.asarray(test),
        kind=KINDS[options.binarization],
        preprocess=preprocessing.scaled(options.grey_scale) if is_grey else preprocessing.drawn,
        image_shape=images.shape,
        levels=options.grey_scale if is_grey else None,
    )


def _find(name: str, options: Options) -> Path:
    """Returns the folder of the newest version of a dataset.

    Raises:
        UserError: the dataset is not prepared, or has several TFDS configs and none is chosen.
    """
    directory = sources.data_dir(options)
    wanted = name.removeprefix(TFDS)
    folder = directory / wanted  # equal to `wanted` if that is an absolute path
    found = sorted(
        {info.parent for depth in range(3) for info in folder.glob("*/" * depth + INFO)},
        key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)],
    )
    configs = {path.parent for path in found}
    if len(configs) > 1:
        choices = ", ".join(sorted(path.name for path in configs))
        raise UserError(f"data.name is {name!r}, which has several kinds; add one of {choices}")
    if not found:
        raise UserError(
            f"data.name is {name!r}, and {folder} holds no dataset that TFDS has prepared; "
            + _how_to_prepare(wanted, directory)
        )
    return found[-1]


def _how_to_prepare(wanted: str, directory: Path) -> str:
    return (
        "prepare it where TensorFlow is installed (it is needed for that alone): python -c 'import "
        f'tensorflow_datasets as tfds; tfds.builder("{wanted}", data_dir="{directory}", '
        'file_format="array_record").download_and_prepare()\''
    )


def _open(name: str, folder: Path) -> Images:
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder_from_directory(folder)
        features = dict(builder.info.features)
    except Exception as error:  # many types of error, if a file is damaged
        raise _damaged(name, folder, error) from None
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"{name} in {folder} was prepared as {builder.info.file_format.value}, which needs "
            "TensorFlow to be read; " + _how_to_prepare(name.removeprefix(TFDS), folder.parents[1])
        )
    shapes = {
        key: feature.shape
        for key, feature in features.items()
        if feature.shape and len(feature.shape) in (2, 3) and feature.np_dtype == np.uint8
    }
    fixed = [key for key, shape in shapes.items() if None not in shape]
    if not fixed:
        raise UserError(
            f"{name} has no images of bytes that are all of one size; its features are "
            + ", ".join(f"{key} {feature.shape}" for key, feature in features.items())
        )
    key = "image" if "image" in fixed else fixed[0]
    height, width, *channels = shapes[key]
    shape = (height, width) if channels in ([], [1]) else (height, width, *channels)
    return Images(builder, key, shape, isinstance(features[key], tfds.features.Image))


def _records(name: str, images: Images, split: str, options: Options) -> Records:
    """Returns a split with one image per record; the records are written on the first call."""
    what = f"{images.builder.info.full_name}/{split}"
    digest = hashlib.sha256(f"{what} {images.builder.data_dir}".encode()).hexdigest()[:16]
    blocks = _blocks(name, images, split)
    return sources.kept_records(name, f"tfds-{what}-{digest}", blocks, options)


def _blocks(name: str, images: Images, split: str) -> Iterator[np.ndarray]:
    """Yields the images of a split in blocks, uint8 [n, D].

    Raises:
        UserError: the split cannot be read.
    """
    import tensorflow_datasets as tfds

    decoders = {images.feature: tfds.decode.SkipDecoding()} if images.is_encoded else None
    try:
        source = images.builder.as_data_source(split, decoders=decoders)
        if not len(source):
            raise ValueError(f"{split} is empty")
        for first in range(0, len(source), BLOCK):
            examples = source.__getitems__(list(range(first, min(first + BLOCK, len(source)))))
            block = [_pixels_of(example[images.feature], images) for example in examples]
            yield np.stack(block).reshape(len(block), -1)
    except Exception as error:  # many types of error, if the split is missing or damaged
        splits = ", ".join(images.builder.info.splits)
        raise UserError(
            f"the split {split!r} of {name} cannot be read ({sources.one_line(error)}); it has "
            f"{splits}"
        ) from None


def _pixels_of(image: Any, images: Images) -> np.ndarray:
    if images.is_encoded:
        from PIL import Image

        image = np.asarray(Image.open(io.BytesIO(image)))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.size != np.prod(images.shape):
        raise ValueError(
            f"an image is {pixels.dtype} {pixels.shape}, and the dataset says uint8 {images.shape}"
        )
    return pixels


def _damaged(name: str, folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{name} in {folder} is damaged ({sources.one_line(error)}); delete this folder, and "
        "prepare it again"
    )
