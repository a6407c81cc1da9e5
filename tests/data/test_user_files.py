"""The user's own data: npy:FILE and images:FOLDER."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from refusals import refusal

from aevb import data
from aevb.config import default_config, validate, with_values
from aevb.data import Options
from aevb.data.io.array_records import Records
from aevb.errors import UserError
from aevb.experiment import build, load

NUMBER, HEIGHT, WIDTH = 20, 6, 5


def levels(*channels: int) -> np.ndarray:
    shape = (NUMBER, HEIGHT, WIDTH, *channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(folder: Path, array: np.ndarray) -> str:
    np.save(folder / "own.npy", array)
    return f"npy:{folder / 'own.npy'}"


def drawn(folder: Path, images: np.ndarray, suffix: str = "png") -> str:
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"frame{number}.{suffix}")
    return f"images:{folder}"


def rows(dataset: data.Dataset) -> np.ndarray:
    return np.concatenate([np.asarray(part) for part in dataset.splits.values()])


# Accepted files


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("write", [saved, drawn])
def test_images_of_a_folder_are_those_that_were_written_in_the_order_of_their_names(
    write: Callable[[Path, np.ndarray], str], channels: tuple[int, ...], tmp_path: Path
):
    images = levels(*channels)
    dataset = data.load(write(tmp_path, images))  # frame10 comes after frame9
    np.testing.assert_array_equal(rows(dataset), images.reshape(NUMBER, -1))
    assert [*map(len, dataset.splits.values())] == [14, 2, 4]
    assert (dataset.kind, dataset.levels) == ("grey", 256.0)
    assert dataset.image_shape == (HEIGHT, WIDTH, *channels)
    assert dataset.train.dtype == np.uint8
    x = dataset.preprocess(jax.random.key(0), jnp.asarray(dataset.test[0]))
    np.testing.assert_array_equal(x, dataset.test[0] / np.float32(256))


def test_the_memory_layout_and_integer_type_of_an_array_file_do_not_matter(tmp_path: Path):
    images = levels()
    for array in (
        images[..., None],
        np.asfortranarray(images),
        images.astype(np.int64),
        images.astype(">u2"),
    ):
        dataset = data.load(saved(tmp_path, array))
        np.testing.assert_array_equal(rows(dataset), images.reshape(NUMBER, -1))
        assert dataset.image_shape == (HEIGHT, WIDTH)


def test_vectors_of_an_array_file_have_no_image_shape(tmp_path: Path):
    assert data.load(saved(tmp_path, levels().reshape(NUMBER, -1))).image_shape is None


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_floating_point_arrays_are_real_data(dtype: Any, tmp_path: Path):
    array = np.random.default_rng(0).normal(size=(NUMBER, 7)).astype(dtype)
    dataset = data.load(saved(tmp_path, array))
    assert (dataset.kind, dataset.levels, dataset.train.dtype) == ("real", None, np.float32)
    np.testing.assert_array_equal(rows(dataset), array.astype(np.float32))


def test_bool_arrays_are_binary_data(tmp_path: Path):
    array = levels() > 127
    dataset = data.load(saved(tmp_path, array))
    assert (dataset.kind, dataset.levels) == ("binary", None)
    x = dataset.preprocess(jax.random.key(0), jnp.asarray(dataset.train[0]))
    np.testing.assert_array_equal(x, array[0].ravel().astype(np.float32))


def test_the_random_split_takes_every_datapoint_once(tmp_path: Path):
    name, images = saved(tmp_path, levels()), levels().reshape(NUMBER, -1)
    dataset = data.load(name, Options(split="random"))
    assert [*map(len, dataset.splits.values())] == [16, 2, 2]
    assert {row.tobytes() for row in rows(dataset)} == {row.tobytes() for row in images}
    assert not np.array_equal(dataset.test, images[18:])
    np.testing.assert_array_equal(data.load(name, Options(split="random")).test, dataset.test)


@pytest.mark.parametrize("binarization", ["fixed", "dynamic"])
def test_grey_levels_of_an_array_file_are_binarized(binarization: str, tmp_path: Path):
    dataset = data.load(saved(tmp_path, levels()), Options(binarization=binarization))
    assert (dataset.kind, dataset.levels) == ("binary", None)
    x = jax.jit(dataset.preprocess)(jax.random.key(0), jnp.asarray(dataset.train[0]))
    assert set(np.unique(x)) == {0.0, 1.0}


def test_a_folder_of_images_ignores_other_files_and_folders(tmp_path: Path):
    name = drawn(tmp_path, levels(), suffix="PNG")
    (tmp_path / "labels.csv").write_text("1,2,3")
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "more").mkdir()
    assert len(rows(data.load(name))) == NUMBER


def test_black_and_white_images_have_the_levels_0_and_255(tmp_path: Path):
    for number in range(2):
        Image.fromarray(levels()[number] > 127).save(tmp_path / f"{number}.png")
    np.testing.assert_array_equal(
        rows(data.load(f"images:{tmp_path}")), 255 * (levels()[:2] > 127).reshape(2, -1)
    )


# Refused files


def damaged(
    change: Callable[[bytes], bytes],
    make: Callable[[Path, np.ndarray], str] = saved,
    file: str = "own.npy",
) -> Callable[[Path], str]:
    """Returns a function that writes sound data, and then changes a file's content."""

    def write(folder: Path) -> str:
        name = make(folder, levels())
        (folder / file).write_bytes(change((folder / file).read_bytes()))
        return name

    return write


def damaged_image(change: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    return damaged(change, drawn, "frame7.png")


def array(array: Any) -> Callable[[Path], str]:
    return lambda folder: saved(folder, np.asarray(array))


def pickled(folder: Path) -> str:
    """Writes a pickle that would write a file if it were loaded."""

    class Program:
        def __reduce__(self):
            return open, (str(folder / "ran"), "w")

    (folder / "own.npy").write_bytes(pickle.dumps(Program()))
    return f"npy:{folder / 'own.npy'}"


def several(folder: Path) -> str:
    np.savez(folder / "own.npz", x=levels(), y=levels())
    return f"npy:{folder / 'own.npz'}"


def with_nan(value: float) -> np.ndarray:
    x = np.zeros((NUMBER, 7))
    x[3, 4] = value
    return x


BAD_ARRAYS = {
    "missing": (lambda folder: f"npy:{folder / 'none.npy'}", ["none.npy", "no file"]),
    "a folder": (lambda folder: f"npy:{folder}", ["no file"]),
    "no byte": (damaged(lambda content: b""), ["cannot be read"]),
    "another format": (damaged(lambda content: b"P5 6 5 255\n" * 9), ["cannot be read"]),
    "cut off": (damaged(lambda content: content[:-1]), ["cannot be read"]),
    "cut off in its header": (damaged(lambda content: content[:40]), ["cannot be read"]),
    "header of more than there is": (
        damaged(lambda content: content.replace(b"(20, 6, 5)", b"(2000000000, 6, 5)")),
        ["cannot be read"],
    ),
    "header that is no header": (
        damaged(lambda content: content.replace(b"{'descr'", b"{{descr:")),
        ["cannot be read"],
    ),
    "more than its array": (damaged(lambda content: content + b"12"), ["2 bytes after"]),
    "pickle": (pickled, ["cannot be read"]),
    "objects": (array(np.array([[None, {}], [1, 2]], object)), ["cannot be read"]),
    "npz": (several, ["several arrays", "x, y"]),
    "empty": (array(np.zeros((0, 6, 5), np.uint8)), ["own.npy"]),
    "no pixel": (array(np.zeros((9, 0), np.uint8)), ["own.npy"]),
    "one datapoint": (array(levels()[:1]), ["one datapoint"]),
    "a scalar": (array(7), ["shape ()"]),
    "one axis": (array(np.arange(9)), ["shape (9,)"]),
    "five axes": (array(np.zeros((2, 2, 2, 2, 3))), ["shape (2, 2, 2, 2, 3)"]),
    "channels first": (array(levels(3).transpose(0, 3, 1, 2)), ["(20, 3, 6, 5)", "last axis"]),
    "words": (array([["a", "b"], ["c", "d"]]), ["<U1"]),
    "complex": (array(np.ones((3, 3), complex)), ["complex128"]),
    "below 0": (array(levels().astype(int) - 1), ["from -1 to"]),
    "above 255": (array(levels().astype(np.uint16) + 1), ["to 256"]),
    "0 and 1 as grey levels": (array(levels() // 128), ["bool"]),
    "NaN": (array(with_nan(np.nan)), ["nan", "finite"]),
    "infinity": (array(with_nan(-np.inf)), ["-inf", "finite"]),
    "beyond float32": (array(with_nan(1e300)), ["1e+300", "finite float32"]),
}


def replaced(image: Image.Image) -> Callable[[Path], str]:
    """Returns a function that makes a folder with another frame7.png."""

    def write(folder: Path) -> str:
        name = drawn(folder, levels())
        image.save(folder / "frame7.png")
        return name

    return write


def only_text(folder: Path) -> str:
    (folder / "readme.txt").write_text("no image")
    return f"images:{folder}"


SIZE = (WIDTH, HEIGHT)
BAD_FOLDERS = {
    "missing": (lambda folder: f"images:{folder / 'none'}", ["none", "no folder"]),
    "a file": (lambda folder: saved(folder, levels()).replace("npy:", "images:"), ["no folder"]),
    "empty": (only_text, ["holds no image", ".png"]),
    "one image": (lambda folder: drawn(folder, levels()[:1]), ["one datapoint"]),
    "another size": (
        replaced(Image.new("L", (4, 4))),
        ["frame7.png is 4 x 4 of grey", "frame0.png is 6 x 5 of grey"],
    ),
    "colors among grey": (
        replaced(Image.new("RGB", SIZE)),
        ["frame7.png is 6 x 5 of colors", "6 x 5 of grey"],
    ),
    "transparent": (
        replaced(Image.new("RGBA", SIZE)),
        ["frame7.png", "'RGBA'", "convert('L')"],
    ),
    "16 bits": (replaced(Image.new("I;16", SIZE)), ["frame7.png", "'I;16'"]),
    "palette": (replaced(Image.new("P", SIZE)), ["frame7.png", "'P'"]),
    "no byte": (damaged_image(lambda content: b""), ["frame7.png", "cannot be read"]),
    "no image": (damaged_image(lambda content: b"text"), ["frame7.png", "cannot be read"]),
    "cut off": (
        damaged_image(lambda content: content[: len(content) // 2]),
        ["frame7.png", "cannot be read"],
    ),
    "a changed byte": (
        damaged_image(lambda content: content[:50] + b"?" + content[51:]),
        ["frame7.png", "cannot be read"],
    ),
}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        pytest.param(*case, id=f"{kind}: {name}")
        for kind, cases in (("array", BAD_ARRAYS), ("folder", BAD_FOLDERS))
        for name, case in cases.items()
    ],
)
def test_a_bad_array_or_image_is_refused_in_one_line_that_names_it(
    write: Callable[[Path], str], words: list[str], tmp_path: Path
):
    message = refusal(data.load, write(tmp_path))
    for word in words:
        assert word in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["real", "binary"])
def test_only_grey_levels_are_binarized(kind: str, tmp_path: Path):
    name = saved(tmp_path, levels() / 256 if kind == "real" else levels() > 127)
    message = refusal(data.load, name, Options(binarization="fixed"))
    assert "'fixed'" in message
    assert f"holds {kind} data" in message


def test_other_splits_and_binarizations_of_user_files_are_refused_with_the_allowed_ones(
    tmp_path: Path,
):
    name = saved(tmp_path, levels())
    assert "blocked, random" in refusal(data.load, name, Options(split="half"))
    assert "none, dynamic, fixed" in refusal(data.load, name, Options(binarization="drawn"))


# In a run


def values_of(name: str, **others: Any) -> Any:
    values = {
        "data.name": name, "model.hidden": (4,), "train.batch_size": 4, "train.num_examples": 40,
        "train.first_eval": 20, **others,
    }  # fmt: skip
    return validate(with_values(default_config(), values))


def test_a_model_of_user_files_is_built_only_if_its_likelihood_fits(tmp_path: Path):
    experiment = build(values_of(saved(tmp_path, levels())))
    assert experiment.dataset.name == "npy:own.npy"
    with pytest.raises(UserError, match=r"real data of npy:own\.npy; use gaussian or"):
        build(values_of(saved(tmp_path, levels() / 256)))


def test_user_files_can_be_streamed_from_disk(tmp_path: Path):
    name = saved(tmp_path, levels())
    options = {"data.access": "stream", "data.dir": str(tmp_path / "data")}
    streamed = load(values_of(name, **options))
    assert isinstance(streamed.train, Records)
    np.testing.assert_array_equal(rows(streamed), levels().reshape(NUMBER, -1))


def test_loaded_data_do_not_change_when_their_file_is_overwritten(tmp_path: Path):
    dataset = load(values_of(saved(tmp_path, levels())))
    saved(tmp_path, np.zeros((2, 2), np.uint8))
    np.testing.assert_array_equal(rows(dataset), levels().reshape(NUMBER, -1))


def test_a_user_file_without_a_path_is_refused():
    for prefix in ("npy:", "images:"):
        with pytest.raises(UserError, match=r"npy:FILE or images:FOLDER"):
            values_of(prefix)
