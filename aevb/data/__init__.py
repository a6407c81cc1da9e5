"""Data sets, each a file of this folder.

Such a file has ``SPLITS`` (ways to part training from test data) and ``KINDS`` (binarization ->
kind of data), the defaults first, and ``load(options) -> Dataset``.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from aevb.data.io.array_records import Records
from aevb.errors import UserError
from aevb.types import Key

NAMES = ("binarized_mnist", "frey_faces", "mnist", "synthetic")
"""The data sets of the package, each a file of this folder."""
PREFIXES = {"tfds:": "tfds_images", "npy:": "user_files", "images:": "user_files"}
"""What begins the names of data sets that are a user's, and the file that loads them."""
OTHERS = "tfds:NAME, npy:FILE and images:FOLDER"


class Dataset(NamedTuple):
    """Training and test data as stored, and how a stored datapoint becomes what a model sees."""

    name: str
    train: Any  # [N, D]: uint8, or float32 for real-valued data; an ndarray, or Records on disk
    test: np.ndarray  # [N', D]
    kind: str  # "binary" (0/1), "grey" (scaled levels) or "real": which likelihoods can score it
    preprocess: Callable[[Key, Array], Array]  # (key, x [D] as stored) -> x [D] float32
    image_shape: tuple[int, ...] | None  # rows, columns and, of colors, channels; D in all
    levels: float | None  # grey levels per unit, for bits per dimension; None for other kinds


class Options(NamedTuple):
    """What can be chosen about data. Fields that a data set has no use for are ignored."""

    dir: str = ""  # where data sets are prepared; "" = $TFDS_DATA_DIR or ~/tensorflow_datasets
    manual_dir: str = ""  # files brought by hand, in it or in its subfolder named as the data set;
    #                       "" = downloads/manual in dir
    split: str = ""  # "" = the data set's first
    binarization: str = ""  # "" = the data set's first
    grey_scale: float = 256.0  # grey level k becomes k / grey_scale
    num_train: int = 0  # so many training datapoints, evenly spaced in their order; 0 = all
    synthetic_num_train: int = 1000
    synthetic_num_test: int = 1000
    synthetic_num_dims: int = 10
    synthetic_num_latents: int = 2
    synthetic_noise_std: float = 0.5
    synthetic_seed: int = 0


DEFAULTS = Options()


def load(name: str, options: Options = DEFAULTS) -> Dataset:
    """The data set `name`: one of `NAMES`, or one that is not of this package.

    tfds:NAME is images that TFDS has prepared, npy:FILE an array that np.save wrote, and
    images:FOLDER the images in a folder.

    Data of a public file come from, in this order: this package; what was prepared before in
    `options.dir`; files in `options.manual_dir`; the network. What is read is always checked.

    Raises:
        UserError: no such data set, split, binarization or scale, or fewer training datapoints
            than were asked for; the files are neither here nor to be downloaded; a file or a
            prepared folder is damaged; a folder cannot be written.
    """
    if options.grey_scale not in (255.0, 256.0):
        raise UserError(f"data.grey_scale is {options.grey_scale}; it must be 255.0 or 256.0")
    dataset = _load_users(name, options) if _prefix(name) else _load(name, options)
    number = len(dataset.train)
    if not 0 <= options.num_train <= number:
        raise UserError(
            f"data.num_train is {options.num_train}; {name} has {number} training datapoints, and "
            "0 stands for all of them"
        )
    if options.num_train in (0, number):
        return dataset
    kept = np.arange(options.num_train) * number // options.num_train
    return dataset._replace(train=dataset.train[kept])


def _load(name: str, options: Options) -> Dataset:
    module = _module(name)
    return module.load(
        options._replace(
            split=_chosen(f"data.split of {name}", options.split, tuple(module.SPLITS)),
            binarization=_chosen(
                f"data.binarization of {name}", options.binarization, tuple(module.KINDS)
            ),
        )
    )


def _load_users(name: str, options: Options) -> Dataset:
    module = importlib.import_module(f"aevb.data.{PREFIXES[_prefix(name)]}")
    kinds = tuple(module.KINDS)
    binarization = _chosen(f"data.binarization of {name}", options.binarization, kinds)
    if _prefix(name) == "tfds:":  # whose splits have a language of their own
        split = options.split or module.SPLITS[0]
    else:
        split = _chosen(f"data.split of {name}", options.split, module.SPLITS)
    return module.load(name, options._replace(split=split, binarization=binarization))


def _prefix(name: str) -> str:
    """That of PREFIXES with which a name begins, or ""."""
    return next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")


def on_disk(dataset: Dataset, options: Options = DEFAULTS) -> Dataset:
    """The data set with its training part on disk, where it is written once.

    Raises:
        UserError: it cannot be written there, or is damaged.
    """
    from aevb.data.io import sources

    if isinstance(dataset.train, Records):
        return dataset
    key = f"{dataset.name}-{sources.digest(dataset.train)[:16]}"
    or_else = ", or set data.access=memory"
    train = sources.kept_records(dataset.name, key, [dataset.train], options, or_else)
    return dataset._replace(train=train)


def prepare(name: str, options: Options = DEFAULTS) -> Path:
    """The folder of `name` as a TensorFlow data set, which is prepared there if it is not yet.

    `load` needs no such call. It serves the tools of TFDS, which read the result by
    ``tfds.builder_from_directory(folder).as_data_source("train[:80%]")``, and machines that
    prepare data for others without internet.

    Raises:
        UserError: as `load`; or the data set has no files.
    """
    from aevb.data.io import prepared  # data sets without files can do without it

    source = getattr(_module(name), "SOURCE", None)
    if source is None:
        raise UserError(f"the data set {name!r} is made by a formula; there is nothing to prepare")
    return prepared.prepare(source, options)


def _module(name: str):
    if name not in NAMES:
        raise UserError(
            f"the data set {name!r} does not exist; there are {', '.join(NAMES)}, {OTHERS}"
        )
    return importlib.import_module(f"aevb.data.{name}")


def _chosen(field: str, value: str, allowed: tuple[str, ...]) -> str:
    if value and value not in allowed:
        raise UserError(f"{field} is {value!r}; it must be one of {', '.join(allowed)}")
    return value or allowed[0]
