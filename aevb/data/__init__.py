"""The datasets, which `DATASETS` lists; each is in a file of this folder."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from aevb.data import gaps, preprocessing, splits
from aevb.data.io.array_records import Records
from aevb.data.standardization import Standardization
from aevb.errors import UserError
from aevb.types import Key

PREFIXES = {
    "tfds:": ("tfds_images", ("train,test",), ("none", "dynamic")),
    "file:": ("user_files", ("blocked", "random"), ("none", "dynamic", "fixed")),
    "images:": ("user_files", ("blocked", "random"), ("none", "dynamic", "fixed")),
    "array:": ("user_files", ("blocked", "random"), ("none", "dynamic", "fixed")),
}
"""Prefix of a user's dataset -> the file that loads it, its splits, its binarizations."""
OTHERS = "tfds:NAME, file:FILE and images:FOLDER"


class Description(NamedTuple):
    """Kind, shape and preprocessing of data: all that a model, or a run without its data, needs."""

    name: str
    kind: str
    num_dims: int  # D
    num_train: int  # N
    image_shape: tuple[int, ...] | None
    levels: float | None
    is_dequantized: bool
    preprocess: Callable[[Key, Array], Array]
    shape: tuple[int, ...]  # of a datapoint in the user's own array
    standardization: Standardization | None = None
    range: tuple[float, float] = (0.0, 1.0)
    has_missing: bool = False  # whether x may have NaN, for values that were not seen
    num_labels: int = 0  # C, the classes of labels that a model sees; 0 if it sees none

    @property
    def of_x(self) -> Standardization | None:
        """The standardization of stored x; None if x is stored as it is."""
        return self.standardization if self.kind == "real" else None

    @property
    def of_log_counts(self) -> Standardization | None:
        """The standardization of log(1 + x) of counts; None for other kinds."""
        return self.standardization if self.kind == "counts" else None


class Labels(NamedTuple):
    """The classes of a dataset's datapoints."""

    names: tuple[str, ...]
    train: np.ndarray  # [N], the place in `names` of each datapoint's class; -1 if it is unknown
    test: np.ndarray  # [N']
    valid: np.ndarray | None = None  # [N'']; None where the dataset's is None
    is_shown: np.ndarray | None = None  # [N], the training labels that a model sees; None: it sees
    #                                     none

    @property
    def shown(self) -> np.ndarray:
        """The labels [N] of the training data that a model sees, and -1 for the others."""
        is_shown = np.zeros(len(self.train), bool) if self.is_shown is None else self.is_shown
        return np.where(is_shown, self.train, -1).astype(np.int32)

    def of_split(self, split: str) -> np.ndarray | None:
        """Returns the labels of "train", "valid" or "test"."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]


class Dataset(NamedTuple):
    """Training, validation and test data as stored, with the preprocessing that the model needs."""

    name: str
    train: Any  # [N, D]: uint8, or float32 for other than grey and binary data; an ndarray, Records
    #             on disk, or Standardized data, which are computed when they are read
    test: np.ndarray  # [N', D]
    kind: str  # "binary" (0/1), "grey" (scaled levels), "unit" (in [0, 1]) or "real"; decides which
    #            likelihoods fit
    preprocess: Callable[[Key, Array], Array]  # (key, x [D] as stored) -> x [D] float32
    image_shape: tuple[int, ...] | None  # rows, columns, channels if in color; their product is D
    levels: float | None  # grey levels are k / levels, for bits per dimension; None for other kinds
    valid: np.ndarray | None = None  # [N'', D], on which choices are made; may have no rows.
    #   None: `load` holds out the last of the training data, by default a sixth
    is_dequantized: bool = False  # whether `preprocess` adds noise that fills the cell of a level
    shape: tuple[int, ...] | None = None  # of a datapoint in the user's own array; None: that of an
    #                                       image, or [D]
    standardization: Standardization | None = None  # of real data, which are stored standardized;
    #                                                 of log(1 + x) of counts, which are stored raw
    labels: Labels | None = None
    has_missing: bool = False  # whether data may have NaN, for values that were not seen; they are
    #                            then float32

    @property
    def range(self) -> tuple[float, float]:
        """The values of the model's x that pictures show as black and as white."""
        if self.kind not in ("real", "counts"):
            return 0.0, 1.0
        seen = self.splits[self.followed]
        return float(np.nanmin(seen)), float(np.nanmax(seen))

    @property
    def description(self) -> Description:
        num_train, num_dims = self.train.shape
        is_shown = self.labels is not None and self.labels.is_shown is not None
        return Description(
            self.name, self.kind, num_dims, num_train, self.image_shape, self.levels,
            self.is_dequantized, self.preprocess, self.shape or self.image_shape or (num_dims,),
            self.standardization, self.range, self.has_missing,
            len(self.labels.names) if self.labels is not None and is_shown else 0,
        )  # fmt: skip

    @property
    def splits(self) -> dict[str, Any]:
        """The data by split: train, test, and valid if there are validation data."""
        has_valid = self.valid is not None and len(self.valid)
        return {
            "train": self.train,
            **({"valid": self.valid} if has_valid else {}),
            "test": self.test,
        }

    @property
    def followed(self) -> str:
        """The held-out split whose bound is logged during training.

        It is the test split only if there are no validation data.
        """
        return "valid" if "valid" in self.splits else "test"


class Options(NamedTuple):
    """The options of loading data. A dataset ignores the fields that do not apply to it."""

    dir: str = ""  # where datasets are prepared; "" = $TFDS_DATA_DIR or ~/tensorflow_datasets
    manual_dir: str = ""  # the user's downloads, here or in a subfolder named after the dataset;
    #                       "" = downloads/manual in dir
    kind: str = ""  # of the values in the user's own file; "" = guessed
    key: str = ""  # name of the array in the user's own file, if it holds several
    standardize: bool = True  # whether the user's own real data are standardized
    split: str = ""  # "" = the dataset's first
    binarization: str = ""  # "" = the dataset's first
    grey_scale: float = 256.0  # grey level k becomes k / grey_scale
    dequantize: bool = False  # grey level k becomes (k + u) / 256, u uniform on [0, 1)
    missing: bool = False  # whether NaN in the user's own file is a value that was not seen
    hide: str = ""  # values that are taken away: "entries", "blocks" of images; "" = none
    hide_share: float = 0.5  # of the values that are taken away
    num_train: int = 0  # number of training datapoints kept, evenly spaced in their order; 0 = all
    num_valid: int = -1  # number of validation datapoints; -1 = the dataset's own number
    window: int = 0  # T: datapoints are windows of T frames in a row; 0 = single frames
    num_labels: int = -1  # number of training labels that a model sees; 0 = all, -1 = none
    label_seed: int = 0  # of their draw
    synthetic_num_train: int = 1000
    synthetic_num_test: int = 1000
    synthetic_num_dims: int = 10
    synthetic_num_latents: int = 2
    synthetic_noise_std: float = 0.5
    synthetic_seed: int = 0


DEFAULTS = Options()


class DatasetEntry(NamedTuple):
    """An entry of `DATASETS`; the first split and the first binarization are the defaults."""

    load: Callable[..., Dataset]  # (Options with split and binarization, *, the entry's options)
    splits: tuple[str, ...] = ("standard",)  # into training and test data
    binarizations: tuple[str, ...] = ("none",)


def _of_package(name: str, *offered: tuple[str, ...]) -> DatasetEntry:
    """Returns the entry of a file in this folder, which is imported when its data are loaded."""
    return DatasetEntry(lambda options: _module(name).load(options), *offered)


DATASETS: dict[str, DatasetEntry] = {
    "binarized_mnist": _of_package("binarized_mnist", ("standard", "train+validation")),
    "frey_faces": _of_package("frey_faces", ("blocked", "random")),
    "mnist": _of_package("mnist", ("standard",), ("dynamic", "fixed", "none")),
    "synthetic": _of_package("synthetic"),
}


def load(name: str, options: Options = DEFAULTS) -> Dataset:
    """Loads the dataset `name`: an entry of `DATASETS`, or data from outside this package.

    tfds:NAME are images that TFDS has prepared, file:FILE is the user's table or array, and
    images:FOLDER are the images in a folder.

    The sources of a public file are tried in this order: this package; data that were prepared
    before in `options.dir`; files in `options.manual_dir`; the network. Data are always checked.

    Raises:
        UserError: the dataset, split, binarization or scale does not exist, or there are no levels
            to dequantize; there are fewer training datapoints than were asked for; the files are
            not on this machine and cannot be downloaded; a file or a prepared folder is damaged; a
            folder cannot be written.
    """
    return load_entry(name, find(name), options)


def find(name: str) -> DatasetEntry:
    """Returns the entry of a dataset of this package, or of data with one of the PREFIXES.

    Raises:
        UserError: there is none.
    """
    if prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        file, *offered = PREFIXES[prefix]
        return DatasetEntry(lambda options: _module(file).load(name, options), *offered)
    _require_known(name)
    return DATASETS[name]


def load_entry(name: str, entry: DatasetEntry, options: Options, **own: Any) -> Dataset:
    """Loads the dataset of an entry.

    Args:
        own: the entry's own options.

    Raises:
        UserError: as for `load`.
    """
    if options.grey_scale not in (255.0, 256.0):
        raise UserError(f"data.grey_scale is {options.grey_scale}; it must be 255.0 or 256.0")
    split = options.split
    if not name.startswith("tfds:"):  # its splits have a notation of their own
        split = _chosen(f"data.split of {name}", split, entry.splits)
    kind = _chosen(f"data.binarization of {name}", options.binarization, entry.binarizations)
    chosen = options._replace(split=split or entry.splits[0], binarization=kind)
    loaded = entry.load(chosen, **own)
    _require_labels(loaded)
    dataset = _with_validation(loaded, options.num_valid)
    if options.dequantize:
        dataset = _dequantized(dataset)
    if options.hide:
        dataset = _hidden(dataset, options)
    if options.window:  # of frames with gaps: a value is hidden in all windows
        from aevb.data.windows import windowed

        dataset = windowed(dataset, options.window)
    number = len(dataset.train)
    if not 0 <= options.num_train <= number:
        raise UserError(
            f"data.num_train is {options.num_train}; {name} has {number} training datapoints, and "
            "0 stands for all of them"
        )
    if options.num_train not in (0, number):
        kept = kept_rows(number, options.num_train)
        labels = dataset.labels and dataset.labels._replace(train=dataset.labels.train[kept])
        dataset = dataset._replace(train=dataset.train[kept], labels=labels)
    return dataset if options.num_labels < 0 else _with_shown_labels(dataset, options)


def _with_shown_labels(dataset: Dataset, options: Options) -> Dataset:
    """Returns a dataset with the labels that a model sees.

    Raises:
        UserError: it has no labels, or too few.
    """
    if dataset.labels is None:
        raise UserError(
            f"data.num_labels is {options.num_labels}, and {dataset.name} has no labels; set it to "
            "-1, or give labels: aevb.fit(x, y=labels), images:FOLDER with a subfolder for each "
            "class, or mnist"
        )
    labels = dataset.labels
    is_shown = splits.drawn_labels(
        labels.train, labels.names, options.num_labels, options.label_seed
    )
    return dataset._replace(labels=labels._replace(is_shown=is_shown))


def kept_rows(number: int, wanted: int) -> np.ndarray:
    """Returns the indices of `wanted` evenly spaced datapoints of `number`; of all for 0."""
    return np.arange(wanted or number) * number // (wanted or number)


def _require_labels(dataset: Dataset) -> None:
    """Raises a UserError if a dataset has labels, but not one for each datapoint."""
    if dataset.labels is None:
        return
    for split in ("train", "valid", "test"):
        data, labels = getattr(dataset, split), getattr(dataset.labels, split)
        number, found = (0 if each is None else len(each) for each in (data, labels))
        if number != found:
            raise UserError(
                f"{dataset.name} has {found} labels for {number} datapoints ({split}); give its "
                "Labels one for each"
            )


def _with_validation(dataset: Dataset, wanted: int) -> Dataset:
    """Returns a loaded dataset with the validation data that the options ask for.

    If a dataset has no validation data of its own, the last of its training data are used, by
    default a sixth (10,000 of MNIST's 60,000).

    Args:
        wanted: `Options.num_valid`.

    Raises:
        UserError: the dataset does not have that many.
    """
    if dataset.valid is not None:
        own = len(dataset.valid)
        if wanted not in (-1, 0, own):
            raise UserError(
                f"data.num_valid is {wanted}; this split of {dataset.name} has {own} validation "
                "datapoints: -1 uses them, and 0 leaves them out"
            )
        if wanted:
            return dataset
        labels = dataset.labels and dataset.labels._replace(valid=dataset.labels.test[:0])
        return dataset._replace(valid=dataset.valid[:0], labels=labels)
    train, number = dataset.train, len(dataset.train)
    num_valid = number // 6 if wanted < 0 else wanted
    if num_valid >= number:
        raise UserError(
            f"data.num_valid is {num_valid}; {dataset.name} has {number} datapoints for training "
            "and validation together"
        )
    kept = number - num_valid
    head, labels = train.head(kept) if isinstance(train, Records) else train[:kept], dataset.labels
    if labels is not None:
        labels = labels._replace(train=labels.train[:kept], valid=labels.train[kept:])
    return dataset._replace(train=head, valid=np.asarray(train[kept:]), labels=labels)


def _dequantized(dataset: Dataset) -> Dataset:
    """Returns grey data with uniform noise within the cell of each level.

    Raises:
        UserError: the data are not grey levels k / 256.
    """
    if dataset.kind != "grey":
        raise UserError(
            f"data.dequantize is True, which is for grey levels (data.binarization=none); "
            f"{dataset.name} holds {dataset.kind} data, for which it must be False"
        )
    if dataset.levels != 256.0:
        raise UserError(
            f"data.dequantize is True, and the grey levels of {dataset.name} are k / "
            f"{dataset.levels}, whose cells do not tile [0, 1]; set data.grey_scale=256"
        )
    noisy = preprocessing.dequantized(dataset.preprocess)
    return dataset._replace(preprocess=noisy, is_dequantized=True)


def _hidden(dataset: Dataset, options: Options) -> Dataset:
    """Returns a dataset with NaN for the values that the options hide.

    Raises:
        UserError: there are no such values.
    """

    def of_split(data: Any, stream: int) -> np.ndarray:
        x = np.asarray(data)
        return gaps.hide(x, options.hide, options.hide_share, dataset.image_shape, stream)

    try:
        train, test = of_split(dataset.train, 0), of_split(dataset.test, 2)
        valid = None if dataset.valid is None else of_split(dataset.valid, 1)
    except ValueError as error:
        raise UserError(f"{error} ({dataset.name})") from error
    return dataset._replace(train=train, valid=valid, test=test, has_missing=True)


def on_disk(dataset: Dataset, options: Options = DEFAULTS) -> Dataset:
    """Returns the dataset with its training data on disk. Writes them there on the first call.

    Raises:
        UserError: the records cannot be written, or are damaged.
    """
    from aevb.data.io import sources

    if isinstance(dataset.train, Records):
        return dataset
    key = f"{dataset.name}-{sources.digest(dataset.train)[:16]}"
    or_else = ", or set data.access=memory"
    train = sources.kept_records(dataset.name, key, [dataset.train], options, or_else)
    return dataset._replace(train=train)


def prepare(name: str, options: Options = DEFAULTS) -> Path:
    """Prepares `name` as a TensorFlow dataset if this is not done yet, and returns its folder.

    `load` does not require this call. It is useful for TFDS's tools, which read the result by
    ``tfds.builder_from_directory(folder).as_data_source("train[:80%]")``, and on a machine that
    prepares data for machines without internet.

    Raises:
        UserError: as for `load`; or the dataset has no files.
    """
    from aevb.data.io import prepared  # here, because datasets without files do not need it

    _require_known(name)
    source = getattr(_module(name), "SOURCE", None)
    if source is None:
        raise UserError(f"the dataset {name!r} is made by a formula; there is nothing to prepare")
    return prepared.prepare(source, options)


def _require_known(name: str) -> None:
    if name not in DATASETS:
        raise UserError(
            f"the dataset {name!r} does not exist; there are {', '.join(DATASETS)}, {OTHERS}"
        )


def _module(name: str) -> Any:
    return importlib.import_module(f"aevb.data.{name}")


def _chosen(field: str, value: str, allowed: tuple[str, ...]) -> str:
    if value and value not in allowed:
        raise UserError(f"{field} is {value!r}; it must be one of {', '.join(allowed)}")
    return value or allowed[0]
