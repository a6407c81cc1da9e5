"""Damaged files of any format: each is refused by its name, or still has valid content."""

import gzip
import io
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from site_files import BITS, DIGITS, OFFLINE, amat, idx, packed, small

from aevb import data
from aevb.data import Options, binarized_mnist, frey_faces, image_folders, mnist
from aevb.data.io import sources
from aevb.data.io.sources import Part, Source
from aevb.errors import UserError

NUM_DAMAGES = 50


def of_mnist(encode: Callable[[np.ndarray], bytes]) -> tuple[Source, Part, bytes]:
    return training_images(*small(mnist.SOURCE, DIGITS, encode, OFFLINE))


def of_binarized(encode: Callable[[np.ndarray], bytes]) -> tuple[Source, Part, bytes]:
    return training_images(*small(binarized_mnist.SOURCE, BITS, encode, OFFLINE))


def training_images(source: Source, files: dict[str, bytes]) -> tuple[Source, Part, bytes]:
    part = source.splits["train"]["image"]
    return source, part, files[part.names[0]]


def of_frey() -> tuple[Source, Part, bytes]:
    part = frey_faces.SOURCE.splits["film"]["image"]
    return frey_faces.SOURCE, part, (sources.SHIPPED / part.names[0]).read_bytes()


FORMATS: dict[str, Callable[[], tuple[Source, Part, bytes]]] = {
    "mat": of_frey,
    "idx": lambda: of_mnist(idx),
    "idx.gz": lambda: of_mnist(lambda array: gzip.compress(idx(array), mtime=0)),
    "amat": lambda: of_binarized(amat),
    "npz": lambda: of_binarized(packed),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    match rng.randrange(7):
        case 0:
            flipped = content[at] ^ 1 << rng.randrange(8)
            return content[:at] + bytes([flipped]) + content[at + 1 :]
        case 1:
            return content[:at]
        case 2:
            return content[:at] + rng.randbytes(rng.randrange(1, 50)) + content[at:]
        case 3:
            return content[:at] + content[at + rng.randrange(1, 50) :]
        case 4:
            return rng.randbytes(rng.randrange(2000))
        case 5:
            return content[:at] + bytes(len(content) - at)
        case _:
            return content + content


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_data_file_is_refused_by_name(
    format: str, tmp_path: Path, record_property: Callable[[str, object], None]
):
    source, part, content = FORMATS[format]()
    path = tmp_path / f"file.{format}"
    path.write_bytes(content)
    sound = sources.read(source, part, path)
    outcomes: Counter[str] = Counter()
    for number in range(NUM_DAMAGES):
        path.write_bytes(damaged(content, random.Random(number)))
        try:
            found = sources.read(source, part, path)
        except UserError as error:
            (line,) = str(error).splitlines()
            outcomes["refused by name" if line.startswith(str(path)) else line] += 1
            continue
        np.testing.assert_array_equal(found, sound)
        outcomes["still holds all"] += 1
    assert set(outcomes) <= {"refused by name", "still holds all"}
    assert outcomes["refused by name"] > 0.7 * NUM_DAMAGES
    record_property("fault", f"{NUM_DAMAGES} damaged {format}")
    record_property("outcome", ", ".join(f"{count} {word}" for word, count in outcomes.items()))


@pytest.mark.parametrize("format", ["array_record", "npy"])
def test_damaged_prepared_data_are_refused_with_the_name_of_their_folder(
    format: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
):
    """Any file of the folder is damaged, read or not; data that are read are never wrong."""
    source, files = small(mnist.SOURCE, DIGITS, idx, OFFLINE)
    monkeypatch.setattr(mnist, "SOURCE", source)
    brought, sound = tmp_path / "brought", tmp_path / "sound"
    brought.mkdir()
    for name, content in files.items():
        (brought / name).write_bytes(content)
    expected = data.load("mnist", Options(dir=str(sound), manual_dir=str(brought)))
    if format == "array_record":
        for piece in sound.rglob("*.npy"):
            piece.unlink()
    outcomes: Counter[str] = Counter()
    for number in range(NUM_DAMAGES):
        rng = random.Random(number)
        folder = tmp_path / "damaged"
        shutil.copytree(sound, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        read = [path for path in files if format in path.name]
        file = rng.choice(read if number % 2 else files)
        file.write_bytes(damaged(file.read_bytes(), rng))
        try:
            found = data.load("mnist", Options(dir=str(folder)))
        except UserError as error:
            (line,) = str(error).splitlines()
            assert str(folder) in line
            outcomes["refused by name"] += 1
        else:
            np.testing.assert_array_equal(found.train, expected.train)
            np.testing.assert_array_equal(found.test, expected.test)
            outcomes["still holds all"] += 1
        shutil.rmtree(folder)
    assert outcomes["refused by name"] >= 0.4 * NUM_DAMAGES
    record_property("fault", f"{NUM_DAMAGES} damaged folders of {format}")
    record_property("outcome", ", ".join(f"{count} {word}" for word, count in outcomes.items()))


def one_array(dtype: type) -> Callable[[], bytes]:
    def encoded() -> bytes:
        file = io.BytesIO()
        np.save(file, DIGITS[0].astype(dtype))
        return file.getvalue()

    return encoded


def one_image(suffix: str) -> Callable[[], bytes]:
    def encoded() -> bytes:
        file = io.BytesIO()
        Image.fromarray(DIGITS[0][0]).save(file, Image.registered_extensions()[suffix])
        return file.getvalue()

    return encoded


OWN: dict[str, Callable[[], bytes]] = {
    "bytes.npy": one_array(np.uint8),
    "floats.npy": one_array(np.float32),
    **{f"image{suffix}": one_image(suffix) for suffix in image_folders.SUFFIXES},
}


@pytest.mark.parametrize("name", OWN)
def test_damaged_user_files_are_refused_by_name_or_are_still_valid_data(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
):
    """They have no known digest, so a flipped pixel cannot be distinguished from a true one."""
    content = OWN[name]()
    path = tmp_path / "own" / name
    path.parent.mkdir()
    (path.parent / f"another{path.suffix}").write_bytes(content)
    named = f"file:{path}" if path.suffix == ".npy" else f"images:{path.parent}"
    path.write_bytes(content)
    sound = data.load(named, Options())
    outcomes: Counter[str] = Counter()
    for number in range(NUM_DAMAGES):
        path.write_bytes(damaged(content, random.Random(number)))
        try:
            found = data.load(named, Options())
        except UserError as error:
            (line,) = str(error).splitlines()
            outcomes["refused by name" if str(path) in line else line] += 1
            continue
        assert found.kind == sound.kind
        splits = ((found.train, sound.train), (found.test, sound.test))
        assert all(np.isfinite(loaded).all() for loaded, _ in splits)
        same = [np.array_equal(loaded, true) for loaded, true in splits]
        outcomes["still holds all" if all(same) else "could be data"] += 1
    assert set(outcomes) <= {"refused by name", "still holds all", "could be data"}
    record_property("fault", f"{NUM_DAMAGES} damaged {name} of one's own")
    record_property("outcome", ", ".join(f"{count} {word}" for word, count in outcomes.items()))
