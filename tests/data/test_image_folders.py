"""Folders with a subfolder of images for each class, and their labels."""

import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refusal

from aevb import data
from aevb.data import (
    Dataset,
    DatasetEntry,
    Labels,
    Options,
    image_folders,
    preprocessing,
    splits,
)

SIZES = {"ape": 30, "bee": 20, "10": 10, "9": 40}
SORTED = ("9", "10", "ape", "bee")  # numbers as numbers, and before words


def write(folder: Path, sizes: dict[str, int]) -> str:
    """Writes images whose two pixels are the place of the class in SORTED and the image's own."""
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for number in range(size):
            pixels = np.array([[SORTED.index(name), number]], np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return f"images:{folder}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    write(folder, SIZES)
    return folder


def labels_of(dataset: Dataset) -> dict[str, np.ndarray]:
    assert dataset.labels is not None
    return {split: getattr(dataset.labels, split) for split in dataset.splits}


@pytest.mark.parametrize("split", ["blocked", "random"])
@pytest.mark.parametrize(
    "options", [Options(), Options(num_train=13), Options(num_valid=0), Options(num_valid=7)]
)
def test_labels_follow_their_datapoints(folder: Path, split: str, options: Options):
    dataset = data.load(f"images:{folder}", options._replace(split=split))
    assert dataset.labels is not None
    assert dataset.labels.names == SORTED
    for part, labels in labels_of(dataset).items():
        np.testing.assert_array_equal(labels, dataset.splits[part][:, 0])


@pytest.mark.parametrize(
    ("split", "numbers"), [("blocked", (70, 10, 20)), ("random", (80, 10, 10))]
)
def test_each_class_is_split_in_the_same_proportion(
    folder: Path, split: str, numbers: tuple[int, ...]
):
    dataset = data.load(f"images:{folder}", Options(split=split))
    for number, labels in zip(numbers, labels_of(dataset).values(), strict=True):
        assert len(labels) == number
        found = Counter(SORTED[place] for place in labels)
        assert found == {name: size * number // 100 for name, size in SIZES.items()}


def test_the_blocked_split_takes_the_last_images_of_each_class_for_the_test(folder: Path):
    dataset = data.load(f"images:{folder}")
    for place, name in enumerate(SORTED):
        train, valid, test = (
            part[part[:, 0] == place, 1].tolist() for part in dataset.splits.values()
        )
        assert train + valid + test == [*range(SIZES[name])]


def test_the_random_split_of_classes_is_not_in_the_order_of_names(folder: Path):
    train = data.load(f"images:{folder}", Options(split="random")).train
    assert train[train[:, 0] == 0, 1].tolist() != [*range(32)]


@pytest.mark.parametrize("how", splits.SPLITS)
def test_classes_of_any_sizes_are_split_into_the_same_numbers_as_data_without_classes(how: str):
    random = np.random.default_rng(0)
    for _ in range(30):
        classes = np.sort(random.integers(0, random.integers(1, 9), random.integers(5, 60)))
        places = np.arange(len(classes))
        parts = splits.split(places, how, len(classes) // 10, classes)
        without = splits.split(places, how, len(classes) // 10)
        assert [*map(len, parts)] == [*map(len, without)]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), places)
        assert all(np.all(np.diff(part) > 0) for part in parts)


def test_a_line_names_the_classes(folder: Path, capsys: pytest.CaptureFixture[str]):
    data.load(f"images:{folder}")
    (line,) = capsys.readouterr().err.splitlines()
    assert "no image directly in it" in line
    assert "classes (9, 10, ape, bee)" in line


def test_images_directly_in_a_folder_are_taken_before_those_of_its_subfolders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    name = write(tmp_path, {"ape": 3, "bee": 2})
    for number in range(4):
        Image.fromarray(np.full((1, 2), 100, np.uint8)).save(tmp_path / f"{number}.png")
    dataset = data.load(name)
    assert dataset.labels is None
    assert sum(map(len, dataset.splits.values())) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "the 4 images directly in it are used, and not those in its subfolders (ape, bee)" in line
    )


def test_hidden_files_and_previews_of_systems_are_no_classes_and_no_images(tmp_path: Path):
    name = write(tmp_path, {"ape": 3, "bee": 2})
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "Thumbs.db").write_bytes(b"")
    (tmp_path / "ape" / ".DS_Store").write_bytes(b"")
    (tmp_path / "ape" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "ape" / "._0.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    for other in ("__MACOSX", ".thumbnails", "@eaDir", "x.png"):
        for parent in (tmp_path, tmp_path / "bee"):
            (parent / other).mkdir()
            (parent / other / "0.png").write_bytes(b"no image")
    dataset = data.load(name)
    assert dataset.labels is not None
    assert dataset.labels.names == ("ape", "bee")
    assert sum(map(len, dataset.splits.values())) == 5


def test_a_message_names_ten_of_many_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number in range(12):
        (tmp_path / f"c{number}").mkdir()
        Image.fromarray(np.zeros((1, 2), np.uint8)).save(tmp_path / f"c{number}" / "0.png")
    data.load(f"images:{tmp_path}")
    assert "(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more)" in capsys.readouterr().err


def test_an_image_of_another_size_is_named_with_its_class(tmp_path: Path):
    name = write(tmp_path, {"ape": 3, "bee": 2})
    Image.new("L", (4, 4)).save(tmp_path / "bee" / "1.png")
    message = refusal(data.load, name)
    assert "bee/1.png is 4 x 4 of grey, and ape/0.png is 1 x 2 of grey" in message


def test_images_two_folders_down_are_not_found(tmp_path: Path):
    write(tmp_path / "train", {"ape": 3})
    message = refusal(data.load, f"images:{tmp_path}")
    assert "holds no image" in message
    assert "in its subfolders, one for each class" in message


# Labels of a user's own dataset


def own(number: int) -> DatasetEntry:
    """Returns an entry with 12 datapoints for training, and as many labels as `number`."""
    x = np.arange(16, dtype=np.float32)[:, None]
    labels = Labels(("a", "b"), train=np.arange(number) % 2, test=np.arange(4) % 2)
    return DatasetEntry(
        lambda options: Dataset(
            "own", x[:12], x[12:], "real", preprocessing.unchanged, None, None, labels=labels
        )
    )


def test_labels_of_an_own_dataset_follow_the_validation_data_that_are_held_out():
    dataset = data.load_entry("own", own(12), Options(num_train=3))
    for part, labels in labels_of(dataset).items():
        np.testing.assert_array_equal(labels, dataset.splits[part][:, 0] % 2)


def test_labels_of_another_number_than_the_datapoints_are_refused():
    message = refusal(data.load_entry, "own", own(11), Options())
    assert "11 labels for 12 datapoints (train)" in message


def photos(folder: Path) -> str:
    """Writes a grey photo, one in color and one that its camera says to turn, of other sizes."""
    folder.mkdir()
    turned = Image.new("RGB", (40, 30), "white")
    turned.getexif()[0x112] = 6  # its left is up
    turned.paste("black", (0, 0, 20, 30))
    turned.save(folder / "1.png", exif=turned.getexif())
    Image.new("L", (50, 20), 200).save(folder / "2.png")
    Image.new("RGB", (10, 30), "red").save(folder / "3.JPG")
    return f"images:{folder}"


def test_the_refusal_of_photos_of_different_sizes_has_a_command_that_makes_them_alike(
    tmp_path: Path,
):
    name = photos(tmp_path / "my photos")
    line = refusal(data.load, name)
    assert "all images of" in line
    _, flag, code = shlex.split(line.partition("into a new folder: ")[2])
    assert flag == "-c"
    exec(code, {})
    alike = data.load(f"{name}_32x32")
    assert alike.image_shape == (32, 32, 3)
    everything = np.concatenate([*alike.splits.values()]).reshape(3, 32, 32, 3)
    upright, grey, red = everything
    assert (np.max(upright[:15]), np.min(upright[17:])) == (0, 255)
    assert np.all(grey == 200)
    assert np.all(np.abs(red - np.array([254.0, 0.0, 0.0])) < 2)


def test_resized_images_keep_their_classes_and_order_and_grey(folder: Path, tmp_path: Path):
    new = tmp_path / "new" / "small"
    image_folders.resize(folder, new, 1, 2)
    same, before = image_folders.read(new), image_folders.read(folder)
    assert same.class_names == before.class_names
    np.testing.assert_array_equal(same.pixels, before.pixels)
    np.testing.assert_array_equal(same.classes, before.classes)
    assert "name a new folder" in refusal(image_folders.resize, folder, new, 1, 2)
    assert "0 x 2 pixels" in refusal(image_folders.resize, folder, tmp_path / "none", 0, 2)
    assert not (tmp_path / "none").exists()
