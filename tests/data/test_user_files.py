"""The user's own data: file:FILE and images:FOLDER."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from PIL import Image
from refusals import refusal

from aevb import data
from aevb.config import default_config, validate, with_values
from aevb.data import Options
from aevb.data.io.array_records import Records
from aevb.errors import UserError
from aevb.evaluation.bits import bits_of
from aevb.experiment import build, load

NUMBER, HEIGHT, WIDTH = 20, 6, 5
RAW = Options(standardize=False)


def levels(*channels: int) -> np.ndarray:
    shape = (NUMBER, HEIGHT, WIDTH, *channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(folder: Path, array: np.ndarray) -> str:
    np.save(folder / "own.npy", array)
    return f"file:{folder / 'own.npy'}"


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
    dataset = data.load(saved(tmp_path, array), RAW)
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
    return f"file:{folder / 'own.npy'}"


def several(folder: Path) -> str:
    np.savez(folder / "own.npz", x=levels(), y=levels())
    return f"file:{folder / 'own.npz'}"


def with_nan(value: float) -> np.ndarray:
    x = np.zeros((NUMBER, 7))
    x[3, 4] = value
    return x


BAD_ARRAYS = {
    "missing": (lambda folder: f"file:{folder / 'none.npy'}", ["none.npy", "no file"]),
    "a folder": (lambda folder: f"file:{folder}", ["no file"]),
    "no byte": (damaged(lambda content: b""), ["cannot be read"]),
    "another format": (damaged(lambda content: b"P5 6 5 255\n" * 9), ["no file that np.save"]),
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
    "pickle": (pickled, ["or holds Python objects"]),
    "objects": (array(np.array([[None, {}], [1, 2]], object)), ["or holds Python objects"]),
    "npz": (several, ["the arrays x, y", "data.key is not set"]),
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
    "above 255": (array(levels().astype(np.uint16) + 1), ["to 256", "data.kind=real"]),
    "NaN": (array(with_nan(np.nan)), ["nan in datapoint 3, column 4", "finite"]),
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


def with_floats(folder: Path) -> str:
    name = drawn(folder, levels())
    Image.fromarray(np.float32(levels()[0])).save(folder / "frame99.tif")
    return name


SIZE = (WIDTH, HEIGHT)
BAD_FOLDERS = {
    "missing": (lambda folder: f"images:{folder / 'none'}", ["none", "no folder"]),
    "a file": (lambda folder: saved(folder, levels()).replace("file:", "images:"), ["no folder"]),
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
    "transparent colors among grey": (
        replaced(Image.new("RGBA", SIZE)),
        ["frame7.png is 6 x 5 of colors", "6 x 5 of grey"],
    ),
    "floating point": (with_floats, ["frame99.tif", "mode 'F'"]),
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
    name = saved(tmp_path, levels() / 128 if kind == "real" else levels() > 127)
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
    assert experiment.dataset.name == "file:own.npy"
    with pytest.raises(UserError, match=r"real data of file:own\.npy; use gaussian or"):
        build(values_of(saved(tmp_path, levels() / 128)))


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
    for prefix in ("file:", "images:"):
        with pytest.raises(UserError, match=r"file:FILE or images:FOLDER"):
            values_of(prefix)


# Images of other modes and formats


def folder_of(folder: Path, image: Image.Image, file: str, **options: Any) -> str:
    for number in range(2):
        image.save(folder / f"{number}{file}", **options)
    return f"images:{folder}"


COLORS = levels(3)[0]
GREY = levels()[0]
PALETTE = Image.fromarray(COLORS).quantize(8)
SIXTEEN = GREY.astype(np.uint16) * 257
ALPHA = np.dstack([COLORS, np.tile(np.array([0, 255, 0, 255, 255], np.uint8), (HEIGHT, 1))])
MODES: dict[str, tuple[Image.Image, str, np.ndarray, str]] = {
    "tif": (Image.fromarray(COLORS), ".tif", COLORS, ""),
    "webp": (Image.fromarray(COLORS), ".webp", COLORS, ""),
    "palette": (PALETTE, ".png", np.asarray(PALETTE.convert("RGB")), ""),
    "grey palette": (Image.fromarray(GREY).convert("P"), ".png", GREY, ""),
    "16 bits": (Image.fromarray(SIXTEEN), ".png", GREY, "16-bit levels"),
    "transparent": (
        Image.fromarray(ALPHA),
        ".png",
        np.where(ALPHA[..., 3:] > 0, COLORS, 255),
        "over white",
    ),
    "grey and transparent": (
        Image.fromarray(np.dstack([GREY, ALPHA[..., 3]])),
        ".png",
        np.where(ALPHA[..., 3] > 0, GREY, 255),
        "over white",
    ),
}


@pytest.mark.parametrize("case", MODES)
def test_images_of_other_modes_and_formats_are_read_as_8_bits(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    image, suffix, pixels, words = MODES[case]
    options = {"lossless": True} if suffix == ".webp" else {}
    dataset = data.load(folder_of(tmp_path, image, suffix, **options))
    assert dataset.image_shape == pixels.shape
    np.testing.assert_array_equal(rows(dataset)[0], pixels.ravel())
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == bool(words)


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    dataset = data.load(folder_of(tmp_path, Image.fromarray(GREY), ".png", exif=exif))
    assert dataset.image_shape == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(rows(dataset)[0], np.rot90(GREY, -1).ravel())


def test_a_folder_with_the_name_of_an_image_is_passed_over(tmp_path: Path):
    name = drawn(tmp_path, levels())
    (tmp_path / "x.png").mkdir()
    (tmp_path / ".hidden.png").write_text("no image")
    assert len(rows(data.load(name))) == NUMBER


# Formats and kinds


NUMBERS = np.random.default_rng(5).normal(size=(NUMBER, 3))
NAMES = ("height", "weight", "age")


def text_of(x: np.ndarray, separator: str = ",", header: bool = True) -> str:
    lines = [separator.join(map(repr, row)) for row in x.tolist()]
    return "\n".join([separator.join(NAMES)] * header + lines) + "\n"


def write_parquet(path: Path, x: np.ndarray) -> None:
    from pyarrow import parquet, table

    parquet.write_table(table({name: x[:, i] for i, name in enumerate(NAMES)}), path)


WRITERS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "x.npy": np.save,
    "x.npz": lambda path, x: np.savez(path, x=x),
    "x.csv": lambda path, x: path.write_text(text_of(x)),
    "bare.csv": lambda path, x: path.write_text(text_of(x, header=False)),
    "windows.csv": lambda path, x: path.write_bytes(
        text_of(x).replace("\n", "\r\n").encode("utf-8-sig")
    ),
    "x.tsv": lambda path, x: path.write_text(text_of(x, "\t")),
    "x.parquet": write_parquet,
    "x.mat": lambda path, x: scipy.io.savemat(path, {"x": x}),
}


@pytest.mark.parametrize("file", WRITERS)
def test_a_table_is_the_same_in_every_format(file: str, tmp_path: Path):
    WRITERS[file](tmp_path / file, NUMBERS)
    dataset = data.load(f"file:{tmp_path / file}", RAW)
    assert (dataset.kind, dataset.image_shape) == ("real", None)
    np.testing.assert_array_equal(rows(dataset), NUMBERS.astype(np.float32))


@pytest.mark.parametrize("file", ["x.npz", "x.mat"])
def test_an_array_of_several_is_named_by_its_key(file: str, tmp_path: Path):
    both = {"x": NUMBERS, "y": -NUMBERS}
    if file == "x.npz":
        np.savez(tmp_path / file, x=NUMBERS, y=-NUMBERS)
    else:
        scipy.io.savemat(tmp_path / file, both)
    name = f"file:{tmp_path / file}"
    dataset = data.load(name, RAW._replace(key="y"))
    np.testing.assert_array_equal(rows(dataset), -NUMBERS.astype(np.float32))
    for key, seen in (("", "is not set"), ("z", "is 'z'")):
        message = refusal(data.load, name, Options(key=key))
        assert f"holds the arrays x, y, and data.key {seen}; name one" in message


BAD_TABLES = {
    "words": ("height,name\n1,ann\n2,bob\n", "column 'name' of type string, such as 'ann'"),
    "a gap": ("height,age\n1,2\n3,\n", "no value in datapoint 1 (from 0), column 'age'"),
    "NaN": ("height,age\n1,2\n3,nan\n", "no value in datapoint 1 (from 0), column 'age'"),
    "infinity": ("height,age\n1,2\n3,inf\n", "inf in datapoint 1, column 'age' (from 0)"),
    "another length": ("height,age\n1,2\n3\n", "cannot be read"),
    "empty": ("", "cannot be read"),
    "no row": ("height,age\n", "is empty"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_refused_with_its_row_and_column(case: str, tmp_path: Path):
    text, words = BAD_TABLES[case]
    (tmp_path / "x.csv").write_text(text)
    assert words in refusal(data.load, f"file:{tmp_path / 'x.csv'}")


def test_other_suffixes_are_refused_with_those_that_are_read(tmp_path: Path):
    (tmp_path / "x.xlsx").write_bytes(b"PK")
    message = refusal(data.load, f"file:{tmp_path / 'x.xlsx'}")
    assert "must be one of .npy, .npz, .mat, .csv" in message
    saved(tmp_path, levels())
    message = refusal(data.load, f"file:{tmp_path / 'own.npy'}", Options(key="x"))
    assert "data.key is 'x'; it is for .npz and .mat" in message


GUESSED: dict[str, tuple[np.ndarray, str, Any]] = {
    "bool": (levels() > 127, "binary", np.uint8),
    "whole 0 and 1": ((levels() > 127).astype(int), "binary", np.uint8),
    "floating 0 and 1": ((levels() > 127).astype(float), "binary", np.uint8),
    "levels": (levels(), "grey", np.uint8),
    "pixels": (levels() / 255, "unit", np.float32),
    "numbers": (levels() / 128, "real", np.float32),
}


@pytest.mark.parametrize("case", GUESSED)
def test_the_kind_of_an_array_is_guessed(case: str, tmp_path: Path):
    array, kind, dtype = GUESSED[case]
    dataset = data.load(saved(tmp_path, array))
    assert (dataset.kind, dataset.train.dtype) == (kind, dtype)
    assert dataset.levels == (256.0 if kind == "grey" else None)
    given = data.load(saved(tmp_path, array), Options(kind=kind))
    np.testing.assert_array_equal(given.train, dataset.train)


def test_whole_numbers_of_a_table_are_real(tmp_path: Path):
    (tmp_path / "x.csv").write_text(text_of(np.arange(30).reshape(10, 3)))
    dataset = data.load(f"file:{tmp_path / 'x.csv'}", RAW)
    assert dataset.kind == "real"
    np.testing.assert_array_equal(rows(dataset), np.arange(30).reshape(10, 3))


def test_few_levels_are_read_as_grey_with_a_line_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    name = saved(tmp_path, levels() // 16)
    assert data.load(name).kind == "grey"
    said = capsys.readouterr().err
    assert "own.npy: whole numbers from 0 to 15 are read as grey levels" in said
    assert "data.kind=real" in said
    assert data.load(name, Options(kind="real")).kind == "real"
    assert data.load(name, Options(kind="grey")).kind == "grey"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("array", "kind", "words"),
    [
        (levels(), "binary", "binary data are 0 and 1"),
        (levels() / 2, "grey", "grey levels are the whole numbers 0..255; data.kind=unit"),
        (levels(), "unit", "data.kind=unit is for [0, 1]"),
    ],
)
def test_values_of_another_kind_than_the_given_one_are_refused(
    array: np.ndarray, kind: str, words: str, tmp_path: Path
):
    assert words in refusal(data.load, saved(tmp_path, array), Options(kind=kind))


def test_pixels_in_the_unit_interval_are_scored_by_densities_alone(tmp_path: Path):
    name = saved(tmp_path, levels() / 255)
    for likelihood in ("continuous_bernoulli", "gaussian", "gaussian_shared", "gaussian_unit_mean"):
        assert bits_of(-1.0, *build(values_of(name, **{"model.likelihood": likelihood}))[:2]) == {}
    for likelihood in ("bernoulli", "discretized_logistic", "categorical"):
        with pytest.raises(UserError, match="not the unit data of file:own"):
            build(values_of(name, **{"model.likelihood": likelihood}))


def test_the_kind_of_other_data_than_files_is_refused():
    with pytest.raises(UserError, match=r"data\.kind is 'real', which is for file:FILE"):
        values_of("frey_faces", **{"data.kind": "real"})
    with pytest.raises(UserError, match=r"data\.key is 'x', which is for file:FILE"):
        values_of("frey_faces", **{"data.key": "x"})
