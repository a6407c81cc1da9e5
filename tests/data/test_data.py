"""Datasets: their contents, and the detection of damaged or missing files."""

import gzip
import hashlib
import http.server
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from refusals import refusal
from site_files import (
    BITS,
    DIGITS,
    NUM_TEST,
    NUM_TRAIN,
    OFFLINE,
    amat,
    idx,
    packed,
    small,
)

from aevb import data
from aevb.data import Options, binarized_mnist, mnist, preprocessing
from aevb.data import synthetic as synthetic_data
from aevb.data.io import prepared, sources
from aevb.errors import UserError

RANDOM_TEST_DIGEST = "3fa179cdf96b53d270671c4ea540b51a4b4075437de3081ffe92ac6138223469"
TWO_SPLITS = Options(num_valid=0)
FIXED_DIGEST = "d6cd060792c323af4c5a02f6b27402f46149018365a0e4bba96e49b064edbcd9"


class Site:
    """A web server on this machine that maps each path to its answer."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.truncated = False
        self.before: dict[str, Callable[[], None]] = {}  # path -> function called before its answer
        self.requests = 0
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests += 1
                site.before.get(self.path, lambda: None)()
                content = site.content.get(self.path)
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                served = content or b""
                self.wfile.write(served[: len(served) // 2] if site.truncated else served)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def wait_until(ready: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a TFDS folder that only this test uses."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


@pytest.fixture
def mnist_files(monkeypatch: pytest.MonkeyPatch, home: Path) -> dict[str, bytes]:
    """Makes a small MNIST, offline, and returns its files by name."""
    source, files = small(mnist.SOURCE, DIGITS, lambda a: gzip.compress(idx(a)), OFFLINE)
    monkeypatch.setattr(mnist, "SOURCE", source)
    return files


@pytest.fixture
def binarized_files(monkeypatch: pytest.MonkeyPatch, home: Path) -> dict[str, bytes]:
    source, files = small(binarized_mnist.SOURCE, BITS, amat, OFFLINE)
    monkeypatch.setattr(binarized_mnist, "SOURCE", source)
    return files


def bring(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


# The catalogue


KINDS = {
    ("binarized_mnist", "none"): "binary",
    ("frey_faces", "none"): "grey",
    ("mnist", "dynamic"): "binary",
    ("mnist", "fixed"): "binary",
    ("mnist", "none"): "grey",
    ("synthetic", "none"): "real",
}


@pytest.mark.parametrize("name", data.DATASETS)
def test_every_dataset_meets_the_requirements_of_a_dataset(
    name: str, mnist_files: dict[str, bytes], binarized_files: dict[str, bytes], home: Path
) -> None:
    bring(mnist_files, home / "downloads" / "manual" / "mnist")
    bring(binarized_files, home / "downloads" / "manual")
    entry = data.DATASETS[name]
    for split in entry.splits:
        for binarization in entry.binarizations:
            kind = KINDS[name, binarization]
            dataset = data.load(name, Options(split=split, binarization=binarization))
            assert dataset.name == name
            assert dataset.kind == kind
            assert dataset.train.ndim == dataset.test.ndim == 2
            assert dataset.followed == ("test" if split == "train+validation" else "valid")
            for held_out in dataset.splits.values():
                assert held_out.dtype == dataset.train.dtype
                assert held_out.shape[1:] == dataset.train.shape[1:]
            assert dataset.train.shape[1] == dataset.test.shape[1]
            assert dataset.train.dtype == (np.float32 if kind == "real" else np.uint8)
            assert (dataset.levels == 256.0) if kind == "grey" else (dataset.levels is None)
            if dataset.image_shape:
                assert np.prod(dataset.image_shape) == dataset.train.shape[1]
            stored = jnp.asarray(dataset.test[:5])
            x = np.asarray(jax.jit(jax.vmap(dataset.preprocess))(_keys(5), stored))
            assert x.dtype == np.float32
            assert x.shape == stored.shape
            if kind == "binary":
                assert set(np.unique(x)) == {0.0, 1.0}
            if kind == "grey":
                np.testing.assert_array_equal(x, dataset.test[:5] / np.float32(256))
    default = data.load(name)
    first = Options(split=entry.splits[0], binarization=entry.binarizations[0])
    np.testing.assert_array_equal(default.train, data.load(name, first).train)


def _keys(number: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), number)


def test_unknown_names_splits_binarizations_and_scales_are_refused_with_the_allowed_ones() -> None:
    assert "binarized_mnist, frey_faces, mnist, synthetic" in refusal(data.load, "cifar")
    assert "does not exist" in refusal(data.load, "preprocessing")
    assert "blocked, random" in refusal(data.load, "frey_faces", Options(split="half"))
    assert "dynamic, fixed, none" in refusal(data.load, "mnist", Options(binarization="dynamik"))
    assert "128.0" in refusal(data.load, "frey_faces", Options(grey_scale=128.0))


def test_loading_prepared_data_imports_no_tensorflow_datasets(
    mnist_files: dict[str, bytes], home: Path
) -> None:
    """The import of TFDS alone would take 0.6 s of every run."""
    bring(mnist_files, home / "downloads" / "manual" / "mnist")
    data.load("mnist")
    program = """if True:
        import pickle, sys
        from aevb import data
        from aevb.data import mnist
        mnist.SOURCE = pickle.load(sys.stdin.buffer)
        assert len(data.load("mnist").train) == 25
        data.load("frey_faces")
        assert "tensorflow_datasets" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], input=pickle.dumps(mnist.SOURCE), check=True)


# Frey faces


def test_frey_faces_are_the_published_film_in_its_order() -> None:
    film = np.concatenate([*data.load("frey_faces").splits.values()])
    assert film.shape == (1965, 560)
    digest = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"
    assert hashlib.sha256(film.tobytes()).hexdigest() == digest
    assert film[0, :4].tolist() == [0x51, 0x88, 0xA7, 0xB9]


FREY_SIZES = {  # by split and data.num_valid
    ("blocked", -1): [1372, 200, 393],
    ("blocked", 0): [1572, 393],
    ("random", -1): [1565, 200, 200],
    ("random", 0): [1572, 393],
    ("random", 100): [1765, 100, 100],
}


@pytest.mark.parametrize(("split", "num_valid"), FREY_SIZES)
def test_frey_faces_splits_are_disjoint_and_complete(split: str, num_valid: int) -> None:
    faces = data.load("frey_faces", Options(split=split, num_valid=num_valid))
    film = np.concatenate([*data.load("frey_faces").splits.values()])
    parts = [*faces.splits.values()]
    assert [len(part) for part in parts] == FREY_SIZES[split, num_valid]
    np.testing.assert_array_equal(
        np.unique(np.concatenate(parts), axis=0, return_counts=True)[1],
        np.unique(film, axis=0, return_counts=True)[1],
    )
    if split == "blocked":  # three blocks of time
        np.testing.assert_array_equal(np.concatenate(parts), film)


def test_frey_faces_random_split_is_the_same_on_every_machine_and_not_contiguous() -> None:
    test = data.load("frey_faces", Options(split="random", num_valid=0)).test
    assert hashlib.sha256(test.tobytes()).hexdigest() == RANDOM_TEST_DIGEST
    assert not np.array_equal(test, data.load("frey_faces").test)


def test_frey_faces_are_loaded_without_a_writable_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", os.devnull)
    monkeypatch.setenv("HOME", os.devnull)
    assert len(data.load("frey_faces", Options(manual_dir=os.devnull)).train) == 1372


def test_damaged_frey_faces_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "frey_rawface.mat"
    content = (sources.SHIPPED / name).read_bytes()
    monkeypatch.setattr(sources, "SHIPPED", bring({name: content[:-100]}, tmp_path))
    assert str(tmp_path / name) in refusal(data.load, "frey_faces")
    (tmp_path / name).unlink()
    assert str(tmp_path / name) in refusal(data.load, "frey_faces")


def test_frey_faces_can_be_prepared_for_tfds(home: Path) -> None:
    import tensorflow_datasets as tfds

    folder = data.prepare("frey_faces")
    assert folder.parent == home / "aevb_frey_faces"
    builder: Any = tfds.builder_from_directory(folder)
    records = builder.as_data_source("film[:80%]")
    images = np.stack([record["image"].reshape(-1) for record in records])
    np.testing.assert_array_equal(images, data.load("frey_faces", TWO_SPLITS).train)
    assert [int(record["index"]) for record in records] == list(range(1572))
    with pytest.raises(UserError, match="formula"):
        data.prepare("synthetic")


# MNIST


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("place", ["downloads/manual", "downloads/manual/mnist", "elsewhere"])
def test_mnist_is_read_in_its_order_from_files_brought_by_hand(
    compressed: bool,
    place: str,
    mnist_files: dict[str, bytes],
    home: Path,
) -> None:
    if not compressed:
        mnist_files = {
            name.removesuffix(".gz"): gzip.decompress(content)
            for name, content in mnist_files.items()
        }
    folder = bring(mnist_files, home / place)
    options = Options(manual_dir=str(folder) if place == "elsewhere" else "")
    loaded = data.load("mnist", options)
    assert [*map(len, loaded.splits.values())] == [25, 5, NUM_TEST]
    held_in = np.concatenate([loaded.splits["train"], loaded.splits["valid"]])
    np.testing.assert_array_equal(held_in, DIGITS[0].reshape(NUM_TRAIN, 784))
    np.testing.assert_array_equal(loaded.test, DIGITS[2].reshape(NUM_TEST, 784))


def test_prepared_mnist_reloads_equal_without_its_files(
    mnist_files: dict[str, bytes], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manual = bring(mnist_files, home / "downloads" / "manual" / "mnist")
    first = data.load("mnist")
    for file in manual.iterdir():
        file.unlink()
    folder = home / "aevb_mnist" / "1.0.0"
    assert sorted(f.name for f in folder.glob("*.npy")) == ["test.npy", "train.npy"]
    for restore in (lambda: None, (folder / "train.npy").unlink):  # with the npy file, then without
        restore()
        again = data.load("mnist")
        np.testing.assert_array_equal(first.train, again.train)
        np.testing.assert_array_equal(first.test, again.test)
    assert not list(folder.glob("*.tmp"))


def test_prepared_mnist_holds_its_labels(mnist_files: dict[str, bytes], home: Path) -> None:
    import tensorflow_datasets as tfds

    bring(mnist_files, home / "downloads" / "manual")
    builder: Any = tfds.builder_from_directory(data.prepare("mnist"))
    labels = [int(record["label"]) for record in builder.as_data_source("test")]
    assert labels == DIGITS[3].tolist()


def test_mnist_has_its_labels_if_some_are_asked_for(
    mnist_files: dict[str, bytes], home: Path
) -> None:
    bring(mnist_files, home / "downloads" / "manual")
    assert data.load("mnist").labels is None
    folder = home / "aevb_mnist" / "1.0.0"
    for restore in (lambda: None, (folder / "train_label.npy").unlink):
        restore() if (folder / "train_label.npy").exists() else None
        labels = data.load("mnist", Options(num_labels=0, num_valid=5)).labels
        assert labels is not None
        assert labels.valid is not None
        assert [*labels.train, *labels.valid] == DIGITS[1].tolist()
        assert labels.test.tolist() == DIGITS[3].tolist()
        np.testing.assert_array_equal(labels.shown, labels.train)


def test_dynamic_binarization_has_the_grey_level_as_its_mean() -> None:
    x = jnp.asarray([0, 1, 64, 128, 254, 255], jnp.uint8)
    num_draws = 20_000
    draws = np.asarray(jax.vmap(lambda key: preprocessing.drawn(key, x))(_keys(num_draws)))
    probability = np.asarray(x, np.float64) / 255
    standard_error = np.sqrt(probability * (1 - probability) / num_draws)
    assert np.all(np.abs(draws.mean(0) - probability) <= 4 * standard_error)  # 0 for 0 and 255


def test_dynamic_binarization_is_the_bernoulli_draw_of_jax() -> None:
    x, key = jnp.arange(256).astype(jnp.uint8), jax.random.key(3)
    expected = jax.random.bernoulli(key, x.astype(jnp.float32) / 255)
    np.testing.assert_array_equal(preprocessing.drawn(key, x), expected.astype(jnp.float32))


def test_a_level_with_the_noise_of_its_own_is_at_the_stated_place_of_its_cell() -> None:
    x, noise = jnp.asarray([0, 255], jnp.uint8), jnp.asarray([0.5, 0.25])
    noisy = preprocessing.dequantized(preprocessing.scaled(256.0))
    assert isinstance(noisy, preprocessing.Preprocessing)
    np.testing.assert_array_equal(noisy.with_noise(noise, x), np.array([0.5, 255.25]) / 256)


def test_noise_is_given_exactly_where_a_preprocessing_is_random() -> None:
    x = jnp.zeros(2)
    for preprocess, noise in ((preprocessing.drawn, None), (preprocessing.unchanged, x)):
        with pytest.raises(ValueError, match="takes noise only if it is random"):
            preprocess.with_noise(noise, x)


def test_fixed_binarization_has_the_grey_level_as_its_mean_and_is_always_the_same() -> None:
    levels = np.array([0, 1, 64, 128, 254, 255], np.uint8)
    num_draws = 200_000
    images = np.tile(levels, (num_draws, 1))
    once, other = preprocessing.binarized_once(images, images)
    probability = levels / 255
    standard_error = np.sqrt(probability * (1 - probability) / num_draws)
    assert np.all(np.abs(once.mean(0) - probability) <= 4 * standard_error)
    assert not np.array_equal(once, other)  # training and test data are drawn separately
    assert hashlib.sha256(once.tobytes()).hexdigest() == FIXED_DIGEST  # on every machine


# Dequantized levels


def test_a_dequantized_level_is_uniform_within_its_cell() -> None:
    """A pixel of the highest level does not round up to 1, nor any other into the next cell."""
    x = jnp.arange(256).astype(jnp.uint8)
    preprocess = preprocessing.dequantized(preprocessing.scaled(256.0))
    found = np.asarray(jax.jit(jax.vmap(preprocess, (0, None)))(_keys(1000), x), np.float64)
    np.testing.assert_array_equal(np.floor(found * 256), np.tile(np.arange(256), (1000, 1)))
    noise = found * 256 - np.arange(256)
    assert scipy.stats.kstest(noise[:, 255], scipy.stats.uniform.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(noise[0], scipy.stats.uniform.cdf).pvalue > 1e-3
    (_, correlation), _ = np.asarray(np.corrcoef(noise[:, :2].T))  # pixels have their own noise
    assert abs(correlation) < 4 / np.sqrt(1000)
    high, low = np.divmod(noise * 2**16, 2**8)  # all digits of the noise are drawn
    assert {len(np.unique(digit)) for digit in (high, low)} == {256}


def test_dequantization_does_not_share_its_key_with_preprocessing() -> None:
    """A preprocessing that draws from its key does not draw the same numbers."""
    x = jnp.zeros(4)
    seen = []

    def preprocess(key: jax.Array, x: jax.Array) -> jax.Array:
        seen.append(key)
        return x

    noise = preprocessing.dequantized(preprocess)(jax.random.key(0), x)
    from_its_key = jax.random.bits(seen[0], x.shape, jnp.uint16).astype(jnp.float32) / 2**24
    assert not np.array_equal(noise, from_its_key)


def test_data_are_dequantized_by_an_option() -> None:
    plain, noisy = (data.load("frey_faces", Options(dequantize=d)) for d in (False, True))
    assert (plain.is_dequantized, noisy.is_dequantized) == (False, True)
    stored = jnp.asarray(noisy.test[0])
    one, other = (noisy.preprocess(key, stored) for key in _keys(2))
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(np.floor(np.asarray(one) * 256), noisy.test[0])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("synthetic", {}, ["synthetic holds real data", "must be False"]),
        ("mnist", {"binarization": "fixed"}, ["mnist holds binary data", "binarization=none"]),
        ("frey_faces", {"grey_scale": 255.0}, ["k / 255", "tile [0, 1]", "grey_scale=256"]),
    ],
)
def test_data_without_levels_that_tile_the_unit_interval_are_not_dequantized(
    name: str,
    options: dict[str, Any],
    words: list[str],
    mnist_files: dict[str, bytes],
    home: Path,
) -> None:
    bring(mnist_files, home / "downloads" / "manual" / "mnist")
    message = refusal(data.load, name, Options(dequantize=True, **options))
    for word in ("data.dequantize is True", *words):
        assert word in message


# Binarized MNIST


PACKED = {
    f"{name}.npz": packed(images)
    for name, images in zip(("train", "valid", "test"), BITS, strict=True)
}


@pytest.mark.parametrize("is_packed", [True, False])
def test_binarized_mnist_is_read_in_its_order_from_text_or_packed_bits(
    is_packed: bool, binarized_files: dict[str, bytes], home: Path
) -> None:
    files = PACKED if is_packed else binarized_files
    bring(files, home / "downloads" / "manual" / "binarized_mnist")
    train, validation, test = (images.reshape(-1, 784) for images in BITS)
    standard = data.load("binarized_mnist")
    np.testing.assert_array_equal(standard.train, train)
    np.testing.assert_array_equal(standard.splits["valid"], validation)
    np.testing.assert_array_equal(standard.test, test)
    assert "valid" not in data.load("binarized_mnist", TWO_SPLITS).splits
    both = data.load("binarized_mnist", Options(split="train+validation"))
    np.testing.assert_array_equal(both.train, np.concatenate([train, validation]))
    np.testing.assert_array_equal(both.test, test)
    assert "valid" not in both.splits
    assert "-1 uses them, and 0" in refusal(data.load, "binarized_mnist", Options(num_valid=7))


# Broken files. Random damage to them is in faults/test_data_files.py.


def _regzip(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: gzip.compress(change(gzip.decompress(content)))


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


# The file, and what becomes of its content
IDX, TEXT, NPZ = "train-images-idx3-ubyte.gz", "binarized_mnist_valid.amat", "train.npz"
BROKEN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip: empty": (IDX, lambda _: b""),
    "gzip: damaged": (IDX, lambda content: content[:500] + b"\0\0\0" + content[503:]),
    "idx: truncated": (IDX, _regzip(lambda content: content[:-1])),
    "idx: header only": (IDX, _regzip(lambda content: content[:7])),
    "idx: more than its header says": (IDX, _regzip(lambda content: content + b"\0")),
    "idx: fewer images": (IDX, _regzip(lambda _: idx(DIGITS[0][:3]))),
    "idx: other axes": (IDX, _regzip(lambda _: idx(DIGITS[0].reshape(NUM_TRAIN, 784)))),
    "idx: one bit": (IDX, _regzip(lambda content: content[:-1] + bytes([content[-1] ^ 1]))),
    "idx: another format": (IDX, lambda _: b"<html>404: Not Found</html>"),
    "text: empty": (TEXT, lambda _: b""),
    "text: a line missing": (TEXT, lambda content: content[:-1568]),
    "text: another digit": (TEXT, lambda content: content[:-2] + b"7\n"),
    "text: other separators": (TEXT, lambda content: content.replace(b" ", b",")),
    "npz: empty": (NPZ, lambda _: b""),
    "npz: no such array": (NPZ, lambda _: _npz(images=np.zeros((NUM_TRAIN, 98), np.uint8))),
    "npz: objects": (NPZ, lambda _: _npz(packed_images=np.array([{}], dtype=object))),
    "npz: one axis": (NPZ, lambda _: _npz(packed_images=np.zeros(98, np.uint8))),
    "npz: floats": (NPZ, lambda _: _npz(packed_images=np.zeros((NUM_TRAIN, 98)))),
    "npz: other bits": (NPZ, lambda _: _npz(packed_images=np.zeros((NUM_TRAIN, 98), np.uint8))),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_file_with_broken_idx_text_or_bits_is_named_and_refused(
    damage: str, mnist_files: dict[str, bytes], binarized_files: dict[str, bytes], home: Path
) -> None:
    file, change = BROKEN[damage]
    files = {IDX: mnist_files, TEXT: binarized_files, NPZ: PACKED}[file]
    name = "mnist" if file == IDX else "binarized_mnist"
    folder = bring(files | {file: change(files[file])}, home / "downloads" / "manual" / name)
    message = refusal(data.load, name)
    assert str(folder / file) in message
    expected = f"expected an IDX file (gzipped or not) of shape ({NUM_TRAIN}, 28, 28)"
    assert (expected in message) == (file == IDX)
    assert not (home / f"aevb_{name}" / "1.0.0").exists()


# Folders


def test_a_manual_folder_that_does_not_exist_is_refused(
    mnist_files: dict[str, bytes], tmp_path: Path
) -> None:
    assert "which is not a folder" in refusal(
        data.load, "mnist", Options(manual_dir=str(tmp_path / "none"))
    )


def test_a_folder_that_cannot_be_written_is_refused(
    mnist_files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    manual = bring(mnist_files, tmp_path / "manual")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        message = refusal(data.load, "mnist", Options(dir=str(folder), manual_dir=str(manual)))
        assert f"cannot be prepared in {folder}" in message
        assert "data.dir" in message


PREPARED_DAMAGE = {
    "bit of a piece": lambda folder: _flip(folder / "train.npy", -5),
    "bit of the records": lambda folder: _flip(_records_alone(folder), 2000),
    "records gone": lambda folder: _records_alone(folder).unlink(),
    "everything gone": lambda folder: [file.unlink() for file in folder.iterdir()],
}


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def _records_alone(folder: Path) -> Path:
    (folder / "train.npy").unlink()
    return next(folder.glob("aevb_mnist-train.array_record*"))


@pytest.mark.parametrize("damage", PREPARED_DAMAGE)
def test_damaged_prepared_data_are_refused_with_the_remedy(
    damage: str, mnist_files: dict[str, bytes], home: Path
) -> None:
    bring(mnist_files, home / "downloads" / "manual")
    data.load("mnist")
    folder = home / "aevb_mnist" / "1.0.0"
    PREPARED_DAMAGE[damage](folder)
    message = refusal(data.load, "mnist")
    assert str(folder) in message
    assert "delete" in message


@pytest.mark.slow
def test_an_interrupted_preparation_is_repeated(
    mnist_files: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    manual = bring(mnist_files, tmp_path / "manual")
    program = """if True:
        import os, pickle, signal, sys
        from aevb import data
        from aevb.data import mnist
        from aevb.data.io import tfds_builder
        mnist.SOURCE = pickle.load(sys.stdin.buffer)
        def dies(self, columns):
            yield 0, {"index": 0, **{name: column[0] for name, column in columns.items()}}
            os.kill(os.getpid(), signal.SIGKILL)
        tfds_builder.Builder._generate_examples = dies
        data.load("mnist", data.Options(manual_dir=sys.argv[1]))
    """
    killed = subprocess.run(
        [sys.executable, "-c", program, manual], input=pickle.dumps(mnist.SOURCE), check=False
    )
    assert killed.returncode == -9
    assert list((home / "aevb_mnist").iterdir())  # it left something
    assert not (home / "aevb_mnist" / "1.0.0").exists()
    loaded = data.load("mnist", Options(manual_dir=str(manual), num_valid=0))
    assert (len(loaded.train), len(loaded.test)) == (NUM_TRAIN, NUM_TEST)


def test_two_processes_can_prepare_the_same_data_at_once(
    mnist_files: dict[str, bytes], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aevb.data.io import tfds_builder

    bring(mnist_files, home / "downloads" / "manual")
    write, count = tfds_builder.write, []

    def write_while_another_does(*args: Any) -> None:
        generate = tfds_builder.Builder._generate_examples

        def another_is_faster(self: Any, columns: Any) -> Any:
            if not count:
                count.append(1)
                write(*args)
            return generate(self, columns)

        monkeypatch.setattr(tfds_builder.Builder, "_generate_examples", another_is_faster)
        write(*args)

    monkeypatch.setattr(tfds_builder, "write", write_while_another_does)
    assert len(data.load("mnist", TWO_SPLITS).train) == NUM_TRAIN
    assert count


# The network


def test_offline_data_without_files_are_refused_at_once_with_the_remedy(
    mnist_files: dict[str, bytes],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bring(
        {name: content for name, content in mnist_files.items() if "labels" in name},
        home / "downloads" / "manual",
    )

    def no_network(*arguments: Any, **options: Any) -> None:
        raise OSError("Network is unreachable")

    def no_tfds(*arguments: Any) -> None:
        raise AssertionError("TFDS would try for minutes")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr("aevb.data.io.tfds_builder.write", no_tfds)
    message = refusal(data.load, "mnist")
    assert "Network is unreachable" in message
    assert not (home / "aevb_mnist").exists()
    assert f"put these files into {home / 'downloads' / 'manual' / 'mnist'} " in message
    for name in mnist_files:
        assert (f"/{name}" in message) == ("images" in name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("limit", ["CONNECT_SECONDS", "PATIENCE_SECONDS"])
def test_a_download_from_a_silent_server_times_out(
    limit: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, limit, 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(mnist, "SOURCE", small(mnist.SOURCE, DIGITS, idx, url)[0])
        hang_up = threading.Timer(120, silent.close)  # otherwise an endless wait hangs the test
        hang_up.start()
        assert "cannot be downloaded" in refusal(data.load, "mnist")
        assert hang_up.is_alive()
        hang_up.cancel()


@pytest.fixture
def served(site: Site, home: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Returns a site that serves a small MNIST."""
    source, files = small(mnist.SOURCE, DIGITS, lambda a: gzip.compress(idx(a)), site.url)
    monkeypatch.setattr(mnist, "SOURCE", source)
    site.content = {f"/{name}": content for name, content in files.items()}
    return site


def test_mnist_is_downloaded_once(served: Site, capfd: pytest.CaptureFixture[str]) -> None:
    found = data.load("mnist", TWO_SPLITS).train
    np.testing.assert_array_equal(found, DIGITS[0].reshape(-1, 784))
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("preparing mnist in ")
    requests = served.requests
    assert data.load("mnist", TWO_SPLITS).train.shape == (NUM_TRAIN, 784)
    assert served.requests == requests


DOWNLOAD_DAMAGE = {
    "not there": lambda site, path: site.content.pop(path),
    "truncated": lambda site, path: setattr(site, "truncated", True),
    "another content": lambda site, path: site.content.update({path: b"<html>log in</html>"}),
}


@pytest.mark.parametrize("damage", DOWNLOAD_DAMAGE)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_failed_download_is_reported_and_leaves_no_usable_file(
    damage: str, name: str, served: Site, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = dict(served.content)
    DOWNLOAD_DAMAGE[damage](served, f"/{name}")
    message = refusal(data.load, "mnist")
    assert "download" in message
    assert f"{served.url}/{name}" in message
    assert len(capfd.readouterr().err.splitlines()) <= 1
    served.content, served.truncated = whole, False
    assert data.load("mnist", TWO_SPLITS).train.shape == (NUM_TRAIN, 784)


def test_an_interrupted_download_fetches_only_the_missing_files(served: Site, home: Path) -> None:
    *there, missing = served.content
    held_back = served.content.pop(missing)

    def wait_for_the_others() -> None:
        wait_until(lambda: len(list((home / "downloads").rglob("*.INFO"))) == len(there))

    served.before[missing] = wait_for_the_others
    refusal(data.load, "mnist")
    # A second request for the other files would get other content.
    served.content = dict.fromkeys(there, b"nothing") | {missing: held_back}
    assert data.load("mnist", TWO_SPLITS).train.shape == (NUM_TRAIN, 784)


# Synthetic data


SYNTHETIC = Options(
    synthetic_num_train=20_000,
    synthetic_num_dims=7,
    synthetic_num_latents=3,
    synthetic_noise_std=0.3,
)


def exact_log_prob(model: synthetic_data.LinearGaussian, x: np.ndarray) -> np.ndarray:
    """Returns log p(x) of each x [N, D] by the marginal's covariance, in float64, [N]."""
    weights, bias = np.asarray(model.weights, np.float64), np.asarray(model.bias, np.float64)
    cov: Any = weights @ weights.T + float(model.noise_var) * np.eye(len(bias))
    return scipy.stats.multivariate_normal(bias, cov).logpdf(x.astype(np.float64))


def test_synthetic_log_prob_is_the_density_of_its_marginal() -> None:
    model = synthetic_data.make_model(SYNTHETIC)
    x = data.load("synthetic", SYNTHETIC).test
    exact = exact_log_prob(model, x)
    log_prob = jax.jit(jax.vmap(model.log_prob))(jnp.asarray(x))
    np.testing.assert_allclose(log_prob, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_synthetic_log_prob_is_exact_at_a_small_noise_variance() -> None:
    """The covariance's condition number is 10^7, beyond what float32 could invert."""
    options = SYNTHETIC._replace(synthetic_noise_std=1e-3)
    model, x = synthetic_data.make_model(options), data.load("synthetic", options).test
    exact = exact_log_prob(model, x)
    log_prob = np.asarray(jax.vmap(model.log_prob)(jnp.asarray(x)))
    np.testing.assert_allclose(log_prob, exact, atol=0.05)  # x itself is rounded to 1e-7 of 1e-3


def test_synthetic_posterior_is_the_conditional_of_the_joint_gaussian() -> None:
    model = synthetic_data.make_model(SYNTHETIC)
    x = data.load("synthetic", SYNTHETIC).test[0]
    weights, bias = np.asarray(model.weights, np.float64), np.asarray(model.bias, np.float64)
    gain = weights.T @ np.linalg.inv(weights @ weights.T + float(model.noise_var) * np.eye(7))
    mean, cov = model.posterior(jnp.asarray(x))
    np.testing.assert_allclose(mean, gain @ (x - bias), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cov, np.eye(3) - gain @ weights, rtol=1e-3, atol=1e-5)


def test_synthetic_samples_have_the_moments_of_the_model() -> None:
    model, x = synthetic_data.make_model(SYNTHETIC), data.load("synthetic", SYNTHETIC).train
    cov = np.asarray(model.weights @ model.weights.T) + float(model.noise_var) * np.eye(7)
    variance = np.diag(cov)
    num_data = len(x)
    assert np.all(np.abs(x.mean(0) - model.bias) <= 4 * np.sqrt(variance / num_data))
    standard_error = np.sqrt((np.outer(variance, variance) + cov**2) / num_data)
    assert np.all(np.abs(np.cov(x.T) - cov) <= 4 * standard_error)


def test_synthetic_data_depend_only_on_their_seed() -> None:
    once, again = data.load("synthetic", SYNTHETIC), data.load("synthetic", SYNTHETIC)
    np.testing.assert_array_equal(once.train, again.train)
    more = data.load("synthetic", SYNTHETIC._replace(synthetic_num_train=20_500))
    np.testing.assert_array_equal(once.test, more.test)
    np.testing.assert_array_equal(once.train, more.train[:20_000])
    other = data.load("synthetic", SYNTHETIC._replace(synthetic_seed=1))
    assert not np.array_equal(once.test, other.test)
    assert len(np.unique(np.concatenate([once.train, once.test]), axis=0)) == 21_000


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_train", 0), ("num_test", 0), ("num_dims", 0), ("num_latents", -1), ("noise_std", 0.0)],
)
def test_settings_of_synthetic_data_out_of_range_are_refused(field: str, value: float) -> None:
    assert f"synthetic_{field} is {value}" in refusal(
        data.load, "synthetic", SYNTHETIC._replace(**{f"synthetic_{field}": value})
    )


@pytest.mark.parametrize("number", [1, 7, 100, 1372])
def test_num_train_takes_evenly_spaced_training_data_and_keeps_the_test_data(number: int) -> None:
    everything = data.load("frey_faces")
    some = data.load("frey_faces", Options(num_train=number))
    assert len(some.train) == number
    for position, frame in enumerate(some.train):
        np.testing.assert_array_equal(frame, everything.train[position * 1372 // number])
    np.testing.assert_array_equal(some.test, everything.test)


@pytest.mark.parametrize("number", [-1, 1373])
def test_a_num_train_above_the_size_of_the_data_is_refused(number: int) -> None:
    with pytest.raises(UserError, match=rf"num_train is {number}.*1372"):
        data.load("frey_faces", Options(num_train=number))


@pytest.mark.parametrize("number", [0, 1, 29])
def test_validation_data_are_the_last_of_the_training_data(
    number: int, mnist_files: dict[str, bytes], home: Path
) -> None:
    bring(mnist_files, home / "downloads" / "manual" / "mnist")
    options = Options(binarization="none", num_valid=number)
    some, images = data.load("mnist", options), DIGITS[0].reshape(NUM_TRAIN, 784)
    assert [*some.splits] == (["train", "valid", "test"] if number else ["train", "test"])
    np.testing.assert_array_equal(some.train, images[: NUM_TRAIN - number])
    np.testing.assert_array_equal(
        some.splits.get("valid", images[:0]), images[NUM_TRAIN - number :]
    )
    assert len(data.load("mnist", options._replace(num_train=1)).splits.get("valid", ())) == number


@pytest.mark.parametrize("number", [1572, 5000])
def test_validation_data_that_leave_none_for_training_are_refused(number: int) -> None:
    assert f"num_valid is {number}" in refusal(data.load, "frey_faces", Options(num_valid=number))
    assert f"num_valid is {number}" in refusal(
        data.load, "frey_faces", Options(split="random", num_valid=number)
    )
