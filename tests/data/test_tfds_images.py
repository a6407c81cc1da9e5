"""Images prepared by TFDS, here written by its own code: tfds:NAME."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refusal

from aevb import data, runs
from aevb.config import default_config, validate
from aevb.data import Options
from aevb.data.io.array_records import Records
from aevb.experiment import load

NUMBERS = {"train": 40, "test": 12}
SHAPES: Mapping[str, tuple[int, ...]] = {
    "digits": (6, 5, 1),  # one channel, as PNG
    "colors": (6, 5, 3),
    "plain": (6, 5),  # no file format
}


def pixels(name: str, split: str) -> np.ndarray:
    """Returns the dataset's images, [N, ...]."""
    seed = [sorted(SHAPES).index(name), sorted(NUMBERS).index(split)]
    shape = (NUMBERS[split], *SHAPES[name])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def rows(images: np.ndarray) -> set[bytes]:
    """Returns the images as a set, because TFDS shuffles what it writes."""
    return {image.tobytes() for image in images}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder in which TFDS has prepared each of SHAPES."""
    import tensorflow_datasets as tfds
    from PIL import Image

    folder = tmp_path_factory.mktemp("tfds")

    class Drawn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self) -> tfds.core.DatasetInfo:
            shape = SHAPES[self.name]
            image = (
                tfds.features.Tensor(shape=shape, dtype=np.uint8)
                if self.name == "plain"
                else tfds.features.Image(shape=shape, encoding_format="png")
            )
            features = {"label": tfds.features.Scalar(np.int32), "image": image}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split) for split in NUMBERS}

        def _generate_examples(self, split: str) -> Any:
            for index, image in enumerate(pixels(self.name, split)):
                encoded = image if self.name == "plain" else Image.fromarray(image.squeeze())
                yield index, {"label": index, "image": encoded}

    for name in SHAPES:
        kind: Any = type(name.title(), (Drawn,), {}, skip_registration=True)
        kind(data_dir=str(folder)).download_and_prepare(file_format="array_record")
    return folder


@pytest.mark.parametrize("name", SHAPES)
def test_tfds_images_are_those_that_were_written(name: str, home: Path):
    dataset = data.load(f"tfds:{name}", Options(dir=str(home)))
    assert isinstance(dataset.train, Records)
    held_in = np.concatenate([np.asarray(dataset.train), dataset.splits["valid"]])
    assert rows(held_in) == rows(pixels(name, "train"))
    assert len(dataset.splits["valid"]) == len(held_in) // 6
    assert rows(dataset.test) == rows(pixels(name, "test"))
    height, width, *channels = SHAPES[name]
    assert dataset.image_shape == ((height, width, 3) if channels == [3] else (height, width))
    assert (dataset.kind, dataset.levels) == ("grey", 256.0)
    folders = sorted((home / "aevb_records").glob(f"tfds-{name}*"))
    assert len(folders) == 2
    times = [folder.stat().st_mtime_ns for folder in folders]
    by_path = data.load(f"tfds:{home / name / '1.2.0'}", Options(dir=str(home)))
    np.testing.assert_array_equal(np.asarray(by_path.train), np.asarray(dataset.train))
    assert [folder.stat().st_mtime_ns for folder in folders] == times  # they are written once


def test_tfds_images_accept_the_split_syntax_of_tfds(home: Path):
    options = Options(dir=str(home), split="train[:75%],train[75%:]", binarization="dynamic")
    three = data.load("tfds:digits", options._replace(split="train[:50%],train[50%:75%],test"))
    assert [*map(len, three.splits.values())] == [20, 10, len(pixels("digits", "test"))]
    options = options._replace(num_valid=0)
    dataset = data.load("tfds:digits", options)
    parts = [rows(np.asarray(dataset.train)), rows(dataset.test)]
    assert [len(part) for part in parts] == [30, 10]
    assert parts[0] | parts[1] == rows(pixels("digits", "train"))
    assert (dataset.kind, dataset.levels) == ("binary", None)
    fewer = data.load("tfds:digits", options._replace(num_train=5))
    assert len(fewer.train) == 5


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("digits", {"split": "train"}, ["'train'", "train,test"]),
        ("digits", {"split": "train,valid"}, ["'valid'", "train, test"]),
        ("digits", {"split": "train,test[:0]"}, ["test[:0]"]),
        ("digits", {"binarization": "fixed"}, ["'fixed'", "none, dynamic"]),
        ("fashion_mnist", {}, ["fashion_mnist", "TensorFlow", "array_record"]),
    ],
)
def test_a_tfds_dataset_or_split_that_does_not_exist_is_refused(
    name: str, options: dict[str, Any], words: list[str], home: Path
):
    message = refusal(data.load, f"tfds:{name}", Options(dir=str(home), **options))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fileFormat": "tfrecord"}, ["tfrecord", "TensorFlow", "array_record"]),
        (None, ["damaged"]),
    ],
)
def test_tfds_data_that_need_tensorflow_or_are_damaged_are_refused(
    change: dict[str, str] | None, words: list[str], home: Path, tmp_path: Path
):
    folder = tmp_path / "other" / "1.0.0"
    _copy(home, folder)
    info = folder / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | change) if change else "{")
    message = refusal(data.load, "tfds:other", Options(dir=str(tmp_path)))
    for word in words:
        assert word in message


def test_a_tfds_dataset_with_several_configs_requires_the_name_of_one(home: Path, tmp_path: Path):
    for kind in ("red", "green"):
        _copy(home, tmp_path / "many" / kind / "1.2.0")
    assert "green, red" in refusal(data.load, "tfds:many", Options(dir=str(tmp_path)))
    whole = Options(dir=str(tmp_path), num_valid=0)
    assert len(data.load("tfds:many/red", whole).train) == 40
    for version in ("1.10.0", "1.9.0"):  # the newest version is not the last in alphabetical order
        _copy(home, tmp_path / "many" / "red" / version)
    for older in ("1.2.0", "1.9.0"):
        (tmp_path / "many" / "red" / older / "dataset_info.json").write_text("{")
    data.load("tfds:many/red", Options(dir=str(tmp_path)))


def _copy(home: Path, folder: Path) -> None:
    shutil.copytree(home / "digits" / "1.2.0", folder)


@pytest.mark.slow
def test_a_convolutional_model_trains_on_color_images_and_draws_figures(home: Path, tmp_path: Path):
    config = default_config()
    config.data.name, config.data.dir = "tfds:colors", str(home)
    config.model.network, config.model.hidden = "conv", (4, 6)
    config.model.likelihood = "discretized_logistic"
    config.train.batch_size, config.train.num_examples, config.train.first_eval = 10, 80, 40
    assert isinstance(load(validate(config)).train, np.ndarray)
    config.data.access = "stream"
    values = validate(config)
    assert isinstance(load(values).train, Records)
    summary = runs.run(values, tmp_path / "run")
    assert np.isfinite(summary["test_bits_per_dim"])
    assert summary["data"]["name"] == "tfds:colors"
    assert (tmp_path / "run" / "figures" / "samples.png").stat().st_size > 10_000
